"""Capped and Galois masks: overlaps, right degrees, fields, and rows by a formula."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from expander_sae.graphs import make_mask
from expander_sae.graphs.capped import cap_of
from expander_sae.graphs.counter import CounterStream
from expander_sae.graphs.finite_field import FiniteField, largest_prime_power_up_to, prime_power
from expander_sae.graphs.galois import GaloisPlan
from expander_sae.graphs.overlap import overlap_profile
from expander_sae.records import ExpanderSaeError

SEEDS = st.integers(0, 2**64 - 1)
POWERS = [q for q in range(2, 130) if prime_power(q)[1]]


@pytest.mark.parametrize("q", POWERS)
def test_fields_are_fields(q: int) -> None:
    field, all_of_it = FiniteField(q), np.arange(q)
    table = np.stack([field.times(x) for x in range(q)])
    assert (table == table.T).all()
    assert (np.sort(table[1:, 1:], axis=1) == np.arange(1, q)).all()  # no zero divisors, so inverses
    assert (table[1] == all_of_it).all()
    assert not table[0].any()
    sums = field.add(all_of_it[:, None], all_of_it[None, :])
    assert (np.sort(sums, axis=1) == all_of_it).all()
    assert (sums[0] == all_of_it).all()
    rng = np.random.default_rng(q)
    a, b, c = rng.integers(0, q, (3, 200))
    assert (field.add(a, field.add(b, c)) == field.add(field.add(a, b), c)).all()
    assert (table[a, table[b, c]] == table[table[a, b], c]).all()
    assert (table[a, field.add(b, c)] == field.add(table[a, b], table[a, c])).all()


def test_prime_powers() -> None:
    known = {2, 3, 4, 5, 7, 8, 9, 11, 13, 16, 17, 19, 23, 25, 27, 29, 31, 32}
    assert {q for q in range(33) if prime_power(q)[1]} == known
    assert [largest_prime_power_up_to(bound) for bound in (1, 10, 15, 24, 33, 292)] == [0, 9, 13, 23, 32, 289]


@given(st.integers(1, 7), st.integers(4, 200), st.integers(1, 500), SEEDS)
@settings(max_examples=150, deadline=None)
def test_galois_overlaps_are_what_the_field_promises(degree: int, d_in: int, n_latents: int, seed: int) -> None:
    q = largest_prime_power_up_to(d_in // degree)
    if q < degree or n_latents > q**degree:
        with pytest.raises(ExpanderSaeError, match="Choose"):
            make_mask("galois", d_in=d_in, n_latents=n_latents, degree=degree, seed=seed)
        return
    mask = make_mask("galois", d_in=d_in, n_latents=n_latents, degree=degree, seed=seed)
    terms = next(t for t in range(1, degree + 1) if q**t >= n_latents)
    assert overlap_profile(mask).largest <= terms - 1
    assert make_mask("galois", d_in=d_in, n_latents=n_latents, degree=degree, seed=seed) == mask
    if d_in == degree * q:
        assert np.ptp(mask.right_degrees()) <= 1


@pytest.mark.parametrize(
    ("size", "overlap"),
    [((512, 4096, 7), 1), ((576, 4608, 7), 1), ((768, 6144, 8), 1), ((2048, 16384, 7), 1), ((512, 4096, 16), 2)],
)
def test_galois_masks_leave_no_row_empty(size: tuple[int, int, int], overlap: int) -> None:
    d_in, n_latents, degree = size
    mask = make_mask("galois", d_in=d_in, n_latents=n_latents, degree=degree, seed=1)
    assert overlap_profile(mask).largest == overlap
    mean = n_latents * degree / d_in
    degrees = mask.right_degrees()
    assert degrees.min() > 0.8 * mean
    assert degrees.max() < 1.1 * mean


def test_any_column_without_the_others() -> None:
    sizes = (2048, 60_000, 16)
    label = "galois|2048|60000|16|3"
    plan = GaloisPlan(*sizes, CounterStream(label))
    mask = make_mask("galois", d_in=2048, n_latents=60_000, degree=16, seed=3)
    some = np.array([59_999, 0, 31_415, 128, 127])
    assert (plan.column_rows(some) == mask.rows[some]).all()


@pytest.mark.slow
def test_a_million_columns_of_sixty_four_rows() -> None:
    mask = make_mask("galois", d_in=4096, n_latents=1 << 20, degree=64, seed=0)
    assert np.ptp(mask.right_degrees()) == 0
    some = np.random.default_rng(0).choice(1 << 20, 300, replace=False)
    member = np.zeros((300, 4096), np.int64)
    np.put_along_axis(member, mask.rows[some].astype(np.int64), 1, axis=1)
    shared = member @ member.T
    np.fill_diagonal(shared, 0)
    assert shared.max() <= 3


@given(st.integers(4, 60), st.data())
@settings(max_examples=25, deadline=None)
def test_capped_masks_are_balanced_and_reproducible(d_in: int, data: st.DataObject) -> None:
    degree = data.draw(st.integers(1, d_in))
    n_latents = data.draw(st.integers(1, 90))
    size = {"d_in": d_in, "n_latents": n_latents, "degree": degree, "seed": data.draw(SEEDS)}
    mask = make_mask("capped", **size)
    assert (mask.rows[:, 1:] > mask.rows[:, :-1]).all()
    assert np.ptp(mask.right_degrees()) <= 1
    assert make_mask("capped", **size) == mask
    assert overlap_profile(mask).largest <= overlap_profile(make_mask("balanced", **size)).largest + 1


@pytest.mark.parametrize(("size", "cap"), [((512, 4096, 7), 2), ((576, 4608, 7), 2), ((768, 6144, 8), 2)])
def test_capped_masks_keep_the_cap(size: tuple[int, int, int], cap: int) -> None:
    d_in, n_latents, degree = size
    assert cap_of(*size) == cap
    mask = make_mask("capped", d_in=d_in, n_latents=n_latents, degree=degree, seed=0)
    assert overlap_profile(mask).largest == cap
    assert np.ptp(mask.right_degrees()) == 0


def test_capped_masks_that_cannot_be_counted_are_refused() -> None:
    with pytest.raises(ExpanderSaeError, match="galois"):
        make_mask("capped", d_in=2048, n_latents=300_000, degree=64, seed=0)
