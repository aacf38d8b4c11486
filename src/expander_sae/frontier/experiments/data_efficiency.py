"""How much data: the same number of steps on fewer and fewer stored tokens."""

from __future__ import annotations

from ..results import Summary
from .along import figure_beside, page_along, run_at, runs_of
from .beside import Paper
from .context import Context
from .experiment import Experiment, Figure, Measured, Page
from .quality import mean_of

_AXIS = "stored training tokens"


def measure(context: Context) -> Measured:
    """One grid for each number of stored tokens; a smaller number is a part of a larger one."""
    kept = context.settings.evaluation().keep_special_tokens
    stored = context.store.n_tokens("train", keep_special_tokens=kept)
    runs = []
    for tokens in sorted({round(share * stored) for share in context.option("shares")}):
        context.say(f"{tokens:,} of {stored:,} stored tokens")
        part = {} if tokens == stored else {"train_tokens": tokens, "label": f"first{tokens}"}
        runs.append(run_at(tokens, context, **part))
    return {"runs": runs}


def show(measured: Measured) -> Page:
    """Fidelity along the number of stored tokens."""
    note = "All runs have equally many steps and see as many tokens, counting repeats; held-out text is the same."
    return page_along(measured, _AXIS, _claim(runs_of(measured)), note)


def beside(measured: Measured, paper: Paper) -> list[Figure | None]:
    """rel_err along the number of stored tokens."""
    theirs = paper.along_data("rel_err", (("expander_tied", 7), ("expander_tied", 100), ("dense_tied", 512)))
    return [figure_beside(measured, _AXIS, "rel_err", theirs, along=_AXIS)]


def _claim(runs: list[tuple[float, list[Summary]]]) -> str:
    (least, few), (most, many) = runs[0], runs[-1]
    parts = []
    for summary in many:
        small = next((s for s in few if s.variant == summary.variant), None)
        new, old = mean_of(summary, "fvu"), mean_of(small, "fvu")
        if new is not None and old is not None:
            parts.append(f"{summary.variant} by {old - new:.3f} (from {old:.3f} to {new:.3f})")
    return f"From {least:,.0f} to {most:,.0f} stored tokens, at equal steps, fvu falls: {', '.join(parts)}."


EXPERIMENT = Experiment(
    name="data-efficiency",
    question="Does a sparse dictionary need less data than a dense one?",
    measure=measure,
    show=show,
    needs=("activations",),
    options={"shares": [0.125, 0.25, 0.5, 1.0], "degrees": [7, 30], "controls": ["dense", "matched"]},
    beside=beside,
)
