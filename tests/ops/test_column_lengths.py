"""Columns with zeros behind their entries: the core stops there, and finds what it finds with the zeros in front."""

import pytest
import torch

from expander_sae.ops import Dictionary, correlate, encode_topk
from expander_sae.pursuit import OMP, Encoder, GradientPursuit, MatchingPursuit, NonNegativeOMP, Refit, Stages

DEGREE = 20


def columns(seed=0, n_latents=300, d_in=96):
    """Rows and unit columns of one to twenty entries, the rest zeros, one column of nothing else."""
    draw = torch.Generator().manual_seed(seed)
    rows = torch.rand(n_latents, d_in, generator=draw).argsort(dim=1)[:, :DEGREE]
    lengths = torch.randint(1, DEGREE // 2, (n_latents, 1), generator=draw)
    lengths[::17] = DEGREE
    values = torch.randn(n_latents, DEGREE, generator=draw) * (torch.arange(DEGREE) < lengths)
    values = values / values.norm(dim=1, keepdim=True)
    values[40] = 0.0
    return rows, values, torch.randn(70, d_in, generator=draw)


@pytest.mark.parametrize("batch", [1, 7, 70])
def test_the_encoder_and_the_correlations_are_those_of_the_same_columns(batch):
    rows, values, x = columns()
    x = x[:batch]
    codes = encode_topk(x, rows, values, 8, backend="native")
    before = encode_topk(x, rows.flip(1), values.flip(1), 8, backend="native")
    wanted = encode_topk(x, rows, values, 8, backend="reference")
    for other in (before, wanted):
        assert torch.equal(codes.indices, other.indices)
        assert torch.allclose(codes.values, other.values, atol=1e-5)
    assert torch.allclose(correlate(x, rows, values), x @ Dictionary(rows, values, 96).dense().T, atol=1e-5)


@pytest.mark.parametrize(
    "reading",
    [Encoder(), Refit(), Stages(2, 0), Stages(4, 3), OMP(), NonNegativeOMP(), MatchingPursuit(), GradientPursuit()],
    ids=str,
)
def test_every_reading_is_that_of_the_same_columns(reading):
    rows, values, x = columns(seed=1)
    found = reading.codes(Dictionary(rows, values, 96, signed=True), x, 8)
    other = reading.codes(Dictionary(rows.flip(1), values.flip(1), 96, signed=True), x, 8)
    assert not bool((found.indices[found.values != 0] == 40).any())
    same = (found.indices == other.indices).all(1)
    assert same.float().mean() > 0.95  # sums in another order may decide between columns that are equally good
    assert torch.allclose(found.values[same], other.values[same], atol=1e-4)
