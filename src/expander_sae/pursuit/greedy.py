"""What matching and gradient pursuit share: pick the best column, let the method move, until no pick is worth it."""

import math
from collections.abc import Callable
from typing import NamedTuple

from torch import Tensor

from expander_sae.ops import Codes
from expander_sae.ops.codes import pack
from expander_sae.ops.dictionary import Dictionary
from expander_sae.ops.ties import largest

from .columns import correlate, repeated_columns
from .selection import SMALLEST_SCORE, score
from .support import Slots


class Pick(NamedTuple):
    """One step's pick of every token."""

    correlations: Tensor
    """`W^T r` [batch, n_latents]."""
    latents: Tensor
    """What was picked [batch]."""
    slot: Tensor
    """Where in the token's slots it stands [batch]."""
    alive: Tensor
    """bool [batch]: tokens that move; the others have stopped."""


Move = Callable[[Pick, Slots, Tensor, Tensor], tuple[Tensor, Tensor]]
"""(pick, slots, coefficients [batch, k], residual [batch, d_in]) -> the new coefficients and residual."""


def greedy(x: Tensor, dictionary: Dictionary, k: int, move: Move, *, tolerance: float, steps: int) -> Codes:
    """Codes [batch, k] from r = x by picking `argmax score(W^T r)` and moving, `steps` times.

    A column may be picked again; a token that holds k columns goes on among those. A token stops at
    ||r|| <= tolerance * ||x|| or when no score exceeds 1e-5 ||x||. Of columns that repeat an earlier one bit for bit,
    only the first is used.
    """
    norm = x.norm(dim=1)
    repeated = repeated_columns(dictionary)
    slots = Slots(x.shape[0], k, x.device)
    coefficients = x.new_zeros(x.shape[0], k)
    residual, alive = x, norm > 0
    for _ in range(steps):
        alive &= residual.norm(dim=1) > tolerance * norm
        if not bool(alive.any()):
            break
        correlations = correlate(residual, dictionary)
        scores = score(correlations, dictionary.signed).masked_fill(repeated, -math.inf)
        slots.restrict(scores)
        found, picked = largest(scores, 1)
        alive &= found[:, 0] > SMALLEST_SCORE * norm
        slot = slots.place(picked[:, 0], alive)
        coefficients, residual = move(Pick(correlations, picked[:, 0], slot, alive), slots, coefficients, residual)
    return pack(slots.indices, coefficients, k, dictionary.n_latents, signed=dictionary.signed)
