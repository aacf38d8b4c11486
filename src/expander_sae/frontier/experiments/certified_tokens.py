"""For which share of held-out tokens each certificate of a single code holds, by degree and by way of reading."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch

from expander_sae.pursuit import parse_reading
from expander_sae.theory.shares import MEANINGS, CodeShares

from ..drawing import lines
from ..page import Page, by, table_by
from .context import Context
from .experiment import Experiment, Measured
from .quality import along_degree, diverged

_COLUMNS = {
    "fuchs": "Fuchs",
    "lasso": "Lasso interval",
    "omp": "OMP certified",
    "exact_recovery": "ERC(S) > 0",
    "unique": "almost surely unique",
    "unique_by_coverage": "by mask alone",
    "swap_optimal": "1-swap optimal",
}
_BLOCK = 256


def measure(context: Context) -> Measured:
    """One piece for each SAE and each way of reading it."""
    grid = context.grid(controls=context.option("controls"))
    rows = [
        context.row(
            record, f"{record.folder}-{reading}".replace("/", "-").replace(":", "-"),
            {"folder": record.folder, "reading": reading, "tokens": context.option("tokens"),
             "training": record.training.to_dict()},
            partial(certify_tokens, sae.eval(), reading, context), reading=reading, degree=sae.dictionary().degree,
        )
        for record, sae in grid.saes()
        for reading in context.option("readings")
    ]  # fmt: skip
    return {"rows": rows, "k": context.settings.k, "frontier": grid.records()}


@torch.no_grad()
def certify_tokens(sae: Any, reading: str, context: Context) -> dict[str, Any]:
    """The summary of `CodeShares` on the first held-out tokens."""
    shares = CodeShares(sae.dictionary())
    reader = sae.read_by(parse_reading(reading))
    for x in context.heldout_blocks(context.option("tokens"), _BLOCK):
        shares.update(x - sae.center(), reader.encode(x))
    return shares.summary()


def show(measured: Measured) -> Page:
    """Shares by SAE and reading, what bounds the error, and the lines of the shares that move."""
    rows = measured["rows"]
    of = by(rows, "variant", "reading")
    tables = [
        table_by("Tokens certified, %", of, {title: (f"share/{name}", 1, 100.0) for name, title in _COLUMNS.items()},
                 " ".join(f"{_COLUMNS[name]}: {meaning}." for name, meaning in MEANINGS.items()), "SAE", "read by"),
        table_by("What bounds the error", of, {
            "median σ_min": ("sigma_min_median", 2),
            "encoder margin, % of ‖y‖": ("encoder_margin_median", 2, 100.0),
            "energy off N(S), %": ("coverage_floor_share", 1, 100.0),
            "off its kd largest, %": ("any_support_floor_share", 1, 100.0),
            "left by the refit, %": ("refit_error_share", 1, 100.0), "tokens/CPU s": ("tokens_per_cpu_second", 0),
        }, "Encoder margin: for half of the tokens noise below this share of their norm leaves the k largest "
           "correlations as they are. Energies: shares of that of the centred tokens. tokens/CPU s: all tests.",
           "SAE", "read by"),
    ]  # fmt: skip
    drawn = [
        (f"share_{name}", f"share/{name}", f"share of held-out tokens against degree: {MEANINGS[name]}",
         f"{_COLUMNS[name]}, share of tokens")
        for name in ("fuchs", "swap_optimal")
    ]  # fmt: skip
    caption = "median smallest singular value of the active columns against degree"
    drawn.append(("sigma_min", "sigma_min_median", caption, "median σ_min(W_S)"))
    figures = [
        lines(
            name,
            text,
            [along_degree(mine, path, reading) for reading, mine in by(rows, "reading").items()],
            x="degree (d_in: dense)",
            y=y,
            log_x=True,
        )
        for name, path, text, y in drawn
    ]
    return Page(_claim(rows), tables, figures, diverged(measured["frontier"]))


def _claim(rows: list[dict[str, Any]]) -> str:
    if not rows:
        return "No SAE was measured."
    parts = []
    for name in ("lasso", "fuchs"):
        most = max(rows, key=lambda row: row["share"][name])
        share, where = most["share"][name], f"{most['variant']} by {most['reading']}"
        parts.append(
            f"the {_COLUMNS[name]} test holds for " + (f"at most {share:.1%} of tokens ({where})" if share else "none")
        )
    text = ", ".join(parts)
    least = min(rows, key=lambda row: row["share"]["unique"])
    return f"On held-out tokens {text}; at least {least['share']['unique']:.1%} of codes are almost surely unique."


EXPERIMENT = Experiment(
    name="certified-tokens",
    question="For which share of real tokens does each certificate of a single code hold?",
    measure=measure,
    show=show,
    options={
        "tokens": 1000,
        "readings": ["encoder", "refit", "stages:8+8", "omp", "nnomp"],
        "controls": ["dense"],
    },
)
