"""A pruned graph as circuit-tracer's JSON (the schema that Neuronpedia reads) and as the data of `viewer.html`.

circuit-tracer writes a layer as text ("E" for embeddings, n_layers + 1 for logits), and `influence` as the cumulative
share down to a node. It numbers features as 10^ceil(log10 d_sae) * layer + latent. Supernodes are lists: a label, then
ids.
"""

import math
from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import torch
from pydantic import Field

from common.core.settings import Strict
from replications.circuit_tracing.graph import Graph
from replications.circuit_tracing.influence import EDGE_SHARE, NODE_SHARE, Layout, Pruned, Scores, prune, scores

FeatureType = Literal["cross layer transcoder", "mlp reconstruction error", "embedding", "logit"]


class Metadata(Strict):
    """About the graph."""

    slug: str
    scan: str
    transcoder_list: list[str]
    prompt_tokens: list[str]
    prompt: str
    node_threshold: float | None = None


class QParams(Strict):
    """How the graph is shown at first."""

    pinnedIds: list[str]
    supernodes: list[list[str]]
    linkType: str
    clickedId: str
    sg_pos: str


class Node(Strict):
    """One node."""

    node_id: str
    feature: int
    layer: str
    ctx_idx: int
    feature_type: FeatureType
    token_prob: float = 0.0
    is_target_logit: bool = False
    run_idx: int = 0
    reverse_ctx_idx: int = 0
    jsNodeId: str
    clerp: str = ""
    influence: float | None = None
    activation: float | None = None


class Link(Strict):
    """One edge."""

    source: str
    target: str
    weight: float


class TracerFile(Strict):
    """The whole file."""

    metadata: Metadata
    qParams: QParams
    nodes: list[Node] = Field(min_length=1)
    links: list[Link]


class Described(NamedTuple):
    """What the page says of a feature."""

    label: str
    group: str
    """supernode; empty for none"""
    contexts: list[dict[str, Any]]
    """`words`, the place `at` of the firing in them, and its `value`"""


Describe = Callable[[int], Described]


class View(NamedTuple):
    """A pruned graph ready to be written."""

    tracer: TracerFile
    page: dict[str, Any]
    pruned: Pruned


def view(
    graph: Graph,
    words: list[str],
    *,
    slug: str,
    title: str,
    scan: str,
    d_sae: int,
    describe: Describe,
    shown: float = 0.95,
) -> View:
    """Both forms of a graph. The page holds nodes up to the share `shown` of the influence, for its slider; the JSON
    those up to 80 %, as circuit-tracer prunes."""
    layout = Layout(graph.n_features, graph.first_embedding, graph.first_logit)
    weights = graph.logit_weights()
    narrow = prune(graph.adjacency, weights, layout)
    wide = prune(graph.adjacency, weights, layout, nodes=shown, edges=EDGE_SHARE)
    found = scores(graph.adjacency, weights, layout)
    known = {int(node): describe(int(node)) for node in wide.nodes.nonzero()[:, 0] if node < graph.n_features}
    known |= {int(node): describe(int(node)) for node in narrow.nodes.nonzero()[:, 0] if node < graph.n_features}
    prompt = [words[int(token)] for token in graph.frozen.tokens]
    nodes = {at: _node(graph, int(at), narrow, words, known, d_sae) for at in narrow.nodes.nonzero()[:, 0].tolist()}
    groups = _supernodes({at: one.group for at, one in known.items() if at in nodes}, graph)
    tracer = TracerFile(
        metadata=Metadata(
            slug=slug, scan=scan, transcoder_list=[], prompt_tokens=prompt, prompt="".join(prompt),
            node_threshold=NODE_SHARE,
        ),
        qParams=QParams(
            pinnedIds=[], linkType="both", clickedId="", sg_pos="",
            supernodes=[[label, *(nodes[at].node_id for at in members)] for label, members in groups],
        ),
        nodes=list(nodes.values()),
        links=[
            Link(source=nodes[s].node_id, target=nodes[t].node_id, weight=float(graph.adjacency[t, s]))
            for t, s in narrow.edges.nonzero().tolist() if s in nodes and t in nodes
        ],
    )  # fmt: skip
    return View(tracer, _page(graph, wide, words, known, title, prompt, found), narrow)


def _node(graph: Graph, at: int, pruned: Pruned, words: list[str], known: dict[int, Described], d_sae: int) -> Node:
    features, length, kind = graph.features, graph.frozen.length, graph.kind(at)
    share = float(pruned.cumulative[at])
    if kind == "feature":
        layer, pos, latent = int(features.layer[at]), int(features.pos[at]), int(features.latent[at])
        number = 10 ** math.ceil(math.log10(d_sae)) * layer + latent
        return Node(
            node_id=f"{layer}_{latent}_{pos}", feature=number, layer=str(layer), ctx_idx=pos,
            feature_type="cross layer transcoder", jsNodeId=f"{layer}_{latent}-0", clerp=known[at].label,
            influence=share, activation=float(features.activation[at]),
        )  # fmt: skip
    if kind == "error":
        layer, pos = divmod(at - graph.n_features, length)
        return Node(
            node_id=f"0_{layer}_{pos}", feature=-1, layer=str(layer), ctx_idx=pos,
            feature_type="mlp reconstruction error", jsNodeId=f"{layer}_{pos}-0", influence=share,
        )  # fmt: skip
    if kind == "embedding":
        pos = at - graph.first_embedding
        token = int(graph.frozen.tokens[pos])
        return Node(
            node_id=f"E_{token}_{pos}", feature=pos, layer="E", ctx_idx=pos, feature_type="embedding",
            jsNodeId=f"E_{token}-{pos}", clerp=f'Emb: "{words[token]}"', influence=share,
        )  # fmt: skip
    which = at - graph.first_logit
    token, p, top = int(graph.logit_tokens[which]), float(graph.probabilities[which]), str(graph.frozen.n_layers + 1)
    return Node(
        node_id=f"{top}_{token}_{length - 1}", feature=token, layer=top, ctx_idx=length - 1, feature_type="logit",
        token_prob=p, is_target_logit=which == 0, jsNodeId=f"L_{token}-{length - 1}",
        clerp=f'Output "{words[token]}" (p={p:.3f})',
    )  # fmt: skip


def _supernodes(groups: dict[int, str], graph: Graph) -> list[tuple[str, list[int]]]:
    """Features with one group at one position, two at least."""
    found: dict[tuple[str, int], list[int]] = {}
    for at, group in groups.items():
        if group:
            found.setdefault((group, int(graph.features.pos[at])), []).append(at)
    return [(group, members) for (group, _), members in found.items() if len(members) > 1]


def _page(
    graph: Graph, pruned: Pruned, words: list[str], known: dict[int, Described], title: str, prompt: list[str],
    found: Scores,
) -> dict[str, Any]:  # fmt: skip
    features, length = graph.features, graph.frozen.length
    kept = pruned.nodes.nonzero()[:, 0].tolist()
    place = {at: number for number, at in enumerate(kept)}
    effects = _logit_effects(graph, [at for at in kept if at < graph.n_features], words)
    nodes = []
    for at in kept:
        kind = graph.kind(at)
        one: dict[str, Any] = {"kind": kind, "share": round(float(pruned.cumulative[at]), 4)}
        if kind == "feature":
            told = known[at]
            one |= {
                "layer": int(features.layer[at]), "pos": int(features.pos[at]), "latent": int(features.latent[at]),
                "activation": round(float(features.activation[at]), 4), "label": told.label, "group": told.group,
                "contexts": told.contexts, **effects[at],
            }  # fmt: skip
        elif kind == "error":
            layer, pos = divmod(at - graph.n_features, length)
            one |= {"layer": layer, "pos": pos, "label": f"error of MLP {layer}"}
        elif kind == "embedding":
            one |= {"layer": -1, "pos": at - graph.first_embedding, "label": prompt[at - graph.first_embedding]}
        else:
            which = at - graph.first_logit
            p = float(graph.probabilities[which])
            word = words[int(graph.logit_tokens[which])]
            one |= {"layer": graph.frozen.n_layers, "pos": length - 1, "label": word, "p": round(p, 4)}
        nodes.append(one)
    links = [
        [place[s], place[t], float(f"{float(graph.adjacency[t, s]):.4g}")]
        for t, s in pruned.edges.nonzero().tolist()
        if s in place and t in place
    ]
    about = {"completeness": round(found.completeness, 4), "replacement": round(found.replacement, 4)}
    return {"title": title, "prompt": prompt, "layers": graph.frozen.n_layers, "nodes": nodes, "links": links, **about}


def _logit_effects(graph: Graph, kept: list[int], words: list[str], count: int = 6) -> dict[int, dict[str, list[str]]]:
    """The tokens whose logits a feature's decoder row raises and lowers most, by the direct path, less the mean."""
    found = {}
    own: dict[int, torch.Tensor] = {}
    for which, rows in graph.features.writers:
        for at, row in zip(which.tolist(), rows, strict=True):
            own[at] = own.get(at, torch.zeros_like(row)) + row
    for at in kept:
        effect = (own[at] * graph.frozen.gain_final) @ graph.frozen.W_U
        best = effect.topk(min(count, len(effect))).indices.tolist()
        worst = (-effect).topk(min(count, len(effect))).indices.tolist()
        found[at] = {"up": [words[one] for one in best], "down": [words[one] for one in worst]}
    return found
