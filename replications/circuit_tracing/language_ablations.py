"""What ablating features does to a language model, beside what the graph of the prompt says (Ameisen et al. 2025).

As for the two-hop models (interventions.py), with one target: the likeliest token's logit less the mean logit, at the
last position. A feature is ablated by taking what it writes off the output of its MLP; attention and norms are free.
Ranks are compared over features drawn at random from all that are active; those of highest influence are shown beside
them, and ablated together, as are as many that write about as much in the same layers.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from replications.circuit_tracing.graph import Graph
from replications.circuit_tracing.influence import node_influence
from replications.circuit_tracing.interventions import matched, spearman
from replications.circuit_tracing.middle import strongest

if TYPE_CHECKING:
    from transformer_lens.model_bridge import TransformerBridge

BATCH = 32
TOGETHER = 10  # features ablated at once
DRAWN = 300  # features ablated one by one
Edit = Int[Tensor, " feature"]


@torch.no_grad()
def answers(bridge: "TransformerBridge", graph: Graph, edits: list[Edit]) -> Float[Tensor, " edit"]:
    """The likeliest token's logit less the mean logit, without the features of each edit."""
    features, frozen = graph.features, graph.frozen
    places = {layer: (which.tolist(), rows) for layer, (which, rows) in enumerate(features.writers)}
    target, found = int(graph.logit_tokens[0]), []
    for start in range(0, len(edits), BATCH):
        part = edits[start : start + BATCH]
        hooks: list[tuple[str, Callable[..., Tensor]]] = []
        for layer, (which, rows) in places.items():
            taken = torch.zeros(len(part), *frozen.embeddings.shape)
            for at, edit in enumerate(part):
                for one in (one for one in edit.tolist() if int(features.layer[one]) == layer):
                    taken[at, features.pos[one]] += rows[which.index(one)] * features.activation[one]
            if bool(taken.any()):
                hooks.append((f"blocks.{layer}.hook_mlp_out", lambda value, hook, taken=taken: value - taken))
        logits = bridge.run_with_hooks(frozen.tokens.expand(len(part), -1), fwd_hooks=hooks)[:, -1]
        found.append(logits[:, target] - logits.mean(1))
    return torch.cat(found)


def ablations(bridge: "TransformerBridge", graph: Graph, seed: int) -> tuple[list[dict[str, Any]], dict[str, float]]:
    """One row a feature, `DRAWN` drawn and as many of highest influence as are ablated together; and the numbers.

    Numbers: Spearman of influence, and of what is written, with |change| over the drawn features; how far the answer
    falls without the most influential ones, and without matched ones.
    """
    influence = node_influence(graph.adjacency, graph.logit_weights())[: graph.n_features]
    wrote = graph.features.write_norm()
    top = strongest(graph, influence, TOGETHER)
    drawn = torch.randperm(graph.n_features, generator=torch.Generator().manual_seed(seed))[:DRAWN]
    single = torch.cat([drawn, top])
    sets = [torch.tensor([], dtype=torch.long), top, matched(graph.features, top)]
    whole = answers(bridge, graph, [*sets, *single[:, None]])
    clean, change = whole[0], whole[0] - whole[3:]
    rows = [
        {
            "layer": int(graph.features.layer[one]), "pos": int(graph.features.pos[one]),
            "latent": int(graph.features.latent[one]), "influence": float(influence[one]),
            "write_norm": float(wrote[one]), "change": float(change[at]), "drawn": at < len(drawn),
        }
        for at, one in enumerate(single.tolist())
    ]  # fmt: skip
    size = change[: len(drawn)].abs().numpy()[None]
    return rows, {
        "agreement": spearman(influence[drawn].numpy()[None], size)[0],
        "agreement_of_writes": spearman(wrote[drawn].numpy()[None], size)[0],
        "fall": float(clean - whole[1]),
        "fall_matched": float(clean - whole[2]),
    }
