"""Step: the metrics of the taught models, from the tables of every seed and of the sham models. Loads no model.

Controls are those of `directions`: random, permuted labels at the KL of r, another topic, the model before fine-tuning.
Also ways to end refusal that ablate nothing. Where a cost is measured, r faces other ways to end refusal (`COSTS`).
"""

from pathlib import Path

import numpy as np
import pandas as pd
from jaxtyping import Float

from common.core.metrics import Metric, write_metrics
from common.core.statistics import auroc
from common.core.step import Files, run_step
from replications.refusal_direction.comparisons import Metrics, Studied, answers, read_study, requests, rises, seeds
from replications.refusal_direction.effects import FLUENCY
from replications.refusal_direction.search import MAXIMUM_KL, survives

CONTROLS = ("random", "permuted", "other_topic", "earlier")
ALTERNATIVES = ("token_ban", "permuted_push", "earlier_push")  # to ablation, at no more than its KL
COSTS = {
    "subtraction": "subtracted",
    "least_subtraction": "least subtracted",
    "damage": "damage ablated",
    "cheapest": "cheapest ablated",
}  # other ways to end refusal, with their conditions
HARMFUL, HARMLESS = ("harmful", "tuned"), ("harmless", "tuned")
SCORES = {"bypass": "nats", "induce": "nats", "kl": "nats", "norm": "1"}
PERMUTATIONS = 20  # of labels, for the AUROC
Vector = Float[np.ndarray, " d_model"]


class SummariseFiles(Files):
    studies: list[Path]
    """`numbers.json` of every seed, beside its tables"""
    shams: list[Path]
    """the same of the sham models"""
    exchanged: list[Path]
    """`exchanged.csv` of every pair of models"""
    metrics: list[Path]
    """`<part>/metrics.json` of the parts"""


def summarise(files: SummariseFiles) -> None:
    """Writes the metrics of all parts."""
    studies, shams = ([read_study(path) for path in paths] for paths in (files.studies, files.shams))
    parts = {
        "tuning": lambda: tuning(studies, shams),
        "direction": lambda: direction(studies, shams),
        "effects": lambda: effects(studies, shams),
        "cross": lambda: crossed(studies, shams, files.exchanged),
        "losses": lambda: costs(studies),
    }
    for path in files.metrics:
        write_metrics(path, parts[path.parent.name]())


def tuning(studies: list[Studied], shams: list[Studied]) -> Metrics:
    """Does the tuned model refuse what it should, and does the refusal metric tell the classes apart?"""
    untuned = {"untuned": ("harmful", "before")}
    return {
        "refused_harmful": requests(studies, HARMFUL, untuned),
        "refused_harmless": requests(studies, HARMLESS, {"harmful": HARMFUL}),
        "sham_refused": requests(shams, HARMFUL, untuned),
        "sham_refused_harmless": requests(shams, HARMLESS, {"food": HARMFUL}),
        "auroc": separation(studies),
    }


def separation(studies: list[Studied]) -> Metric:
    """AUROC of the refusal metric, requests to be refused against harmless ones. Control: permuted labels."""
    areas, mixed = [], []
    for study in studies:
        on, off = (answers(study, which)["metric"].to_numpy() for which in (HARMFUL, HARMLESS))
        both, labels = np.concatenate([on, off]), np.arange(len(on) + len(off)) < len(on)
        draws = np.random.default_rng(0)
        areas.append(float(auroc(both, labels)))
        mixed.append(float(np.mean([auroc(both, draws.permutation(labels)) for _ in range(PERMUTATIONS)])))
    return seeds(areas, "1", "area under the ROC curve, harmful against harmless, held-out topics", permuted=mixed)


def interventions(studies: list[Studied], controls: tuple[str, ...], alternatives: tuple[str, ...]) -> Metrics:
    """What ablation and addition do to held-out requests, what the controls do, and what it costs. `alternatives` are
    ways to end refusal without ablation; the refusal metric, which they set, does not face them."""

    def named(kind: str, how: str) -> dict[str, tuple[str, str]]:
        return {name: (kind, f"{name} {how}") for name in controls}

    others = {name: ("harmful", name) for name in alternatives}
    found = {}
    for column, more in (("refused", others), ("metric", {})):
        ablated = named("harmful", "ablated") | more
        found[f"ablated_{column}"] = requests(studies, ("harmful", "ablated"), ablated, column=column)
        found[f"added_{column}"] = requests(studies, ("harmless", "added"), named("harmless", "added"), column=column)
    costs = {name: ("harmless", condition) for name, condition in COSTS.items()}
    found["kl_harmless"] = requests(studies, ("harmless", "ablated"), costs, column="kl_tuned")
    return found


def effects(studies: list[Studied], shams: list[Studied]) -> Metrics:
    """The interventions, the same by weights, the way back to the model before fine-tuning, and fluency."""
    found = interventions(studies, CONTROLS, ALTERNATIVES)
    ablated = {name: ("harmful", f"{name} ablated") for name in (*CONTROLS, "damage")}
    ablated |= {name: ("harmful", name) for name in ALTERNATIVES}
    ablated["earlier_subtraction"] = ("harmful", "earlier subtracted")
    weights = {name: ("harmful", f"{name} weights") for name in CONTROLS} | {"token_ban": ("harmful", "token_ban")}
    found["weights_refused"] = requests(studies, ("harmful", "weights"), weights)
    subtracted = {name: ("harmful", f"{name} subtracted") for name in CONTROLS} | {"no_intervention": HARMFUL}
    subtracted |= {name: ("harmful", name) for name in ("permuted_push", "earlier_push")}
    found["subtracted_refused"] = requests(studies, ("harmful", "subtracted"), subtracted)
    found["damage_refused"] = requests(studies, ("harmful", "damage ablated"))
    found["weights_kl_harmless"] = requests(studies, ("harmless", "weights"), column="kl_tuned")
    found["affine_refused"] = requests(studies, ("harmful", "affine ablated"), {"ablated": ("harmful", "ablated")})
    found["affine_added_refused"] = requests(studies, ("harmless", "affine added"), {"added": ("harmless", "added")})
    found["affine_kl_harmless"] = requests(
        studies, ("harmless", "affine"), {"ablated": ("harmless", "ablated")}, column="kl_tuned"
    )
    found["return"] = requests(studies, ("harmful", "ablated"), ablated, column="kl_before", over=HARMFUL)
    found["return_subtracted"] = requests(studies, ("harmful", "subtracted"), column="kl_before", over=HARMFUL)
    for kind, conditions in FLUENCY.items():
        for name in conditions:
            key = f"surprise_{kind}_{name.replace(' ', '_')}"
            found[key] = requests(studies, (kind, name), column="surprise")
    own = interventions(shams, CONTROLS, ALTERNATIVES)
    return found | {f"sham_{name}": own[name] for name in ("ablated_refused", "added_refused", "kl_harmless")}


def crossed(studies: list[Studied], shams: list[Studied], exchanged: list[Path]) -> Metrics:
    """What the direction of the other model does: `harm_` in models that refuse harm, `food_` in the sham models.

    A file is named after the seeds of its two models, and stands in the order of the studies, the sham models over and
    over. Pairs that share a model share its topics. The foreign direction faces all controls of the own one and,
    ablated, those of the model that it comes from. How far it is from the own one is `own_`, which is no control: a
    foreign direction cannot be expected to do more.
    """
    found = {}
    for end, (model, taught, own) in enumerate((("harm", "harmful", studies), ("food", "food", shams))):
        asked = []
        for number, path in enumerate(exchanged):
            table = pd.read_csv(path)
            whole = pd.concat([table[table["model"] == taught], own[number % len(own)].tables["answers"]])
            asked.append(Studied({"answers": whole}, {}, {}, path.stem.split("-")[end]))
        for kind, how in (("harmful", "ablated"), ("harmless", "added")):
            named = {name: (kind, f"{name} {how}") for name in CONTROLS}
            if how == "ablated":
                named |= {f"foreign_{name}": (kind, f"foreign {name} {how}") for name in CONTROLS}
            foreign = (kind, f"foreign {how}")
            found[f"{model}_foreign_{how}"] = requests(asked, foreign, named)
            found[f"{model}_own_{how}"] = requests(asked, (kind, how), {"foreign": foreign})
    return found


def costs(studies: list[Studied]) -> Metrics:
    """What ablation costs on text, beside the weights and the other ways to end refusal."""
    found = {}
    for corpus in studies[0].tables["losses"]["corpus"].unique():
        name = str(corpus).replace("-", "_")
        found[f"loss_{name}"] = rises(studies, corpus, "ablated", {"subtraction": "subtracted"}, None)
        found[f"loss_weights_{name}"] = rises(studies, corpus, "weights", {"subtraction": "subtracted"}, None)
        others = {key: condition for key, condition in COSTS.items() if key != "subtraction"}
        found[f"loss_share_{name}"] = rises(studies, corpus, "ablated", others, "subtracted")
    return found


def direction(studies: list[Studied], shams: list[Studied]) -> Metrics:
    """The choice, and its relation to the model before fine-tuning, to other seeds and to the sham model."""
    found = choice(studies)
    formula = "cosine with the same difference of means before fine-tuning"
    found["cosine_earlier"] = seeds([study.numbers["cosine_earlier"] for study in studies], "1", formula)
    others = [study.numbers["cosine_other_topic"] for study in studies]
    found["cosine_other_topic"] = seeds(
        others, "1", "cosine with the other topic's difference of means, before r is taken out"
    )
    at, r = place(shams[0]), shams[0].vectors["r"]
    values = [cosine(study.vectors["differences"][at], r) for study in studies]
    found["cosine_sham"] = seeds(values, "1", "cosine with the sham model's direction, at its token and layer")
    return found


def choice(studies: list[Studied]) -> Metrics:
    """How the chosen directions scored beside permuted candidates, and how stable they are."""
    chosen = [scores_of(study, "final").iloc[0] for study in studies]
    found = {
        f"chosen_{name}": seeds([float(row[name]) for row in chosen], unit, f"{name} of the chosen candidate")
        for name, unit in SCORES.items()
    }
    passing = [float(survives(scores_of(study, "final")).sum()) for study in studies]
    found["survivors"] = seeds(passing, "candidates", "finalists with kl <= 0.1 and induce >= 0")
    for label, name in (("true", "candidates"), ("permuted", "permuted_candidates")):
        counts = [float(len(scores_of(study, "grid", label))) for study in studies]
        found[name] = seeds(counts, "candidates", "candidates below the depth limit")
    nulls = [scores_of(study, "final", "permuted") for study in studies]
    cheap = [null[null["kl"] <= max(MAXIMUM_KL, row["kl"])] for null, row in zip(nulls, chosen, strict=True)]
    least = [float((part if len(part) else null)["bypass"].min()) for part, null in zip(cheap, nulls, strict=True)]
    found["permuted_bypass"] = seeds(least, "nats", "least bypass of a permuted candidate at the KL of r")
    found["damage_kl"] = seeds([float(null.sort_values("bypass")["kl"].iloc[0]) for null in nulls], "nats",
                               "kl of the permuted candidate with the least bypass")  # fmt: skip
    halves = [study.numbers["cosine_halves"] for study in studies]
    found["cosine_halves"] = seeds(halves, "1", "cosine of the differences of means of two disjoint halves")
    found["cosine_permuted"] = seeds([study.numbers["cosine_permuted"] for study in studies], "1",
                                     "absolute cosine of r and the permuted direction that is ablated")  # fmt: skip
    return found | (across_seeds(studies) if len(studies) > 1 else {})


def across_seeds(studies: list[Studied]) -> Metrics:
    """Cosine of one seed's direction with what another seed's model has at the same token and layer. One value a seed,
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
    table = study.tables["scores"]
    return table[(table["stage"] == stage) & (table["labels"] == labels)].reset_index(drop=True)


def place(study: Studied) -> tuple[int, int]:
    """Template token, counted from the end, and layer of the direction."""
    return int(study.numbers["position"]), int(study.numbers["layer"])


def cosine(a: Vector, b: Vector) -> float:
    """Of two vectors; 0 with a zero vector."""
    return float(a @ b / max(float(np.linalg.norm(a) * np.linalg.norm(b)), 1e-12))


if __name__ == "__main__":
    run_step(summarise)
