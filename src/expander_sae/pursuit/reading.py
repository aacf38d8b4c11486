"""What a reading is: one way to find the codes of activations over a dictionary."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar, Self

from torch import Tensor

from expander_sae.ops import Codes
from expander_sae.ops.dictionary import Dictionary
from expander_sae.records import ExpanderSaeError


@dataclass(frozen=True)
class Reading(ABC):
    """A way to read codes, with its options; two with the same options are equal, and `str` names it in files."""

    name: ClassVar[str]
    """How its text begins."""
    in_words: ClassVar[str]
    """What it does, for help texts and tables."""
    least_squares: ClassVar[bool] = False
    """Its codes are the least-squares fit on their support (so the residual is orthogonal to that support)."""

    @abstractmethod
    def codes(self, dictionary: Dictionary, x: Tensor, k: int, *, backend: str = "auto") -> Codes:
        """k codes of x [batch, d_in], used ones by falling value (by falling size where the dictionary is signed).

        Args:
            dictionary: what is read; its center is subtracted first.
            x: activations, float32, bfloat16, float16 or float64.
            k: slots per token; those that are not used have a zero, and come last.
            backend: one of `expander_sae.ops.backends.BACKENDS`.

        Raises:
            ExpanderSaeError: shapes, dtypes or options do not fit, x or the dictionary holds NaN or infinity, or the
                named backend cannot run.
        """

    @abstractmethod
    def passes(self, k: int) -> float:
        """What it costs a token, in passes over the dictionary: degree * n_latents multiply-adds each, k codes in all.

        A pass is one look at every column; what is done on the support alone (least squares) is left out.
        """

    def check(self, k: int, n_latents: int) -> None:
        """Raise unless codes of at most k out of n_latents can be read this way.

        Raises:
            ExpanderSaeError: they cannot; says what would fit.
        """
        if not 1 <= k <= n_latents:
            raise ExpanderSaeError(f"expected k in 1..n_latents = {n_latents}; got {k}")

    def fits(self, k: int, n_latents: int) -> bool:
        """Whether `check` lets it through."""
        try:
            self.check(k, n_latents)
        except ExpanderSaeError:
            return False
        return True

    def fitted(self, k: int, n_latents: int) -> Self:
        """The nearest reading of this kind that fits these sizes; itself where it does."""
        return self

    def sized(self, k: int, n_latents: int) -> Self:
        """The reading that somebody asked for, at these sizes: `fitted`, but what was asked for in a number and is not
        there is an error.

        Raises:
            ExpanderSaeError: as in `check`.
        """
        self.check(k, n_latents)
        return self.fitted(k, n_latents)

    def __str__(self) -> str:
        return self.name


MOST = 10**9 - 1
"""The largest number that an option of a reading may be."""


def checked_reading(reading: object) -> Reading:
    """A reading, or an error that says how to make one.

    Raises:
        ExpanderSaeError: it is something else.
    """
    if isinstance(reading, Reading):
        return reading
    hint = f"parse_reading({reading!r}) makes one of text" if isinstance(reading, str) else "mind the brackets"
    raise ExpanderSaeError(f"expected a reading such as Stages(8), OMP() or Encoder(); got {reading!r} ({hint})")
