"""A dictionary and what goes with it to encode and decode: the one form in which they are handed around."""

from dataclasses import dataclass, replace
from typing import Any, Self

import torch
from torch import Tensor

from expander_sae.records import ExpanderSaeError

from .checks import FLOATS, check_dictionary, check_rows, check_tensor, shape_of
from .codes import Codes
from .correlate import correlate, support_gram
from .in_full import in_full
from .sparse_decode import sparse_decode


@dataclass(frozen=True, eq=False, repr=False)
class Dictionary:
    """Columns w_j of unit length, sparse or dense, with the encoder, biases and sign rule that read them.

    `pre = E^T (x - center) + bias`, `x_hat = W h + center`. Its tensors may require gradients, which flow through
    everything that is differentiable. Sizes and rows are checked once, here.

    Args:
        rows: rows of the non-zeros [n_latents, degree], distinct in a column, of any integer type (uint16 is the C++
            core's own); None: dense.
        decoder: values of W [n_latents, degree]; dense: [n_latents, d_in].
        d_in: length of an activation.
        encoder: values of E, shaped like `decoder`, on the same rows; None: E = W.
        bias: latent bias [n_latents], or None.
        center: [d_in], subtracted from activations and added to reconstructions, or None.
        signed: codes of any sign, picked by size (by value for the one-pass encoder); otherwise codes are picked by
            positive correlation.
        gram_matrix: `W^T W` [n_latents, n_latents] in float64, for algorithms that have made it already.
        rows_checked: the rows are known to be those of a mask, and are not looked at again.

    Raises:
        ExpanderSaeError: shapes or dtypes do not fit each other, a row is not below d_in, or a column has one twice.

    Example:
        >>> w = Dictionary(torch.tensor([[0, 1], [1, 2]]), torch.tensor([[0.6, 0.8], [1.0, 0.0]]), d_in=3)
        >>> w.dense()
        tensor([[0.6000, 0.8000, 0.0000],
                [0.0000, 1.0000, 0.0000]])
    """

    rows: Tensor | None
    decoder: Tensor
    d_in: int
    encoder: Tensor | None = None
    bias: Tensor | None = None
    center: Tensor | None = None
    signed: bool = False
    gram_matrix: Tensor | None = None
    rows_checked: bool = False

    def __post_init__(self) -> None:
        check_dictionary(self.rows, self.decoder, self.d_in)
        if self.rows is not None and not self.rows_checked:
            check_rows(self.rows, self.d_in)
            object.__setattr__(self, "rows_checked", True)  # which `replace` hands on
        floats = (torch.float32, torch.float64)
        if self.encoder is not None:
            shape = tuple(self.decoder.shape)
            check_tensor("encoder", self.encoder, "[n_latents, degree]", shape, (self.decoder.dtype,))
        if self.bias is not None:
            check_tensor("bias", self.bias, "[n_latents]", (self.n_latents,), floats)
        if self.center is not None:
            check_tensor("center", self.center, "[d_in]", (self.d_in,), floats)

    @classmethod
    def of_matrix(cls, matrix: Tensor, **options: Any) -> Self:
        """A dense dictionary of a matrix [n_latents, d_in], one column of W in each of its rows.

        Raises:
            ExpanderSaeError: it is no such matrix.

        Example:
            >>> Dictionary.of_matrix(torch.eye(3), signed=True).n_latents
            3
        """
        if not isinstance(matrix, Tensor) or matrix.ndim != 2:
            got = shape_of(matrix) if isinstance(matrix, Tensor) else type(matrix).__name__
            raise ExpanderSaeError(
                f"expected a dense dictionary as [n_latents, d_in], one column of W per row; got {got}"
            )
        return cls(None, matrix, matrix.shape[1], **options)

    @property
    def n_latents(self) -> int:
        """Columns."""
        return self.decoder.shape[0]

    @property
    def degree(self) -> int:
        """Non-zeros of a column; d_in where it is dense."""
        return self.decoder.shape[1]

    def check_width(self, x: Tensor) -> None:
        """Raise unless x is [batch, d_in]."""
        check_tensor("x", x, "[batch, d_in]", (None, self.d_in), FLOATS)

    def detached(self) -> Self:
        """The same dictionary, through which no gradient flows."""

        def cut(tensor: Tensor | None) -> Tensor | None:
            return None if tensor is None else tensor.detach()

        return replace(
            self,
            decoder=self.decoder.detach(),
            encoder=cut(self.encoder),
            bias=cut(self.bias),
            center=cut(self.center),
        )

    def part(self, latents: Tensor) -> Self:
        """The dictionary of some latents [count], differentiable."""
        return replace(
            self,
            rows=None if self.rows is None else self.rows_of(latents),
            decoder=self.decoder[latents],
            encoder=None if self.encoder is None else self.encoder[latents],
            bias=None if self.bias is None else self.bias[latents],
            gram_matrix=None,
        )

    def rows_of(self, latents: Tensor) -> Tensor:
        """Rows of some latents [..., degree] of a sparse dictionary, in the integer type of its rows."""
        assert self.rows is not None
        if self.rows.dtype not in (torch.uint16, torch.uint32):
            return self.rows[latents]
        signed = torch.int16 if self.rows.dtype == torch.uint16 else torch.int32  # torch cannot index unsigned ones
        return self.rows.view(signed)[latents].view(self.rows.dtype)

    def dense(self, values: Tensor | None = None) -> Tensor:
        """W with its zeros, [n_latents, d_in], differentiable; `values`: others on the same rows, the encoder's say."""
        values = self.decoder if values is None else values
        return in_full(self.rows, values, self.d_in)

    def columns(self, latents: Tensor) -> Tensor:
        """The columns of latents [count] in full, [count, d_in], differentiable."""
        return in_full(None if self.rows is None else self.rows_of(latents), self.decoder[latents], self.d_in)

    @torch.no_grad()
    def correlate(self, x: Tensor) -> Tensor:
        """All correlations `W^T x` [batch, n_latents] of x [batch, d_in], as it is: center and bias are left out; not
        differentiable.

        Raises:
            ExpanderSaeError: as in `expander_sae.ops.correlate`.
        """
        self.check_width(x)
        if self.rows is None:
            return x.to(self.decoder.dtype) @ self.decoder.T
        return correlate(x, self.rows, self.decoder)

    def decode(self, codes: Codes) -> Tensor:
        """`x_hat = W h + center` [batch, d_in], in O(k * degree) per token.

        Raises:
            ExpanderSaeError: as in `expander_sae.ops.sparse_decode`.
        """
        x_hat = sparse_decode(codes, self.rows, self.decoder, self.d_in)
        return x_hat if self.center is None else x_hat + self.center

    def gram(self, supports: Tensor) -> Tensor:
        """`W_S^T W_S` [batch, k, k] of supports S = [batch, k]; not differentiable.

        Raises:
            ExpanderSaeError: as in `expander_sae.ops.support_gram`.
        """
        if self.rows is None:
            columns = self.decoder.detach()[supports]
            return columns @ columns.transpose(1, 2)
        return support_gram(supports, self.rows, self.decoder, self.d_in)
