"""Step: one two-hop prompt as a graph that can be read.

An interactive page, circuit-tracer's JSON, and the tables of a figure in which features of one name and position are
one supernode."""

from pathlib import Path

from common.core.files import write_json, write_text
from common.core.step import Files, RunInfo, run_step
from common.core.tables import write_table
from common.saes.browser import filled
from common.saes.sae import Sae
from replications.circuit_tracing.dictionaries import load_dictionaries
from replications.circuit_tracing.export import Described, View, view
from replications.circuit_tracing.graph import Graph
from replications.circuit_tracing.measure import Both, Studied, chosen_prompts, study
from replications.circuit_tracing.middle import named, values
from replications.circuit_tracing.settings import Toy
from replications.circuit_tracing.task import tables, vocabulary
from replications.circuit_tracing.toy import architecture, one
from replications.circuit_tracing.train import load_models

SURE = 0.5  # F1 from which a name makes a supernode
CONTEXTS = 5


class PageFiles(Files):
    models: Path
    dictionaries: Path
    template: Path
    page: Path
    tracer: Path
    nodes: Path
    links: Path


def page(files: PageFiles, settings: Both, run: RunInfo) -> None:
    """Writes the page of the first seed's first judged prompt."""
    weights, _, seeds = load_models(files.models)
    shape = architecture(settings.toy.model, settings.toy.task)
    studied = study(one(weights, 0), shape, tables(settings.toy.task, seeds[0]))
    at = chosen_prompts(studied, 1, seeds[0])[0]
    saes = load_dictionaries(files.dictionaries, 0)["trained"]
    graph = studied.graph(at, saes)
    made = toy_view(studied, graph, saes, settings.toy, seeds[0])
    nodes, links = supernodes(graph, made)
    write_text(files.page, filled(files.template.read_text("utf-8"), made.page))
    write_json(files.tracer, made.tracer.model_dump(mode="json"))
    write_table(files.nodes, nodes)
    write_table(files.links, links)


def toy_view(studied: Studied, graph: Graph, saes: list[Sae], toy: Toy, seed: int) -> View:
    """The graph with names and contexts for its features."""
    words = [f"{word} " for word in vocabulary(toy.task)]
    among = values(studied.tables, toy.task)

    def describe(node: int) -> Described:
        layer, pos, latent = (int(getattr(graph.features, part)[node]) for part in ("layer", "pos", "latent"))
        acts = saes[layer].encode(studied.reading.mlp_in[layer, :, pos])[:, latent]
        name = named(acts > 0, among[pos], toy.task)
        best = acts.topk(min(CONTEXTS, len(acts)))
        contexts = []
        for value, where in zip(best.values.tolist(), best.indices.tolist(), strict=True):
            prompt = [words[int(token)] for token in studied.tables.prompts[where]]
            contexts.append({"words": prompt, "at": pos, "value": round(value, 3)})
        return Described(f"{name} (F1 {name.f1:.2f})", str(name) if name.f1 >= SURE else "", contexts)

    return view(
        graph, words, slug="two-hop", title=f"Two hops, seed {seed}", scan="two-hop-transcoders", d_sae=saes[0].d_sae,
        describe=describe,
    )  # fmt: skip


def supernodes(graph: Graph, made: View) -> tuple[list[dict[str, object]], list[dict[str, object]]]:
    """Rows of nodes and of links of the pruned graph, features of one name and position together, errors of one
    position too. `f1` is the smallest of a node's features. The share of a link is net over gross: the
    sum of the signed weights between two nodes, over the sizes of all weights into the target's members."""
    by_id = {node.node_id: node for node in made.tracer.nodes}
    grouped = {member: group[0] for group in made.tracer.qParams.supernodes for member in group[1:]}
    name: dict[str, tuple[str, int, str]] = {}
    f1: dict[str, float] = {}
    for key, node in by_id.items():
        kind: str = node.feature_type
        label, _, score = node.clerp.partition(" (F1 ")
        if score:
            f1[key] = float(score.rstrip(")"))
            label = grouped.get(key) or (label if f1[key] >= SURE else "no clear name")
        if kind == "mlp reconstruction error":
            label = "errors"
        name[key] = (label, node.ctx_idx, kind)
    nodes: dict[tuple[str, int, str], dict[str, object]] = {}
    for key, node in by_id.items():
        layer = -1 if node.layer == "E" else min(int(node.layer), graph.frozen.n_layers)
        label, pos, kind = name[key]
        new: dict[str, object] = {"label": label, "pos": pos, "kind": kind, "layer": layer, "count": 0, "f1": 1.0}
        kept = nodes.setdefault(name[key], new)
        kept["count"] = int(str(kept["count"])) + 1
        kept["f1"] = min(float(str(kept["f1"])), f1.get(key, 1.0))
        kept["layer"] = min(int(str(kept["layer"])), layer) if layer < graph.frozen.n_layers else layer
    order = {key: place for place, key in enumerate(nodes)}
    inputs: dict[tuple[int, int], float] = {}
    total: dict[int, float] = {}
    for link in made.tracer.links:
        source, target = order[name[link.source]], order[name[link.target]]
        total[target] = total.get(target, 0.0) + abs(link.weight)
        if source != target:
            inputs[source, target] = inputs.get((source, target), 0.0) + link.weight
    links: list[dict[str, object]] = [
        {"source": source, "target": target, "share": weight / max(total[target], 1e-9)}
        for (source, target), weight in inputs.items()
    ]
    return list(nodes.values()), links


if __name__ == "__main__":
    run_step(page)
