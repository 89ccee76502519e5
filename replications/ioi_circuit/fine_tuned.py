"""Step: is the circuit still there one fine-tune away?

The models that `refusal_direction` fine-tunes to refuse (one per seed) were trained on nothing like IOI. Here the nodes
of the circuit that was found in the model *before* fine-tuning are tested in each of them, on verification prompts:

    circuit         F(C) / F(M) with the old nodes, new template means, against random nodes of the same layers
    classes         F(M minus K) / F(M) for each class K of the old circuit
    effects         path patching (`path_patch_w22`) of the old nodes into the old receivers; into the logits, of every
                    head, so that the strongest ones are searched anew in each model

All of it is repeated for the model before fine-tuning, from the same prompts and with template means over as few ABC
prompts, so that only the weights differ.
"""

from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float, Int

from common.core.metrics import Metric, write_metrics
from common.core.statistics import without_interval
from common.core.step import Files, RunInfo, run_step
from common.core.tables import write_table
from common.data.models import load_model
from common.interp.decoder import Decoder
from replications.ioi_circuit.batches import VERIFICATION, balanced
from replications.ioi_circuit.classes import HeadClasses
from replications.ioi_circuit.completeness import EVERYTHING, Runs, classes_of
from replications.ioi_circuit.dataset import Prompt, read_file
from replications.ioi_circuit.knockout import KnockOut, template_means
from replications.ioi_circuit.nodes import PLACE_OF_RECEIVER, node_set, others_of_layers, random_like
from replications.ioi_circuit.prompt_statistics import Draws, PerPrompt, clustered
from replications.ioi_circuit.settings import FineTuned
from replications.ioi_circuit.sweeps import NOBODY, Effects, add_sweep, passes_by_template, receivers_of

BEFORE = "before"
"""The model before fine-tuning, in all tables."""
Joined = Float[np.ndarray, " joined"]
"""The prompts of the first model, then those of the second, and so on."""


class OfModel(NamedTuple):
    """What is measured on one model."""

    runs: Runs
    """F of the model, of the circuit, and of the model without each class ("without <class>")"""
    few: Runs
    """F of the model and of the circuit on the prompts of the random node sets"""
    random: Draws
    """F of each random node set"""
    percent: Float[np.ndarray, "layer head prompt"]
    """effect of each head on the logits, in percent of the model's mean F"""
    nodes: Float[np.ndarray, " node"]
    """effect of each node of the circuit on its receivers, in percent"""


class FineTunedFiles(Files):
    manifest: Path
    """of the model before fine-tuning"""
    prompts: Path
    circuit: Path
    searched: Path
    """`heads.csv` of path patching, for the classes that make the receivers"""
    tuned: list[Path]
    """manifest of each fine-tuned model"""
    metrics: Path
    shares: Path
    """what is left of F in each model, by what was done"""
    heads: Path
    """effect on the logits in percent, for each head and model"""
    nodes: Path
    """nodes of the circuit with class, and effect in percent in each model"""


def fine_tuned(files: FineTunedFiles, settings: FineTuned, run: RunInfo) -> None:
    """Writes `metrics.json` and three tables."""
    content, table, classes = read_file(files.prompts), pd.read_csv(files.circuit), read_classes(files.searched)
    counts = (settings.verify_prompts, settings.random_prompts, settings.sweep_prompts)
    every, few, swept = (balanced(content.circuit_prompts, VERIFICATION, count) for count in counts)
    partners = [row for row in content.prompts if row.half == VERIFICATION]
    length = max(row.positions.end for row in partners) + 1

    @torch.no_grad()
    def measured(path: Path) -> OfModel:
        decoder = Decoder(load_model(path.parent, device=run.device), length)
        means = template_means(decoder, partners, settings.means_prompts)
        on_every, on_few = (KnockOut(decoder, part, means, run.device, settings.batch_size) for part in (every, few))
        return measure_model(on_every, on_few, swept, table, classes, settings.random_sets)

    models = {BEFORE: measured(files.manifest)} | {path.parent.name: measured(path) for path in files.tuned}
    old, *new = models.values()
    at_end = table[table["receiver"] == "logits"]
    writers = (at_end["layer"].to_numpy(), at_end["head"].to_numpy())
    metrics = measure_circuit(old, new, every, few) | measure_effects(old, new, writers, swept, settings)
    write_metrics(files.metrics, metrics)
    write_table(files.shares, share_rows(models))
    effects = {name: one.percent.mean(2) for name, one in models.items()}
    rows = [
        {"layer": layer, "head": head, **{name: values[layer, head] for name, values in effects.items()}}
        for layer, head in np.ndindex(old.percent.shape[:2])
    ]
    write_table(files.heads, rows)
    kept = table[["layer", "head", "place", "receiver", "class"]]
    write_table(files.nodes, kept.assign(**{name: one.nodes for name, one in models.items()}))


def read_classes(heads: Path) -> HeadClasses:
    """For each receiver set, the class of every head that has one, from `heads.csv` of path patching."""
    table = pd.read_csv(heads).fillna("")
    return {name: {row: kind for row, kind in enumerate(table[f"{name}_class"]) if kind} for name in PLACE_OF_RECEIVER}


def measure_model(
    every: KnockOut, few: KnockOut, swept: list[Prompt], table: pd.DataFrame, classes: HeadClasses, random_sets: int
) -> OfModel:
    """All runs of one model."""
    nodes, decoder = node_set(table), every.decoder
    parts = {"model": EVERYTHING, **{f"without {name}": part for name, part in classes_of(table).items()}}
    runs = dict(zip(parts, every.differences(list(parts.values()), remove=True), strict=True))
    runs["circuit"] = every.differences([nodes])[0]
    random = few.differences(random_like(nodes, decoder.n_heads, random_sets, seed=0))
    on_few = {"model": few.differences([EVERYTHING], remove=True)[0], "circuit": few.differences([nodes])[0]}
    effects, shared, percent = Effects(), passes_by_template(decoder, swept), {}
    for name in dict.fromkeys(["logits", *table["receiver"]]):
        part = table[table["receiver"] == name]
        senders = None if name == "logits" else set(zip(part["layer"], part["head"], strict=True))
        if (receivers := receivers_of(name, classes, decoder)) == NOBODY:
            continue
        add_sweep(decoder, effects, name, shared, receivers, senders)
        percent[name] = effects.percent(name)
    heads = table["layer"] * decoder.n_heads + table["head"]
    of_nodes = np.array([
        percent[name][head].mean() if name in percent else 0.0
        for name, head in zip(table["receiver"], heads, strict=True)
    ])  # fmt: skip
    of_heads = percent["logits"].reshape(decoder.n_layers, decoder.n_heads, -1)
    return OfModel(runs, on_few, random, of_heads, of_nodes)


def over_models(
    values: list[PerPrompt],
    below: list[PerPrompt],
    prompts: list[Prompt],
    formula: str,
    controls: dict[str, tuple[Joined, Joined]] | None = None,
    draws: dict[str, Float[np.ndarray, "draw joined"]] | None = None,
) -> Metric:
    """Ratio of means over models and prompts; `per_seed` has one value per model. Controls are joined."""
    return clustered(
        np.concatenate(values),
        prompts * len(values),
        unit="1",
        formula=formula,
        denominators=np.concatenate(below),
        groups=np.repeat(np.arange(len(values)), len(prompts)),
        controls=controls,
        draws=draws,
    )


def measure_circuit(old: OfModel, new: list[OfModel], prompts: list[Prompt], few: list[Prompt]) -> dict[str, Metric]:
    """What the old circuit keeps in the fine-tuned models, against the model before and against random nodes."""
    models, few_models = [one.runs["model"] for one in new], [one.few["model"] for one in new]
    text = "F(C) / F(M), C the circuit found before fine-tuning"
    before = (np.tile(old.runs["circuit"], len(new)), np.tile(old.runs["model"], len(new)))
    return {
        "logit_difference_kept": over_models(
            models, [old.runs["model"]] * len(new), prompts, "F(M) after fine-tuning / F(M) before"
        ),
        "circuit_faithfulness": over_models(
            [one.runs["circuit"] for one in new], models, prompts, text, {"before_tuning": before}
        ),
        "circuit_against_random_heads": over_models(
            [one.few["circuit"] for one in new],
            few_models,
            few,
            f"{text}; random: node sets with the circuit's layers and positions",
            draws={"random_heads": np.concatenate([one.random for one in new], 1)},
        ),
    }


def measure_effects(
    old: OfModel,
    new: list[OfModel],
    writers: tuple[Int[np.ndarray, " writer"], Int[np.ndarray, " writer"]],
    prompts: list[Prompt],
    settings: FineTuned,
) -> dict[str, Metric]:
    """Whether the heads that wrote the answer (layers and heads `writers`) still do: effects with their old signs,
    against as many other heads of the same layers; and how many of the `top` strongest heads are the same."""
    generator = np.random.default_rng(0)
    signs = np.sign(old.percent[writers].mean(1))
    n_heads = old.percent.shape[1]
    numbers = [int(number) for number in np.ravel_multi_index(writers, old.percent.shape[:2])]
    drawn = [
        np.ravel([others_of_layers([one], n_heads, set(numbers), generator) for one in numbers]) % n_heads
        for _ in range(settings.draws)
    ]
    random = np.array([[signs @ one.percent[writers[0], heads] for heads in drawn] for one in new])
    strongest = [set(np.abs(one.percent.mean(2)).argsort(None)[-settings.top :].tolist()) for one in (old, *new)]
    shared = float(np.mean([len(strongest[0] & one) / settings.top for one in strongest[1:]]))
    return {
        "effects_kept": over_models(
            [signs @ one.percent[writers] for one in new],
            [signs @ old.percent[writers]] * len(new),
            prompts,
            "summed effects on the logits of the circuit's heads at END, signs as before / the same sum before",
            draws={"other_heads": np.concatenate(list(random), 1)},
        ),
        "same_top_heads": without_interval(
            shared, settings.top, "share", f"of the {settings.top} heads with the largest effects, those of before"
        ),
    }


def share_rows(models: dict[str, OfModel]) -> list[dict[str, object]]:
    """What is left of F in each model: with the circuit alone, with random heads alone, without each class."""
    rows: list[dict[str, object]] = []
    for name, one in models.items():
        whole = one.runs["model"].mean()
        left = {"circuit alone": one.runs["circuit"].mean() / whole}
        left["random heads alone"] = one.random.mean() / one.few["model"].mean()
        left |= {key: values.mean() / whole for key, values in one.runs.items() if key.startswith("without ")}
        rows += [{"model": name, "what": what, "share": value} for what, value in left.items()]
    return rows


if __name__ == "__main__":
    run_step(fine_tuned)
