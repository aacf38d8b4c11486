"""Fidelity against storage: Expander SAEs over the degrees, with every control on the same axes."""

from __future__ import annotations

from ..report import headline, in_order, verdict
from ..results import Frontier
from ..results import from_dict as frontier_from_dict
from .context import Context
from .drawing import lines
from .experiment import Experiment, Measured, Page
from .quality import diverged, family_lines, quality_table

FAMILIES = {
    "expander": "Expander",
    "matched": "dense, matched learned values",
    "matched-omp": "dense, matched, by pursuit",
    "dense": "full dense",
}


def measure(context: Context) -> Measured:
    """Train and evaluate the grid."""
    return context.grid(controls=context.option("controls")).frontier.to_dict()


def show(measured: Measured) -> Page:
    """Every metric against learned values, and fvu and delta_ce against bytes."""
    found: Frontier = frontier_from_dict(measured)
    summaries = in_order(found.summaries())
    figures = [
        lines(
            f"{metric}_by_{size}",
            f"{metric} against {size.replace('_', ' ')}, by family",
            family_lines(summaries, metric, lambda s, size=size: getattr(s, size), FAMILIES),
            x=size.replace("_", " "),
            y=unit,
            log_x=True,
        )
        for metric, unit, size in (
            ("fvu", "fvu", "learned_values"),
            ("delta_ce", "delta_ce (nats/token)", "learned_values"),
            ("fvu", "fvu", "bytes_on_disk"),
            ("delta_ce", "delta_ce (nats/token)", "bytes_on_disk"),
            ("ce_recovered_zero", "ce_recovered_zero", "learned_values"),
            ("ce_recovered_mean", "ce_recovered_mean", "learned_values"),
            ("kl", "KL (nats/token)", "learned_values"),
            ("rel_err", "rel_err", "learned_values"),
        )
    ]
    return Page(
        claim=verdict(summaries) or headline(found),
        tables=[quality_table("All SAEs", summaries)],
        figures=figures,
        notes=[headline(found), *diverged(measured)],
    )


EXPERIMENT = Experiment(
    name="frontier",
    question="How much fidelity does an Expander SAE give for its size, against dense SAEs of the same size?",
    measure=measure,
    show=show,
    needs=("activations",),
    options={"controls": ["dense", "matched", "matched-omp"]},
)
