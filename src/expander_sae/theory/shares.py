"""For which share of tokens each certificate of a code holds."""

import time
from typing import Any

import torch
from torch import Tensor

from expander_sae.ops import Codes, Dictionary, correlate

from .coverage import unique_by_coverage
from .posterior import PosteriorCertificates, encoder_margin, posterior_certificates
from .rows import with_rows

_CLEAR = 1e-6  # a distance or a singular value above it is not rounding
MEANINGS = {
    "fuchs": "support and signs are the l1 optimum for the image of the refit",
    "lasso": "support is the Lasso's for an interval of penalties, the noise of this token included",
    "omp": "OMP on the activation returns the support",
    "exact_recovery": "every code on the support is recoverable without noise",
    "unique": "almost every code on the support is the only one as sparse with its image",
    "unique_by_coverage": "the same, from the mask alone",
    "swap_optimal": "no exchange of one latent lowers the error",
}
"""What each share counts."""


class CodeShares:
    """Counts over batches of tokens.

    Args:
        dictionary: its columns; `signed`, whether its encoder picks by the size of correlations and not the largest
            ones, counts for the margin. The center is the caller's to take away.

    Example:
        >>> shares = CodeShares(Dictionary.of_matrix(torch.eye(2)))
        >>> shares.update(torch.tensor([[2.0, 0.0]]), Codes(torch.tensor([[0]]), torch.tensor([[2.0]])))
        >>> shares.summary()["share"]["fuchs"]
        1.0
    """

    def __init__(self, dictionary: Dictionary) -> None:
        self._rows = with_rows(dictionary)
        self._dictionary = dictionary.detached()
        self._held = dict.fromkeys(MEANINGS, 0)
        self._tokens, self._seconds, self._cpu_seconds = 0, 0.0, 0.0
        self._energy, self._floor, self._any_floor, self._error = 0.0, 0.0, 0.0, 0.0
        self._sigma: list[Tensor] = []
        self._margins: list[Tensor] = []

    def update(self, x: Tensor, codes: Codes) -> None:
        """Certify a batch: activations [batch, d_in], the centre taken away, and their codes.

        A token whose code has no negative value is held against non-negative alternatives, any other against all.

        Raises:
            ExpanderSaeError: see `posterior_certificates`.
        """
        start, used = time.perf_counter(), time.process_time()
        negative = (codes.values < 0).any(dim=1)
        for chosen, nonnegative in ((~negative, True), (negative, False)):
            if chosen.any():
                self._count(x[chosen], Codes(codes.indices[chosen], codes.values[chosen]), nonnegative)
        self._tokens += len(x)
        self._energy += float(x.double().square().sum())
        self._margins.append(self._margin(x, codes.indices.shape[1]))
        self._seconds += time.perf_counter() - start
        self._cpu_seconds += time.process_time() - used

    def _count(self, x: Tensor, codes: Codes, nonnegative: bool) -> None:
        found = posterior_certificates(x, codes, self._dictionary, nonnegative=nonnegative)
        covered = unique_by_coverage(codes, self._rows, d_in=self._dictionary.d_in)
        for name, holds in _held(found, covered).items():
            self._held[name] += int(holds.sum())
        self._floor += float(found.coverage_floor.sum())
        self._any_floor += float(found.any_support_floor.sum())
        self._error += float(found.error.sum())
        self._sigma.append(found.sigma_min)

    def _margin(self, x: Tensor, k: int) -> Tensor:
        """What share of ||x|| noise must have to change the k columns of largest correlation, [batch]: 2 ||W^T e||_inf
        is at most 2 ||e|| for unit columns."""
        values = self._dictionary.decoder
        if k >= len(values):
            return torch.full((len(x),), torch.inf, dtype=torch.float32, device="cpu")
        unit = values / values.norm(dim=1, keepdim=True)
        scores = correlate(x.float(), self._rows, unit.float())
        return encoder_margin(scores.abs() if self._dictionary.signed else scores, k) / (2 * x.norm(dim=1)).clamp_min(
            1e-30
        )

    def summary(self) -> dict[str, Any]:
        """Tokens, tokens per second, the shares, medians, and what no code on these supports could do better.

        `encoder_margin_median`: for half of the tokens no noise below this share of their norm changes which k
        correlations are the largest.
        """
        tokens = max(self._tokens, 1)
        sigma = torch.cat(self._sigma) if self._sigma else torch.tensor([torch.nan], dtype=torch.float32, device="cpu")
        margins = (
            torch.cat(self._margins) if self._margins else torch.tensor([torch.nan], dtype=torch.float32, device="cpu")
        )
        energy = self._energy or float("nan")
        return {
            "tokens": self._tokens,
            "tokens_per_second": self._tokens / self._seconds if self._seconds else None,
            "tokens_per_cpu_second": self._tokens / self._cpu_seconds if self._cpu_seconds else None,
            "share": {name: count / tokens for name, count in self._held.items()},
            "sigma_min_median": float(sigma.median()),
            "encoder_margin_median": float(margins.median()),
            "coverage_floor_share": self._floor / energy,
            "any_support_floor_share": self._any_floor / energy,
            "refit_error_share": self._error / energy,
        }


def _held(found: PosteriorCertificates, covered: Tensor) -> dict[str, Tensor]:
    return {
        "fuchs": found.fuchs,
        "lasso": found.lasso,
        "omp": found.omp,
        "exact_recovery": found.exact_recovery > 0,
        "unique": (found.distance > _CLEAR) & (found.sigma_min > _CLEAR),
        "unique_by_coverage": covered,
        "swap_optimal": found.swap_gain <= 0,
    }
