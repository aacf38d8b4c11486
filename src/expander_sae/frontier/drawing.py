"""Every figure of a page: lines, bars, quality against speed, and shares of successes, in one style."""

from __future__ import annotations

import io
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import matplotlib
import numpy as np

matplotlib.use("Agg")

from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, NullFormatter

from expander_sae.paper import Curve
from expander_sae.records.metrics import METRIC
from expander_sae.records.spread import Rate, Spread

from .families import FAMILY
from .page import Figure
from .results import Summary

STYLE: Any = {
    "font.size": 10,
    "font.family": "DejaVu Sans",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": "#555555",
    "axes.titlesize": 11,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.grid": True,
    "axes.grid.axis": "y",
    "grid.color": "#e4e4e4",
    "svg.hashsalt": "expander-sae",
}
# Okabe and Ito's palette, told apart under every common colour blindness; markers say the same again.
_COLORS = ("#0072B2", "#D55E00", "#009E73", "#E69F00", "#56B4E9", "#CC79A7", "#333333", "#8C6D1F")
_MARKERS = "osD^vPX*"
_READINGS = "osD^vP*X<>"
_GREY = "#9a9a9a"
_BESIDE: Any = {"fontsize": 8, "frameon": False, "loc": "center left", "bbox_to_anchor": (1.0, 0.5)}
"""A legend at the right of the diagram."""
SPEED = METRIC["encode_tokens_per_second"].name


@dataclass(frozen=True)
class Line:
    """Points (x, y), joined in the order of x; y is a number or a number over its seeds."""

    name: str
    points: Sequence[tuple[float, Spread | float | None]]
    reference: bool = False
    """Somebody else's numbers under other conditions, or a bound: drawn grey, behind ours."""
    dashed: bool = False
    joined: bool = True
    labels: Sequence[str] = ()
    """A word beside each point."""
    family: str = ""
    """Whose colour and marker it has; otherwise those of the palette,"""
    place: int | None = None
    """at this place, or at the next."""


def _figure(name: str, caption: str, inches: tuple[float, float], fill: Callable[[Any, Axes], None]) -> Figure:
    """A figure in the style, drawn when somebody looks at it."""

    def draw() -> bytes:
        with plt.rc_context(STYLE):
            figure, axes = plt.subplots(figsize=inches, layout="constrained")
            try:
                fill(figure, axes)
                written = io.BytesIO()
                figure.savefig(written, format="svg", metadata={"Date": None})
            finally:
                plt.close(figure)
        return written.getvalue()

    return Figure(name, caption, draw)


def _name_axes(axes: Axes, x: str, y: str, title: str, *, log_x: bool = False, log_y: bool = False) -> None:
    for is_log, axis, set_scale in ((log_x, axes.xaxis, axes.set_xscale), (log_y, axes.yaxis, axes.set_yscale)):
        if is_log:
            set_scale("log")
            axis.set_major_formatter(FuncFormatter(short_number))
            axis.set_minor_formatter(NullFormatter())
    axes.set_xlabel(x + (" (log scale)" if log_x else ""))
    axes.set_ylabel(y + (" (log scale)" if log_y else ""))
    axes.set_title(title)


def lines(
    name: str,
    caption: str,
    drawn: Sequence[Line | Curve],
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
        drawn: the lines; points whose y is None or not finite are left out. Somebody else's are dashed in colour where
            they were made under the same conditions, otherwise grey.
        x, y: names of the axes.
        title: above the diagram.
        log_x, log_y: logarithmic axes; points that are not positive are left out.
        levels: names and heights of level lines.
    """
    kept = [(line, points) for line in map(_line, drawn) if (points := _points(line, log_x, log_y))]
    if not kept:
        return None
    wide = max(len(line.name) for line, _ in kept) > 32  # beside the axes such a legend would leave them no room
    height = 4.2 + (0.22 * math.ceil(len(kept) / 2) if wide else 0.0)

    def fill(figure: Any, axes: Axes) -> None:
        drawn_of = {True: 0, False: 0}
        for line, points in kept:
            _draw(axes, line, points, _style(line, drawn_of[line.reference] if line.place is None else line.place))
            drawn_of[line.reference] += 1
        for level, height in levels:
            axes.axhline(height, color="#555555", linewidth=1.0, linestyle=":", label=level)
        _name_axes(axes, x, y, title, log_x=log_x, log_y=log_y)
        if wide:
            figure.legend(fontsize=8, frameon=False, loc="outside lower center", ncols=2)
        else:
            axes.legend(**_BESIDE)

    return _figure(name, caption, (7.2, height), fill)


def beside_the_paper(
    name: str,
    what: str,
    drawn: Sequence[Line | Curve],
    *,
    x: str,
    y: str,
    whose: str = "the paper's",
    log_x: bool = True,
) -> Figure | None:
    """`lines` of ours and of somebody else's."""
    return lines(f"{name}_beside_the_paper", f"{what}, beside {whose}", drawn, x=x, y=y, log_x=log_x)


def bars(
    name: str, caption: str, heights: Sequence[tuple[str, Spread | float | None]], *, y: str, title: str = ""
) -> Figure | None:
    """One bar for each name, with the 95% interval and every seed; None without a bar."""
    kept = [(label, value) for label, value in heights if value is not None and math.isfinite(_mean(value))]
    if not kept:
        return None

    def fill(_: Any, axes: Axes) -> None:
        for place, (_, value) in enumerate(kept):
            error = value.interval if isinstance(value, Spread) else None
            axes.barh(place, _mean(value), xerr=error, color=_COLORS[0], alpha=0.75, capsize=3, height=0.6)
            if isinstance(value, Spread) and len(value.values) > 1:
                axes.plot(value.values, [place] * len(value.values), ".", color="#222222", markersize=4)
        axes.set_yticks(range(len(kept)), [label for label, _ in kept])
        axes.invert_yaxis()
        axes.grid(axis="x", color="#e4e4e4")
        axes.grid(axis="y", visible=False)
        _name_axes(axes, y, "", title)

    return _figure(name, caption, (7.2, 0.42 * len(kept) + 1.2), fill)


def by_speed(name: str, caption: str, metric: str, summaries: Sequence[Summary]) -> Figure | None:
    """Quality against speed: one line for each SAE, one point for each inference; None with fewer than two readings.

    Sparse ones are coloured in their order, dense ones grey and dotted.
    """
    having = [s for s in summaries if metric in s.metrics and SPEED in s.metrics]
    if len({s.inference for s in having}) < 2:
        return None
    variants = list(dict.fromkeys(s.variant for s in having))
    inferences = list(dict.fromkeys(s.inference for s in having))

    def fill(_: Any, axes: Axes) -> None:
        palette = plt.get_cmap("viridis")
        for place, variant in enumerate(variants):
            mine = [s for s in having if s.variant == variant]
            sparse = FAMILY[mine[0].family].sparse
            color: Any = palette(place / max(1, len(variants) - 1) * 0.9) if sparse else "#777777"
            points = sorted((s.metrics[SPEED].mean, s.metrics[metric].mean) for s in mine)
            axes.plot(*zip(*points, strict=True), color=color, linewidth=1.0, linestyle="-" if sparse else ":")
            axes.annotate(variant, points[-1], (6, 0), textcoords="offset points", fontsize=8, color=color, va="center")
            for s in mine:
                marker = _READINGS[inferences.index(s.inference) % len(_READINGS)]
                axes.plot(s.metrics[SPEED].mean, s.metrics[metric].mean, marker, color=color, markersize=6)
        for place, inference in enumerate(inferences):
            axes.plot([], [], _READINGS[place % len(_READINGS)], color="#333333", label=inference)
        axes.legend(**_BESIDE)
        axes.set_xscale("log")
        axes.margins(x=0.12)  # room for the last names
        axes.xaxis.set_major_formatter(FuncFormatter(short_number))
        title = "Quality against speed (down and right is better)"
        _name_axes(axes, "tokens/s, reading codes (log scale)", METRIC[metric].heading, title)

    return _figure(name, caption, (8.2, 4.6), fill)


def rate_lines(
    name: str,
    caption: str,
    drawn: Sequence[tuple[str, Sequence[tuple[float, Rate]]]],
    *,
    x: str,
    title: str = "",
    grey: Sequence[str] = (),
) -> Figure | None:
    """Success rates against x with their 95% intervals as bands; the lines named in `grey` are somebody else's."""
    if not any(points for _, points in drawn):
        return None

    def fill(_: Any, axes: Axes) -> None:
        for place, (label, points) in enumerate(drawn):
            if not points:
                continue
            ordered = sorted(points, key=lambda point: point[0])
            at = [place for place, _ in ordered]
            bounds = np.array([rate.interval() for _, rate in ordered])
            color, marker = _COLORS[place % len(_COLORS)], _MARKERS[place % len(_MARKERS)]
            if label in grey:
                color, marker = _GREY, "x"
            rates = [rate.share for _, rate in ordered]
            axes.plot(at, rates, color=color, marker=marker, markersize=5, linewidth=1.5, label=label)
            axes.fill_between(at, bounds[:, 0], bounds[:, 1], color=color, alpha=0.15, linewidth=0)
        axes.set_xscale("log", base=2)
        ticks = sorted({point[0] for _, points in drawn for point in points})
        axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
        axes.set_ylim(-0.03, 1.03)
        _name_axes(axes, x, "exact supports, share", title)
        axes.legend(**_BESIDE)

    return _figure(name, caption, (7.2, 4.2), fill)


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

    def fill(figure: Any, axes: Axes) -> None:
        shown = axes.imshow(grid, vmin=0, vmax=1, cmap="cividis", aspect="auto")
        for i, j in np.ndindex(*grid.shape):
            if not np.isnan(grid[i, j]):
                tone = "black" if grid[i, j] > 0.55 else "white"
                axes.text(j, i, f"{grid[i, j]:.2f}", ha="center", va="center", fontsize=7.5, color=tone)
        axes.grid(visible=False)
        axes.set_xticks(range(len(columns)), [str(column) for column in columns])
        axes.set_yticks(range(len(rows)), rows)
        _name_axes(axes, x, y, title)
        figure.colorbar(shown, ax=axes, label="exact supports, share")

    return _figure(name, caption, (7.2, 0.4 * len(rows) + 1.4), fill)


def _line(drawn: Line | Curve) -> Line:
    if isinstance(drawn, Line):
        return drawn
    return Line(drawn.name, drawn.points, reference=not drawn.same, dashed=drawn.same)


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


def _style(line: Line, place: int) -> dict[str, Any]:
    dash = "--" if line.dashed else "-"
    if not line.joined:
        dash = "none"
    color, marker = _COLORS[place % len(_COLORS)], _MARKERS[place % len(_MARKERS)]
    if line.reference:
        return {"color": _GREY, "marker": marker, "markerfacecolor": "none", "linestyle": dash, "zorder": 1}
    if line.family:
        color, marker = FAMILY[line.family].color, FAMILY[line.family].marker
    return {"color": color, "marker": marker, "linestyle": dash, "zorder": 2}


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


def short_number(value: float, _position: object = None) -> str:
    """1234 as 1.2k, 2600000 as 2.6M."""
    for size, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= size:
            return f"{value / size:.3g}{letter}"
    return f"{value:.3g}"
