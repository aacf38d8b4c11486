"""Planted codes, intervals, coverage and geometry, against their definitions."""

import numpy as np
import pytest
import torch

from expander_sae.evaluation.planted import CODES, METHODS, VALUES, Planted, exact_supports, plant, reach
from expander_sae.frontier.drawing import rate_lines, rate_map
from expander_sae.frontier.experiments.certificate_gap import _size
from expander_sae.frontier.experiments.collisions import coverage
from expander_sae.frontier.experiments.synthetic import _beside_the_paper
from expander_sae.graphs import make_mask
from expander_sae.ops import Dictionary
from expander_sae.paper import paper_recoveries
from expander_sae.records import ExpanderSaeError
from expander_sae.records.spread import Rate
from expander_sae.theory.geometry import diagnose

GRID = (4, 8, 12, 16, 32, 48, 64)
BASE = Planted(96, 256, 6)


@pytest.mark.parametrize("construction", ["balanced", "dense", "galois"])
@pytest.mark.parametrize("codes", CODES)
def test_planted_codes_are_what_they_say(construction, codes):
    planted = BASE.but(construction=construction, codes=codes, values="uneven")
    y, supports, (rows, values) = plant(planted, 3, 5, 12)
    assert values.norm(dim=1).allclose(torch.ones(256))
    dense = values if rows is None else torch.zeros(256, 96).scatter_(1, rows, values)
    for token in range(12):
        columns = dense[supports[token]].double()
        code, residual = np.linalg.lstsq(columns.T.numpy(), y[token].double().numpy(), rcond=None)[:2]
        assert residual.sum() < 1e-9
        sizes = np.abs(code)
        assert (sizes > 0).all()
        if codes == "half-gaussian":
            assert (code > 0).all()
        if codes == "signs":
            assert sizes == pytest.approx(np.ones(5), abs=1e-4)
        if codes == "uniform":
            assert sizes.min() > 0.4999
            assert sizes.max() < 1.5001
    assert len({tuple(row) for row in supports.tolist()}) == 12
    again = plant(planted, 3, 5, 12)
    assert torch.equal(again[0], y)


def test_noise_has_the_norm_asked_for():
    clean, supports, _ = plant(BASE, 0, 4, 6)
    noisy, same, _ = plant(BASE.but(noise=0.25), 0, 4, 6)
    assert torch.equal(supports, same)
    assert ((noisy - clean).norm(dim=1) / clean.norm(dim=1)).allclose(torch.full((6,), 0.25), atol=1e-5)


@pytest.mark.parametrize("method", METHODS)
def test_easy_supports_are_found_and_hopeless_ones_are_not(method):
    easy = BASE.but(codes="signs")
    assert exact_supports(easy, 0, 1, 20, (method,))[method] == 20
    assert exact_supports(BASE.but(noise=30.0), 0, 8, 20, (method,))[method] == 0


def test_flat_values_are_flat():
    for values in VALUES:
        found = plant(BASE.but(values=values), 0, 2, 2)[2][1].abs()
        ratio = float((found.amax(1) / found.amin(1)).max())
        assert {"flat": ratio < 1.001, "uneven": 1.2 < ratio < 2.001, "gaussian": ratio > 5}[values]


def test_planted_refuses_nonsense():
    with pytest.raises(ExpanderSaeError, match="codes of"):
        Planted(8, 16, 2, codes="heavy")
    with pytest.raises(ExpanderSaeError, match="methods out of"):
        exact_supports(BASE, 0, 2, 2, ("guessing",))
    with pytest.raises(ExpanderSaeError, match="k from 1"):
        plant(BASE, 0, 300, 2)


def test_wilson_intervals():
    low, high = Rate(0, 20).interval()
    assert low == 0
    assert high == pytest.approx(0.1611, abs=1e-3)
    low, high = Rate(15, 20).interval()
    assert (low, high) == (pytest.approx(0.5313, abs=1e-3), pytest.approx(0.8881, abs=1e-3))
    draw = np.random.default_rng(0).binomial(200, 0.8, 2000)
    inside = [Rate(int(count), 200).interval()[0] <= 0.8 <= Rate(int(count), 200).interval()[1] for count in draw]
    assert 0.93 < np.mean(inside) < 0.97
    assert Rate(1, 2).text().startswith("0.50\n")
    assert rate_lines("x", "y", [("a", [])], x="k") is None
    assert rate_map("x", "y", [], x="k", y="d") is None


def test_coverage_counts_distinct_rows_of_active_latents():
    rows = torch.tensor([[0, 1], [1, 2], [3, 4]])
    indices, active = torch.tensor([[0, 1], [0, 2]]), torch.tensor([[True, True], [True, False]])
    assert coverage(indices, active, rows, 5).tolist() == [3, 2]


def _flat(mask):
    return Dictionary(torch.from_numpy(mask.rows.astype(np.int64)), torch.ones(mask.rows.shape), mask.d_in)


def test_diagnostics_of_a_flat_mask_of_overlap_one():
    mask = make_mask("greedy", d_in=64, n_latents=96, degree=4, seed=0)
    found = diagnose(_flat(mask), 4)
    assert found["ratio_max"] == found["beta_max"] == pytest.approx(1)
    assert found["mu"] == pytest.approx(found["largest_overlap"] / 4)
    assert found["mu1_k"] <= 4 * found["mu"] + 1e-9
    assert found["epsilon_2k"]["counting"] == 0
    assert found["epsilon_2k"]["top_overlap"] >= 7 / 32 - 1e-9  # one column and seven that meet it
    assert found["R_OMP"] == pytest.approx(max(found["epsilon_k1"].values()) * 9)
    assert found["row_degree_max"] < 1.4
    clustered = make_mask("clustered", d_in=64, n_latents=96, degree=4, seed=0)
    worst = diagnose(_flat(clustered), 4)
    assert worst["epsilon_2k"]["greedy"] >= worst["epsilon_2k"]["top_overlap"] > 0.6


def test_the_papers_grid_is_shipped_whole():
    rows = paper_recoveries()
    assert len(rows) == 90
    assert {row.degree for row in rows} == {7, 30, 50, 100, 200}
    assert all(0 <= row.found.successes <= row.found.trials for row in rows)


def test_rates_stand_beside_the_papers_where_sizes_agree():
    row = {"d_in": 512, "n_latents": 4096, "degree": 7, "k": 128, "noise": 0.0, "trials": 300, "found": {"omp": 45}}
    far = {**row, "k": 4, "found": {"omp": 30}}
    other = {**row, "k": 5}
    table, apart, cells = _beside_the_paper([row, far, other])
    assert (apart, cells) == (1, 2)  # the paper has 0.137 and 1.0
    assert [cell[-1] for cell in table.rows] == ["", "apart"]
    assert _beside_the_paper([other]) == (None, 0, 0)


def test_the_reach_of_a_rate_is_where_it_first_falls():
    assert reach(lambda k: 1.0 if k <= 12 or k > 40 else 0.0, GRID, 0.95) == 12
    assert reach(lambda k: 0.0, GRID, 0.5) == 0
    with pytest.raises(ExpanderSaeError, match="512x4096x7"):
        _size("512x4096")
