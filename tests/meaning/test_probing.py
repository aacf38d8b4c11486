"""Sparse probing: halves, choice of latents, thresholds, and dictionaries of which the answer is known."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import sparse
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import f1_score

from expander_sae import ExpanderSae
from expander_sae.evaluation.meaning import coordinates, latent_features, principal_components
from expander_sae.evaluation.meaning.features import Features
from expander_sae.evaluation.meaning.probing import (
    BestLatents,
    Halves,
    best_threshold,
    can_be_probed,
    f1,
    f1_of_probe,
    halves,
    ranked,
)
from expander_sae.evaluation.nulls import untrained
from expander_sae.pursuit import Encoder, Stages
from expander_sae.saes import DenseTopKSae, IrregularSae


def features_of(values):
    return Features("made up", sparse.csc_matrix(np.asarray(values, dtype=np.float64)))


@given(st.lists(st.integers(0, 12), min_size=2, max_size=60), st.integers(0, 5))
def test_halves_share_no_group_and_go_both_ways(groups, seed):
    groups = np.array(groups)
    if len(np.unique(groups)) < 2:
        return
    one, other = halves(groups, seed=seed)
    assert not set(groups[one.fit]) & set(groups[one.test])
    assert sorted([*one.fit, *one.test]) == list(range(len(groups)))
    assert np.array_equal(one.fit, other.test)
    assert np.array_equal(one.test, other.fit)
    assert abs(len(one.fit) - len(one.test)) <= np.bincount(groups).max()


def test_a_concept_needs_tokens_of_both_kinds_in_both_halves():
    half = Halves(np.arange(20), np.arange(20, 40))
    labels = np.zeros(40, dtype=bool)
    labels[[*range(8), *range(20, 28)]] = True
    assert can_be_probed(labels, half)
    assert not can_be_probed(labels & (np.arange(40) != 3), half)
    assert not can_be_probed(~labels & (np.arange(40) < 30), half)


@given(st.lists(st.tuples(st.integers(0, 6), st.booleans()), min_size=1, max_size=30))
def test_the_threshold_is_the_best_there_is(pairs):
    scores = np.array([float(score) for score, _ in pairs])
    labels = np.array([label for _, label in pairs])
    if not labels.any():
        return
    found = f1(scores >= best_threshold(scores, labels), labels)
    every = [f1(scores >= t, labels) for t in np.arange(-1.0, 8.0, 0.5)]
    assert found == pytest.approx(max(every))


def test_f1_is_sklearns():
    draw = np.random.default_rng(0)
    for _ in range(20):
        called, labels = draw.random(30) < 0.4, draw.random(30) < 0.5
        assert f1(called, labels) == pytest.approx(f1_score(labels, called, zero_division=0))


@pytest.mark.parametrize("selection", ["standardised", "mean difference"])
def test_the_order_is_that_of_the_definition(selection):
    draw = np.random.default_rng(1)
    values = draw.random((60, 7)) * (draw.random((60, 7)) < 0.4)
    labels, rows = draw.random((3, 60)) < 0.3, np.arange(10, 55)
    order = ranked(features_of(values), labels, rows, selection)
    for row in range(3):
        inside, yes = values[rows], labels[row, rows]
        score = np.abs(inside[yes].mean(0) - inside[~yes].mean(0))
        if selection == "standardised":
            score /= inside.std(0)
        assert order[row].tolist() == np.argsort(-score, kind="stable").tolist()


@pytest.mark.parametrize("many", [1, 2, 5])
def test_a_probe_is_a_logistic_regression_at_its_best_threshold(many):
    draw = np.random.default_rng(2)
    values = draw.normal(size=(200, 8))
    labels = values[:, 1] - values[:, 2] + draw.normal(size=200) > 0.8
    half = Halves(np.arange(100), np.arange(100, 200))
    chosen = np.array([1, 2, 3, 4, 5])[:many]
    fit, test = (values[rows][:, chosen] for rows in half)
    mean, spread = fit.mean(0), fit.std(0)
    model = LogisticRegression(max_iter=1000).fit((fit - mean) / spread, labels[half.fit])
    threshold = best_threshold(model.decision_function((fit - mean) / spread), labels[half.fit])
    expected = f1(model.decision_function((test - mean) / spread) >= threshold, labels[half.test])
    assert f1_of_probe(features_of(values), chosen, labels, half) == pytest.approx(expected)


@pytest.mark.parametrize("signed", [False, True])
def test_the_best_latent_is_the_best_of_all(signed):
    draw = np.random.default_rng(3)
    values = np.round(draw.random((80, 6)), 1) * (draw.random((80, 6)) < 0.5)
    if signed:
        values *= draw.choice([-1, 1], (80, 6))
    half = Halves(np.arange(0, 80, 2), np.arange(1, 80, 2))
    for _ in range(10):
        labels = draw.random(80) < 0.3
        feature, here, there = BestLatents(features_of(values)).best(labels, half)
        every = [
            f1(sign * values[half.fit, j] >= t, labels[half.fit])
            for j in range(6)
            for sign in (1, -1)
            for t in np.arange(0.05, 1.05, 0.1)
        ]
        assert here == pytest.approx(max(every))
        assert there in [
            pytest.approx(f1(sign * values[half.test, feature] >= t, labels[half.test]))
            for sign in (1, -1)
            for t in np.arange(0.025, 1.05, 0.025)
        ]


def test_a_latent_that_is_the_concept_is_found_and_told():
    draw = np.random.default_rng(4)
    labels = draw.random(400) < 0.1
    values = draw.random((400, 30)) * (draw.random((400, 30)) < 0.2)
    values[:, 17] = labels * (1 + draw.random(400))
    half = Halves(np.arange(200), np.arange(200, 400))
    features = features_of(values)
    assert ranked(features, labels[None], half.fit, "standardised")[0, 0] == 17
    assert f1_of_probe(features, np.array([17]), labels, half) == 1.0
    assert BestLatents(features).best(labels, half) == (17, 1.0, 1.0)


def test_features_are_the_codes():
    sae = ExpanderSae(d_in=16, n_latents=48, degree=4, k=5).eval()
    x = torch.randn(70, 16)
    features = latent_features("one", sae, x, batch_size=32)
    with torch.no_grad():
        codes = sae.encode(x)
    full = torch.zeros(70, 48).scatter_(1, codes.indices.long(), codes.values)
    assert np.array_equal(features.values.toarray(), full.double().numpy())
    assert np.allclose(features.density(), (full != 0).double().mean(0).numpy())


def test_nulls_say_what_the_activations_say():
    x = torch.randn(50, 6) + 3
    assert np.allclose(coordinates(x).values.toarray(), (x - x.mean(0)).double().numpy(), atol=1e-6)
    whole = principal_components(x, x).values.toarray()
    assert np.allclose(whole.T @ whole / 50, np.diag((whole**2).mean(0)), atol=1e-8)
    assert np.allclose((whole**2).sum(1), (x - x.mean(0)).double().square().sum(1).numpy())


@pytest.mark.parametrize(
    "sae",
    [
        ExpanderSae(d_in=16, n_latents=48, degree=4, k=5),
        ExpanderSae(d_in=16, n_latents=48, degree=4, k=5, signed=True, reading=Encoder()),
        DenseTopKSae(d_in=16, n_latents=20, k=5, reading=Stages(2)),
        IrregularSae(d_in=16, n_latents=48, degree=8, entries=150, k=5),
    ],
)
def test_an_untrained_twin_has_the_sizes_and_the_reading_and_nothing_learned(sae):
    sample = torch.randn(100, 16) + 2
    twin = untrained(sae, sample)
    for name in ("kind", "d_in", "n_latents", "k", "signed", "reading"):
        assert getattr(twin, name) == getattr(sae, name)
    assert twin.learned_values() == sae.learned_values()
    assert not torch.equal(twin.values, sae.values)
    assert torch.allclose(twin.center(), sample.mean(0), atol=1e-5)
    assert torch.equal(untrained(sae, sample).values, twin.values)
