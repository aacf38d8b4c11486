"""What all pursuits share: options, the choice of a backend, pieces of a batch, and tokens of any size."""

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from numbers import Real
from typing import ClassVar

import torch
from torch import Tensor

from expander_sae.ops import Codes
from expander_sae.ops.autograd import op
from expander_sae.ops.backends import choose_backend
from expander_sae.ops.checks import (
    FLOATS,
    check_code_indices,
    check_finite,
    check_numbers,
    check_overflow,
    check_tensor,
)
from expander_sae.ops.dictionary import Dictionary
from expander_sae.ops.extreme_tokens import scaled
from expander_sae.records import ExpanderSaeError, whole_number

from . import native
from .columns import with_gram
from .reading import MOST, Reading

_CHUNK = 2**24  # numbers in the largest temporary: 64 MB at float32


@dataclass(frozen=True)
class Pursuit(Reading):
    """A reading that goes after what is left of a token; its algorithm is defined in plain PyTorch in its own file.

    Not differentiable: hand `codes.indices` and `codes.values != 0` to `refit_codes` for gradients with the support
    held fixed. A token whose k-column fit does not exist (k beyond the rank, a zero or exactly fitted token, fewer
    positive correlations) gets fewer columns and zero codes, on the lowest free latents.
    """

    solves: ClassVar[bool] = True
    """Whether its definition makes Gram matrices of supports."""
    tolerance: float = field(default=0.0, kw_only=True)
    """A token stops at ||r|| <= tolerance * ||x - center||."""

    def __post_init__(self) -> None:
        tolerance = self.tolerance
        if isinstance(tolerance, bool) or not isinstance(tolerance, Real) or not 0 <= float(tolerance) < 1:
            raise ExpanderSaeError(f"expected tolerance in [0, 1), relative to ||x - center||; got {tolerance!r}")
        object.__setattr__(self, "tolerance", float(tolerance))

    @op
    @torch.no_grad()
    def codes(self, dictionary: Dictionary, x: Tensor, k: int, *, backend: str = "auto") -> Codes:
        """At most k codes of x [batch, d_in]; see the class, and docs/concepts/readings.md for which to pick."""
        return self._pursue(dictionary, x, k, None, backend)

    def definition(self, x: Tensor, dictionary: Dictionary, k: int, start: Codes | None) -> Codes:
        """Codes [batch, k] of centered x in the dtype of the columns, in plain PyTorch: the ground truth of the core.

        Args:
            x: [batch, d_in].
            dictionary: columns of unit length, rows int64.
            k: slots of the result.
            start: codes whose non-zero slots start the support, for the pursuits that take them.
        """
        raise NotImplementedError

    def kernel(self, x: Tensor, dictionary: Dictionary, k: int, start: Codes | None) -> Codes:
        """Codes by the C++ core."""
        return native.greedy(x, dictionary, k, self.name, self.most_steps(k), tolerance=self.tolerance, start=start)

    def most_steps(self, k: int) -> int:
        """Picks, or iterations, after which a token stops."""
        return k

    def width(self, k: int) -> int:
        """Columns of a token that are looked at together."""
        return k

    @op
    @torch.no_grad()
    def _from(self, start: Codes, dictionary: Dictionary, x: Tensor, k: int, backend: str) -> Codes:
        """Codes whose supports start with (or are) those of `start`."""
        return self._pursue(dictionary, x, k, Codes(start.indices, start.values.detach()), backend)

    def _pursue(self, dictionary: Dictionary, x: Tensor, k: int, start: Codes | None, backend: str) -> Codes:
        self.check(k, dictionary.n_latents)
        check_tensor("x", x, "[batch, d_in]", (None, dictionary.d_in), FLOATS)
        if start is not None:
            check_start(start, x, k, dictionary.n_latents)
        dtype = torch.promote_types(x.dtype, dictionary.decoder.dtype)
        read = replace(dictionary.detached(), decoder=dictionary.decoder.detach().to(dtype), encoder=None, bias=None)
        reason = native.cannot_take(x, read)
        if choose_backend(backend, x.device, native=reason, triton="there is no Triton pursuit") == "native":
            return self.kernel(x, read, k, start)
        centered = x.to(dtype) if read.center is None else x.to(dtype) - read.center.to(dtype)
        check_numbers(x, read.rows, read.decoder, center=read.center)
        check_overflow(centered, "x - center")
        sized, width = scaled(centered), self.width(k)
        read = replace(read, rows=None if read.rows is None else read.rows.long())
        if self.solves:
            read = with_gram(read, x.shape[0], width)
        per_token = max(read.n_latents, width * max(read.degree, width))
        parts = [
            self.definition(sized.x[tokens], read, k, None if start is None else Codes(*(t[tokens] for t in start)))
            for tokens in _pieces(len(x), max(1, _CHUNK // per_token))
        ]
        values = sized.codes(torch.cat([part.values for part in parts]))
        check_overflow(values, "the code")
        return Codes(torch.cat([part.indices for part in parts]), values)

    def __str__(self) -> str:
        return self.name + self._number() + (f"@{self.tolerance!r}" if self.tolerance else "")

    def _number(self) -> str:
        return ""


@dataclass(frozen=True)
class SteppedPursuit(Pursuit):
    """A pursuit that takes a number of steps."""

    steps: int | None = None
    """None: `usual_steps`."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.steps is not None:
            object.__setattr__(self, "steps", whole_number("steps", self.steps, least=1, most=MOST))

    def usual_steps(self, k: int) -> int:
        """Steps where no number is given."""
        return k

    def most_steps(self, k: int) -> int:
        """Steps after which a token stops."""
        return self.usual_steps(k) if self.steps is None else self.steps

    def _number(self) -> str:
        return "" if self.steps is None else f":{self.steps}"


def _pieces(tokens: int, at_once: int) -> Iterator[slice]:
    for first in range(0, max(1, tokens), at_once):
        yield slice(first, first + at_once)


def check_start(start: Codes, x: Tensor, k: int, n_latents: int) -> None:
    """Raise unless codes [batch, at most k] can start the supports of x [batch, d_in]."""
    check_tensor("start.indices", start.indices, "[batch, at most k]", (x.shape[0], None), (torch.int64,))
    check_tensor("start.values", start.values, "[batch, at most k]", tuple(start.indices.shape), FLOATS)
    if start.indices.shape[1] > k:
        raise ExpanderSaeError(f"expected a start of at most k = {k} codes per token; got {start.indices.shape[1]}")
    check_code_indices(start.indices, n_latents)
    check_finite("start", start.values)
