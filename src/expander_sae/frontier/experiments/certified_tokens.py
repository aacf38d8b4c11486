"""For which share of held-out tokens each certificate of a single code holds, by degree and by way of reading."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from expander_sae.pursuit import parse_reading
from expander_sae.theory.shares import MEANINGS, CodeShares

from ..over_seeds import spread
from .context import Context
from .drawing import Line, lines
from .experiment import Experiment, Measured, Page, Table
from .quality import diverged, text_of

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
    found: list[dict[str, Any]] = []
    for record, sae in grid.saes():
        sae.eval()
        for reading in context.option("readings"):
            mark = {"folder": record.folder, "reading": reading, "tokens": context.option("tokens"),
                    "training": record.training.to_dict()}  # fmt: skip

            def make(sae: Any = sae, reading: str = reading) -> dict[str, Any]:
                return certify_tokens(sae, reading, context)

            value = context.piece(f"{record.folder}-{reading}".replace("/", "-").replace(":", "-"), mark, make)
            found.append({"variant": record.variant, "family": record.family, "seed": record.seed, "reading": reading,
                          "degree": sae.dictionary().degree, **value})  # fmt: skip
    return {"rows": found, "k": context.settings.k, "frontier": grid.records()}


@torch.no_grad()
def certify_tokens(sae: Any, reading: str, context: Context) -> dict[str, Any]:
    """The summary of `CodeShares` on the first held-out tokens."""
    shares = CodeShares(rows_of(sae), sae.values.detach(), d_in=sae.d_in, signed=sae.signed)
    reader = sae.read_by(parse_reading(reading))
    for x in context.heldout_blocks(context.option("tokens"), _BLOCK):
        shares.update(x - sae.center(), reader.encode(x))
    return shares.summary()


def rows_of(sae: Any) -> Tensor:
    """The rows of a dictionary [n_latents, degree]; all of them where it is dense."""
    rows = sae.dictionary().rows
    return torch.arange(sae.d_in, device="cpu").expand(sae.n_latents, -1) if rows is None else rows


def show(measured: Measured) -> Page:
    """Shares by SAE and reading, what bounds the error, and the lines of the shares that move."""
    rows = measured["rows"]
    keys = list(dict.fromkeys((row["variant"], row["reading"]) for row in rows))

    def cells(key: tuple[str, str], path: str, digits: int, factor: float = 1.0) -> str | None:
        return text_of(spread(_scaled(_get(r, path), factor) for r in rows if (r["variant"], r["reading"]) == key),
                       digits)  # fmt: skip

    shares = [[*key, *(cells(key, f"share.{name}", 1, 100.0) for name in _COLUMNS)] for key in keys]
    numbers = {
        "median σ_min": ("sigma_min_median", 2, 1.0), "encoder margin, % of ‖y‖": ("encoder_margin_median", 2, 100.0),
        "energy off N(S), %": ("coverage_floor_share", 1, 100.0),
        "off its kd largest, %": ("any_support_floor_share", 1, 100.0),
        "left by the refit, %": ("refit_error_share", 1, 100.0), "tokens/CPU s": ("tokens_per_cpu_second", 0, 1.0),
    }  # fmt: skip
    bounds = [[*key, *(cells(key, *how) for how in numbers.values())] for key in keys]
    tables = [
        Table("Tokens certified, %", ["SAE", "read by", *_COLUMNS.values()], shares,
              " ".join(f"{_COLUMNS[name]}: {meaning}." for name, meaning in MEANINGS.items())),
        Table("What bounds the error", ["SAE", "read by", *numbers], bounds,
              "Encoder margin: for half of the tokens noise below this share of their norm leaves the k largest "
              "correlations as they are. Energies: shares of that of the centred tokens. tokens/CPU s: all tests."),
    ]  # fmt: skip
    readings = list(dict.fromkeys(row["reading"] for row in rows))
    figures = [
        lines(
            f"share_{name}",
            f"share of held-out tokens against degree: {MEANINGS[name]}",
            [Line(reading, _points(rows, reading, f"share.{name}")) for reading in readings],
            x="degree (d_in: dense)",
            y=f"{_COLUMNS[name]}, share of tokens",
            log_x=True,
        )
        for name in ("fuchs", "swap_optimal")
    ]
    figures.append(
        lines(
            "sigma_min",
            "median smallest singular value of the active columns against degree",
            [Line(reading, _points(rows, reading, "sigma_min_median")) for reading in readings],
            x="degree (d_in: dense)",
            y="median σ_min(W_S)",
            log_x=True,
        )
    )
    return Page(_claim(rows), tables, figures, diverged(measured["frontier"]))


def _get(row: dict[str, Any], path: str) -> float | None:
    value: Any = row
    for part in path.split("."):
        value = value.get(part)
        if value is None:
            return None
    return value


def _scaled(value: float | None, factor: float) -> float | None:
    return None if value is None else value * factor


def _points(rows: list[dict[str, Any]], reading: str, path: str) -> list[tuple[float, Any]]:
    mine = [row for row in rows if row["reading"] == reading]
    degrees = sorted({row["degree"] for row in mine})
    return [(float(d), spread(_get(r, path) for r in mine if r["degree"] == d)) for d in degrees]


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
    needs=("activations",),
    options={
        "tokens": 1000,
        "readings": ["encoder", "refit", "stages:8+8", "omp", "nnomp"],
        "controls": ["dense"],
    },
)
