"""How training goes: what every SAE leaves of held-out text, step by step."""

from __future__ import annotations

import json
import statistics
from pathlib import Path

from expander_sae.paper import Paper
from expander_sae.records import ExpanderSaeError
from expander_sae.records.spread import Spread, spread
from expander_sae.training.batches import HELDOUT_TOKENS
from expander_sae.training.loop import METRICS

from ..drawing import Line, beside_the_paper, lines
from ..page import Figure, Page, Table, number
from .context import Context
from .experiment import Experiment, Measured
from .quality import diverged, quality_table, summaries_of

_KEPT = ("heldout_fvu", "heldout_rel_err", "fvu", "dead_fraction")
_DRAWN = (
    ("heldout_fvu", "fvu, held out"),
    ("heldout_rel_err", "rel_err, held out"),
    ("dead_fraction", "dead latents, training's window"),
)
_NOTE = "Mean over seeds ± half width of the 95% interval (Student's t); below it every seed."


def measure(context: Context) -> Measured:
    """The log of every run of the grid where it was measured on held-out text, beside the numbers at its end."""
    grid = context.grid(degrees=context.chosen_degrees(), controls=context.option("controls"))
    curves = []
    for record in grid.frontier.records:
        points = _points(grid.folder / record.folder / METRICS)
        curves.append({"variant": record.variant, "seed": record.seed, "points": points})
    return {"frontier": grid.frontier.to_dict(), "curves": curves}


def _points(log: Path) -> list[dict[str, float | None]]:
    """The lines of one SAE's log that have held-out numbers; none of an SAE that diverged before the first."""
    lines_of_log = log.read_text(encoding="utf-8").splitlines() if log.is_file() else []
    entries = [json.loads(line) for line in lines_of_log]
    measured = [entry for entry in entries if "heldout_fvu" in entry]
    if not measured and not any(entry["diverged"] for entry in entries):
        raise ExpanderSaeError(
            f"expected the log of a training pass with held-out numbers at {log}; got none: an earlier version "
            "trained this SAE, or the activations have no held-out split. Choose another --out to train it again, or "
            "harvest held-out text."
        )
    return [{key: entry.get(key) for key in ("step", "tokens", *_KEPT)} for entry in measured]


def show(measured: Measured) -> Page:
    """Held-out fvu, rel_err and dead latents along the tokens seen, mean over seeds."""
    if any("step" not in point for curve in measured["curves"] for point in curve["points"]):
        raise ExpanderSaeError(
            "expected learning curves of held-out tokens; got records of an earlier version, which had training "
            "batches. Run the experiment again."
        )
    names = list(dict.fromkeys(curve["variant"] for curve in measured["curves"]))
    figures = []
    for key, unit in _DRAWN:
        drawn = [Line(name, _curve(measured, name, key)) for name in names]
        caption = f"{unit}, along training, one line for each SAE"
        figures.append(lines(f"{key}_by_tokens", caption, drawn, x="training tokens seen", y=unit))
    milestones = {name: _milestones(measured, name) for name in names}
    rows = [[name, *(number(found, 4) for found in milestones[name])] for name in names]
    shares = ["at 25%", "at 50%", "at 75%", "at the end"]
    return Page(
        claim=_claim(milestones),
        tables=[
            Table("Held-out fvu along training", ["SAE", *shares], rows, _NOTE),
            quality_table("Held out, at the end", summaries_of(measured["frontier"])),
        ],
        figures=figures,
        notes=[
            f"Along training the SAEs are measured on the same held-out tokens, {HELDOUT_TOKENS:,} at most; the table "
            "of the end has all of the held-out text that was evaluated, so its last digits differ.",
            *diverged(measured["frontier"]),
        ],
    )


def _curve(measured: Measured, name: str, key: str) -> list[tuple[float, Spread | None]]:
    """One number along the tokens seen, over seeds; seeds may differ in tokens left out by a step, as outliers."""
    by_step: dict[int, list[Measured]] = {}
    for curve in measured["curves"]:
        if curve["variant"] == name:
            for point in curve["points"]:
                by_step.setdefault(point["step"], []).append(point)
    return [
        (statistics.fmean(point["tokens"] for point in points), spread(point[key] for point in points))
        for _, points in sorted(by_step.items())
    ]


def _milestones(measured: Measured, name: str) -> list[Spread | None]:
    found: list[list[float | None]] = [[], [], [], []]
    for curve in measured["curves"]:
        if curve["variant"] == name and curve["points"]:
            last = curve["points"][-1]["tokens"]
            for place, share in enumerate((0.25, 0.5, 0.75, 1.0)):
                nearest = min(curve["points"], key=lambda point: abs(point["tokens"] - share * last))
                found[place].append(nearest["heldout_fvu"])
    return [spread(values) for values in found]


def _claim(milestones: dict[str, list[Spread | None]]) -> str:
    parts = []
    for name, (_, middle, _, end) in milestones.items():
        if middle is not None and end is not None and middle.mean > 0:
            parts.append(f"{name} {(1 - end.mean / middle.mean) * 100:.1f}%")
    return f"The second half of training lowers held-out fvu by: {', '.join(parts)}."


def beside(measured: Measured, paper: Paper) -> list[Figure | None]:
    """The paper's held-out rel_err along training, and ours."""
    names = list(dict.fromkeys(curve["variant"] for curve in measured["curves"]))
    ours = [Line(name, _curve(measured, name, "heldout_rel_err")) for name in names]
    drawn, x = [*ours, *paper.learning_curves()], "training tokens seen"
    what = "held-out rel_err along training"
    return [beside_the_paper("rel_err", what, drawn, x=x, y="rel_err", log_x=False)]


EXPERIMENT = Experiment(
    name="learning-curves",
    question="How fast do the SAEs learn, and have they settled at the end?",
    measure=measure,
    show=show,
    options={"degrees": [7, 30, 200], "controls": ["dense", "matched"]},
    beside=beside,
)
