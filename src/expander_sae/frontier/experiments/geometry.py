"""The geometry of trained dictionaries: flatness, coherence, expansion and row crowding."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import torch

from expander_sae.evaluation import ReconstructionAccumulator
from expander_sae.graphs import Mask
from expander_sae.graphs.adversary import find_bad_expansion
from expander_sae.graphs.overlap import overlap_blocks, overlap_profile
from expander_sae.theory import dictionary_coherence, flatness
from expander_sae.training.flat_columns import flatten_columns

from ..over_seeds import spread
from .beside import Paper
from .context import Context, Grid
from .drawing import Line, lines
from .experiment import Experiment, Figure, Measured, Page, Table
from .quality import diverged, text_of

_SETS = 1000  # random sets of the paper's estimate
_RESTARTS = 30  # greedy builds of it


def measure(context: Context) -> Measured:
    """Diagnostics of every sparse SAE of the grid."""
    grid = context.grid(controls=context.option("controls"))
    return {"rows": _grid_rows(context, grid), "k": context.settings.k, "frontier": grid.records()}


def _grid_rows(context: Context, grid: Grid) -> list[dict[str, Any]]:
    found = []
    for record, loaded in grid.saes():
        sae: Any = loaded
        mask = getattr(sae, "mask", None)
        if mask is None or record.evaluation is None:
            continue
        values = sae.values.detach().cpu().numpy()
        mark = {"folder": record.folder, "sha256": mask.sha256(), "fvu": record.evaluation.fvu,
                "k": context.settings.k, "betas": context.option("betas"),
                "tokens": context.option("flatten_tokens")}  # fmt: skip

        def make(mask: Mask = mask, values: np.ndarray = values, sae: Any = sae) -> dict[str, Any]:
            return {**diagnose(mask, values, context.settings.k), "flattened": flattened_fvu(sae, context)}

        value = context.piece(record.folder.replace("/", "-"), mark, make)
        found.append({"variant": record.variant, "family": record.family, "seed": record.seed,
                      "fvu": record.evaluation.fvu, "delta_ce": record.evaluation.delta_ce, **value})  # fmt: skip
    return found


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


def diagnose(mask: Mask, values: np.ndarray, k: int) -> dict[str, Any]:
    """Every number of one dictionary; epsilon(s) at s = k + 1 and 2k by counting and by three searches for bad sets.

    The searches find sets, so they bound expansion from above; R_OMP = b^2 eps(k + 1)(2k + 1) and R_id = 2 b^2 eps(2k),
    b = max sqrt(d) |w_ij|, are the paper's and would have to be below one.
    """
    flat, degrees = flatness(values), mask.right_degrees()
    unit = np.abs(values) / np.linalg.norm(values, axis=1, keepdims=True)
    scaled = np.sqrt(mask.degree) * unit.max(axis=1)
    coherence = dictionary_coherence(mask, values, p_max=k)
    overlaps = overlap_profile(mask, p_max=1)
    mean = degrees.mean()
    losses = {f"epsilon_{size}": _losses(mask, s) for size, s in (("k1", k + 1), ("2k", 2 * k))}
    worst = {size: max(found.values()) for size, found in losses.items()}
    peak = float(scaled.max()) ** 2
    return {
        "degree": mask.degree,
        "ratio_median": flat.median, "ratio_p95": flat.p95, "ratio_max": flat.largest,
        "beta_median": float(np.median(scaled)), "beta_p95": float(np.quantile(scaled, 0.95)),
        "beta_max": float(scaled.max()),
        "mu": coherence.coherence, "mu1_k": float(coherence.babel[k]), "coherence_exact": coherence.exact,
        "largest_overlap": overlaps.largest, "overlap_exact": overlaps.exact,
        "row_degree_max": float(degrees.max() / mean), "row_degree_p95": float(np.quantile(degrees, 0.95) / mean),
        "empty_rows": int((degrees == 0).sum()),
        **losses,
        "R_OMP": peak * worst["epsilon_k1"] * (2 * k + 1), "R_id": 2 * peak * worst["epsilon_2k"],
    }  # fmt: skip


def _losses(mask: Mask, s: int) -> dict[str, float]:
    s = min(s, mask.n_latents)
    draw = np.random.default_rng(0)
    fewest = min(
        np.unique(mask.rows[draw.choice(mask.n_latents, s, replace=False)]).size for _ in range(_SETS)
    )  # fmt: skip
    return {
        "counting": max(0.0, 1 - mask.d_in / (mask.degree * s)),
        "random": 1 - fewest / (mask.degree * s),
        "greedy": float(find_bad_expansion(mask, s_max=s, restarts=_RESTARTS).loss[-1]),
        "top_overlap": _top_overlap_loss(mask, s),
    }


def _top_overlap_loss(mask: Mask, s: int) -> float:
    """The worst of each column with the s - 1 columns that share most rows with it."""
    fewest = mask.d_in
    for block, counts in overlap_blocks(mask, np.arange(mask.n_latents, dtype=np.int64)):
        counts[np.arange(len(block)), block] = mask.degree + 1  # itself first
        chosen = np.argpartition(counts, counts.shape[1] - s, axis=1)[:, -s:]
        for columns in chosen:
            fewest = min(fewest, np.unique(mask.rows[columns]).size)
    return 1 - fewest / (mask.degree * s)


def show(measured: Measured) -> Page:
    """Geometry by variant; the price of row degrees; no certificate holds, or which does."""
    rows = measured["rows"]
    variants = list(dict.fromkeys(row["variant"] for row in rows))

    def table(title: str, columns: dict[str, tuple[str, int]], note: str = "") -> Table:
        cells = [
            [v, *(text_of(spread(_get(r, path) for r in rows if r["variant"] == v), n) for path, n in columns.values())]
            for v in variants
        ]
        return Table(title, ["SAE", *columns], cells, note)

    tables = [
        table("Columns", {"β median": ("ratio_median", 2), "β p95": ("ratio_p95", 1), "β max": ("ratio_max", 0),
              "√d max|w|, max": ("beta_max", 2), "μ": ("mu", 3), "μ₁(k)": ("mu1_k", 2),
              "R_OMP": ("R_OMP", 0), "R_id": ("R_id", 1)},
              "β: largest over smallest magnitude in a column. R_OMP and R_id as in the paper; below 1 would certify."),
        table("Expansion loss at 2k columns", {name.replace("_", " "): (f"epsilon_2k.{name}", 3)
              for name in ("counting", "random", "greedy", "top_overlap")},
              "Sets that were found: the true loss is at least this. One half is where uniqueness by expansion ends."),
        table("Rows", {"busiest / mean": ("row_degree_max", 1), "95th percentile / mean": ("row_degree_p95", 1),
              "empty rows": ("empty_rows", 0), "largest overlap": ("largest_overlap", 0), "fvu": ("fvu", 4)}),
    ]  # fmt: skip
    flat = list(rows[0]["flattened"]) if rows else []
    tables.append(table("fvu with columns flattened to β", {name: (f"flattened/{name}", 3) for name in flat},
                        "Nothing is trained after flattening: an upper bound on what flat columns cost."))  # fmt: skip
    families = list(dict.fromkeys(row["family"] for row in rows))
    figures = [
        lines(
            metric,
            f"{title} against degree",
            [_line(rows, family, metric) for family in families],
            x="degree",
            y=title,
            log_x=True,
            log_y=log,
        )
        for metric, title, log in (
            ("mu1_k", "μ₁(k)", False),
            ("ratio_median", "median β", True),
            ("row_degree_max", "busiest row / mean row degree", True),
            ("epsilon_2k.greedy", "expansion loss found at 2k", False),
        )
    ]
    return Page(_claim(rows), tables, figures, diverged(measured["frontier"]))


def _get(row: dict[str, Any], path: str) -> float | None:
    value: Any = row
    for part in path.split("/" if "/" in path else "."):
        value = value[part]
    return value


def _line(rows: list[dict[str, Any]], family: str, path: str) -> Line:
    mine = [row for row in rows if row["family"] == family]
    degrees = sorted({row["degree"] for row in mine})
    points = [(float(d), spread(_get(r, path) for r in mine if r["degree"] == d)) for d in degrees]
    return Line(family, points)


def _claim(rows: list[dict[str, Any]]) -> str:
    passing = sum(row["R_OMP"] < 1 or row["R_id"] < 1 for row in rows)
    text = f"{passing} of {len(rows)} trained dictionaries pass the paper's OMP or identifiability test"
    if rows:
        text += f" (least R_OMP {min(r['R_OMP'] for r in rows):.3g}, least R_id {min(r['R_id'] for r in rows):.3g})"
    found = {}
    for family in ("expander", "fixed"):
        mine = [row for row in rows if row["family"] == family]
        if mine:
            least = [row for row in mine if row["degree"] == min(r["degree"] for r in mine)]
            found[family] = (spread(r["row_degree_max"] for r in least), spread(r["fvu"] for r in least),
                             least[0]["degree"])  # fmt: skip
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
    ("epsilon_2k.greedy", "epsilon_greedy_s2k", "expansion loss found at 2k"),
)


def beside(measured: Measured, paper: Paper) -> list[Figure | None]:
    """Flatness, coherence and expansion against the degree."""
    rows = measured["rows"]
    return [
        lines(
            f"{quantity}_beside_the_paper",
            f"{unit} against degree, beside the paper's",
            [
                *(_line(rows, family, metric) for family in dict.fromkeys(row["family"] for row in rows)),
                *paper.diagnostics("geometry", quantity, ("expander_tied", "clustered_sparse")),
            ],
            x="degree",
            y=unit,
            log_x=True,
        )
        for metric, quantity, unit in _BESIDE
    ]


EXPERIMENT = Experiment(
    name="geometry",
    question="How flat, coherent and expanding are trained dictionaries?",
    measure=measure,
    show=show,
    needs=("activations",),
    options={
        "controls": ["fixed"],
        "betas": [2.0, 4.0, 8.0, 16.0],
        "flatten_tokens": 4096,
    },
    beside=beside,
)
