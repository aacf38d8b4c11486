"""Non-negative orthogonal matching pursuit, and batched non-negative least squares."""

import math
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor

from expander_sae.ops import Codes
from expander_sae.ops.codes import pack
from expander_sae.ops.dictionary import Dictionary
from expander_sae.ops.ties import largest

from .columns import correlate, equals
from .pursuit import Pursuit
from .selection import SMALLEST_SCORE
from .support import Support, factorise


@dataclass(frozen=True)
class NonNegativeOMP(Pursuit):
    """Non-negative orthogonal matching pursuit (Bruckstein, Elad, Zibulevsky 2008); the codes of a signed dictionary
    are non-negative too.

    From r = x, repeat: `S <- S + argmax <w_j, r>` over positive correlations, `z = argmin_{z >= 0} ||x - W_S z||`, `r =
    x - W_S z`, until k columns, ||r|| <= tolerance * ||x||, or no score above 1e-5 ||x||. Columns whose coefficient
    falls to zero stay in S, where they may return, and come out as unused slots. A column that depends on those of
    positive coefficient ends a token.

    Raises:
        ExpanderSaeError: no such tolerance.

    Example:
        >>> w = Dictionary.of_matrix(torch.eye(3))
        >>> NonNegativeOMP().codes(w, torch.tensor([[3.0, 0.0, -4.0]]), 2)
        Codes(indices=tensor([[0, 1]]), values=tensor([[3., 0.]]))
    """

    name: ClassVar[str] = "nnomp"
    in_words: ClassVar[str] = "non-negative OMP"
    least_squares: ClassVar[bool] = True

    def passes(self, k: int) -> float:
        """One a column."""
        return k

    def definition(self, x: Tensor, dictionary: Dictionary, k: int, start: Codes | None) -> Codes:
        """Codes [batch, k]; there is nothing to start from."""
        dictionary = replace(dictionary, signed=False)
        norm, same = x.norm(dim=1), equals(dictionary)
        support = Support(dictionary, x, k)
        coefficients, residual = torch.zeros_like(support.projections), x
        alive = norm > 0
        while True:
            alive &= (support.count < k) & (residual.norm(dim=1) > self.tolerance * norm)
            if not bool(alive.any()):
                break
            scores = same.level(correlate(residual, dictionary))
            scores[support.members()] = 0.0
            found, picked = largest(scores, 1)
            wanted = alive & (found[:, 0] > SMALLEST_SCORE * norm)
            alive &= support.append(picked[:, 0], wanted, among=coefficients > 0)
            coefficients = nnls(support.gram, support.projections, support.used, coefficients)
            residual = support.residual(coefficients)
        return pack(support.indices, coefficients.to(x.dtype), k, dictionary.n_latents, signed=False)


def nnls(gram: Tensor, projections: Tensor, used: Tensor, start: Tensor | None = None) -> Tensor:
    """Non-negative least squares `argmin_{z >= 0} z^T G z / 2 - b^T z` [batch, t] by Lawson and Hanson's active sets.

    Outer: the latent with the largest positive gradient `(b - G z)_j` enters the passive set P. Inner: solve on P;
    while a coefficient is not positive, go towards the solution as far as z >= 0 allows and drop what reached zero.
    Each outer step lowers the objective, so no passive set comes back; all tokens take their steps together.

        Args:
            gram: G [batch, t, t], identity rows where not used.
            projections: b [batch, t].
            used: slots that exist [batch, t].
            start: feasible coefficients whose non-zeros solve their own passive set, as from an earlier call.

        Example:
            >>> import torch
            >>> nnls(torch.eye(2)[None], torch.tensor([[1.0, -1.0]]), torch.ones(1, 2, dtype=torch.bool))
            tensor([[1., 0.]])
    """
    coefficients = torch.zeros_like(projections) if start is None else start
    passive = coefficients > 0
    refused = torch.zeros_like(passive)  # entered and fell out at once: its gradient was rounding, or it was dependent
    rounding = 100 * torch.finfo(gram.dtype).eps * projections.abs().amax(1).clamp(min=0)
    for _ in range(3 * used.shape[1]):
        gradient = projections - (gram @ coefficients[..., None])[..., 0]
        gradient = torch.where(used & ~passive & ~refused, gradient, -math.inf)
        best, entering = gradient.max(dim=1)
        enters = best > rounding
        if not bool(enters.any()):
            break
        passive[enters.nonzero()[:, 0], entering[enters]] = True
        while True:
            solution, dependent = _solve(gram, projections, passive)
            dependent &= enters
            if bool(dependent.any()):  # on those that are in: what has just entered goes out again
                passive[dependent, entering[dependent]] = False
                refused[dependent, entering[dependent]] = True
                enters = enters & ~dependent
                continue
            blocking = passive & (solution <= 0)
            if not bool(blocking.any()):
                coefficients = solution
                break
            reach = torch.where(blocking, coefficients / (coefficients - solution), math.inf).nan_to_num(nan=0.0)
            fraction = reach.amin(1, keepdim=True).clamp(max=1.0)
            leaving = blocking & (reach <= fraction)
            refused |= leaving & (coefficients == 0)
            passive &= ~leaving
            coefficients = torch.where(passive, coefficients + fraction * (solution - coefficients), 0.0)
    return coefficients


def _solve(gram: Tensor, projections: Tensor, passive: Tensor) -> tuple[Tensor, Tensor]:
    """Least squares on the passive sets, zero elsewhere; tokens whose set is dependent."""
    _, factor, dependent = factorise(gram, passive)
    solution = torch.cholesky_solve((projections * passive)[..., None], factor)[..., 0]
    return torch.where(passive, solution, 0.0), dependent
