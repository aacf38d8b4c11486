"""Certificates of single codes against enumeration, quadratic programs in closed form, and OMP itself."""

from itertools import combinations

import numpy as np
import pytest
import small_dictionaries as small
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from expander_sae.graphs import make_mask
from expander_sae.graphs.expansion import unpeeled
from expander_sae.ops import Codes, Dictionary
from expander_sae.records import ExpanderSaeError
from expander_sae.theory import CodeShares, encoder_margin, posterior_certificates, unique_by_coverage
from expander_sae.theory.shares import MEANINGS


def _case(seed: int, *, noise: float = 0.2, positive: bool = False, n_latents: int = 9):
    rng = np.random.default_rng(seed)
    mask = small.random_mask(rng, d_in=10, n_latents=n_latents, degree=int(rng.integers(2, 5)))
    values = small.flat_values(rng, mask, 2.0)
    w = small.dense(mask, values)
    k = int(rng.integers(1, 4))
    support = rng.choice(n_latents, k, replace=False)
    code = rng.uniform(0.5, 1.5, k) * (1 if positive else rng.choice([-1, 1], k))
    y = w[:, support] @ code + noise * rng.normal(size=10) / np.sqrt(10)
    codes = Codes(torch.tensor(support)[None], torch.tensor(code)[None])
    rows, weights = torch.tensor(mask.rows.astype(np.int64)), torch.tensor(values)
    return rng, mask, w, support, y, codes, rows, weights


def _lasso(w: np.ndarray, y: np.ndarray, gamma: float, *, nonnegative: bool) -> np.ndarray:
    """Coordinate descent to machine precision; the objective is strictly convex where it matters."""
    x = np.zeros(w.shape[1])
    residual = y.copy()
    for _ in range(4000):
        before = x.copy()
        for j in range(len(x)):
            z = x[j] + w[:, j] @ residual
            new = max(z - gamma, 0.0) if nonnegative else np.sign(z) * max(abs(z) - gamma, 0.0)
            residual += w[:, j] * (x[j] - new)
            x[j] = new
        if np.abs(x - before).max() < 1e-14:
            break
    return x


@given(st.integers(0, 100_000), st.booleans())
@settings(max_examples=80, deadline=None)
def test_certified_supports_are_what_the_lasso_and_omp_find(seed: int, positive: bool) -> None:
    _, _, w, support, y, codes, rows, values = _case(seed, positive=positive)
    found = posterior_certificates(torch.tensor(y)[None], codes, Dictionary(rows, values, 10), nonnegative=positive)
    chosen = set(support.tolist())
    if found.lasso[0]:
        low, high = float(found.lasso_low[0]), min(float(found.lasso_high[0]), float(found.lasso_low[0]) + 1.0)
        x = _lasso(w, y, (low + high) / 2, nonnegative=positive)
        assert set(np.flatnonzero(np.abs(x) > 1e-9).tolist()) == chosen
    if found.omp[0]:
        assert small.orthogonal_matching_pursuit(w, y, len(support)) == chosen
    sub = w[:, support]
    assert float(found.sigma_min[0]) == pytest.approx(np.linalg.svd(sub, compute_uv=False)[-1], abs=1e-6)
    assert float(found.error[0]) == pytest.approx(
        np.sum((y - sub @ np.linalg.lstsq(sub, y, rcond=None)[0]) ** 2), abs=1e-9
    )


@given(st.integers(0, 100_000))
@settings(max_examples=80, deadline=None)
def test_projection_certificates_are_what_enumeration_says(seed: int) -> None:
    _, _, w, support, y, codes, rows, values = _case(seed)
    found = posterior_certificates(torch.tensor(y)[None], codes, Dictionary(rows, values, 10))
    sub = w[:, support]
    if np.linalg.svd(sub, compute_uv=False)[-1] < 1e-4:
        return
    others = [j for j in range(w.shape[1]) if j not in support]
    inverse = np.linalg.pinv(sub)
    recovery = 1 - max(np.abs(inverse @ w[:, j]).sum() for j in others)
    assert float(found.exact_recovery[0]) == pytest.approx(recovery, abs=1e-7)
    distance = min(np.linalg.norm(w[:, j] - sub @ inverse @ w[:, j]) for j in others)
    assert float(found.distance[0]) == pytest.approx(distance, abs=1e-6)

    def error(columns: list[int]) -> float:
        part = w[:, columns]
        return float(np.sum((y - part @ np.linalg.lstsq(part, y, rcond=None)[0]) ** 2))

    gain = max(
        error(support.tolist()) - error([j if c == i else c for c in support.tolist()])
        for i in support.tolist()
        for j in others
    )
    if distance > 1e-3:
        assert float(found.swap_gain[0]) == pytest.approx(gain, abs=1e-6)
    sign = np.sign(np.linalg.lstsq(sub, y, rcond=None)[0])
    reach = max(abs(w[:, j] @ inverse.T @ sign) for j in others)
    assert float(found.fuchs_margin[0]) == pytest.approx(1 - reach, abs=1e-7)
    # ERC(S) > 0 is Fuchs for every choice of signs.
    worst = max(
        abs(w[:, j] @ inverse.T @ np.array(signs))
        for j in others
        for signs in np.array(np.meshgrid(*[[-1, 1]] * len(support))).reshape(len(support), -1).T
    )
    assert recovery == pytest.approx(1 - worst)


@given(st.integers(0, 100_000))
@settings(max_examples=60, deadline=None)
def test_no_code_on_the_mask_goes_below_the_floors(seed: int) -> None:
    rng, mask, _, support, y, codes, rows, values = _case(seed, noise=1.0)
    found = posterior_certificates(torch.tensor(y)[None], codes, Dictionary(rows, values, 10))
    covered = np.zeros(10, bool)
    covered[mask.rows[support].astype(int).ravel()] = True
    assert float(found.coverage_floor[0]) == pytest.approx(np.sum(y[~covered] ** 2))
    assert float(found.any_support_floor[0]) <= float(found.coverage_floor[0]) + 1e-12
    assert float(found.coverage_floor[0]) <= float(found.error[0]) + 1e-9
    k = len(support)
    for other in combinations(range(9), k):
        w = small.dense(mask, small.flat_values(rng, mask, 5.0))[:, list(other)]
        left = np.sum((y - w @ np.linalg.lstsq(w, y, rcond=None)[0]) ** 2)
        assert left >= float(found.any_support_floor[0]) - 1e-9


@given(st.integers(0, 100_000))
@settings(max_examples=60, deadline=None)
def test_codes_certified_unique_are_unique(seed: int) -> None:
    _, _, w, support, y, codes, rows, values = _case(seed, noise=0.0)
    found = posterior_certificates(torch.tensor(y)[None], codes, Dictionary(rows, values, 10))
    unique = float(found.distance[0]) > 1e-6 and float(found.sigma_min[0]) > 1e-6
    if unique_by_coverage(codes, rows, d_in=10)[0]:
        assert float(found.distance[0]) > 0
        unique = True
    if not unique:
        return
    # The code is random, so it avoids the measure-zero exceptions.
    for other in combinations(range(9), len(support)):
        if set(other) != set(support.tolist()):
            part = w[:, list(other)]
            left = np.linalg.norm(y - part @ np.linalg.lstsq(part, y, rcond=None)[0])
            assert left > 1e-8


def test_recovery_certificates_do_not_promise_the_sparsest_code() -> None:
    """Three orthonormal columns and two that span one of their combinations: ERC > 0, yet two columns suffice."""
    u = np.array([1, 1, 1, 0]) / np.sqrt(3)
    e4 = np.array([0, 0, 0, 1.0])
    w = np.stack([*np.eye(4)[:3], u / 2 + np.sqrt(0.75) * e4, u / 2 - np.sqrt(0.75) * e4])
    dictionary = Dictionary.of_matrix(torch.tensor(w))
    y = torch.tensor(w[3] + w[4])[None]
    codes = Codes(torch.tensor([[0, 1, 2]]), torch.ones(1, 3))
    found = posterior_certificates(y, codes, dictionary)
    assert float(found.exact_recovery[0]) == pytest.approx(1 - np.sqrt(3) / 2, abs=1e-9)
    assert found.fuchs[0]
    pair = posterior_certificates(y, Codes(torch.tensor([[3, 4]]), torch.ones(1, 2)), dictionary)
    assert float(pair.error[0]) == pytest.approx(0, abs=1e-12)


def test_unused_slots_and_batches_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    mask = make_mask("uniform", d_in=40, n_latents=120, degree=5, seed=0)
    generator = torch.Generator().manual_seed(0)
    rows = torch.from_numpy(mask.rows.astype(np.uint16))
    values = torch.randn(120, 5, generator=generator)
    dictionary = Dictionary(rows, values, 40)
    x = torch.randn(6, 40, generator=generator)
    indices = torch.stack([torch.randperm(120, generator=generator)[:4] for _ in range(6)])
    code = torch.rand(6, 4, generator=generator) + 0.5
    plain = posterior_certificates(x, Codes(indices, code), dictionary)
    # Unused slots may name any latent, one in use too.
    padded = Codes(torch.cat([indices, indices[:, :2]], 1), torch.cat([code, torch.zeros(6, 2)], 1))
    wide = posterior_certificates(x, padded, dictionary)
    monkeypatch.setattr("expander_sae.theory.posterior._ENTRIES", 500)
    monkeypatch.setattr("expander_sae.theory.factors._ENTRIES", 500)
    monkeypatch.setattr("expander_sae.theory.sweep._WIDTH", 7)
    monkeypatch.setattr("expander_sae.theory.sweep._CACHED", 100)
    monkeypatch.setattr("expander_sae.theory.sweep._SPARSE_WINS", 1000)
    short = posterior_certificates(x, Codes(indices, code), dictionary)
    for name, one, two, three in zip(plain._fields, plain, wide, short, strict=True):
        assert torch.allclose(one.double(), two.double(), atol=1e-9), name
        assert torch.allclose(one.double(), three.double(), atol=1e-9), name
    order = torch.tensor([4, 2, 0, 1, 3])
    turned = posterior_certificates(x, Codes(indices, code), Dictionary(rows.long()[:, order], values[:, order], 40))
    assert torch.allclose(turned.swap_gain, plain.swap_gain)
    light = posterior_certificates(x, Codes(indices, code), dictionary, full=False)
    assert torch.equal(light.fuchs, plain.fuchs)
    assert light.exact_recovery.isnan().all()
    assert not light.omp.any()
    nothing = posterior_certificates(x, Codes(indices, torch.zeros(6, 4)), dictionary)
    assert nothing.active.sum() == 0
    assert torch.allclose(nothing.error, x.double().square().sum(1))
    assert torch.allclose(nothing.coverage_floor, nothing.error)


def test_dependent_supports_are_certified_for_nothing() -> None:
    rows = torch.tensor([[0, 1], [0, 1], [1, 2]])
    values = torch.ones(3, 2)
    x = torch.tensor([[1.0, 1.0, 0.0]])
    found = posterior_certificates(x, Codes(torch.tensor([[0, 1]]), torch.ones(1, 2)), Dictionary(rows, values, 3))
    assert not found.fuchs[0]
    assert not found.lasso[0]
    assert not found.omp[0]
    assert float(found.sigma_min[0]) < 1e-6
    assert float(found.distance[0]) == 0


def test_coverage_is_peeling_and_containment_token_by_token() -> None:
    mask = make_mask("uniform", d_in=24, n_latents=60, degree=3, seed=1)
    rows = torch.from_numpy(mask.rows.astype(np.int64))
    generator = torch.Generator().manual_seed(1)
    indices = torch.stack([torch.randperm(60, generator=generator)[:7] for _ in range(60)])
    code = (torch.rand(60, 7, generator=generator) > 0.3).float()
    found = unique_by_coverage(Codes(indices, code), rows, d_in=24)
    for token in range(60):
        support = indices[token][code[token] != 0].numpy()
        met = set(mask.rows[support].ravel().tolist())
        contained = any(set(mask.rows[j].tolist()) <= met for j in range(60) if j not in support)
        assert bool(found[token]) == (unpeeled(mask, support).size == 0 and not contained)
    assert 0 < found.double().mean() < 1


def test_shares_are_counts_over_batches() -> None:
    mask = make_mask("greedy", d_in=40, n_latents=100, degree=4, seed=0)
    rows, values = torch.from_numpy(mask.rows.astype(np.int64)), torch.ones(100, 4)
    generator = torch.Generator().manual_seed(0)
    indices = torch.stack([torch.randperm(100, generator=generator)[:3] for _ in range(50)])
    code = torch.rand(50, 3, generator=generator) + 0.5
    x = torch.zeros(50, 40).scatter_add_(1, rows[indices].flatten(1), code.repeat_interleave(4, 1))
    x += 0.05 * torch.randn(50, 40, generator=generator)
    dictionary = Dictionary(rows, values, 40)
    shares = CodeShares(dictionary)
    shares.update(x[:20], Codes(indices[:20], code[:20]))
    shares.update(x[20:], Codes(indices[20:], code[20:]))
    summary, found = shares.summary(), posterior_certificates(x, Codes(indices, code), dictionary, nonnegative=True)
    assert summary["tokens"] == 50
    assert 0 < summary["share"]["exact_recovery"] == float((found.exact_recovery > 0).double().mean())
    assert summary["share"]["swap_optimal"] == float((found.swap_gain <= 0).double().mean()) > 0
    assert 0 < summary["share"]["lasso"] == float(found.lasso.double().mean())
    assert summary["any_support_floor_share"] <= summary["coverage_floor_share"] <= summary["refit_error_share"]
    assert set(summary["share"]) == set(MEANINGS)
    dense = torch.zeros(100, 40).scatter_(1, rows, values) / 2
    margins = encoder_margin(x @ dense.T, 3) / (2 * x.norm(dim=1))
    assert summary["encoder_margin_median"] == pytest.approx(float(margins.median()), rel=1e-4)


def test_a_negative_code_changes_the_alternatives_of_its_own_token_only() -> None:
    """w_2 = -(w_0 + w_1) / sqrt 2 beats the code -1, -1, which only signed alternatives could be held against."""
    rows, values = torch.tensor([[0, 1], [0, 1], [0, 1]]), torch.tensor([[1.0, 0.0], [0.0, 1.0], [-(0.5**0.5)] * 2])
    indices = torch.tensor([[0, 1], [0, 1]])
    code = torch.tensor([[1.0, 1.0], [-1.0, -1.0]])
    shares, alone = CodeShares(Dictionary(rows, values, 2)), CodeShares(Dictionary(rows, values, 2))
    shares.update(code, Codes(indices, code))
    alone.update(code[:1], Codes(indices[:1], code[:1]))
    assert alone.summary()["share"]["fuchs"] == 1.0  # against x >= 0; w_2 points the other way
    assert shares.summary()["share"]["fuchs"] == 0.5  # w_2 needs less l1 norm for the second token


def test_margin_keeps_the_support() -> None:
    scores = torch.tensor([[5.0, 3.0, 2.0, -1.0]])
    assert encoder_margin(scores, 2).tolist() == [1.0]
    with pytest.raises(ExpanderSaeError, match="k from 1 to 3"):
        encoder_margin(scores, 4)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"x": torch.ones(2, 4)}, "batch"),
        ({"x": torch.ones(1, 3)}, "d_in"),
        ({"codes": Codes(torch.tensor([[0, 0]]), torch.ones(1, 2))}, "twice"),
        ({"codes": Codes(torch.tensor([[9]]), torch.ones(1, 1))}, "indices"),
        ({"x": torch.full((1, 4), torch.nan)}, "finite"),
        ({"values": torch.zeros(3, 2)}, "zero column"),
        ({"values": torch.ones(3, 3)}, "expected rows"),
        ({"rows": torch.tensor([[0, 0], [1, 2], [2, 3]])}, "distinct"),
        ({"codes": Codes(torch.zeros(1, 0, dtype=torch.long), torch.zeros(1, 0))}, "at least one"),
    ],
)
def test_bad_input_says_why(change: dict, words: str) -> None:
    request = {
        "x": torch.ones(1, 4),
        "codes": Codes(torch.tensor([[0]]), torch.ones(1, 1)),
        "rows": torch.tensor([[0, 1], [1, 2], [2, 3]]),
        "values": torch.ones(3, 2),
    } | change
    with pytest.raises(ExpanderSaeError, match=words):
        certified(**request)


def certified(x, codes, rows, values):
    return posterior_certificates(x, codes, Dictionary(rows, values, 4))
