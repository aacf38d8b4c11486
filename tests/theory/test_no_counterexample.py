"""Random small dictionaries, enumerated: none contradicts a theorem, and every premise is met often enough to count."""

from collections import Counter
from itertools import combinations, product

import numpy as np
import pytest
import small_dictionaries as small
import torch
from scipy.optimize import linprog, nnls

from expander_sae.graphs import Mask, make_mask
from expander_sae.graphs.expansion import core_size, expansion_loss_bound, spectral_expansion, unpeeled
from expander_sae.graphs.overlap import overlap_profile
from expander_sae.ops import Codes
from expander_sae.theory import dictionary_coherence, flatness, posterior_certificates, unique_by_coverage
from expander_sae.theory.average import one_shot_failure
from expander_sae.theory.coherence import babel_from_overlaps
from expander_sae.theory.identifiability import (
    generic_size,
    spark_from_babel,
    stability_constant,
    stable_size,
    stopping_distance_bound,
    stopping_distance_from_expansion,
)
from expander_sae.theory.ratio import ratio_decode
from expander_sae.theory.recovery import (
    omp_k,
    omp_k_from_overlap,
    omp_noise_limit,
    one_shot_k,
    welch_coherence,
)
from expander_sae.theory.stability import (
    babel_from_expansion,
    l1_recovery_k,
    mass_profile,
    nonnegative_k,
    profile_constant,
)


class Instance:
    """A dictionary of at most eight columns and everything enumeration says about it."""

    def __init__(self, seed: int) -> None:
        self.rng = rng = np.random.default_rng(seed)
        n_latents, degree = int(rng.integers(3, 8)), int(rng.integers(2, 6))
        d_in = int(rng.integers(max(4, degree), 11 if seed % 2 else 26))
        if seed % 3 == 0:
            self.mask: Mask = make_mask("greedy", d_in=d_in, n_latents=n_latents, degree=degree, seed=seed)
        else:
            self.mask = small.random_mask(rng, d_in=d_in, n_latents=n_latents, degree=degree)
        self.values = rng.uniform(1, rng.uniform(1, 2.5), self.mask.rows.shape)
        if seed % 4:
            self.values *= rng.choice([-1.0, 1.0], self.values.shape)  # else positive: seeds for `programs`
        self.w = small.dense(self.mask, self.values)
        self.subsets = list(small.subsets(n_latents, n_latents))
        incidence = (self.w != 0).astype(int)
        self.losses, self.distance, self.spark, self.hall = np.zeros(n_latents + 1), np.inf, np.inf, np.inf
        for size in range(1, n_latents + 1):
            sets = np.array(list(combinations(range(n_latents), size)))
            times = incidence[:, sets].sum(axis=2)  # [d_in, sets]
            met = (times > 0).sum(axis=0)
            self.losses[size] = 1 - met.min() / (degree * size)
            if not (times == 1).any(axis=0).all():
                self.distance = min(self.distance, size)
            if met.min() < size:
                self.hall = min(self.hall, size)
            columns = self.w[:, sets].transpose(1, 0, 2)
            if size > d_in or np.linalg.svd(columns, compute_uv=False)[:, -1].min() < 1e-9:
                self.spark = min(self.spark, size)
        self.losses = np.maximum.accumulate(self.losses)
        self.overlaps = overlap_profile(self.mask, p_max=n_latents)
        self.beta = flatness(self.values).largest
        self.dictionary = small.sparse(self.mask, self.values)
        self.coherence = dictionary_coherence(self.dictionary, p_max=n_latents)

    def code(self, size: int, *, spread: float = 3.0, positive: bool = False) -> tuple[np.ndarray, np.ndarray]:
        """A support of that size and values whose magnitudes differ by at most `spread`."""
        support = self.rng.choice(self.mask.n_latents, size, replace=False)
        values = self.rng.uniform(1, spread, size)
        return support, values if positive else values * self.rng.choice([-1, 1], size)


def check(seed: int, met: Counter[str]) -> None:
    one = Instance(seed)
    identifiability(one, met)
    stability(one, met)
    pursuit(one, met)
    if seed % 4 == 0:
        single_codes(one, met)
    if seed % 16 == 0:
        programs(one, met)


def identifiability(one: Instance, met: Counter[str]) -> None:
    mask, n = one.mask, one.mask.n_latents
    assert one.spark >= one.distance
    assert one.distance > min(stopping_distance_bound(one.overlaps.babel, mask.degree), n)
    assert one.hall > min(generic_size(one.overlaps.babel, mask.degree), n)
    assert one.spark > min(spark_from_babel(one.coherence.babel), n)
    for s in range(1, n + 1):
        if one.losses[s] < 0.5:
            met["expansion gives stopping distance"] += 1
            assert one.distance >= stopping_distance_from_expansion(s, one.losses[s])
        if core_size(mask, s) == 0:
            met["core"] += 1
            assert one.distance > s
    assert (unpeeled(mask, np.arange(n)).size == 0) == np.isinf(one.distance)


def stability(one: Instance, met: Counter[str]) -> None:
    mask, n = one.mask, one.mask.n_latents
    certified = expansion_loss_bound(one.overlaps.babel, mask.degree)[: n + 1]
    assert (one.losses <= certified + 1e-12).all()
    spectrum = spectral_expansion(mask)
    profile = mass_profile(one.values)
    for subset in one.subsets[:: max(1, len(one.subsets) // 8)]:
        size = len(subset)
        assert small.neighbours(mask, subset) >= spectrum.neighbours(size) - 1e-6
        loss = one.losses[size]
        constant = profile_constant(loss, profile)
        assert constant >= stability_constant(loss, one.beta) - 1e-12
        code = one.rng.normal(size=size) * np.exp(one.rng.normal(size=size))
        mass = (np.abs(one.w[:, subset]).sum(axis=0) * np.abs(code)).sum()
        met["stable"] += constant > 0
        assert np.abs(one.w[:, subset] @ code).sum() >= constant * mass - 1e-9
    size = min(stable_size(one.overlaps.babel, mask.degree, one.beta), n)
    assert one.losses[size] < 1 / (1 + one.beta)
    babel = one.coherence.babel
    assert (babel <= babel_from_overlaps(one.overlaps.babel, mask.degree, one.beta) + 1e-9).all()
    assert (babel[:n] <= babel_from_expansion(one.losses, one.beta) + 1e-9).all()
    for p in range(1, int(np.sqrt(n - 1)) + 1):
        assert babel[p] >= p * welch_coherence(mask.d_in, n) - 1e-9


def pursuit(one: Instance, met: Counter[str]) -> None:
    n, babel = one.mask.n_latents, one.coherence.babel
    k = min(omp_k(babel), n)
    assert min(omp_k_from_overlap(one.overlaps.largest, one.mask.degree, one.beta), n) <= k
    for size in range(1, k + 1):
        met[f"omp {min(size, 2)}"] += 1
        support, code = one.code(size, spread=20.0)
        y, chosen = one.w[:, support] @ code, set(support.tolist())
        assert small.orthogonal_matching_pursuit(one.w, y, size) == chosen
        positive = one.w[:, support] @ np.abs(code)
        assert small.orthogonal_matching_pursuit(one.w, positive, size, signed=True) == chosen
        assert _nonnegative_omp(one.w, positive, size) == chosen
        noise = one.rng.normal(size=len(y))
        noise *= 0.999 * omp_noise_limit(babel, size) * np.abs(code).min() / np.linalg.norm(noise)
        assert small.orthogonal_matching_pursuit(one.w, y + noise, size) == chosen
        assert _nonnegative_omp(one.w, positive + noise, size) == chosen
    spread = float(one.rng.uniform(1, 3))
    for size in range(1, min(one_shot_k(babel, babel, spread), n) + 1):
        met["one shot"] += size > 1
        support, code = one.code(size, spread=spread)
        scores = np.abs(one.w.T @ (one.w[:, support] @ code))
        assert set(np.argsort(-scores)[:size].tolist()) == set(support.tolist())
    for size in range(1, min(one_shot_k(one.coherence.negative, one.coherence.positive, spread), n) + 1):
        support, code = one.code(size, spread=spread, positive=True)
        scores = one.w.T @ (one.w[:, support] @ code)
        assert set(np.argsort(-scores)[:size].tolist()) == set(support.tolist())


def _nonnegative_omp(w: np.ndarray, y: np.ndarray, steps: int) -> set[int]:
    chosen: list[int] = []
    residual = y
    for _ in range(steps):
        chosen.append(int(np.argmax(w.T @ residual)))
        residual = y - w[:, chosen] @ nnls(w[:, chosen], y)[0]
    return set(chosen)


def single_codes(one: Instance, met: Counter[str]) -> None:
    n, w = one.mask.n_latents, one.w
    size = int(one.rng.integers(1, 4))
    if size >= n:
        return
    support, code = one.code(size)
    noise = one.rng.normal(size=one.mask.d_in)
    y = w[:, support] @ code + 0.1 * noise / np.linalg.norm(noise)
    codes = Codes(torch.tensor(support)[None], torch.tensor(code)[None])
    found = posterior_certificates(torch.tensor(y)[None], codes, one.dictionary)
    chosen, sub = set(support.tolist()), w[:, support]
    others = [j for j in range(n) if j not in chosen]
    if bool(found.omp[0]):
        met["single omp"] += 1
        assert small.orthogonal_matching_pursuit(w, y, size) == chosen
    if float(found.sigma_min[0]) > 1e-4:
        error = float(found.error[0])
        swaps = [[j if c == i else c for c in support.tolist()] for i in support.tolist() for j in others]
        best = min(np.sum((y - w[:, s] @ np.linalg.lstsq(w[:, s], y, rcond=None)[0]) ** 2) for s in swaps)
        if float(found.distance[0]) > 1e-3:
            met["swap"] += float(found.swap_gain[0]) <= 0
            assert float(found.swap_gain[0]) == pytest.approx(error - best, abs=1e-6)
        assert float(found.any_support_floor[0]) <= float(found.coverage_floor[0]) + 1e-12 <= error + 1e-9
    if bool(unique_by_coverage(codes, one.dictionary.rows, d_in=one.mask.d_in)[0]):
        met["coverage"] += 1
        clean = sub @ code
        for rival in combinations(range(n), size):
            if set(rival) != chosen:
                part = w[:, list(rival)]
                assert np.linalg.norm(clean - part @ np.linalg.lstsq(part, clean, rcond=None)[0]) > 1e-9
    failures = 0
    for signs in product([-1, 1], repeat=size):
        scores = np.abs(w.T @ (sub @ (np.abs(code) * np.array(signs))))
        failures += set(np.argsort(-scores)[:size].tolist()) != chosen
    bound = one_shot_failure(one.dictionary, support, np.abs(code))
    met["average"] += bound < 1
    assert failures / 2**size <= bound
    if one.overlaps.largest + 1 <= one.mask.degree:
        scaled = sub * np.linalg.norm(one.values[support], axis=1)
        decoded = ratio_decode(one.dictionary, scaled @ code, votes=max(2, one.overlaps.largest + 1))
        if one.losses[size] < (1 - max(1, one.overlaps.largest) / one.mask.degree) / 2:
            met["ratio"] += 1
            assert decoded is not None
            assert np.flatnonzero(decoded).tolist() == sorted(chosen)


def programs(one: Instance, met: Counter[str]) -> None:
    """Linear programs: l1 recovery, and uniqueness of non-negative codes where all values are positive."""
    n, w = one.mask.n_latents, one.w
    weight = np.abs(w).sum(axis=0)
    for size in range(1, l1_recovery_k(one.losses, one.beta) + 1):
        met["l1"] += 1
        support, code = one.code(size)
        x = np.zeros(n)
        x[support] = code
        found = linprog(np.tile(weight, 2), A_eq=np.hstack([w, -w]), b_eq=w @ x, bounds=(0, None)).x
        assert found[:n] - found[n:] == pytest.approx(x, abs=1e-6)
    if (one.values > 0).all():
        for size in range(1, min(nonnegative_k(one.losses), n) + 1):
            met["nonnegative"] += 1
            support, code = one.code(size, positive=True)
            x = np.zeros(n)
            x[support] = code
            assert linprog(one.rng.normal(size=n), A_eq=w, b_eq=w @ x, bounds=(0, None)).x == pytest.approx(x, abs=1e-6)


PREMISES = (
    "expansion gives stopping distance", "core", "stable", "omp 1", "omp 2", "one shot", "single omp", "swap",
    "coverage", "average", "ratio", "l1", "nonnegative",
)  # fmt: skip


def run(seeds: range) -> None:
    met: Counter[str] = Counter()
    for seed in seeds:
        try:
            check(seed, met)
        except AssertionError as error:
            raise AssertionError(f"seed {seed} contradicts a theorem") from error
    rare = {premise: met[premise] for premise in PREMISES if met[premise] < len(seeds) // 100}
    assert not rare, f"hardly tested: {rare} of {len(seeds)}"


def test_no_theorem_is_contradicted() -> None:
    run(range(1000))


@pytest.mark.slow
@pytest.mark.timeout(7200)
@pytest.mark.parametrize("part", range(1, 100))
def test_no_theorem_is_contradicted_by_a_hundred_thousand(part: int) -> None:
    run(range(1000 * part, 1000 * (part + 1)))
