"""The numbers of arXiv 2607.01799, shipped as data, to stand grey beside ours."""

from __future__ import annotations

import csv
from dataclasses import dataclass
from functools import cache
from importlib import resources

from .over_seeds import Spread, t_quantile

ARCHITECTURES = {
    "expander_tied": "Expander",
    "dense_tied": "dense tied",
    "dense_warmtied": "dense, encoder of its own",
    "dense_randinit": "dense, random encoder",
    "clustered_sparse": "clustered",
    "pruned_retuned_dense": "pruned",
}
"""The paper's kinds of SAE, in words."""


@dataclass(frozen=True)
class PaperResult:
    """One row of the paper's results: one kind of SAE, over its seeds, read by its encoder."""

    model: str
    layer: int
    architecture: str
    d_in: int
    n_latents: int
    degree: int
    k: int
    rel_err: Spread | None
    ce_recovered_zero: Spread | None
    dead_fraction: Spread | None

    @property
    def share_of_full(self) -> float:
        """Decoder values over those of a full dense SAE of 8 d_in latents, the paper's in every model."""
        return self.degree * self.n_latents / (8 * self.d_in * self.d_in)


@cache
def paper_results() -> tuple[PaperResult, ...]:
    """Every result read by the encoder and trained on all 200,000 tokens.

    Where the stored cross entropy was made by another formula, it is the one put on the common basis
    (`ce_basis` v2_from_v1): (CE_zero - CE_recon) / (CE_zero - CE_clean).
    """
    path = resources.files("expander_sae.frontier").joinpath("data/paper_results.csv")
    table = csv.DictReader(path.read_text(encoding="utf-8").splitlines())
    rows = [row for row in table if row["inference"] == "encoder"]
    found = []
    for row in rows:
        if row["data_budget"] not in ("", "200000"):
            continue
        seeds = int(float(row["seeds"] or 1))
        found.append(
            PaperResult(
                model=row["model"], layer=int(row["layer"]), architecture=row["arch"], d_in=int(row["m"]),
                n_latents=int(row["n"]), degree=int(row["d"]), k=int(row["k"]),
                rel_err=_spread(row["rel_err_mean"], row["rel_err_std"], seeds),
                ce_recovered_zero=_spread(row["ce_rec_mean"], row["ce_rec_std"], int(float(row["ce_seeds"] or seeds))),
                dead_fraction=_spread(row["dead_mean"], row["dead_std"], seeds),
            )
        )  # fmt: skip
    return tuple(dict.fromkeys(found))


def _spread(mean: str, std: str, seeds: int) -> Spread | None:
    """Mean and interval as given; the paper's single seeds are not on record."""
    if not mean:
        return None
    deviation = float(std) if std else None
    interval = None
    if deviation is not None and seeds > 1:
        interval = t_quantile(seeds - 1) * deviation / seeds**0.5
    return Spread(float(mean), deviation, float(mean), float(mean), seeds, interval)


def select(model: str, layer: int, k: int) -> list[PaperResult]:
    """The results of one model and layer at one k; empty where the paper has none."""
    return [r for r in paper_results() if (r.model, r.layer, r.k) == (model, layer, k)]
