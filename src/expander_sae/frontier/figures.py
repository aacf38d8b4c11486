"""The figures of a frontier: each metric against size, sparse and matched dense as lines, full dense as a level."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import matplotlib

matplotlib.use("Agg")

from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.patheffects import withStroke
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from .over_seeds import Spread
from .results import Summary

# Okabe and Ito's palette: told apart under every common colour blindness; marker and dash say the same again.
_LINES = {
    "expander": ("Expander", "#0072B2", "o", "-"),
    "matched": ("dense, same size", "#D55E00", "s", "--"),
    "matched-omp": ("dense, same size, pursuit", "#E69F00", "D", "--"),
    "oneshot": ("Expander, one-shot encoder", "#56B4E9", "v", ":"),
    "clustered": ("clustered", "#009E73", "^", "-."),
}
_LEVELS = {"dense": ("full dense", "#333333", "-"), "dense-untied": ("full dense, untied", "#777777", ":")}
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
_HALO = [withStroke(linewidth=2.5, foreground="white")]
_LABEL_GAP = 13
"""Points between the labels of two lines."""


@dataclass(frozen=True)
class Panel:
    """One figure: a metric against a size."""

    metric: str
    against: str
    title: str
    unit: str
    better: str

    @property
    def name(self) -> str:
        """File name without its ending."""
        return f"{self.metric}_by_{self.against}"


_VALUES = "learned_values"
_BYTES = "bytes_on_disk"
PANELS = (
    Panel("fvu", _VALUES, "Variance left unexplained", "fvu", "lower"),
    Panel("fvu", _BYTES, "Variance left unexplained", "fvu", "lower"),
    Panel("rel_err", _VALUES, "Relative error", "rel_err", "lower"),
    Panel("rel_err", _BYTES, "Relative error", "rel_err", "lower"),
    Panel("ce_recovered_zero", _VALUES, "Cross entropy recovered, zero form", "ce_recovered_zero", "higher"),
    Panel("ce_recovered_mean", _VALUES, "Cross entropy recovered, mean form", "ce_recovered_mean", "higher"),
    Panel("delta_ce", _VALUES, "Cross entropy added", "delta_ce (nats/token)", "lower"),
    Panel("delta_ce", _BYTES, "Cross entropy added", "delta_ce (nats/token)", "lower"),
)
SPEED_PANELS = (("fvu", "fvu"), ("delta_ce", "delta_ce (nats/token)"))
"""Metrics drawn against the speed of reading."""
_MARKERS = "osD^vP*X<>"
_SIZE_NAMES = {_VALUES: "learned values (log scale)", _BYTES: "bytes on disk (log scale)"}


def draw(panel: Panel, summaries: Sequence[Summary]) -> bytes | None:
    """One panel as SVG; None where no variant has both the metric and the size."""
    having = [s for s in summaries if panel.metric in s.metrics and getattr(s, panel.against) is not None]
    if not any(summary.family in _LINES for summary in having):
        return None
    with plt.rc_context(STYLE):
        figure, axes = plt.subplots(figsize=(5.4, 3.9), layout="constrained")
        try:
            _lines(axes, panel, having)
            _levels(axes, panel, having)
            axes.set_xscale("log")
            axes.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
            axes.xaxis.set_major_formatter(FuncFormatter(short_number))
            axes.xaxis.set_minor_formatter(NullFormatter())
            axes.set_xlabel(_SIZE_NAMES[panel.against])
            axes.set_ylabel(panel.unit)
            axes.set_title(f"{panel.title} ({panel.better} is better)")
            left, right = axes.get_xlim()
            # Room on the right for the names of the lines.
            axes.set_xlim(left / (right / left) ** 0.04, right * (right / left) ** 0.34)
            low, high = axes.get_ylim()
            axes.set_ylim(low - 0.06 * (high - low), high + 0.06 * (high - low))
            _name_lines(axes, panel, having)
            written = io.BytesIO()
            figure.savefig(written, format="svg", metadata={"Date": None})
        finally:
            plt.close(figure)
    return written.getvalue()


def draw_speed(metric: str, unit: str, summaries: Sequence[Summary]) -> bytes | None:
    """Quality against speed: one line for each SAE, one point for each inference; None with fewer than two readings."""
    speed = "encode_tokens_per_second"
    having = [s for s in summaries if metric in s.metrics and speed in s.metrics]
    if len({s.inference for s in having}) < 2:
        return None
    variants = list(dict.fromkeys(s.variant for s in having))
    inferences = list(dict.fromkeys(s.inference for s in having))
    with plt.rc_context(STYLE):
        figure, axes = plt.subplots(figsize=(8.2, 4.6), layout="constrained")
        try:
            palette = plt.get_cmap("viridis")
            for number, variant in enumerate(variants):
                mine = [s for s in having if s.variant == variant]
                dense = mine[0].family in ("matched", "matched-omp", "dense", "dense-untied")
                color = "#777777" if dense else palette(number / max(1, len(variants) - 1) * 0.9)
                points = sorted((s.metrics[speed].mean, s.metrics[metric].mean) for s in mine)
                axes.plot(*zip(*points, strict=True), color=color, linewidth=1.0, linestyle=":" if dense else "-")
                axes.annotate(
                    variant, points[-1], (6, 0), textcoords="offset points", fontsize=8, color=color, va="center"
                )
                for s in mine:
                    marker = _MARKERS[inferences.index(s.inference) % len(_MARKERS)]
                    axes.plot(s.metrics[speed].mean, s.metrics[metric].mean, marker, color=color, markersize=6)
            for number, inference in enumerate(inferences):
                axes.plot([], [], _MARKERS[number % len(_MARKERS)], color="#333333", label=inference)
            axes.legend(fontsize=8, frameon=False, loc="center left", bbox_to_anchor=(1.0, 0.5))
            axes.set_xscale("log")
            axes.margins(x=0.12)  # room for the last names
            axes.xaxis.set_major_formatter(FuncFormatter(short_number))
            axes.set_xlabel("tokens/s, reading codes (log scale)")
            axes.set_ylabel(unit)
            axes.set_title("Quality against speed (down and right is better)")
            written = io.BytesIO()
            figure.savefig(written, format="svg", metadata={"Date": None})
        finally:
            plt.close(figure)
    return written.getvalue()


def _points(panel: Panel, summaries: Sequence[Summary], family: str) -> list[tuple[float, Spread, Summary]]:
    found = [(float(getattr(s, panel.against)), s.metrics[panel.metric], s) for s in summaries if s.family == family]
    return sorted(found, key=lambda point: point[0])


def _lines(axes: Axes, panel: Panel, summaries: Sequence[Summary]) -> None:
    heights = {family: [p[1].mean for p in _points(panel, summaries, family)] for family in ("expander", "matched")}
    means = {family: sum(values) / len(values) for family, values in heights.items() if values}
    top = max(means, key=lambda family: means[family], default=None)
    for family, (_, color, marker, dash) in _LINES.items():
        points = _points(panel, summaries, family)
        if not points:
            continue
        x = [point[0] for point in points]
        y = [point[1].mean for point in points]
        below = [point[1].mean - point[1].low for point in points]
        above = [point[1].high - point[1].mean for point in points]
        several = any(point[1].seeds > 1 for point in points)
        axes.errorbar(
            x,
            y,
            yerr=(below, above) if several else None,
            color=color,
            marker=marker,
            linestyle=dash,
            markersize=5,
            linewidth=1.8,
            capsize=3,
        )
        if family in ("clustered", "oneshot", "matched-omp"):  # sizes are those of the other two lines
            continue
        for x_at, spread, summary in points:
            text = f"d={summary.matched_degree}" if family == "expander" else f"n′={summary.n_latents}"
            # Away from the other line, so that the two sets of labels do not meet.
            offset = 7 if family == top else -14
            axes.annotate(
                text,
                (x_at, spread.mean),
                (0, offset),
                textcoords="offset points",
                ha="center",
                fontsize=8,
                color=color,
                path_effects=_HALO,
            )


def _levels(axes: Axes, panel: Panel, summaries: Sequence[Summary]) -> None:
    for family, (_, color, dash) in _LEVELS.items():
        for _, spread, _summary in _points(panel, summaries, family):
            axes.axhline(spread.mean, color=color, linestyle=dash, linewidth=1.3, zorder=1)
            if spread.seeds > 1:
                axes.axhspan(spread.low, spread.high, color=color, alpha=0.10, zorder=0, linewidth=0)


def _name_lines(axes: Axes, panel: Panel, summaries: Sequence[Summary]) -> None:
    """Write each line's name at its right end, and each level's at the right edge, pushed apart where they meet."""
    axes.figure.canvas.draw()
    scale = 72 / axes.figure.dpi
    wanted: list[tuple[float, float, str, str]] = []
    for family, (name, color, *_) in _LINES.items():
        points = _points(panel, summaries, family)
        if points:
            x, spread, _ = points[-1]
            wanted.append((x, spread.mean, name, color))
    right = axes.get_xlim()[1]
    for family, (name, color, _) in _LEVELS.items():
        for _, spread, _summary in _points(panel, summaries, family):
            wanted.append((right, spread.mean, name, color))
    wanted.sort(key=lambda label: label[1])
    last = -1e9
    for x, y, name, color in wanted:
        height = float(axes.transData.transform((x, y))[1]) * scale
        at_edge = x == right
        # A level's name sits on its line, a line's name beside its last point.
        natural = height + (7 if at_edge else 0)
        placed = max(natural, last + _LABEL_GAP)
        last = placed
        axes.annotate(
            name,
            (x, y),
            (-2 if at_edge else 9, placed - height),
            textcoords="offset points",
            ha="right" if at_edge else "left",
            va="center",
            color=color,
            fontsize=9,
            fontweight="bold",
            path_effects=_HALO,
        )


def short_number(value: float, _position: object = None) -> str:
    """1234 as 1.2k, 2600000 as 2.6M."""
    for size, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= size:
            return f"{value / size:.3g}{letter}"
    return f"{value:.3g}"
