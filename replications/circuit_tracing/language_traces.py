"""Step: do graphs of a language model predict interventions, and better than what anyone has without transcoders?

Ameisen et al. 2025 ("Validating the replacement model") compare influence with the effect of ablations on 20 prompts.
Prompts here are tokens from the inside of held-out documents, half from each corpus. After them the model is sure of a
next token that begins a word. On each, one graph is made with the transcoders and one with untrained encoders
(language_untrained.py). Features are ablated in the model itself (language_ablations.py, which says what differs).
Controls: untrained encoders, and influence permuted among the features of one layer and position. Four predictions ask
no graph: direct edge, length of what a feature writes, that times the gradient's length, first-order estimate of one
backward pass. How well the replacement model stands for the model (replacement.py) is measured on held-out documents
beside.
"""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import torch
from jaxtyping import Int
from safetensors.torch import load_file
from torch import Tensor

from common.core.errors import UserError
from common.core.metrics import Metric, write_metrics
from common.core.statistics import over_clusters
from common.core.step import Files, RunInfo, run_step, track
from common.core.tables import write_table
from common.data.corpora import judging_split, read_corpus
from common.data.models import load_model, load_tokenizer
from common.saes.harvest import windows
from replications.circuit_tracing.graph import Graph, attribute
from replications.circuit_tracing.influence import Layout, node_influence, scores
from replications.circuit_tracing.language_ablations import PREDICTIONS, TOGETHER, ablate, of_prompt
from replications.circuit_tracing.language_frozen import freeze_prompt
from replications.circuit_tracing.language_train import load_transcoders
from replications.circuit_tracing.replacement import Way, replacement_metrics
from replications.circuit_tracing.settings import Traced, Traces

if TYPE_CHECKING:
    from transformer_lens.model_bridge import TransformerBridge
    from transformers import PreTrainedTokenizerBase

KINDS = ("trained", "untrained")
POOL = 40  # documents that are looked at for each prompt wanted
PASSAGES = 5  # of a document, the first of which is not used


class LanguageTracesFiles(Files):
    manifest: Path
    docs: Path
    chat: Path
    transcoders: Path
    untrained: Path
    linear: Path
    metrics: Path
    prompts: Path
    """one row a prompt and kind of dictionary"""


@torch.no_grad()
def language_traces(files: LanguageTracesFiles, settings: Traced, run: RunInfo) -> None:
    """Writes the table and the metrics."""
    folder, own = files.manifest.parent, settings.traces
    bridge, tokenizer = load_model(folder), load_tokenizer(folder)
    paths = dict(zip(KINDS, (files.transcoders, files.untrained), strict=True))
    shape = (bridge.cfg.n_layers, bridge.cfg.d_model)
    dictionaries = {kind: load_transcoders(path, folder.name, *shape) for kind, path in paths.items()}
    sources = [files.docs.parent, files.chat.parent]
    chosen = [prompt for source in sources for prompt in sure_prompts(bridge, tokenizer, source, own, run.seeds)]
    rows = []
    for number, tokens in enumerate(track(chosen, "prompts")):
        frozen = freeze_prompt(bridge, tokens)
        for kind in KINDS:
            graph = attribute(frozen, dictionaries[kind], most=own.most)
            found = ablate(bridge, graph, own.sites, own.each, of_prompt(run.seeds, number))
            layout = Layout(graph.n_features, graph.first_embedding, graph.first_logit)
            rows.append({
                "prompt": number, "kind": kind, "top": repr(tokenizer.decode([int(graph.logit_tokens[0])])),
                "probability": float(graph.probabilities[0]), "features": graph.n_features,
                **scores(graph.adjacency, graph.logit_weights(), layout)._asdict(),
                **{name: found.pooled(name) for name in PREDICTIONS},
                **{f"{name}_within": found.within_sites(name) for name in PREDICTIONS},
                "permuted": found.permuted("influence"), "unexpanded": unexpanded(graph),
                "fall": found.fall, "fall_matched": found.fall_matched,
            })  # fmt: skip
    table = pd.DataFrame(rows)
    write_table(files.prompts, table)
    sizes = (settings.language.window, [settings.language.held_out_tokens] * 2)
    held = windows(sources, judging_split(run.seeds), tokenizer, *sizes, per_document=1, seed=run.seeds[0])
    linear = load_file(files.linear)
    ways: dict[str, Way] = {
        "transcoders": lambda layer, x: dictionaries["trained"][layer].reconstruct(x),
        "untrained": lambda layer, x: dictionaries["untrained"][layer].reconstruct(x),
        "linear": lambda layer, x: x @ linear["weight"][layer] + linear["bias"][layer],
        "means": lambda layer, x: dictionaries["untrained"][layer].b_dec.expand_as(x),
    }
    write_metrics(files.metrics, measure(table) | replacement_metrics(bridge, held, ways))


def unexpanded(graph: Graph) -> float:
    """Of the influence that ends in nodes without inputs, the share of features that were not expanded."""
    influence = node_influence(graph.adjacency, graph.logit_weights())
    left = torch.ones(graph.n_features, dtype=torch.bool)
    left[graph.expanded] = False
    lost = influence[: graph.n_features][left].sum()
    return float(lost / (lost + influence[graph.n_features : graph.first_logit].sum()))


def sure_prompts(
    bridge: "TransformerBridge", tokenizer: "PreTrainedTokenizerBase", source: Path, settings: Traces, seeds: list[int]
) -> Iterator[Int[Tensor, " pos"]]:
    """Passages of `length` tokens, none the first of its document, half as many as there are prompts. After these the
    likeliest token has the probability `sure` at least and begins a word. One a document, or a topic of chats, in an
    order drawn by the first seed.

    UserError if there are not enough.
    """
    split, wanted = judging_split(seeds), settings.prompts // 2
    budget = [wanted * POOL * PASSAGES * settings.length]
    text = windows([source], split, tokenizer, settings.length, budget, per_document=PASSAGES, seed=seeds[0])
    documents = read_corpus(source, split)
    used: set[str] = set()
    second = text.document[1:] == text.document[:-1]
    for tokens, real, document in zip(
        text.tokens[1:][second], text.real[1:][second], text.document[1:][second], strict=True
    ):
        one = documents[int(document)]
        about = one.group if one.kind == "chat" else one.id
        if len(used) == wanted or about in used or not bool(real.all()):
            continue
        p = bridge(tokens[None])[0, -1].softmax(-1)
        word = tokenizer.decode([int(p.argmax())])
        if float(p.max()) >= settings.sure and re.match(r"\s[^\W\d_]", word):
            used.add(about)
            yield tokens
    if len(used) < wanted:
        raise UserError(
            f"corpus {source.name} has too few documents with {settings.length} tokens after which the model is sure "
            "of a word; lower traces.prompts or traces.sure in config.yaml"
        )


def measure(table: pd.DataFrame) -> dict[str, Metric]:
    """Means over prompts, untrained encoders and simpler predictions as controls."""
    of = {kind: table[table["kind"] == kind].sort_values("prompt") for kind in KINDS}
    prompts = of["trained"]["prompt"].to_numpy()

    def compared(name: str, unit: str, formula: str, **controls: np.ndarray) -> Metric:
        values, others = (of[kind][name].to_numpy(float) for kind in KINDS)
        return over_clusters(
            values, prompts, unit=unit, formula=formula, cluster="prompts", controls={"untrained": others} | controls
        )

    columns = {str(name): of["trained"][name].to_numpy() for name in of["trained"]}
    simple = PREDICTIONS[1:]
    return {
        "agreement": compared(
            "influence", "rho", "Spearman of influence and |change of the likeliest token's logit| over drawn features",
            permuted_within_sites=columns["permuted"], **{name: columns[name] for name in simple},
        ),
        "agreement_within_sites": compared(
            "influence_within", "rho", "the same over features of one layer and position, mean over sites",
            **{name: columns[f"{name}_within"] for name in simple},
        ),
        "fall": compared(
            "fall", "logits", f"fall of the likeliest token's logit without the {TOGETHER} most influential features",
            matched_writes=columns["fall_matched"],
        ),
        "completeness": compared("completeness", "share", "share of inputs that are no errors, by influence"),
        "replacement": compared("replacement", "share", "influence of embeddings against errors"),
        "unexpanded": compared("unexpanded", "share", "influence that ends in features without inputs"),
    }  # fmt: skip


if __name__ == "__main__":
    run_step(language_traces)
