"""Step: two-layer models at many learning rates and data settings, and whether two changes keep together.

Olsson et al. 2022, argument 1: in-context learning and induction heads appear at the same time. Among equal runs this
could be chance; here settings move the change in time, and the step at which the in-context gain is half of its final
value is regressed on the step at which the best prefix score is half way up, on logarithmic axes. If the two are one
event the slope is one. Null: the same regression with the settings of one side permuted.

All settings are instances of one batched job; each has its own rate, longest period and seed. All are judged on the
same one-shot sequences, whose first copies lie within the shortest of the longest periods.
"""

from itertools import product
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float
from scipy import stats

from common.core.errors import UserError
from common.core.metrics import Metric, write_metrics
from common.core.statistics import LEVEL, from_draws, null_distribution
from common.core.step import run
from common.core.tables import write_table
from common.toys.settings import Architecture, Optimisation
from common.toys.training import Job, train
from common.toys.transformer import Weights, forward, initial_weights, token_losses
from replications.induction_heads.arm_settings import Sizes, Text
from replications.induction_heads.curves import first_crossing, transition
from replications.induction_heads.data import TRACKING, check, one_shot, periodic
from replications.induction_heads.evaluation import gain, losses_on, patterns, scores

PERMUTATIONS = 2000
ENDS = 3  # measurements whose mean counts as the begin, and as the end, of a curve


def train_sweep(
    *,
    sizes: Sizes,
    text: Text,
    optimisation: Optimisation,
    rates: list[float],
    longest: list[int],
    held_out: int,
    measure_every: int,
    seeds: list[int],
    device: Literal["cpu", "cuda"],
    metrics: Path,
    curves: Path,
    times: Path,
) -> None:
    """Trains all combinations of `rates` and `longest`; writes metrics, curves and the two times of every setting."""
    settings = [
        {"setting": k, "rate": rate, "longest": period, "seed": seeds[k % len(seeds)]}
        for k, (period, rate) in enumerate(product(longest, rates))
    ]
    texts = [text.model_copy(update={"longest": one["longest"]}) for one in settings]
    for one in texts:
        check(one)
    judged = one_shot(texts[int(np.argmin([one.longest for one in texts]))], held_out, TRACKING).to(device)
    shape = Architecture(
        n_layers=2, keys="plain", positions="shortformer", mlp="none", d_vocab=text.d_vocab, n_ctx=text.length,
        **sizes.model_dump(),
    )  # fmt: skip

    def loss(weights: Weights, step: int) -> torch.Tensor:
        drawn = [
            periodic(own, optimisation.batch, int(one["seed"]), step) for own, one in zip(texts, settings, strict=True)
        ]
        tokens = torch.stack(drawn).to(device)
        return token_losses(forward(weights, tokens, shape), tokens).mean((1, 2))

    def measure(weights: Weights) -> Weights:
        cache: Weights = {}
        found = gain(losses_on(weights, judged, shape, cache=cache), judged)
        return {"gain": found, "prefix": scores(patterns(cache, shape), judged)["prefix"].flatten(1).amax(1)}

    start = initial_weights(shape, [int(one["seed"]) for one in settings])
    at = sorted({*range(0, optimisation.steps, measure_every), optimisation.steps})
    job = Job(
        name="sweep",
        weights={name: value.to(device) for name, value in start.items()},
        loss=loss,
        measure=measure,
        measure_at=at,
        snapshots_at=[optimisation.steps],
        rates=torch.tensor([one["rate"] for one in settings], device=device),
        tokens_per_step=len(settings) * optimisation.batch * text.length,
    )
    measured = train(job, optimisation).measured
    columns = {name: value.double().cpu().numpy().T for name, value in measured.items()}
    steps = np.asarray(at, dtype=np.float64)
    write_table(
        curves,
        [
            {**one, "step": step} | {name: value[k, i] for name, value in columns.items()}
            for k, one in enumerate(settings)
            for i, step in enumerate(at)
        ],
    )
    both = [half_times(steps, g, p) for g, p in zip(columns["gain"], columns["prefix"], strict=True)]
    rows: list[dict[str, object]] = [
        {**one, "gain_at": a, "prefix_at": b} for one, (a, b) in zip(settings, both, strict=True)
    ]
    write_table(times, rows)
    write_metrics(metrics, co_occurrence(*np.asarray(both).T))


def half_times(
    steps: Float[np.ndarray, " step"], gains: Float[np.ndarray, " step"], prefix: Float[np.ndarray, " step"]
) -> tuple[float, float]:
    """Steps at which the gain is half its final value, and the prefix score half way up; the last step without
    change."""
    changed = transition(steps, gains)
    low, high = prefix[:ENDS].mean(), prefix[-ENDS:].mean()
    at = first_crossing(steps, prefix, float(low + high) / 2) if changed else steps[-1]
    return (changed.middle if changed else float(steps[-1])), float(at)


def co_occurrence(
    gain_at: Float[np.ndarray, " setting"], prefix_at: Float[np.ndarray, " setting"]
) -> dict[str, Metric]:
    """Slope on logarithmic axes with its regression interval, its permuted null, and how far the times are apart.

    UserError with fewer than four settings: a slope would mean nothing.
    """
    n = len(gain_at)
    if n < 4:
        raise UserError(f"{n} settings are too few for a slope; give the sweep more rates or longest periods")
    x, y = np.log(prefix_at), np.log(gain_at)
    text = "slope of log(step of half the gain) on log(step of half the prefix score), over settings"
    rng = np.random.default_rng(0)
    orders = [rng.permutation(n) for _ in range(PERMUTATIONS)]
    permuted = y[np.array(orders)] @ (x - x.mean()) / max(float(((x - x.mean()) ** 2).sum()), 1e-30)
    slope, half = _slope(x, y)
    apart = np.abs(gain_at / prefix_at - 1)
    null_apart = np.array([np.abs(gain_at[order] / prefix_at - 1).mean() for order in orders])
    boot = rng.integers(0, n, size=(PERMUTATIONS, n))
    apart_text = "|step of half the gain / step of half the prefix score - 1|, mean over settings"
    spans = gain_at[boot].max(1) / gain_at[boot].min(1)
    noise = rng.normal(0, half / 2, PERMUTATIONS)
    return {
        "slope": Metric(value=slope, ci_low=slope - half, ci_high=slope + half, n=n, unit="1", formula=text),
        "slope_permuted": null_distribution(permuted, unit="1", formula=f"{text}; settings of one side permuted"),
        "slope_minus_permuted": null_distribution(slope + noise - permuted, unit="1", formula="slope minus permuted"),
        "apart": from_draws(float(apart.mean()), apart[boot].mean(1), n=n, unit="1", formula=apart_text),
        "apart_permuted": null_distribution(null_apart, unit="1", formula="the same, settings of one side permuted"),
        "apart_minus_permuted": null_distribution(
            apart[boot].mean(1) - null_apart, unit="1", formula="the former minus the latter"
        ),
        "span": Metric(
            value=float(gain_at.max() / gain_at.min()),
            ci_low=float(np.quantile(spans, (1 - LEVEL) / 2)),
            ci_high=float(gain_at.max() / gain_at.min()),
            n=n,
            unit="1",
            formula="latest over earliest step of half the gain",
        ),
    }


def _slope(x: Float[np.ndarray, " n"], y: Float[np.ndarray, " n"]) -> tuple[float, float]:
    """Least-squares slope and half the width of its interval. No spread at all counts as slope 0."""
    if np.ptp(x) == 0:
        return 0.0, 0.0
    fit = stats.linregress(x, y)
    return float(fit.slope), float(stats.t.ppf((1 + LEVEL) / 2, len(x) - 2) * fit.stderr)


if __name__ == "__main__":
    run(train_sweep)
