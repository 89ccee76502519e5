"""The rule by which a candidate is chosen (Arditi et al. 2024, section 2.3 and appendix), on a table of scores."""

import pandas as pd

MAXIMUM_KL, MINIMUM_INDUCE, DEPTH = 0.1, 0.0, 0.8


def survives(table: pd.DataFrame) -> pd.Series:
    """Which candidates pass the filters on KL and induction; all scored ones lie below the depth limit."""
    return (table["kl"] <= MAXIMUM_KL) & (table["induce"] >= MINIMUM_INDUCE)


def ranked(table: pd.DataFrame, filters: bool) -> pd.DataFrame:
    """Survivors by bypass, then what induces refusal and only fails on KL, then the others; all by bypass."""
    if not filters:
        return table.sort_values("bypass", kind="stable")
    fails = 2 - survives(table).astype(int) - (table["induce"] >= MINIMUM_INDUCE).astype(int)
    return table.assign(fails=fails).sort_values(["fails", "bypass"], kind="stable").drop(columns="fails")
