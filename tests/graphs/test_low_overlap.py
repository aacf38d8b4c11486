"""Greedy and polynomial masks: the overlaps they promise, and right degrees that stay close together."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from expander_sae.graphs import make_mask
from expander_sae.graphs.overlap import overlap_profile
from expander_sae.graphs.packing import smallest_possible_overlap
from expander_sae.graphs.polynomial import _largest_prime_up_to
from expander_sae.records import ExpanderSaeError

SEEDS = st.integers(0, 2**64 - 1)


def _prime(d_in: int, degree: int) -> int:
    return _largest_prime_up_to(d_in // degree)


@given(st.integers(2, 7), st.integers(4, 200), st.integers(1, 400), SEEDS)
@settings(max_examples=150, deadline=None)
def test_two_polynomials_agree_at_most_so_often(degree: int, d_in: int, n_latents: int, seed: int) -> None:
    q = _prime(d_in, degree)
    if q < degree or n_latents > q**degree:
        with pytest.raises(ExpanderSaeError, match="Choose"):
            make_mask("polynomial", d_in=d_in, n_latents=n_latents, degree=degree, seed=seed)
        return
    mask = make_mask("polynomial", d_in=d_in, n_latents=n_latents, degree=degree, seed=seed)
    terms = next(t for t in range(1, degree + 1) if q**t >= n_latents)
    assert overlap_profile(mask).largest <= terms - 1
    assert (mask.rows[:, 1:] > mask.rows[:, :-1]).all()
    assert make_mask("polynomial", d_in=d_in, n_latents=n_latents, degree=degree, seed=seed) == mask
    if d_in == degree * q:
        assert np.ptp(mask.right_degrees()) <= 1


def test_a_polynomial_mask_fills_the_rows_the_prime_leaves_over() -> None:
    mask = make_mask("polynomial", d_in=512, n_latents=4096, degree=7, seed=0)
    assert overlap_profile(mask).largest == 1
    degrees = mask.right_degrees()  # 7 * 73 = 511 rows and one more, of mean degree 56
    assert degrees.sum() == 4096 * 7
    assert degrees.max() <= 57
    assert (degrees < 55).sum() <= 2
    assert degrees.min() >= 30
    assert mask.empty_rows.size == 0


def test_a_large_polynomial_mask() -> None:
    mask = make_mask("polynomial", d_in=15 * 199, n_latents=300_000, degree=15, seed=5)
    assert np.ptp(mask.right_degrees()) <= 1


def test_degree_one_polynomials_deal_the_rows_round() -> None:
    assert np.ptp(make_mask("polynomial", d_in=10, n_latents=25, degree=1, seed=0).right_degrees()) == 1


def test_sizes_without_a_prime_are_refused() -> None:
    with pytest.raises(ExpanderSaeError, match="smaller degree"):
        make_mask("polynomial", d_in=768, n_latents=6144, degree=32, seed=0)
    with pytest.raises(ExpanderSaeError, match="larger degree"):
        make_mask("polynomial", d_in=10, n_latents=26, degree=2, seed=0)


def test_primes() -> None:
    primes = [p for p in range(2, 400) if all(p % f for f in range(2, p))]
    for bound in range(400):
        assert _largest_prime_up_to(bound) == max((p for p in primes if p <= bound), default=0)


@given(st.integers(4, 60), st.data())
@settings(max_examples=60, deadline=None)
def test_greedy_masks_share_few_rows_and_use_all(d_in: int, data: st.DataObject) -> None:
    degree = data.draw(st.integers(1, d_in))
    n_latents = data.draw(st.integers(1, 90))
    seed = data.draw(SEEDS)
    mask = make_mask("greedy", d_in=d_in, n_latents=n_latents, degree=degree, seed=seed)
    assert mask.rows.shape == (n_latents, degree)
    assert make_mask("greedy", d_in=d_in, n_latents=n_latents, degree=degree, seed=seed) == mask
    largest = overlap_profile(mask).largest
    assert largest >= smallest_possible_overlap(d_in, n_latents, degree)
    same = make_mask("balanced", d_in=d_in, n_latents=n_latents, degree=degree, seed=0)
    assert largest <= overlap_profile(same).largest + 1
    if n_latents * degree >= 4 * d_in:
        assert mask.empty_rows.size == 0


def test_greedy_reaches_overlap_one() -> None:
    """92% of the packing bound is out of reach, half of it is not."""
    mask = make_mask("greedy", d_in=256, n_latents=600, degree=7, seed=0)
    assert overlap_profile(mask).largest == 1
    assert np.ptp(mask.right_degrees()) <= 6


@pytest.mark.slow
@pytest.mark.parametrize(("size", "largest"), [((512, 4096, 7), 1), ((768, 6144, 8), 1), ((512, 4096, 16), 3)])
def test_greedy_at_the_sizes_in_use(size: tuple[int, int, int], largest: int) -> None:
    d_in, n_latents, degree = size
    mask = make_mask("greedy", d_in=d_in, n_latents=n_latents, degree=degree, seed=0)
    profile = overlap_profile(mask)
    # A last handful of columns may need one more shared row at two thirds of the packing bound.
    assert profile.largest == largest or (profile.largest == largest + 1 and profile.pairs[largest + 1] < n_latents / 8)
    assert np.ptp(mask.right_degrees()) <= 8
