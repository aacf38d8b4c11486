"""Shares of successes: Wilson intervals, cells, lines with bands, and maps over two sizes."""

from __future__ import annotations

import io
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib import pyplot as plt

from ..figures import STYLE
from .drawing import _COLORS, _MARKERS
from .experiment import Figure

_Z = 1.959963985  # 95%, two-sided


def wilson(successes: int, trials: int) -> tuple[float, float]:
    """The 95% interval of a probability after so many successes in so many trials.

    Source: Wilson, "Probable inference", J. American Statistical Association 22, 1927.

    Example:
        >>> low, high = wilson(10, 10)
        >>> round(low, 3), high
        (0.722, 1.0)
    """
    if not trials:
        return 0.0, 1.0
    share, square = successes / trials, _Z * _Z / trials
    middle = share + square / 2
    half = _Z * math.sqrt(share * (1 - share) / trials + square / (4 * trials))
    low = 0.0 if not successes else max(0.0, (middle - half) / (1 + square))
    high = 1.0 if successes == trials else min(1.0, (middle + half) / (1 + square))
    return low, high


def rate_text(successes: int, trials: int) -> str:
    """A cell: the share, and its interval below."""
    low, high = wilson(successes, trials)
    return f"{successes / trials:.2f}\n{low:.2f} to {high:.2f}"


Points = Sequence[tuple[float, int, int]]
"""(x, successes, trials)."""


def rate_lines(
    name: str, caption: str, drawn: Sequence[tuple[str, Points]], *, x: str, title: str = "", grey: Sequence[str] = ()
) -> Figure | None:
    """Success rates against x with their 95% intervals as bands; the lines named in `grey` are somebody else's."""
    if not any(points for _, points in drawn):
        return None
    with plt.rc_context(STYLE):
        figure, axes = plt.subplots(figsize=(7.2, 4.2), layout="constrained")
        for place, (label, points) in enumerate(drawn):
            if not points:
                continue
            ordered = sorted(points)
            at = [point[0] for point in ordered]
            rates = [point[1] / point[2] for point in ordered]
            bounds = np.array([wilson(point[1], point[2]) for point in ordered])
            color, marker = _COLORS[place % len(_COLORS)], _MARKERS[place % len(_MARKERS)]
            if label in grey:
                color, marker = "#9a9a9a", "x"
            axes.plot(at, rates, color=color, marker=marker, markersize=5, linewidth=1.5, label=label)
            axes.fill_between(at, bounds[:, 0], bounds[:, 1], color=color, alpha=0.15, linewidth=0)
        axes.set_xscale("log", base=2)
        ticks = sorted({point[0] for _, points in drawn for point in points})
        axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
        axes.set_ylim(-0.03, 1.03)
        axes.set_xlabel(x)
        axes.set_ylabel("exact supports, share")
        axes.set_title(title)
        axes.legend(fontsize=8, frameon=False, loc="center left", bbox_to_anchor=(1.0, 0.5))
        return Figure(name, caption, _svg(figure))


def rate_map(
    name: str, caption: str, rates: Sequence[tuple[str, int, float]], *, x: str, y: str, title: str = ""
) -> Figure | None:
    """A map of success rates: (row, column, rate), rows from the top in the order given."""
    if not rates:
        return None
    rows, columns = list(dict.fromkeys(r[0] for r in rates)), sorted({r[1] for r in rates})
    grid = np.full((len(rows), len(columns)), np.nan)
    for row, column, rate in rates:
        grid[rows.index(row), columns.index(column)] = rate
    with plt.rc_context(STYLE):
        figure, axes = plt.subplots(figsize=(7.2, 0.4 * len(rows) + 1.4), layout="constrained")
        shown = axes.imshow(grid, vmin=0, vmax=1, cmap="cividis", aspect="auto")
        for i, j in np.ndindex(*grid.shape):
            if not np.isnan(grid[i, j]):
                tone = "black" if grid[i, j] > 0.55 else "white"
                axes.text(j, i, f"{grid[i, j]:.2f}", ha="center", va="center", fontsize=7.5, color=tone)
        axes.grid(visible=False)
        axes.set_xticks(range(len(columns)), [str(column) for column in columns])
        axes.set_yticks(range(len(rows)), rows)
        axes.set_xlabel(x)
        axes.set_ylabel(y)
        axes.set_title(title)
        figure.colorbar(shown, ax=axes, label="exact supports, share")
        return Figure(name, caption, _svg(figure))


def _svg(figure: Any) -> bytes:
    written = io.BytesIO()
    figure.savefig(written, format="svg", metadata={"Date": None})
    plt.close(figure)
    return written.getvalue()
