"""How many active latents: the same grid at one k after another."""

from __future__ import annotations

from .along import diverged_along, figures_along, first_of, lines_along, runs_of, tables_along
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
        grid = context.grid(degrees=context.chosen_degrees(), controls=context.option("controls"), k=k)
        runs.append({"at": k, "frontier": grid.frontier.to_dict()})
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
    return Page(
        claim=claim,
        tables=tables_along(runs, "k"),
        figures=[*figures_along(runs, _AXIS, log_x=True), dead],
        notes=[
            "Every k is a training of its own, not one SAE read with fewer or more latents.",
            *diverged_along(measured, "k"),
        ],
    )


def beside(measured: Measured, paper: Paper) -> list[Figure | None]:
    """rel_err, CE recovered and dead latents along k, the paper's beside ours."""
    return [
        lines(
            f"{metric}_beside_the_paper",
            f"{metric} along k, beside the paper's",
            [*lines_along(runs_of(measured), metric), *paper.along_k(metric)],
            x=_AXIS,
            y=metric,
            log_x=True,
        )
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
