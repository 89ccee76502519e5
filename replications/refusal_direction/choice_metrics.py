"""Metrics of the choice of the direction, of its stability, and of its relation to other models. Loads no model."""

import numpy as np
import pandas as pd
from jaxtyping import Float

from replications.refusal_direction.filters import survives, works
from replications.refusal_direction.tables import Arm, Metrics, pairs, seeds


def choice(arms: list[Arm]) -> Metrics:
    """How the chosen directions scored, and how stable they are."""
    chosen = [best(arm) for arm in arms]
    units = {"bypass": "nats", "induce": "nats", "kl": "nats", "norm": "1"}
    found = {
        f"chosen_{name}": seeds([float(row[name]) for row in chosen], unit, f"{name} of the chosen candidate")
        for name, unit in units.items()
    }
    grids = [arm.tables["scores"].query("stage == 'grid' and labels == 'true'") for arm in arms]
    counts = {
        labels: [
            float(survives(arm.tables["scores"].query(f"stage == 'final' and labels == '{labels}'")).sum())
            for arm in arms
        ]
        for labels in ("true", "permuted")
    }
    formula = "finalists with kl <= 0.1 and induce >= 0 on all requests for choosing"
    found |= pairs("survivors", counts["true"], counts["permuted"], "permuted", "candidates", formula)
    found["candidates"] = seeds([float(len(grid)) for grid in grids], "candidates", "candidates below the depth limit")
    formula = "cosine of the differences of means of two disjoint halves"
    halves, small, mixed, small_mixed = (
        [arm.numbers[f"cosine_{name}{end}"] for arm in arms]
        for end in ("", "_permuted")
        for name in ("halves", "halves_small")
    )
    found |= pairs("cosine_halves", halves, mixed, "permuted", "1", formula)
    found |= pairs("cosine_halves", halves, small, "small", "1", formula)
    found |= pairs("cosine_halves_small", small, small_mixed, "permuted", "1", f"{formula} of two requests per class")
    return found | alike(arms) | (across_seeds(arms) if len(arms) > 1 else {})


def alike(arms: list[Arm]) -> Metrics:
    """Pairwise cosines of the finalists that pass the filters. A seed with fewer than two of them has those that end
    refusal when ablated and induce it when added; a seed with fewer than two of these has all finalists. Without two
    finalists, as at scale smoke, there is nothing to compare."""
    chosen: dict[str, list[float]] = {"mean": [], "min": [], "compared": [], "pass": [], "work": []}
    for arm in arms:
        final = arm.tables["scores"].query("stage == 'final' and labels == 'true'")
        groups = {"pass": final[survives(final)], "work": final[works(final)], "": final}
        which, table = next((pair for pair in groups.items() if len(pair[1]) > 1), ("", final))
        if len(table) < 2:
            return {}
        vectors = arm.vectors["differences"][table["position"].astype(int), table["layer"].astype(int)]
        unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
        cosines = (unit @ unit.T)[np.triu_indices(len(unit), 1)].astype(np.float64)
        values = (float(cosines.mean()), float(cosines.min()), float(len(unit)), which == "pass", which == "work")
        for name, value in zip(chosen, values, strict=True):
            chosen[name].append(float(value))
    return {
        "cosine_candidates_mean": seeds(chosen["mean"], "1", "mean pairwise cosine of the finalists compared"),
        "cosine_candidates_min": seeds(chosen["min"], "1", "least pairwise cosine of the finalists compared"),
        "candidates_compared": seeds(chosen["compared"], "candidates", "finalists whose cosines are compared"),
        "compared_pass": seeds(chosen["pass"], "share", "1 where these are the finalists that pass the filters"),
        "compared_work": seeds(chosen["work"], "share", "1 where these are those that work"),
    }


def direction(arms: list[Arm], sham: list[Arm]) -> Metrics:
    """The choice, and its relation to the model before fine-tuning and to the sham model."""
    found = choice(arms)
    earlier = [arm.numbers["cosine_earlier"] for arm in arms]
    formula = "cosine with the same difference of means before fine-tuning"
    found |= pairs("cosine_earlier", earlier, [cosine(arm, "unrelated") for arm in arms], "unrelated", "1", formula)
    at = int(sham[0].numbers["position"]), int(sham[0].numbers["layer"])
    others = [float(_cosine(arm.vectors["differences"][at], sham[0].vectors["r"])) for arm in arms]
    found["cosine_sham"] = seeds(others, "1", "cosine with the sham model's direction, at its token and layer")
    return found


def best(arm: Arm) -> pd.Series:
    """The chosen candidate's row."""
    table = arm.tables["scores"].query("stage == 'final' and labels == 'true'")
    row: pd.Series = table.iloc[0]
    return row


def across_seeds(arms: list[Arm]) -> Metrics:
    """Cosine of one seed's direction with what another seed's model has at the same token and layer; one value a seed,
    the mean over the others. Control: the direction under permuted labels."""
    real, null = [], []
    for one in arms:
        at = int(one.numbers["position"]), int(one.numbers["layer"])
        others = [other.vectors["differences"][at] for other in arms if other is not one]
        real.append(float(np.mean([_cosine(one.vectors["r"], vector) for vector in others])))
        null.append(float(np.mean([_cosine(one.vectors["permuted"], vector) for vector in others])))
    return pairs("cosine_seeds", real, null, "permuted", "1", "cosine of r with other seeds' differences of means")


def cosine(arm: Arm, name: str) -> float:
    """Cosine of r with one of the nulls."""
    return _cosine(arm.vectors["r"], arm.vectors[name])


def _cosine(a: Float[np.ndarray, " d"], b: Float[np.ndarray, " d"]) -> float:
    return float(a @ b / (np.linalg.norm(a) * np.linalg.norm(b)))
