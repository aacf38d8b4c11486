"""Iterative methods on easy instances, non-negative least squares, and warm starts."""

from itertools import pairwise

import definitions
import numpy as np
import pytest
import torch
from by_method import pursue
from instances import dense, full, matrix, planted, sparse, tokens
from scipy.optimize import nnls as scipy_nnls

from expander_sae.ops import Codes, encode_topk
from expander_sae.pursuit.nonnegative import nnls


@pytest.mark.parametrize("is_dense", [True, False])
@pytest.mark.parametrize(
    ("method", "options"), [("cosamp", {}), ("niht", {"steps": 400}), ("gradient", {"steps": 100}), ("omp", {})]
)
def test_easy_instances_are_recovered(method, options, is_dense):
    dictionary = dense(256, 128) if is_dense else sparse(256, 128, 8)
    x, h = planted(dictionary, 24, 6)
    np.testing.assert_allclose(full(pursue(x, dictionary, 6, method, **options), 256), h, atol=2e-3)


@pytest.mark.parametrize("method", ["cosamp", "niht"])
def test_positive_codes_are_recovered_one_sided(method):
    dictionary = sparse(256, 128, 8)
    x, h = planted(dictionary, 24, 5, positive=True)
    codes = pursue(x, dictionary, 5, method, signed=False, **({"steps": 400} if method == "niht" else {}))
    np.testing.assert_allclose(full(codes, 256), h, atol=2e-3)


def test_niht_never_raises_the_residual():
    dictionary, x = sparse(200, 40, 6), tokens(16, 40)
    w = matrix(dictionary)
    lengths = [
        np.linalg.norm(x.numpy() - full(pursue(x, dictionary, 8, "niht", steps=steps), 200) @ w.T, axis=1)
        for steps in (1, 2, 4, 8, 16)
    ]
    for earlier, later in pairwise(lengths):
        assert (later <= earlier + 1e-12).all()


@pytest.mark.parametrize("t", [1, 3, 9, 20])
def test_nnls_equals_scipy(t):
    w = tokens(30 * 24, t, t).reshape(30, 24, t)
    if t > 4:  # correlated columns make long active-set paths
        w = w + 2 * w[:, :, :1]
    x = tokens(30, 24)
    gram, projections = w.transpose(1, 2) @ w, (w.transpose(1, 2) @ x[..., None])[..., 0]
    got = nnls(gram, projections, torch.ones(30, t, dtype=torch.bool))
    want = [scipy_nnls(a, y)[0] for a, y in zip(w.numpy(), x.numpy(), strict=True)]
    np.testing.assert_allclose(got.numpy(), want, atol=1e-8)


def test_warm_start_of_omp_and_refit():
    dictionary, x = sparse(120, 30, 5), tokens(10, 30)
    w = matrix(dictionary)
    encoder = encode_topk(x, dictionary.rows, dictionary.decoder, 4, backend="reference")
    warm = full(pursue(x, dictionary, 9, warm_start=encoder), 120)
    refitted = full(pursue(x, dictionary, 9, "refit", warm_start=encoder), 120)
    for token, y in enumerate(x.numpy()):
        start = encoder.indices[token].tolist()
        np.testing.assert_allclose(warm[token], definitions.omp(w, y, 9, start=start), atol=1e-9)
        np.testing.assert_allclose(refitted[token], definitions.fit(w, y, start), atol=1e-9)


def test_unused_slots_of_a_warm_start_are_no_atoms():
    dictionary, x = sparse(60, 30, 5), tokens(4, 30)
    start = Codes(torch.tensor([[7, 3, 0]] * 4), torch.tensor([[1.0, 0.0, 0.0]] * 4))
    codes = pursue(x, dictionary, 3, "refit", warm_start=start)
    assert ((codes.values != 0).sum(1) == 1).all()
    assert (codes.indices[:, 0] == 7).all()
