"""How many steps: the paper trains for 5,000 of 256 tokens; is that the end of the road?"""

from __future__ import annotations

from dataclasses import replace

from ..results import Summary
from .along import figure_beside, page_along, run_at, runs_of
from .beside import Paper
from .context import Context
from .experiment import Experiment, Figure, Measured, Page
from .quality import mean_of

_AXIS = "training tokens, counting repeats"


def measure(context: Context) -> Measured:
    """One grid for each budget; each has its own schedule from warm-up to decay."""
    config, runs = context.settings.training(), []
    for share in sorted(context.option("budgets")):
        tokens = max(config.batch_size, round(share * config.tokens))
        context.say(f"{tokens:,} training tokens")
        # The budget of the command line is every experiment's own grid.
        label = "" if tokens == config.tokens else f"tokens{tokens}"
        runs.append(run_at(tokens, context, config=replace(config, tokens=tokens), label=label))
    return {"runs": runs}


def show(measured: Measured) -> Page:
    """Fidelity along the budget, and what the last doubling still gave."""
    note = "Every budget is a run of its own with its own learning-rate schedule, not a point on one run's way."
    return page_along(measured, _AXIS, _claim(runs_of(measured)), note)


def beside(measured: Measured, paper: Paper) -> list[Figure | None]:
    """rel_err and CE recovered along the budget, an independent replication's beside ours."""
    return [
        figure_beside(
            measured, _AXIS, metric, paper.replication(metric, "steps"), along="training tokens",
            whose="a replication of the paper",
        )
        for metric in ("rel_err", "ce_recovered_zero")
    ]  # fmt: skip


def _claim(runs: list[tuple[float, list[Summary]]]) -> str:
    (fewer, before), (more, after) = runs[max(0, len(runs) - 2)], runs[-1]
    parts = []
    for summary in after:
        old = next((s for s in before if s.variant == summary.variant), None)
        new_fvu, old_fvu = mean_of(summary, "fvu"), mean_of(old, "fvu")
        if new_fvu is not None and old_fvu is not None and old_fvu > 0:
            parts.append(f"{summary.variant} {old_fvu:.3f} to {new_fvu:.3f} ({(new_fvu / old_fvu - 1) * 100:+.1f}%)")
    return f"From {fewer:,.0f} to {more:,.0f} training tokens fvu goes: {', '.join(parts)}."


EXPERIMENT = Experiment(
    name="steps",
    question="Are the SAEs trained long enough, and does more training help one kind more than another?",
    measure=measure,
    show=show,
    needs=("activations",),
    options={"budgets": [0.25, 0.5, 1.0, 2.0], "degrees": [7], "controls": ["dense", "matched"]},
    beside=beside,
)
