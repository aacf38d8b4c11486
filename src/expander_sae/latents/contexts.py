"""Contexts of a latent, read from a store."""

from __future__ import annotations

import json
from collections.abc import Sequence

import numpy as np

from .connection import StoreFile
from .latent import Context
from .writing import FIRES

ALL = (0, 1, 2, 3, 4)
"""Parts: the highest activations, and the quarters."""


def read_contexts(
    store: StoreFile, view: int, latent: int, parts: Sequence[int], limit: int | None = None
) -> list[Context]:
    """Contexts of some parts, in order of part and rank; `limit` of them at most.

    Raises:
        ExpanderSaeError: the store is damaged.
    """
    rows = store.rows(
        "SELECT activation, document, block, position, first, length, part, fires, tokens FROM contexts "
        "JOIN blocks ON blocks.id = block WHERE view = ? AND latent = ? AND part IN (SELECT value FROM json_each(?)) "
        "ORDER BY part, rank LIMIT ?",
        view,
        latent,
        json.dumps(list(parts)),
        -1 if limit is None else limit,
    )
    windows = [store.array(row[-1], "<u4")[row[4] : row[4] + row[5]].tolist() for row in rows]
    words = store.words(one for window in windows for one in window)
    contexts = []
    for row, window in zip(rows, windows, strict=True):
        activation, document, block, position, first, length, part, blob, _ = row
        fires = store.array(blob, FIRES)
        if len(window) != length or (len(fires) and int(fires["place"].max()) >= length):
            raise store.damaged(f"a context of latent {latent} leaves its block")
        values = np.zeros(length, dtype=np.float32)
        values[fires["place"]] = fires["value"]
        said = [words[one] for one in window]
        contexts.append(Context(activation, document, block, position, said, values.tolist(), position - first, part))
    return contexts
