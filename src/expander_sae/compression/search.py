"""The smallest degree that keeps a wanted share of the dense SAE's fidelity."""

import math
from collections.abc import Callable
from dataclasses import dataclass

from expander_sae.records import EvaluationRecord, ExpanderSaeError

DEGREES = (1, 2, 3, 4, 5, 6, 7, 8, 10, 12, 14, 16, 20, 24, 28, 32, 40, 48, 56, 64, 80, 96, 128, 160, 192, 256, 384, 512)
"""The degrees that `--degree auto` may end at, up to half of d_in."""

METRICS = ("ce_recovered", "explained_variance")


@dataclass(frozen=True)
class Target:
    """Which share of the dense SAE's metric has to be kept."""

    retention: float = 0.95
    metric: str = "ce_recovered"
    """"ce_recovered" (in both forms) or "explained_variance"."""

    def __post_init__(self) -> None:
        if self.metric not in METRICS:
            raise ExpanderSaeError(f"expected a target metric out of {', '.join(METRICS)}; got {self.metric!r}")
        if not 0 < self.retention < math.inf:
            raise ExpanderSaeError(f"expected a positive retention; got {self.retention}")

    def kept(self, dense: EvaluationRecord, compressed: EvaluationRecord) -> float:
        """The share that is kept: of the worse form, where there are two.

        Raises:
            ExpanderSaeError: cross entropy was not measured, or the dense SAE has nothing to keep.
        """
        names = ("ce_recovered_zero", "ce_recovered_mean") if self.metric == "ce_recovered" else (self.metric,)
        shares = []
        for name in names:
            above, below = getattr(compressed, name), getattr(dense, name)
            if above is None or below is None:
                raise ExpanderSaeError(
                    f"expected {name} to search by; got none: no language model ran. Give one, or take "
                    "explained_variance."
                )
            if not below > 0 or not math.isfinite(above):
                raise ExpanderSaeError(
                    f"expected a dense SAE whose {name} is above 0, to keep a share of; got {below}, and "
                    f"{above} after compression. A degree can be chosen by hand."
                )
            shares.append(above / below)
        return min(shares)


FIRST, STEP = DEGREES.index(16), 4
"""Where the search begins, and how many entries up it goes while that is not enough (a doubling of the degree)."""


def smallest_degree(retention_at: Callable[[int], float], wanted: float, d_in: int) -> int:
    """The smallest of `DEGREES` with `retention_at(degree) >= wanted`, if retention grows with the degree.

    Begins at degree 16, doubles while that is not enough, and bisects below: high degrees, which take longest to train,
    are tried only where they are needed.

    Raises:
        ExpanderSaeError: not even half of d_in is enough.

    Example:
        >>> smallest_degree(lambda degree: 1 - 1 / degree, 0.9, 64)
        10
    """
    ladder = [degree for degree in DEGREES if degree <= max(1, d_in // 2)] or [1]
    low, high = 0, min(FIRST, len(ladder) - 1)
    while retention_at(ladder[high]) < wanted:
        if high == len(ladder) - 1:
            raise ExpanderSaeError(
                f"degree {ladder[high]} keeps less than {wanted:.3f} of the dense SAE: there is nothing to be saved at "
                "this target. Lower it, or fine-tune on more tokens."
            )
        low, high = high + 1, min(high + STEP, len(ladder) - 1)
    while low < high:  # the ladder's entry at `high` is known to be enough
        middle = (low + high) // 2
        if retention_at(ladder[middle]) >= wanted:
            high = middle
        else:
            low = middle + 1
    return ladder[high]
