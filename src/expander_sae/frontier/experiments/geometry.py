"""The geometry of trained dictionaries: flatness, coherence, expansion and row crowding."""

from __future__ import annotations

import copy
from functools import partial
from typing import Any

import torch

from expander_sae.evaluation import ReconstructionAccumulator
from expander_sae.paper import Paper
from expander_sae.theory.geometry import diagnose
from expander_sae.training.flat_columns import flatten_columns

from ..drawing import beside_the_paper, lines
from ..page import Figure, Page, by, over_seeds, table_by
from .context import Context
from .experiment import Experiment, Measured
from .quality import diverged, families_along_degree, of_least_degree


def measure(context: Context) -> Measured:
    """Diagnostics of every sparse SAE of the grid."""
    grid, k = context.grid(controls=context.option("controls")), context.settings.k
    rows = []
    for record, sae in grid.saes():
        mask, evaluation = getattr(sae, "mask", None), record.evaluation
        if mask is None or evaluation is None:
            continue
        mark = {"folder": record.folder, "sha256": mask.sha256(), "fvu": evaluation.fvu, "k": k,
                "betas": context.option("betas"), "tokens": context.option("flatten_tokens")}  # fmt: skip
        row = context.row(
            record, record.folder.replace("/", "-"), mark, partial(_geometry, sae, context), fvu=evaluation.fvu,
            delta_ce=evaluation.delta_ce,
        )  # fmt: skip
        rows.append(row)
    return {"rows": rows, "k": k, "frontier": grid.records()}


def _geometry(sae: Any, context: Context) -> dict[str, Any]:
    return {**diagnose(sae.dictionary(), context.settings.k), "flattened": flattened_fvu(sae, context)}


@torch.no_grad()
def flattened_fvu(sae: Any, context: Context) -> dict[str, float]:
    """fvu on held-out tokens once the columns are flattened to a ratio, by ratio; nothing is trained afterwards."""
    x = torch.cat(list(context.heldout_blocks(context.option("flatten_tokens"))))
    found, values = {}, sae.values.detach().cpu().numpy()
    for beta in (0.0, *context.option("betas")):
        flat = copy.deepcopy(sae).eval()
        if beta:
            flat.columns.raw.copy_(torch.from_numpy(flatten_columns(values, beta)))
        sums = ReconstructionAccumulator(sae.d_in, sae.n_latents)
        for batch in x.split(2048):
            codes = flat.encode(batch)
            sums.update(batch, flat.decode(codes), codes)
        found[f"{beta:g}" if beta else "as trained"] = sums.result().fvu
    return found


def show(measured: Measured) -> Page:
    """Geometry by variant; the price of row degrees; no certificate holds, or which does."""
    rows = measured["rows"]
    of = by(rows, "variant")
    flat = list(rows[0]["flattened"]) if rows else []
    tables = [
        table_by("Columns", of, {
            "β median": ("ratio_median", 2), "β p95": ("ratio_p95", 1), "β max": ("ratio_max", 0),
            "√d max|w|, max": ("beta_max", 2), "μ": ("mu", 3), "μ₁(k)": ("mu1_k", 2),
            "R_OMP": ("R_OMP", 0), "R_id": ("R_id", 1),
        }, "β: largest over smallest magnitude in a column. R_OMP and R_id as in the paper; below 1 would certify."),
        table_by("Expansion loss at 2k columns", of, {
            name.replace("_", " "): (f"epsilon_2k/{name}", 3)
            for name in ("counting", "random", "greedy", "top_overlap")
        }, "Sets that were found: the true loss is at least this. One half is where uniqueness by expansion ends."),
        table_by("Rows", of, {
            "busiest / mean": ("row_degree_max", 1), "95th percentile / mean": ("row_degree_p95", 1),
            "empty rows": ("empty_rows", 0), "largest overlap": ("largest_overlap", 0), "fvu": ("fvu", 4),
        }),
        table_by("fvu with columns flattened to β", of, {name: (f"flattened/{name}", 3) for name in flat},
                 "Nothing is trained after flattening: an upper bound on what flat columns cost."),
    ]  # fmt: skip
    figures = [
        lines(
            path.replace("/", "."),
            f"{title} against degree",
            families_along_degree(rows, path),
            x="degree",
            y=title,
            log_x=True,
            log_y=log,
        )
        for path, title, log in (
            ("mu1_k", "μ₁(k)", False),
            ("ratio_median", "median β", True),
            ("row_degree_max", "busiest row / mean row degree", True),
            ("epsilon_2k/greedy", "expansion loss found at 2k", False),
        )
    ]
    return Page(_claim(rows), tables, figures, diverged(measured["frontier"]))


def _claim(rows: list[dict[str, Any]]) -> str:
    passing = sum(row["R_OMP"] < 1 or row["R_id"] < 1 for row in rows)
    text = f"{passing} of {len(rows)} trained dictionaries pass the paper's OMP or identifiability test"
    if rows:
        text += f" (least R_OMP {min(r['R_OMP'] for r in rows):.3g}, least R_id {min(r['R_id'] for r in rows):.3g})"
    found = {}
    for family in ("expander", "fixed"):
        if least := of_least_degree(rows, family):
            found[family] = (over_seeds(least, "row_degree_max"), over_seeds(least, "fvu"), least[0]["degree"])
    if len(found) == 2:
        (crowd, fvu, degree), (even, kept, _) = found["expander"], found["fixed"]
        if crowd and fvu and even and kept:
            text += (
                f"; learned supports at d = {degree} put {crowd.mean:.1f} times the mean on their busiest row (fixed "
                f"masks {even.mean:.1f}) and reach fvu {fvu.mean:.3f} (fixed {kept.mean:.3f})"
            )
    return text + "."


_BESIDE = (
    # ours, the paper's, what it is
    ("beta_median", "beta_median", "√d max|w|, median over columns"),
    ("mu1_k", "mu1_k", "μ₁(k)"),
    ("R_OMP", "R_OMP", "R_OMP (below 1 would certify OMP)"),
    ("R_id", "R_id", "R_id (below 1 would certify identifiability)"),
    ("epsilon_2k/greedy", "epsilon_greedy_s2k", "expansion loss found at 2k"),
)


def beside(measured: Measured, paper: Paper) -> list[Figure | None]:
    """Flatness, coherence and expansion against the degree."""
    rows = measured["rows"]
    return [
        beside_the_paper(
            quantity,
            f"{unit} against degree",
            [
                *families_along_degree(rows, path),
                *paper.diagnostics("geometry", quantity, ("expander_tied", "clustered_sparse")),
            ],
            x="degree",
            y=unit,
        )
        for path, quantity, unit in _BESIDE
    ]


EXPERIMENT = Experiment(
    name="geometry",
    question="How flat, coherent and expanding are trained dictionaries?",
    measure=measure,
    show=show,
    options={
        "controls": ["fixed"],
        "betas": [2.0, 4.0, 8.0, 16.0],
        "flatten_tokens": 4096,
    },
    beside=beside,
)
