"""Every reconstruction metric against a direct float64 formula, and the laws of adding accumulators."""

import itertools
import math
import random

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from expander_sae.evaluation import ReconstructionAccumulator
from expander_sae.ops import Codes
from expander_sae.records import ExpanderSaeError

N_LATENTS, K = 12, 3


def make_batch(tokens, d_in, seed, offset=0.0, dtype=torch.float32):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(tokens, d_in, generator=generator) + offset
    x_hat = x + 0.3 * torch.randn(tokens, d_in, generator=generator)
    indices = torch.stack([torch.randperm(N_LATENTS - 2, generator=generator)[:K] for _ in range(tokens)])
    values = torch.relu(torch.randn(tokens, K, generator=generator))
    return x.to(dtype), x_hat.to(dtype), Codes(indices, values)


def direct(x, x_hat, codes):
    """The formulas of docs/reference/metrics.md, token by token, in Python floats."""
    x, x_hat = x.double(), x_hat.double()
    error = x - x_hat
    fvu = float(error.square().sum() / (x - x.mean(0)).square().sum())
    ratios, cosines, counts = [], [], [0] * N_LATENTS
    for one, one_hat, indices, values in zip(x, x_hat, *codes, strict=True):
        if float(one.norm()) > 0:
            ratios.append(float((one - one_hat).norm() / one.norm()))
            both = float(one.norm() * one_hat.norm())
            cosines.append(float(one @ one_hat) / both if both else 0.0)
        for index, value in zip(indices.tolist(), values.tolist(), strict=True):
            counts[index] += value != 0
    return {
        "tokens": len(x),
        "fvu": fvu,
        "explained_variance": 1 - fvu,
        "rel_err": sum(ratios) / len(ratios),
        "cosine": sum(cosines) / len(cosines),
        "l0": sum(counts) / len(x),
        "dead_fraction": sum(count == 0 for count in counts) / N_LATENTS,
    }, counts


def accumulate(pieces, d_in):
    accumulator = ReconstructionAccumulator(d_in, N_LATENTS)
    for piece in pieces:
        accumulator.update(*piece)
    return accumulator


def split(batch, sizes):
    x, x_hat, codes = batch
    edges = [0]
    for size in sizes:
        edges.append(edges[-1] + size)
    return [(x[a:b], x_hat[a:b], Codes(codes.indices[a:b], codes.values[a:b])) for a, b in itertools.pairwise(edges)]


def assert_same(metrics, expected, counts, rel=1e-9):
    for name, value in expected.items():
        assert getattr(metrics, name) == pytest.approx(value, rel=rel, abs=1e-12), name
    assert metrics.firing_counts.tolist() == counts


@settings(max_examples=40, deadline=None)
@given(
    sizes=st.lists(st.integers(0, 9), min_size=1, max_size=6).filter(lambda sizes: sum(sizes) > 1),
    d_in=st.integers(1, 7),
    seed=st.integers(0, 1000),
    # A stream with all its power in the mean is where one-pass variances cancel.
    offset=st.sampled_from([0.0, -3.0, 1e4]),
    order=st.randoms(use_true_random=False),
)
def test_shards_merged_in_any_order_equal_one_pass_and_the_formula(sizes, d_in, seed, offset, order):
    batch = make_batch(sum(sizes), d_in, seed, offset)
    expected, counts = direct(*batch)
    assert_same(accumulate([batch], d_in).result(), expected, counts, rel=1e-7)
    pieces = split(batch, sizes)
    assert_same(accumulate(pieces, d_in).result(), expected, counts, rel=1e-7)
    shards = [accumulate([piece], d_in) for piece in pieces]
    order.shuffle(shards)
    total = ReconstructionAccumulator(d_in, N_LATENTS)
    for shard in shards:
        total = total + shard
    assert_same(total.result(), expected, counts, rel=1e-7)
    # Merging as a tree, as ranks do, gives the same again, and left the shards as they were.
    while len(shards) > 1:
        shards = [shards[0].merge(shards[1]), *shards[2:]]
    assert_same(shards[0].result(), expected, counts, rel=1e-7)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_stored_dtypes(dtype):
    batch = make_batch(50, 6, 1, 2.0, dtype)
    assert_same(accumulate([batch], 6).result(), *direct(*batch))


def test_adding_leaves_both_terms_alone():
    one, two = (accumulate([make_batch(5, 4, seed)], 4) for seed in (1, 2))
    before = one.result()
    _ = one + two
    assert one.result().tokens == before.tokens
    assert torch.equal(one.result().firing_counts, before.firing_counts)


def test_mean_is_that_of_the_tokens():
    x, x_hat, codes = make_batch(40, 5, 3, 100.0)
    mean = accumulate(split((x, x_hat, codes), [7, 33]), 5).result().mean
    torch.testing.assert_close(mean, x.double().mean(0))


def test_a_perfect_and_a_constant_reconstruction():
    x, _, codes = make_batch(30, 4, 5, 10.0)
    perfect = accumulate([(x, x, codes)], 4).result()
    assert (perfect.fvu, perfect.rel_err) == (0, 0)
    assert perfect.cosine == pytest.approx(1)
    constant = accumulate([(x, x.double().mean(0).expand_as(x), codes)], 4).result()
    assert constant.fvu == pytest.approx(1)


def test_zero_vectors_have_no_relative_error_and_zero_reconstructions_no_direction():
    x = torch.tensor([[0.0, 0.0], [3.0, 4.0], [6.0, 8.0]])
    x_hat = torch.tensor([[1.0, 0.0], [0.0, 0.0], [6.0, 8.0]])
    codes = Codes(torch.zeros(3, 1, dtype=torch.int64), torch.ones(3, 1))
    metrics = accumulate([(x, x_hat, codes)], 2).result()
    assert metrics.rel_err == pytest.approx(0.5)
    assert metrics.cosine == pytest.approx(0.5)


def test_tokens_without_variance_have_no_fvu():
    x = torch.full((9, 3), 0.1)
    codes = Codes(torch.zeros(9, 1, dtype=torch.int64), torch.ones(9, 1))
    pieces = split((x, x + 1, codes), [2, 3, 4])
    assert math.isnan(accumulate(pieces, 3).result().fvu)


def test_errors_say_what_is_wrong():
    accumulator = ReconstructionAccumulator(4, N_LATENTS)
    with pytest.raises(ExpanderSaeError, match="at least one token"):
        accumulator.result()
    x, x_hat, codes = make_batch(3, 5, 0)
    with pytest.raises(ExpanderSaeError, match=r"\[batch, 4\]"):
        accumulator.update(x, x_hat, codes)
    with pytest.raises(ExpanderSaeError, match=r"0\.\.11"):
        accumulator.update(x[:, :4], x_hat[:, :4], Codes(codes.indices + 10, codes.values + 1))
    with pytest.raises(ExpanderSaeError, match="one shape"):
        accumulator.merge(ReconstructionAccumulator(5, N_LATENTS))


def test_many_small_updates_do_not_drift():
    random.seed(0)
    batch = make_batch(600, 4, 7, 1e3)
    assert_same(accumulate(split(batch, [1] * 600), 4).result(), *direct(*batch))
