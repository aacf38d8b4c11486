"""Every theorem against brute force on graphs small enough to enumerate."""

from itertools import combinations

import numpy as np
import pytest
import small_dictionaries as small
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from expander_sae.graphs import make_mask, mask_from_rows
from expander_sae.graphs.overlap import overlap_profile
from expander_sae.ops import Dictionary
from expander_sae.records import ExpanderSaeError
from expander_sae.theory import dictionary_coherence, flatness
from expander_sae.theory.coherence import babel_from_overlaps, largest_sums
from expander_sae.theory.flatness import inner_product_bound, mass_bound, unit_columns
from expander_sae.theory.geometry import diagnose
from expander_sae.theory.identifiability import (
    generic_size,
    spark_from_babel,
    stability_constant,
    stable_size,
    stopping_distance_bound,
    stopping_distance_by_core,
    stopping_distance_from_expansion,
)
from expander_sae.theory.recovery import (
    matching_pursuit_rate,
    omp_k,
    omp_k_from_overlap,
    omp_noise_limit,
    one_shot_k,
    one_shot_noise_limit,
    welch_ceiling,
    welch_coherence,
)

SEEDS = st.integers(0, 2**32 - 1)


@given(SEEDS, st.integers(1, 12), st.floats(1, 20))
@settings(max_examples=150, deadline=None)
def test_flat_columns_have_the_norms_and_shares_promised(seed: int, degree: int, beta: float) -> None:
    rng = np.random.default_rng(seed)
    values = rng.uniform(1, beta, (5, degree)) * 10.0 ** rng.integers(-200, 200)
    values[0, 0], values[0, -1] = values.min(), values.max()
    measured = flatness(values).largest
    assert measured <= beta * (1 + 1e-12)
    unit = unit_columns(values)
    sizes = np.sort(np.abs(unit), axis=1)[:, ::-1]
    for count in range(degree + 1):
        energy = (sizes[:, :count] ** 2).sum(axis=1).max()
        mass = (sizes[:, :count].sum(axis=1) / sizes.sum(axis=1)).max()
        assert energy <= inner_product_bound(count, degree, measured) + 1e-9
        assert mass <= mass_bound(count / degree, measured) + 1e-9


def test_flatness_of_zero_entries_and_columns() -> None:
    assert flatness(np.array([[0.0, 1.0], [1.0, 1.0]])).largest == np.inf
    assert inner_product_bound(np.array([0, 1]), 7, np.inf).tolist() == [0, 1]
    assert mass_bound(0.1, np.inf) == 1
    with pytest.raises(ExpanderSaeError, match="zeros in column 1"):
        flatness(np.array([[1.0, 1.0], [0.0, 0.0]]))
    with pytest.raises(ExpanderSaeError, match="finite"):
        flatness(np.array([[np.nan, 1.0]]))
    with pytest.raises(ExpanderSaeError, match="beta"):
        mass_bound(0.5, 0.5)


@given(SEEDS)
@settings(max_examples=100, deadline=None)
def test_coherence_is_what_the_dense_gram_says(seed: int) -> None:
    rng = np.random.default_rng(seed)
    mask = small.random_mask(rng, **small.random_size(rng))
    beta = rng.uniform(1, 4)
    values = small.flat_values(rng, mask, beta)
    w = small.dense(mask, values)
    gram = w.T @ w
    result = dictionary_coherence(small.sparse(mask, values), p_max=7, per_column=True)
    assert result.exact
    for p in range(8):
        assert result.babel[p] == pytest.approx(small.babel(np.abs(gram), p))
        assert result.positive[p] == pytest.approx(small.babel(np.maximum(gram, 0), p))
        assert result.negative[p] == pytest.approx(small.babel(np.maximum(-gram, 0), p))
    assert result.per_column is not None
    assert result.per_column.max(axis=0) == pytest.approx(result.babel)
    bound = babel_from_overlaps(overlap_profile(mask, p_max=7).babel, mask.degree, flatness(values).largest)
    assert (result.babel <= bound + 1e-9).all()
    omega = welch_coherence(mask.d_in, mask.n_latents)
    for p in range(1, int(np.sqrt(mask.n_latents - 1)) + 1):
        assert result.babel[p] >= p * omega - 1e-9


def test_sampled_coherence_is_a_lower_bound_and_blocks_do_not_matter(monkeypatch: pytest.MonkeyPatch) -> None:
    mask = make_mask("uniform", d_in=80, n_latents=400, degree=6, seed=0)
    w = small.sparse(mask, np.random.default_rng(0).normal(size=mask.rows.shape))
    whole = dictionary_coherence(w, p_max=10)
    sample = dictionary_coherence(w, p_max=10, budget=100_000)
    assert not sample.exact
    assert sample.columns < 400
    assert (sample.babel <= whole.babel + 1e-12).all()
    monkeypatch.setattr("expander_sae.theory.coherence._SCRATCH", 1 << 12)
    assert dictionary_coherence(w, p_max=10).babel == pytest.approx(whole.babel)
    assert largest_sums(np.ones((2, 1)), 3).tolist() == [[0, 1, 1, 1]] * 2
    with pytest.raises(ExpanderSaeError, match="p_max and budget"):
        dictionary_coherence(w, p_max=0)


def test_the_order_of_rows_does_not_matter_and_a_dense_dictionary_has_all_of_them() -> None:
    rng = np.random.default_rng(0)
    mask = make_mask("uniform", d_in=30, n_latents=50, degree=4, seed=0)
    w = small.sparse(mask, rng.normal(size=mask.rows.shape))
    assert w.rows is not None
    order = torch.from_numpy(rng.permuted(np.tile(np.arange(4), (50, 1)), axis=1))
    shuffled = Dictionary(w.rows.gather(1, order), w.decoder.gather(1, order).requires_grad_(), 30)
    babel = dictionary_coherence(w, p_max=5).babel
    assert (dictionary_coherence(shuffled, p_max=5).babel == babel).all()
    assert diagnose(shuffled, 4) == diagnose(w, 4)
    assert dictionary_coherence(Dictionary.of_matrix(w.dense()), p_max=5).babel == pytest.approx(babel)


def _check_spark_and_stopping(seed: int) -> None:
    rng = np.random.default_rng(seed)
    mask = small.random_mask(rng, **small.random_size(rng))
    values = small.flat_values(rng, mask, 3.0)
    w = small.dense(mask, values)
    truth, distance = small.spark(w), small.stopping_distance(mask)
    overlaps = overlap_profile(mask, p_max=mask.n_latents).babel
    size = stopping_distance_bound(overlaps, mask.degree)
    if size >= mask.n_latents:
        size = mask.n_latents
    assert distance > size
    pruned = stopping_distance_by_core(mask, size, s_max=mask.n_latents)
    assert size <= pruned < distance
    assert truth >= distance
    generic = min(generic_size(overlaps, mask.degree), mask.n_latents)
    for subset in small.subsets(mask.n_latents, generic):
        assert small.neighbours(mask, subset) >= len(subset)
    babel = dictionary_coherence(small.sparse(mask, values), p_max=mask.n_latents).babel
    assert truth > spark_from_babel(babel) or np.isinf(truth)
    worst = 0.0
    for s in range(1, mask.n_latents + 1):
        for subset in combinations(range(mask.n_latents), s):
            worst = max(worst, 1 - small.neighbours(mask, np.array(subset)) / (mask.degree * s))
        if worst < 0.5:
            assert distance >= min(stopping_distance_from_expansion(s, worst), 1e18)


@given(SEEDS)
@settings(max_examples=80, deadline=None)
def test_no_dictionary_has_a_smaller_spark_than_promised(seed: int) -> None:
    _check_spark_and_stopping(seed)


@pytest.mark.slow
def test_no_dictionary_has_a_smaller_spark_than_promised_many_times() -> None:
    for seed in range(5000):
        _check_spark_and_stopping(seed)


@pytest.mark.parametrize("vertices", range(3, 8))
def test_complete_graphs_attain_the_bounds(vertices: int) -> None:
    """Edge rows of K_(d+1): overlap 1; the stopping distance is d + 1 and pursuit fails at the next k."""
    mask = small.complete_graph_mask(vertices)
    degree = vertices - 1
    babel = overlap_profile(mask, p_max=vertices).babel
    assert small.stopping_distance(mask) == vertices
    assert stopping_distance_bound(babel, degree) == vertices - 1
    assert stopping_distance_from_expansion(2, 1 / (2 * degree)) == vertices
    values = np.array(
        [[1.0 if other > v else -1.0 for other in range(vertices) if other != v] for v in range(vertices)]
    )
    assert small.spark(small.dense(mask, values)) == vertices
    k = omp_k_from_overlap(1, degree, 1.0)
    assert k == -(-vertices // 2) - 1  # two codes with vertices / 2 latents coincide


@given(SEEDS)
@settings(max_examples=80, deadline=None)
def test_stability_constant_is_never_beaten(seed: int) -> None:
    rng = np.random.default_rng(seed)
    mask = small.random_mask(rng, **small.random_size(rng))
    values = small.flat_values(rng, mask, float(rng.uniform(1, 3)))
    beta, w = flatness(values).largest, small.dense(mask, values)
    size = min(stable_size(overlap_profile(mask, p_max=12).babel, mask.degree, beta), mask.n_latents)
    assert size >= 1
    worst = 0.0
    for subset in small.subsets(mask.n_latents, mask.n_latents):
        worst = max(worst, 1 - small.neighbours(mask, subset) / (mask.degree * len(subset)))
        constant = stability_constant(worst, beta)
        if len(subset) <= size:
            assert constant > 0
        code = rng.normal(size=len(subset)) * np.exp(rng.normal(size=len(subset)))
        mass = (np.abs(w[:, subset]).sum(axis=0) * np.abs(code)).sum()
        assert np.abs(w[:, subset] @ code).sum() >= constant * mass - 1e-9
    assert stable_size(np.zeros(5, int), 7, 1.0) == 5


def test_layered_graphs_attain_the_stability_constant() -> None:
    """Columns whose share eps of entries cancels the rows of the block before: the ratio tends to the constant."""
    for beta, expected in ((1.0, 0.5), (2.0, 0.2), (3.0, 0.0)):
        assert stability_constant(0.25, beta) == pytest.approx(expected)


def _sparse_dictionary(seed: int):
    rng = np.random.default_rng(seed)
    # Large enough for k = 2 or 3 to be certified now and then.
    mask = make_mask("greedy", d_in=24, n_latents=12, degree=int(rng.integers(3, 7)), seed=seed)
    values = small.flat_values(rng, mask, 1.3)
    return rng, mask, values, small.dense(mask, values)


@given(st.integers(0, 10_000))
@settings(max_examples=60, deadline=None)
def test_pursuit_and_thresholding_do_what_is_promised(seed: int) -> None:
    rng, mask, values, w = _sparse_dictionary(seed)
    coherence = dictionary_coherence(small.sparse(mask, values), p_max=6)
    k = omp_k(coherence.babel)
    flat = omp_k_from_overlap(overlap_profile(mask).largest, mask.degree, flatness(values).largest)
    assert flat <= k or k == 6
    assert small.spark(w[:, :10]) > 2 * min(k, 5)
    for size in range(1, k + 1):
        support = rng.choice(12, size, replace=False)
        code = np.exp(2 * rng.normal(size=size)) * rng.choice([-1, 1], size)
        assert small.orthogonal_matching_pursuit(w, w[:, support] @ code, size) == set(support.tolist())
        positive = w[:, support] @ np.abs(code)
        assert small.orthogonal_matching_pursuit(w, positive, size, signed=True) == set(support.tolist())
        noise = rng.normal(size=24)
        noise *= 0.999 * omp_noise_limit(coherence.babel, size) * np.abs(code).min() / np.linalg.norm(noise)
        assert small.orthogonal_matching_pursuit(w, w[:, support] @ code + noise, size) == set(support.tolist())
        rate, residual = matching_pursuit_rate(coherence.babel, size), w[:, support] @ code
        assert rate is not None
        for _ in range(4):
            before = residual @ residual
            pick = int(np.argmax(np.abs(w.T @ residual)))
            assert pick in support or before < 1e-20
            residual = residual - w[:, pick] * (w[:, pick] @ residual)
            assert residual @ residual <= rate * before + 1e-12
    spread = float(rng.uniform(1, 3))
    one_sided = one_shot_k(coherence.negative, coherence.positive, spread)
    for size in range(1, max(one_shot_k(coherence.babel, coherence.babel, spread), one_sided) + 1):
        support = rng.choice(12, size, replace=False)
        code = rng.uniform(1, spread, size)
        if size <= one_sided:
            top = np.argsort(-(w.T @ (w[:, support] @ code)))[:size]
            assert set(top.tolist()) == set(support.tolist())
        if size <= one_shot_k(coherence.babel, coherence.babel, spread):
            code *= rng.choice([-1, 1], size)
            limit = one_shot_noise_limit(coherence.babel, size, spread) * np.abs(code).min()
            scores = w.T @ (w[:, support] @ code) + rng.uniform(-1, 1, 12) * limit * 0.999
            assert set(np.argsort(-np.abs(scores))[:size].tolist()) == set(support.tolist())


def test_ceilings_for_any_dictionary() -> None:
    sizes = [(512, 4096), (576, 4608), (768, 6144), (2048, 16384), (2048, 65536), (2048, 131072)]
    assert [welch_ceiling(*size) for size in sizes] == [12, 13, 15, 24, 23, 23]
    assert welch_ceiling(512, 600) is None
    assert welch_coherence(512, 512) == 0
    for seed in range(20):
        w = np.random.default_rng(seed).normal(size=(6, 14))
        w /= np.linalg.norm(w, axis=0)
        gram = np.abs(w.T @ w)
        babel = np.array([small.babel(gram, p) for p in range(8)])
        ceiling = welch_ceiling(6, 14)
        assert ceiling is not None
        assert omp_k(babel) <= ceiling


def test_questions_without_an_answer_say_so() -> None:
    with pytest.raises(ExpanderSaeError, match="k from 1 to 3"):
        omp_noise_limit(np.zeros(4), 4)
    with pytest.raises(ExpanderSaeError, match="dynamic range"):
        one_shot_k(np.zeros(4), np.zeros(4), 0.5)
    with pytest.raises(ExpanderSaeError, match=r"loss in \[0, 1/2\)"):
        stopping_distance_from_expansion(3, 0.5)
    with pytest.raises(ExpanderSaeError, match="beta"):
        stable_size(np.zeros(3), 7, 0.0)
    assert stopping_distance_from_expansion(1, 0.4) == 2
    assert omp_k_from_overlap(0, 5, 1.0) > 10**6
    same = mask_from_rows(np.array([[0, 1], [0, 1]]), d_in=3)
    assert omp_k(dictionary_coherence(small.sparse(same, np.ones((2, 2))), p_max=1).babel) == 0
