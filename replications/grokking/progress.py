"""Progress measures of one network along training (Nanda et al. 2023, section 5, Figure 7).

Excluded loss: loss on the trained pairs of the logits without the waves of the key frequencies. It rises while the
network moves from memory to the circuit. Restricted loss: loss on the held-out pairs of these waves alone; it falls
before held-out loss does. Key frequencies are those of the final logits.
"""

from typing import NamedTuple

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor

from replications.grokking.fourier import excluded, excluded_elsewhere, fourier_norms, gini, others, restricted
from replications.grokking.task import Task
from replications.grokking.transformer import Weights, forward, losses, member

DRAWS = 5  # of frequencies that are not key, and of permutations of the pairs; the largest value is the control


class Along(NamedTuple):
    """Losses at every snapshot: of the whole logits, without each set of frequencies, and of each set alone.
    `elsewhere` is without the first set's waves at other pairs."""

    train: Float[Tensor, " snapshot"]
    test: Float[Tensor, " snapshot"]
    excluded: Float[Tensor, "snapshot set"]
    restricted: Float[Tensor, "snapshot set"]
    elsewhere: Float[Tensor, "snapshot draw"]


def along(own: Weights, one: Task, sets: list[list[int]]) -> Along:
    """Reads one network, stacked over its snapshots."""
    rows = []
    for when in range(len(own["W_E"])):
        logits = forward(member(own, when), one.pairs).logits
        parts = [_mean(logits, one, one.trained), _mean(logits, one, ~one.trained)]
        parts += [_mean(excluded(logits, each), one, one.trained) for each in sets]
        parts += [_mean(restricted(logits, each), one, ~one.trained) for each in sets]
        parts += [_mean(moved, one, one.trained) for moved in excluded_elsewhere(logits, sets[0], DRAWS)]
        rows.append(torch.stack(parts))
    train, test, *rest = torch.stack(rows).unbind(1)
    without, alone, elsewhere = (
        torch.stack(each, 1) for each in (rest[: len(sets)], rest[len(sets) : -DRAWS], rest[-DRAWS:])
    )
    return Along(train, test, without, alone, elsewhere)


def _mean(logits: Float[Tensor, "pair answer"], one: Task, chosen: Tensor) -> Float[Tensor, ""]:
    return losses(logits[chosen], one.answers[chosen]).mean()


def halved(loss: Float[Tensor, " snapshot"], steps: list[int], start: int) -> float:
    """The step, between snapshots on a line, at which a loss is half of its largest value from snapshot `start` on.

    The last step where it never is.
    """
    values = loss[start:].numpy()
    highest = int(values.argmax())
    below = np.nonzero(values[highest:] < values[highest] / 2)[0]
    if not len(below):
        return float(steps[-1])
    after = highest + int(below[0])
    return float(np.interp(-values[highest] / 2, -values[after - 1 : after + 1], steps[start:][after - 1 : after + 1]))


def compare(
    own: Weights,
    twin: Weights,
    one: Task,
    keys: list[int],
    twin_keys: list[int],
    steps: list[int],
    moments: tuple[int, int],
) -> tuple[dict[str, dict[str, float]], pd.DataFrame]:
    """The progress measures of the key frequencies beside their controls, and those of every snapshot.

    Controls:
    - the largest of draws of as many frequencies that are not key
    - for the lead, all frequencies: the mean of the logits over pairs of equal sum, no frequency chosen. Of such pairs
      some are trained
    - the waves of the key frequencies at other pairs, a change of equal norm
    - the twin without weight decay at the same steps, with the strongest frequencies of its own final logits
    - the loss on trained pairs of the whole logits
    """
    every = list(range(1, (one.prime - 1) // 2 + 1))
    found = along(own, one, [keys, *others(one.prime, keys, DRAWS), every])
    free = along(twin, one, [twin_keys])
    memorised, before = moments

    def rise(loss: Float[Tensor, "snapshot ..."]) -> Float[Tensor, "..."]:
        change: Tensor = loss[before] - loss[memorised]
        return change

    fallen = halved(found.test, steps, memorised)
    leads = [fallen / halved(loss, steps, memorised) for loss in found.restricted.T]
    worst = int(rise(found.elsewhere).argmax())
    values = {
        "excluded_rise": {
            "key": float(rise(found.excluded)[0]),
            "other_frequencies": float(rise(found.excluded)[1:-1].max()),
            "equal_norm": float(rise(found.elsewhere)[worst]),
            "no_decay": float(rise(free.excluded)[0]),
            "train_loss": float(rise(found.train)),
        },
        "restricted_lead": {
            "key": leads[0],
            "other_frequencies": max(leads[1:-1]),
            "all_frequencies": leads[-1],
            "no_decay": halved(free.test, steps, memorised) / halved(free.restricted[:, 0], steps, memorised),
        },
    }
    networks = [member(own, when) for when in range(len(steps))]
    table = pd.DataFrame({
        "step": steps, "train": found.train, "test": found.test,
        "excluded": found.excluded[:, 0], "restricted": found.restricted[:, 0],
        "excluded_other": found.excluded[:, 1], "restricted_other": found.restricted[:, 1],
        "restricted_all": found.restricted[:, -1], "excluded_elsewhere": found.elsewhere[:, worst],
        "gini": [gini(fourier_norms(network["W_E"][:-1]).flatten()) for network in networks],
        "squares": [float(sum(value.double().square().sum() for value in network.values())) for network in networks],
    })  # fmt: skip
    return values, table
