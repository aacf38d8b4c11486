"""CoSaMP: compressive sampling matching pursuit; batched over tokens."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from expander_sae.ops import Codes
from expander_sae.ops.codes import pack
from expander_sae.ops.dictionary import Dictionary
from expander_sae.ops.ties import largest

from .columns import correlate, equals
from .pursuit import SteppedPursuit
from .selection import ITERATIONS, SMALLEST_SCORE, score
from .support import Support


@dataclass(frozen=True)
class CoSaMP(SteppedPursuit):
    """CoSaMP (Needell, Tropp 2009), with a least-squares refit on the pruned support.

    From r = x, S empty, at most `steps` times: `T = S + the 2k largest score(W^T r)`, `b = argmin ||x - W_T b||`, `S =
    the k largest |b|`, `z = argmin ||x - W_S z||`, `r = x - W_S z`. The paper prunes b and keeps its values; the refit
    can only lower the residual. A token stops, keeping its best code, when ||r|| no longer falls by a part in a
    thousand, or at ||r|| <= tolerance * ||x||. Unless signed, candidates are the largest positive correlations, the
    k largest b are kept if positive, and z may still be negative, as in OMP. In T, columns dependent on earlier ones
    are skipped.

    Args:
        steps: most iterations; None: 50.

    Raises:
        ExpanderSaeError: no such number of steps, or no such tolerance.

    Example:
        >>> w = Dictionary.of_matrix(torch.eye(3), signed=True)
        >>> CoSaMP().codes(w, torch.tensor([[3.0, 0.0, -4.0]]), 1)
        Codes(indices=tensor([[2]]), values=tensor([[-4.]]))
    """

    name: ClassVar[str] = "cosamp"
    in_words: ClassVar[str] = "CoSaMP; cosamp:N iterates at most N times instead of 50"
    least_squares: ClassVar[bool] = True

    def usual_steps(self, k: int) -> int:
        """Iterations where no number is given."""
        return ITERATIONS

    def width(self, k: int) -> int:
        """Those that are kept and twice as many candidates."""
        return 3 * k

    def passes(self, k: int) -> float:
        """One an iteration; most tokens stop after fewer."""
        return self.most_steps(k)

    def definition(self, x: Tensor, dictionary: Dictionary, k: int, start: Codes | None) -> Codes:
        """Codes [batch, k]; there is nothing to start from."""
        n_latents, signed = dictionary.n_latents, dictionary.signed
        norm, same = x.norm(dim=1), equals(dictionary)
        indices = torch.zeros(x.shape[0], k, dtype=torch.int64, device=x.device)
        coefficients = torch.zeros(x.shape[0], k, dtype=torch.float64, device=x.device)
        residual, alive = x, norm > 0
        for _ in range(self.most_steps(k)):
            alive = alive & (residual.norm(dim=1) > self.tolerance * norm)
            if not bool(alive.any()):
                break
            scores = same.level(score(correlate(residual, dictionary), signed))
            found, candidates = largest(scores, min(2 * k, n_latents))
            kept = coefficients != 0
            # A candidate that is in S already is no news; as a second copy it would make T look dependent.
            known = ((candidates[:, :, None] == indices[:, None, :]) & kept[:, None, :]).any(2)
            wanted = torch.cat([kept, ~known & (found > SMALLEST_SCORE * norm[:, None])], dim=1)
            merged = Support(dictionary, x, wanted.shape[1])
            merged.extend(torch.cat([indices, candidates], dim=1), wanted & alive[:, None])
            b = torch.where(merged.used, score(merged.solve(), signed), 0.0)
            size, order = largest(b, k)
            pruned = Support(dictionary, x, k)
            pruned.extend(merged.indices.gather(1, order), size > 0)
            refitted = pruned.solve()
            after = pruned.residual(refitted)
            length, before = after.norm(dim=1), residual.norm(dim=1)
            better = (alive & (length < before))[:, None]
            indices = torch.where(better, pruned.indices, indices)
            coefficients = torch.where(better, refitted, coefficients)
            residual = torch.where(better, after, residual)
            alive &= length < 0.999 * before
        return pack(indices, coefficients.to(x.dtype), k, n_latents, signed=signed)
