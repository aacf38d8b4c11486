"""Orthogonal matching pursuit, from nothing or from a support that an encoder picked; batched over tokens."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from expander_sae.ops import Codes, block_omp
from expander_sae.ops.codes import pack
from expander_sae.ops.dictionary import Dictionary
from expander_sae.ops.ties import largest
from expander_sae.records import whole_number

from . import native
from .columns import correlate, equals
from .encoder import encoder_codes
from .pursuit import Pursuit
from .reading import MOST
from .selection import SMALLEST_SCORE, score
from .support import Support


@dataclass(frozen=True)
class OMP(Pursuit):
    """Orthogonal matching pursuit (Pati, Rezaiifar, Krishnaprasad 1993), one column at a time.

    From r = x, repeat: `S <- S + argmax score(W^T r)`, `z = argmin ||x - W_S z||`, `r = x - W_S z`; the score is
    |<w_j, r>| if signed and <w_j, r> otherwise. A token stops at k columns, at ||r|| <= tolerance * ||x||, or when no
    score exceeds 1e-5 ||x||. A column whose squared distance to the span of S is at most 1e-5 of its squared norm ends
    a token's pursuit, so duplicates never share a support.

    Raises:
        ExpanderSaeError: no such tolerance.

    Example:
        >>> w = Dictionary.of_matrix(torch.eye(3), signed=True)
        >>> OMP().codes(w, torch.tensor([[3.0, 0.0, -4.0]]), 2)
        Codes(indices=tensor([[2, 0]]), values=tensor([[-4.,  3.]]))
    """

    name: ClassVar[str] = "omp"
    in_words: ClassVar[str] = "orthogonal matching pursuit, one column at a time"
    least_squares: ClassVar[bool] = True

    def passes(self, k: int) -> float:
        """One a column."""
        return k

    def codes_from(self, start: Codes, dictionary: Dictionary, x: Tensor, k: int, *, backend: str = "auto") -> Codes:
        """Codes of x [batch, d_in] whose support starts with the non-zero slots of `start` [batch, at most k], larger
        ones first where columns depend on each other.

        Raises:
            ExpanderSaeError: as in `codes`.
        """
        return self._from(start, dictionary, x, k, backend)

    def kernel(self, x: Tensor, dictionary: Dictionary, k: int, start: Codes | None) -> Codes:
        """By tracking the correlations or by scanning the dictionary in lockstep, whichever is faster."""
        if start is not None or native.tracking_pays(dictionary):
            return super().kernel(x, dictionary, k, start)
        w = dictionary
        return block_omp(
            x, w.rows, w.decoder, k, signed=w.signed, tolerance=self.tolerance, center=w.center, backend="native"
        )

    def definition(self, x: Tensor, dictionary: Dictionary, k: int, start: Codes | None) -> Codes:
        """Codes [batch, k]."""
        norm, same = x.norm(dim=1), equals(dictionary)
        support = Support(dictionary, x, k)
        coefficients, residual = torch.zeros_like(support.projections), x
        if start is not None:
            support.extend(start.indices, start.values != 0)
            coefficients = support.solve()
            residual = support.residual(coefficients)
        alive = norm > 0
        while True:
            alive &= (support.count < k) & (residual.norm(dim=1) > self.tolerance * norm)
            if not bool(alive.any()):
                break
            scores = same.level(score(correlate(residual, dictionary), dictionary.signed))
            # A chosen column has a residual correlation of rounding size; at 0 it is never above the smallest score.
            scores[support.members()] = 0.0
            found, picked = largest(scores, 1)
            before = support.count.clone()
            support.extend(picked, alive[:, None] & (found > SMALLEST_SCORE * norm[:, None]))
            alive &= support.count > before
            coefficients = support.solve()
            residual = support.residual(coefficients)
        return pack(support.indices, coefficients.to(x.dtype), k, dictionary.n_latents, signed=dictionary.signed)


@dataclass(frozen=True)
class WarmOMP(OMP):
    """OMP that starts from the encoder's best `latents` columns and finds the rest itself.

    Args:
        latents: taken from the encoder, at most k.

    Raises:
        ExpanderSaeError: no such number, or no such tolerance.

    Example:
        >>> w = Dictionary.of_matrix(torch.eye(3))
        >>> WarmOMP(1).codes(w, torch.tensor([[3.0, 1.0, 4.0]]), 2)
        Codes(indices=tensor([[2, 0]]), values=tensor([[4., 3.]]))
    """

    name: ClassVar[str] = "warm"
    in_words: ClassVar[str] = "the encoder's M best columns, then OMP for the rest"
    latents: int

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "latents", whole_number("latents of the encoder", self.latents, least=1, most=MOST))

    def check(self, k: int, n_latents: int) -> None:
        """Raise unless the encoder's part is at most k."""
        super().check(k, n_latents)
        whole_number("latents of the encoder", self.latents, least=1, most=k)

    def passes(self, k: int) -> float:
        """One of the encoder and one for each column after its own."""
        return 1 + k - self.latents

    def codes(self, dictionary: Dictionary, x: Tensor, k: int, *, backend: str = "auto") -> Codes:
        """At most k codes of x [batch, d_in]."""
        self.check(k, dictionary.n_latents)
        start = encoder_codes(dictionary.detached(), x, self.latents)
        return OMP(tolerance=self.tolerance).codes_from(start, dictionary, x, k, backend=backend)

    def _number(self) -> str:
        return f":{self.latents}"
