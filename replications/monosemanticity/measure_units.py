"""Step: are latents easier to explain than neurons, and do their logit weights say what comes next?

Bricken et al. 2023, sections "How interpretable is the typical feature?" and "Automated interpretability". There,
people and a language model judge; here token sets are scored (`explain.py`), and whole tables of rates by quarter of
the activations (`quantiles.py`). What is compared is in `kinds.py`. Control of every score: explanations exchanged
among units of one kind and similar rate.
"""

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float
from safetensors.torch import load_file

from common.core.files import read_json
from common.core.metrics import Metric, write_metrics
from common.core.statistics import over_seeds
from common.core.step import Files, run_step
from common.core.tables import write_table
from common.saes.saelens import load_saelens
from replications.monosemanticity.documents import under_documents
from replications.monosemanticity.examples import contexts
from replications.monosemanticity.explain import QUARTERS, Explanations, auroc, exchanged, explain, scored
from replications.monosemanticity.model import load_models
from replications.monosemanticity.quantiles import Weights, known_mean, purity, ranking, resampled
from replications.monosemanticity.settings import Measure
from replications.monosemanticity.structure import logit_correlations
from replications.monosemanticity.units import NARROW, Firings, Text, made_kinds, read_text

DRAWS = 200  # of documents
SINGLE = 0.8  # purity from which a unit counts as a single token
RESAMPLED = ("features", "neurons", "rotated", "untrained")  # kinds whose quarters are compared under documents
CONTROLS = {
    "neurons": "rate_matched_neurons",
    "raw": "neurons",
    "rotated": "rotated_neurons",
    "untrained": "untrained_network",
    "start": "random_rows",
    "shuffled": "exchanged_explanations",
}
"""What latents face: kind of unit, and the name of the control. `narrow` and `relu` are other dictionaries."""
SCORES = {
    "detection": "mean over units of the balanced accuracy of telling contexts in which they fire",
    "fuzzing": "mean over units of the balanced accuracy of telling tokens on which they fire, in such contexts",
    "ranking": "mean over units and quarters of activations of the AUROC of contexts ranked by rates of their tokens",
    "auroc": "mean over units of the AUROC of tokens ranked by how often they made the unit fire elsewhere",
    "purity": "mean over units and quarters of activations of the share of firings that is on one token",
    "single": f"share of units with a purity of at least {SINGLE}",
}


NOTHING = {"ranking": 0.5, "purity": 0.0}  # scores of units that are never seen


class Scores(NamedTuple):
    """What is found out about the units of one kind in one model, by score."""

    units: dict[str, Float[np.ndarray, " unit"]]
    quarters: dict[str, Float[np.ndarray, " quarter"]]
    """means over units"""
    draws: dict[str, Float[np.ndarray, " draw"]]
    """means over units under resampled documents; with `_quarter1` ... for single quarters"""


class MeasureUnitsFiles(Files):
    tokens: Path
    vocabulary: Path
    models: Path
    index: Path
    """of the dictionaries, whose folders lie beside it"""
    units: Path
    """metrics of the part `units`"""
    logits: Path
    """metrics of the part `logits`"""
    table: Path
    """one row per unit"""
    quarters: Path
    """one row per seed, kind, score and quarter"""
    examples: Path
    """one row per token shown"""
    logit_table: Path


def measure_units(files: MeasureUnitsFiles, settings: Measure) -> None:
    """Writes the metrics of the parts `units` and `logits`, and the tables of their figures."""
    measures, width, narrowest = settings.measures, settings.dictionaries.width, settings.dictionaries.widths[0]
    stored, trained = load_file(files.tokens), load_models(files.models)
    text, d_vocab = read_text(stored["held_out"], stored["document"]), trained.shape.d_vocab
    weights = resampled(text, DRAWS)
    found: dict[str, list[Scores]] = {}
    logit_values: dict[str, list[float]] = {}
    rows: list[dict[str, Any]] = []
    for place, seed in enumerate(trained.seeds):
        folders = {kind: files.index.parent / f"{kind}-{width}-s{seed}" for kind in ("trained", "untrained", "start")}
        folders |= {kind: files.index.parent / f"{name}-{narrowest}-s{seed}" for kind, name in NARROW.items()}
        saes = {kind: load_saelens(folder) for kind, folder in folders.items()}
        kinds = made_kinds(trained, place, saes, stored["held_out"].long(), text, measures.least_firings)
        for name, kind in kinds.items():
            explained = explain(kind.firings, text, d_vocab, measures.set_size)
            judged = judge(explained, kind.firings, text, measures.context, weights, quarters=name in RESAMPLED)
            found.setdefault(name, []).append(judged)
            rates = np.bincount(kind.firings.unit, minlength=kind.firings.units) / text.size()
            columns = {"rate": rates, **judged.units}
            if kind.logits is not None:
                columns["logits"] = logit_correlations(kind.logits, kind.firings, text)
                logit_values.setdefault(name, []).append(float(columns["logits"].mean()))
            if name == "features":
                order = exchanged(rates, np.random.default_rng(seed))
                control = judge(explained.of(order), kind.firings, text, measures.context, weights, quarters=False)
                for part in (control.units, control.quarters):
                    del part["purity"]  # asks for no explanation
                found.setdefault("shuffled", []).append(control)
                assert kind.logits is not None
                permuted = logit_correlations(kind.logits[order], kind.firings, text)
                logit_values.setdefault("shuffled", []).append(float(permuted.mean()))
                if place == 0:
                    words, windows = read_json(files.vocabulary), stored["held_out"].numpy()
                    score = columns["detection"]
                    write_table(files.examples, contexts(kind.firings, text, explained, score, words, windows))
            rows += [
                {"seed": seed, "kind": name, "unit": unit, **{key: column[unit] for key, column in columns.items()}}
                for unit in range(kind.firings.units)
            ]
        print(f"seed {seed}: {', '.join(f'{name} {kind.firings.units}' for name, kind in kinds.items())}", flush=True)
    write_table(files.table, rows)
    write_table(files.logit_table, [row for row in rows if "logits" in row])
    write_table(files.quarters, quarter_rows(found, trained.seeds))
    write_metrics(files.units, unit_metrics(found, len(np.unique(text.document[text.scored]))))
    write_metrics(files.logits, logit_metrics(logit_values))


def judge(
    found: Explanations, firings: Firings, text: Text, context: int, weights: Weights, *, quarters: bool = True
) -> Scores:
    """All scores of explanations of the units of one kind; the first column of `weights` gives the values.

    Without `quarters` ranking and purity, which cost most, are not computed under resampled documents.
    """
    detection, fuzzing = scored(found, firings, text, context)
    used = weights if quarters else weights[:, :1]
    by_quarter = {
        "ranking": ranking(found, firings, text, context, used),
        "purity": purity(firings, text, found.members.shape[1], used),
    }
    drawn = {"detection": detection.accuracy(weights), "fuzzing": fuzzing.accuracy(weights)}
    drawn |= {score: known_mean(each, 0, NOTHING[score]) for score, each in by_quarter.items()}
    means = {score: known_mean(each, 1, NOTHING[score]) for score, each in by_quarter.items()}
    tallies = {"detection": detection, "fuzzing": fuzzing}
    lines = {score: known_mean(tally.by_quarter(), 1, 0.5) for score, tally in tallies.items()}
    draws = {score: each.mean(0)[1:] for score, each in drawn.items()}
    draws |= {f"{score}_quarter{q + 1}": means[score][q, 1:] for score in means for q in range(QUARTERS)}
    units = {score: each[:, 0] for score, each in drawn.items()}
    units["auroc"] = auroc(found, firings, text)
    return Scores(units, lines | {score: each[:, 0] for score, each in means.items()}, draws)


def quarter_rows(found: dict[str, list[Scores]], seeds: list[int]) -> list[dict[str, Any]]:
    """The table of scores by quarter of the activations."""
    return [
        {"seed": seed, "kind": kind, "score": score, "quarter": quarter + 1, "accuracy": float(mean)}
        for kind, each in found.items()
        for seed, one in zip(seeds, each, strict=True)
        for score, line in one.quarters.items()
        for quarter, mean in enumerate(line)
    ]


def unit_metrics(found: dict[str, list[Scores]], documents: int) -> dict[str, Metric]:
    """Scores of latents beside every control, over seeds and (`_documents`) under resampled documents; of the two
    narrowest dictionaries beside each other."""
    metrics: dict[str, Metric] = {}
    values = {kind: means(each) for kind, each in found.items()}
    for name in values["features"]:
        score, _, quarter = name.partition("_quarter")
        unit = "share" if score in ("purity", "single") else "1"
        formula = SCORES[score] + (f", quarter {quarter} alone, 1 strongest" if quarter else "")
        controls = {control: values[kind][name] for kind, control in CONTROLS.items() if name in values[kind]}
        metrics[f"{name}_latents"] = over_seeds(
            values["features"][name], unit=unit, formula=f"{formula}; latents", controls=controls
        )
        metrics[f"{name}_relu"] = over_seeds(
            values["relu"][name], unit=unit, formula=f"{formula}; latents, ReLU and L1, narrowest dictionary",
            controls={"narrow_topk": values["narrow"][name]},
        )  # fmt: skip
        if name in found["features"][0].draws:
            draws = {kind: np.mean([one.draws[name] for one in each], axis=0) for kind, each in found.items()
                     if len(each[0].draws.get(name, []))}  # fmt: skip
            metrics[f"{name}_latents_documents"] = under_documents(
                metrics[f"{name}_latents"],
                draws["features"],
                {control: draws[kind] for kind, control in CONTROLS.items() if kind in draws and control in controls},
                documents,
            )
    return metrics


def means(each: list[Scores]) -> dict[str, list[float]]:
    """Means over units of every score, one value per seed; `<score>_quarter<n>` of one quarter of the activations."""
    found = {score: [float(one.units[score].mean()) for one in each] for score in each[0].units}
    if "purity" in found:
        found["single"] = [float((one.units["purity"] >= SINGLE).mean()) for one in each]
    for score in [one for one in ("ranking", "purity") if one in found]:
        for q in range(QUARTERS):
            found[f"{score}_quarter{q + 1}"] = [float(one.quarters[score][q]) for one in each]
    return found


def logit_metrics(values: dict[str, list[float]]) -> dict[str, Metric]:
    """Correlations of logit weights with what follows, by kind of unit: latents beside every control."""
    formula = "mean over units of the correlation over next tokens of logit weight and lift behind firings; latents"
    named = {"shuffled": "exchanged_weights"}
    controls = {named.get(kind, CONTROLS[kind]): own for kind, own in values.items() if kind != "features"}
    return {"logits_latents": over_seeds(values["features"], unit="1", formula=formula, controls=controls)}


if __name__ == "__main__":
    run_step(measure_units)
