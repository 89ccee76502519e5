"""Step: the phase change of every arm: in-context gain, its abruptness, the loss bump, and the heads that appear.

Metrics are per arm, over seeds; `curves` has one row per arm, seed and measurement, `indices` the loss by context
index, `heads` the scores of every head along training, `paths` the way of every model through the space of per-token
losses. Paper: Olsson et al. 2022, arguments 1 and 2; thresholds in claims.yaml.
"""

from pathlib import Path

import numpy as np
from einops import rearrange

from common.core.metrics import write_metrics
from common.core.step import run
from common.core.tables import Seeded, write_table
from replications.induction_heads.arm import ArmResult, load_arm
from replications.induction_heads.curves import Transition, bump, plateau_ratio, transition
from replications.induction_heads.paths import principal_components, turn_off

HEAD_SCORES = ("prefix", "previous", "duplicate", "copying")
BASE = "one_layer"  # the arm that cannot form induction heads


def measure_phase_change(
    *,
    arms: list[Path],
    warmup: int,
    late: list[int],
    early: list[int],
    metrics: Path,
    curves: Path,
    indices: Path,
    heads: Path,
    paths: Path,
) -> None:
    """Writes the five files. `late` and `early` are context indices whose loss difference is the in-context score."""
    results = {path.stem: load_arm(path) for path in arms}
    found = Seeded()
    for name, arm in results.items():
        _measure(found, name, arm, warmup)
    for name in results:
        if name != BASE:
            for what in ("gain", "bump", "plateau", "prefix_best"):
                found.minus(f"{what}_{name}_minus_{BASE}", f"{what}_{name}", f"{what}_{BASE}")
    found.minus("gain_one_layer_minus_two_layers", "gain_one_layer", "gain_two_layers")
    _index_pairs(found, results, late, early)
    _timing(found)
    points = np.concatenate([arm.measured("token_loss").double().flatten(0, 1).numpy() for arm in results.values()])
    components, shares = principal_components(points)
    _turns(found, results, components, warmup)
    write_metrics(metrics, found.found)
    write_table(curves, [row for name, arm in results.items() for row in _curve_rows(name, arm)])
    write_table(indices, [row for name, arm in results.items() for row in _index_rows(name, arm)])
    write_table(heads, [row for name, arm in results.items() for row in _head_rows(name, arm)])
    write_table(paths, _path_rows(results, components, shares))


def _seedwise(arm: ArmResult, name: str) -> np.ndarray:
    """One curve per seed, [instance step], float64."""
    return arm.measured(name).double().numpy().T


def _best(arm: ArmResult, name: str) -> np.ndarray:
    """The best head's score, [instance step]."""
    return arm.measured(name).double().flatten(2).amax(-1).numpy().T


def _measure(found: Seeded, name: str, arm: ArmResult, warmup: int) -> None:
    steps = np.asarray(arm.measure_at, dtype=np.float64)
    gains, losses = _seedwise(arm, "gain"), _seedwise(arm, "loss")
    found.add(
        f"gain_{name}",
        gains[:, -1].tolist(),
        "nats",
        "ln(distinct tokens seen) - loss, mean over the repeated tokens of one-shot sequences, end of training",
    )
    found.add(f"loss_{name}", losses[:, -1].tolist(), "nats", "loss on held-out periodic sequences, end of training")
    text = "largest height of the held-out loss curve above its lower convex hull"
    found.add(f"bump_{name}", [bump(steps, one) for one in losses], "nats", text)
    changes = [transition(steps, one) for one in gains]
    text = (
        "(step where the gain reaches 10 % - warm-up) / (step of 90 % - step of 10 %); 0 if the gain ends below 1 nat"
    )
    found.add(f"plateau_{name}", [plateau_ratio(change, warmup) for change in changes], "1", text)
    for score in ("prefix", "previous", "duplicate"):
        text = f"{score} score of the best head on one-shot sequences, end of training"
        found.add(f"{score}_best_{name}", _best(arm, score)[:, -1].tolist(), "share", text)
        text = f"{score} score of the best head before any change (second snapshot)"
        before = arm.measure_at.index(arm.snapshots_at[1])
        found.add(f"{score}_best_before_{name}", _best(arm, score)[:, before].tolist(), "share", text)
    for moment in ("begins", "middle", "ends"):
        text = f"step at which the gain {moment} its change (10, 50, 90 %); the last step if it never changes"
        times = [float(steps[-1]) if change is None else getattr(change, moment) for change in changes]
        found.add(f"{moment}_{name}", times, "steps", text)
    for score in ("prefix", "previous"):
        found.minus(f"{score}_best_{name}_minus_before", f"{score}_best_{name}", f"{score}_best_before_{name}")


def _index_pairs(found: Seeded, results: dict[str, ArmResult], late: list[int], early: list[int]) -> None:
    """In-context score of every pair of indices, and of the pair where an arm does worst."""
    for name, arm in results.items():
        final = arm.measured("index_loss")[-1].double().numpy()
        pairs = {(i, j): final[:, i] - final[:, j] for i in late for j in early}
        for (i, j), values in pairs.items():
            found.add(
                f"icl_{i}_{j}_{name}", values.tolist(), "nats", f"loss at context index {i} minus index {j}, periodic"
            )
    if {"two_layers", BASE} <= set(results):
        text = "in-context score of 2 layers minus 1 layer; the pair of indices where it is weakest"
        gaps = [_of(found, f"icl_{i}_{j}_two_layers") - _of(found, f"icl_{i}_{j}_{BASE}") for i in late for j in early]
        found.add("icl_gap_weakest_pair", np.max(gaps, axis=0).tolist(), "nats", text)
        shuffled = [gap - np.roll(gap, 1) for gap in gaps]
        found.add(
            "icl_gap_seed_to_seed", np.max(shuffled, axis=0).tolist(), "nats", "as above, between neighbouring seeds"
        )
        found.minus("icl_gap_minus_seed_to_seed", "icl_gap_weakest_pair", "icl_gap_seed_to_seed")


def _timing(found: Seeded) -> None:
    """How much earlier two layers change with smeared keys, and when heads change relative to the gain."""
    if not {"middle_two_layers_smeared", "middle_two_layers"} <= set(found.found):
        return
    ours, theirs = _of(found, "middle_two_layers_smeared"), _of(found, "middle_two_layers")
    others = (theirs.sum() - theirs) / (len(theirs) - 1)
    text = "step of 50 % of the gain, over the mean of that step for 2 layers with plain keys and the other seeds"
    found.add("smeared_over_plain", (ours / others).tolist(), "1", f"2 layers with smeared keys: {text}")
    found.add("plain_over_plain", (theirs / others).tolist(), "1", f"2 layers with plain keys: {text}")
    found.minus("smeared_over_plain_minus_plain", "smeared_over_plain", "plain_over_plain")


def _turns(found: Seeded, results: dict[str, ArmResult], components: np.ndarray, warmup: int) -> None:
    """How far each path turns off. An arm that never changes is asked at the times of two layers, same seed."""

    def changes(arm: ArmResult) -> list[Transition | None]:
        return [transition(np.asarray(arm.measure_at, dtype=np.float64), one) for one in _seedwise(arm, "gain")]

    borrowed = changes(results["two_layers"]) if "two_layers" in results else []
    for name, arm in results.items():
        steps = np.asarray(arm.measure_at, dtype=np.float64)
        own = [change or other for change, other in zip(changes(arm), borrowed, strict=False)]
        count = len(steps) * len(arm.seeds)
        here, components = components[:count], components[count:]
        paths = rearrange(here, "(step seed) component -> seed step component", step=len(steps))
        ways = [0.0 if at is None else turn_off(steps, path, at, warmup) for at, path in zip(own, paths, strict=False)]
        found.add(f"turn_off_{name}", ways, "1", "way at right angles to the path before the change, over its length")
        if name != BASE and f"turn_off_{BASE}" in found.found:
            found.minus(f"turn_off_{name}_minus_{BASE}", f"turn_off_{name}", f"turn_off_{BASE}")


def _of(found: Seeded, name: str) -> np.ndarray:
    """The values of a metric, one per seed."""
    return np.asarray(found.found[name].per_seed, dtype=np.float64)


def _curve_rows(name: str, arm: ArmResult) -> list[dict[str, object]]:
    per_step = arm.trained.losses.double().numpy()
    rows: list[dict[str, object]] = []
    for k, seed in enumerate(arm.seeds):
        curves = {score: _best(arm, score)[k] for score in ("prefix", "previous", "duplicate")}
        curves |= {what: _seedwise(arm, what)[k] for what in ("loss", "gain", "repeat_loss")}
        for i, step in enumerate(arm.measure_at):
            recent = per_step[max(0, step - 5) : step + 5, k]
            rows.append(
                {"arm": name, "seed": seed, "step": step, "training_loss": recent.mean()}
                | {what: values[i] for what, values in curves.items()}
            )
    return rows


def _index_rows(name: str, arm: ArmResult) -> list[dict[str, object]]:
    mean = arm.measured("index_loss").double().mean(1).numpy()
    return [
        {"arm": name, "step": step, "index": index, "loss": mean[i, index]}
        for i, step in enumerate(arm.measure_at)
        for index in range(mean.shape[1])
    ]


def _head_rows(name: str, arm: ArmResult) -> list[dict[str, object]]:
    scores = {what: arm.measured(what).double().numpy() for what in HEAD_SCORES}
    return [
        {"arm": name, "seed": seed, "step": step, "layer": layer, "head": head}
        | {what: values[i, k, layer, head] for what, values in scores.items()}
        for k, seed in enumerate(arm.seeds)
        for i, step in enumerate(arm.measure_at)
        for layer in range(arm.shape.n_layers)
        for head in range(arm.shape.n_heads)
    ]


def _path_rows(results: dict[str, ArmResult], components: np.ndarray, shares: np.ndarray) -> list[dict[str, object]]:
    """Every model at every measurement on the first two principal components of all of them."""
    labels = [
        {"arm": name, "step": step, "seed": seed, "gain": float(arm.measured("gain")[i, k])}
        for name, arm in results.items()
        for i, step in enumerate(arm.measure_at)
        for k, seed in enumerate(arm.seeds)
    ]
    return [
        {**label, "first": first, "second": second, "first_share": shares[0], "second_share": shares[1]}
        for label, (first, second) in zip(labels, components, strict=True)
    ]


if __name__ == "__main__":
    run(measure_phase_change)
