"""Can training help? Dictionaries trained under what certificates ask for, and what that costs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

from expander_sae.records import ExpanderSaeError
from expander_sae.theory.geometry import diagnose
from expander_sae.theory.recovery import omp_k_from_overlap
from expander_sae.training import TrainConfig

from ..drawing import Line, lines
from ..page import Page, Row, by, over_seeds, table_by
from .certified_tokens import certify_tokens
from .context import Context
from .experiment import Experiment, Measured
from .quality import diverged

_SETTINGS = {
    "flatness": float,
    "flatness_from": float,
    "coherence": float,
    "rewire_row_cap": float,
    "rewire_every": int,
    "rewire_entries": int,
    "rewire_until": float,
}
"""Settings of training that an option may change, by their names in records."""


def measure(context: Context) -> Measured:
    """One grid of one degree for each way of training; diagnostics and certified tokens of each SAE."""
    settings, degree = context.settings, context.option("degree")
    rows: list[dict[str, Any]] = []
    trained: list[dict[str, Any]] = []
    for text in context.option("ways"):
        config = constrained(settings.training(), text)
        label = "" if text == "none" else text.replace("=", "").replace("+", "-").replace("_", "")
        grid = context.grid(degrees=[degree], config=config, label=label)
        trained += ({**one, "variant": f"{one['variant']} with {text}"} for one in grid.records()["records"])
        for record, sae in grid.saes():
            evaluation = record.evaluation
            if evaluation is None:
                continue
            mark = {"folder": record.folder, "way": text, "training": record.training.to_dict(),
                    "fvu": evaluation.fvu, "tokens": context.option("tokens")}  # fmt: skip
            name = f"{record.variant}-{record.seed}-{label or 'none'}"
            value = context.piece(name, mark, partial(_guarantees, sae.eval(), context))
            rows.append({"way": text, "seed": record.seed, "fvu": evaluation.fvu, "dead": evaluation.dead_fraction,
                         **value})  # fmt: skip
    return {"rows": rows, "k": settings.k, "degree": degree, "frontier": {"records": trained}}


def constrained(config: TrainConfig, text: str) -> TrainConfig:
    """A training config with what a text like "flatness=2+rewire_row_cap=2" says; "none" changes nothing.

    Raises:
        ExpanderSaeError: a setting that is not among those of `_SETTINGS`, no number, or a setting of a part that is
            off.
    """
    if text == "none":
        return config
    changed: dict[str, Any] = {}
    for part in text.split("+"):
        name, sign, number = part.partition("=")
        try:
            changed[name] = _SETTINGS[name](number)
        except (KeyError, ValueError):
            raise ExpanderSaeError(
                f"expected ways to train as none or SETTING=NUMBER joined by +, settings out of "
                f"{', '.join(sorted(_SETTINGS))}; got {text!r}"
            ) from None
        if not sign:
            raise ExpanderSaeError(f"expected SETTING=NUMBER, got {part!r}")
    return TrainConfig.from_dict(config.to_dict() | changed)


def _guarantees(sae: Any, context: Context) -> dict[str, Any]:
    """The geometry of a dictionary, the k for which its overlaps guarantee OMP, and which tokens are certified."""
    geometry = diagnose(sae.dictionary(), context.settings.k)
    return {
        **geometry,
        "omp_from_overlap": omp_k_from_overlap(geometry["largest_overlap"], sae.degree, geometry["ratio_max"]),
        "codes": certify_tokens(sae, "omp", context),
    }


def show(measured: Measured) -> Page:
    """Geometry, what is guaranteed, and fvu, by way of training."""
    of = by(measured["rows"], "way")
    tables = [
        table_by("Price and geometry", of, {
            "fvu": ("fvu", 4), "dead, %": ("dead", 2, 100.0), "β median": ("ratio_median", 1),
            "β max": ("ratio_max", 1), "μ": ("mu", 3), "μ₁(k)": ("mu1_k", 2),
            "largest overlap": ("largest_overlap", 1), "busiest row / mean": ("row_degree_max", 1),
            "loss at 2k, found": ("epsilon_2k/greedy", 2), "R_OMP": ("R_OMP", 0), "R_id": ("R_id", 1),
        }, "none: the settings of every other experiment. R_OMP and R_id below 1 would certify.", "trained with"),
        table_by("What is certified", of, {
            "OMP, every code, k": ("omp_from_overlap", 0), "Fuchs, %": ("codes/share/fuchs", 1, 100.0),
            "Lasso interval, %": ("codes/share/lasso", 1, 100.0),
            "ERC(S) > 0, %": ("codes/share/exact_recovery", 1, 100.0),
            "1-swap optimal, %": ("codes/share/swap_optimal", 1, 100.0),
            "median σ_min": ("codes/sigma_min_median", 2),
        }, "Shares of held-out tokens read by OMP.", "trained with"),
    ]  # fmt: skip
    points = [(over_seeds(rows, "mu1_k"), over_seeds(rows, "fvu")) for rows in of.values()]
    drawn = [Line("ways", [(x.mean, y) for x, y in points if x and y], labels=list(of))]
    figure = lines("price", "fvu against the cumulative coherence", drawn, x="μ₁(k)", y="fvu", log_x=False)
    return Page(_claim(of), tables, [figure], diverged(measured["frontier"]))


def _claim(of: Mapping[str, Sequence[Row]]) -> str:
    if not of:
        return "No SAE was measured."
    parts = []
    for way, rows in of.items():
        fvu, babel = over_seeds(rows, "fvu"), over_seeds(rows, "mu1_k")
        if fvu and babel:
            parts.append(f"{way} fvu {fvu.mean:.4f} at μ₁(k) {babel.mean:.1f}")
    reach = max(row["omp_from_overlap"] or 0 for rows in of.values() for row in rows)
    return f"Trained with {'; '.join(parts)}; the most that any of them guarantees OMP for is k = {reach}."


EXPERIMENT = Experiment(
    name="constraints",
    question="What does it cost to train columns flat, incoherent and evenly spread, and what does it certify?",
    measure=measure,
    show=show,
    options={
        "degree": 7,
        "tokens": 500,
        "ways": ["none", "flatness=4", "flatness=2", "flatness=1", "flatness=1+flatness_from=0", "coherence=0.1",
                 "coherence=1", "rewire_row_cap=2", "flatness=2+coherence=1+rewire_row_cap=2"],
    },
)  # fmt: skip
