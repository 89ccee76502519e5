"""Runs of many node sets that are one run as far as the sets agree.

What a knock-out does below a layer depends on its nodes below that layer alone. So sets that agree there share one run,
which parts where they differ, as a tree does. Random and greedily grown parts of a circuit, and its nodes taken out one
by one, agree over most of the layers.
"""

from collections.abc import Callable
from typing import NamedTuple

from jaxtyping import Float, Int
from torch import Tensor

from common.interp.decoder import Cache, Decoder
from common.interp.partial_forward import at_positions, rerun
from replications.ioi_circuit.nodes import NodeSet

Replace = Callable[[int, list[NodeSet], Tensor], Tensor]
"""Given a layer, one set of each run and the head outputs [run batch step head d_head], returns those to go on with."""


class Parts(NamedTuple):
    """Runs that go on from `layer`."""

    layer: int
    before: Float[Tensor, "run batch step d_model"]
    """streams before that layer, of the runs that these come from"""
    members: list[tuple[int, list[int]]]
    """of each: the run that it comes from, and the numbers of its sets, which agree at `layer`"""


def last_streams(
    decoder: Decoder,
    base: Cache,
    sets: list[NodeSet],
    at: Int[Tensor, "batch step"],
    end: Int[Tensor, " batch"],
    replace: Replace,
    per_pass: int,
) -> Float[Tensor, "set batch d_model"]:
    """The residual stream at END of every set; up to the first layer with a node it is that of `base`.

    Args:
        decoder: the model.
        base: the pass that holds where no node of a set stands below, with `keep`.
        sets: node sets.
        at: positions that are computed, see `rerun`.
        end: END of each prompt.
        replace: what the nodes of a set do.
        per_pass: how many runs are computed at a time.
    """
    first = min((node.layer for nodes in sets for node in nodes), default=decoder.n_layers)
    start = at_positions(base.resid_pre[first] if first < decoder.n_layers else base.final, at)
    found = start.new_empty(len(sets), len(at), start.shape[-1])
    waiting: list[Parts] = []

    def part(layer: int, x: Float[Tensor, "run batch step d_model"], runs: list[list[int]]) -> None:
        members = [(number, one) for number, run in enumerate(runs) for one in parted(sets, run, layer)]
        waiting.extend(Parts(layer, x, members[i : i + per_pass]) for i in range(0, len(members), per_pass))

    part(first, start[None], [list(range(len(sets)))])
    while waiting:
        layer, before, members = waiting.pop()
        parents, runs = ([*each] for each in zip(*members, strict=True))
        shown = [sets[run[0]] for run in runs]  # any set of a run stands for it, until the next layer that parts one

        def edit(layer: int, z: Tensor, shown: list[NodeSet] = shown) -> Tensor:
            return replace(layer, shown, z)

        later = range(layer + 1, decoder.n_layers)
        stop = next((one for one in later if any(len(parted(sets, run, one)) > 1 for run in runs)), None)
        x = rerun(decoder, base, layer, at, end, before[parents], edit=edit, until=stop)
        if stop is not None:
            part(stop, x, runs)
            continue
        for run, stream in zip(runs, x, strict=True):
            found[run] = stream
    return found


def parted(sets: list[NodeSet], run: list[int], layer: int) -> list[list[int]]:
    """The sets of a run, apart where they differ at `layer`."""
    parts: dict[NodeSet, list[int]] = {}
    for number in run:
        parts.setdefault(frozenset(node for node in sets[number] if node.layer == layer), []).append(number)
    return list(parts.values())
