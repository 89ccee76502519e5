"""A GPT-2 with a hand-built IOI circuit: the ground truth on which finders and class scores must recover the answer.

Four layers of four heads, no MLP. The residual stream is cut into subspaces that each hold a token or a position:

    TOK, POS   embedding          PREV   token before this one     INH   token seen before, at its second mention
    NEG        at END: the name not to give                         OUT   read by the unembedding

    0.0  previous       attends one position back, writes that token to PREV
    1.0  induction      S2 finds S1+1 (its PREV is S), writes S to INH
    1.1  duplicate      S2 finds S1 (same token), writes S to INH
    2.0  s_inhibition   END finds the position whose INH holds a name, writes that name to NEG
    3.0  name_mover     END attends to names except that in NEG, writes the name to OUT
    3.1  negative       attends in the same way, writes the name to OUT with a minus
    3.2  s_suppressing  END finds the position whose INH holds a name, writes that name to OUT with a minus

All other heads, and a little of every head, are noise. The twin has noise in place of the seven heads. A ranking means
nothing there; that there is nothing to find shows in the size of the scores:

    twin_size_<finder>     largest score in the twin / largest score in the planted model
    planted_size_<finder>  median score of what is planted / largest score in the planted model

`any` is the worst finder of a seed: the largest of the first and the smallest of the second.

For the rule of backup name movers (name_movers.py) there is a fifth layer, all noise (`no_backup`) or with this head:

    4.0  backup         END attends to names that are neither in NEG nor in OUT, else to the first token;
                        writes the name to OUT
"""

import tempfile
from pathlib import Path
from typing import Literal

import numpy as np
import pandas as pd
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from torch import Tensor
from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast

from common.core.files import sha256, write_json
from common.core.metrics import Metric
from common.core.statistics import over_seeds
from common.data.models import Manifest, load_model, load_tokenizer
from common.interp.decoder import Decoder
from replications.ioi_circuit.batches import Place
from replications.ioi_circuit.dataset import Prompt, Vocabulary, draw_prompts, vocabulary
from replications.ioi_circuit.templates import FORMS, NAMES, OBJECTS, PLACES, TEMPLATES

N_LAYERS, N_HEADS, LENGTH = 4, 4, 32
N_NAMES = 24
NOISE = 0.01
SHARP, SHARPER = 0.8, 1.6  # of queries and keys, early and late (later norms are smaller): a match wins the softmax
BASE, FIRST, SOFT = 0.9, 1.0, 0.7  # of the backup, whose softmax between the first token and IO is not saturated
FAINT = 0.3  # of what is written at S2: too little to move the norm there, so that it acts by its content alone
FEEBLE = 0.15  # what the backup writes: with the little attention to IO that it keeps, too little to count
Kind = Literal["planted", "twin", "backup", "no_backup"]
BACKUP = (4, 0)
TRUTH: dict[tuple[int, int, Place], str] = {
    (0, 0, "s1_next"): "previous",
    (1, 0, "s2"): "induction",
    (1, 1, "s2"): "duplicate",
    (2, 0, "end"): "s_inhibition",
    (3, 0, "end"): "name_mover",
    (3, 1, "end"): "negative",
    (3, 2, "end"): "s_suppressing",
}


def word_tokenizer() -> PreTrainedTokenizerFast:
    """One token for each word and mark of the task; `N_NAMES` names."""
    splitter = pre_tokenizers.Whitespace()
    texts = [template.replace("{", " ").replace("}", " ") for template in TEMPLATES[:FORMS]]
    words = {word for text in texts for word, _ in splitter.pre_tokenize_str(text)}
    words -= {"first", "second", "subject", "place", "object"}
    vocabulary = ["<|endoftext|>", *sorted(words), *NAMES[:: len(NAMES) // N_NAMES][:N_NAMES], *PLACES, *OBJECTS]
    model = models.WordLevel({word: index for index, word in enumerate(vocabulary)}, unk_token="<|endoftext|>")
    tokenizer = Tokenizer(model)
    tokenizer.pre_tokenizer = splitter
    special = {"eos_token": "<|endoftext|>", "pad_token": "<|endoftext|>", "unk_token": "<|endoftext|>"}
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, **special)


def save_planted_model(folder: Path, seed: int, kind: Kind = "planted") -> Path:
    """Saves the model of this kind, and returns its `manifest.json`."""
    tokenizer = word_tokenizer()
    size = len(tokenizer)
    d_head = size + LENGTH
    width = N_HEADS * d_head
    config = GPT2Config(
        n_layer=N_LAYERS + (kind in ("backup", "no_backup")),
        n_head=N_HEADS,
        n_embd=width,
        n_inner=4,
        vocab_size=size,
        n_positions=LENGTH,
        tie_word_embeddings=False,
        bos_token_id=0,
        eos_token_id=0,
    )
    model = GPT2LMHeadModel(config)
    generator = torch.Generator().manual_seed(seed)
    parts = {name: index * size for index, name in enumerate(("TOK", "PREV", "INH", "NEG", "OUT"))}
    parts["POS"] = 5 * size
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.copy_(torch.full_like(parameter, float("ln_" in name and name.endswith("weight"))))
        model.transformer.wte.weight[:, parts["TOK"] : parts["TOK"] + size] = torch.eye(size)
        model.transformer.wpe.weight[:, parts["POS"] : parts["POS"] + LENGTH] = torch.eye(LENGTH)
        model.lm_head.weight[:, parts["OUT"] : parts["OUT"] + size] = torch.eye(size)
        heads = {} if kind == "twin" else _heads(tokenizer, size, width, d_head, parts)
        if kind != "backup":
            heads.pop(BACKUP, None)
        for layer, block in enumerate(model.transformer.h):
            block.attn.c_attn.weight.copy_(NOISE * torch.randn(width, 3 * width, generator=generator))
            block.attn.c_proj.weight.copy_(NOISE * torch.randn(width, width, generator=generator))
            for head in range(N_HEADS):
                if (layer, head) in heads:
                    q, k, v, o = heads[layer, head]
                    own = slice(head * d_head, (head + 1) * d_head)
                    for third, matrix in enumerate((q, k, v)):
                        block.attn.c_attn.weight[:, third * width :][:, own] = matrix
                    block.attn.c_proj.weight[own] = o
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    files = {path.name: sha256(path) for path in sorted(folder.iterdir())}
    manifest = Manifest(
        name=kind, source="local", origin="hand-built", licence="none", processing="hand-built weights", files=files
    )
    write_json(folder / "manifest.json", manifest.model_dump())
    return folder / "manifest.json"


def _heads(
    tokenizer: PreTrainedTokenizerFast, size: int, width: int, d_head: int, parts: dict[str, int]
) -> dict[tuple[int, int], tuple[Tensor, Tensor, Tensor, Tensor]]:
    """Query, key and value maps [d_model d_head] and output map [d_head d_model] of the hand-built heads."""
    names = np.array([index for word, index in tokenizer.get_vocab().items() if word in NAMES])
    end = tokenizer.get_vocab()["to"]
    constant = size  # a spare dimension of the head, for scores that do not depend on which name it is

    def into(part: str, gain: float, shift: int = 0) -> Tensor:
        """A subspace onto the first dimensions of a head; `shift` moves position s to s + shift."""
        count = LENGTH if part == "POS" else size
        matrix = torch.zeros(width, d_head)
        for index in range(count - shift):
            matrix[parts[part] + index, index + shift] = gain
        return matrix

    def flag(part: str, tokens: np.ndarray | list[int], gain: float) -> Tensor:
        """Any of `tokens` in a subspace onto the constant dimension."""
        matrix = torch.zeros(width, d_head)
        matrix[parts[part] + torch.as_tensor(tokens), constant] = gain
        return matrix

    def out(part: str, gain: float) -> Tensor:
        matrix = torch.zeros(d_head, width)
        matrix[:size, parts[part] : parts[part] + size] = gain * torch.eye(size)
        return matrix

    def apart(part: str, gain: float) -> Tensor:
        """Positions onto the last dimensions of a head, beside the tokens."""
        matrix = torch.zeros(width, d_head)
        matrix[parts[part] : parts[part] + LENGTH, size:] = gain * torch.eye(LENGTH)
        return matrix

    at_end = flag("TOK", [end], SHARPER)
    to_names = into("NEG", -SHARPER) + at_end
    of_names = into("TOK", SHARPER) + flag("TOK", names, SHARPER)
    value = 0.06  # undoes the norm, which makes a lone one about sixteen
    return {
        (0, 0): (into("POS", SHARP), into("POS", SHARP, 1), into("TOK", value), out("PREV", 1.0)),
        (1, 0): (into("TOK", SHARP), into("PREV", SHARP), into("PREV", value), out("INH", FAINT)),
        (1, 1): (
            into("TOK", SHARP) + apart("POS", SHARP),
            into("TOK", SHARP) - apart("POS", 2 * SHARP),
            into("TOK", value),
            out("INH", FAINT),
        ),
        (2, 0): (at_end, flag("INH", names, SHARPER), into("INH", value), out("NEG", 1.0 / FAINT)),
        (3, 0): (to_names, of_names, into("TOK", value), out("OUT", 2.0)),
        (3, 1): (to_names, of_names, into("TOK", value), out("OUT", -0.5)),
        (3, 2): (at_end, flag("INH", names, SHARPER), into("TOK", value), out("OUT", -1.0)),
        BACKUP: (
            flag("TOK", [end], BASE) + into("NEG", -5 * SOFT) + into("OUT", -SOFT),
            flag("TOK", names, BASE) + flag("POS", [0], FIRST) + into("TOK", SOFT),
            into("TOK", value),
            out("OUT", FEEBLE),
        ),
    }


def load_planted(seed: int, n_prompts: int, kind: Kind = "planted") -> tuple[Decoder, list[Prompt], Vocabulary]:
    """A model of this kind, enough prompts for `n_prompts` of each half, and its words."""
    with tempfile.TemporaryDirectory() as folder:
        save_planted_model(Path(folder), seed, kind)
        decoder = Decoder(load_model(Path(folder)), LENGTH)
        words = vocabulary(load_tokenizer(Path(folder)), N_NAMES)
    return decoder, draw_prompts(words, [seed], max(1, n_prompts // 14), templates=FORMS), words


def relative_sizes(largest: dict[str, float], median: dict[str, float], in_twin: dict[str, float]) -> dict[str, float]:
    """The sizes of one seed, from the largest score, the median planted score and the largest in the twin by finder."""
    kinds = {"twin_size": in_twin, "planted_size": median}
    record = {f"{kind}_{name}": sizes[name] / largest[name] for kind, sizes in kinds.items() for name in in_twin}
    record["twin_size_any"] = max(record[f"twin_size_{name}"] for name in in_twin)
    record["planted_size_any"] = min(record[f"planted_size_{name}"] for name in in_twin)
    return record


def measure_sizes(records: pd.DataFrame, more: dict[str, str] | None = None) -> dict[str, Metric]:
    """`twin_size_*` over seeds, against what is planted; a row of `relative_sizes` per seed.

    `more` gives `twin_size_any` further controls: columns by name.
    """
    metrics = {}
    for column in (str(name) for name in records if str(name).startswith("twin_size_")):
        finder = column.removeprefix("twin_size_")
        controls = {"planted": f"planted_size_{finder}"} | ((more or {}) if finder == "any" else {})
        metrics[column] = over_seeds(
            records[column].tolist(),
            unit="1",
            formula="largest score in the twin / in the planted model; control: median score of what is planted there",
            controls={name: records[other].tolist() for name, other in controls.items()},
        )
    return metrics
