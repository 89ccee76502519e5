"""From the tables of `benchmarks` to metrics: means over tasks, pairs or classes per seed, intervals over seeds."""

import pandas as pd

from common.core.metrics import Metric
from common.core.tables import Seeded

KS = (1, 2, 5)
ABLATED = (5, 20)
FLAGGED = "flagged call"
VIEWS = ("whole window", "without its name", "before it")
SHORT = {"latents": "latents", "random": "random", "principal components": "pca", "coordinates": "coordinates",
         "soft-frozen": "soft", "frozen": "frozen"}  # fmt: skip


def probe_metrics(frame: pd.DataFrame) -> dict[str, Metric]:
    """Means over tasks for each seed; the task on flagged calls apart and per view."""
    whole, found = frame[frame["view"] == VIEWS[0]], Seeded()

    def add(name: str, part: pd.DataFrame, features: str, k: int, formula: str) -> None:
        own = part[(part["features"] == features) & (part["k"] == k)]
        found.add(name, own.groupby("seed", sort=False)["accuracy"].mean().tolist(), "share", formula)

    formula = "balanced accuracy on groups outside training, mean over tasks and splits: "
    for features, name in SHORT.items():
        for k in KS:
            add(f"probe_{name}_k{k}", whole, features, k, f"{formula}{k} of the {features}")
    add("probe_plain", whole, "coordinates", 0, formula + "all coordinates")
    add("probe_all_latents", whole, "latents", 0, formula + "all latents")
    for features in ("coordinates", "latents"):
        about = f"{formula}5 {features}, labels shuffled over windows"
        add(f"probe_{SHORT[features]}_shuffled", whole, f"{features}, shuffled", 5, about)
    for view, name in zip(VIEWS, ("seen", "unnamed", "before"), strict=True):
        part = frame[(frame["task"] == FLAGGED) & (frame["view"] == view)]
        about = f"flagged or ordinary call, {view}: balanced accuracy, "
        add(f"flagged_{name}", part, "latents", 5, about + "5 latents")
        add(f"flagged_{name}_random", part, "random", 5, about + "5 random directions")
        add(f"flagged_{name}_plain", part, "coordinates", 0, about + "all coordinates")
    about = "flagged or ordinary call, 5 latents: labels shuffled over windows"
    add("flagged_shuffled", whole[whole["task"] == FLAGGED], "latents, shuffled", 5, about)
    pairs = {
        "flagged_seen_minus_shuffled": ("flagged_seen", "flagged_shuffled"),
        "probe_latents_minus_random": ("probe_latents_k1", "probe_random_k1"),
        "probe_latents_minus_random_k5": ("probe_latents_k5", "probe_random_k5"),
        "probe_latents_minus_pca": ("probe_latents_k5", "probe_pca_k5"),
        "probe_latents_minus_coordinates": ("probe_latents_k5", "probe_coordinates_k5"),
        "probe_plain_minus_latents": ("probe_plain", "probe_latents_k5"),
        "probe_plain_minus_all_latents": ("probe_plain", "probe_all_latents"),
        "probe_plain_minus_shuffled": ("probe_coordinates_shuffled", "probe_latents_shuffled"),
        "flagged_seen_minus_random": ("flagged_seen", "flagged_seen_random"),
    }
    pairs["probe_plain_gap_difference"] = ("probe_plain_minus_latents", "probe_plain_minus_shuffled")
    for name, (left, right) in pairs.items():
        found.minus(name, left, right)
    return found.found


def other_metrics(frame: pd.DataFrame) -> dict[str, Metric]:
    """Contrast scores and targeted perturbation, means for each seed."""
    names = {"contrast of a plain probe, chosen elsewhere": "contrast_elsewhere_plain"}
    for kind, end in (("latents", ""), ("random", "_random"), ("coordinates", "_coordinates")):
        names[f"contrast of {kind}"] = f"contrast{end}"
        names[f"contrast of {kind}, chosen elsewhere"] = f"contrast_elsewhere{end}"
    names["tpp of the probe's direction"] = "tpp_probe"
    for n in ABLATED:
        names |= {f"tpp of {n} latents": f"tpp_n{n}", f"tpp of {n} random latents": f"tpp_n{n}_random"}
        names[f"tpp of {n} coordinates"] = f"tpp_n{n}_coordinates"
    by_seed = frame.groupby(["what", "seed"], sort=False)["value"].mean()
    found = Seeded()
    for what, short in names.items():
        unit = "standard deviations" if short.startswith("contrast") else "share"
        found.add(short, by_seed[what].tolist(), unit, f"{what}, mean")
    for name in ("contrast", "contrast_elsewhere", *(f"tpp_n{n}" for n in ABLATED)):
        for floor in ("random", "coordinates", "plain"):
            if f"{name}_{floor}" in found.found:
                found.minus(f"{name}_minus_{floor}", name, f"{name}_{floor}")
    return found.found
