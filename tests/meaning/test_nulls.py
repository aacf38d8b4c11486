"""Nulls made out of a trained SAE: each keeps one half of it."""

import pytest
import torch

from expander_sae import ExpanderSae, fit
from expander_sae.evaluation.nulls import redrawn_values, shuffled_rows
from expander_sae.saes import IrregularSae


@pytest.fixture(scope="module")
def activations():
    draw = torch.Generator().manual_seed(0)
    return torch.relu(torch.randn(3000, 60, generator=draw) - 1) @ torch.randn(60, 32, generator=draw)


def supports(sae):
    return [tuple(rows) for rows in sae.mask.rows.tolist()]


@pytest.mark.parametrize("tied", [True, False])
def test_shuffled_rows_keep_values_and_supports_apart(tied):
    sae = ExpanderSae(d_in=32, n_latents=80, degree=4, k=4, tied=tied, latent_bias=True).eval()
    null = shuffled_rows(sae, seed=3)
    assert supports(null) != supports(sae)
    assert sorted(supports(null)) == sorted(supports(sae))
    assert null.values.equal(sae.values)
    assert null.learned_values() == sae.learned_values()
    assert supports(shuffled_rows(sae, seed=3)) == supports(null)
    assert supports(shuffled_rows(sae, seed=4)) != supports(null)


@pytest.mark.parametrize("tied", [True, False])
def test_redrawn_values_keep_the_supports(tied):
    sae = ExpanderSae(d_in=32, n_latents=80, degree=4, k=4, tied=tied).eval()
    sae.b_dec.data.fill_(2.0)
    null = redrawn_values(sae, seed=3)
    assert supports(null) == supports(sae)
    assert float((null.values * sae.values).detach().sum(1).abs().mean()) < 0.7
    assert null.values.norm(dim=1).tolist() == pytest.approx([1.0] * 80, abs=1e-5)
    assert null.center().equal(sae.center())
    if not tied:
        assert null.encoder.equal(null.values)
    assert not sae.values.equal(null.values)


def test_slots_without_an_entry_stay_empty():
    sae = IrregularSae(d_in=32, n_latents=80, degree=8, entries=240, k=4).eval()
    for null in (redrawn_values(sae), shuffled_rows(sae)):
        assert null.column_degrees().tolist() == sae.column_degrees().tolist()


def test_a_trained_sae_rebuilds_more_than_its_halves(activations):
    sae = ExpanderSae(d_in=32, n_latents=96, degree=6, k=6)
    fit(sae, activations, tokens=60_000, progress=False)
    with torch.no_grad():
        before = sae(activations)
        rebuilt = [of(activations) for of in (sae, shuffled_rows(sae), redrawn_values(sae))]
        lost = [float((x - activations).square().sum()) for x in rebuilt]
        assert lost[0] < 0.8 * min(lost[1:])
        assert sae(activations).equal(before)
