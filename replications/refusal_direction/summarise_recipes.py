"""Step: the table recipe by number of directions removed, from the answers of every model. Loads no model."""

from pathlib import Path

import pandas as pd

from common.core.metrics import write_metrics
from common.core.step import Files, run_step
from replications.refusal_direction.comparisons import Condition, Metrics, Studied, requests


class SummariseRecipesFiles(Files):
    answers: list[Path]
    """`<seed>-<rank>.csv` of every model"""
    metrics: Path


def summarise_recipes(files: SummariseRecipesFiles) -> None:
    """Writes the metrics of the part `recipes`."""
    tables = [pd.read_csv(path).assign(seed=path.stem.split("-")[0], rank=int(path.stem.split("-")[1]))
              for path in files.answers]  # fmt: skip
    write_metrics(files.metrics, by_recipe(pd.concat(tables)))


def by_recipe(table: pd.DataFrame) -> Metrics:
    """Refusals of each recipe before and after directions are removed, `left_<recipe>_<k>`, and the KL paid for it,
    `kl_<recipe>_<k>`. Recipes of one seed share their requests: `full_left_<k>` is what free weights leave, with the
    other recipes as controls. `refused_least` is the recipe that refuses least before: one that hardly refuses has
    nothing to lose."""
    table = table.assign(condition=table["rank"].map(name_of) + " " + table["vectors"]
                         + " " + table["directions"].astype(str))  # fmt: skip
    studies = [Studied({"answers": part}, {}, {}) for _, part in table.groupby("seed", sort=False)]
    names = [name_of(rank) for rank in table["rank"].unique().tolist()]
    counts = sorted(set(table["directions"]) - {0})

    def at(recipe: str, count: int, vectors: str = "found", kind: str = "harmful") -> Condition:
        return kind, f"{recipe} {vectors} {count}"

    found = {}
    for recipe in names:
        found[f"left_{recipe}_0"] = requests(studies, at(recipe, 0, "none"))
        found[f"refused_harmless_{recipe}"] = requests(studies, at(recipe, 0, "none", "harmless"))
        for count in counts:
            random = {"random": at(recipe, count, "random")}
            found[f"left_{recipe}_{count}"] = requests(studies, at(recipe, count), random)
            kl = at(recipe, count, kind="harmless")
            found[f"kl_{recipe}_{count}"] = requests(studies, kl, column="kl_tuned")
    found["refused_least"] = min((found[f"left_{recipe}_0"] for recipe in names), key=lambda metric: metric.value)
    for count in counts if "full" in names else ():
        others = {recipe: at(recipe, count) for recipe in names if recipe != "full"}
        found[f"full_left_{count}"] = requests(studies, at("full", count), others)
    return found


def name_of(rank: int) -> str:
    """`rank_16`; `full` for free weights."""
    return f"rank_{rank}" if rank else "full"


if __name__ == "__main__":
    run_step(summarise_recipes)
