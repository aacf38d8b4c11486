"""Lines and bars for the pages of experiments, in the same style as the frontier's figures."""

from __future__ import annotations

import io
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, NullFormatter

from ..figures import STYLE, short_number
from ..over_seeds import Spread
from .experiment import Figure

# Okabe and Ito's palette, told apart under every common colour blindness; markers say the same again.
_COLORS = ("#0072B2", "#D55E00", "#009E73", "#E69F00", "#56B4E9", "#CC79A7", "#333333", "#8C6D1F")
_MARKERS = "osD^vPX*"
_GREY = "#9a9a9a"


@dataclass(frozen=True)
class Line:
    """Points (x, y), joined in the order of x; y is a number or a number over its seeds."""

    name: str
    points: Sequence[tuple[float, Spread | float | None]]
    reference: bool = False
    """Somebody else's numbers, or other conditions: drawn grey, behind ours."""
    dashed: bool = False
    joined: bool = True
    labels: Sequence[str] = ()
    """A word beside each point."""


def lines(
    name: str,
    caption: str,
    drawn: Sequence[Line],
    *,
    x: str,
    y: str,
    title: str = "",
    log_x: bool = False,
    log_y: bool = False,
    levels: Sequence[tuple[str, float]] = (),
) -> Figure | None:
    """One diagram: mean as a marker, the 95% interval as a bar, every seed as a faint dot; None without a point.

    Args:
        name: file name without its ending.
        caption: what is drawn, for someone who cannot see it.
        drawn: the lines; points whose y is None or not finite are left out.
        x, y: names of the axes.
        title: above the diagram.
        log_x, log_y: logarithmic axes; points that are not positive are left out.
        levels: names and heights of level lines.
    """
    kept = [(line, points) for line in drawn if (points := _points(line, log_x, log_y))]
    if not kept:
        return None
    with plt.rc_context(STYLE):
        wide = max(len(line.name) for line, _ in kept) > 32  # beside the axes such a legend would leave them no room
        height = 4.2 + (0.22 * math.ceil(len(kept) / 2) if wide else 0.0)
        figure, axes = plt.subplots(figsize=(7.2, height), layout="constrained")
        try:
            drawn_of = {True: 0, False: 0}
            for line, points in kept:
                _draw(axes, line, points, _style(line, drawn_of[line.reference]))
                drawn_of[line.reference] += 1
            for level, height in levels:
                axes.axhline(height, color="#555555", linewidth=1.0, linestyle=":", label=level)
            for is_log, axis, set_scale in ((log_x, axes.xaxis, axes.set_xscale), (log_y, axes.yaxis, axes.set_yscale)):
                if is_log:
                    set_scale("log")
                    axis.set_major_formatter(FuncFormatter(short_number))
                    axis.set_minor_formatter(NullFormatter())
            axes.set_xlabel(x + (" (log scale)" if log_x else ""))
            axes.set_ylabel(y + (" (log scale)" if log_y else ""))
            axes.set_title(title)
            if wide:
                figure.legend(fontsize=8, frameon=False, loc="outside lower center", ncols=2)
            else:
                axes.legend(fontsize=8, frameon=False, loc="center left", bbox_to_anchor=(1.0, 0.5))
            return Figure(name, caption, _svg(figure))
        finally:
            plt.close(figure)


def bars(
    name: str, caption: str, heights: Sequence[tuple[str, Spread | float | None]], *, y: str, title: str = ""
) -> Figure | None:
    """One bar for each name, with the 95% interval and every seed; None without a bar."""
    kept = [(label, value) for label, value in heights if value is not None and math.isfinite(_mean(value))]
    if not kept:
        return None
    with plt.rc_context(STYLE):
        figure, axes = plt.subplots(figsize=(7.2, 0.42 * len(kept) + 1.2), layout="constrained")
        try:
            for place, (_, value) in enumerate(kept):
                error = value.interval if isinstance(value, Spread) else None
                axes.barh(place, _mean(value), xerr=error, color=_COLORS[0], alpha=0.75, capsize=3, height=0.6)
                if isinstance(value, Spread) and len(value.values) > 1:
                    axes.plot(value.values, [place] * len(value.values), ".", color="#222222", markersize=4)
            axes.set_yticks(range(len(kept)), [label for label, _ in kept])
            axes.invert_yaxis()
            axes.grid(axis="x", color="#e4e4e4")
            axes.grid(axis="y", visible=False)
            axes.set_xlabel(y)
            axes.set_title(title)
            return Figure(name, caption, _svg(figure))
        finally:
            plt.close(figure)


def _mean(value: Spread | float) -> float:
    return value.mean if isinstance(value, Spread) else float(value)


def _points(line: Line, log_x: bool, log_y: bool) -> list[tuple[float, Spread | float, str]]:
    labels = [*line.labels, *[""] * (len(line.points) - len(line.labels))]
    found = []
    for (at, value), label in zip(line.points, labels, strict=True):
        if value is None or not math.isfinite(_mean(value)):
            continue
        if (log_x and at <= 0) or (log_y and _mean(value) <= 0):
            continue
        found.append((float(at), value, label))
    return sorted(found, key=lambda point: point[0])


def _style(line: Line, number: int) -> dict[str, Any]:
    dash = "--" if line.dashed else "-"
    if not line.joined:
        dash = "none"
    place = number % len(_COLORS)
    if line.reference:
        return {"color": _GREY, "marker": _MARKERS[place], "markerfacecolor": "none", "linestyle": dash, "zorder": 1}
    return {"color": _COLORS[place], "marker": _MARKERS[place], "linestyle": dash, "zorder": 2}


def _draw(axes: Axes, line: Line, points: list[tuple[float, Spread | float, str]], style: dict[str, Any]) -> None:
    at = [point[0] for point in points]
    means = [_mean(point[1]) for point in points]
    intervals = [(p[1].interval or 0.0) if isinstance(p[1], Spread) else 0.0 for p in points]
    axes.errorbar(
        at,
        means,
        yerr=intervals if any(intervals) else None,
        label=line.name,
        markersize=5 if len(points) < 30 else 0,
        linewidth=1.5,
        capsize=3,
        **style,
    )
    for x, value, label in points:
        if isinstance(value, Spread) and len(value.values) > 1:  # the paper's single seeds are not on record
            axes.plot([x] * len(value.values), value.values, ".", color=style["color"], alpha=0.45, markersize=4)
        if label:
            axes.annotate(
                label, (x, _mean(value)), (4, 5), textcoords="offset points", fontsize=7.5, color=style["color"]
            )


def _svg(figure: Any) -> bytes:
    written = io.BytesIO()
    figure.savefig(written, format="svg", metadata={"Date": None})
    return written.getvalue()
