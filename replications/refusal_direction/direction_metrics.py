"""Metrics of the choice of the direction, of its stability, and of its relation to other models. Loads no model."""

import numpy as np
import pandas as pd
from jaxtyping import Float

from replications.refusal_direction.comparisons import Metrics, Studied, seeds
from replications.refusal_direction.search import survives, works

UNITS = {"bypass": "nats", "induce": "nats", "kl": "nats", "norm": "1"}
Vector = Float[np.ndarray, " d_model"]


def direction(studies: list[Studied], shams: list[Studied]) -> Metrics:
    """The choice, and its relation to the model before fine-tuning and to the sham model."""
    found = choice(studies)
    earlier = [study.numbers["cosine_earlier"] for study in studies]
    unrelated = [cosine(study.vectors["r"], study.vectors["unrelated"]) for study in studies]
    formula = "cosine with the same difference of means before fine-tuning"
    found["cosine_earlier"] = seeds(earlier, "1", formula, unrelated=unrelated)
    if shams:
        at, r = place(shams[0]), shams[0].vectors["r"]
        others = [cosine(study.vectors["differences"][at], r) for study in studies]
        found["cosine_sham"] = seeds(others, "1", "cosine with the sham model's direction, at its token and layer")
    return found


def choice(studies: list[Studied]) -> Metrics:
    """How the chosen directions scored, and how stable they are."""
    chosen = [scores_of(study, "final").iloc[0] for study in studies]
    found = {
        f"chosen_{name}": seeds([float(row[name]) for row in chosen], unit, f"{name} of the chosen candidate")
        for name, unit in UNITS.items()
    }
    passing, permuted = (
        [float(survives(scores_of(study, "final", labels)).sum()) for study in studies]
        for labels in ("true", "permuted")
    )
    formula = "finalists with kl <= 0.1 and induce >= 0 on all requests for choosing"
    found["survivors"] = seeds(passing, "candidates", formula, permuted=permuted)
    counts = [float(len(scores_of(study, "grid"))) for study in studies]
    found["candidates"] = seeds(counts, "candidates", "candidates below the depth limit")
    halves, permuted, few, few_permuted = (
        [study.numbers[f"cosine_{name}"] for study in studies]
        for name in ("halves", "halves_permuted", "halves_small", "halves_small_permuted")
    )
    formula = "cosine of the differences of means of two disjoint halves"
    found["cosine_halves"] = seeds(halves, "1", formula, permuted=permuted, two_per_class=few)
    formula = f"{formula} of two requests per class"
    found["cosine_halves_small"] = seeds(few, "1", formula, permuted=few_permuted)
    return found | agreement(studies) | (across_seeds(studies) if len(studies) > 1 else {})


def agreement(studies: list[Studied]) -> Metrics:
    """Pairwise cosines of the finalists that pass the filters. A seed with fewer than two of them has those that end
    refusal when ablated and induce it when added; a seed with fewer than two of these has all finalists. Without two
    finalists, as at scale smoke, there is nothing to compare."""
    rows = []
    for study in studies:
        final = scores_of(study, "final")
        groups = {"pass": final[survives(final)], "work": final[works(final)], "": final}
        which, table = next((pair for pair in groups.items() if len(pair[1]) > 1), ("", final))
        if len(table) < 2:
            return {}
        vectors = study.vectors["differences"][table["position"].astype(int), table["layer"].astype(int)]
        unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
        cosines = (unit @ unit.T)[np.triu_indices(len(unit), 1)].astype(np.float64)
        rows.append((cosines.mean(), cosines.min(), len(unit), which == "pass", which == "work"))
    about = {
        "cosine_candidates_mean": ("1", "mean pairwise cosine of the finalists compared"),
        "cosine_candidates_min": ("1", "least pairwise cosine of the finalists compared"),
        "candidates_compared": ("candidates", "finalists whose cosines are compared"),
        "compared_pass": ("share", "1 where these are the finalists that pass the filters"),
        "compared_work": ("share", "1 where these are those that work"),
    }
    columns = zip(*rows, strict=True)
    return {
        name: seeds([float(value) for value in column], *what)
        for (name, what), column in zip(about.items(), columns, strict=True)
    }


def across_seeds(studies: list[Studied]) -> Metrics:
    """Cosine of one seed's direction with what another seed's model has at the same token and layer; one value a seed,
    the mean over the others. Control: the direction under permuted labels."""
    values: dict[str, list[float]] = {"r": [], "permuted": []}
    for study in studies:
        others = [other.vectors["differences"][place(study)] for other in studies if other is not study]
        for name, found in values.items():
            found.append(float(np.mean([cosine(study.vectors[name], vector) for vector in others])))
    formula = "cosine of r with other seeds' differences of means"
    return {"cosine_seeds": seeds(values["r"], "1", formula, permuted=values["permuted"])}


def scores_of(study: Studied, stage: str, labels: str = "true") -> pd.DataFrame:
    """Candidates of one stage, the best first."""
    return study.tables["scores"].query(f"stage == '{stage}' and labels == '{labels}'")


def place(study: Studied) -> tuple[int, int]:
    """Template token, counted from the end, and layer of the direction."""
    return int(study.numbers["position"]), int(study.numbers["layer"])


def cosine(a: Vector, b: Vector) -> float:
    """Of two vectors."""
    return float(a @ b / (np.linalg.norm(a) * np.linalg.norm(b)))
