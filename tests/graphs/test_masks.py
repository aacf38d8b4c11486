"""Laws of every mask construction."""

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from expander_sae.graphs import CONSTRUCTIONS, Mask, make_mask, mask_from_rows
from expander_sae.graphs import balanced as balanced_module
from expander_sae.graphs.counter import CounterStream
from expander_sae.graphs.uniform import uniform_rows
from expander_sae.records import ExpanderSaeError

GOLDEN = Path(__file__).with_name("golden.json")
# test_low_overlap.py and test_capped_and_galois.py have the same laws for the others: searches, and those that need a
# prime or a prime power in range.
FAST = tuple(name for name in CONSTRUCTIONS if name in ("balanced", "uniform", "clustered"))


@st.composite
def sizes(draw: st.DrawFn) -> dict[str, int]:
    d_in = draw(st.integers(1, 70) | st.sampled_from([255, 256, 257, 300]))
    degree = draw(st.integers(1, d_in) | st.sampled_from([d_in, max(1, d_in - 1), (d_in + 1) // 2]))
    return {
        "d_in": d_in,
        "n_latents": draw(st.integers(1, 90)),
        "degree": degree,
        "seed": draw(st.integers(0, 2**64 - 1)),
    }


@given(st.sampled_from(FAST), sizes())
@settings(max_examples=400, deadline=None)
def test_every_mask_is_left_regular_sorted_and_reproducible(construction: str, size: dict[str, int]) -> None:
    mask = make_mask(construction, **size)
    assert mask.rows.shape == (size["n_latents"], size["degree"]) == (mask.n_latents, mask.degree)
    assert mask.rows.dtype == (np.uint8 if size["d_in"] <= 256 else np.uint16)
    assert mask.rows.max() < size["d_in"]
    assert (mask.rows[:, 1:] > mask.rows[:, :-1]).all()
    degrees = mask.right_degrees()
    assert degrees.shape == (size["d_in"],)
    assert degrees.sum() == mask.rows.size
    assert (degrees[mask.empty_rows] == 0).all()
    assert (degrees == 0).sum() == mask.empty_rows.size
    again = make_mask(construction, **size)
    assert again == mask
    assert again.sha256() == mask.sha256()


@given(sizes())
@settings(max_examples=400, deadline=None)
def test_balanced_right_degrees_differ_by_at_most_one(size: dict[str, int]) -> None:
    assert np.ptp(make_mask("balanced", **size).right_degrees()) <= 1


@given(sizes())
@settings(max_examples=150, deadline=None)
def test_balanced_needs_no_luck(size: dict[str, int]) -> None:
    """With no random rounds at all, the exhaustive search alone repairs every mask."""
    patch = pytest.MonkeyPatch()
    patch.setattr(balanced_module, "_RANDOM_ROUNDS", -(1 << 20))
    try:
        assert np.ptp(make_mask("balanced", **size).right_degrees()) <= 1
    finally:
        patch.undo()


@given(sizes())
@settings(max_examples=200, deadline=None)
def test_a_repaired_mask_is_a_uniform_one_with_no_row_empty(size: dict[str, int]) -> None:
    d_in, n_latents, degree = size["d_in"], size["n_latents"], size["degree"]
    if n_latents * degree < d_in:
        with pytest.raises(ExpanderSaeError, match="may stay empty"):
            make_mask("repaired", **size)
        return
    if n_latents * degree < 2 * d_in:
        return  # so few entries that the repair may run out of tries
    mask = make_mask("repaired", **size)
    assert mask == make_mask("repaired", **size)
    assert mask.empty_rows.size == 0
    assert (mask.rows[:, 1:] > mask.rows[:, :-1]).all()
    stream = CounterStream(f"repaired|{d_in}|{n_latents}|{degree}|{size['seed']}")
    drawn = uniform_rows(d_in, n_latents, degree, stream)
    # One entry moved for every row that was empty, no other touched.
    missed = d_in - np.unique(drawn).size
    moved = sum(degree - np.intersect1d(a, b).size for a, b in zip(drawn, mask.rows, strict=True))
    assert moved == missed


def test_repaired_masks_move_entries_where_rows_are_missed() -> None:
    missed = [np.unique(make_mask("uniform", d_in=50, n_latents=30, degree=4, seed=s).rows).size < 50 for s in range(8)]
    assert any(missed)
    assert all(make_mask("repaired", d_in=50, n_latents=30, degree=4, seed=s).empty_rows.size == 0 for s in range(8))


def test_a_mask_that_cannot_be_repaired_says_so() -> None:
    with pytest.raises(ExpanderSaeError, match="got some empty in each of"):
        make_mask("repaired", d_in=5000, n_latents=5000, degree=1, seed=0)


@given(sizes())
@settings(max_examples=100, deadline=None)
def test_clustered_columns_are_equal_or_disjoint(size: dict[str, int]) -> None:
    mask = make_mask("clustered", **size)
    blocks = np.unique(mask.rows, axis=0)
    assert np.unique(blocks).size == blocks.size
    count = size["d_in"] // size["degree"]
    assert len(blocks) == min(count, size["n_latents"])
    used = np.unique(mask.rows, axis=0, return_counts=True)[1]
    if len(blocks) == count:
        assert np.ptp(used) <= 1


def test_full_degree_is_every_row() -> None:
    for construction in (*FAST, "greedy"):
        mask = make_mask(construction, d_in=9, n_latents=4, degree=9, seed=1)
        assert (mask.rows == np.arange(9)).all()


@pytest.mark.parametrize("construction", CONSTRUCTIONS)
def test_distinct_seeds_and_sizes_differ(construction: str) -> None:
    hashes = {
        make_mask(construction, d_in=d_in, n_latents=64, degree=5, seed=seed).sha256()
        for d_in in (64, 65)
        for seed in range(20)
    }
    assert len(hashes) == 40


@pytest.mark.parametrize(("d_in", "degree"), [(40, 7), (40, 20), (40, 33)])
def test_uniform_inclusion_frequencies(d_in: int, degree: int) -> None:
    """Row counts and pair counts have the mean and the chi-square of i.i.d. uniform subsets."""
    n_latents = 20_000
    rows = make_mask("uniform", d_in=d_in, n_latents=n_latents, degree=degree, seed=3).rows
    member = np.zeros((n_latents, d_in))
    np.put_along_axis(member, rows.astype(np.int64), 1.0, axis=1)
    share = degree / d_in
    # One row's indicator has variance p (1 - p); the d_in counts sum to a constant, hence d_in - 1 degrees of
    # freedom and the factor (d_in - 1) / d_in. Eight standard deviations of a chi-square, with a fixed seed.
    statistic = ((member.sum(0) - n_latents * share) ** 2).sum() / (n_latents * share * (1 - share))
    free = d_in - 1
    assert abs(statistic * free / d_in - free) < 8 * np.sqrt(2 * free)
    together = member.T @ member
    pairs = together[np.triu_indices(d_in, 1)]
    pair_share = degree * (degree - 1) / (d_in * (d_in - 1))
    spread = np.sqrt(n_latents * pair_share * (1 - pair_share))
    assert np.abs(pairs - n_latents * pair_share).max() < 6 * spread
    assert 0.8 < pairs.std() / spread < 1.2


def test_uniform_subsets_are_equally_likely() -> None:
    rows = make_mask("uniform", d_in=6, n_latents=40_000, degree=3, seed=0).rows
    _, counts = np.unique(rows, axis=0, return_counts=True)
    assert counts.size == 20
    statistic = ((counts - 2000.0) ** 2 / 2000.0).sum()
    assert statistic < 19 + 6 * np.sqrt(2 * 19)


def test_balanced_columns_are_spread_over_all_pairs() -> None:
    """A repair that favoured some rows would show as pairs that occur too often."""
    rows = make_mask("balanced", d_in=48, n_latents=6_000, degree=12, seed=0).rows
    member = np.zeros((len(rows), 48))
    np.put_along_axis(member, rows.astype(np.int64), 1.0, axis=1)
    pairs = (member.T @ member)[np.triu_indices(48, 1)]
    expected = 6_000 * 12 * 11 / (48 * 47)
    assert np.abs(pairs - expected).max() < 6 * np.sqrt(expected)


def test_golden_hashes() -> None:
    """Masks named in old checkpoints must come out the same for ever; never edit the file, add to it."""
    for name, expected in json.loads(GOLDEN.read_text()).items():
        construction, d_in, n_latents, degree, seed = name.split("|")
        mask = make_mask(construction, d_in=int(d_in), n_latents=int(n_latents), degree=int(degree), seed=int(seed))
        assert mask.sha256() == expected, name


def test_the_counter_stream_is_splitmix64() -> None:
    stream = CounterStream("reference")
    key, limit = stream._key, 1 << 64
    words = np.concatenate([stream.words(3), stream.words(2)]).tolist()
    for step, word in enumerate(words, start=1):
        z = (key + step * 0x9E3779B97F4A7C15) % limit
        z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9 % limit
        z = (z ^ (z >> 27)) * 0x94D049BB133111EB % limit
        assert word == z ^ (z >> 31)


@given(st.integers(1, 2**32), st.integers(0, 50))
@settings(deadline=None)
def test_bounded_integers_are_the_high_half_of_a_product(bound: int, count: int) -> None:
    words = CounterStream("x").words(count).tolist()
    assert CounterStream("x").integers(bound, count).tolist() == [w * bound >> 64 for w in words]


def test_hash_ignores_storage_type_and_origin() -> None:
    made = make_mask("uniform", d_in=200, n_latents=30, degree=4, seed=0)
    for dtype in (np.int64, np.uint16, np.int32, ">u4"):
        given_rows = mask_from_rows(made.rows[:, ::-1].astype(dtype), d_in=200)
        assert given_rows.sha256() == made.sha256()
        assert given_rows == made
        assert hash(given_rows) == hash(made)
        assert given_rows.rows.dtype == np.uint8
        assert given_rows.seed is None
        assert given_rows.construction == "rows"
    assert mask_from_rows(made.rows, d_in=201).sha256() != made.sha256()
    assert mask_from_rows(made.rows, d_in=201) != made
    reshaped = mask_from_rows(np.arange(6).reshape(2, 3), d_in=6)
    assert reshaped.sha256() != mask_from_rows(np.arange(6).reshape(3, 2), d_in=6).sha256()


def test_rows_are_frozen_and_private() -> None:
    source = np.array([[0, 1], [1, 2]])
    mask = mask_from_rows(source, d_in=3)
    source[0, 0] = 1
    assert mask.rows[0, 0] == 0
    with pytest.raises(ValueError, match="read-only"):
        mask.rows[0, 0] = 1


def test_rows_left_empty_are_listed() -> None:
    mask = make_mask("balanced", d_in=50, n_latents=4, degree=3, seed=0)
    assert mask.empty_rows.size == 50 - 12
    assert make_mask("clustered", d_in=10, n_latents=30, degree=4, seed=0).empty_rows.size == 2


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"degree": 11}, "degree <= d_in"),
        ({"degree": 0}, "degree"),
        ({"n_latents": -1}, "n_latents"),
        ({"d_in": 0}, "d_in"),
        ({"d_in": 2.5}, "d_in"),
        ({"d_in": 1 << 25}, "d_in"),
        ({"degree": True}, "degree"),
        ({"seed": -1}, "seed"),
        ({"seed": 1 << 64}, "seed"),
        ({"seed": None}, "seed"),
        ({"construction": "greed"}, "balanced, uniform, repaired, clustered"),
    ],
)
def test_impossible_requests_say_why(change: dict, words: str) -> None:
    request = {"construction": "balanced", "d_in": 10, "n_latents": 5, "degree": 3, "seed": 0} | change
    with pytest.raises(ExpanderSaeError, match=words):
        make_mask(**request)


@pytest.mark.parametrize(
    "rows",
    [
        np.array([[0, 0, 1]]),
        np.array([[0, 1, 9]]),
        np.array([[-1, 1, 2]]),
        np.array([0, 1, 2]),
        np.array([[0.0, 1.0]]),
        np.empty((0, 3), np.int64),
        np.empty((3, 0), np.int64),
    ],
)
def test_bad_rows_say_why(rows: np.ndarray) -> None:
    with pytest.raises(ExpanderSaeError, match="expected"):
        mask_from_rows(rows, d_in=5)


def test_unsorted_rows_point_to_the_sorting_constructor() -> None:
    with pytest.raises(ExpanderSaeError, match=r"column 1.*mask_from_rows"):
        Mask(np.array([[0, 1], [2, 1]]), d_in=3, construction="rows", seed=None)


@pytest.mark.parametrize("construction", FAST)
def test_a_large_mask_is_made_in_pieces(construction: str) -> None:
    """Sizes beyond one chunk of draws and of right_degrees; still well under a second each."""
    mask = make_mask(construction, d_in=3000, n_latents=300_000, degree=15, seed=5)
    degrees = mask.right_degrees()
    assert degrees.sum() == 300_000 * 15
    assert (mask.rows[:, 1:] > mask.rows[:, :-1]).all()
    if construction != "uniform":
        assert np.ptp(degrees) <= 15
