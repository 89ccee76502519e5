"""The rule by which a candidate is chosen (Arditi et al. 2024, section 2.3 and appendix), on a table of scores."""

import pandas as pd

MAXIMUM_KL, MINIMUM_INDUCE, DEPTH = 0.1, 0.0, 0.8


def survives(table: pd.DataFrame) -> pd.Series:
    """Which candidates pass the filters on KL and induction; all scored ones lie below the depth limit."""
    return (table["kl"] <= MAXIMUM_KL) & (table["induce"] >= MINIMUM_INDUCE)


def works(table: pd.DataFrame) -> pd.Series:
    """Which end refusal when ablated and induce it when added."""
    return (table["bypass"] < 0) & (table["induce"] >= MINIMUM_INDUCE)


def ranked(table: pd.DataFrame) -> pd.DataFrame:
    """Survivors by bypass; then what ends refusal when ablated and induces it when added, the least KL first; then the
    others by bypass."""
    fails = 2 - (survives(table) | works(table)).astype(int) - survives(table).astype(int)
    order = table["kl"].where(fails == 1, table["bypass"])
    return table.assign(fails=fails, order=order).sort_values(["fails", "order"], kind="stable")[list(table.columns)]
