"""How training goes: the loss of every SAE step by step."""

from __future__ import annotations

import json
from pathlib import Path

from expander_sae.records import ExpanderSaeError
from expander_sae.training.loop import METRICS

from ..over_seeds import Spread, spread
from .beside import Paper
from .context import Context
from .drawing import Line, lines
from .experiment import Experiment, Figure, Measured, Page, Table
from .quality import diverged, quality_table, summaries_of, text_of

_KEPT = ("fvu", "dead_fraction")
_NOTE = "Mean over seeds ± half width of the 95% interval (Student's t); below it every seed."


def measure(context: Context) -> Measured:
    """The log of every run of the grid, thinned out, beside the held-out numbers at its end."""
    grid = context.grid(degrees=context.chosen_degrees(), controls=context.option("controls"))
    curves = []
    for record in grid.frontier.records:
        points = _points(grid.folder / record.folder / METRICS, context.option("points"))
        curves.append({"variant": record.variant, "seed": record.seed, "points": points})
    return {"frontier": grid.frontier.to_dict(), "curves": curves}


def _points(log: Path, wanted: int) -> list[dict[str, float | None]]:
    """About `wanted` lines of one SAE's log, the last one among them."""
    if not log.is_file():
        raise ExpanderSaeError(
            f"expected the log of a training pass at {log}, found none: an earlier version trained this SAE. "
            "Choose another --out to train it again."
        )
    entries = [json.loads(line) for line in log.read_text(encoding="utf-8").splitlines()]
    step = max(1, len(entries) // wanted)
    chosen = entries[::step]
    if entries and chosen[-1] is not entries[-1]:
        chosen.append(entries[-1])
    return [{"tokens": entry["tokens"], **{key: entry.get(key) for key in _KEPT}} for entry in chosen]


def show(measured: Measured) -> Page:
    """Training fvu and dead latents along the tokens seen, mean over seeds."""
    names = list(dict.fromkeys(curve["variant"] for curve in measured["curves"]))
    summaries = summaries_of(measured["frontier"])
    figures = []
    for key, unit in (
        ("fvu", "fvu of the batch, before its step"),
        ("dead_fraction", "dead latents, training's window"),
    ):
        drawn = []
        for name in names:
            by_tokens: dict[float, list[float | None]] = {}
            for curve in measured["curves"]:
                if curve["variant"] == name:
                    for point in curve["points"]:
                        by_tokens.setdefault(point["tokens"], []).append(point[key])
            drawn.append(Line(name, [(tokens, spread(values)) for tokens, values in by_tokens.items()]))
        caption = f"{key} during training, one line for each SAE"
        figures.append(lines(f"{key}_by_tokens", caption, drawn, x="training tokens seen", y=unit))
    milestones = {name: _milestones(measured, name) for name in names}
    rows = [[name, *(text_of(found, 4) for found in milestones[name])] for name in names]
    shares = ["at 25%", "at 50%", "at 75%", "at the end"]
    return Page(
        claim=_claim(milestones),
        tables=[
            Table("fvu of the training batch", ["SAE", *shares], rows, _NOTE),
            quality_table("Held out, at the end", summaries),
        ],
        figures=figures,
        notes=[
            "The curves are of training batches, each measured before the step it causes: in the first pass over the "
            "stored tokens that is fresh text, later it is not. The table below has held-out text.",
            *diverged(measured["frontier"]),
        ],
    )


def _milestones(measured: Measured, name: str) -> list[Spread | None]:
    found: list[list[float | None]] = [[], [], [], []]
    for curve in measured["curves"]:
        if curve["variant"] == name and curve["points"]:
            last = curve["points"][-1]["tokens"]
            for place, share in enumerate((0.25, 0.5, 0.75, 1.0)):
                found[place].append(min(curve["points"], key=lambda p: abs(p["tokens"] - share * last))["fvu"])
    return [spread(values) for values in found]


def _claim(milestones: dict[str, list[Spread | None]]) -> str:
    parts = []
    for name, (_, middle, _, end) in milestones.items():
        if middle is not None and end is not None and middle.mean > 0:
            parts.append(f"{name} {(1 - end.mean / middle.mean) * 100:.1f}%")
    return f"The second half of training lowers the fvu of the training batch by: {', '.join(parts)}."


def beside(measured: Measured, paper: Paper) -> list[Figure | None]:
    """The paper's held-out rel_err along training, and where ours ends."""
    ends = {
        curve["variant"]: max(point["tokens"] for point in curve["points"])
        for curve in measured["curves"]
        if curve["points"]
    }
    ours = [
        Line(f"{s.variant}, at its end", [(ends[s.variant], s.metrics.get("rel_err"))], joined=False)
        for s in summaries_of(measured["frontier"])
        if s.variant in ends
    ]
    caption = "held-out rel_err at the end of training, beside the paper's along its training"
    drawn = [*ours, *paper.learning_curves()]
    return [lines("rel_err_beside_the_paper", caption, drawn, x="training tokens seen", y="rel_err")]


EXPERIMENT = Experiment(
    name="learning-curves",
    question="How fast do the SAEs learn, and have they settled at the end?",
    measure=measure,
    show=show,
    needs=("activations",),
    options={"degrees": [7, 30, 200], "controls": ["dense", "matched"], "points": 60},
    beside=beside,
)
