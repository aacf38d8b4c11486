"""Block orthogonal matching pursuit in few stages: the default reading."""

from dataclasses import dataclass, replace
from typing import ClassVar, Self

from torch import Tensor

from expander_sae.ops import Codes, block_omp
from expander_sae.ops.dictionary import Dictionary
from expander_sae.records import ExpanderSaeError, whole_number

from .reading import MOST, Reading

USUAL_SPARE = 2
"""Spare columns that pay for themselves, for each column that a stage adds (measured in docs/concepts/readings.md)."""


@dataclass(frozen=True)
class Stages(Reading):
    """Block orthogonal matching pursuit: k columns in `stages` stages, ceil(k / stages) in each.

    From r = x - center, a stage appends the columns with the largest score (|<w_j, r>| if signed, <w_j, r> > 0
    otherwise), refits all coefficients by least squares, drops the `spare` columns whose absence adds least to the
    residual, and refits. `expander_sae.ops.block_omp` defines it. Not differentiable, as any pursuit.

    Args:
        stages: 1 to k (k: one column each, OMP).
        spare: columns a stage picks beyond its share and drops again, at most n_latents - k (and no more than d_in - k
            are picked); None: two for each that it adds, or as many as there are.

    Raises:
        ExpanderSaeError: no such numbers.

    Source: Wang, Kwon and Shim 2012 for blocks; Karahanoglu and Erdogan 2013 (forward-backward pursuit) for `spare`.

    Example:
        >>> import torch
        >>> w = Dictionary.of_matrix(torch.eye(3), signed=True)
        >>> Stages(1).codes(w, torch.tensor([[3.0, 0.0, -4.0]]), 2).values
        tensor([[-4.,  3.]])
        >>> str(Stages(8, spare=8)), str(Stages(8).fitted(4, 512))
        ('stages:8+8', 'stages:4')
    """

    name: ClassVar[str] = "stages"
    in_words: ClassVar[str] = (
        "block orthogonal matching pursuit in T stages; in stages:T+S each picks S columns more and drops S"
    )
    least_squares: ClassVar[bool] = True
    stages: int
    spare: int | None = 0

    def __post_init__(self) -> None:
        object.__setattr__(self, "stages", whole_number("stages", self.stages, least=1, most=MOST))
        if self.spare is not None:
            object.__setattr__(self, "spare", whole_number("spare", self.spare, least=0, most=MOST))

    def check(self, k: int, n_latents: int) -> None:
        """Raise unless there are at most k stages, and columns enough for k and the spare ones together."""
        super().check(k, n_latents)
        whole_number("stages", self.stages, least=1, most=k)
        if self.spare is not None and self.spare > n_latents - k:
            raise ExpanderSaeError(f"expected spare in 0..n_latents - k = {n_latents - k}; got {self.spare}")

    def at_most(self, stages: int) -> Self:
        """With no more stages than these."""
        return replace(self, stages=min(self.stages, stages))

    def fitted(self, k: int, n_latents: int) -> Self:
        """With at most k stages, and the spare columns that there are, in numbers."""
        fewer = self.at_most(k)
        wanted = USUAL_SPARE * -(-k // fewer.stages) if self.spare is None else self.spare
        return replace(fewer, spare=min(wanted, n_latents - k))

    def sized(self, k: int, n_latents: int) -> Self:
        """With at most k stages; spare columns that a number asks for must be there."""
        self.at_most(k).check(k, n_latents)
        return self.fitted(k, n_latents)

    def passes(self, k: int) -> float:
        """One a stage."""
        return self.stages

    def codes(self, dictionary: Dictionary, x: Tensor, k: int, *, backend: str = "auto") -> Codes:
        """At most k codes of x [batch, d_in]."""
        self.check(k, dictionary.n_latents)
        dictionary.check_width(x)
        w, how = dictionary.detached(), self.fitted(k, dictionary.n_latents)
        block, spare = -(-k // how.stages), how.spare
        assert spare is not None
        return block_omp(
            x, w.rows, w.decoder, k, block=block, spare=spare, signed=w.signed, center=w.center, backend=backend
        )

    def __str__(self) -> str:
        spare = "auto" if self.spare is None else self.spare
        return f"stages:{self.stages}" + (f"+{spare}" if spare else "")
