"""One entry to every pursuit."""

import torch
from torch import Tensor

from expander_sae.ops import Codes, block_omp
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
from expander_sae.ops.extreme_tokens import scaled
from expander_sae.records import ExpanderSaeError

from . import native
from .cosamp import cosamp
from .dictionary import Dictionary, SparseDictionary, as_dictionary, with_gram
from .gradient_pursuit import gradient_pursuit
from .matching import matching_pursuit
from .niht import niht
from .nonnegative import nonnegative_omp
from .omp import omp
from .refit import refit_support

METHODS = ("omp", "mp", "nnomp", "gradient", "cosamp", "niht", "refit")
"""OMP (in blocks, warm-started), matching pursuit, non-negative OMP, gradient pursuit, CoSaMP, NIHT, and least squares
on a support chosen at once: the warm start's, or without one that of "omp" with block = k."""

_WITH_WARM_START = ("omp", "refit")
_WITH_STEPS = {"mp": matching_pursuit, "gradient": gradient_pursuit, "cosamp": cosamp, "niht": niht}
_CHUNK = 2**24  # numbers in the largest temporary: 64 MB at float32


@op
@torch.no_grad()
def pursue(
    x: Tensor,
    dictionary: SparseDictionary | Tensor,
    k: int,
    method: str = "omp",
    *,
    block: int = 1,
    spare: int = 0,
    signed: bool = True,
    tolerance: float = 0.0,
    center: Tensor | None = None,
    warm_start: Codes | None = None,
    steps: int | None = None,
    backend: str = "auto",
) -> Codes:
    """At most k codes per token such that `W z` is close to x - center, by sparse recovery; see docs/pursuit.md.

    Each method is defined in its own file. Not differentiable: hand `codes.indices` and `codes.values != 0` to
    `refit_codes` for gradients with the support held fixed. A token whose k-column fit does not exist (k beyond the
    rank, a zero or exactly fitted token, fewer positive correlations) gets fewer columns and zero codes.

    Args:
        x: activations [batch, d_in]; float32, bfloat16, float16 (computed in float32) or float64.
        dictionary: anything with `values`, `d_in` and maybe `rows` (an SAE), or a matrix [n_latents, d_in]; columns of
            unit length.
        k: most columns per token, 1..n_latents.
        method: one of `METHODS`.
        block: columns per stage of "omp", 1..k.
        spare: columns a stage of "omp" picks beyond those and drops again, the least useful ones; k + spare is at most
            n_latents.
        signed: pick by absolute correlation; otherwise by positive correlation, which makes the codes of "mp" and
            "niht" non-negative and leaves those of the least-squares methods free. "nnomp" is non-negative either way.
        tolerance: a token stops at ||r|| <= tolerance * ||x - center||.
        center: subtracted from x first [d_in].
        warm_start: for "omp" and "refit", codes [batch, at most k] whose non-zero slots start the support ("refit": are
            the support), larger ones first where columns depend on each other.
        steps: for "mp" and "gradient" the picks (k if None), for "cosamp" and "niht" the most iterations (50 if None).
        backend: "auto", "native" (the C++ core, float32, sparse dictionaries: all but "cosamp" and "niht"; with
            block > 1 only from an empty support) or "reference" (batched PyTorch, any device). "auto" takes "native"
            where it can.

    Returns:
        Codes [batch, k] by falling size (falling value unless signed); unused slots are zero, on the lowest free
        latents.

    Raises:
        ExpanderSaeError: shapes, dtypes or options do not fit, x or values hold NaN or infinity, or the named backend
            cannot run.

    Example:
        >>> import torch
        >>> pursue(torch.tensor([[3.0, 0.0, -4.0]]), torch.eye(3), 2)
        Codes(indices=tensor([[2, 0]]), values=tensor([[-4.,  3.]]))
    """
    source = as_dictionary(dictionary)
    check_tensor("x", x, "[batch, d_in]", (None, source.d_in), FLOATS)
    if center is not None:
        check_tensor("center", center, "[d_in]", (source.d_in,), (torch.float32, torch.float64))
    _check_options(x, source, k, method, block, spare, tolerance, warm_start, steps)
    dtype = torch.promote_types(x.dtype, source.values.dtype)
    source = Dictionary(source.rows, source.values.detach().to(dtype), source.d_in)
    if method == "refit" and warm_start is None:
        method, block = "omp", k
    if _backend(backend, method, block, spare, x, source, warm_start) == "native":
        if block == 1 and not spare and (method != "omp" or warm_start is not None or native.tracking_pays(source)):
            return native.greedy(
                x,
                source,
                k,
                method,
                signed=signed,
                tolerance=tolerance,
                center=center,
                warm_start=warm_start,
                steps=steps,
            )
        return block_omp(
            x,
            source.rows,
            source.values,
            k,
            block=block,
            spare=spare,
            signed=signed,
            tolerance=tolerance,
            center=center,
            backend="native",
        )
    centered = x.to(dtype) if center is None else x.to(dtype) - center.to(dtype)
    check_numbers(x, source.rows, source.values, center=center)
    check_overflow(centered, "x - center")
    sized = scaled(centered)
    width = 3 * k if method == "cosamp" else k + spare
    if method not in ("mp", "gradient", "niht"):
        source = with_gram(source, x.shape[0], width)
    per_token = max(source.n_latents, width * max(source.values.shape[1], width))
    chunk = max(1, _CHUNK // per_token)
    parts = []
    for first in range(0, max(1, x.shape[0]), chunk):
        tokens = slice(first, first + chunk)
        start = None if warm_start is None else Codes(warm_start.indices[tokens], warm_start.values[tokens])
        parts.append(_run(sized.x[tokens], source, k, method, block, spare, signed, tolerance, start, steps))
    codes = sized.codes(torch.cat([part.values for part in parts]))
    check_overflow(codes, "the code")
    return Codes(torch.cat([part.indices for part in parts]), codes)


def _run(
    x: Tensor,
    dictionary: Dictionary,
    k: int,
    method: str,
    block: int,
    spare: int,
    signed: bool,
    tolerance: float,
    warm_start: Codes | None,
    steps: int | None,
) -> Codes:
    if method == "omp":
        return omp(
            x, dictionary, k, block=block, spare=spare, signed=signed, tolerance=tolerance, warm_start=warm_start
        )
    if method == "refit" and warm_start is not None:
        return refit_support(x, dictionary, k, warm_start, signed=signed)
    if method == "nnomp":
        return nonnegative_omp(x, dictionary, k, tolerance=tolerance)
    return _WITH_STEPS[method](x, dictionary, k, signed=signed, tolerance=tolerance, steps=steps)


def _backend(
    backend: str, method: str, block: int, spare: int, x: Tensor, dictionary: Dictionary, warm_start: Codes | None
) -> str:
    reason = native.supports(method, block, spare, x, dictionary, warm_start)
    if dictionary.rows is None and (backend == "auto" or block == 1):
        # The dense way of block OMP leaves unused slots where it last looked; asking for it by name is fine.
        reason = "dense dictionaries go to the definition, which is matrix products"
    return choose_backend(backend, x.device, native=reason, triton="there is no Triton pursuit")


def _check_options(
    x: Tensor,
    dictionary: Dictionary,
    k: int,
    method: str,
    block: int,
    spare: int,
    tolerance: float,
    warm_start: Codes | None,
    steps: int | None,
) -> None:
    if method not in METHODS:
        raise ExpanderSaeError(f"method must be one of {', '.join(METHODS)}; got {method!r}")
    if not 1 <= k <= dictionary.n_latents:
        raise ExpanderSaeError(f"expected k in 1..n_latents = {dictionary.n_latents}; got {k}")
    if not 1 <= block <= k:
        raise ExpanderSaeError(f"expected block in 1..k = {k}; got {block}")
    if block != 1 and method != "omp":
        raise ExpanderSaeError(f"block is for method 'omp'; got block = {block} with {method!r}. Leave it at 1.")
    if spare and method != "omp":
        raise ExpanderSaeError(f"spare is for method 'omp'; got spare = {spare} with {method!r}. Leave it at 0.")
    if not 0 <= spare <= dictionary.n_latents - k:
        raise ExpanderSaeError(f"expected spare in 0..n_latents - k = {dictionary.n_latents - k}; got {spare}")
    if not 0 <= tolerance < 1:
        raise ExpanderSaeError(f"expected tolerance in [0, 1), relative to ||x - center||; got {tolerance}")
    if steps is not None and method not in _WITH_STEPS:
        raise ExpanderSaeError(f"steps is for {', '.join(_WITH_STEPS)}; {method!r} adds columns until k. Leave it out.")
    if steps is not None and steps < 1:
        raise ExpanderSaeError(f"expected steps >= 1; got {steps}")
    if warm_start is None:
        return
    if method not in _WITH_WARM_START:
        raise ExpanderSaeError(f"a warm start is for {' and '.join(_WITH_WARM_START)}; got one with {method!r}")
    indices, values = warm_start
    check_tensor("warm_start.indices", indices, "[batch, at most k]", (x.shape[0], None), (torch.int64,))
    check_tensor("warm_start.values", values, "[batch, at most k]", tuple(indices.shape), FLOATS)
    if indices.shape[1] > k:
        raise ExpanderSaeError(f"expected a warm start of at most k = {k} codes per token; got {indices.shape[1]}")
    check_code_indices(indices, dictionary.n_latents)
    check_finite("warm_start", values)
