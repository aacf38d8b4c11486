"""Fidelity against storage: Expander SAEs over the degrees, with every control on the same axes."""

from __future__ import annotations

from ..paper import ARCHITECTURES, select
from ..report import headline, in_order, verdict
from ..results import Frontier, Summary
from ..results import from_dict as frontier_from_dict
from .context import Context
from .drawing import Line, lines
from .experiment import Experiment, Figure, Measured, Page
from .quality import diverged, family_lines, quality_table

_PAPER = ("pythia-70m", 3)
"""The paper's model and layer with the most results."""

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
        figures=[
            *figures,
            *(_beside_the_paper(found, summaries, metric) for metric in ("rel_err", "ce_recovered_zero")),
        ],
        notes=[
            headline(found),
            "Grey: the paper's own numbers for Pythia-70M, layer 3, at its k, 200,000 tokens, its recipe; another "
            "model, other text, first tokens kept. They are there for the shape, not for the height.",
            *diverged(measured),
        ],
    )


def _beside_the_paper(found: Frontier, summaries: list[Summary], metric: str) -> Figure | None:
    """A metric against the share of a full dense SAE's decoder values, the paper's numbers grey behind."""
    full = found.settings["n_latents"] * found.settings["d_in"]
    ours = family_lines(summaries, metric, lambda s: s.decoder_values / full, FAMILIES)
    if not ours:
        return None
    k = found.settings["k"] if select(*_PAPER, found.settings["k"]) else 64
    theirs = []
    for architecture, words in ARCHITECTURES.items():
        points = [
            (result.share_of_full, getattr(result, metric))
            for result in select(*_PAPER, k)
            if result.architecture == architecture
        ]
        theirs.append(Line(f"paper, Pythia-70M layer 3, k = {k}: {words}", points, reference=True))
    return lines(
        f"{metric}_beside_the_paper",
        f"{metric} against the share of a full dense SAE's decoder values; grey: the paper, another model",
        [*ours, *theirs],
        x="decoder values / those of the full dense SAE",
        y=metric,
        log_x=True,
    )


EXPERIMENT = Experiment(
    name="frontier",
    question="How much fidelity does an Expander SAE give for its size, against dense SAEs of the same size?",
    measure=measure,
    show=show,
    needs=("activations",),
    options={"controls": ["dense", "matched", "matched-omp"]},
)
