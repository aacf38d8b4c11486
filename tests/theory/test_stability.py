"""Stable, non-negative and l1 recovery against enumeration and linear programming; thresholding on average; ratios."""

from itertools import product

import numpy as np
import pytest
import small_dictionaries as small
from scipy.optimize import linprog

from expander_sae.graphs import make_mask, mask_from_rows
from expander_sae.graphs.expansion import expansion_loss_bound
from expander_sae.graphs.overlap import overlap_profile
from expander_sae.records import ExpanderSaeError
from expander_sae.theory import dictionary_coherence, flatness
from expander_sae.theory.average import one_shot_failure
from expander_sae.theory.identifiability import stability_constant, stable_size
from expander_sae.theory.ratio import ratio_decode
from expander_sae.theory.stability import (
    babel_from_expansion,
    distance_factor,
    l1_recovery_k,
    mass_profile,
    nonnegative_k,
    profile_constant,
    stable_size_of_profile,
    weighted_loss,
)


def layered_graph(depth: int, *, beta: float) -> tuple:
    """d = 4, a quarter of each column's entries on the fresh rows of the block before, with the opposite sign."""
    rows, values, code = [], [], []
    fresh = np.arange(0)
    count, used = 1, 0
    for block in range(depth + 1):
        down = 0 if block == 0 else 1
        entries = []
        for column in range(count):
            own = np.arange(used, used + 4 - down)
            used += 4 - down
            rows.append([*fresh[column : column + down].tolist(), *own.tolist()])
            values.append([-beta] * down + [1.0] * (4 - down))
            code.append(beta**-block)
            entries.append(own)
        fresh = np.concatenate(entries)
        count = len(fresh)
    mask = mask_from_rows(np.array(rows), d_in=used)
    values = np.array(values)
    return mask, values, np.array(code) * np.linalg.norm(values, axis=1)


@pytest.mark.parametrize(("beta", "limit"), [(1.0, 0.5), (2.0, 0.2), (3.0, 0.0)])
def test_layered_graphs_attain_the_constant(beta: float, limit: float) -> None:
    """Every set of columns loses at most a quarter, and the l1 ratio tends to the constant from above."""
    assert stability_constant(0.25, beta) == pytest.approx(limit)
    ratios = []
    for depth in (2, 4, 6):
        mask, values, code = layered_graph(depth, beta=beta)
        assert flatness(values).largest == beta
        assert mask.right_degrees().max() == 2
        w = small.dense(mask, values)
        ratios.append(np.abs(w @ code).sum() / (np.abs(w).sum(axis=0) * np.abs(code)).sum())
    assert limit - 1e-12 <= ratios[2] < ratios[1] < ratios[0]
    assert ratios[2] - limit < {1.0: 0.001, 2.0: 0.04, 3.0: 0.09}[beta]


@pytest.mark.parametrize("seed", range(60))
def test_profiles_weights_and_distances(seed: int) -> None:
    rng = np.random.default_rng(seed)
    mask = small.random_mask(rng, **small.random_size(rng))
    values = small.flat_values(rng, mask, float(rng.uniform(1, 4)))
    beta, w, profile = flatness(values).largest, small.dense(mask, values), mass_profile(values)
    assert profile[0] == 0
    assert profile[-1] == pytest.approx(1)
    assert (np.diff(profile, 2) <= 1e-12).all()
    worst, heavy = 0.0, 0.0
    babel = overlap_profile(mask, p_max=12).babel
    assert stable_size_of_profile(babel, mask.degree, profile) >= stable_size(babel, mask.degree, beta)
    for subset in small.subsets(mask.n_latents, mask.n_latents):
        worst = max(worst, 1 - small.neighbours(mask, subset) / (mask.degree * len(subset)))
        heavy = max(heavy, weighted_loss(small.sparse(mask, values), subset))
        constant = profile_constant(worst, profile)
        assert constant >= stability_constant(worst, beta) - 1e-12
        code = rng.normal(size=len(subset)) * np.exp(rng.normal(size=len(subset)))
        image = np.abs(w[:, subset] @ code).sum()
        mass = (np.abs(w[:, subset]).sum(axis=0) * np.abs(code)).sum()
        # `worst` and `heavy` run over all sets of this size only once they are all seen; a smaller one is stricter.
        if len(subset) == mask.n_latents:
            assert image >= constant * mass - 1e-9
            assert image >= (1 - 2 * heavy) * mass - 1e-9
            factor = distance_factor(worst, beta, mask.degree)
            if factor is not None:
                assert np.abs(code).sum() <= factor * image + 1e-9


@pytest.mark.parametrize("seed", range(40))
def test_expansion_bounds_coherence(seed: int) -> None:
    rng = np.random.default_rng(seed)
    mask = small.random_mask(rng, **small.random_size(rng))
    values = small.flat_values(rng, mask, float(rng.uniform(1, 3)))
    losses = true_losses(mask)
    bound = babel_from_expansion(losses, flatness(values).largest)
    babel = dictionary_coherence(small.sparse(mask, values), p_max=mask.n_latents - 1).babel
    assert (babel <= bound + 1e-9).all()
    assert (
        losses <= expansion_loss_bound(overlap_profile(mask, p_max=12).babel, mask.degree)[: len(losses)] + 1e-12
    ).all()


def true_losses(mask) -> np.ndarray:
    """eps_s by enumeration, s = 0..n_latents."""
    worst = np.zeros(mask.n_latents + 1)
    for subset in small.subsets(mask.n_latents, mask.n_latents):
        loss = 1 - small.neighbours(mask, subset) / (mask.degree * len(subset))
        worst[len(subset)] = max(worst[len(subset)], loss)
    return np.maximum.accumulate(worst)


def test_nonnegative_codes_are_the_only_solutions() -> None:
    checked = 0
    for seed in range(60):
        rng = np.random.default_rng(seed)
        mask = make_mask("greedy", d_in=int(rng.integers(8, 14)), n_latents=9, degree=3, seed=seed)
        w = small.dense(mask, np.exp(rng.normal(size=mask.rows.shape)))
        for size in range(1, min(nonnegative_k(true_losses(mask)), 8) + 1):
            support = rng.choice(9, size, replace=False)
            code = np.zeros(9)
            code[support] = np.exp(rng.normal(size=size))
            cost = rng.normal(size=9)
            other = linprog(cost, A_eq=w, b_eq=w @ code, bounds=(0, None))
            assert other.status == 0
            assert other.x == pytest.approx(code, abs=1e-6)
            checked += 1
    assert checked > 60


def test_weighted_l1_finds_what_is_promised() -> None:
    checked = 0
    for seed in range(60):
        rng = np.random.default_rng(seed)
        mask = make_mask("greedy", d_in=int(rng.integers(30, 60)), n_latents=12, degree=5, seed=seed)
        values = small.flat_values(rng, mask, float(rng.uniform(1, 1.3)))
        w = small.dense(mask, values)
        losses = expansion_loss_bound(overlap_profile(mask, p_max=11).babel, mask.degree)
        weight = np.abs(w).sum(axis=0)
        for size in range(1, min(l1_recovery_k(losses, flatness(values).largest), 4) + 1):
            support = rng.choice(12, size, replace=False)
            code = np.zeros(12)
            code[support] = rng.normal(size=size)
            found = linprog(np.tile(weight, 2), A_eq=np.hstack([w, -w]), b_eq=w @ code, bounds=(0, None))
            assert found.x[:12] - found.x[12:] == pytest.approx(code, abs=1e-6)
            checked += 1
    assert checked > 60


def test_l1_needs_a_sixth_when_columns_are_flat() -> None:
    below, above = np.array([0, 0, 1 / 6 - 1e-4]), np.array([0, 0, 1 / 6 + 1e-4])
    assert l1_recovery_k(below, 1.0) == 1
    assert l1_recovery_k(above, 1.0) == 0


@pytest.mark.parametrize("seed", range(20))
def test_thresholding_fails_no_more_often_than_bounded(seed: int) -> None:
    """All 2^k sign patterns, so the probability is exact."""
    rng = np.random.default_rng(seed)
    mask = make_mask("uniform", d_in=256, n_latents=40, degree=24, seed=seed)
    values = small.flat_values(rng, mask, 1.5)
    w = small.dense(mask, values)
    support, size = rng.choice(40, 8, replace=False), rng.uniform(1, 1.2, 8)
    failures = 0
    for signs in product([-1, 1], repeat=8):
        scores = np.abs(w.T @ (w[:, support] @ (size * np.array(signs))))
        failures += set(np.argsort(-scores)[:8].tolist()) != set(support.tolist())
    bound = one_shot_failure(small.sparse(mask, values), support, size)
    assert failures / 256 <= bound
    small_bound = one_shot_failure(small.sparse(mask, values), support[:2], size[:2])
    assert small_bound < bound or bound == 1


def test_ratios_decode_exactly_where_promised() -> None:
    decoded = 0
    for seed in range(40):
        rng = np.random.default_rng(seed)
        mask = make_mask("greedy", d_in=40, n_latents=60, degree=5, seed=seed)
        values = small.flat_values(rng, mask, 2.0)
        overlaps = overlap_profile(mask, p_max=30)
        losses = expansion_loss_bound(overlaps.babel, mask.degree)
        for size in range(1, 8):
            code = np.zeros(60)
            code[rng.choice(60, size, replace=False)] = rng.normal(size=size)
            w = np.zeros((40, 60))
            np.put_along_axis(w.T, mask.rows.astype(int), values, axis=1)
            found = ratio_decode(small.sparse(mask, values), w @ code, votes=overlaps.largest + 1)
            if losses[size] < (1 - overlaps.largest / mask.degree) / 2:
                assert found is not None
                decoded += 1
            if found is not None:
                assert found == pytest.approx(code, abs=1e-6)
    assert decoded > 40
    with pytest.raises(ExpanderSaeError, match="votes"):
        ratio_decode(small.sparse(mask, values), np.zeros(40), votes=1)
    with pytest.raises(ExpanderSaeError, match=r"y \[40\]"):
        ratio_decode(small.sparse(mask, values), np.zeros(41), votes=2)
    values[3, 1] = 0.0
    with pytest.raises(ExpanderSaeError, match="zero in column 3"):
        ratio_decode(small.sparse(mask, values), np.zeros(40), votes=2)


def test_nonsense_is_refused() -> None:
    w = small.sparse(mask_from_rows(np.array([[0, 1], [1, 2]]), d_in=3), np.ones((2, 2)))
    with pytest.raises(ExpanderSaeError, match="magnitude"):
        one_shot_failure(w, np.array([0]), np.array([-1.0]))
    with pytest.raises(ExpanderSaeError, match="column"):
        weighted_loss(w, np.array([], int))
    with pytest.raises(ExpanderSaeError, match="beta"):
        babel_from_expansion(np.zeros(4), 0.5)
