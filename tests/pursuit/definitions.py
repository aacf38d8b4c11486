"""Each algorithm as its paper writes it: one token, NumPy, dense, every least squares from scratch."""

import numpy as np
from scipy.optimize import nnls


def pick(scores: np.ndarray, count: int) -> list[int]:
    return np.argsort(-scores, kind="stable")[:count].tolist()


def score(w: np.ndarray, r: np.ndarray, signed: bool) -> np.ndarray:
    return np.abs(w.T @ r) if signed else w.T @ r


def fit(w: np.ndarray, x: np.ndarray, support: list[int]) -> np.ndarray:
    h = np.zeros(w.shape[1])
    if support:
        h[support] = np.linalg.lstsq(w[:, support], x, rcond=None)[0]
    return h


def omp(w, x, k, block=1, signed=True, start=()):
    support = list(start)
    h = fit(w, x, support)
    while len(support) < k:
        scores = score(w, x - w @ h, signed)
        scores[support] = -np.inf
        new = [j for j in pick(scores, min(block, k - len(support))) if scores[j] > 1e-5 * np.linalg.norm(x)]
        if not new:
            break
        support += new
        h = fit(w, x, support)
    return h


def forward_backward(w, x, k, block, spare, signed=True):
    support = []
    h = fit(w, x, support)
    while len(support) < k:
        scores = score(w, x - w @ h, signed)
        scores[support] = -np.inf
        before = len(support)
        new = pick(scores, min(block + spare, k + spare - before))
        support += [j for j in new if scores[j] > 1e-5 * np.linalg.norm(x)]
        if len(support) == before:
            break
        while len(support) > min(k, before + block):
            left = [[j for j in support if j != gone] for gone in support]
            support = min(left, key=lambda s: np.linalg.norm(x - w @ fit(w, x, s)))
        h = fit(w, x, support)
    return h


def matching_pursuit(w, x, k, steps, signed=True):
    h = np.zeros(w.shape[1])
    for _ in range(steps):
        r = x - w @ h
        scores = score(w, r, signed)
        if np.count_nonzero(h) == k:
            scores[h == 0] = -np.inf
        j = int(np.argmax(scores))
        if scores[j] <= 1e-5 * np.linalg.norm(x):
            break
        h[j] += w[:, j] @ r
    return h


def gradient_pursuit(w, x, k, steps, signed=True):
    h, support = np.zeros(w.shape[1]), []
    for _ in range(steps):
        r = x - w @ h
        scores = score(w, r, signed)
        j = int(np.argmax(scores)) if len(support) < k else max(support, key=lambda i: scores[i])
        if scores[j] <= 1e-5 * np.linalg.norm(x):
            break
        support = sorted({*support, j})
        direction = np.zeros_like(h)
        direction[support] = (w.T @ r)[support]
        # Exact line search by the derivative: <r - a W g, W g> = 0.
        image = w @ direction
        h = h + (r @ image) / (image @ image) * direction
    return h


def nonnegative_omp(w, x, k):
    h, support = np.zeros(w.shape[1]), []
    while len(support) < k:
        scores = w.T @ (x - w @ h)
        scores[support] = -np.inf
        j = int(np.argmax(scores))
        if scores[j] <= 1e-5 * np.linalg.norm(x):
            break
        support.append(j)
        h[support] = nnls(w[:, support], x)[0]
    return h


def cosamp(w, x, k, signed=True, steps=50):
    h, before = np.zeros(w.shape[1]), np.linalg.norm(x)
    for _ in range(steps):
        scores = score(w, x - w @ h, signed)
        candidates = [j for j in pick(scores, 2 * k) if scores[j] > 1e-5 * np.linalg.norm(x)]
        b = fit(w, x, sorted({*np.flatnonzero(h).tolist(), *candidates}))
        size = np.abs(b) if signed else b
        new = fit(w, x, [j for j in pick(size, k) if size[j] > 0])
        after = np.linalg.norm(x - w @ new)
        if after < before:
            h = new
        if after >= 0.999 * before:
            break
        before = after
    return h


def niht(w, x, k, signed=True, steps=50):
    def threshold(z):
        size = np.abs(z) if signed else z
        out = np.zeros_like(z)
        kept = [j for j in pick(size, k) if size[j] > 1e-15]
        out[kept] = z[kept]
        return out

    h = np.zeros(w.shape[1])
    support = threshold(w.T @ x) != 0
    for _ in range(steps):
        r = x - w @ h
        g = w.T @ r
        mu = (g[support] @ g[support]) / np.sum((w[:, support] @ g[support]) ** 2)
        for _ in range(60):
            new = threshold(h + mu * g)
            if np.array_equal(new != 0, support):
                break
            if mu * np.sum((w @ (new - h)) ** 2) <= 0.99 * np.sum((new - h) ** 2):
                break
            mu /= 2 * 0.99
        else:
            new = h
        stalled = np.linalg.norm(x - w @ new) >= (1 - 1e-6) * np.linalg.norm(r)
        h, support = new, new != 0
        if stalled:
            break
    return h
