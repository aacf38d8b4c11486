"""Fidelity against storage: Expander SAEs over the degrees, with every control on the same axes."""

from __future__ import annotations

from ..report import headline, in_order, verdict
from ..results import Frontier
from ..results import from_dict as frontier_from_dict
from .beside import Paper
from .context import Context
from .drawing import lines
from .experiment import Experiment, Figure, Measured, Page
from .quality import diverged, family_lines, quality_table

FAMILIES = {
    "expander": "Expander",
    "matched": "dense, matched learned values",
    "matched-omp": "dense, matched, by pursuit",
    "matched-bytes": "dense, matched bytes",
    "matched-bytes-omp": "dense, matched bytes, by pursuit",
    "matched-decoder": "dense with an encoder of its own, matched decoder",
    "matched-untied": "dense with an encoder of its own, matched learned values",
    "pca": "principal directions, all",
    "pca-topk": "principal directions, best k",
    "dense": "full dense",
    "dense-omp": "full dense, by pursuit",
    "dense-untied": "full dense, encoder of its own",
    "dense-randinit": "full dense, random encoder",
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


def beside(measured: Measured, paper: Paper) -> list[Figure | None]:
    """Metrics against the share of a full dense SAE's decoder values."""
    found: Frontier = frontier_from_dict(measured)
    full = found.settings["n_latents"] * found.settings["d_in"]
    summaries = in_order(found.summaries())
    return [
        lines(
            f"{metric}_beside_the_paper",
            f"{metric} against the share of a full dense SAE's decoder values, beside the paper's",
            [
                *family_lines(summaries, metric, lambda s: s.decoder_values / full, FAMILIES),
                *paper.lines(metric, lambda result: result.share_of_full),
            ],
            x="decoder values / those of the full dense SAE",
            y=metric,
            log_x=True,
        )
        for metric in ("rel_err", "ce_recovered_zero")
        if any(metric in summary.metrics for summary in summaries)
    ]


EXPERIMENT = Experiment(
    name="frontier",
    question="How much fidelity does an Expander SAE give for its size, against dense SAEs of the same size?",
    measure=measure,
    show=show,
    needs=("activations",),
    options={
        "controls": ["dense", "dense-untied", "dense-randinit", "matched", "matched-omp", "matched-decoder"],
    },
    beside=beside,
)
