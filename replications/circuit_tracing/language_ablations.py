"""What ablating features does to a language model, beside what the graph of the prompt says (Ameisen et al. 2025).

As for the two-hop models (interventions.py), with one target: the likeliest token's logit less the mean logit, at the
last position. A feature is ablated by taking what it writes off the output of its MLP; attention and norms are free.
Ranks are compared over features drawn at random from all that are active; those of highest influence are shown beside
them, and ablated together, as are as many that write about as much in the same layers.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from common.core.metrics import Estimate, Metric, Uncertainty
from common.core.statistics import from_draws, with_control, without_interval
from replications.circuit_tracing.graph import Graph
from replications.circuit_tracing.influence import node_influence
from replications.circuit_tracing.interventions import matched, spearman
from replications.circuit_tracing.middle import strongest

if TYPE_CHECKING:
    from transformer_lens.model_bridge import TransformerBridge

BATCH = 32
TOGETHER = 10  # features ablated at once
DRAWN = 300  # features ablated one by one
RESAMPLES = 2000  # of them
RHO = "Spearman of {} and |change of the likeliest token's logit| over drawn features, bootstrap over features"
FALL = "fall of the likeliest token's logit less the mean logit, without {} features"
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


def ablations(bridge: "TransformerBridge", graph: Graph, seed: int) -> tuple[list[dict[str, Any]], dict[str, Metric]]:
    """One row a feature, `DRAWN` drawn and as many of highest influence as are ablated together; and the metrics.

    `agreement` beside that of what features write; `fall`, how far the answer falls without the most influential
    features, and `fall_matched`, without matched ones (numbers of one prompt, so without an interval).
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
    size = change[: len(drawn)].abs().numpy()
    names = {"fall": f"the {TOGETHER} most influential", "fall_matched": f"{TOGETHER} that write about as much"}
    falls = {
        name: without_interval(float(clean - whole[at]), 1, "logits", FALL.format(names[name]))
        for at, name in ((1, "fall"), (2, "fall_matched"))
    }
    return rows, {"agreement": ranks(influence[drawn].numpy(), wrote[drawn].numpy(), size, seed), **falls}


def ranks(
    influence: Float[np.ndarray, " n"], wrote: Float[np.ndarray, " n"], size: Float[np.ndarray, " n"], seed: int
) -> Metric:
    """How well influence ranks changes, beside how well the size of writes does."""
    count = len(size)
    chosen = np.random.default_rng(seed).integers(0, count, (RESAMPLES, count))
    of = Uncertainty(unit="features", count=count)
    found = []
    for name, one in (("influence", influence), ("what is written", wrote)):
        draws = np.array(spearman(one[chosen], size[chosen]))
        value, formula = spearman(one[None], size[None])[0], RHO.format(name)
        found.append((draws, from_draws(value, draws, n=count, unit="rho", formula=formula, uncertainty=of)))
    (draws, effect), (others, control) = found
    apart = from_draws(effect.value - control.value, draws - others, n=count, unit="rho", formula="", uncertainty=of)
    return with_control(effect, "write_norm", control, Estimate(**apart.model_dump(include=set(Estimate.model_fields))))
