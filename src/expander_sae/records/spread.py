"""One number over its seeds, one share over its trials: mean, 95% interval, and every value."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable
from dataclasses import dataclass, field

# t_{0.975} for 1 to 30 degrees of freedom (Student's distribution, two-sided 95%).
_QUANTILES = (
    12.706205, 4.302653, 3.182446, 2.776445, 2.570582, 2.446912, 2.364624, 2.306004, 2.262157, 2.228139,
    2.200985, 2.178813, 2.160369, 2.144787, 2.131450, 2.119905, 2.109816, 2.100922, 2.093024, 2.085963,
    2.079614, 2.073873, 2.068658, 2.063899, 2.059539, 2.055529, 2.051831, 2.048407, 2.045230, 2.042272,
)  # fmt: skip
_Z = 1.959963985  # t_{0.975} of endless ones, the normal distribution


@dataclass(frozen=True)
class Spread:
    """One metric of one variant over its seeds."""

    mean: float
    std: float | None
    """Sample standard deviation; None with a single seed."""
    low: float
    high: float
    seeds: int
    interval: float | None = None
    """Half width of the 95% interval of the mean, t_{0.975, seeds - 1} std / sqrt(seeds); None with a single seed."""
    values: tuple[float, ...] = field(default=())
    """Every seed's value, in the order of the records."""

    def text(self, digits: int = 3) -> str:
        """`mean ± interval`, and on a second line every seed's value where there are several."""
        if self.interval is None:
            return f"{self.mean:,.{digits}f}"
        seeds = ", ".join(f"{value:,.{digits}f}" for value in self.values)
        return f"{self.mean:,.{digits}f} ± {self.interval:,.{digits}f}\n{seeds}"


def spread(values: Iterable[float | None]) -> Spread | None:
    """Mean, standard deviation, range and 95% interval of the finite values; None where there are none.

    The interval is that of a mean of independent normal values with unknown variance: with three seeds it is 2.5 sample
    standard deviations to either side, which is what three seeds can say.

    Example:
        >>> spread([1.0, 2.0, 3.0]).text(1)
        '2.0 ± 2.5\\n1.0, 2.0, 3.0'
    """
    found = tuple(value for value in values if value is not None and math.isfinite(value))
    if not found:
        return None
    std = interval = None
    if len(found) > 1:
        std = statistics.stdev(found)
        interval = t_quantile(len(found) - 1) * std / math.sqrt(len(found))
    return Spread(statistics.fmean(found), std, min(found), max(found), len(found), interval, found)


@dataclass(frozen=True)
class Rate:
    """How many of so many trials succeeded."""

    successes: int
    trials: int

    @property
    def share(self) -> float:
        """Successes over trials."""
        return self.successes / self.trials

    def interval(self) -> tuple[float, float]:
        """The 95% interval of the probability of success.

        Source: Wilson, "Probable inference", J. American Statistical Association 22, 1927.

        Example:
            >>> low, high = Rate(10, 10).interval()
            >>> round(low, 3), high
            (0.722, 1.0)
        """
        if not self.trials:
            return 0.0, 1.0
        share, square = self.share, _Z * _Z / self.trials
        middle = share + square / 2
        half = _Z * math.sqrt(share * (1 - share) / self.trials + square / (4 * self.trials))
        low = 0.0 if not self.successes else max(0.0, (middle - half) / (1 + square))
        high = 1.0 if self.successes == self.trials else min(1.0, (middle + half) / (1 + square))
        return low, high

    def text(self) -> str:
        """The share, and on a second line its interval."""
        low, high = self.interval()
        return f"{self.share:.2f}\n{low:.2f} to {high:.2f}"


def t_quantile(freedom: int) -> float:
    """t_{0.975} with so many degrees of freedom; above 30 by the Cornish-Fisher series, right to four digits."""
    if freedom <= len(_QUANTILES):
        return _QUANTILES[freedom - 1]
    z = _Z
    first = (z**3 + z) / 4
    second = (5 * z**5 + 16 * z**3 + 3 * z) / 96
    return z + first / freedom + second / freedom**2
