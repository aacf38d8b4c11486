"""How often each latent fires on each token id, exactly: in memory up to a limit, then in sorted files."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from expander_sae.records import write_atomically

from .fires import Fires

PAIR = np.dtype([("key", "<u8"), ("count", "<u4"), ("total", "<f8")])
"""key: latent << 32 | token; total: sum of |code|."""
_SHIFT = np.uint64(32)


class Pairs:
    """Counts of (latent, token) pairs.

    Pairs are joined in memory; above `limit` of them they go to a sorted file, and above `files` files these are
    joined. What was counted is read in order of latents, a bounded number of pairs at a time.

    Args:
        folder: for the files.
        name: with which the files begin.
        limit: pairs in memory.
        files: files beside each other.
    """

    def __init__(self, folder: Path, name: str, *, limit: int = 1 << 22, files: int = 12) -> None:
        self.folder, self.name, self.limit, self.files = folder, name, limit, files
        self.waiting: list[np.ndarray] = []
        self.runs: list[str] = []
        self.made = 0
        self.obsolete: list[str] = []
        """Files that no later state names; removed by `tidy`."""

    def add(self, fires: Fires) -> None:
        """The firings of a piece of text."""
        key = (fires.latent.astype(np.uint64) << _SHIFT) | fires.token_id.astype(np.uint64)
        found = np.empty(len(key), dtype=PAIR)
        found["key"], found["count"], found["total"] = key, 1, fires.size
        self.waiting.append(_joined([found]))
        if sum(map(len, self.waiting)) > self.limit:
            self.waiting = [_joined(self.waiting)]
            if len(self.waiting[0]) > self.limit // 2:
                self._spill()

    def _spill(self) -> None:
        self.runs.append(self._written([self.waiting[0]]))
        self.waiting = []
        if len(self.runs) > self.files:
            joined = self._written(self._parts())
            self.obsolete += self.runs
            self.runs = [joined]

    def _written(self, parts: list[np.ndarray] | Iterator[np.ndarray]) -> str:
        file = f"{self.name}-{self.made:06d}.pairs"
        self.made += 1
        with write_atomically(self.folder / file) as temporary, open(temporary, "wb") as out:
            for part in parts:
                out.write(part.tobytes())
        return file

    def parts(self) -> Iterator[np.ndarray]:
        """Everything counted, rising by key; all pairs of a latent are in one part."""
        yield from self._parts()

    def _parts(self) -> Iterator[np.ndarray]:
        sources = [np.memmap(self.folder / run, dtype=PAIR, mode="r") for run in self.runs]
        sources += [_joined(self.waiting)] if self.waiting else []
        done = [0] * len(sources)
        share = max(1, self.limit // max(1, len(sources)))
        while any(place < len(source) for place, source in zip(done, sources, strict=True)):
            # Up to the first latent at which a source has `share` pairs; at least one latent.
            ahead = [
                int(source["key"][place + share]) >> 32
                for place, source in zip(done, sources, strict=True)
                if place + share < len(source)
            ]
            first = min(
                int(source["key"][place]) >> 32
                for place, source in zip(done, sources, strict=True)
                if place < len(source)
            )
            end = max(min(ahead, default=(1 << 32) - 1), first + 1)
            ends = [int(np.searchsorted(source["key"], np.uint64(end << 32))) for source in sources]
            pieces = [np.asarray(s[a:b]) for s, a, b in zip(sources, done, ends, strict=True)]
            done = ends
            yield _joined(pieces)

    def tidy(self) -> None:
        """Remove files that are no longer needed, once a state without them is on disk."""
        for file in self.obsolete:
            (self.folder / file).unlink(missing_ok=True)
        self.obsolete = []

    def state(self) -> dict[str, np.ndarray]:
        """For `restore`; the files stay where they are."""
        waiting = np.concatenate([np.empty(0, dtype=PAIR), *self.waiting])
        lengths = np.array(list(map(len, self.waiting)), dtype=np.int64)
        return {"waiting": waiting, "lengths": lengths, "runs": np.array(self.runs, "U"), "made": np.array(self.made)}

    def restore(self, state: dict[str, np.ndarray]) -> None:
        """Go on from a `state`."""
        self.waiting = np.split(state["waiting"], np.cumsum(state["lengths"])[:-1]) if len(state["lengths"]) else []
        self.runs, self.made = state["runs"].tolist(), int(state["made"])


def _joined(pieces: list[np.ndarray]) -> np.ndarray:
    """The pairs of some arrays, rising by key and each once."""
    every = np.concatenate(pieces)
    order = np.argsort(every["key"], kind="stable")
    key = every["key"][order]
    begin = np.flatnonzero(np.diff(key, prepend=key[:1] + np.uint64(1)) != 0) if len(key) else np.empty(0, np.int64)
    joined = np.empty(len(begin), dtype=PAIR)
    joined["key"] = key[begin]
    if len(begin):
        joined["count"] = np.add.reduceat(every["count"][order], begin)
        joined["total"] = np.add.reduceat(every["total"][order], begin)
    return joined
