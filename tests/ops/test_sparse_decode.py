import pytest
import torch
from dictionaries import SHAPES, gaussian, grid, needs_native, random_rows
from hypothesis import given, settings
from hypothesis import strategies as st

from expander_sae.ops import Codes, sparse_decode
from expander_sae.records import ExpanderSaeError

pytestmark = needs_native


def random_codes(batch: int, k: int, n_latents: int, seed: int) -> Codes:
    generator = torch.Generator().manual_seed(seed)
    indices = torch.stack([torch.randperm(n_latents, generator=generator)[:k] for _ in range(batch)])
    return Codes(indices, torch.randint(-2, 3, (batch, k), generator=generator).float())


@pytest.mark.parametrize("dense", [False, True])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_values_and_gradients_against_the_reference(shape, dense):
    batch, d_in, n_latents, degree, k = shape
    rows = None if dense else random_rows(n_latents, degree, d_in)
    outs, grads = {}, {}
    for backend in ("reference", "native"):
        codes = random_codes(batch, k, n_latents, seed=1)
        code_values = codes.values.requires_grad_()
        values = grid(n_latents, d_in if dense else degree, seed=2).requires_grad_()
        out = sparse_decode(Codes(codes.indices, code_values), rows, values, d_in, backend=backend)
        (out * grid(batch, d_in, seed=3)).sum().backward()
        outs[backend], grads[backend] = out.detach(), (code_values.grad, values.grad)
    assert torch.equal(outs["native"], outs["reference"])
    for name, got, want in zip(("codes", "values"), grads["native"], grads["reference"], strict=True):
        assert torch.equal(got, want), name


def test_float64_gradcheck_of_the_definition():
    rows, codes = random_rows(12, 3, 9), random_codes(4, 5, 12, seed=1)
    code_values, values = codes.values.double().requires_grad_(), gaussian(12, 3, seed=2).double().requires_grad_()
    assert torch.autograd.gradcheck(
        lambda c, v: sparse_decode(Codes(codes.indices, c), rows, v, 9), (code_values, values)
    )


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 9), st.integers(1, 30), st.integers(1, 40), st.data())
def test_decode_is_linear_in_the_codes(batch, d_in, n_latents, data):
    degree, k = data.draw(st.integers(1, d_in)), data.draw(st.integers(1, n_latents))
    rows, values = random_rows(n_latents, degree, d_in), grid(n_latents, degree, seed=2)
    first = random_codes(batch, k, n_latents, seed=data.draw(st.integers(0, 99)))
    other = Codes(first.indices, random_codes(batch, k, n_latents, seed=4).values)
    total = sparse_decode(Codes(first.indices, first.values + 2 * other.values), rows, values, d_in)
    parts = sparse_decode(first, rows, values, d_in) + 2 * sparse_decode(other, rows, values, d_in)
    assert torch.equal(total, parts)


def test_every_output_is_written(monkeypatch):
    """The output buffer is poisoned before the call."""
    empty = torch.empty

    def poisoned(*shape, **options):
        out = empty(*shape, **options)
        return out.fill_(float("nan")) if out.is_floating_point() else out

    monkeypatch.setattr(torch, "empty", poisoned)
    codes = Codes(torch.zeros(3, 2, dtype=torch.int64), torch.zeros(3, 2))
    assert torch.equal(sparse_decode(codes, random_rows(5, 2, 11), torch.ones(5, 2), 11), torch.zeros(3, 11))


@pytest.mark.parametrize("backend", ["native", "reference"])
@pytest.mark.parametrize("index", [-1, 5])
def test_an_index_outside_the_dictionary_is_refused(index, backend):
    codes = Codes(torch.full((1, 1), index), torch.ones(1, 1))
    with pytest.raises(ExpanderSaeError, match="not below n_latents"):
        sparse_decode(codes, random_rows(5, 2, 8), torch.ones(5, 2), 8, backend=backend)


def test_shapes_are_checked():
    codes = Codes(torch.zeros(2, 3, dtype=torch.int64), torch.zeros(2, 4))
    with pytest.raises(ExpanderSaeError, match=r"codes.values as \[batch, k\] = \[2, 3\]"):
        sparse_decode(codes, random_rows(5, 2, 8), torch.ones(5, 2), 8)
