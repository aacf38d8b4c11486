"""Least squares on a given support: the reading that refits the encoder's, and the differentiable refit."""

from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor

from expander_sae.ops import Codes
from expander_sae.ops.autograd import first_order, op
from expander_sae.ops.checks import FLOATS, check_code_indices, check_numbers, check_tensor
from expander_sae.ops.codes import pack
from expander_sae.ops.dictionary import Dictionary

from .columns import correlate_support, decode, support_gram
from .encoder import encoder_codes
from .pursuit import Pursuit
from .support import Support, factorise

RIDGE = 1e-4
"""Part of the mean squared column length added to the diagonal where a given support is numerically dependent."""


@dataclass(frozen=True)
class Refit(Pursuit):
    """The encoder's support, and least squares on it: `z = argmin ||x - W_S z||`.

    S is the non-zero slots of the encoder's codes; columns dependent on earlier slots are left out.

    Example:
        >>> w = Dictionary.of_matrix(torch.eye(3))
        >>> Refit().codes(w, torch.tensor([[3.0, 0.0, 4.0]]), 2)
        Codes(indices=tensor([[2, 0]]), values=tensor([[4., 3.]]))
    """

    name: ClassVar[str] = "refit"
    in_words: ClassVar[str] = "the encoder's support, least squares on it"
    least_squares: ClassVar[bool] = True

    def passes(self, k: int) -> float:
        """One, the encoder's."""
        return 1

    def codes(self, dictionary: Dictionary, x: Tensor, k: int, *, backend: str = "auto") -> Codes:
        """At most k codes of x [batch, d_in]."""
        return self.codes_on(encoder_codes(dictionary.detached(), x, k), dictionary, x, k, backend=backend)

    def codes_on(self, start: Codes, dictionary: Dictionary, x: Tensor, k: int, *, backend: str = "auto") -> Codes:
        """Codes of x [batch, d_in] refitted on the non-zero slots of other codes `start` [batch, at most k].

        Raises:
            ExpanderSaeError: as in `codes`.
        """
        return self._from(start, dictionary, x, k, backend)

    def definition(self, x: Tensor, dictionary: Dictionary, k: int, start: Codes | None) -> Codes:
        """Codes [batch, k] on the support of `start`."""
        assert start is not None
        support = Support(dictionary, x, k)
        support.extend(start.indices, start.values != 0)
        return pack(support.indices, support.solve().to(x.dtype), k, dictionary.n_latents, signed=dictionary.signed)


class Refitted(NamedTuple):
    """Refitted codes, and how many tokens needed the ridge."""

    codes: Codes
    """The given indices with differentiable values, in the given order."""
    ridged: int
    """Tokens whose support was numerically dependent, solved with the ridge."""


@op
def refit_codes(
    x: Tensor,
    indices: Tensor,
    dictionary: Dictionary,
    *,
    used: Tensor | None = None,
) -> Refitted:
    """Least-squares codes with the support held fixed, differentiable once in x, the dictionary's columns and center.

    `z = argmin ||x - center - W_S z||`. With `G = W_S^T W_S`, `r = x - center - W_S z`, and an incoming gradient g: `v
    = G^-1 g`, `dx = W_S v`, `dw_i = v_i r - z_i W_S v`; for a sparse dictionary O(k * (k + degree)) numbers per token
    are held and only the values of S get a gradient. Decode the result for the gradient of the reconstruction. Where a
    column of S depends numerically on the others (squared distance to their span at most 1e-5 of its squared length),
    the token is solved with a ridge, `(G + 1e-4 mean ||w||^2 I) z = W_S^T x` (the ridge held fixed in the gradient),
    and counted. Variable projection (Golub, Pereyra 1973) gives the gradient.

    Args:
        x: activations [batch, d_in].
        indices: supports [batch, k], distinct where used.
        dictionary: its columns and its center.
        used: bool [batch, k], False for padding slots (`codes.values != 0`), which stay zero; None: all are used.

    Returns:
        Codes, in the order of `indices`, and the count of ridged tokens.

    Raises:
        ExpanderSaeError: shapes or dtypes do not fit, an index points outside the dictionary, or x, values or center
            hold NaN or infinity.

    Example:
        >>> import torch
        >>> w = Dictionary.of_matrix(torch.eye(3))
        >>> refit_codes(torch.tensor([[3.0, 0.0, -4.0]]), torch.tensor([[2, 0]]), w).codes.values
        tensor([[-4.,  3.]])
    """
    source, center = dictionary, dictionary.center
    check_tensor("x", x, "[batch, d_in]", (None, source.d_in), FLOATS)
    check_tensor("indices", indices, "[batch, k]", (x.shape[0], None), (torch.int64,))
    check_code_indices(indices, source.n_latents)
    if used is None:
        used = torch.ones_like(indices, dtype=torch.bool)
    check_tensor("used", used, "[batch, k]", tuple(indices.shape), (torch.bool,))
    check_numbers(x.detach(), source.rows, source.decoder.detach(), center=None if center is None else center.detach())
    dtype = torch.promote_types(x.dtype, source.decoder.dtype)
    centered, values = x.to(dtype), source.decoder.to(dtype)
    rows = None if source.rows is None else source.rows.long()
    if center is not None:
        centered = centered - center.to(dtype)
    with torch.no_grad():
        fixed = Dictionary(rows, values.detach(), source.d_in, rows_checked=True)
        gram, factor, dependent = factorise(support_gram(fixed, indices, torch.float64), used)
        if bool(dependent.any()):
            diagonal = gram.diagonal(dim1=1, dim2=2) * used
            ridge = RIDGE * diagonal.sum(1) / used.sum(1).clamp(min=1) * dependent
            factor = torch.linalg.cholesky(gram + torch.diag_embed(ridge[:, None] * used))
    fitted = _LeastSquares.apply(centered, values, rows, indices, used, factor)
    return Refitted(Codes(indices, fitted), int(dependent.sum()))  # type: ignore[arg-type]


class _LeastSquares(torch.autograd.Function):
    """The solve and its gradient, given the Cholesky factor."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, values: Tensor, rows: Tensor | None, indices: Tensor, used: Tensor, factor: Tensor
    ) -> Tensor:
        dictionary = Dictionary(rows, values, x.shape[1], rows_checked=True)
        projections = correlate_support(x.double(), dictionary, indices) * used
        codes = (torch.cholesky_solve(projections[..., None], factor)[..., 0] * used).to(values.dtype)
        ctx.save_for_backward(x, values, rows, indices, used, factor, codes)
        return codes

    @staticmethod
    @first_order
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        x, values, rows, indices, used, factor, codes = ctx.saved_tensors
        dictionary = Dictionary(rows, values, x.shape[1], rows_checked=True)
        incoming = (gradients[0] * used).double()
        v = (torch.cholesky_solve(incoming[..., None], factor)[..., 0] * used).to(values.dtype)
        grad_x = decode(dictionary, indices, v)
        grad_values = None
        if ctx.needs_input_grad[1]:
            residual = x - decode(dictionary, indices, codes)
            grad_values = torch.zeros_like(values)
            for slot in range(indices.shape[1]):
                latents = indices[:, slot]
                toward, away = residual, grad_x
                if rows is not None:
                    toward, away = toward.gather(1, rows[latents]), away.gather(1, rows[latents])
                grad_values.index_add_(0, latents, v[:, slot, None] * toward - codes[:, slot, None] * away)
        return grad_x, grad_values, None, None, None, None
