"""Does it matter where the entries are? Supports at one sparsity, from disjoint blocks to an expander; learned ones."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from expander_sae.graphs.overlap import mean_largest_overlap
from expander_sae.paper import Paper
from expander_sae.records.metrics import METRIC
from expander_sae.saes import ExpanderSae

from ..drawing import Line, beside_the_paper, lines
from ..families import FAMILY
from ..page import Figure, Page, Table, sentence
from ..results import Summary
from .along import DRAWN
from .context import Context
from .experiment import Experiment, Measured
from .quality import diverged, family_lines, mean_of, quality_table, summaries_of

_BESIDE = ("expander", "fixed", "clustered", "pruned")


def measure(context: Context) -> Measured:
    """The grid, and what its masks look like."""
    grid = context.grid(degrees=context.chosen_degrees(), controls=context.option("controls"))
    masks: dict[str, dict[str, Any]] = {}
    for record, sae in grid.saes():
        if isinstance(sae, ExpanderSae) and record.variant not in masks:
            masks[record.variant] = describe_mask(sae, record.family, record.variant)
    return {"frontier": grid.frontier.to_dict(), "masks": masks}


def describe_mask(sae: ExpanderSae, family: str, variant: str) -> dict[str, Any]:
    """Distinct supports, rows out of reach, spread of the row degrees, and overlaps of columns, in rows."""
    dial = FAMILY["diversity"].parts(variant)
    degrees = sae.mask.right_degrees().astype(np.float64)
    n = sae.n_latents
    return {
        "family": family,
        "degree": sae.degree,
        "diversity": float(dial["dial"]) if dial is not None else None,
        "distinct_supports": len(np.unique(sae.mask.rows, axis=0)),
        "empty_rows": int((degrees == 0).sum()),
        "largest_row_degree_over_mean": float(degrees.max() / degrees.mean()),
        "mean_overlap": float((degrees * (degrees - 1)).sum() / (n * max(1, n - 1))),
        "mean_largest_overlap": mean_largest_overlap(sae.mask),
    }


def show(measured: Measured) -> Page:
    """Fidelity along the dial, and every other support beside it."""
    masks: dict[str, dict[str, Any]] = measured["masks"]
    summaries = summaries_of(measured["frontier"])
    degrees = sorted({mask["degree"] for mask in masks.values()})
    figures = []
    for metric in DRAWN:
        drawn = []
        for degree in degrees:
            on_dial, others = _by_place(masks, summaries, degree)
            drawn.append(Line(f"degree {degree}", [(dial, s.metrics.get(metric)) for dial, s in on_dial]))
            for summary in others:
                drawn.append(Line(summary.variant, [(1.12, summary.metrics.get(metric))], joined=False))
        caption = f"{metric} along the dial of diversity, other supports at the right"
        x = "diversity: 0 disjoint blocks, 1 balanced; other supports at the right"
        figures.append(lines(f"{metric}_by_diversity", caption, drawn, x=x, y=METRIC[metric].heading))
    rows = [[name, *(mask.get(key) for key in _MASK_COLUMNS.values())] for name, mask in masks.items()]
    mask_table = Table("The masks, first seed", ["SAE", *_MASK_COLUMNS], rows, "Overlap in rows.")
    return Page(
        claim=_claim(masks, summaries, degrees),
        tables=[quality_table("All supports", summaries), mask_table],
        figures=figures,
        notes=[
            "Supports on the dial are fixed masks with every row reachable, trained and read in the same way; only the "
            "Expander SAE of the grid may move entries while it trains (and does not with the paper preset).",
            "The clustered control leaves d_in mod degree rows out of reach, as the paper's does: at degrees that do "
            "not divide d_in it is handicapped by more than its lack of diversity. The dial's end at 0 is not.",
            "A pruned SAE has had twice the training: the dense SAE's and its own.",
            *diverged(measured["frontier"]),
        ],
    )


_MASK_COLUMNS = {
    "distinct supports": "distinct_supports",
    "rows out of reach": "empty_rows",
    "largest row degree / mean": "largest_row_degree_over_mean",
    "mean overlap of two columns": "mean_overlap",
    "overlap with the nearest column, mean": "mean_largest_overlap",  # not in records of earlier versions
}


def _by_place(
    masks: Mapping[str, Mapping[str, Any]], summaries: Sequence[Summary], degree: int
) -> tuple[list[tuple[float, Summary]], list[Summary]]:
    """The SAEs of one degree: those on the dial with their places, and the others."""
    found = [(masks[s.variant], s) for s in summaries if s.variant in masks]
    mine = [(mask["diversity"], s) for mask, s in found if mask["degree"] == degree]
    return [(dial, s) for dial, s in mine if dial is not None], [s for dial, s in mine if dial is None]


def _claim(masks: Mapping[str, Mapping[str, Any]], summaries: Sequence[Summary], degrees: Sequence[int]) -> str:
    parts = []
    for degree in degrees:
        dial = sorted(_by_place(masks, summaries, degree)[0], key=lambda place: place[0])
        if len(dial) < 2:
            continue
        (low, first), (high, last) = dial[0], dial[-1]
        blocks, spread_out = mean_of(first, "fvu"), mean_of(last, "fvu")
        if blocks is not None and spread_out is not None:
            part = f"at degree {degree} fvu is {blocks:.3f} at diversity {low:g} and {spread_out:.3f} at {high:g}"
            learned = next((s for s in summaries if s.family == "expander" and s.matched_degree == degree), None)
            own = mean_of(learned, "fvu")
            parts.append(part + ("" if own is None else f", the Expander SAE's own support {own:.3f}"))
    if not parts:
        return "No dial of diversity was measured."
    return sentence(parts)


def beside(measured: Measured, paper: Paper) -> list[Figure | None]:
    """rel_err by degree on learned, random, clustered and pruned supports."""
    summaries = summaries_of(measured["frontier"])
    ours = family_lines(summaries, "rel_err", lambda s: s.matched_degree, _BESIDE)
    theirs = paper.lines(
        "rel_err", lambda result: result.degree, ("expander_tied", "clustered_sparse", "pruned_retuned_dense")
    )
    what = "rel_err by degree and kind of support"
    return [beside_the_paper("rel_err", what, [*ours, *theirs], x="degree", y="rel_err")]


EXPERIMENT = Experiment(
    name="support",
    question="Does the diversity of supports matter at equal sparsity, and are there better ones than random?",
    measure=measure,
    show=show,
    options={
        "degrees": [7, 64],
        "controls": ["dense", "fixed", "diversity", "clustered", "banded", "shared", "pruned"],
    },
    beside=beside,
)
