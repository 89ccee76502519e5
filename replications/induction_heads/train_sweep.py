"""Step: two-layer models at many learning rates and data settings, and whether two changes keep together.

Olsson et al. 2022, argument 1: in-context learning and induction heads appear at the same time. Among equal runs this
could be chance; here settings move the change in time. The step of half the final in-context gain is regressed on the
step at which the best prefix score is half way up. Axes are logarithmic. If the two are one event the slope is one.
Null: the same regression with the settings of one side permuted.

All settings are instances of one batched job; each has its own rate, longest segment and seed. All are judged on the
same one-shot sequences, with blocks of the shortest of these.
"""

from itertools import product
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from scipy import stats

from common.core.errors import UserError
from common.core.metrics import Metric, Uncertainty, write_metrics
from common.core.statistics import LEVEL, from_draws, null_distribution, with_control
from common.core.step import Files, RunInfo, run_step
from common.core.tables import write_table
from common.toys.settings import Architecture
from common.toys.training import Job, train
from common.toys.transformer import Weights, forward, initial_weights, token_losses
from replications.induction_heads.curves import first_crossing, transition
from replications.induction_heads.data import TRACKING, check, one_shot, segments
from replications.induction_heads.evaluation import gain, losses_on, patterns, scores
from replications.induction_heads.settings import Sweep

PERMUTATIONS = 2000
ENDS = 3  # measurements whose mean counts as the begin, and as the end, of a curve
LEAST_SETTINGS = 4
Times = Float[np.ndarray, " setting"]


class SweepFiles(Files):
    metrics: Path
    curves: Path
    times: Path
    """of every setting, when the gain changes and when the prefix score does"""


def train_sweep(files: SweepFiles, settings: Sweep, run: RunInfo) -> None:
    """Trains all combinations of `rates` and `longest`; writes metrics, curves and the two times of every setting."""
    arms = [
        {"setting": k, "rate": rate, "longest": longest, "seed": run.seeds[k % len(run.seeds)]}
        for k, (longest, rate) in enumerate(product(settings.longest, settings.rates))
    ]
    seeds = [int(arm["seed"]) for arm in arms]
    texts = [settings.text.model_copy(update={"longest_block": arm["longest"]}) for arm in arms]
    for text in texts:
        check(text)
    judged = one_shot(min(texts, key=lambda text: text.longest_block), settings.held_out, TRACKING).to(run.device)
    optimisation = settings.optimisation
    shape = Architecture(
        n_layers=2, keys="plain", positions="shortformer", mlp="none", d_vocab=settings.text.d_vocab,
        n_ctx=settings.text.length, **settings.sizes.model_dump(),
    )  # fmt: skip

    def loss(weights: Weights, step: int) -> torch.Tensor:
        drawn = [segments(text, optimisation.batch, seed, step) for text, seed in zip(texts, seeds, strict=True)]
        tokens = torch.stack(drawn).to(run.device)
        return token_losses(forward(weights, tokens, shape), tokens).mean((1, 2))

    def measure(weights: Weights) -> Weights:
        cache: Weights = {}
        found = gain(losses_on(weights, judged.tokens, shape, cache=cache), judged)
        return {"gain": found, "prefix": scores(patterns(cache, shape), judged)["prefix"].flatten(1).amax(1)}

    at = sorted({*range(0, optimisation.steps, settings.measure_every), optimisation.steps})
    job = Job(
        name="sweep",
        weights={name: value.to(run.device) for name, value in initial_weights(shape, seeds).items()},
        loss=loss,
        measure=measure,
        measure_at=at,
        snapshots_at=[optimisation.steps],
        rates=torch.tensor([arm["rate"] for arm in arms], device=run.device),
        tokens_per_step=len(arms) * optimisation.batch * settings.text.length,
    )
    measured = train(job, optimisation).measured
    columns = {name: value.double().cpu().numpy().T for name, value in measured.items()}
    curves = [
        {**arm, "step": step} | {name: value[k, i] for name, value in columns.items()}
        for k, arm in enumerate(arms)
        for i, step in enumerate(at)
    ]
    write_table(files.curves, curves)
    steps = np.asarray(at, dtype=np.float64)
    both = [half_times(steps, g, p) for g, p in zip(columns["gain"], columns["prefix"], strict=True)]
    write_table(files.times, [{**arm, "gain_at": a, "prefix_at": b} for arm, (a, b) in zip(arms, both, strict=True)])
    write_metrics(files.metrics, co_occurrence(*np.asarray(both).T))


def half_times(
    steps: Float[np.ndarray, " step"], gains: Float[np.ndarray, " step"], prefix: Float[np.ndarray, " step"]
) -> tuple[float, float]:
    """Steps at which the gain is half its final value, and the prefix score half way up; the last step without
    change: such a setting has two equal, censored times."""
    changed = transition(steps, gains)
    low, high = prefix[:ENDS].mean(), prefix[-ENDS:].mean()
    at = first_crossing(steps, prefix, float(low + high) / 2) if changed else steps[-1]
    return (changed.middle if changed else float(steps[-1])), float(at)


def co_occurrence(gain_at: Times, prefix_at: Times) -> dict[str, Metric]:
    """Slope on logarithmic axes with its regression interval, and how far the times are apart; null: settings permuted.

    UserError with fewer than four settings: a slope would mean nothing.
    """
    n = len(gain_at)
    if n < LEAST_SETTINGS:
        raise UserError(f"{n} settings are too few for a slope; give the sweep more rates or longest segments")
    settings = Uncertainty(unit="settings", count=n)
    x, y = np.log(prefix_at), np.log(gain_at)
    rng = np.random.default_rng(0)
    orders = [rng.permutation(n) for _ in range(PERMUTATIONS)]
    permuted = y[np.array(orders)] @ (x - x.mean()) / max(float(((x - x.mean()) ** 2).sum()), 1e-30)
    value, half = _slope(x, y)
    distance = np.abs(gain_at / prefix_at - 1)
    permuted_distance = np.array([np.abs(gain_at[order] / prefix_at - 1).mean() for order in orders])
    chosen = rng.integers(0, n, size=(PERMUTATIONS, n))
    spans = gain_at[chosen].max(1) / gain_at[chosen].min(1)
    noise = rng.normal(0, half / 2, PERMUTATIONS)
    slope = Metric(
        value=value, ci_low=value - half, ci_high=value + half, n=n, unit="1", uncertainty=settings,
        formula="slope of log(step of half the gain) on log(step of half the prefix score), over settings",
    )  # fmt: skip
    apart = from_draws(
        float(distance.mean()),
        distance[chosen].mean(1),
        n=n,
        unit="1",
        formula="|step of half the gain / step of half the prefix score - 1|, mean over settings",
        uncertainty=settings,
    )
    span = float(gain_at.max() / gain_at.min())
    return {
        "slope": _against_permuted(slope, value + noise, permuted),
        "apart": _against_permuted(apart, distance[chosen].mean(1), permuted_distance),
        "span": Metric(
            value=span,
            ci_low=float(np.quantile(spans, (1 - LEVEL) / 2)),
            ci_high=span,
            n=n,
            unit="1",
            formula="latest over earliest step of half the gain",
            uncertainty=settings,
        ),
    }


def _against_permuted(
    effect: Metric, resampled: Float[np.ndarray, " draw"], permuted: Float[np.ndarray, " draw"]
) -> Metric:
    """The effect beside its permuted null; the difference has the spread of resamples and permutations."""
    text = "the same, settings of one side permuted"
    null = null_distribution(permuted, unit=effect.unit, formula=text)
    gap = from_draws(effect.value - null.value, resampled - permuted, n=effect.n, unit=effect.unit, formula=text)
    return with_control(effect, "permuted_settings", null, gap)


def _slope(x: Float[np.ndarray, " n"], y: Float[np.ndarray, " n"]) -> tuple[float, float]:
    """Least-squares slope and half the width of its interval. No spread at all counts as slope 0."""
    if np.ptp(x) == 0:
        return 0.0, 0.0
    fit = stats.linregress(x, y)
    return float(fit.slope), float(stats.t.ppf((1 + LEVEL) / 2, len(x) - 2) * fit.stderr)


if __name__ == "__main__":
    run_step(train_sweep)
