"""Is the ablation surgical? Loss on text, first tokens of harmless requests, small abilities, the way back. Float32.

loss      cross-entropy per token on held-out texts, for the model before fine-tuning, tuned, with r ablated, with -r
          added, and with the first principal component of the activations or the best candidate under permuted labels
          ablated in place of r
harmless  KL(tuned || ablated) of the first token on harmless requests
return    KL(ablated || before) over KL(tuned || before) on harmful requests: an ablated model that answers in gibberish
          complies too, but does not return to what it was
battery   number agreement over a distractor, and which of two names was given something
"""

from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F  # noqa: N812
from jaxtyping import Float, Int
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from common.data.corpora import Split, read_corpus
from common.data.models import encode
from replications.refusal_direction.chat import (
    ablating,
    adding,
    first_token_kl,
    last_logits,
    padded,
    spread,
    unit,
)
from replications.refusal_direction.directions import Directions, Subject
from replications.refusal_direction.lists import Line

AGREEMENT = [
    (f"The {noun} near the {other}", good, bad)
    for singular, plural in (("key", "keys"), ("teacher", "teachers"), ("dog", "dogs"), ("book", "books"))
    for noun, good, bad in ((singular, " is", " are"), (plural, " are", " is"))
    for other in ("house", "trees")
]
NAMES = [("Mary", "John"), ("Anna", "Paul"), ("Lisa", "Mark"), ("Emma", "Peter")]
GIVING = [
    (f"When {first} and {second} went to the shop, {giver} gave a drink to", f" {taker}", f" {giver}")
    for a, b in NAMES
    for first, second in ((a, b), (b, a))
    for giver, taker in ((a, b), (b, a))
]
BATTERY = {"agreement": AGREEMENT, "giving": GIVING}
SPECTRUM = 16  # singular values of each change that are kept: the rank that fine-tuning gives it


def conditions(model: Any, found: Directions) -> dict[str, AbstractContextManager[None]]:
    """What is done to the tuned model."""
    return {
        "tuned": nullcontext(),
        "ablated": ablating(model, found.r),
        "subtracted": adding(model, found.layer, -found.r),
        "component ablated": ablating(model, found.component),
        "permuted ablated": ablating(model, found.controls["permuted"]),
    }


def texts(
    corpora: dict[str, Path], tokenizer: PreTrainedTokenizerBase, count: int, length: int, split: Split
) -> dict[str, Int[Tensor, "text pos"]]:
    """The beginnings of `count` documents of the split of each corpus, all of `length` tokens, spread over the groups,
    which follow each other in the file."""
    found = {}
    for name, manifest in corpora.items():
        ids = [encode(tokenizer, document.text)[:length] for document in read_corpus(manifest.parent, split)]
        long = [row for row in ids if len(row) == length] or [row + row[: length - len(row)] for row in ids]
        places = np.linspace(0, len(long) - 1, min(count, len(long))).round().astype(int)
        shortest = min(len(long[place]) for place in places)
        found[name] = torch.tensor([long[place][:shortest] for place in places])
    return found


@torch.inference_mode()
def losses(model: Any, ids: Int[Tensor, "text pos"]) -> Float[Tensor, " text"]:
    """Mean cross-entropy of each text, nats per token."""
    ids = ids.to(model.device)
    logits = model.lm_head(model.model(input_ids=ids, use_cache=False).last_hidden_state[:, :-1].flatten(0, 1)).float()
    return F.cross_entropy(logits, ids[:, 1:].flatten(), reduction="none").reshape(len(ids), -1).mean(1)


@torch.inference_mode()
def battery(model: Any, tokenizer: PreTrainedTokenizerBase) -> dict[str, list[float]]:
    """Logit of the right continuation minus that of the wrong one, item by item."""
    found = {}
    for name, items in BATTERY.items():
        logits = last_logits(model, padded([encode(tokenizer, text) for text, _, _ in items], model.device.type))
        pairs = torch.tensor([[encode(tokenizer, word)[0] for word in words] for _, *words in items]).to(model.device)
        chosen = logits.gather(1, pairs)
        found[name] = (chosen[:, 0] - chosen[:, 1]).tolist()
    return found


def measure_surgical(
    subject: Subject,
    ids: dict[str, Int[Tensor, "text pos"]],
    harmful: list[Line],
    harmless: list[Line],
    found: Directions,
) -> pd.DataFrame:
    """Long table: quantity, item, topic, condition, value. Only requests have a topic: texts and items of the battery
    are the same for every seed, requests are not. Without a model before fine-tuning nothing is compared with it."""
    rows: list[tuple[str, int, str, str, float]] = []
    tuned, before, tokenizer = subject.tuned, subject.before, subject.tokenizer
    on, off = subject.batch(harmful), subject.batch(harmless)

    def put(quantity: str, condition: str, values: list[float], lines: list[Line] | None = None) -> None:
        topics = [""] * len(values) if lines is None else [line.topic for line in lines]
        both = enumerate(zip(topics, values, strict=True))
        rows.extend((quantity, number, topic, condition, value) for number, (topic, value) in both)

    def run(model: Any, condition: str) -> tuple[Tensor, Tensor]:
        for name, batch in ids.items():
            put(f"loss {name}", condition, losses(model, batch).tolist())
        for name, values in battery(model, tokenizer).items():
            put(f"battery {name}", condition, values)
        return last_logits(model, on), last_logits(model, off)

    logits = {} if before is None else {"before": run(before, "before")}
    for condition, intervention in conditions(tuned, found).items():
        with intervention:
            logits[condition] = run(tuned, condition)
    with ablating(tuned, spread(found.controls["random"], len(harmful))):
        logits["random ablated"] = (last_logits(tuned, on), last_logits(tuned, off))
    for condition, (to_refuse, to_answer) in logits.items():
        put("kl harmless", condition, first_token_kl(logits["tuned"][1], to_answer).tolist(), harmless)
        if before is not None:
            put("kl to before", condition, first_token_kl(to_refuse, logits["before"][0]).tolist(), harmful)
    return pd.DataFrame(rows, columns=["quantity", "item", "topic", "condition", "value"])


def weight_change(tuned: Any, before: Any, found: Directions) -> pd.DataFrame:
    """For every matrix that writes to the residual stream: size of its change D = W_tuned - W_before, shares of the
    largest squared singular values in |D|^2 (`squared_1` is the largest), and the share along r, |r^T D|^2 / |D|^2 for
    unit r, beside the mean of it over the covariance-matched random directions."""
    probes = torch.cat([unit(found.r)[None], unit(found.controls["random"])])
    rows = []
    own = dict(before.named_parameters())
    for name, weight in tuned.named_parameters():
        if not name.endswith(("o_proj.weight", "down_proj.weight")):
            continue
        change = (weight - own[name]).float()
        squares = torch.linalg.eigvalsh(change @ change.T).flip(0).clamp(min=0)
        total = max(float(squares.sum()), 1e-30)
        along = (probes @ change).square().sum(1) / total
        layer = int(name.split(".layers.")[1].split(".")[0])
        part = "attention" if "o_proj" in name else "mlp"
        shares = {f"squared_{rank}": float(square) / total for rank, square in enumerate(squares[:SPECTRUM], 1)}
        size = {"layer": layer, "part": part, "norm": total**0.5}
        rows.append(size | shares | {"share_r": float(along[0]), "share_random": float(along[1:].mean())})
    return pd.DataFrame(rows)
