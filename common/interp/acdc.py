"""Finding edges by running circuits (common/interp/edge_graph.py): every edge taken out alone, and ACDC."""

from collections.abc import Callable

import torch
from jaxtyping import Bool, Float
from torch import Tensor


def exact_edges(
    run: Callable[[Bool[Tensor, "circuit writer reader"]], Float[Tensor, " circuit"]],
    edges: Bool[Tensor, "writer reader"],
    at_once: int,
) -> Float[Tensor, "writer reader"]:
    """Exact edge patching: what `run` gives without one edge, less what it gives with all; 0 where there is no edge."""
    found = torch.zeros(edges.shape, dtype=torch.float64)
    whole = run(edges[None])[0]
    for some in torch.split(torch.nonzero(edges), at_once):
        held = edges.repeat(len(some), 1, 1)
        held[torch.arange(len(some)), some[:, 0], some[:, 1]] = False
        found[some[:, 0], some[:, 1]] = run(held) - whole
    return found


def acdc(
    run: Callable[[Bool[Tensor, "circuit writer reader"]], Float[Tensor, " circuit"]],
    edges: Bool[Tensor, "writer reader"],
    feeds: Bool[Tensor, "reader writer"],
    threshold: float,
) -> Bool[Tensor, "writer reader"]:
    """The circuit of ACDC (Conmy et al. 2023, algorithm 1).

    Goes from the logits down, at each reader from its last writer to its first. An edge is taken out for good if that
    raises the distance `run` by less than `threshold`.

    Where nobody reads any more what is computed from a reader (`feeds`), all edges into it go without a run, as in the
    released code. None of them can change the distance.
    """
    held = edges.clone()
    distance = run(held[None])[0]
    for reader in reversed(range(edges.shape[1])):
        if feeds[reader].any() and not held[feeds[reader]].any():
            held[:, reader] = False
            continue
        for writer in reversed(torch.nonzero(edges[:, reader])[:, 0].tolist()):
            held[writer, reader] = False
            without = run(held[None])[0]
            if without - distance < threshold:
                distance = without
            else:
                held[writer, reader] = True
    return held
