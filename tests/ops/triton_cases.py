"""The Triton backends against plain PyTorch; test_triton.py runs this file in a process of its own.

The interpreter has to be chosen before triton is imported for the first time, which another test may have done.
"""

import os
import re

import pytest
import torch
from torch import Tensor

pytest.importorskip("triton", reason="triton is not installed")

from expander_sae.ops.encode_topk import triton as encode
from expander_sae.ops.sparse_decode import triton as decode

DEVICE = "cpu" if os.environ.get("TRITON_INTERPRET") == "1" else "cuda"
ROW_TYPES = {"uint8": torch.uint8, "uint16": torch.uint16, "int32": torch.int32, "int64": torch.int64}


def dictionary(
    n_latents: int, d_in: int, degree: int, *, grid: bool = False, rows_as: str = "int32", seed: int = 0
) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    rows = torch.rand(n_latents, d_in, generator=generator).argsort(1)[:, :degree].sort(1).values
    if grid:
        values = torch.randint(-2, 3, (n_latents, degree), generator=generator).float()
    else:
        values = torch.randn(n_latents, degree, generator=generator)
    return rows.to(ROW_TYPES[rows_as]).to(DEVICE), values.to(DEVICE)


def activations(batch: int, d_in: int, *, grid: bool = False, dtype: torch.dtype = torch.float32) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    if grid:
        x = torch.randint(-2, 3, (batch, d_in), generator=generator).float()
    else:
        x = torch.randn(batch, d_in, generator=generator)
    return x.to(dtype).to(DEVICE)


def plain_pre(x: Tensor, rows: Tensor, values: Tensor, bias: Tensor | None, center: Tensor | None) -> Tensor:
    x = x.to(values.dtype) - (0 if center is None else center)
    pre = (x[:, rows.long()] * values).sum(2)
    return pre if bias is None else pre + bias


def plain_encode(pre: Tensor, k: int, signed: bool) -> tuple[Tensor, Tensor]:
    pre = pre if signed else pre.relu()
    values, indices = torch.sort(pre, dim=1, descending=True, stable=True)
    return indices[:, :k], values[:, :k]


def plain_decode(indices: Tensor, codes: Tensor, rows: Tensor, values: Tensor, d_in: int) -> Tensor:
    flat = (codes[:, :, None] * values[indices]).flatten(1)
    out = torch.zeros(len(codes), d_in, dtype=flat.dtype, device=flat.device)
    return out.scatter_add(1, rows.long()[indices].flatten(1), flat)


ENCODE_SHAPES = [
    # batch, d_in, n_latents, degree, k
    (5, 30, 90, 7, 8),
    (1, 13, 37, 3, 1),
    (17, 9, 20, 1, 20),
    (3, 5, 11, 5, 11),
    (2, 300, 260, 4, 17),
    (4, 64, 1, 2, 1),
    (18, 17, 40, 3, 5),
]


@pytest.mark.parametrize("shape", ENCODE_SHAPES, ids=str)
@pytest.mark.parametrize(("signed", "extras"), [(False, True), (True, False)], ids=["relu-bias-center", "signed"])
def test_encode_is_exact_on_an_integer_grid(shape: tuple[int, ...], signed: bool, extras: bool) -> None:
    """Small integers have no rounding and many ties: indices and values must be equal, not close."""
    batch, d_in, n_latents, degree, k = shape
    rows, values = dictionary(n_latents, d_in, degree, grid=True)
    x = activations(batch, d_in, grid=True)
    bias = torch.arange(n_latents, device=DEVICE).remainder(3).float() - 1 if extras else None
    center = torch.arange(d_in, device=DEVICE).remainder(2).float() if extras else None
    got = encode.forward(x, rows, values, k, bias, center, signed)
    expected = plain_encode(plain_pre(x, rows, values, bias, center), k, signed)
    assert got[0].dtype == torch.int64
    assert got[1].dtype == torch.float32
    assert torch.equal(got[0], expected[0])
    assert torch.equal(got[1], expected[1])


@pytest.mark.parametrize(
    ("dtype", "rows_as"),
    [
        (torch.float32, "uint8"),
        (torch.bfloat16, "uint16"),
        (torch.float16, "int32"),
        (torch.float32, "int64"),
    ],
)
def test_encode_real_numbers(dtype: torch.dtype, rows_as: str) -> None:
    rows, values = dictionary(130, 50, 6, rows_as=rows_as)
    x = activations(6, 50, dtype=dtype)
    indices, codes = encode.forward(x, rows, values, 12, None, None, False)
    expected = plain_encode(plain_pre(x, rows, values.double(), None, None), 12, False)
    assert torch.equal(indices, expected[0])
    assert torch.allclose(codes.double(), expected[1], atol=1e-5)


def test_rows_beyond_the_signed_16_bit_range() -> None:
    d_in = 60_000
    rows = torch.tensor([[3, 59_999], [40_000, 50_000], [32_767, 32_768]], dtype=torch.int32)
    values = torch.tensor([[1.0, 2.0], [3.0, 5.0], [7.0, 11.0]], device=DEVICE)
    x = activations(2, d_in, grid=True)
    for dtype in (torch.uint16, torch.int32):
        stored = rows.to(dtype).to(DEVICE)
        got = encode.forward(x, stored, values, 3, None, None, True)
        expected = plain_encode(plain_pre(x, rows.to(DEVICE), values, None, None), 3, True)
        assert torch.equal(got[0], expected[0])
        assert torch.equal(got[1], expected[1])
        out = decode.forward(*got, stored, values, d_in)
        assert torch.equal(out, plain_decode(*got, rows.to(DEVICE), values, d_in))


def test_fewer_than_k_positive_fill_with_zeros_on_the_lowest_free_latents() -> None:
    rows = torch.arange(6, device=DEVICE)[:, None]
    values = torch.ones(6, 1, device=DEVICE)
    x = torch.tensor([[-1.0, 3.0, -0.0, -2.0, 5.0, -1.0], [-1.0] * 6], device=DEVICE)
    indices, codes = encode.forward(x, rows, values, 4, None, None, False)
    assert indices.tolist() == [[4, 1, 0, 2], [0, 1, 2, 3]]
    assert codes.tolist() == [[5, 3, 0, 0], [0, 0, 0, 0]]


def test_minus_zero_ties_with_zero() -> None:
    rows = torch.arange(3, device=DEVICE)[:, None]
    x = torch.tensor([[-0.0, 0.0, -0.0]], device=DEVICE)
    indices, _ = encode.forward(x, rows, torch.ones(3, 1, device=DEVICE), 3, None, None, True)
    assert indices.tolist() == [[0, 1, 2]]


@pytest.mark.parametrize(
    "tuning",
    [
        encode.Tuning(tile=2, lanes=16, group=4, programs=1, warps=1),
        encode.Tuning(tile=1, lanes=2, group=1, programs=1, warps=1),
        encode.Tuning(tile=8, lanes=1, group=16, programs=2, warps=1),
        encode.Tuning(tile=4, lanes=2, group=8, programs=7, warps=1),
    ],
    ids=str,
)
def test_launch_parameters_do_not_change_the_codes(tuning: encode.Tuning) -> None:
    rows, values = dictionary(29, 12, 3, grid=True)
    x = activations(3, 12, grid=True)
    for k in (4, 29):
        got = encode.forward(x, rows, values, k, None, None, True, tuning)
        expected = plain_encode(plain_pre(x, rows, values, None, None), k, True)
        assert torch.equal(got[0], expected[0])
        assert torch.equal(got[1], expected[1])


def test_selection_in_several_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    """More groups and more candidates than one chunk of the selection kernels, and more tokens than scratch."""
    monkeypatch.setattr(encode, "_SCRATCH_BYTES", 1)
    monkeypatch.setattr(encode, "_CHUNK", 32)
    rows, values = dictionary(250, 40, 2, grid=True)
    x = activations(5, 40, grid=True)
    tuning = encode.Tuning(tile=4, lanes=64, group=4, programs=2, warps=1)
    got = encode.forward(x, rows, values, 14, None, None, False, tuning)
    expected = plain_encode(plain_pre(x, rows, values, None, None), 14, False)
    assert torch.equal(got[0], expected[0])
    assert torch.equal(got[1], expected[1])


def test_non_contiguous_input_and_empty_batch() -> None:
    rows, values = dictionary(40, 10, 3, grid=True)
    x = activations(10, 10, grid=True)
    wide = torch.stack([values, values], 2)[:, :, 0]
    got = encode.forward(x.t(), rows, wide, 4, None, None, True)
    expected = plain_encode(plain_pre(x.t(), rows, values, None, None), 4, True)
    assert torch.equal(got[0], expected[0])
    indices, codes = encode.forward(x[:0], rows, values, 4, None, None, True)
    assert indices.shape == codes.shape == (0, 4)
    assert decode.forward(indices, codes, rows, values, 10).shape == (0, 10)


@pytest.mark.parametrize("shape", ENCODE_SHAPES, ids=str)
@pytest.mark.parametrize(("dtype", "signed"), [(torch.float32, False), (torch.bfloat16, True), (torch.float16, False)])
def test_encode_gradients(shape: tuple[int, ...], dtype: torch.dtype, signed: bool) -> None:
    batch, d_in, n_latents, degree, k = shape
    rows, values = dictionary(n_latents, d_in, degree)
    x = activations(batch, d_in, dtype=dtype)
    center = torch.linspace(-1, 1, d_in, device=DEVICE)
    bias = torch.linspace(-1, 1, n_latents, device=DEVICE)
    leaves = [t.double().requires_grad_() for t in (x, values, bias)]
    pre = plain_pre(leaves[0], rows, leaves[1], leaves[2], center.double())
    indices, codes = plain_encode(pre, k, signed)
    grad = torch.randn(codes.shape, generator=torch.Generator().manual_seed(2)).to(DEVICE)
    expected = torch.autograd.grad(codes, leaves, grad.double())
    grad = grad if signed else torch.where(codes > 0, grad, 0.0)
    got = encode.backward(grad, indices, x, rows, values, center, True, True, True)
    for name, ours, theirs in zip(("x", "values", "bias"), got, expected, strict=True):
        assert ours is not None
        assert ours.dtype == torch.float32
        assert torch.allclose(ours.double(), theirs, atol=1e-4), name


def test_only_the_gradients_asked_for() -> None:
    rows, values = dictionary(20, 8, 2)
    x = activations(3, 8)
    indices, codes = encode.forward(x, rows, values, 4, None, None, True)
    whole = encode.backward(codes, indices, x, rows, values, None, True, True, True)
    for needs in [(True, False, False), (False, True, False), (False, False, True), (False, False, False)]:
        part = encode.backward(codes, indices, x, rows, values, None, *needs)
        for need, ours, theirs in zip(needs, part, whole, strict=True):
            assert (ours is None) is not need
            assert ours is None or torch.equal(ours, theirs)
    assert decode.backward(x, indices, codes, rows, values, False, False) == (None, None)


DECODE_SHAPES = [(4, 30, 50, 7, 8), (1, 7, 3, 7, 3), (9, 33, 40, 1, 1), (3, 100, 30, 40, 5), (66, 12, 9, 2, 4)]


@pytest.mark.parametrize("shape", DECODE_SHAPES, ids=str)
@pytest.mark.parametrize("rows_as", ["uint8", "uint16", "int64"])
def test_decode_and_its_gradients(shape: tuple[int, ...], rows_as: str) -> None:
    batch, d_in, n_latents, degree, k = shape
    rows, values = dictionary(n_latents, d_in, degree, rows_as=rows_as)
    generator = torch.Generator().manual_seed(3)
    indices = torch.rand(batch, n_latents, generator=generator).argsort(1)[:, :k].to(DEVICE)
    codes = torch.randn(batch, k, generator=generator).to(DEVICE)
    leaves = [codes.double().requires_grad_(), values.double().requires_grad_()]
    expected = plain_decode(indices, leaves[0], rows, leaves[1], d_in)
    out = decode.forward(indices, codes, rows, values, d_in)
    assert torch.allclose(out.double(), expected, atol=1e-5)
    grad_out = torch.randn(batch, d_in, generator=generator).to(DEVICE)
    wanted = torch.autograd.grad(expected, leaves, grad_out.double())
    got = decode.backward(grad_out, indices, codes, rows, values, True, True)
    for name, ours, theirs in zip(("codes", "values"), got, wanted, strict=True):
        assert ours is not None
        assert torch.allclose(ours.double(), theirs, atol=1e-4), name
    again = decode.backward(grad_out, indices, codes, rows, values, True, True)
    assert all(torch.equal(a, b) for a, b in zip(got, again, strict=True) if a is not None and b is not None)


def test_one_latent_in_every_token() -> None:
    """The longest run a segment sum can meet, longer than one step of its kernel."""
    rows, values = dictionary(3, 4, 2, grid=True)
    indices = torch.ones(300, 1, dtype=torch.int64, device=DEVICE)
    codes = torch.arange(300.0, device=DEVICE).remainder(5)[:, None]
    grad_out = activations(300, 4, grid=True)
    _, grad_values = decode.backward(grad_out, indices, codes, rows, values, False, True)
    assert grad_values is not None
    assert torch.equal(grad_values[1], (codes * grad_out[:, rows[1].long()]).sum(0))
    assert not grad_values[[0, 2]].any()


def test_supports_says_why_not(monkeypatch: pytest.MonkeyPatch) -> None:
    rows, values = dictionary(20, 8, 2)
    x = activations(3, 8)
    assert encode.supports(x, rows, values, 4) is None
    assert decode.supports(x, rows, values, 8) is None
    reasons = {
        "dense": (encode.supports(x, None, values), decode.supports(x, None, values, 8)),
        "float": (encode.supports(x.double(), rows, values), decode.supports(x.double(), rows, values, 8)),
    }
    for word, pair in reasons.items():
        assert all(reason and re.search(word, reason) for reason in pair), word
    assert "1024" in str(encode.supports(x, rows, values, 2000))
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    assert "CUDA" in str(encode.supports(x.cpu(), rows, values))
    assert "CUDA" in str(decode.supports(x.cpu(), rows, values, 8))
