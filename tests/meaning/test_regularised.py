"""Regularised probes on many latents: what is held out, which strength is found, and the area under the curve."""

import numpy as np
import pytest
from scipy import sparse
from sklearn.linear_model import LogisticRegressionCV
from sklearn.metrics import roc_auc_score

from expander_sae.evaluation.meaning import LabelledTexts, deal
from expander_sae.evaluation.meaning.features import Features
from expander_sae.evaluation.meaning.regularised import PENALTIES, STRENGTHS, auc, held_out, mean_auc


def make(each=60, n_features=24, signal=1.0):
    labels = ["a", "b"] * each
    dealt = deal(LabelledTexts("two", [str(n) for n in range(len(labels))], labels), train_size=80, test_size=40)
    draw = np.random.default_rng(0)
    values = draw.normal(size=(len(dealt.texts), n_features))
    values[:, 5] += signal * (dealt.labels == "a")
    values[:, 7] -= signal * (dealt.labels == "a")
    return dealt, Features("made up", sparse.csc_matrix(values))


@pytest.mark.parametrize(("count", "folds"), [(60, 6), (127, 6), (128, 1), (4000, 1)])
def test_what_is_held_out(count, folds):
    labels = np.arange(count) % 2 == 0
    found = held_out(labels, 0)
    assert len(found) == folds
    for fit, held in found:
        assert sorted([*fit, *held]) == list(range(count))
        if folds == 1:
            assert len(held) == min(count // 5, 100)
    if folds > 1:
        assert sorted(np.concatenate([held for _, held in found])) == list(range(count))


@pytest.mark.parametrize("penalty", PENALTIES)
def test_features_that_tell_are_used(penalty):
    dealt, features = make(signal=3.0)
    every = np.arange(features.n_features)
    told = auc(features, dealt.tasks[0], every, penalty)
    assert told > 0.97
    assert auc(features, dealt.tasks[0], np.array([0, 1, 2]), penalty) < 0.75
    assert auc(features, dealt.tasks[0], every, penalty) == told


@pytest.mark.filterwarnings("ignore::FutureWarning")  # of a default that scikit-learn is about to change
def test_the_strength_is_the_one_that_scikit_learn_finds():
    """With l2 on the same folds, scikit-learn's own search ends in the same probe."""
    dealt, features = make(signal=0.8)
    task, chosen = dealt.tasks[0], np.arange(features.n_features)
    order = np.random.default_rng(0).permutation(len(task.fit))
    rows, labels = task.fit[order], task.fit_labels[order]
    values = features.values.toarray()
    search = LogisticRegressionCV(Cs=STRENGTHS, cv=held_out(labels, 0), scoring="roc_auc", max_iter=1000)
    expected = roc_auc_score(task.test_labels, search.fit(values[rows], labels).decision_function(values[task.test]))
    assert auc(features, task, chosen, "l2") == pytest.approx(expected, abs=0.01)


def test_every_penalty_and_count_is_named():
    dealt, features = make()
    found = mean_auc(features, dealt, counts=(2, 8))
    assert list(found) == [f"{penalty} {count}" for penalty in PENALTIES for count in (2, 8)]
    assert all(0.5 < area <= 1.0 for area in found.values())
