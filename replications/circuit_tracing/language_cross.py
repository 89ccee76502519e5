"""Step: graphs of one cross-layer transcoder beside those of per-layer ones, on the same prompts.

Ameisen et al. 2025 ("Cross-layer transcoders"): features of a layer write to the MLPs' outputs of all later ones. So a
feature need not be said again layer after layer; graphs are more complete, and their paths shorter. Both are trained on
one stream, with as many active features of a layer and token. Per-layer ones with untrained encoders
(`language_untrained`) are the other control. Prompts are those of `language_traces`.

path length   edges from an embedding to the logits, mean over paths weighted by what they carry:
              sum_n n w M^n / sum_n w M^n at embeddings, M as in `influence`
unexpanded    share of the influence that ends in features beyond `most`, whose inputs are not known

Paths that end in errors have no length: else a dictionary that leaves more to errors would have the shorter ones.
"""

from pathlib import Path
from typing import NamedTuple

import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor

from common.core.metrics import Metric, write_metrics
from common.core.statistics import over_clusters
from common.core.step import Files, RunInfo, run_step, track
from common.core.tables import write_table
from common.data.models import fast_dtype, load_model, load_tokenizer
from common.saes.architectures.base import Batch
from common.saes.cross_layer import CrossLayerTranscoder
from common.saes.harvest import windows
from common.saes.recipe import Recipe
from common.saes.trainer import train
from common.toys.training import CHECKPOINTS
from replications.circuit_tracing.graph import Dictionary, attribute
from replications.circuit_tracing.influence import TINY, Inputs, Layout, scores
from replications.circuit_tracing.language_frozen import freeze_prompt
from replications.circuit_tracing.language_traces import sure_prompts
from replications.circuit_tracing.language_train import load_transcoders, reader
from replications.circuit_tracing.settings import Crossed

KINDS = ("cross_layer", "per_layer", "untrained")


class Paths(NamedTuple):
    """Mean number of edges of the paths from embeddings to the logits, and the share of influence that ends nowhere."""

    path_length: float
    unexpanded: float


class LanguageCrossFiles(Files):
    manifest: Path
    docs: Path
    chat: Path
    transcoders: Path
    """the per-layer ones"""
    untrained: Path
    cross: Path
    metrics: Path
    prompts: Path
    """one row a prompt and kind of dictionary"""


def language_cross(files: LanguageCrossFiles, settings: Crossed, run: RunInfo) -> None:
    """Trains the cross-layer transcoder, and writes it, the table and the metrics."""
    folder, sources = files.manifest.parent, [files.docs.parent, files.chat.parent]
    checkpoint = CHECKPOINTS / f"circuit_tracing_cross_{run.scale}_{folder.name}_{run.seeds[0]}.safetensors"
    cross = trained(files, settings, run, checkpoint)
    cross.save(files.cross)
    bridge, tokenizer = load_model(folder), load_tokenizer(folder)
    per_layer, untrained = (
        load_transcoders(path, folder.name, bridge.cfg.n_layers, bridge.cfg.d_model)
        for path in (files.transcoders, files.untrained)
    )
    dictionaries: dict[str, Dictionary] = dict(zip(KINDS, (cross, per_layer, untrained), strict=True))
    own, rows = settings.traces, []
    with torch.no_grad():
        chosen = [prompt for source in sources for prompt in sure_prompts(bridge, tokenizer, source, own, run.seeds)]
        for number, tokens in enumerate(track(chosen, "prompts")):
            frozen = freeze_prompt(bridge, tokens)
            for kind in KINDS:
                graph = attribute(frozen, dictionaries[kind], most=own.most)
                layout = Layout(graph.n_features, graph.first_embedding, graph.first_logit)
                matrix, weights = graph.adjacency, graph.logit_weights()
                found = scores(matrix, weights, layout)._asdict() | paths(matrix, weights, layout)._asdict()
                rows.append({"prompt": number, "kind": kind, "features": graph.n_features, **found})
    table = pd.DataFrame(rows)
    write_table(files.prompts, table)
    write_metrics(files.metrics, compared(table))
    checkpoint.unlink(missing_ok=True)


def trained(files: LanguageCrossFiles, settings: Crossed, run: RunInfo, checkpoint: Path) -> CrossLayerTranscoder:
    """From the stream of `language_train`, all layers on one axis. The checkpoint is left, so that a stop in the graphs
    does not train anew."""
    folder, text_of, own = files.manifest.parent, settings.language, settings.cross
    bridge, tokenizer = load_model(folder, device=run.device, dtype=fast_dtype()), load_tokenizer(folder)
    sources = [files.docs.parent, files.chat.parent]
    text = windows(sources, "train", tokenizer, text_of.window, [text_of.docs_tokens, text_of.chat_tokens])
    passage = reader(bridge, text, text_of.chunk, run.device)
    units = [float(1 / torch.cat(part, -1).square().mean().sqrt()) for part in passage(0)]

    def batches(step: int, _source: str) -> Batch:
        x, y = passage(step // text_of.reuse)
        draw = torch.Generator().manual_seed(step)
        chosen = torch.randint(len(x[0]), (own.training.batch,), generator=draw)
        return Batch(*(wide(part, chosen)[None] * unit for part, unit in zip((x, y), units, strict=True)))

    recipe = Recipe.model_validate({
        "architecture": "cross_layer", "d_sae": own.d_sae, "sparsity": int(text_of.k), "seed": run.seeds[0],
        "layers": bridge.cfg.n_layers,
    })  # fmt: skip
    data = f"{folder.name} {text.tokens.sum()}"
    (done,) = train([recipe], batches, own.training, checkpoint, data=data, device=run.device, keep=True)
    weights = {name: value.cpu() for name, value in done.weights.items()}
    return CrossLayerTranscoder.of(weights, recipe, *units)


def wide(layers: list[Float[Tensor, "token d"]], chosen: Tensor) -> Float[Tensor, "chosen wide"]:
    """Some tokens of all layers, one layer behind the other."""
    return torch.cat([layer[chosen] for layer in layers], -1)


def paths(adjacency: Float[Tensor, "node node"], weights: Float[Tensor, " node"], layout: Layout) -> Paths:
    """Of the paths to the weighted logits."""
    inputs = Inputs.of(adjacency)
    ends = torch.ones(len(adjacency), dtype=torch.bool)
    ends[inputs.nodes] = False
    now, arrived, edges = weights, torch.zeros_like(weights), 0.0
    for step in range(1, len(adjacency) + 1):
        now = now[inputs.nodes] @ inputs.shares
        if not bool(now.any()):
            break
        arrived = arrived + now * ends
        edges += step * float(now[layout.embeddings : layout.logits].sum())
    carried, unexpanded = (float(arrived[part].sum()) for part in (
        slice(layout.embeddings, layout.logits), slice(0, layout.errors)
    ))  # fmt: skip
    return Paths(edges / max(carried, TINY), unexpanded / max(float(arrived.sum()), TINY))


def compared(table: pd.DataFrame) -> dict[str, Metric]:
    """Means over prompts, per-layer transcoders as controls."""
    of = {kind: table[table["kind"] == kind].sort_values("prompt") for kind in KINDS}
    formulas = {
        "replacement": ("share", "influence of embeddings against errors"),
        "completeness": ("share", "share of inputs that are no errors, by influence"),
        "path_length": ("edges", "edges of a path from an embedding to the logits, weighted by what it carries"),
        "unexpanded": ("share", "influence that ends in features whose inputs are not known"),
    }
    values = {name: {kind: part[name].to_numpy(float) for kind, part in of.items()} for name in formulas}
    return {
        name: over_clusters(
            values[name]["cross_layer"], of["cross_layer"]["prompt"].to_numpy(), unit=unit, formula=formula,
            cluster="prompts", controls={kind: values[name][kind] for kind in KINDS[1:]},
        )
        for name, (unit, formula) in formulas.items()
    }  # fmt: skip


if __name__ == "__main__":
    run_step(language_cross)
