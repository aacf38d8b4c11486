"""Every variant, token by token, against its definition."""

import definitions
import numpy as np
import pytest
from by_method import pursue
from hypothesis import given, settings
from hypothesis import strategies as st
from instances import check_form, dense, full, matrix, sparse, tokens

from expander_sae.ops import block_omp
from expander_sae.pursuit import Dictionary

SHAPES = [(14, 9, 3, 4), (40, 16, 4, 6), (60, 20, 5, 8)]  # n_latents, d_in, degree, k
TOKENS = 6


def both(n_latents, d_in, degree, seed=0) -> list[Dictionary]:
    return [sparse(n_latents, d_in, degree, seed), dense(n_latents, d_in, seed)]


def agree(codes, want, dictionary, signed=True):
    check_form(codes, dictionary.n_latents, signed=signed)
    np.testing.assert_allclose(full(codes, dictionary.n_latents), want, atol=1e-8)


@pytest.mark.parametrize("signed", [True, False])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("block", [1, 2, 3, "k"])
def test_block_omp(shape, block, signed):
    n_latents, d_in, degree, k = shape
    block = k if block == "k" else block
    for dictionary in both(n_latents, d_in, degree):
        x, w = tokens(TOKENS, d_in), matrix(dictionary)
        codes = pursue(x, dictionary, k, block=block, signed=signed)
        agree(codes, [definitions.omp(w, y, k, block, signed) for y in x.numpy()], dictionary, signed)
        kernel = block_omp(x, dictionary.rows, dictionary.decoder, k, block=block, signed=signed, backend="reference")
        assert np.array_equal(codes.indices.numpy(), kernel.indices.numpy())
        np.testing.assert_allclose(codes.values.numpy(), kernel.values.numpy(), atol=1e-8)
        if block == k:
            shot = pursue(x, dictionary, k, "refit", signed=signed)
            assert np.array_equal(shot.indices.numpy(), codes.indices.numpy())


@pytest.mark.parametrize("signed", [True, False])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize(("block", "spare"), [(1, 2), (2, 1), (3, 4)])
def test_forward_backward(shape, block, spare, signed):
    n_latents, d_in, degree, k = shape
    for dictionary in both(n_latents, d_in, degree):
        x, w = tokens(TOKENS, d_in), matrix(dictionary)
        codes = pursue(x, dictionary, k, block=block, spare=spare, signed=signed)
        want = [definitions.forward_backward(w, y, k, block, spare, signed) for y in x.numpy()]
        agree(codes, want, dictionary, signed)


@pytest.mark.parametrize("signed", [True, False])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize(("method", "steps"), [("mp", None), ("mp", 40), ("gradient", None), ("gradient", 25)])
def test_matching_and_gradient_pursuit(shape, method, steps, signed):
    n_latents, d_in, degree, k = shape
    define = {"mp": definitions.matching_pursuit, "gradient": definitions.gradient_pursuit}[method]
    for dictionary in both(n_latents, d_in, degree):
        x, w = tokens(TOKENS, d_in), matrix(dictionary)
        codes = pursue(x, dictionary, k, method, signed=signed, steps=steps)
        agree(codes, [define(w, y, k, steps or k, signed) for y in x.numpy()], dictionary, signed)


@pytest.mark.parametrize("signed", [True, False])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("method", ["cosamp", "niht"])
def test_iterative_methods(shape, method, signed):
    n_latents, d_in, degree, k = shape
    k = min(k, d_in // 4)  # CoSaMP's 3k columns shall be independent here
    define = {"cosamp": definitions.cosamp, "niht": definitions.niht}[method]
    for dictionary in both(n_latents, d_in, degree):
        x, w = tokens(TOKENS, d_in), matrix(dictionary)
        codes = pursue(x, dictionary, k, method, signed=signed)
        agree(codes, [define(w, y, k, signed) for y in x.numpy()], dictionary, signed)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_nonnegative_omp(shape):
    n_latents, d_in, degree, k = shape
    for dictionary in both(n_latents, d_in, degree):
        x, w = tokens(3 * TOKENS, d_in), matrix(dictionary)
        codes = pursue(x, dictionary, k, "nnomp")
        assert (codes.values >= 0).all()
        agree(codes, [definitions.nonnegative_omp(w, y, k) for y in x.numpy()], dictionary, signed=False)


@settings(max_examples=25, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    d_in=st.integers(3, 24),
    extra=st.integers(0, 30),
    method=st.sampled_from(["omp", "mp", "nnomp", "gradient", "niht"]),
    signed=st.booleans(),
    data=st.data(),
)
def test_drawn_shapes(seed, d_in, extra, method, signed, data):
    n_latents = d_in + extra
    degree = data.draw(st.integers(2, d_in))
    k = data.draw(st.integers(1, max(1, d_in // 3)))
    dictionary, x = sparse(n_latents, d_in, degree, seed), tokens(3, d_in, seed)
    w = matrix(dictionary)
    define = {
        "omp": lambda y: definitions.omp(w, y, k, 1, signed),
        "mp": lambda y: definitions.matching_pursuit(w, y, k, k, signed),
        "gradient": lambda y: definitions.gradient_pursuit(w, y, k, k, signed),
        "nnomp": lambda y: definitions.nonnegative_omp(w, y, k),
        "niht": lambda y: definitions.niht(w, y, k, signed),
    }[method]
    codes = pursue(x, dictionary, k, method, signed=signed)
    want = np.array([define(y) for y in x.numpy()])
    got = full(codes, n_latents)
    w_norm = np.linalg.norm(x.numpy(), axis=1)
    if method == "niht":  # fifty thresholdings amplify a rounding at a border: compare the fit
        fits = [np.linalg.norm(x.numpy() - h @ w.T, axis=1) / w_norm for h in (got, want)]
        np.testing.assert_allclose(fits[0], fits[1], atol=0.05)
    else:
        np.testing.assert_allclose(got, want, atol=1e-7)
