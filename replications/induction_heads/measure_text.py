"""Step: the phase change of models of natural text: in-context score, loss bump, and the heads that appear.

Olsson et al. 2022, arguments 1 and 2. *Context gain* is the in-context score with the sign turned: nats by which
far context lowers the loss of the same targets. Metrics are per arm, over seeds, against one layer with plain
keys at equal tokens and against the same models before the change. One layer with smeared keys faces one whose keys
are mixed with the token two back, too, where `two_back` asks for it.
"""

from pathlib import Path

import numpy as np
from jaxtyping import Float

from common.core.metrics import Metric, write_metrics
from common.core.statistics import over_seeds
from common.core.step import Files, run_step
from common.core.tables import write_table
from replications.induction_heads.arm import ArmResult, load_arm
from replications.induction_heads.curves import LAST, bump, convex_hull, first_crossing, principal_components
from replications.induction_heads.settings import MeasureText
from replications.induction_heads.text_roles import LEAST_SCORE

Seeds = Float[np.ndarray, " seed"]
Curves = Float[np.ndarray, "seed step"]
BASE, PLAIN, SMEARED = "one_layer", "two_layers", "two_layers_smeared"
TWO_BACK = {"one_layer_smeared": "one_layer_two_back"}
LEAST_GAIN = 0.02  # nats: what ends below it, or below the least score, has no time at which it is half way up
NEVER = 1.0  # what counts as the distance of two times of which one never comes
WINDOW = 0.25  # of training, as long as the window of the paper's figures
HEAD_SCORES = ("prefix", "previous", "copying")


class MeasureTextFiles(Files):
    arms: list[Path]
    metrics: Path
    curves: Path
    """one row per arm, seed and measurement"""
    indices: Path
    """loss by context index, mean over seeds"""
    heads: Path
    """scores of every head"""
    paths: Path
    """per-token losses on two principal components"""


def measure_text(files: MeasureTextFiles, settings: MeasureText) -> None:
    """Writes the metrics and the tables of the figures."""
    arms = {path.stem: load_arm(path) for path in files.arms}
    found: dict[str, Metric] = {}
    for name in arms:
        found |= {f"{what}_{name}": metric for what, metric in _summary(name, arms, settings).items()}
    write_metrics(files.metrics, found | _earlier(arms))
    per_step = settings.batch * arms[BASE].text.length
    write_table(files.curves, [row for name, arm in arms.items() for row in _curve_rows(name, arm, per_step)])
    write_table(files.indices, [row for name, arm in arms.items() for row in _index_rows(name, arm, per_step)])
    write_table(files.heads, [row for name, arm in arms.items() for row in _head_rows(name, arm, per_step)])
    write_table(files.paths, _path_rows(arms))


def context_gain(arm: ArmResult) -> Curves:
    """Nats by which far context lowers the loss, over training."""
    return -arm.measured("score").double().numpy().T


def best(arm: ArmResult, score: str) -> Curves:
    """The best head's score, over training."""
    found: Curves = arm.measured(score).double().flatten(2).amax(-1).numpy().T
    return found


def _loss(arm: ArmResult) -> Curves:
    return arm.measured("loss").double().numpy().T


def _steps(arm: ArmResult) -> Float[np.ndarray, " step"]:
    return np.asarray(arm.measure_at, dtype=np.float64)


def _end(curves: Curves) -> Seeds:
    """Mean over the last measurements."""
    found: Seeds = curves[:, -LAST:].mean(1)
    return found


def half_times(steps: Float[np.ndarray, " step"], curves: Curves, least: float) -> Seeds:
    """Step at which each curve first passes half of its final value; the last step if that is below `least`.

    At least 1, so that logarithms exist.
    """
    ends = _end(curves)
    return np.array(
        [
            max(1.0, first_crossing(steps, one, end / 2)) if end >= least else steps[-1]
            for one, end in zip(curves, ends, strict=True)
        ]
    )


def loss_half_times(steps: Float[np.ndarray, " step"], losses: Curves, warmup: int) -> Seeds:
    """Step at which half of what the loss falls after the warm-up has been reached."""
    fallen = np.array([np.interp(warmup, steps, one) for one in losses])[:, None] - losses
    return half_times(steps, fallen, 0.0)


def share_in_window(steps: Float[np.ndarray, " step"], curve: Float[np.ndarray, " step"], share: float) -> float:
    """Largest rise within a window of that share of training, over the final value; at most 1."""
    final, width = float(curve[-LAST:].mean()), share * steps[-1]
    if final < LEAST_GAIN:
        return 0.0
    rises = np.interp(steps + width, steps, curve) - curve
    return min(1.0, float(rises[steps + width <= steps[-1] + 1e-9].max()) / final)


def apart(times: Seeds, others: Seeds, last: float) -> list[float]:
    """|ln(time / other time)|, seed by seed; `NEVER` where one of them is the last step, so that nothing changed."""
    found = np.where((times < last) & (others < last), np.abs(np.log(times / others)), NEVER)
    return [float(value) for value in found]


def apart_from_others(times: Seeds, others: Seeds, last: float) -> list[float]:
    """The same with the other times of the other seeds, mean over those that have changed.

    Where no pair of changed times exists it is `NEVER`. Seeds that have not changed would only push it away from 0, so
    they are left out.
    """
    rest = ~np.eye(len(times), dtype=bool) & (others < last)
    distances = np.array([apart(np.full_like(others, one), others, last) for one in times])
    return [float(one[kept].mean()) if kept.any() else NEVER for one, kept in zip(distances, rest, strict=True)]


def _compared(values: Seeds, unit: str, formula: str, controls: dict[str, Seeds] | None = None) -> Metric:
    listed = {name: others[: len(values)].tolist() for name, others in (controls or {}).items()}
    return over_seeds(values.tolist(), unit=unit, formula=formula, controls=listed)


def _summary(name: str, arms: dict[str, ArmResult], settings: MeasureText) -> dict[str, Metric]:
    """The metrics of one arm."""
    arm, base = arms[name], arms[BASE]
    steps, losses, gains = _steps(arm), _loss(arm), context_gain(arm)
    before = arm.measure_at.index(settings.before)
    prefix, previous = best(arm, "prefix"), best(arm, "previous")
    controls: dict[str, dict[str, Seeds]] = {
        "gain": {"before_change": gains[:, before]},
        "prefix_best": {"before_change": prefix[:, before]},
        "bump": {},
    }
    if name != BASE:
        controls["gain"][BASE] = _end(context_gain(base))
        controls["prefix_best"][BASE] = _end(best(base, "prefix"))
        controls["bump"][BASE] = np.array([bump(_steps(base), one) for one in _loss(base)])
    if (other := TWO_BACK.get(name, "")) in arms:
        controls["gain"]["smeared_two_back"] = _end(context_gain(arms[other]))
    at = half_times(steps, gains, LEAST_GAIN)
    heads_at = half_times(steps, prefix, LEAST_SCORE)
    return {
        "gain": _compared(
            _end(gains), "nats", "loss after a short context minus loss after a long one, same targets, at the end",
            controls["gain"],
        ),
        "prefix_best": _compared(
            _end(prefix), "share", "prefix matching of the best head on repeats of random tokens, at the end",
            controls["prefix_best"],
        ),
        "previous_best": _compared(
            _end(previous), "share", "previous-token score of the best head, end of training",
            {"before_training": previous[:, 0]},
        ),
        "loss": _compared(_end(losses), "nats", "loss on held-out text, end of training"),
        "bump": _compared(
            np.array([bump(steps, one) for one in losses]), "nats",
            "largest height of the held-out loss curve above its lower convex hull", controls["bump"],
        ),
        "bump_at": _compared(
            np.array([steps[(one - convex_hull(steps, one)).argmax()] for one in losses]), "steps",
            "step at which the loss curve is highest above its lower convex hull",
        ),
        "gain_at": _compared(at, "steps", "step at which half of the final context gain is reached"),
        "prefix_at": _compared(heads_at, "steps", "step at which half of the final best prefix score is reached"),
        "window": _compared(
            np.array([share_in_window(steps, one, WINDOW) for one in gains]), "share",
            "largest rise of the context gain within a quarter of training, over its final value",
        ),
        "apart": over_seeds(
            apart(heads_at, at, steps[-1]), unit="1",
            formula=f"|ln(step of half the best prefix score / step of half the context gain)|; {NEVER:g} if never",
            controls={
                "loss": apart(loss_half_times(steps, losses, settings.warmup), at, steps[-1]),
                "previous_token_heads": apart(half_times(steps, previous, LEAST_SCORE), at, steps[-1]),
                "other_seeds": apart_from_others(heads_at, at, steps[-1]),
            },
        ),
    }  # fmt: skip


def _earlier(arms: dict[str, ArmResult]) -> dict[str, Metric]:
    """How much earlier two layers change with smeared keys than with plain keys in the other seeds."""
    if not {PLAIN, SMEARED} <= set(arms):
        return {}
    smeared, plain = (half_times(_steps(arms[name]), context_gain(arms[name]), LEAST_GAIN) for name in (SMEARED, PLAIN))
    others = (plain.sum() - plain) / (len(plain) - 1)
    text = "step of half the context gain with smeared keys, over the mean for plain keys and the other seeds"
    controls = {"plain_keys": plain / others}
    return {"smeared_over_plain": _compared(smeared / others[: len(smeared)], "1", text, controls)}


def _curve_rows(name: str, arm: ArmResult, per_step: int) -> list[dict[str, object]]:
    curves = {"loss": _loss(arm), "score": -context_gain(arm), **{score: best(arm, score) for score in HEAD_SCORES}}
    return [
        {"arm": name, "seed": seed, "step": step, "tokens": step * per_step}
        | {what: values[k, i] for what, values in curves.items()}
        for k, seed in enumerate(arm.seeds)
        for i, step in enumerate(arm.measure_at)
    ]


def _index_rows(name: str, arm: ArmResult, per_step: int) -> list[dict[str, object]]:
    mean = arm.measured("index_loss").double().mean(1).numpy()
    return [
        {"arm": name, "step": step, "tokens": step * per_step, "index": index, "loss": mean[i, index]}
        for i, step in enumerate(arm.measure_at)
        for index in range(mean.shape[1])
    ]


def _head_rows(name: str, arm: ArmResult, per_step: int) -> list[dict[str, object]]:
    scores = {what: arm.measured(what).double().numpy() for what in HEAD_SCORES}
    return [
        {"arm": name, "seed": seed, "step": step, "tokens": step * per_step, "layer": layer, "head": head}
        | {what: values[i, k, layer, head] for what, values in scores.items()}
        for k, seed in enumerate(arm.seeds)
        for i, step in enumerate(arm.measure_at)
        for layer in range(arm.shape.n_layers)
        for head in range(arm.shape.n_heads)
    ]


def _path_rows(arms: dict[str, ArmResult]) -> list[dict[str, object]]:
    """Every model at every measurement but the untrained ones, which lie far from all others."""
    points, labels = [], []
    for name, arm in arms.items():
        losses = arm.measured("token_loss").double().numpy()
        for i, step in enumerate(arm.measure_at[1:], 1):
            for k, seed in enumerate(arm.seeds):
                points.append(losses[i, k])
                labels.append({"arm": name, "seed": seed, "step": step, "gain": float(context_gain(arm)[k, i])})
    components, shares = principal_components(np.stack(points))
    return [
        {**label, "first": first, "second": second, "first_share": shares[0], "second_share": shares[1]}
        for label, (first, second) in zip(labels, components, strict=True)
    ]


if __name__ == "__main__":
    run_step(measure_text)
