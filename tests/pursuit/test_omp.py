"""OMP against scikit-learn, its invariants, and exact recovery where the theory promises it."""

import numpy as np
import pytest
import torch
from by_method import pursue
from hypothesis import given, settings
from hypothesis import strategies as st
from instances import babel, check_form, complete_graph, dense, full, matrix, planted, sparse, tokens
from sklearn.linear_model import orthogonal_mp

from expander_sae.ops.backends import native_core
from expander_sae.pursuit import Dictionary
from expander_sae.pursuit import columns as pursuit_columns
from expander_sae.pursuit.columns import with_gram


@settings(max_examples=30, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    d_in=st.integers(4, 48),
    extra=st.integers(0, 120),
    is_dense=st.booleans(),
    single=st.booleans(),
    data=st.data(),
)
def test_equals_scikit_learn(seed, d_in, extra, is_dense, single, data):
    n_latents = d_in + extra
    degree = data.draw(st.integers(3, max(3, min(12, d_in))))
    k = data.draw(st.integers(1, max(1, d_in // 3)))
    dtype = torch.float32 if single else torch.float64
    dictionary = dense(n_latents, d_in, seed, dtype) if is_dense else sparse(n_latents, d_in, degree, seed, dtype)
    x = tokens(4, d_in, seed, dtype)
    codes = pursue(x, dictionary, k, backend="reference")
    want = orthogonal_mp(matrix(dictionary), x.double().numpy().T, n_nonzero_coefs=k).reshape(n_latents, -1).T
    got = full(codes, n_latents)
    assert np.array_equal(got != 0, want != 0)
    np.testing.assert_allclose(got, want, atol=1e-5 if not single else 2e-5)
    check_form(codes, n_latents)


@pytest.mark.parametrize("tolerance", [0.3, 0.6])
def test_tolerance_stops_each_token_where_scikit_learn_stops(tolerance):
    dictionary, x = sparse(200, 40, 6), tokens(12, 40)
    codes = pursue(x, dictionary, 30, tolerance=tolerance)
    for got, y in zip(full(codes, 200), x.numpy(), strict=True):
        want = orthogonal_mp(matrix(dictionary), y, tol=(tolerance * np.linalg.norm(y)) ** 2)
        np.testing.assert_allclose(got, want, atol=1e-8)
    assert len(set((codes.values != 0).sum(1).tolist())) > 1


@pytest.mark.parametrize("block", [1, 4, 10])
@pytest.mark.parametrize("signed", [True, False])
def test_residual_is_orthogonal_to_the_support(block, signed):
    dictionary, x = sparse(300, 50, 7), tokens(20, 50)
    codes = pursue(x, dictionary, 20, block=block, signed=signed)
    w, h = matrix(dictionary), full(codes, 300)
    inner = (x.numpy() - h @ w.T) @ w
    assert np.abs(inner[h != 0]).max() < 1e-9
    check_form(codes, 300, signed=signed)


@pytest.mark.parametrize("degree", [5, 8, 11])
@pytest.mark.parametrize("method", ["omp", "nnomp", "cosamp"])
def test_exact_recovery_on_the_complete_graph(degree, method):
    """Flat values, every overlap 1: mu_1(p) = p / d, so k < (1 + d) / 2 is exactly what Tropp's condition allows."""
    dictionary = complete_graph(degree)
    k = (degree + 1) // 2 - 1 if degree % 2 else degree // 2
    w = matrix(dictionary)
    assert babel(w, k) == pytest.approx(k / degree)
    assert babel(w, k - 1) + babel(w, k) < 1 <= babel(w, k) + babel(w, k + 1) + 1e-12
    x, h = planted(dictionary, 40, k, positive=method == "nnomp")
    if method == "cosamp":
        k = max(1, k // 2)
        x, h = planted(dictionary, 40, k)
    np.testing.assert_allclose(full(pursue(x, dictionary, k, method), degree + 1), h, atol=1e-8)


def test_two_codes_coincide_just_past_the_bound():
    """K_4, d = 3, k = 2: with signs that cancel around the square, {0, 1} and {2, 3} code one x."""
    dictionary = complete_graph(3)
    # Edges 01 02 03 12 13 23. Signs such that w_0 + w_1 = w_2 + w_3: edges inside a pair cancel, the others agree.
    signs = torch.tensor([[1.0, 1, 1], [-1, 1, 1], [1, 1, 1], [1, 1, -1]], dtype=torch.float64)
    dictionary = Dictionary(dictionary.rows, dictionary.decoder * signs, 6)
    w = matrix(dictionary)
    assert babel(w, 1) + babel(w, 2) == pytest.approx(1.0)
    np.testing.assert_allclose(w[:, 0] + w[:, 1], w[:, 2] + w[:, 3], atol=1e-12)


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10_000), positive=st.booleans(), data=st.data())
def test_exact_recovery_where_the_babel_function_promises_it(seed, positive, data):
    d_in = data.draw(st.sampled_from([60, 120, 240]))
    dictionary = sparse(data.draw(st.integers(10, 40)), d_in, data.draw(st.integers(5, 9)), seed)
    w = matrix(dictionary)
    k = max((k for k in range(1, 8) if babel(w, k - 1) + babel(w, k) < 1), default=0)
    if k == 0:
        return
    x, h = planted(dictionary, 8, k, seed, positive=positive)
    for options in [{"signed": True}, {"signed": False}, {"method": "nnomp"}] if positive else [{"signed": True}]:
        np.testing.assert_allclose(full(pursue(x, dictionary, k, **options), w.shape[1]), h, atol=1e-8)
    # Matching pursuit stays inside the support there, and converges on it.
    found = full(pursue(x, dictionary, k, "mp", steps=200), w.shape[1])
    np.testing.assert_allclose(found, h, atol=1e-3)


def test_noise_below_the_bound_leaves_the_support():
    """x_min (1 - mu_1(k-1) - mu_1(k)) > 2 eta, stopped at eta: Theorem 3.5's conclusions, both of them."""
    dictionary = sparse(30, 240, 7, seed=3)
    w = matrix(dictionary)
    k = max(k for k in range(1, 8) if babel(w, k - 1) + babel(w, k) < 1)
    x, h = planted(dictionary, 20, k)
    eta = 0.45 * (1 - babel(w, k - 1) - babel(w, k))
    noise = tokens(20, 240, 7)
    noisy = x + eta * noise / noise.norm(dim=1, keepdim=True)
    for y, want in zip(noisy, h, strict=True):
        codes = pursue(y[None], dictionary, 30, tolerance=float(eta / y.norm()) * (1 + 1e-9))
        got = full(codes, 30)[0]
        assert np.array_equal(got != 0, want != 0)
        assert np.linalg.norm(got - want) <= eta / np.sqrt(1 - babel(w, k - 1)) + 1e-9


def test_blocks_and_warm_starts_fit_less_well_but_close():
    dictionary, x = sparse(400, 64, 7), tokens(50, 64)
    w = matrix(dictionary)

    def fvu(codes):
        return float(((x.numpy() - full(codes, 400) @ w.T) ** 2).sum() / (x.numpy() ** 2).sum())

    found = [fvu(pursue(x, dictionary, 16, block=block)) for block in (1, 2, 4, 16)]
    assert found == sorted(found)
    warm = pursue(x, dictionary, 8, block=8)
    started = fvu(pursue(x, dictionary, 16, warm_start=warm))
    assert found[0] < started < found[-1]


@pytest.mark.skipif(native_core() is None, reason="the C++ core is not built")
@pytest.mark.parametrize("signed", [True, False])
@pytest.mark.parametrize(("method", "block"), [("omp", 1), ("omp", 4), ("refit", 1)])
def test_the_native_core_gives_the_same_codes(method, block, signed):
    dictionary, x = sparse(500, 64, 6, dtype=torch.float32), tokens(40, 64, dtype=torch.float32)
    center = tokens(1, 64, 5, torch.float32)[0]
    native, plain = (
        pursue(x, dictionary, 12, method, block=block, signed=signed, center=center, backend=backend)
        for backend in ("native", "reference")
    )
    assert torch.equal(native.indices, plain.indices)
    torch.testing.assert_close(native.values, plain.values, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("signed", [True, False])
@pytest.mark.parametrize(
    ("method", "options"),
    [("omp", {}), ("omp", {"block": 3, "spare": 3}), ("refit", {}), ("nnomp", {}), ("cosamp", {})],
    ids=str,
)
def test_a_dense_dictionary_with_and_without_its_gram_matrix(monkeypatch, method, options, signed):
    dictionary, x = dense(60, 20), tokens(30, 20)
    twice = Dictionary.of_matrix(
        torch.cat([dictionary.decoder, dictionary.decoder[:5]])
    )  # some columns depend on others
    assert with_gram(twice, 30, 6).gram_matrix is not None
    with_it = pursue(x, twice, 6, method, signed=signed, **options)
    monkeypatch.setattr(pursuit_columns, "MAX_GRAM", 0)
    assert with_gram(twice, 30, 6).gram_matrix is None
    gathered = pursue(x, twice, 6, method, signed=signed, **options)
    assert torch.equal(with_it.indices, gathered.indices)
    torch.testing.assert_close(with_it.values, gathered.values, atol=1e-9, rtol=1e-9)


def test_the_gram_matrix_is_made_only_where_it_costs_less():
    assert with_gram(sparse(60, 20, 5), 10**6, 8).gram_matrix is None
    assert with_gram(dense(600, 20), 1, 8).gram_matrix is None
    made = with_gram(dense(600, 20), 1000, 8)
    torch.testing.assert_close(made.gram_matrix, made.decoder @ made.decoder.T)
