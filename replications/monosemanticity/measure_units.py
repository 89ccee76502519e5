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
from common.core.step import run
from common.core.tables import Seeded, write_table
from common.saes.saelens import load_saelens
from replications.monosemanticity.documents import under_documents
from replications.monosemanticity.examples import contexts
from replications.monosemanticity.explain import QUARTERS, Explanations, auroc, exchanged, explain, scored
from replications.monosemanticity.kinds import NARROW, made_kinds
from replications.monosemanticity.model import load_models
from replications.monosemanticity.quantiles import Weights, known_mean, purity, ranking, resampled
from replications.monosemanticity.settings import Measures
from replications.monosemanticity.structure import logit_correlations
from replications.monosemanticity.units import Firings, Text, read_text

DRAWS = 200  # of documents
SINGLE = 0.8  # purity from which a unit counts as a single token
RESAMPLED = ("features", "neurons", "rotated", "untrained")  # kinds that are compared under resampled documents
PAIRS = ("narrow", "neurons", "raw", "rotated", "untrained", "start", "shuffled")
OTHER_PAIRS = (
    ("untrained", "rotated"),
    ("untrained", "features"),
    ("rotated", "features"),
    ("rotated", "neurons"),
)
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


def measure_units(
    *,
    tokens: Path,
    vocabulary: Path,
    models: Path,
    index: Path,
    width: int,
    narrowest: int,
    measures: Measures,
    units: Path,
    logits: Path,
    table: Path,
    quarters: Path,
    examples: Path,
    logit_table: Path,
) -> None:
    """Writes the metrics of the parts `units` and `logits`, and the tables of their figures.

    Args:
        index: `index.json` of the dictionaries, whose folders lie beside it.
        width: of the dictionaries that are compared with neurons; `narrowest` of those in two architectures.
        table: one row per unit; `quarters` one per seed, kind and quarter; `examples` one per token shown.
    """
    stored, trained = load_file(tokens), load_models(models)
    text, d_vocab = read_text(stored["held_out"], stored["document"]), trained.shape.d_vocab
    weights = resampled(text, DRAWS)
    found: dict[str, list[Scores]] = {}
    logit_values: dict[str, list[float]] = {}
    rows: list[dict[str, Any]] = []
    for place, seed in enumerate(trained.seeds):
        folders = {kind: index.parent / f"{kind}-{width}-s{seed}" for kind in ("trained", "untrained", "start")}
        folders |= {kind: index.parent / f"{name}-{narrowest}-s{seed}" for kind, name in NARROW.items()}
        saes = {kind: load_saelens(folder) for kind, folder in folders.items()}
        kinds = made_kinds(trained, place, saes, stored["held_out"].long(), text, measures.least_firings)
        for name, kind in kinds.items():
            explained = explain(kind.firings, text, d_vocab, measures.set_size)
            used = weights if name in RESAMPLED else weights[:, :1]
            judged = judge(explained, kind.firings, text, measures.context, used)
            found.setdefault(name, []).append(judged)
            rates = np.bincount(kind.firings.unit, minlength=kind.firings.units) / text.size()
            columns = {"rate": rates, **judged.units}
            if kind.logits is not None:
                columns["logits"] = logit_correlations(kind.logits, kind.firings, text)
                logit_values.setdefault(f"logits_{name}", []).append(float(columns["logits"].mean()))
            if name == "features":
                order = exchanged(rates, np.random.default_rng(seed))
                control = judge(explained.of(order), kind.firings, text, measures.context, weights[:, :1])
                for part in (control.units, control.quarters):
                    del part["purity"]  # asks for no explanation
                found.setdefault("shuffled", []).append(control)
                assert kind.logits is not None
                permuted = logit_correlations(kind.logits[order], kind.firings, text)
                logit_values.setdefault("logits_shuffled", []).append(float(permuted.mean()))
                if place == 0:
                    words, windows = read_json(vocabulary), stored["held_out"].numpy()
                    score = columns["detection"]
                    write_table(examples, contexts(kind.firings, text, explained, score, words, windows))
            rows += [
                {"seed": seed, "kind": name, "unit": unit, **{key: column[unit] for key, column in columns.items()}}
                for unit in range(kind.firings.units)
            ]
        print(f"seed {seed}: {', '.join(f'{name} {kind.firings.units}' for name, kind in kinds.items())}", flush=True)
    write_table(table, rows)
    write_table(logit_table, [row for row in rows if "logits" in row])
    write_table(quarters, quarter_rows(found, trained.seeds))
    write_metrics(units, unit_metrics(found, len(np.unique(text.document[text.scored]))))
    write_metrics(logits, logit_metrics(logit_values))


def judge(found: Explanations, firings: Firings, text: Text, context: int, weights: Weights) -> Scores:
    """All scores of explanations of the units of one kind; the first column of `weights` gives the values."""
    detection, fuzzing = scored(found, firings, text, context)
    by_quarter = {
        "ranking": ranking(found, firings, text, context, weights),
        "purity": purity(firings, text, found.members.shape[1], weights),
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
    """Means over seeds, differences from each control, and differences under resampled documents."""
    out = Seeded()
    for kind, each in found.items():
        values = {score: [float(one.units[score].mean()) for one in each] for score in each[0].units}
        if "purity" in values:
            values["single"] = [float((one.units["purity"] >= SINGLE).mean()) for one in each]
        for score, per_seed in values.items():
            unit = "share" if score in ("purity", "single") else "1"
            out.add(f"{score}_{kind}", per_seed, unit, f"{SCORES[score]}; {kind}")
        for score in [one for one in ("ranking", "purity") if one in values]:
            unit = "share" if score == "purity" else "1"
            for q in range(QUARTERS):
                formula = f"{SCORES[score]}, quarter {q + 1} alone, 1 strongest; {kind}"
                out.add(
                    f"{score}_{kind}_quarter{q + 1}", [float(one.quarters[score][q]) for one in each], unit, formula
                )
    for score in SCORES:
        for other in PAIRS:
            if f"{score}_{other}" in out.found:
                out.minus(f"{score}_features_minus_{other}", f"{score}_features", f"{score}_{other}")
        for left, right in OTHER_PAIRS:
            out.minus(f"{score}_{left}_minus_{right}", f"{score}_{left}", f"{score}_{right}")
    for score in ("ranking", "purity"):
        for q in range(1, QUARTERS + 1):
            for other in RESAMPLED[1:]:
                name = f"{score}_features_minus_{other}_quarter{q}"
                out.minus(name, f"{score}_features_quarter{q}", f"{score}_{other}_quarter{q}")
    out.minus("detection_relu_minus_narrow", "detection_relu", "detection_narrow")
    pairs = [("features", other) for other in RESAMPLED[1:]] + [("rotated", "neurons")]
    for left, right in pairs:
        for draw in found["features"][0].draws:
            score, _, quarter = draw.partition("_")
            known = out.found.get("_".join(filter(None, [score, left, "minus", right, quarter])))
            if known is not None:
                both = zip(found[left], found[right], strict=True)
                draws = np.mean([one.draws[draw] - two.draws[draw] for one, two in both], axis=0)
                name = "_".join(filter(None, [score, left, "minus", right, quarter, "documents"]))
                out.found[name] = under_documents(known, draws, documents)
    return out.found


def logit_metrics(values: dict[str, list[float]]) -> dict[str, Metric]:
    """Means over seeds and differences from each control."""
    found = Seeded()
    formula = "mean over units of the correlation over next tokens of logit weight and lift behind firings"
    names = [name for name in values if name.startswith("logits_")]
    for name in names:
        found.add(name, values[name], "1", f"{formula}; {name.removeprefix('logits_')}")
    for name in names:
        if name != "logits_features":
            found.minus(f"logits_features_minus_{name.removeprefix('logits_')}", "logits_features", name)
    found.minus("logits_rotated_minus_neurons", "logits_rotated", "logits_neurons")
    return found.found


if __name__ == "__main__":
    run(measure_units)
