"""The definition of block_omp, one token at a time, in float64."""

import torch
from torch import Tensor

from expander_sae.ops.in_full import in_full
from expander_sae.ops.ties import EqualColumns, equal_columns, fingerprints

SMALLEST_SCORE = 1e-5
SMALLEST_PIVOT = 1e-5


def forward(
    x: Tensor, rows: Tensor | None, values: Tensor, k: int, block: int, spare: int, signed: bool, tolerance: float
) -> tuple[Tensor, Tensor]:
    """Indices and values of the codes of x [batch, d_in] (already centered)."""
    n_latents = values.shape[0]
    w = in_full(rows, values.double(), x.shape[1])
    same = equal_columns(fingerprints(None, w, x.shape[1], signed=signed))
    indices = torch.empty(x.shape[0], k, dtype=torch.int64, device=x.device)
    codes = torch.zeros(x.shape[0], k, dtype=torch.float64, device=x.device)
    for token, y in enumerate(x.double()):
        support, solution = _one_token(y, w, same, k, block, spare, signed, tolerance)
        size = solution.abs() if signed else solution
        order = sorted(range(len(support)), key=lambda i: (-float(size[i]), support[i]))
        free = (latent for latent in range(n_latents) if latent not in set(support))
        chosen = [support[i] for i in order] + [next(free) for _ in range(k - len(support))]
        indices[token] = torch.tensor(chosen, device=x.device)
        codes[token, : len(order)] = solution[order]
    return indices, codes.to(values.dtype)


def _one_token(
    y: Tensor, w: Tensor, same: EqualColumns, k: int, block: int, spare: int, signed: bool, tolerance: float
) -> tuple[list[int], Tensor]:
    support: list[int] = []
    residual, solution = y, y.new_zeros(0)
    norm = float(y.norm())
    while norm > 0 and len(support) < k:
        score = w @ residual
        score = same.level((score.abs() if signed else score)[None])[0]
        score[support] = 0.0
        order = torch.sort(score, descending=True, stable=True).indices[: block + spare].tolist()
        before = len(support)
        for j in order:
            if len(support) == k + spare or float(score[j]) <= SMALLEST_SCORE * norm:
                break
            if not support or _squared_distance(w[j], w[support]) > SMALLEST_PIVOT * float(w[j] @ w[j]):
                support.append(j)
        if len(support) == before:
            break
        while len(support) > min(k, before + block):
            without = [support[:i] + support[i + 1 :] for i in range(len(support))]
            support = min(without, key=lambda left: _squared_distance(y, w[left]))
        solution = torch.linalg.lstsq(w[support].T, y[:, None]).solution[:, 0]
        residual = y - w[support].T @ solution
        if tolerance > 0 and float(residual.norm()) <= tolerance * norm:
            break
    return support, solution


def _squared_distance(column: Tensor, others: Tensor) -> float:
    projection = torch.linalg.lstsq(others.T, column[:, None]).solution[:, 0]
    return float((column - others.T @ projection).square().sum())
