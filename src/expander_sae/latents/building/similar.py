"""Latents whose columns are alike, within a dictionary and between two; a bounded piece of all pairs at a time."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from expander_sae.ops import Dictionary

from .layout import principal

PIECE = 1 << 24
"""Pairs of latents that are held at once."""


class Alike(NamedTuple):
    """For some latents the most alike others of their dictionary, [rows, count]; -1: none."""

    latents: np.ndarray
    nearest: np.ndarray
    cosines: np.ndarray
    by_rows: np.ndarray | None
    """None: a dense dictionary, as below."""
    shared: np.ndarray | None
    """Rows in common."""


@torch.no_grad()
def alike(dictionary: Dictionary, count: int) -> Iterator[Alike]:
    """The columns of largest cosine, and those that share most rows; of equally many, the larger |cosine| first.
    None at all where `count` is 0."""
    n = dictionary.n_latents
    count = min(count, n - 1)
    if count < 1:
        return
    norms = _norms(dictionary)
    present = _support(dictionary)
    for latents, columns in _pieces(dictionary):
        own = (torch.arange(len(latents)), latents)
        cosines = dictionary.correlate(columns) / (norms[latents, None] * norms)
        by_rows = shared = None
        if present is not None:
            ranked = present.correlate(present.columns(latents)) + cosines.abs().clamp(max=1) / 2
            ranked[own] = -1.0
            best = ranked.topk(count, dim=1)
            shared = best.values.floor().clamp(min=0)
            # A cosine of 1 on d shared rows adds a half: the whole part is the number of rows.
            by_rows = torch.where(shared > 0, best.indices, -1).numpy()
            shared = shared.numpy()
        cosines[own] = -torch.inf
        best = cosines.topk(count, dim=1)
        yield Alike(latents.numpy(), best.indices.numpy(), best.values.numpy(), by_rows, shared)


@torch.no_grad()
def matches(dictionary: Dictionary, other: Dictionary) -> tuple[np.ndarray, np.ndarray]:
    """For each latent the one of another dictionary whose column has the largest cosine, and that cosine."""
    norms, theirs = _norms(dictionary), _norms(other)
    found = [
        (other.correlate(columns) / (norms[latents, None] * theirs)).max(dim=1)
        for latents, columns in _pieces(dictionary, other.n_latents)
    ]
    return torch.cat([one.indices for one in found]).numpy(), torch.cat([one.values for one in found]).numpy()


@torch.no_grad()
def projected(dictionary: Dictionary) -> np.ndarray:
    """The columns along the two leading directions of W W^T, [n_latents, 2]."""
    moment = torch.zeros(dictionary.d_in, dictionary.d_in, dtype=torch.float64)
    for _, columns in _pieces(dictionary):
        moment += (columns.T @ columns).double()
    directions = torch.from_numpy(principal(moment.numpy())).float()
    return dictionary.correlate(directions.T.contiguous()).T.numpy()


def _pieces(dictionary: Dictionary, others: int | None = None) -> Iterator[tuple[Tensor, Tensor]]:
    """Latents, and their columns in full [rows, d_in]."""
    step = max(1, PIECE // max(others or dictionary.n_latents, dictionary.d_in))
    for latents in torch.arange(dictionary.n_latents).split(step):
        yield latents, dictionary.columns(latents).float()


def _norms(dictionary: Dictionary) -> Tensor:
    norms = dictionary.decoder.float().norm(dim=1)
    return torch.where(norms > 0, norms, 1.0)


def _support(dictionary: Dictionary) -> Dictionary | None:
    """1 where a column has an entry."""
    if dictionary.rows is None:
        return None
    return Dictionary(dictionary.rows, (dictionary.decoder != 0).float(), dictionary.d_in, rows_checked=True)
