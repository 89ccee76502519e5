"""Step: the phase change of every arm: in-context gain, its abruptness, the loss bump, and the heads that appear.

Olsson et al. 2022, arguments 1 and 2. Metrics are per arm, over seeds, against one layer with plain keys and against
the same models before any change. `curves` has one row per arm, seed and measurement, `heads` the scores of every head
along training. `paths` has the way of every model through per-token losses.
"""

from pathlib import Path
from typing import NamedTuple

import numpy as np
from einops import rearrange
from jaxtyping import Float

from common.core.metrics import Metric, write_metrics
from common.core.statistics import over_seeds
from common.core.step import Files, run_step
from common.core.tables import write_table
from replications.induction_heads.arm import ArmResult, load_arm
from replications.induction_heads.curves import (
    Transition,
    bump,
    plateau_ratio,
    principal_components,
    transition,
    turn_off,
)
from replications.induction_heads.settings import MeasurePhaseChange

Seeds = Float[np.ndarray, " seed"]
HEAD_SCORES = ("prefix", "previous", "duplicate", "copying")
BEST_OF = ("prefix", "previous", "duplicate")
BASE, PLAIN, SMEARED = "one_layer", "two_layers", "two_layers_smeared"  # BASE cannot form induction heads
TWO_BACK = "two_layers_two_back"
AGAINST_BASE = ("gain", "bump", "plateau", "prefix_best", "turn_off")
BEFORE = "_before_change"


class Quantity(NamedTuple):
    """Unit and formula of a metric."""

    unit: str
    formula: str


QUANTITIES = {
    "gain": Quantity(
        "nats",
        "ln(distinct tokens seen) - loss, mean over the repeated tokens of one-shot sequences, end of training",
    ),
    "loss": Quantity("nats", "loss on the held-out sequences, end of training"),
    "bump": Quantity("nats", "largest height of the held-out loss curve above its lower convex hull"),
    "plateau": Quantity(
        "1",
        "(step where the gain reaches 10 % - warm-up) / (step of 90 % - step of 10 %); 0 if the gain ends below 1 nat",
    ),
    **{
        f"{score}_best": Quantity("share", f"{score} score of the best head on one-shot sequences") for score in BEST_OF
    },
    **{
        moment: Quantity("steps", f"step at which the gain {moment} its change; the last step if it never changes")
        for moment in Transition._fields
    },
    "turn_off": Quantity("1", "way at right angles to the path before the change, over its length"),
}


class MeasurePhaseChangeFiles(Files):
    arms: list[Path]
    metrics: Path
    curves: Path
    heads: Path
    paths: Path


def measure_phase_change(files: MeasurePhaseChangeFiles, settings: MeasurePhaseChange) -> None:
    """Writes the metrics and the tables of the figures."""
    arms = {path.stem: load_arm(path) for path in files.arms}
    points = np.concatenate([arm.measured("token_loss").double().flatten(0, 1).numpy() for arm in arms.values()])
    components, shares = principal_components(points)
    values = {name: _read(arm, settings.warmup) for name, arm in arms.items()}
    for name, ways in _turns(arms, components, settings.warmup).items():
        values[name]["turn_off"] = ways
    found = _times(values)
    for name, of_arm in values.items():
        for what, quantity in QUANTITIES.items():
            controls = {}
            if what in AGAINST_BASE and name != BASE:
                controls[BASE] = values[BASE][what]
            if what + BEFORE in of_arm:
                controls["before_change"] = of_arm[what + BEFORE]
            found[f"{what}_{name}"] = _compared(of_arm[what], quantity, controls)
    write_metrics(files.metrics, found)
    write_table(files.curves, [row for name, arm in arms.items() for row in _curve_rows(name, arm)])
    write_table(files.heads, [row for name, arm in arms.items() for row in _head_rows(name, arm)])
    write_table(files.paths, _path_rows(arms, components, shares))


def _compared(values: Seeds, quantity: Quantity, controls: dict[str, Seeds]) -> Metric:
    """Mean over seeds; controls with more seeds are cut to those of the effect."""
    listed = {name: others[: len(values)].tolist() for name, others in controls.items()}
    return over_seeds(values.tolist(), unit=quantity.unit, formula=quantity.formula, controls=listed)


def _seedwise(arm: ArmResult, name: str) -> Float[np.ndarray, "seed step"]:
    return arm.measured(name).double().numpy().T


def _best(arm: ArmResult, name: str) -> Float[np.ndarray, "seed step"]:
    """The best head's score."""
    return arm.measured(name).double().flatten(2).amax(-1).numpy().T


def _steps(arm: ArmResult) -> Float[np.ndarray, " step"]:
    return np.asarray(arm.measure_at, dtype=np.float64)


def _changes(arm: ArmResult) -> list[Transition | None]:
    """When the gain of each seed changes."""
    return [transition(_steps(arm), gain) for gain in _seedwise(arm, "gain")]


def _read(arm: ArmResult, warmup: int) -> dict[str, Seeds]:
    """What is read off the curves of one arm, one value per seed."""
    steps, changes, losses = _steps(arm), _changes(arm), _seedwise(arm, "loss")
    before = arm.measure_at.index(arm.snapshots_at[1])
    found = {"gain": _seedwise(arm, "gain")[:, -1], "loss": losses[:, -1]}
    found["bump"] = np.array([bump(steps, one) for one in losses])
    found["plateau"] = np.array([plateau_ratio(change, warmup) for change in changes])
    for score in BEST_OF:
        found[f"{score}_best"], found[f"{score}_best{BEFORE}"] = _best(arm, score)[:, [-1, before]].T
    for k, moment in enumerate(Transition._fields):
        found[moment] = np.array([steps[-1] if change is None else change[k] for change in changes])
    return found


def _times(values: dict[str, dict[str, Seeds]]) -> dict[str, Metric]:
    """How much earlier two layers change with smeared keys than with plain keys in the other seeds.

    Controls: plain keys; where `two_back` asks for it, also keys mixed with the token two back, which have as many
    parameters and another shift.
    """
    if SMEARED not in values:
        return {}
    plain = values[PLAIN]["middle"]
    others = (plain.sum() - plain) / (len(plain) - 1)
    controls = {"plain_keys": plain / others}
    if TWO_BACK in values:
        controls["smeared_two_back"] = values[TWO_BACK]["middle"] / others
    text = "step of 50 % of the gain with smeared keys, over the mean of that step for plain keys and the other seeds"
    return {"smeared_over_plain": _compared(values[SMEARED]["middle"] / others, Quantity("1", text), controls)}


def _turns(arms: dict[str, ArmResult], components: np.ndarray, warmup: int) -> dict[str, Seeds]:
    """How far each path turns off. An arm that never changes is asked at the times of two layers, same seed."""
    borrowed, found = _changes(arms[PLAIN]), {}
    for name, arm in arms.items():
        steps = _steps(arm)
        count = len(steps) * len(arm.seeds)
        here, components = components[:count], components[count:]
        paths = rearrange(here, "(step seed) component -> seed step component", step=len(steps))
        times = [own or other for own, other in zip(_changes(arm), borrowed, strict=False)]
        ways = [
            0.0 if at is None else turn_off(steps, path, at, warmup) for at, path in zip(times, paths, strict=False)
        ]
        found[name] = np.array(ways)
    return found


def _curve_rows(name: str, arm: ArmResult) -> list[dict[str, object]]:
    per_step = arm.trained.losses.double().numpy()
    rows: list[dict[str, object]] = []
    for k, seed in enumerate(arm.seeds):
        curves = {score: _best(arm, score)[k] for score in BEST_OF}
        curves |= {what: _seedwise(arm, what)[k] for what in ("loss", "gain", "repeat_loss")}
        for i, step in enumerate(arm.measure_at):
            recent = per_step[max(0, step - 5) : step + 5, k]
            rows.append(
                {"arm": name, "seed": seed, "step": step, "training_loss": recent.mean()}
                | {what: values[i] for what, values in curves.items()}
            )
    return rows


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


def _path_rows(arms: dict[str, ArmResult], components: np.ndarray, shares: np.ndarray) -> list[dict[str, object]]:
    """Every model at every measurement on the first two principal components of all of them."""
    labels = [
        {"arm": name, "step": step, "seed": seed, "gain": float(arm.measured("gain")[i, k])}
        for name, arm in arms.items()
        for i, step in enumerate(arm.measure_at)
        for k, seed in enumerate(arm.seeds)
    ]
    return [
        {**label, "first": first, "second": second, "first_share": shares[0], "second_share": shares[1]}
        for label, (first, second) in zip(labels, components, strict=True)
    ]


if __name__ == "__main__":
    run_step(measure_phase_change)
