"""The rule by which a candidate is chosen (Arditi et al. 2024, section 2.3 and appendix), on a table of scores."""

import pandas as pd

MAXIMUM_KL, MINIMUM_INDUCE, DEPTH = 0.1, 0.0, 0.8


def survives(table: pd.DataFrame) -> pd.Series:
    """Which candidates pass the filters on KL and induction; all scored ones lie below the depth limit."""
    return (table["kl"] <= MAXIMUM_KL) & (table["induce"] >= MINIMUM_INDUCE)


def ranked(table: pd.DataFrame, filters: bool) -> pd.DataFrame:
    """Survivors by bypass, then the others by bypass."""
    if not filters:
        return table.sort_values("bypass", kind="stable")
    return table.assign(fails=~survives(table)).sort_values(["fails", "bypass"], kind="stable").drop(columns="fails")
