"""How many active latents: the same grid at one k after another."""

from __future__ import annotations

from .along import figure_beside, first_of, lines_along, page_along, run_at, runs_of
from .beside import Paper
from .context import Context
from .drawing import lines
from .experiment import Experiment, Figure, Measured, Page
from .quality import mean_of

_AXIS = "active latents per token, k"
_DEAD = "dead_fraction"


def measure(context: Context) -> Measured:
    """One grid for each k; matched controls with fewer than k latents are left out of it."""
    runs = []
    for k in sorted(set(context.option("ks"))):
        context.say(f"k = {k}")
        runs.append(run_at(k, context, k=k))
    return {"runs": runs}


def show(measured: Measured) -> Page:
    """Fidelity and dead latents along k."""
    runs = runs_of(measured)
    parts = []
    for k, summaries in runs:
        fvus = [
            f"{summary.variant} leaves {fvu:.3f}"
            for summary in (first_of(summaries, "expander"), first_of(summaries, "dense"))
            if summary is not None and (fvu := mean_of(summary, "fvu")) is not None
        ]
        parts.append(f"at k = {k:.0f} {' and '.join(fvus)}" if fvus else f"at k = {k:.0f} nothing was measured")
    claim = f"Of fvu, {'; '.join(parts)}."
    dead = lines(f"{_DEAD}_along", "dead latents along k", lines_along(runs, _DEAD), x=_AXIS, y="dead", log_x=True)
    note = "Every k is a training of its own, not one SAE read with fewer or more latents."
    return page_along(measured, _AXIS, claim, note, place="k", more=[dead])


def beside(measured: Measured, paper: Paper) -> list[Figure | None]:
    """rel_err, CE recovered and dead latents along k, the paper's beside ours."""
    return [
        figure_beside(measured, _AXIS, metric, paper.along_k(metric), along="k")
        for metric in ("rel_err", "ce_recovered_zero", _DEAD)
    ]


EXPERIMENT = Experiment(
    name="active-latents",
    question="How do fidelity and dead latents depend on the number of active latents?",
    measure=measure,
    show=show,
    needs=("activations",),
    options={"ks": [16, 32, 64, 128], "degrees": [7, 30, 200], "controls": ["dense", "matched"]},
    beside=beside,
)
