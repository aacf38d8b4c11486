"""Tokens of any size: pursuit squares what it is given, and its codes are proportional to the token."""

from typing import NamedTuple

import torch
from torch import Tensor

LARGE = 2.0**40


class Scaled(NamedTuple):
    """Tokens at a size whose squares are numbers; the C++ core does this itself."""

    x: Tensor
    """[batch, d_in]: very large and very small tokens times a power of two, others as they were."""
    exponents: Tensor | None
    """int32 [batch, 1]: codes of `x` times two to this are codes of the tokens; None where nothing was scaled."""

    def codes(self, values: Tensor) -> Tensor:
        """Codes [batch, k] of the tokens as they were."""
        return values if self.exponents is None else torch.ldexp(values, self.exponents)


def scaled(x: Tensor) -> Scaled:
    """Tokens whose largest |x| is within 2^-40 and 2^40 (or zero) as they are, others at about one."""
    if not len(x):
        return Scaled(x, None)
    largest = x.abs().amax(dim=1, keepdim=True)
    extreme = (largest > 0) & ((largest < 1 / LARGE) | (largest > LARGE))
    if not bool(extreme.any()):
        return Scaled(x, None)
    exponents = torch.where(extreme, torch.frexp(largest).exponent, 0)
    # In two steps: two to the power itself may be no number.
    half = exponents // 2
    return Scaled(torch.ldexp(torch.ldexp(x, -half), half - exponents), exponents)
