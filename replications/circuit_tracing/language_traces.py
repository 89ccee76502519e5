"""Step: do graphs of a language model predict interventions, and better than what anyone has without transcoders?

Ameisen et al. 2025 ("Validating the replacement model") compare influence with the effect of ablations on 20 prompts.
Prompts here are the first tokens of held-out documents, half from each corpus, after which the model is sure of the
next token. On each, one graph is made with the transcoders and one with untrained encoders (language_untrained.py), and
features are ablated in the model itself (language_ablations.py). Controls beside untrained encoders: the norm of what a
feature writes, and its direct edge into the logit, for which no graph is needed. A ceiling beside: the first-order
estimate of one backward pass through the model, which has no part in the graph. How well the replacement model stands
for the model (replacement.py) is measured on held-out documents beside.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import torch
from jaxtyping import Int
from torch import Tensor

from common.core.errors import UserError
from common.core.metrics import Metric, write_metrics
from common.core.statistics import over_clusters
from common.core.step import Files, RunInfo, run_step, track
from common.core.tables import write_table
from common.data.corpora import judging_split
from common.data.models import load_model, load_tokenizer
from common.saes.harvest import windows
from replications.circuit_tracing.graph import attribute
from replications.circuit_tracing.influence import Layout, scores
from replications.circuit_tracing.language_ablations import TOGETHER, ablate
from replications.circuit_tracing.language_frozen import freeze_prompt
from replications.circuit_tracing.language_train import load_transcoders
from replications.circuit_tracing.replacement import replacement_metrics
from replications.circuit_tracing.settings import Traced, Traces

if TYPE_CHECKING:
    from transformer_lens.model_bridge import TransformerBridge
    from transformers import PreTrainedTokenizerBase

KINDS = ("trained", "untrained")
POOL = 20  # documents that are looked at for each prompt wanted


class LanguageTracesFiles(Files):
    manifest: Path
    docs: Path
    chat: Path
    transcoders: Path
    untrained: Path
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
            found = ablate(bridge, graph, own.drawn, run.seeds[0])
            layout = Layout(graph.n_features, graph.first_embedding, graph.first_logit)
            rows.append({
                "prompt": number, "kind": kind, "top": repr(tokenizer.decode([int(graph.logit_tokens[0])])),
                "probability": float(graph.probabilities[0]), "features": graph.n_features,
                **scores(graph.adjacency, graph.logit_weights(), layout)._asdict(),
                **{name: found.ranks(name) for name in ("influence", "write_norm", "direct", "gradient")},
                "fall": found.fall, "fall_matched": found.fall_matched,
            })  # fmt: skip
    table = pd.DataFrame(rows)
    write_table(files.prompts, table)
    sizes = (settings.language.window, [settings.language.held_out_tokens] * 2)
    held = windows(sources, judging_split(run.seeds), tokenizer, *sizes, per_document=1)
    write_metrics(files.metrics, measure(table) | replacement_metrics(bridge, held, *dictionaries.values()))


def sure_prompts(
    bridge: "TransformerBridge", tokenizer: "PreTrainedTokenizerBase", source: Path, settings: Traces, seeds: list[int]
) -> Iterator[Int[Tensor, " pos"]]:
    """The first tokens of half as many documents as there are prompts, where the likeliest next token has `sure`.

    UserError if there are not enough.
    """
    wanted = settings.prompts // 2
    text = windows(
        [source], judging_split(seeds), tokenizer, settings.length, [wanted * POOL * settings.length], per_document=1
    )
    for tokens, real in zip(text.tokens, text.real, strict=True):
        if not wanted:
            return
        if bool(real.all()) and float(bridge(tokens[None])[0, -1].softmax(-1).max()) >= settings.sure:
            wanted -= 1
            yield tokens
    if wanted:
        raise UserError(
            f"corpus {source.name} has too few documents after whose first {settings.length} tokens the model is sure "
            "of the next one; lower traces.prompts or traces.sure in config.yaml"
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

    columns = {name: of["trained"][name].to_numpy(float) for name in ("write_norm", "direct", "fall_matched")}
    return {
        "agreement": compared(
            "influence", "rho", "Spearman of influence and |change of the likeliest token's logit| over drawn features",
            write_norm=columns["write_norm"], direct_edge=columns["direct"],
        ),
        "agreement_direct": compared("direct", "rho", "the same with the direct edge for influence"),
        "agreement_gradient": compared("gradient", "rho", "the same with the model's own first-order estimate"),
        "fall": compared(
            "fall", "logits", f"fall of the likeliest token's logit without the {TOGETHER} most influential features",
            activation_matched=columns["fall_matched"],
        ),
        "completeness": compared("completeness", "share", "share of inputs that are no errors, by influence"),
        "replacement": compared("replacement", "share", "influence of embeddings against errors"),
    }  # fmt: skip


if __name__ == "__main__":
    run_step(language_traces)
