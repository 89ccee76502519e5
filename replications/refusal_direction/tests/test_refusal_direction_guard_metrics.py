"""Metrics of the guardrail from tables made by hand."""

import numpy as np
import pandas as pd
import pytest

from replications.refusal_direction.guard_metrics import attacks_of, guard_metrics


def planted(refused: dict[str, int], seed: int) -> pd.DataFrame:
    """Tables in which every request of a condition has the same outcome."""
    names = ["free", "guarded", "guarded: permuted", "guarded, error dropped"]
    for name in ("removed", "optimised 0.25", "optimised 0.5"):
        names += [name, *(f"{name}{end}" for end in (": latents", ": error", ", error dropped", ": random"))]
    rows = [("before", name) for name in names]
    zero = ("zero, error kept", "zero, error dropped", "zero, error recomputed", "zero: permuted", "reconstruction")
    rows += [("tuned", name) for name in ("free", *zero)]
    tables = [
        pd.DataFrame({"item": range(6), "topic": ["a", "b"] * 3}).assign(
            model=model,
            condition=name,
            refused=refused.get(name, 0),
            metric=2.0 * refused.get(name, 0),
            refused_by_phrase=1 - refused.get(name, 0),
            kl=1.0 + 3 * refused.get(name, 0) + seed,
            reads=1.0,
        )
        for model, name in rows
        for _ in range(2 if name.endswith(("random", "permuted")) else 1)
    ]
    return pd.concat(tables, ignore_index=True).assign(seed=seed)


def test_metrics_of_a_planted_leak():
    refused = {"guarded": 1, "removed: random": 1, "optimised 0.5: random": 1, "optimised 0.5: latents": 1}
    conditions = pd.concat([planted(refused, seed) for seed in range(2)])
    assert attacks_of(conditions) == ["removed", "optimised 0.5"]
    keys = ("auroc", "auroc_permuted", "fvu", "fvu_before", "multiple", "row_and_r")
    found = guard_metrics(conditions, pd.DataFrame({key: [0.5, 0.6] for key in keys}))
    values = {name: metric.value for name, metric in found.items()}
    values |= {f"{name} of {one.name}": one.value for name, metric in found.items() for one in metric.controls}
    assert (values["guarded_refused"], values["removed_refused"], values["removed_refused of random_shifts"]) == (
        1,
        0,
        1,
    )
    assert found["removed_refused"].control("random_shifts").difference.value == -1
    assert (values["guarded_refused_by_phrase"], values["removed_refused_by_phrase"]) == (0, 1)
    assert found["removed_refused_by_phrase"].control("random_shifts").difference.value == 1
    assert values["fvu_before"] == pytest.approx(0.55)
    assert (values["optimised_by_error"], values["optimised_by_error of other_latents"]) == pytest.approx((1, 0))
    assert values["removed_return"] == pytest.approx(np.mean([1, 2]) / np.mean([4, 5]))
    assert found["removed_refused"].per_seed == [0, 0]
    assert found["removed_refused"].n == 12
