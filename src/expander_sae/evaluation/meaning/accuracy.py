"""One sparse probe of one task: which features it takes, and how often it is right; SAEBench's definition."""

from __future__ import annotations

import warnings

import numpy as np
from scipy import sparse
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression

from .features import Features
from .labelled import Task
from .probing import ranked


def largest_differences(features: Features, task: Task) -> np.ndarray:
    """Features by falling |mean over positives - mean over negatives| on the texts to fit on, int64 [features]."""
    labels = np.zeros((1, features.n_tokens), dtype=bool)
    labels[0, task.fit[task.fit_labels]] = True
    return ranked(features, labels, task.fit, "mean difference")[0]


def accuracy(features: Features, task: Task, chosen: np.ndarray | None = None) -> float:
    """Test accuracy of a logistic regression on chosen features, or on all.

    l2-regularised with C = 1 on features as they are, in float32, at most 1,000 iterations.

    Args:
        features: rows are texts.
        task: where to fit and to test.
        chosen: features; None: all of them.

    Example:
        >>> import numpy as np
        >>> from scipy import sparse
        >>> yes = np.arange(8) % 2 == 0
        >>> task = Task("even", np.arange(4), yes[:4], np.arange(4, 8), yes[4:])
        >>> accuracy(Features("known", sparse.csc_matrix(9.0 * yes[:, None])), task)
        1.0
    """
    if chosen is None:
        rows = sparse.csr_matrix(features.values, dtype=np.float32)
        fit, test = rows[task.fit], rows[task.test]
        if features.values.nnz > 0.5 * features.n_tokens * features.n_features:
            fit, test = fit.toarray(), test.toarray()
    else:
        columns = np.sort(chosen)
        fit = np.stack([features.column(int(f), task.fit) for f in columns], 1).astype(np.float32)
        test = np.stack([features.column(int(f), task.test) for f in columns], 1).astype(np.float32)
    with warnings.catch_warnings():
        # Where it stopped is what is tested, as in SAEBench.
        warnings.simplefilter("ignore", ConvergenceWarning)
        model = LogisticRegression(max_iter=1000).fit(fit, task.fit_labels)
    return float((model.predict(test) == task.test_labels).mean())
