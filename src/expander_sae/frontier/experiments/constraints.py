"""Can training help? Dictionaries trained under what certificates ask for, and what that costs."""

from __future__ import annotations

from typing import Any

from expander_sae.graphs.overlap import overlap_profile
from expander_sae.records import ExpanderSaeError
from expander_sae.theory.flatness import flatness
from expander_sae.theory.recovery import omp_k_from_overlap
from expander_sae.training import TrainConfig

from ..over_seeds import spread
from ..variants import plan
from .certified_tokens import certify_tokens
from .context import Context
from .drawing import Line, lines
from .experiment import Experiment, Measured, Page, Table
from .geometry import diagnose
from .quality import diverged, text_of

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
    store, settings, degree = context.store, context.settings, context.option("degree")
    sizes = {"d_in": store.d_in, "n_latents": settings.n_for(store.d_in), "k": settings.k, "seeds": settings.seeds}
    found: list[dict[str, Any]] = []
    trained: list[dict[str, Any]] = []
    for text in context.option("ways"):
        config = constrained(settings.training(), text)
        label = "" if text == "none" else text.replace("=", "").replace("+", "-").replace("_", "")
        grid = context.grid(variants=plan([degree], (), **sizes), config=config, label=label)
        trained += ({**one, "variant": f"{one['variant']} with {text}"} for one in grid.records()["records"])
        for record, sae in grid.saes():
            if record.evaluation is None:
                continue
            mark = {"folder": record.folder, "way": text, "training": record.training.to_dict(),
                    "fvu": record.evaluation.fvu, "tokens": context.option("tokens")}  # fmt: skip

            def make(sae: Any = sae) -> dict[str, Any]:
                return {**_guarantees(sae, settings.k), "codes": certify_tokens(sae.eval(), "omp", context)}

            value = context.piece(f"{record.variant}-{record.seed}-{label or 'none'}", mark, make)
            found.append({"way": text, "seed": record.seed, "fvu": record.evaluation.fvu,
                          "dead": record.evaluation.dead_fraction, **value})  # fmt: skip
    return {"rows": found, "k": settings.k, "degree": degree, "frontier": {"records": trained}}


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


def _guarantees(sae: Any, k: int) -> dict[str, Any]:
    """The geometry of a dictionary, and the k for which its overlaps and its inner products guarantee OMP."""
    values = sae.values.detach().cpu().numpy()
    overlap = overlap_profile(sae.mask, p_max=1)
    ratio = flatness(values).largest
    return {
        **diagnose(sae.mask, values, k),
        "omp_from_overlap": omp_k_from_overlap(overlap.largest, sae.degree, ratio),
    }


def show(measured: Measured) -> Page:
    """Geometry, what is guaranteed, and fvu, by way of training."""
    rows = measured["rows"]
    ways = list(dict.fromkeys(row["way"] for row in rows))

    def table(title: str, columns: dict[str, tuple[str, int, float]], note: str) -> Table:
        cells = [
            [way, *(text_of(spread(_get(r, path, factor) for r in rows if r["way"] == way), digits)
                    for path, digits, factor in columns.values())]
            for way in ways
        ]  # fmt: skip
        return Table(title, ["trained with", *columns], cells, note)

    tables = [
        table("Price and geometry", {
            "fvu": ("fvu", 4, 1.0), "dead, %": ("dead", 2, 100.0), "β median": ("ratio_median", 1, 1.0),
            "β max": ("ratio_max", 1, 1.0), "μ": ("mu", 3, 1.0), "μ₁(k)": ("mu1_k", 2, 1.0),
            "largest overlap": ("largest_overlap", 1, 1.0), "busiest row / mean": ("row_degree_max", 1, 1.0),
            "loss at 2k, found": ("epsilon_2k.greedy", 2, 1.0), "R_OMP": ("R_OMP", 0, 1.0), "R_id": ("R_id", 1, 1.0),
        }, "none: the settings of every other experiment. R_OMP and R_id below 1 would certify."),
        table("What is certified", {
            "OMP, every code, k": ("omp_from_overlap", 0, 1.0), "Fuchs, %": ("codes.share.fuchs", 1, 100.0),
            "Lasso interval, %": ("codes.share.lasso", 1, 100.0),
            "ERC(S) > 0, %": ("codes.share.exact_recovery", 1, 100.0),
            "1-swap optimal, %": ("codes.share.swap_optimal", 1, 100.0),
            "median σ_min": ("codes.sigma_min_median", 2, 1.0),
        }, "Shares of held-out tokens read by OMP."),
    ]  # fmt: skip
    points = [(spread(r["mu1_k"] for r in rows if r["way"] == w), spread(r["fvu"] for r in rows if r["way"] == w))
              for w in ways]  # fmt: skip
    drawn = [Line("ways", [(x.mean, y) for x, y in points if x and y], labels=ways)]
    figure = lines("price", "fvu against the cumulative coherence", drawn, x="μ₁(k)", y="fvu", log_x=False)
    return Page(_claim(rows, ways), tables, [figure], diverged(measured["frontier"]))


def _get(row: dict[str, Any], path: str, factor: float) -> float | None:
    value: Any = row
    for part in path.split("."):
        value = value[part]
    return None if value is None else value * factor


def _claim(rows: list[dict[str, Any]], ways: list[str]) -> str:
    if not rows:
        return "No SAE was measured."
    parts = []
    for way in ways:
        fvu, babel = (spread(row[name] for row in rows if row["way"] == way) for name in ("fvu", "mu1_k"))
        if fvu and babel:
            parts.append(f"{way} fvu {fvu.mean:.4f} at μ₁(k) {babel.mean:.1f}")
    reach = max(row["omp_from_overlap"] or 0 for row in rows)
    return f"Trained with {'; '.join(parts)}; the most that any of them guarantees OMP for is k = {reach}."


EXPERIMENT = Experiment(
    name="constraints",
    question="What does it cost to train columns flat, incoherent and evenly spread, and what does it certify?",
    measure=measure,
    show=show,
    needs=("activations",),
    options={
        "degree": 7,
        "tokens": 500,
        "ways": ["none", "flatness=4", "flatness=2", "flatness=1", "flatness=1+flatness_from=0", "coherence=0.1",
                 "coherence=1", "rewire_row_cap=2", "flatness=2+coherence=1+rewire_row_cap=2"],
    },
)  # fmt: skip
