"""The ops as custom operators of torch, so that `torch.compile` and `torch.export` carry them without a graph break.

Inside a compiled function the ops' own Python is not traced: `encode_topk` and `sparse_decode` call what is registered
here, which at run time calls them again, on real tensors, and so chooses the backend and checks as ever. Each has a
shape function for tracing, and first derivatives by operators of its own. Nothing changes outside of compilation.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from .codes import Codes
from .encode_topk import encode_topk
from .sparse_decode import sparse_decode

_NAME = "expander_sae"
OPERATORS: dict[str, Any] = {}
"""Every operator of this package by its name behind `torch.ops.expander_sae`."""


def register(name: str, schema: str, run: Any, fake: Any) -> Any:
    """Make an operator that changes none of its inputs.

    Args:
        name: behind `torch.ops.expander_sae`.
        schema: its arguments and results.
        run: what it does, with gradients off; must return fresh tensors.
        fake: shapes and types of its results.
    """
    operator: Any = torch.library.custom_op(f"{_NAME}::{name}", torch.no_grad()(run), mutates_args=(), schema=schema)
    operator.register_fake(fake)
    OPERATORS[name] = operator
    return operator


def code_slots(x: Tensor, values: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Tensors of the shape and type of the values and the indices of codes [batch, k].

    Operators hand on the values first: torch's `opcheck` adds results up from the first on, in its type.
    """
    kind = torch.float64 if torch.float64 in (x.dtype, values.dtype) else torch.float32
    return x.new_empty((x.shape[0], k), dtype=kind), x.new_empty((x.shape[0], k), dtype=torch.int64)


def _with_gradient(tensors: list[Tensor | None]) -> list[Tensor | None]:
    return [None if one is None else one.detach().requires_grad_(one.is_floating_point()) for one in tensors]


_ENCODE = "Tensor x, Tensor? rows, Tensor values, int k, Tensor? bias, Tensor? center, bool signed"


def _encode(
    x: Tensor, rows: Tensor | None, values: Tensor, k: int, bias: Tensor | None, center: Tensor | None, signed: bool
) -> tuple[Tensor, Tensor]:
    codes = encode_topk(x, rows, values, k, bias=bias, center=center, signed=signed)
    return codes.values, codes.indices


def _encode_fake(x: Tensor, _rows: Any, values: Tensor, k: int, *_others: Any) -> tuple[Tensor, Tensor]:
    return code_slots(x, values, k)


def _encode_backward(
    gradient: Tensor,
    x: Tensor,
    rows: Tensor | None,
    values: Tensor,
    k: int,
    bias: Tensor | None,
    center: Tensor | None,
    signed: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """In x, values, bias and center (empty where there is none), by the op on a pass of its own."""
    leaves = _with_gradient([x, values, bias, center])
    with torch.enable_grad():
        codes = encode_topk(leaves[0], rows, leaves[1], k, bias=leaves[2], center=leaves[3], signed=signed)  # type: ignore[arg-type]
    wanted = [leaf for leaf in leaves if leaf is not None]
    found = iter(torch.autograd.grad(codes.values, wanted, gradient.to(codes.values.dtype)))
    one, two, three, four = (x.new_empty(0) if leaf is None else next(found) for leaf in leaves)
    return one, two, three, four


def _encode_backward_fake(
    _gradient: Tensor, x: Tensor, _rows: Any, values: Tensor, _k: int, bias: Any, center: Any, _signed: bool
) -> tuple[Tensor, ...]:
    optional = (x.new_empty(0) if one is None else torch.empty_like(one) for one in (bias, center))
    return torch.empty_like(x), torch.empty_like(values), *optional


def _keep_encode(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    x, rows, values, k, bias, center, signed = inputs
    ctx.save_for_backward(x, rows, values, bias, center)
    ctx.k, ctx.signed = k, signed
    ctx.mark_non_differentiable(output[1])


def _back_encode(ctx: Any, gradient: Tensor, _indices: Any) -> tuple[Tensor | None, ...]:
    x, rows, values, bias, center = ctx.saved_tensors
    found = encode_backward(gradient, x, rows, values, ctx.k, bias, center, ctx.signed)
    return (
        found[0], None, found[1], None, None if bias is None else found[2], None if center is None else found[3], None
    )  # fmt: skip


encode = register("encode_topk", f"({_ENCODE}) -> (Tensor, Tensor)", _encode, _encode_fake)
encode_backward = register(
    "encode_topk_backward",
    f"(Tensor gradient, {_ENCODE}) -> (Tensor, Tensor, Tensor, Tensor)",
    _encode_backward,
    _encode_backward_fake,
)
encode.register_autograd(_back_encode, setup_context=_keep_encode)

_DECODE = "Tensor indices, Tensor codes, Tensor? rows, Tensor values, int d_in"


def _decode(indices: Tensor, codes: Tensor, rows: Tensor | None, values: Tensor, d_in: int) -> Tensor:
    return sparse_decode(Codes(indices, codes), rows, values, d_in)


def _decode_fake(_indices: Tensor, codes: Tensor, _rows: Any, values: Tensor, d_in: int) -> Tensor:
    kind = torch.promote_types(codes.dtype, values.dtype)
    return codes.new_empty((codes.shape[0], d_in), dtype=kind)


def _decode_backward(
    gradient: Tensor, indices: Tensor, codes: Tensor, rows: Tensor | None, values: Tensor, d_in: int
) -> tuple[Tensor, Tensor]:
    """In the code values and in the dictionary's."""
    leaves = [codes.detach().requires_grad_(), values.detach().requires_grad_()]
    with torch.enable_grad():
        out = sparse_decode(Codes(indices, leaves[0]), rows, leaves[1], d_in)
    one, two = torch.autograd.grad(out, leaves, gradient.to(out.dtype))
    return one, two


def _decode_backward_fake(
    _gradient: Tensor, _indices: Tensor, codes: Tensor, _rows: Any, values: Tensor, _d_in: int
) -> tuple[Tensor, Tensor]:
    return torch.empty_like(codes), torch.empty_like(values)


def _keep_decode(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    *tensors, ctx.d_in = inputs
    ctx.save_for_backward(*tensors)


def _back_decode(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
    one, two = decode_backward(gradient, *ctx.saved_tensors, ctx.d_in)
    return None, one, None, two, None


decode = register("sparse_decode", f"({_DECODE}) -> Tensor", _decode, _decode_fake)
decode_backward = register(
    "sparse_decode_backward",
    f"(Tensor gradient, {_DECODE}) -> (Tensor, Tensor)",
    _decode_backward,
    _decode_backward_fake,
)
decode.register_autograd(_back_decode, setup_context=_keep_decode)
