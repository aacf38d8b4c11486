"""Choosing columns by score."""

from torch import Tensor

SMALLEST_SCORE = 1e-5
"""A score at or below this part of ||x - center|| is rounding, not signal: nothing is picked on it."""
ITERATIONS = 50
"""Of cosamp and niht, at most."""


def score(correlations: Tensor, signed: bool) -> Tensor:
    """What a column is picked by: `|<w_j, r>|` if signed, otherwise `<w_j, r>`."""
    return correlations.abs() if signed else correlations
