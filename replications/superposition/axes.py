"""The axes of a grid of cells."""

import numpy as np

from replications.superposition.training_settings import Span


def spaced(span: Span) -> list[float]:
    """`span.cells` values from first to last, evenly spaced on a log scale; the ends are exact."""
    return [float(value) for value in np.geomspace(span.first, span.last, span.cells)]
