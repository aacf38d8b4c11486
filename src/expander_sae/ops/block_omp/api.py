"""Orthogonal matching pursuit over a sparse dictionary."""

import torch
from torch import Tensor

from expander_sae.ops.autograd import op
from expander_sae.ops.backends import choose_backend
from expander_sae.ops.block_omp import native, reference
from expander_sae.ops.checks import FLOATS, check_dictionary, check_numbers, check_overflow, check_tensor
from expander_sae.ops.codes import Codes
from expander_sae.ops.extreme_tokens import scaled
from expander_sae.ops.in_full import in_full
from expander_sae.records import ExpanderSaeError


@op
@torch.no_grad()
def block_omp(
    x: Tensor,
    rows: Tensor | None,
    values: Tensor,
    k: int,
    *,
    block: int = 1,
    spare: int = 0,
    signed: bool = True,
    tolerance: float = 0.0,
    center: Tensor | None = None,
    backend: str = "auto",
) -> Codes:
    """Codes by orthogonal matching pursuit, `block` columns a stage (1: OMP; k: select once, then least squares).

    From r = x - center, repeat: append the `block + spare` columns with the largest score, |<w_j, r>| if `signed` and
    <w_j, r> > 0 otherwise; refit all coefficients on the support S by least squares, z = argmin ||x - center - W_S z||;
    while S has grown by more than `block` a stage, drop the column whose absence adds least to the residual, argmin
    z_j^2 / (G_S^-1)_jj, and refit; r = x - center - W_S z. A token stops at k columns, at ||r|| <= tolerance * ||x -
    center||, or when no score exceeds 1e-5 of its norm. A column closer than 1e-5 (squared, relative) to the span of
    the support is skipped, so duplicates never share a support; the stage gives its place back. (A dense dictionary is
    pursued by the definition in its own type, and so is any dictionary, written out in full, on a device without a
    kernel of ours.) Not differentiable; refit on the support for gradients. Pati et al. 1993; Wang et al. 2012 for
    blocks; Karahanoglu and Erdogan 2013 (forward-backward pursuit) for `spare`, where a stage drops a fixed number by
    size instead.

    Args:
        x: activations [batch, d_in].
        rows: mask [n_latents, degree]; None for a dense dictionary (matrix products).
        values: dictionary values [n_latents, degree], columns of unit length.
        k: most active latents per token.
        block: columns per stage, 1..k.
        spare: columns a stage picks beyond those and drops again; k + spare is at most n_latents. No stage fits more
            columns than there are coordinates: of more than d_in - k spare columns that many are picked.
        signed: pick by absolute score; codes have any sign. Otherwise pick positive scores only.
        tolerance: relative residual at which a token stops.
        center: subtracted first [d_in].
        backend: "auto" (the C++ core on CPU, matrix products elsewhere), "native" or "reference".

    Returns:
        Codes [batch, k] by falling size (by falling value unless `signed`); unused slots are zero, on the lowest
        latents that are free.

    Raises:
        ExpanderSaeError: shapes or dtypes do not fit, k or block out of range, or NaN or infinity in x or values.

    Example:
        >>> import torch
        >>> rows, values = torch.tensor([[0], [1], [2]]), torch.ones(3, 1)
        >>> block_omp(torch.tensor([[3.0, 0.0, -4.0]]), rows, values, 2).values
        tensor([[-4.,  3.]])
    """
    check_tensor("x", x, "[batch, d_in]", (None, None), FLOATS)
    check_dictionary(rows, values, x.shape[1])
    if not 1 <= k <= values.shape[0]:
        raise ExpanderSaeError(f"expected k in 1..n_latents = {values.shape[0]}; got {k}")
    if not 1 <= block <= k:
        raise ExpanderSaeError(f"expected block in 1..k = {k}; got {block}")
    if not 0 <= spare <= values.shape[0] - k:
        raise ExpanderSaeError(f"expected spare in 0..n_latents - k = {values.shape[0] - k}; got {spare}")
    spare = min(spare, max(0, x.shape[1] - k))
    if not 0 <= tolerance < 1:
        raise ExpanderSaeError(f"expected tolerance in [0, 1); got {tolerance}")
    if center is not None:
        check_tensor("center", center, "[d_in]", (x.shape[1],), (torch.float32, torch.float64))
    name = choose_backend(
        backend,
        x.device,
        native=native.supports(x, rows, values),
        triton="there is no Triton pursuit yet",
    )
    if name == "native" and rows is not None:
        indices, codes, _ = native.forward(x, rows, values, k, block, spare, signed, tolerance, center)
        return Codes(indices, codes)
    check_numbers(x, rows, values, center=center)
    x = x.detach().to(values.dtype)
    centered = x if center is None else x - center
    check_overflow(centered, "x - center")
    tokens, exact = scaled(centered), name == "reference" and (backend == "reference" or x.device.type == "cpu")
    kind = torch.float64 if exact else values.dtype
    whole = in_full(rows, values.detach().to(kind), x.shape[1])
    indices, codes, _ = reference.forward(tokens.x.to(kind), whole, k, block, spare, signed, tolerance)
    codes = tokens.codes(codes.to(values.dtype))
    check_overflow(codes, "the code")
    return Codes(indices, codes)
