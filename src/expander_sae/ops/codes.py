"""What an encoder hands on."""

from typing import NamedTuple

from torch import Tensor


class Codes(NamedTuple):
    """Sparse codes: at most k active latents per token.

    A code stands for the vector h [n_latents] with `h[indices[i]] = values[i]` and zeros elsewhere; a zero value marks
    an unused slot.
    """

    indices: Tensor
    """int64 [batch, k], distinct within a token."""
    values: Tensor
    """float32 [batch, k], by falling value."""
