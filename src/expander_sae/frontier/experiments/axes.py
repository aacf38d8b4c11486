"""The experiments along an axis: how long, on how much data, with how many active latents, and at which layer."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

from expander_sae.paper import Paper
from expander_sae.records import ExpanderSaeError

from ..page import sentence
from ..results import Summary
from .along import DRAWN, Axis, Place, Runs
from .context import Context
from .quality import mean_of


def _budgets(context: Context) -> Iterator[Place]:
    config = context.settings.training()
    for share in sorted(context.option("budgets")):
        tokens = max(config.batch_size, round(share * config.tokens))
        # The budget of the command line is every experiment's own grid.
        label = "" if tokens == config.tokens else f"tokens{tokens}"
        yield tokens, f"{tokens:,} training tokens", {"config": replace(config, tokens=tokens), "label": label}


def _stored(context: Context) -> Iterator[Place]:
    """A smaller number of tokens is a part of a larger one."""
    kept = context.settings.evaluation().keep_special_tokens
    stored = context.store.n_tokens("train", keep_special_tokens=kept)
    for tokens in sorted({round(share * stored) for share in context.option("shares")}):
        part = {} if tokens == stored else {"train_tokens": tokens, "label": f"first{tokens}"}
        yield tokens, f"{tokens:,} of {stored:,} stored tokens", part


def _ks(context: Context) -> Iterator[Place]:
    """Matched controls with fewer than k latents are left out."""
    for k in sorted(set(context.option("ks"))):
        yield k, f"k = {k}", {"k": k}


def _layers(context: Context) -> Iterator[Place]:
    by_layer = {store.layer: store for store in context.stores if store.layer is not None}
    if len(by_layer) < len(context.stores):
        layers = [store.layer for store in context.stores]
        raise ExpanderSaeError(f"expected harvests of the residual stream after different layers, got layers {layers}")
    for layer, store in sorted(by_layer.items()):
        yield layer, f"layer {layer}", {"store": store}


def _pairs(before: Sequence[Summary], after: Sequence[Summary]) -> Iterator[tuple[str, float, float]]:
    """Every SAE that both have, and its fvu before and after."""
    for summary in after:
        old = next((s for s in before if s.variant == summary.variant), None)
        old_fvu, new_fvu = mean_of(old, "fvu"), mean_of(summary, "fvu")
        if old_fvu is not None and new_fvu is not None:
            yield summary.variant, old_fvu, new_fvu


def _longer(runs: Runs) -> str:
    (fewer, before), (more, after) = runs[max(0, len(runs) - 2)], runs[-1]
    parts = [
        f"{name} {old:.3f} to {new:.3f} ({(new / old - 1) * 100:+.1f}%)"
        for name, old, new in _pairs(before, after)
        if old > 0
    ]
    return f"From {fewer:,.0f} to {more:,.0f} training tokens fvu goes: {', '.join(parts)}."


def _more_data(runs: Runs) -> str:
    (least, few), (most, many) = runs[0], runs[-1]
    parts = [f"{name} by {old - new:.3f} (from {old:.3f} to {new:.3f})" for name, old, new in _pairs(few, many)]
    return f"From {least:,.0f} to {most:,.0f} stored tokens, at equal steps, fvu falls: {', '.join(parts)}."


def _first_of(summaries: Sequence[Summary], family: str) -> Summary | None:
    return next((summary for summary in summaries if summary.family == family), None)


def _by_k(runs: Runs) -> str:
    parts = []
    for k, summaries in runs:
        fvus = [
            f"{summary.variant} leaves {fvu:.3f}"
            for summary in (_first_of(summaries, "expander"), _first_of(summaries, "dense"))
            if summary is not None and (fvu := mean_of(summary, "fvu")) is not None
        ]
        parts.append(f"at k = {k:.0f} {' and '.join(fvus)}" if fvus else f"at k = {k:.0f} nothing was measured")
    return f"Of fvu, {'; '.join(parts)}."


def _by_layer(runs: Runs) -> str:
    parts = []
    for layer, summaries in runs:
        sparse = _first_of(summaries, "expander")
        zero, mean = mean_of(sparse, "retention_zero"), mean_of(sparse, "retention_mean")
        fvu = mean_of(sparse, "fvu")
        if sparse is not None and fvu is not None:
            kept = (
                "" if zero is None or mean is None else f", retention {zero:.3f} (zero form) and {mean:.3f} (mean form)"
            )
            parts.append(f"layer {layer:.0f}: {sparse.variant} fvu {fvu:.3f}{kept}")
    return sentence(parts)


AXES = (
    Axis(
        name="active-latents",
        question="How do fidelity and dead latents depend on the number of active latents?",
        axis="active latents per token, k",
        place="k",
        places=_ks,
        claim=_by_k,
        note="Every k is a training of its own, not one SAE read with fewer or more latents.",
        options={"ks": [16, 32, 64, 128], "degrees": [7, 30, 200], "controls": ["dense", "matched"]},
        drawn=(*DRAWN, "dead_fraction"),
        theirs=Paper.along_k,
        compared=("rel_err", "ce_recovered_zero", "dead_fraction"),
    ),
    Axis(
        name="steps",
        question="Are the SAEs trained long enough, and does more training help one kind more than another?",
        axis="training tokens, counting repeats",
        places=_budgets,
        claim=_longer,
        note="Every budget is a run of its own with its own learning-rate schedule, not a point on one run's way.",
        options={"budgets": [0.25, 0.5, 1.0, 2.0], "degrees": [7], "controls": ["dense", "matched"]},
        theirs=lambda paper, metric: paper.replication(metric, "steps"),
        whose="a replication of the paper",
    ),
    Axis(
        name="data-efficiency",
        question="Does a sparse dictionary need less data than a dense one?",
        axis="stored training tokens",
        places=_stored,
        claim=_more_data,
        note="All runs have equally many steps and see as many tokens, counting repeats; held-out text is the same.",
        options={"shares": [0.125, 0.25, 0.5, 1.0], "degrees": [7, 30], "controls": ["dense", "matched"]},
        theirs=lambda paper, metric: paper.along_data(
            metric, (("expander_tied", 7), ("expander_tied", 100), ("dense_tied", 512))
        ),
        compared=("rel_err",),
    ),
    Axis(
        name="layers",
        question="Does the comparison come out the same at other layers?",
        axis="layer",
        place="Layer",
        places=_layers,
        claim=_by_layer,
        note="Layers are counted from 0.",
        options={"degrees": [7, 30], "controls": ["dense", "matched", "matched-omp"]},
        theirs=lambda paper, metric: [*paper.along_layers(metric), *paper.replication(metric, "layer")],
        log_x=False,
        how={"every_layer": True},
    ),
)
EXPERIMENTS = {axis.name: axis.experiment() for axis in AXES}
"""By name."""
