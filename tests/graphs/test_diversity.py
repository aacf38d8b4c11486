"""The masks that only controls use."""

import numpy as np
import pytest

from expander_sae.graphs import make_mask
from expander_sae.graphs.diversity import banded_mask, dialled_mask, shared_mask
from expander_sae.graphs.overlap import mean_largest_overlap
from expander_sae.records import ExpanderSaeError

SIZES = {"d_in": 60, "n_latents": 480, "degree": 7, "seed": 3}


def supports(mask):
    return len({tuple(rows) for rows in mask.rows.tolist()})


def by_hand(mask):
    """What a column shares with the other column it shares most with, mean over columns."""
    columns = [set(rows) for rows in mask.rows.tolist()]
    return np.mean([max(len(a & b) for b in columns if b is not a) for a in columns])


def overlap(mask):
    """Mean number of rows that two columns share."""
    degrees = mask.right_degrees()
    return float((degrees * (degrees - 1)).sum()) / (mask.n_latents * (mask.n_latents - 1))


@pytest.mark.parametrize("degree", [1, 4, 7, 25, 60])
@pytest.mark.parametrize("make", [banded_mask, shared_mask, lambda **s: dialled_mask(0.0, **s)])
def test_every_row_is_reachable_at_every_degree(make, degree):
    mask = make(**{**SIZES, "degree": degree})
    assert (mask.n_latents, mask.degree) == (480, degree)
    assert len(mask.empty_rows) == 0


def test_the_dial_runs_from_blocks_to_the_balanced_mask():
    ends = [dialled_mask(place, **SIZES) for place in (0.0, 0.25, 0.5, 0.75, 1.0)]
    assert supports(ends[0]) == -(-60 // 7)
    assert ends[-1] == make_mask("balanced", **SIZES)
    counts = [supports(mask) for mask in ends]
    assert counts == sorted(counts)
    assert counts[1] > 5 * counts[0]
    shared_with_blocks = [
        np.mean([len(set(a) & set(b)) for a, b in zip(ends[0].rows, mask.rows, strict=True)]) for mask in ends
    ]
    assert shared_with_blocks == sorted(shared_with_blocks, reverse=True)
    assert shared_with_blocks[0] == 7
    nearest = [mean_largest_overlap(mask) for mask in ends]
    assert nearest == sorted(nearest, reverse=True)
    assert (nearest[0], nearest[-1]) == (7, by_hand(ends[-1]))
    assert nearest[0] - nearest[1] < 0.6 * (nearest[0] - nearest[-1])  # little by little


def test_shared_and_banded_supports_are_few():
    assert supports(shared_mask(**SIZES)) == -(-2 * 60 // 7)
    assert supports(banded_mask(**SIZES)) == 60
    degrees = shared_mask(**SIZES).right_degrees()
    assert degrees.max() <= 2.5 * degrees.mean()


def test_a_seed_names_a_mask():
    for make in (shared_mask, lambda **s: dialled_mask(0.5, **s)):
        assert make(**SIZES) == make(**SIZES)
        assert make(**SIZES) != make(**{**SIZES, "seed": 4})
    with pytest.raises(ExpanderSaeError, match="diversity from 0 to 1"):
        dialled_mask(1.5, **SIZES)
