"""Step: reads delays off the accuracy curves, and frequencies and phases off the weights.

Delay: the step from which test accuracy is at least `learned`, over the step from which training accuracy is. A set
that is never learned counts with the last step, so that its delay is a lower bound. Controls: a large training share,
random answers, and, for the phases, output weights permuted among the neurons of one network.
"""

from pathlib import Path

import pandas as pd
import torch
from jaxtyping import Bool, Float, Int
from safetensors.torch import load_file
from torch import Tensor

from common.core.errors import UserError
from common.core.metrics import Metric, write_metrics
from common.core.statistics import over_seeds
from common.core.step import Files, run_step
from common.core.tables import write_table
from replications.grokking.fourier import Spectrum, live_neurons, phase_error, spectrum
from replications.grokking.settings import Measure

ARMS = ("decay", "free")


def first_learned(
    accuracy: Float[Tensor, "point instance"], steps: Int[Tensor, " point"], learned: float
) -> Float[Tensor, " instance"]:
    """First measured step at which the accuracy is at least `learned`; the last step where it never is."""
    reached = accuracy >= learned
    reached[-1] = True
    return steps[reached.int().argmax(0)].float()


def delays(
    train: Float[Tensor, "point instance"], test: Float[Tensor, "point instance"], steps: Int[Tensor, " point"],
    learned: float,
) -> Float[Tensor, " instance"]:  # fmt: skip
    """First step at which the held-out pairs are answered over that for the trained ones; 0 where they never are."""
    ratio = first_learned(test, steps, learned) / first_learned(train, steps, learned).clamp(min=1)
    return torch.where((test >= learned).any(0), ratio, 0.0)


class MeasureFiles(Files):
    models: Path
    delay: Path
    """metrics of the part `delay`"""
    features: Path
    """metrics of the part `features`"""
    curves: Path
    neurons: Path


def measure(files: MeasureFiles, settings: Measure) -> None:
    """Writes the metrics of the parts `delay` and `features`, and the tables that the figures draw."""
    judging, side, learned = settings.judging, settings.training.side_fraction, settings.judging.learned
    read = load_file(files.models)

    def chosen(arm: str, fraction: float, random: bool = False) -> Int[Tensor, " seed"]:
        near = (read[f"{arm}.fraction"] - fraction).abs() < 1e-6
        found: Tensor = (near & (read[f"{arm}.random"] == random)).nonzero()[:, 0]
        if len(found) == 0:
            raise UserError(f"no network was trained on a share of {fraction}; add it to `fractions` in config.yaml")
        return found

    ratios = {}
    for arm in ARMS:
        steps, train, test = (read[f"{arm}.{key}"] for key in ("steps", "train", "test"))
        ratios[arm] = delays(train, test, steps, learned)
    late, prompt = (
        ratios["decay"][chosen("decay", share)] for share in (judging.late_fraction, judging.prompt_fraction)
    )
    final = {arm: read[f"{arm}.test"][-1] for arm in ARMS}
    with_decay, without = final["decay"][chosen("decay", side)], final["free"][chosen("free", side)]
    random = final["decay"][chosen("decay", side, random=True)]
    memorised = read["decay.train"][-1][chosen("decay", side, random=True)]
    ratio = f"first step with test accuracy >= {learned} / first step with training accuracy >= {learned}"
    accuracy = "share of held-out pairs answered rightly after the last step"
    write_metrics(
        files.delay,
        {
            "delay": _seeds(late, ratio, large_share=prompt),
            "test_accuracy": _seeds(with_decay, accuracy, "share"),
            "test_accuracy_random": _seeds(random, accuracy, "share", true_answers=with_decay),
            "test_accuracy_no_decay": _seeds(without, accuracy, "share", random_answers=random),
            "train_accuracy_random": _seeds(memorised, "the same on the trained pairs", "share"),
        },
    )
    true, true_live = _spectrum(read, chosen("decay", judging.weights_fraction), judging.live)
    noise, noise_live = _spectrum(read, chosen("decay", side, random=True), judging.live)
    shares = [_share(found.purity >= judging.pure, alive) for found, alive in ((true, true_live), (noise, noise_live))]
    errors = [_median(phase_error(phases), true_live) for phases in (true.phases, _permuted(true.phases))]
    purity = f"share of live neurons with >= {judging.pure} of the power in one frequency"
    write_metrics(
        files.features,
        {
            "live_neurons": _seeds(true_live.double().mean(1), "share of neurons that are live", "share"),
            "pure_neurons": _seeds(shares[0], purity, "share", random_answers=shares[1]),
            "phase_error": _seeds(errors[0], "median |w - u - v| of live neurons", "rad", permuted=errors[1]),
        },
    )
    write_table(files.curves, pd.concat([_curves(read, arm) for arm in ARMS]))
    seeds = read["decay.seed"][chosen("decay", judging.weights_fraction)]
    tables = [_neurons(true, true_live, seeds, "true answers"), _neurons(noise, noise_live, seeds, "random answers")]
    write_table(files.neurons, pd.concat(tables))


def _seeds(values: Float[Tensor, " seed"], formula: str, unit: str = "1", **controls: Float[Tensor, " seed"]) -> Metric:
    """Mean over seeds beside its controls, which share the seeds."""
    listed = {name: control.tolist() for name, control in controls.items()}
    return over_seeds(values.tolist(), unit=unit, formula=formula, controls=listed)


def _spectrum(
    read: dict[str, Tensor], rows: Int[Tensor, " seed"], share: float
) -> tuple[Spectrum, Bool[Tensor, "seed neuron"]]:
    U, V, W = (read[f"decay.{name}"][rows] for name in "UVW")
    return spectrum(U, V, W), live_neurons(U, V, W, share)


def _share(which: Bool[Tensor, "seed neuron"], alive: Bool[Tensor, "seed neuron"]) -> Float[Tensor, " seed"]:
    return (which & alive).double().sum(1) / alive.sum(1)


def _median(values: Float[Tensor, "seed neuron"], alive: Bool[Tensor, "seed neuron"]) -> Float[Tensor, " seed"]:
    return torch.stack([row[kept].median() for row, kept in zip(values, alive, strict=True)])


def _permuted(phases: Float[Tensor, "vector seed neuron"]) -> Float[Tensor, "vector seed neuron"]:
    """Output phases handed to other neurons of the same network."""
    order = torch.randperm(phases.shape[2], generator=torch.Generator().manual_seed(0))
    return torch.stack([phases[0], phases[1], phases[2][:, order]])


def _curves(read: dict[str, Tensor], arm: str) -> pd.DataFrame:
    labels = {key: read[f"{arm}.{key}"].tolist() for key in ("fraction", "random", "seed")}
    steps = read[f"{arm}.steps"].tolist()
    parts = []
    for instance, (fraction, random, seed) in enumerate(zip(*labels.values(), strict=True)):
        condition = "random answers" if random else "no weight decay" if arm == "free" else "weight decay"
        frame = pd.DataFrame({"step": steps, **{key: read[f"{arm}.{key}"][:, instance] for key in ("train", "test")}})
        parts.append(frame.assign(condition=condition, fraction=round(fraction, 6), seed=seed))
    return pd.concat(parts)


def _neurons(
    found: Spectrum, alive: Bool[Tensor, "seed neuron"], seeds: Int[Tensor, " seed"], labels: str
) -> pd.DataFrame:
    parts = [
        pd.DataFrame(
            {
                "labels": labels,
                "seed": int(seed),
                "frequency": found.frequency[row],
                "purity": found.purity[row],
                "input_phase": torch.remainder(found.phases[0, row] + found.phases[1, row], 2 * torch.pi),
                "output_phase": torch.remainder(found.phases[2, row], 2 * torch.pi),
            }
        )[alive[row].numpy()]
        for row, seed in enumerate(seeds)
    ]
    return pd.concat(parts)


if __name__ == "__main__":
    run_step(measure)
