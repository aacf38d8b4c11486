"""The tables of the paper and of its replication, row by row."""

from __future__ import annotations

import csv
from dataclasses import dataclass
from functools import cache
from importlib import resources

from expander_sae.records.spread import Rate, Spread, t_quantile

ARCHITECTURES = {
    "expander_tied": "Expander",
    "dense_tied": "dense tied",
    "dense_warmtied": "dense, encoder of its own",
    "dense_randinit": "dense, random encoder",
    "clustered_sparse": "clustered",
    "pruned_retuned_dense": "pruned",
}
"""The paper's kinds of SAE, in words."""
TOKENS = 200_000
"""Stored training tokens of every result but those along the data."""
BATCH = 256
"""Tokens of a training step; every result had 5,000."""


@dataclass(frozen=True)
class PaperResult:
    """One row of the paper's results: one kind of SAE, over its seeds."""

    model: str
    layer: int
    architecture: str
    d_in: int
    n_latents: int
    degree: int
    k: int
    inference: str
    """How codes are read: encoder, omp, omp_iter, omp_oneshot, cosamp or niht."""
    train_tokens: int
    """Stored training tokens."""
    rel_err: Spread | None
    ce_recovered_zero: Spread | None
    dead_fraction: Spread | None

    @property
    def share_of_full(self) -> float:
        """Decoder values over those of a full dense SAE of 8 d_in latents, the paper's in every model."""
        return self.degree * self.n_latents / (8 * self.d_in * self.d_in)


@dataclass(frozen=True)
class Diagnostic:
    """One quantity of the paper's diagnostics, all of them on Pythia-70M after layer 3."""

    group: str
    architecture: str
    degree: int
    k: int
    quantity: str
    value: Spread


@dataclass(frozen=True)
class Speed:
    """How fast codes are read on the paper's machines, and how well."""

    architecture: str
    degree: int
    inference: str
    device: str
    rel_err: float
    tokens_per_second: float


@dataclass(frozen=True)
class Replicated:
    """One kind of SAE of an independent replication on Qwen2.5-3B: degree 7, 16384 latents, k = 64."""

    architecture: str
    """expander or dense."""
    layer: int
    steps: int
    rel_err: Spread
    ce_recovered_zero: Spread


@dataclass(frozen=True)
class Recovery:
    """How often OMP found the support of a planted code: uniform masks, flat columns, Gaussian codes."""

    d_in: int
    n_latents: int
    degree: int
    k: int
    noise: float
    found: Rate


@cache
def paper_results() -> tuple[PaperResult, ...]:
    """Every result, once: the table has four of Pythia-70M again, from the sweep over layers.

    Where the stored cross entropy was made by another formula, it is the one put on the common basis
    (`ce_basis` v2_from_v1): (CE_zero - CE_recon) / (CE_zero - CE_clean).
    """
    found = []
    for row in _rows("paper_results.csv"):
        seeds = int(float(row["seeds"] or 1))
        found.append(
            PaperResult(
                model=row["model"], layer=int(row["layer"]), architecture=row["arch"], d_in=int(row["m"]),
                n_latents=int(row["n"]), degree=int(row["d"]), k=int(row["k"]), inference=row["inference"],
                train_tokens=int(row["data_budget"] or TOKENS),
                rel_err=_spread(row["rel_err_mean"], row["rel_err_std"], seeds),
                ce_recovered_zero=_spread(row["ce_rec_mean"], row["ce_rec_std"], int(float(row["ce_seeds"] or seeds))),
                dead_fraction=_spread(row["dead_mean"], row["dead_std"], seeds),
            )
        )  # fmt: skip
    first: dict[tuple[object, ...], PaperResult] = {}
    for r in found:
        what = (r.model, r.layer, r.architecture, r.d_in, r.n_latents, r.degree, r.k, r.inference, r.train_tokens)
        first.setdefault(what, r)
    return tuple(first.values())


@cache
def paper_diagnostics() -> tuple[Diagnostic, ...]:
    """Geometry, collisions, features and learning curves of the paper's SAEs."""
    return tuple(
        Diagnostic(row["group"], row["arch"], int(row["d"]), int(row["k"]), row["quantity"], value)
        for row in _rows("paper_diagnostics.csv")
        if row["d"] and (value := _spread(row["mean"], row["std"], int(row["seeds_or_n"] or 1))) is not None
    )


@cache
def paper_speeds() -> tuple[Speed, ...]:
    """Speed against error of Pythia-70M's SAEs, k = 64, by way of reading."""
    return tuple(
        Speed(
            "expander_tied" if row["arch"] == "expander" else row["arch"], int(row["d"]), row["inference"],
            row["device"], float(row["rel_err"]), float(row["tokens_per_s"]),
        )
        for row in _rows("paper_throughput.csv")
    )  # fmt: skip


@cache
def paper_recoveries() -> tuple[Recovery, ...]:
    """The grid of planted codes."""
    return tuple(
        Recovery(
            int(row["m"]), int(row["n"]), int(row["d"]), int(row["k"]), float(row["sigma"]),
            Rate(round(float(row["recovery_mean"]) * int(row["trials_total"])), int(row["trials_total"])),
        )
        for row in _rows("paper_synthetic.csv")
    )  # fmt: skip


_REPLICATED = (
    # row of the table, layer, steps, seeds
    ("31 seeds (0-30), base config: mean", 12, 5_000, 31),
    ("steps=15000", 12, 15_000, 1),
    ("layer 24", 24, 5_000, 1),
)


@cache
def paper_replication() -> tuple[Replicated, ...]:
    """The replication's runs that change nothing but layer or steps."""
    rows = {next(iter(row.values())): row for row in _rows("paper_replication.csv")}
    deviations = rows["31 seeds: std"]

    def of(name: str, column: str, seeds: int) -> Spread:
        found = _spread(rows[name][column], deviations[column] if seeds > 1 else "", seeds)
        assert found is not None  # the table has no gaps
        return found

    return tuple(
        Replicated(kind, layer, steps, of(name, f"{kind}_rel_err", seeds), of(name, f"{kind}_ce", seeds))
        for name, layer, steps, seeds in _REPLICATED
        for kind in ("expander", "dense")
    )


def _rows(name: str) -> csv.DictReader[str]:
    path = resources.files("expander_sae.paper").joinpath(f"data/{name}")
    return csv.DictReader(path.read_text(encoding="utf-8").splitlines())


def _spread(mean: str, std: str, seeds: int) -> Spread | None:
    """Mean and interval as given; the paper's single seeds are not on record."""
    if not mean:
        return None
    deviation = float(std) if std else None
    interval = None
    if deviation is not None and seeds > 1:
        interval = t_quantile(seeds - 1) * deviation / seeds**0.5
    return Spread(float(mean), deviation, float(mean), float(mean), seeds, interval)


def select(
    model: str, layer: int, k: int, *, inference: str = "encoder", train_tokens: int = TOKENS
) -> list[PaperResult]:
    """The results of one model and layer at one k; empty where the paper has none."""
    wanted = (model, layer, k, inference, train_tokens)
    return [r for r in paper_results() if (r.model, r.layer, r.k, r.inference, r.train_tokens) == wanted]
