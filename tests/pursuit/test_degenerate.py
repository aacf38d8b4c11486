"""Defined behaviour where the problem is not: zeros, duplicates, too little rank, NaN, chunks, options."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from by_method import METHODS, pursue
from instances import check_form, dense, full, matrix, sparse, tokens

from expander_sae import pursuit
from expander_sae.ops import Codes
from expander_sae.pursuit import (
    NIHT,
    OMP,
    CoSaMP,
    Dictionary,
    GradientPursuit,
    MatchingPursuit,
    NonNegativeOMP,
    Refit,
    Stages,
    WarmOMP,
)
from expander_sae.pursuit.columns import correlate, repeated_columns, support_gram
from expander_sae.records import ExpanderSaeError
from expander_sae.saes import ExpanderSae

BOTH = pytest.mark.parametrize("is_dense", [True, False])
EVERY = pytest.mark.parametrize("method", METHODS)


def doubled(dictionary: Dictionary) -> Dictionary:
    """Every column twice, the second time negated for odd latents."""
    signs = 1.0 - 2.0 * (torch.arange(dictionary.n_latents) % 2)[:, None].to(dictionary.decoder.dtype)
    values = torch.cat([dictionary.decoder, dictionary.decoder * signs])
    rows = None if dictionary.rows is None else torch.cat([dictionary.rows, dictionary.rows])
    return Dictionary(rows, values, dictionary.d_in)


@EVERY
@BOTH
@pytest.mark.parametrize("signed", [True, False])
def test_zero_tokens_give_zero_codes(method, is_dense, signed):
    dictionary = dense(30, 12) if is_dense else sparse(30, 12, 4)
    x = tokens(3, 12)
    x[1] = 0
    codes = pursue(x, dictionary, 4, method, signed=signed)
    assert (codes.values[1] == 0).all()
    assert codes.indices[1].tolist() == [0, 1, 2, 3]
    assert (codes.values[0] != 0).any()
    assert torch.isfinite(codes.values).all()


@EVERY
@BOTH
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_duplicates_never_share_a_support(method, is_dense, dtype):
    single = dense(20, 10, dtype=dtype) if is_dense else sparse(20, 10, 4, dtype=dtype)
    dictionary, x = doubled(single), tokens(20, 10, dtype=dtype)
    for block in (1, 4) if method == "omp" else (1,):
        codes = pursue(x, dictionary, 8, method, block=block, backend="reference")
        used = np.array(full(codes, 40) != 0)
        assert not (used[:, :20] & used[:, 20:]).any()
        check_form(codes, 40)


@EVERY
@BOTH
@pytest.mark.parametrize("k", [12, 25])
def test_k_beyond_the_rank(method, is_dense, k):
    """Eight dimensions: at most eight columns where coefficients are solved for, finite codes everywhere."""
    dictionary, x = (dense(25, 8) if is_dense else sparse(25, 8, 3)), tokens(10, 8)
    codes = pursue(x, dictionary, k, method)
    assert torch.isfinite(codes.values).all()
    check_form(codes, 25)
    if method in ("omp", "refit", "nnomp", "cosamp"):
        assert ((codes.values != 0).sum(1) <= 8).all()
    if method in ("omp", "refit"):
        np.testing.assert_allclose(full(codes, 25) @ matrix(dictionary).T, x.numpy(), atol=1e-6)


@EVERY
def test_exactly_representable_tokens_stop_early(method):
    dictionary = sparse(60, 40, 5)
    x = 3 * torch.from_numpy(matrix(dictionary).T)[[4, 50]]
    codes = pursue(x, dictionary, 5, method)
    np.testing.assert_allclose(
        full(codes, 60) @ matrix(dictionary).T, x.numpy(), atol=5e-3 if method == "niht" else 1e-5
    )
    if method in ("omp", "mp", "nnomp", "gradient"):
        assert (codes.values != 0).sum(1).tolist() == [1, 1]


@EVERY
@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_nan_is_an_error(method, bad):
    dictionary, x = sparse(30, 12, 4), tokens(3, 12)
    x[2, 5] = bad
    with pytest.raises(ExpanderSaeError, match="NaN or infinity"):
        pursue(x, dictionary, 4, method, backend="reference")
    with pytest.raises(ExpanderSaeError, match="NaN or infinity"):
        pursue(tokens(3, 12), Dictionary(dictionary.rows, dictionary.decoder * bad, 12), 4, method)


@EVERY
def test_chunks_and_order_of_tokens_change_nothing(method, monkeypatch):
    dictionary, x = sparse(50, 20, 4), tokens(11, 20)
    want = pursue(x, dictionary, 5, method)
    monkeypatch.setattr(pursuit.pursuit, "_CHUNK", 4 * 50 * 15)
    got = pursue(x.flip(0), dictionary, 5, method)
    assert torch.equal(got.indices.flip(0), want.indices)
    torch.testing.assert_close(got.values.flip(0), want.values)


@EVERY
def test_no_tokens(method):
    codes = pursue(torch.zeros(0, 12), sparse(30, 12, 4, dtype=torch.float32), 4, method, backend="reference")
    assert codes.indices.shape == codes.values.shape == (0, 4)


def test_center_and_low_precision():
    dictionary, x = sparse(60, 16, 4, dtype=torch.float32), tokens(6, 16, dtype=torch.float32)
    center = tokens(1, 16, 5, torch.float32)[0]
    want = pursue(x - center, dictionary, 4, backend="reference")
    got = pursue(x, dictionary, 4, center=center, backend="reference")
    assert torch.equal(got.indices, want.indices)
    half = pursue(x.bfloat16(), dictionary, 4, backend="reference")
    assert half.values.dtype == torch.float32
    assert torch.equal(half.indices, pursue(x.bfloat16().float(), dictionary, 4, backend="reference").indices)


def test_equal_scores_go_to_the_lower_latent():
    x = torch.tensor([[1.0, 1.0, 1.0, 0.0]])
    for method in ("omp", "mp", "nnomp", "gradient", "cosamp", "niht", "refit"):
        assert pursue(x, torch.eye(4), 2, method, backend="reference").indices.tolist() == [[0, 1]], method
    assert pursue(x, torch.eye(4), 2, block=2, backend="reference").indices.tolist() == [[0, 1]]


def test_a_sparse_dictionary_and_its_matrix_give_the_same_codes():
    dictionary, x = sparse(100, 32, 4), tokens(4, 32)
    same = [pursue(x, it, 5, backend="reference") for it in (dictionary, dictionary.dense())]
    assert torch.equal(same[0].indices, same[1].indices)
    torch.testing.assert_close(same[0].values, same[1].values)


@BOTH
def test_helpers(is_dense):
    dictionary, x = (dense(30, 12) if is_dense else sparse(30, 12, 4)), tokens(5, 12)
    w = matrix(dictionary)
    np.testing.assert_allclose(correlate(x, dictionary).numpy(), x.numpy() @ w, atol=1e-12)
    indices = torch.tensor([[3, 7, 29], [0, 1, 2]])
    gram = support_gram(dictionary, indices, torch.float64).numpy()
    for got, support in zip(gram, indices.numpy(), strict=True):
        np.testing.assert_allclose(got, w[:, support].T @ w[:, support], atol=1e-12)
    assert not repeated_columns(replace(dictionary, signed=True)).any()
    twice = doubled(dictionary)
    assert repeated_columns(replace(twice, signed=True)).tolist() == [False] * 30 + [True] * 30
    assert repeated_columns(twice).tolist() == [False] * 30 + [True, False] * 15


def test_rows_are_looked_at_once(monkeypatch):
    looked = []
    monkeypatch.setattr("expander_sae.ops.dictionary.check_rows", lambda *_: looked.append(1))
    w = Dictionary(torch.tensor([[0, 1], [1, 2]]), torch.ones(2, 2), 4)
    OMP().codes(w.part(torch.tensor([1])), torch.ones(1, 4), 1)
    assert w.detached().rows_checked
    assert ExpanderSae(d_in=16, n_latents=32, degree=2, k=2)(torch.ones(1, 16)).shape == (1, 16)  # those of a mask
    assert len(looked) == 1


STEPS = MatchingPursuit, GradientPursuit, CoSaMP, NIHT


@pytest.mark.parametrize(
    ("make", "message"),
    [
        *((lambda kind=kind: kind(tolerance=1.0), "tolerance") for kind in (OMP, NonNegativeOMP, *STEPS)),
        (lambda: OMP(tolerance=float("nan")), "tolerance"),
        *((lambda kind=kind: kind(steps=0), "steps as a whole number in 1") for kind in STEPS),
        (lambda: Stages(0), "stages as a whole number"),
        (lambda: Stages(2, -1), "spare as a whole number"),
        (lambda: WarmOMP(0), "latents of the encoder"),
        (lambda: Dictionary.of_matrix(torch.zeros(3)), "expected a dense dictionary"),
        (lambda: Dictionary.of_matrix("sae"), "expected a dense dictionary"),
        (lambda: Dictionary(None, torch.zeros(3, 4), 5), "d_in=5"),
        (lambda: Dictionary(None, torch.zeros(3, 4), 4, center=torch.zeros(3)), "center"),
        (lambda: Dictionary(None, torch.zeros(3, 4), 4, bias=torch.zeros(4)), "bias"),
        (lambda: Dictionary(None, torch.zeros(3, 4), 4, torch.zeros(3, 3)), "encoder"),
        (lambda: Dictionary(torch.tensor([[0, 1], [2, 4]]), torch.ones(2, 2), 4), "not below d_in = 4"),
        (lambda: Dictionary(torch.tensor([[0, 1], [2, -1]]), torch.ones(2, 2), 4), "negative"),
        (
            lambda: Dictionary(torch.tensor([[0, 1], [3, 3]]).to(torch.uint16), torch.ones(2, 2), 4),
            "row 3 twice in col",
        ),
    ],
)
def test_impossible_readings_and_dictionaries_are_refused_where_they_are_made(make, message):
    with pytest.raises(ExpanderSaeError, match=message):
        make()


@pytest.mark.parametrize(
    ("reading", "options", "message"),
    [
        (OMP(), {"k": 0}, r"k in 1\.\.n_latents"),
        (OMP(), {"k": 31}, r"k in 1\.\.n_latents"),
        (Stages(5), {}, "stages as a whole number in 1..4"),
        (Stages(2, 27), {}, r"spare in 0\.\.n_latents - k = 26"),
        (WarmOMP(5), {}, "latents of the encoder as a whole number in 1..4"),
        (OMP(), {"backend": "cuda"}, "expected backend as one of"),
        (OMP(), {"x": torch.zeros(3, 13)}, "expected x"),
    ],
)
def test_errors_say_what_is_wrong(reading, options, message):
    arguments = {"x": tokens(3, 12, dtype=torch.float32), "dictionary": sparse(30, 12, 4), "k": 4, **options}
    with pytest.raises(ExpanderSaeError, match=message):
        reading.codes(**arguments)


@pytest.mark.parametrize("way", [OMP().codes_from, Refit().codes_on])
@pytest.mark.parametrize(
    ("start", "message"),
    [
        (Codes(torch.zeros(3, 5, dtype=torch.int64), torch.zeros(3, 5)), "at most k"),
        (Codes(torch.full((3, 2), 30), torch.zeros(3, 2)), "not below n_latents"),
    ],
)
def test_a_start_that_does_not_fit_is_refused(way, start, message):
    with pytest.raises(ExpanderSaeError, match=message):
        way(start, sparse(30, 12, 4), tokens(3, 12, dtype=torch.float32), 4)
