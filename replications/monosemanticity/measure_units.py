"""Step: are latents easier to explain than neurons, and do their logit weights say what comes next?

Bricken et al. 2023, sections "How interpretable is the typical feature?" and "Automated interpretability". There,
people and a language model judge; here token sets are scored (`explain.py`). Kinds of unit, at rates of the latents:
`features` (latents), `neurons`, `rotated` neurons, `untrained` (latents of the dictionary on the network before
training, Heap et al. 2025), `start` (the dictionary before its first step). At their own rates: `narrow` and `relu`
(latents of the narrowest TopK and the ReLU dictionary), `raw` (neurons that fire wherever they are positive). Control
of every score: explanations exchanged among units of one kind and similar rate.
"""

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from safetensors.torch import load_file
from torch import Tensor

from common.cli import run
from common.errors import UserError
from common.files import read_json
from common.records import Metric, write_metrics
from common.saes.sae import Sae
from common.saes.saelens import load_saelens
from common.statistics import LEVEL
from common.tables import Seeded, write_table
from replications.monosemanticity.examples import contexts
from replications.monosemanticity.explain import (
    Tally,
    auroc,
    exchanged,
    explain,
    purity,
    scored,
)
from replications.monosemanticity.model import Models, activations, load_models
from replications.monosemanticity.settings import Measures
from replications.monosemanticity.structure import logit_correlations
from replications.monosemanticity.units import Firings, Text, at_rates, read_text, rotation, sparse

DRAWS = 200  # of documents
SINGLE = 0.8  # purity from which a unit counts as a single token
ROTATION_SEED = 7_000
PAIRS = ("narrow", "neurons", "raw", "rotated", "untrained", "start", "shuffled")
NARROW = {"narrow": "trained", "relu": "relu"}  # of the narrowest width
SCORES = {
    "detection": "mean over units of the balanced accuracy of telling contexts in which they fire",
    "fuzzing": "mean over units of the balanced accuracy of telling tokens on which they fire, in such contexts",
    "auroc": "mean over units of the AUROC of tokens ranked by how often they made the unit fire elsewhere",
    "purity": "mean over units of the share of firings that is on one token",
    "single": f"share of units with a purity of at least {SINGLE}",
}


class Kind(NamedTuple):
    """Units of one kind and, where their direction leads to the logits, their logit weights."""

    firings: Firings
    logits: Float[np.ndarray, "unit d_vocab"] | None = None


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
    text = read_text(stored["held_out"], stored["document"])
    values: dict[str, list[float]] = {}
    rows: list[dict[str, Any]] = []
    lines: list[dict[str, Any]] = []
    drawn: dict[str, list[np.ndarray]] = {}
    for place, seed in enumerate(trained.seeds):
        folders = {kind: index.parent / f"{kind}-{width}-s{seed}" for kind in ("trained", "untrained", "start")}
        folders |= {kind: index.parent / f"{name}-{narrowest}-s{seed}" for kind, name in NARROW.items()}
        saes = {kind: load_saelens(folder) for kind, folder in folders.items()}
        kinds = made_kinds(trained, place, saes, stored["held_out"].long(), text, measures.least_firings)
        for name, kind in kinds.items():
            found = explain(kind.firings, text, trained.shape.d_vocab, measures.set_size)
            detection, fuzzing = scored(found, kind.firings, text, measures.context)
            add(values, lines, drawn, seed, name, detection, fuzzing)
            single = purity(kind.firings, text, trained.shape.d_vocab)
            area = auroc(found, kind.firings, text)
            values.setdefault(f"auroc_{name}", []).append(float(area.mean()))
            values.setdefault(f"purity_{name}", []).append(float(single.mean()))
            values.setdefault(f"single_{name}", []).append(float((single >= SINGLE).mean()))
            rates = np.bincount(kind.firings.unit, minlength=kind.firings.units) / text.size()
            columns = {"rate": rates, "detection": whole(detection), "fuzzing": whole(fuzzing), "auroc": area}
            columns["purity"] = single
            if kind.logits is not None:
                columns["logits"] = logit_correlations(kind.logits, kind.firings, text)
                values.setdefault(f"logits_{name}", []).append(float(columns["logits"].mean()))
            rng = np.random.default_rng(seed)
            order = exchanged(rates, rng)
            if name == "features":
                add(
                    values,
                    lines,
                    drawn,
                    seed,
                    "shuffled",
                    *scored(found.of(order), kind.firings, text, measures.context),
                )
                assert kind.logits is not None
                permuted = logit_correlations(kind.logits[order], kind.firings, text)
                values.setdefault("logits_shuffled", []).append(float(permuted.mean()))
                if place == 0:
                    words = read_json(vocabulary)
                    shown = contexts(kind.firings, text, found, columns["detection"], words, stored["held_out"].numpy())
                    write_table(examples, shown)
            rows += [
                {"seed": seed, "kind": name, "unit": unit, **{key: column[unit] for key, column in columns.items()}}
                for unit in range(kind.firings.units)
            ]
        print(f"seed {seed}: {', '.join(f'{name} {kind.firings.units}' for name, kind in kinds.items())}", flush=True)
    write_table(table, rows)
    write_table(logit_table, [row for row in rows if "logits" in row])
    write_table(quarters, lines)
    documents = len(np.unique(text.document[text.scored]))
    write_metrics(units, unit_metrics(values, drawn, documents))
    write_metrics(logits, logit_metrics(values))


def made_kinds(
    models: Models, place: int, saes: dict[str, Sae], windows: Tensor, text: Text, least: int
) -> dict[str, Kind]:
    """All kinds of unit of one model; units that fire too rarely on either half of the documents are left out.

    UserError if none is left.
    """
    weights = models.one(place)
    x, before = (
        activations(one, windows, models.shape)[:, 1:].flatten(0, 1) for one in (weights, models.untrained().one(place))
    )
    to_logits = weights["blocks.0.mlp.W_out"][0] @ weights["unembed.W_U"][0]
    turn = rotation(x.shape[1], ROTATION_SEED + models.seeds[place])

    def latents(sae: Sae, x: Float[Tensor, "token d_mlp"], *, leads: bool = True) -> Kind:
        found = sparse(lambda part: sae.encode(x[part]), len(x))
        alive = living(found, text, least)
        if not alive.any():
            raise UserError(f"no latent fires {least} times on each half of the documents; lower 'least_firings'")
        return Kind(found.kept(alive), (sae.W_dec[torch.from_numpy(alive)] @ to_logits).numpy() if leads else None)

    features = latents(saes["trained"], x)
    rates = np.bincount(features.firings.unit) / text.size()

    def matched(x: Float[Tensor, "token unit"], rows: Float[Tensor, "unit d_mlp"]) -> Kind:
        found = at_rates(x, rates)
        alive = living(found, text, least)
        return Kind(found.kept(alive), (rows[torch.from_numpy(alive)] @ to_logits).numpy())

    raw = sparse(lambda part: x[part], len(x))
    return {
        "features": features,
        "neurons": matched(x, torch.eye(x.shape[1])),
        "rotated": matched(x @ turn, turn.mT),
        "untrained": latents(saes["untrained"], before, leads=False),
        "start": latents(saes["start"], x),
        **{kind: latents(saes[kind], x, leads=False) for kind in NARROW},
        "raw": Kind(raw.kept(living(raw, text, least))),
    }


def living(firings: Firings, text: Text, least: int) -> np.ndarray:
    """Units that fire often enough on both halves of the documents."""
    alive: np.ndarray = np.minimum(firings.counts(text.scored), firings.counts(~text.scored)) >= least
    return alive


def whole(tally: Tally) -> Float[np.ndarray, " unit"]:
    """Balanced accuracy with every document once."""
    found: Float[np.ndarray, " unit"] = tally.accuracy(np.ones((tally.alarms.shape[1], 1), np.float32))[:, 0]
    return found


def add(
    values: dict[str, list[float]],
    lines: list[dict[str, Any]],
    drawn: dict[str, list[np.ndarray]],
    seed: int,
    name: str,
    detection: Tally,
    fuzzing: Tally,
) -> None:
    """Notes both scores of one kind: the mean, the mean by quarter, and the means under resampled documents."""
    for score, tally in (("detection", detection), ("fuzzing", fuzzing)):
        values.setdefault(f"{score}_{name}", []).append(float(whole(tally).mean()))
        for quarter, mean in enumerate(tally.by_quarter().mean(1)):
            lines.append({"seed": seed, "kind": name, "score": score, "quarter": quarter + 1, "accuracy": float(mean)})
    count = detection.alarms.shape[1]
    judged = np.flatnonzero((detection.negatives.sum(0) + detection.positives.sum((0, 1))) > 0)
    chosen = np.random.default_rng(0).multinomial(len(judged), np.full(len(judged), 1 / len(judged)), size=DRAWS)
    weights = np.zeros((count, DRAWS), dtype=np.float32)
    weights[judged] = chosen.T
    drawn.setdefault(name, []).append(detection.accuracy(weights).mean(0))


def unit_metrics(
    values: dict[str, list[float]], drawn: dict[str, list[np.ndarray]], documents: int
) -> dict[str, Metric]:
    """Means over seeds, differences from each control, and the difference from neurons under resampled documents."""
    found = Seeded()
    for name, each in values.items():
        score, kind = name.split("_", 1)
        if score != "logits":
            unit = "1" if score in ("detection", "fuzzing", "auroc") else "share"
            found.add(name, each, unit, f"{SCORES[score]}; {kind}")
    for score in SCORES:
        for other in PAIRS:
            if f"{score}_{other}" in values:
                found.minus(f"{score}_features_minus_{other}", f"{score}_features", f"{score}_{other}")
    for left, right in (
        ("relu", "narrow"),
        ("untrained", "rotated"),
        ("untrained", "features"),
        ("rotated", "features"),
        ("rotated", "neurons"),
    ):
        found.minus(f"detection_{left}_minus_{right}", f"detection_{left}", f"detection_{right}")
    for other in ("neurons", "rotated"):
        draws = np.mean([a - b for a, b in zip(drawn["features"], drawn[other], strict=True)], axis=0)
        low, high = np.quantile(draws, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
        value = found.found[f"detection_features_minus_{other}"].value
        found.found[f"detection_features_minus_{other}_documents"] = Metric(
            value=value, ci_low=min(float(low), value), ci_high=max(float(high), value), n=documents, unit="1",
            formula=f"detection_features - detection_{other}; interval over resampled documents, the same for both",
        )  # fmt: skip
    return found.found


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
