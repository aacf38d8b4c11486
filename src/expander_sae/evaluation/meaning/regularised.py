"""Regularised probes on many latents, judged by the area under the curve: the selection of sae-probes.

Kantamneni et al., "Are Sparse Autoencoders Useful? A Case Study in Sparse Probing", 2025 (arXiv 2502.16681).
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import sklearn
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import StratifiedKFold

from .accuracy import largest_differences
from .features import Features
from .labelled import Dealt, Task

Penalty = Literal["l1", "l2"]
PENALTIES: tuple[Penalty, ...] = ("l1", "l2")
COUNTS = (16, 32, 64, 128)
"""Latents that a probe may use."""
STRENGTHS = np.logspace(5, -5, 10)
"""Values of C that are tried, the weakest penalty first."""
FEW, FOLDS = 128, 6
"""Fewer texts than the first are cross-validated in the second many folds."""
SHARE, MOST = 0.2, 100
"""More are validated on this share of them, but no more than so many texts."""
_NEW = tuple(int(part) for part in sklearn.__version__.split(".")[:2]) >= (1, 8)


def mean_auc(features: Features, dealt: Dealt, *, counts: Sequence[int] = COUNTS, seed: int = 0) -> dict[str, float]:
    """Test area under the curve of every penalty and count, as `l1 16`; the mean over tasks."""
    found: dict[str, list[float]] = {}
    for task in dealt.tasks:
        order = largest_differences(features, task)
        for penalty in PENALTIES:
            for count in counts:
                found.setdefault(f"{penalty} {count}", []).append(
                    auc(features, task, order[:count], penalty, seed=seed)
                )
    return {name: float(np.mean(values)) for name, values in found.items()}


def auc(features: Features, task: Task, chosen: np.ndarray, penalty: Penalty, *, seed: int = 0) -> float:
    """Test area under the curve of a logistic regression on chosen features, its penalty found by cross-validation.

    Of ten strengths from C = 1e5 to 1e-5 the one with the best mean area on texts that were held out counts; it is
    fitted again on all texts to fit on.

    Args:
        features: rows are texts.
        task: where to fit and to test.
        chosen: features to use.
        penalty: of absolute values (l1) or of squares (l2).
        seed: of the order of texts and the folds.
    """
    order = np.random.default_rng(seed).permutation(len(task.fit))
    rows, labels = task.fit[order], task.fit_labels[order]
    fit = np.stack([features.column(int(f), rows) for f in chosen], 1)
    test = np.stack([features.column(int(f), task.test) for f in chosen], 1)
    folds = held_out(labels, seed)
    areas = [
        np.mean([_area(regularised(fit[a], labels[a], penalty, c, seed=seed), fit[b], labels[b]) for a, b in folds])
        for c in STRENGTHS
    ]
    best = STRENGTHS[int(np.argmax(areas))]
    return _area(regularised(fit, labels, penalty, best, seed=seed), test, task.test_labels)


def held_out(labels: np.ndarray, seed: int) -> list[tuple[np.ndarray, np.ndarray]]:
    """Rows to fit on and rows held out, once or in folds."""
    count = len(labels)
    if count < FEW:
        cut = StratifiedKFold(n_splits=FOLDS, shuffle=True, random_state=seed)
        return list(cut.split(np.zeros(count), labels))
    first = count - min(int(SHARE * count), MOST)
    return [(np.arange(first), np.arange(first, count))]


def regularised(
    x: Any, labels: np.ndarray, penalty: Penalty, strength: float, *, seed: int = 0, class_weight: str | None = None
) -> LogisticRegression:
    """A logistic regression of labels (bool) on x [texts, features], dense or sparse, with C = `strength`."""
    settings: dict[str, object] = {"C": strength, "max_iter": 1000, "class_weight": class_weight}
    if penalty == "l1":
        # scikit-learn 1.8 renamed the penalty and warns of the old name.
        settings |= {"l1_ratio": 1.0} if _NEW else {"penalty": "l1"}
        settings |= {"solver": "liblinear", "intercept_scaling": 10.0, "random_state": seed}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        return LogisticRegression(**settings).fit(x, labels)  # pyright: ignore[reportArgumentType]


def _area(model: LogisticRegression, x: np.ndarray, labels: np.ndarray) -> float:
    return float(roc_auc_score(labels, model.decision_function(x)))
