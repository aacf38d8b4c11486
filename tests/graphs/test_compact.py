"""Rows packed into few bits come back; what is not packed rows is refused."""

import math
import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from expander_sae.graphs import Mask, column_bits, compact, make_mask, pack_rows, unpack_rows
from expander_sae.records import ExpanderSaeError


@st.composite
def masks(draw: st.DrawFn) -> Mask:
    d_in = draw(st.integers(1, 80) | st.sampled_from([255, 256, 257, 65_536, 65_537]))
    degree = draw(st.integers(1, min(d_in, 300)))
    n_latents = draw(st.integers(1, 40))
    generator = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    columns = [np.sort(generator.choice(d_in, degree, replace=False)) for _ in range(n_latents)]
    # The two ends: the first rows of all, and the last.
    columns[0] = np.arange(degree)
    columns[-1] = np.arange(d_in - degree, d_in)
    return Mask(np.stack(columns), d_in=d_in, construction="rows", seed=None)


def sizes_of(mask: Mask) -> dict[str, int]:
    return {"d_in": mask.d_in, "n_latents": mask.n_latents, "degree": mask.degree}


@given(masks())
@settings(max_examples=300, deadline=None)
def test_packed_rows_come_back(mask: Mask) -> None:
    packed = pack_rows(mask)
    assert len(packed) == math.ceil(mask.n_latents * column_bits(mask.d_in, mask.degree) / 8)
    rows = unpack_rows(packed, **sizes_of(mask))
    assert rows.dtype == mask.rows.dtype
    assert np.array_equal(rows, mask.rows)


@pytest.mark.parametrize(
    ("d_in", "degree"), [(576, 1), (576, 7), (576, 64), (576, 200), (2048, 7), (2048, 1024), (8, 8)]
)
def test_a_column_takes_few_bits_more_than_there_are_supports(d_in: int, degree: int) -> None:
    least = math.log2(math.comb(d_in, degree))
    assert least <= column_bits(d_in, degree) <= min(d_in, least + 1.5 * degree + 1)


def test_many_columns_are_packed_in_pieces(monkeypatch) -> None:
    mask = make_mask(d_in=300, n_latents=211, degree=9, seed=0)
    whole = pack_rows(mask)
    monkeypatch.setattr(compact, "_CHUNK", 1)  # eight columns at a time
    assert np.array_equal(pack_rows(mask), whole)
    assert np.array_equal(unpack_rows(whole, **sizes_of(mask)), mask.rows)


def test_large_masks_take_little_more_memory_than_their_rows() -> None:
    mask = make_mask("uniform", d_in=2048, n_latents=65_536, degree=64, seed=0)
    tracemalloc.start()
    unpack_rows(pack_rows(mask), **sizes_of(mask))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < mask.rows.nbytes + 40e6  # all columns in one go take 138 MB


def test_what_is_not_packed_rows_is_refused() -> None:
    mask = make_mask(d_in=50, n_latents=30, degree=4, seed=0)
    packed, sizes = pack_rows(mask), sizes_of(mask)
    with pytest.raises(ExpanderSaeError, match="uint8"):
        unpack_rows(packed[:-1], **sizes)
    with pytest.raises(ExpanderSaeError, match="uint8"):
        unpack_rows(packed.astype(np.int64), **sizes)
    with pytest.raises(ExpanderSaeError, match="4 rows in every packed column"):
        unpack_rows(packed ^ 0xFF, **sizes)
    with pytest.raises(ExpanderSaeError, match="degree <= d_in"):
        unpack_rows(packed, d_in=3, n_latents=30, degree=4)
    with pytest.raises(ExpanderSaeError, match="degree <= d_in"):
        column_bits(10, 20)


def test_rows_out_of_order_beyond_the_end_or_after_it_are_refused() -> None:
    last = Mask(np.array([[46, 47, 48, 49]]), d_in=50, construction="rows", seed=None)
    sizes = sizes_of(last)
    assert column_bits(50, 4) == 4 * 3 + 4 + 5  # l = 3: three low bits for each row
    bits = np.unpackbits(pack_rows(last))
    beyond, jumbled, padded = bits.copy(), bits.copy(), bits.copy()
    beyond[:12] = 1  # the low bits of all rows
    jumbled[:12] = [1, 1, 0] + [0] * 9
    padded[-1] = 1
    for wrong, message in ((beyond, "ascend below"), (jumbled, "ascend below"), (padded, "zeros after the last")):
        with pytest.raises(ExpanderSaeError, match=message):
            unpack_rows(np.packbits(wrong), **sizes)
