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
from typing import Literal, NamedTuple

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float

from common.core.metrics import Metric, write_metrics
from common.core.statistics import null_distribution, without_interval
from common.core.step import run
from common.core.tables import write_table
from common.data.models import load_model
from common.interp.decoder import Decoder
from replications.ioi_circuit.batches import VERIFICATION, balanced
from replications.ioi_circuit.classes import Named
from replications.ioi_circuit.clustering import clustered
from replications.ioi_circuit.completeness import EVERYTHING, classes_of
from replications.ioi_circuit.dataset import Prompt, read_file
from replications.ioi_circuit.knockout import KnockOut
from replications.ioi_circuit.labels import BEFORE, PLACE_OF_RECEIVER
from replications.ioi_circuit.means import template_means
from replications.ioi_circuit.nodes import node_set, others_of_layers, random_like
from replications.ioi_circuit.sweeps import NOBODY, Effects, add_sweep, read_runs, receivers_of


class Found(NamedTuple):
    """What is measured on one model."""

    runs: dict[str, Float[np.ndarray, " prompt"]]
    """F of the model, of the circuit, and of the model without each class ("without <class>")"""
    few: dict[str, Float[np.ndarray, " prompt"]]
    """F of the model, of the circuit, and the mean F of the random sets, on the prompts of these"""
    random: Float[np.ndarray, " draw"]
    """mean F of each random node set"""
    percent: Float[np.ndarray, "layer head prompt"]
    """effect of each head on the logits, in percent of the model's mean F"""
    nodes: Float[np.ndarray, " node"]
    """effect of each node of the circuit on its receivers, in percent"""


def fine_tuned(
    *,
    prompts: Path,
    manifest: Path,
    circuit: Path,
    searched: Path,
    tuned: list[Path],
    verify_prompts: int,
    random_prompts: int,
    sweep_prompts: int,
    random_sets: int,
    means_prompts: int,
    top: int,
    draws: int,
    batch_size: int,
    device: Literal["cpu", "cuda"],
    out: Path,
    shares: Path,
    heads: Path,
    nodes: Path,
) -> None:
    """Writes `metrics.json` and three tables.

    Args:
        prompts: `prompts.json`.
        manifest: `manifest.json` of the model before fine-tuning.
        circuit: `circuit.csv` of that model.
        searched: its `heads.csv` of path patching, for the classes that make the receivers.
        tuned: `manifest.json` of each fine-tuned model.
        verify_prompts: verification prompts of circuit and classes.
        random_prompts: those of the random node sets.
        sweep_prompts: those of path patching.
        random_sets: random node sets with the circuit's layers and positions.
        means_prompts: ABC prompts in the mean of a template.
        top: heads with the largest effects that are compared.
        draws: draws of other heads of the same layers.
        batch_size: token positions computed in one pass.
        device: where the models run.
        out: `metrics.json`.
        shares: `shares.csv`: model, what was done, what is left of F.
        heads: `heads.csv`: layer, head, effect on the logits in percent in each model.
        nodes: `nodes.csv`: nodes of the circuit with class and effect in percent in each model.
    """
    content, table, named = read_file(prompts), pd.read_csv(circuit), read_classes(searched)
    rows = [
        balanced(content.circuit_prompts, VERIFICATION, count)
        for count in (verify_prompts, random_prompts, sweep_prompts)
    ]
    partners = [row for row in content.prompts if row.half == VERIFICATION]
    length = max(row.positions.end for row in partners) + 1

    @torch.no_grad()
    def measured(path: Path) -> Found:
        decoder = Decoder(load_model(path.parent, device=device), length)
        means = template_means(decoder, partners, means_prompts)
        every, some = (KnockOut(decoder, part, means, device, batch_size) for part in rows[:2])
        return measure_model(every, some, rows[2], table, named, random_sets)

    found = {BEFORE: measured(manifest)} | {path.parent.name: measured(path) for path in tuned}
    old, *new = found.values()
    at_end = table[table["receiver"] == "logits"]
    metrics = measure_circuit(old, new, rows[0], rows[1])
    write_metrics(out, metrics | measure_effects(old, new, at_end["layer"], at_end["head"], rows[2], top, draws))
    write_table(shares, share_rows(found))
    effects = {name: one.percent.mean(2) for name, one in found.items()}
    write_table(heads, [
        {"layer": layer, "head": head, **{name: values[layer, head] for name, values in effects.items()}}
        for layer, head in np.ndindex(old.percent.shape[:2])
    ])  # fmt: skip
    kept = table[["layer", "head", "place", "receiver", "class"]]
    write_table(nodes, kept.assign(**{name: one.nodes for name, one in found.items()}))


def read_classes(heads: Path) -> Named:
    """For each receiver set, the class of every head that has one, from `heads.csv` of path patching."""
    table = pd.read_csv(heads).fillna("")
    return {name: {row: kind for row, kind in enumerate(table[f"{name}_class"]) if kind} for name in PLACE_OF_RECEIVER}


def measure_model(
    every: KnockOut,
    some: KnockOut,
    swept: list[Prompt],
    table: pd.DataFrame,
    named: Named,
    random_sets: int,
) -> Found:
    """All runs of one model."""
    nodes, decoder = node_set(table), every.decoder
    parts = {"model": EVERYTHING, **{f"without {name}": part for name, part in classes_of(table).items()}}
    runs = dict(zip(parts, every.differences(list(parts.values()), remove=True), strict=True))
    runs["circuit"] = every.differences([nodes])[0]
    random = some.differences(random_like(nodes, decoder.n_heads, random_sets, seed=0))
    few = {"model": some.differences([EVERYTHING], remove=True)[0], "circuit": some.differences([nodes])[0]}
    effects, read, percent = Effects(), read_runs(decoder, swept), {}
    for name in dict.fromkeys(["logits", *table["receiver"]]):
        part = table[table["receiver"] == name]
        senders = None if name == "logits" else set(zip(part["layer"], part["head"], strict=True))
        if (receivers := receivers_of(name, named, decoder)) == NOBODY:
            continue
        add_sweep(decoder, effects, name, read, receivers, senders)
        percent[name] = 100 * effects.difference(name) / effects.clean[name].mean()
    heads = table["layer"] * decoder.n_heads + table["head"]
    of_nodes = np.array([
        percent[name][head].mean() if name in percent else 0.0
        for name, head in zip(table["receiver"], heads, strict=True)
    ])  # fmt: skip
    of_heads = percent["logits"].reshape(decoder.n_layers, decoder.n_heads, -1)
    return Found(runs, few | {"random": random.mean(0)}, random.mean(1), of_heads, of_nodes)


def over_models(
    values: list[Float[np.ndarray, " prompt"]],
    below: list[Float[np.ndarray, " prompt"]],
    prompts: list[Prompt],
    formula: str,
) -> Metric:
    """Ratio of means over models and prompts; `per_seed` has one value per model."""
    models = np.repeat(np.arange(len(values)), len(prompts))
    above, under = np.concatenate(values), np.concatenate(below)
    return clustered(above, prompts * len(values), unit="1", formula=formula, denominators=under, groups=models)


def measure_circuit(old: Found, new: list[Found], prompts: list[Prompt], few: list[Prompt]) -> dict[str, Metric]:
    """What the old circuit keeps in the fine-tuned models, against random nodes."""
    models, few_models = [one.runs["model"] for one in new], [one.few["model"] for one in new]
    text, by_luck = "F(C) / F(M), C the circuit found before fine-tuning", "mean of the random node sets; F / F(M)"
    draws = np.sum([one.random for one in new], 0) / np.sum([one.mean() for one in few_models])
    return {
        "logit_difference_kept": over_models(
            models, [old.runs["model"]] * len(new), prompts, "F(M) after fine-tuning / F(M) before"
        ),
        "circuit_faithfulness_before": over_models([old.runs["circuit"]], [old.runs["model"]], prompts, text),
        "circuit_faithfulness": over_models([one.runs["circuit"] for one in new], models, prompts, text),
        "circuit_faithfulness_random": null_distribution(
            draws, unit="1", formula=f"{len(draws)} random node sets with the circuit's layers and positions; F / F(M)"
        ),
        "circuit_faithfulness_minus_random": over_models(
            [one.few["circuit"] - one.few["random"] for one in new], few_models, few, f"circuit minus {by_luck}"
        ),
    }


def measure_effects(
    old: Found, new: list[Found], layers: pd.Series, heads: pd.Series, prompts: list[Prompt], top: int, draws: int
) -> dict[str, Metric]:
    """Whether the heads that wrote the answer still do: effects of these heads with their old signs, against as many
    other heads of the same layers; and how many of the `top` strongest heads are the same."""
    writers, generator = (layers.to_numpy(), heads.to_numpy()), np.random.default_rng(0)
    signs = np.sign(old.percent[writers].mean(1))
    n_heads = old.percent.shape[1]
    numbers = [int(number) for number in np.ravel_multi_index(writers, old.percent.shape[:2])]
    others = [[others_of_layers([one], n_heads, set(numbers), generator) for one in numbers] for _ in range(draws)]
    random = [(writers[0], np.ravel(drawn) % n_heads) for drawn in others]
    before = [signs @ old.percent[writers]] * len(new)
    after = [signs @ one.percent[writers] for one in new]
    by_luck = np.array([[signs @ one.percent[places] for places in random] for one in new])
    null = by_luck.sum((0, 2)) / np.sum(before)
    strongest = [set(np.abs(one.percent.mean(2)).argsort(None)[-top:].tolist()) for one in (old, *new)]
    shared = float(np.mean([len(strongest[0] & one) / top for one in strongest[1:]]))
    text = "summed effects on the logits of the circuit's heads at END, signs as before / the same sum before"
    return {
        "effects_kept": over_models(after, before, prompts, text),
        "effects_kept_random": null_distribution(null, unit="1", formula=f"{text}; other heads of the same layers"),
        "effects_kept_minus_random": over_models(
            list(np.array(after) - by_luck.mean(1)), before, prompts, f"{text}; minus other heads of the same layers"
        ),
        "same_top_heads": without_interval(
            shared, top, "share", f"of the {top} heads with the largest effects, those of before"
        ),
    }


def share_rows(found: dict[str, Found]) -> list[dict[str, object]]:
    """What is left of F in each model: with the circuit alone, with random heads alone, without each class."""
    rows: list[dict[str, object]] = []
    for name, one in found.items():
        whole = one.runs["model"].mean()
        left = {"circuit alone": one.runs["circuit"].mean() / whole}
        left["random heads alone"] = one.few["random"].mean() / one.few["model"].mean()
        left |= {key: values.mean() / whole for key, values in one.runs.items() if key.startswith("without ")}
        rows += [{"model": name, "what": what, "share": value} for what, value in left.items()]
    return rows


if __name__ == "__main__":
    run(fine_tuned)
