"""Linear probes of the stream, trained as SAEBench trains those that SCR and TPP attack."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

LEARNING_RATE, STEPS, BATCH, L1 = 1e-3, 5000, 16, 1e-3
DECAY, BETAS, EPSILON = 0.01, (0.9, 0.999), 1e-8
"""AdamW's, as in torch."""


@dataclass(frozen=True)
class LinearProbe:
    """Says yes where weight . x + bias > 0.

    Example:
        >>> probe = LinearProbe(np.array([1.0, 0.0]), 0.5)
        >>> probe.accuracy(np.array([[1.0, 3.0], [-1.0, 3.0]]), np.array([True, False]))
        1.0
    """

    weight: np.ndarray
    """float64 [d_in]."""
    bias: float

    def accuracy(self, x: np.ndarray, labels: np.ndarray) -> float:
        """Share of x [texts, d_in] that it says right."""
        return float(((x @ self.weight + self.bias > 0) == labels).mean())


def train_linear_probe(x: np.ndarray, labels: np.ndarray, *, steps: int = STEPS, seed: int = 0) -> LinearProbe:
    """A probe fitted by AdamW to the binary cross entropy plus an l1 penalty.

        loss = mean of log(1 + exp(-s (weight . x + bias))) + 0.001 sum |weight|,  s = 1 for yes, -1 for no

    Batches of 16, a learning rate of 0.001 and 5,000 steps are SAEBench's twenty passes over 4,000 texts; how strongly
    a probe takes up a spurious correlation depends on them. Smaller sets are passed over more often. The last step
    counts; SAEBench takes the pass that is best on the test set.

    Args:
        x: means of texts, float64 [texts, d_in].
        labels: bool [texts].
        steps: batches it learns from.
        seed: of the order of texts and the first weights.
    """
    draw = np.random.default_rng(seed)
    d_in = x.shape[1]
    inputs, target = np.hstack([x, np.ones((len(x), 1))]), labels.astype(np.float64)
    weight = draw.uniform(-1, 1, d_in + 1) / np.sqrt(d_in)
    penalty = np.append(np.full(d_in, L1), 0.0)  # the bias is the last weight, and free
    first, second = np.zeros(d_in + 1), np.zeros(d_in + 1)
    order = np.zeros(0, dtype=np.int64)
    for step in range(1, steps + 1):
        if len(order) == 0:
            order = draw.permutation(len(x))
        rows, order = order[:BATCH], order[BATCH:]
        batch = inputs[rows]
        said = 1 / (1 + np.exp(-np.clip(batch @ weight, -500, 500)))
        gradient = (said - target[rows]) @ batch / len(rows) + penalty * np.sign(weight)
        first += (1 - BETAS[0]) * (gradient - first)
        second += (1 - BETAS[1]) * (gradient**2 - second)
        size = np.sqrt(second / (1 - BETAS[1] ** step)) + EPSILON
        weight *= 1 - LEARNING_RATE * DECAY
        weight -= LEARNING_RATE / (1 - BETAS[0] ** step) * first / size
    return LinearProbe(weight[:-1], float(weight[-1]))
