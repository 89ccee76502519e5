"""From the tables of `benchmarks` to metrics: means over tasks, pairs or classes per seed, intervals over seeds."""

import pandas as pd

from common.records import Metric
from common.statistics import over_seeds

KS = (1, 2, 5)
ABLATED = (5, 20)
FLAGGED = "flagged call"
VIEWS = ("whole window", "without its name", "before it")
SHORT = {"latents": "latents", "random": "random", "principal components": "pca", "coordinates": "coordinates",
         "soft-frozen": "soft", "frozen": "frozen"}  # fmt: skip


def probe_metrics(frame: pd.DataFrame) -> dict[str, Metric]:
    """Means over tasks for each seed; the task on flagged calls apart and per view."""
    whole = frame[frame["view"] == VIEWS[0]]

    def series(part: pd.DataFrame, features: str, k: int) -> list[float]:
        own = part[(part["features"] == features) & (part["k"] == k)]
        return [float(one) for one in own.groupby("seed", sort=False)["accuracy"].mean()]

    formula = "balanced accuracy on groups outside training, mean over tasks and splits: "
    values: dict[str, tuple[list[float], str]] = {}
    for features, name in SHORT.items():
        for k in KS:
            values[f"probe_{name}_k{k}"] = (series(whole, features, k), f"{formula}{k} of the {features}")
    values["probe_plain"] = (series(whole, "coordinates", 0), formula + "all coordinates")
    values["probe_all_latents"] = (series(whole, "latents", 0), formula + "all latents")
    for features in ("coordinates", "latents"):
        null = series(whole, f"{features}, shuffled", 5)
        values[f"probe_{SHORT[features]}_shuffled"] = (null, formula + f"5 {features}, labels shuffled over windows")
    for view, name in zip(VIEWS, ("seen", "unnamed", "before"), strict=True):
        part = frame[(frame["task"] == FLAGGED) & (frame["view"] == view)]
        about = f"flagged or ordinary call, {view}: balanced accuracy, "
        values[f"flagged_{name}"] = (series(part, "latents", 5), about + "5 latents")
        values[f"flagged_{name}_random"] = (series(part, "random", 5), about + "5 random directions")
        values[f"flagged_{name}_plain"] = (series(part, "coordinates", 0), about + "all coordinates")
    null = series(frame[(frame["task"] == FLAGGED) & (frame["view"] == VIEWS[0])], "latents, shuffled", 5)
    values["flagged_shuffled"] = (null, "flagged or ordinary call, 5 latents: labels shuffled over windows")
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
        gaps = [a - b for a, b in zip(values[left][0], values[right][0], strict=True)]
        values[name] = (gaps, f"{left} minus {right}")
    return {name: over_seeds(own, unit="share", formula=formula) for name, (own, formula) in values.items()}


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
    values = {short: [float(one) for one in by_seed[what]] for what, short in names.items()}
    formulas = {short: f"{what}, mean" for what, short in names.items()}
    for name in ("contrast", "contrast_elsewhere", *(f"tpp_n{n}" for n in ABLATED)):
        for floor in ("random", "coordinates", "plain"):
            if f"{name}_{floor}" in values:
                pairs = zip(values[name], values[f"{name}_{floor}"], strict=True)
                values[f"{name}_minus_{floor}"] = [a - b for a, b in pairs]
                formulas[f"{name}_minus_{floor}"] = f"{name} minus {name}_{floor}"
    units = {name: "standard deviations" if name.startswith("contrast") else "share" for name in values}
    return {name: over_seeds(own, unit=units[name], formula=formulas[name]) for name, own in values.items()}
