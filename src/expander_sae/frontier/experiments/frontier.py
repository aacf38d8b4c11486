"""Fidelity against storage: Expander SAEs over the degrees, with every control on the same axes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from expander_sae.paper import Paper
from expander_sae.records import ExpanderSaeError
from expander_sae.records.metrics import METRIC

from ..drawing import beside_the_paper, by_speed, lines, short_number
from ..page import Figure, Page, caution
from ..results import Frontier, Summary, from_dict, in_order, summarise
from .context import Context, Grid
from .experiment import Experiment, Measured
from .quality import diverged, family_lines, mean_of, quality_table
from .told import against_coordinates, told_figures, told_table

_PANELS = (
    ("fvu", "learned_values"),
    ("delta_ce", "learned_values"),
    ("fvu", "bytes_on_disk"),
    ("delta_ce", "bytes_on_disk"),
    ("ce_recovered_zero", "learned_values"),
    ("ce_recovered_mean", "learned_values"),
    ("kl", "learned_values"),
    ("rel_err", "learned_values"),
)
"""Metric and size of each figure."""


def measure(context: Context) -> Measured:
    """Train and evaluate the grid, and ask what its latents tell."""
    controls, readings = context.option("controls"), context.option("readings")
    grid = context.grid(controls=controls, readings=readings)
    rows, notes = _concepts(context, grid)
    found = replace(grid.frontier, concepts=rows, notes=[*grid.frontier.notes, *notes])
    found.save(grid.folder)
    return found.to_dict()


def _concepts(context: Context, grid: Grid) -> tuple[list[dict[str, Any]], list[str]]:
    """How well the latents of each SAE and of its untrained twin tell concepts; or why that was not measured."""
    tokens = context.option("probe_tokens")
    if not tokens or not context.has_language_model:
        return [], []
    try:
        from .probes import Probes, TooLittleText
    except ExpanderSaeError as error:  # scikit-learn is missing
        return [], [f"Latents were not probed for concepts: {error}"]
    probes = Probes(context, tokens, ks=(1, 5))
    try:
        return [*probes.rows(grid), probes.raw_coordinates()], []
    except TooLittleText as error:
        return [], [f"Latents were not probed for concepts: {error}"]


def show(measured: Measured) -> Page:
    """Every metric against learned values, and fvu and delta_ce against bytes; quality against speed, if read so."""
    found = from_dict(measured)
    summaries = in_order(found.summaries())
    tables = [quality_table("All SAEs", summaries)]
    figures = [
        lines(
            f"{metric}_by_{size}",
            f"{metric} against {size.replace('_', ' ')}, by family",
            family_lines(summaries, metric, lambda s, size=size: getattr(s, size)),
            x=size.replace("_", " "),
            y=METRIC[metric].heading,
            title=METRIC[metric].title,
            log_x=True,
        )
        for metric, size in _PANELS
    ]
    if found.readings:
        read = in_order(summarise([*found.records, *found.readings]))
        tables.append(quality_table("The same SAEs, read in other ways", read, inference=True))
        figures += [
            by_speed(f"{metric}_by_speed", f"{metric} against the speed of reading codes", metric, read)
            for metric in ("fvu", "delta_ce")
        ]
    notes = [headline(summaries), *baseline(found)]
    if found.concepts:
        tables.append(told_table(found.concepts, summaries))
        figures += told_figures(found.concepts)
        notes.append(against_coordinates(found.concepts))
    notes += [*diverged(measured), *to_mind(found.settings)]
    return Page(verdict(summaries) or notes[0], tables, figures, notes)


def headline(summaries: Sequence[Summary]) -> str:
    """What the frontier says about one degree: the paper's 7, or the nearest to it."""
    sparse = [summary for summary in summaries if summary.family == "expander"]
    dense = next((summary for summary in summaries if summary.family == "dense"), None)
    if not sparse:
        return "No Expander SAE was evaluated."
    one = min(sparse, key=lambda summary: abs((summary.matched_degree or 0) - 7))
    size = f"{short_number(one.learned_values)} learned values"
    if dense is not None:
        size += f", {one.learned_values / dense.learned_values:.1%} of the full dense SAE's"
    start = (
        f"At degree {one.matched_degree} ({size}), the Expander SAE leaves {_of(one, 'fvu', '.1%')} of the variance "
    )
    text = f"{start}unexplained" + ("" if dense is None else f" (full dense: {_of(dense, 'fvu', '.1%')})")
    if "delta_ce" not in one.metrics:
        return text + "."
    text += f" and costs the language model {_of(one, 'delta_ce', '.2f')} nats a token"
    if dense is not None:
        text += f" (full dense: {_of(dense, 'delta_ce', '.2f')})"
    if "retention_zero" in one.metrics and "retention_mean" in one.metrics:
        text += (
            f"; it retains {_of(one, 'retention_zero', '.1%')} of the full dense SAE's cross entropy recovered "
            f"in the zero form, {_of(one, 'retention_mean', '.1%')} in the mean form"
        )
    twin = _twin(one, summaries)
    if twin is not None:
        text += (
            f". A dense SAE of the same size ({twin.n_latents} latents) leaves {_of(twin, 'fvu', '.1%')} "
            f"and costs {_of(twin, 'delta_ce', '.2f')} nats"
        )
    return text + "."


def verdict(summaries: Sequence[Summary]) -> str | None:
    """Who is ahead at equal size, counted over the degrees; None without matched controls."""
    pairs = [(s, twin) for s in summaries if s.family == "expander" and (twin := _twin(s, summaries)) is not None]
    if not pairs:
        return None
    parts = []
    for metric, words in (("fvu", "the lower fvu"), ("delta_ce", "the lower cross entropy added")):
        measured = [
            (a.metrics[metric].mean, b.metrics[metric].mean)
            for a, b in pairs
            if metric in a.metrics and metric in b.metrics
        ]
        if measured:
            parts.append(f"{words} in {sum(a < b for a, b in measured)} of {len(measured)}")
    seeds = min(s.metrics["fvu"].seeds for pair in pairs for s in pair if "fvu" in s.metrics)
    ahead_in = ", and ".join(parts)
    said = f"Against a dense SAE with as many learned values, the Expander SAE has {ahead_in} comparisons."
    return said + caution(seeds)


def _twin(sparse: Summary, summaries: Sequence[Summary]) -> Summary | None:
    matched = (s for s in summaries if s.family == "matched" and s.matched_degree == sparse.matched_degree)
    return next(matched, None)


def _of(summary: Summary, metric: str, form: str) -> str:
    value = mean_of(summary, metric)
    return format(float("nan") if value is None else value, form)


def baseline(found: Frontier) -> list[str]:
    """The three runs that every ratio is made of, in a sentence; nothing without a language model."""
    one = next((record.evaluation for record in found.records if record.evaluation is not None), None)
    if one is None or one.ce_clean is None or one.ce_zero is None or one.ce_mean is None:
        return []
    return [
        f"Cross entropy of the language model, in nats per token over {one.ce_tokens:,} predicted tokens: "
        f"{one.ce_clean:.3f} as it is, {one.ce_mean:.3f} with the layer's output replaced by its mean, "
        f"{one.ce_zero:.3f} replaced by zero."
    ]


def to_mind(settings: Mapping[str, Any]) -> list[str]:
    """What a reader should mind, from the settings themselves."""
    notes = [
        "A matched control has as many learned values as the Expander SAE of its degree (and as many in its decoder); "
        "bytes differ a little, see the table."
        + (" Latent biases come on top: the Expander SAE has more of them." if settings["latent_bias"] else ""),
        "The zero form of cross entropy recovered flatters: a zeroed layer is often worse than a uniform guess. Δ CE "
        "hides nothing.",
        "“dead” is the share of latents that never fire on the held-out tokens evaluated, however few those are.",
        "Held-out text was split off by document before tokenising; nothing was trained on it.",
    ]
    if settings["evaluation"]["outlier_medians"] is not None:
        notes.append(
            "Tokens of giant norm are left out of the reconstruction metrics, and (by the ordinary splice) keep their "
            "own activation; a handful of them would otherwise decide the fvu."
        )
    return notes


def beside(measured: Measured, paper: Paper) -> list[Figure | None]:
    """Metrics against the share of a full dense SAE's decoder values."""
    found = from_dict(measured)
    full = found.settings["n_latents"] * found.settings["d_in"]
    summaries = in_order(found.summaries())
    return [
        beside_the_paper(
            metric,
            f"{metric} against the share of a full dense SAE's decoder values",
            [
                *family_lines(summaries, metric, lambda s: s.decoder_values / full),
                *paper.lines(metric, lambda result: result.share_of_full),
            ],
            x="decoder values / those of the full dense SAE",
            y=METRIC[metric].heading,
        )
        for metric in ("rel_err", "ce_recovered_zero")
        if any(metric in summary.metrics for summary in summaries)
    ]


EXPERIMENT = Experiment(
    name="frontier",
    question="How much fidelity does an Expander SAE give for its size, against dense SAEs of the same size?",
    measure=measure,
    show=show,
    options={
        "controls": ["dense", "dense-untied", "dense-randinit", "matched", "matched-omp", "matched-decoder"],
        "readings": [],
        "probe_tokens": 20_000,
    },
    beside=beside,
)
