"""Shuffled, resumable batches from shards that may be larger than memory."""

import hashlib
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from expander_sae.records import ExpanderSaeError

from .shards import ActivationStore

_SEGMENTS_PER_BUFFER = 16
_BUFFER_BYTES = 1 << 30
_BUFFER_TOKENS = 262_144

_Segment = tuple[str, int, int]
"""A shard's file name and a range of its rows."""


def _generator(*parts: int) -> torch.Generator:
    digest = hashlib.sha256(repr(parts).encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:7], "big"))


class ActivationStream:
    """Shuffled batches x [batch, d_in] float32 of one split, the same ones for the same seed.

    Every epoch shows every token once. The shards are cut into segments; an epoch shuffles the segments, fills a buffer
    with as many as fit, shuffles its rows and hands them out. When the whole split fits into the buffer, it is read
    once and reshuffled every epoch.

    `with_replacement` draws every row independently instead: from the whole split where it fits into the buffer, else
    from the group of segments in hand.

    With `epochs=None` the stream never ends and a batch may reach over into the next epoch; otherwise it ends after
    that many epochs, and the last batch of each may be short.

    Raises:
        ExpanderSaeError: the split is empty, a setting is impossible, or a shard is damaged.

    Example:
        >>> stream = ActivationStream(store, batch_size=2048, seed=0)  # doctest: +SKIP
        >>> x = next(stream)  # doctest: +SKIP
    """

    def __init__(
        self,
        store: ActivationStore,
        *,
        split: str = "train",
        batch_size: int,
        seed: int,
        keep_special_tokens: bool = False,
        epochs: int | None = None,
        buffer_tokens: int | None = None,
        with_replacement: bool = False,
    ) -> None:
        fitting = max(1, _BUFFER_BYTES // (2 * store.d_in))
        self.buffer_tokens = min(_BUFFER_TOKENS, fitting) if buffer_tokens is None else buffer_tokens
        if batch_size < 1 or self.buffer_tokens < 1 or (epochs is not None and epochs < 1):
            raise ExpanderSaeError(
                f"expected a batch size, a buffer and a number of epochs of at least 1; got {batch_size}, "
                f"{self.buffer_tokens} and {epochs}"
            )
        self.store, self.split, self.batch_size, self.seed = store, split, batch_size, seed
        self.keep_special_tokens, self.epochs = keep_special_tokens, epochs
        self.with_replacement = with_replacement
        self.tokens_per_epoch = store.n_tokens(split, keep_special_tokens=keep_special_tokens)
        if self.tokens_per_epoch == 0:
            raise ExpanderSaeError(f"expected activations in the split {split!r} of {store.path}; got none")
        self._fits = self.tokens_per_epoch <= self.buffer_tokens
        self._buffer: Tensor | None = None
        self._held: list[_Segment] = []
        self._rows = 0
        self._groups_of: tuple[int, list[list[_Segment]]] | None = None
        self._order: tuple[tuple[int, int], Tensor] | None = None
        self._epoch = self._group = self._offset = 0
        self.tokens_seen = 0

    def __iter__(self) -> Iterator[Tensor]:
        """The stream itself."""
        return self

    def __next__(self) -> Tensor:
        """The next x [batch, d_in], float32, in memory of its own."""
        pieces: list[Tensor] = []
        wanted = self.batch_size
        while wanted:
            if self.epochs is not None and self._epoch >= self.epochs:
                break
            order = self._load_group()
            chosen = order[self._offset : self._offset + wanted]
            if len(chosen):
                assert self._buffer is not None
                pieces.append(self._buffer.index_select(0, chosen))
            wanted -= len(chosen)
            self._offset += len(chosen)
            if self._offset == len(order) and self._next_group() and self.epochs is not None and pieces:
                break  # the short last batch of an epoch
        if not pieces:
            raise StopIteration
        x = (pieces[0] if len(pieces) == 1 else torch.cat(pieces)).float()
        self.tokens_seen += len(x)
        return x

    @property
    def epoch(self) -> int:
        """The epoch, from 0, that the next batch begins in."""
        return self._epoch

    def _next_group(self) -> bool:
        """Move on to the next group of segments; true when that began a new epoch."""
        self._offset = 0
        self._group += 1
        if self._group < len(self._groups(self._epoch)):
            return False
        self._epoch, self._group = self._epoch + 1, 0
        return True

    def _groups(self, epoch: int) -> list[list[_Segment]]:
        """The epoch's segments in shuffled order, cut into groups that fit the buffer."""
        if self._groups_of is not None and self._groups_of[0] == epoch:
            return self._groups_of[1]
        shards = self.store.shards(self.split)
        if self._fits:
            groups = [[(file, 0, rows) for file, rows in shards]]
        else:
            step = max(1, self.buffer_tokens // _SEGMENTS_PER_BUFFER)
            segments = [
                (file, start, min(start + step, rows)) for file, rows in shards for start in range(0, rows, step)
            ]
            groups, room = [], 0
            for i in torch.randperm(len(segments), generator=_generator(self.seed, epoch), device="cpu").tolist():
                rows = segments[i][2] - segments[i][1]
                if rows > room:
                    groups.append([])
                    room = self.buffer_tokens
                groups[-1].append(segments[i])
                room -= rows
        self._groups_of = (epoch, groups)
        return groups

    def _load_group(self) -> Tensor:
        """Have the current group in the buffer; the order its rows are handed out in, int64 [rows]."""
        segments = self._groups(self._epoch)[self._group]
        if segments != self._held:
            self._fill(segments)
        key = (self._epoch, self._group)
        if self._order is None or self._order[0] != key:
            generator = _generator(self.seed, *key)
            if self.with_replacement:
                order = torch.randint(self._rows, (self._rows,), generator=generator, device="cpu")
            else:
                order = torch.randperm(self._rows, generator=generator, device="cpu")
            self._order = (key, order)
        return self._order[1]

    def _fill(self, segments: list[_Segment]) -> None:
        if self._buffer is None:
            rows = self.tokens_per_epoch if self._fits else self.buffer_tokens
            self._buffer = torch.empty(rows, self.store.d_in, dtype=self.store.dtype, device="cpu")
        self._held, self._rows = [], 0
        for file, start, stop in segments:
            x = self.store.read_rows(file, start, stop, keep_special_tokens=self.keep_special_tokens)
            self._buffer[self._rows : self._rows + len(x)] = x
            self._rows += len(x)
        self._held = segments

    def _identity(self) -> dict[str, Any]:
        """What must be equal for a saved place to mean the same batches."""
        sums = ",".join(entry["sha256"] for entry in self.store.manifest["shards"])
        return {
            "harvest": hashlib.sha256(sums.encode()).hexdigest(),
            "split": self.split,
            "batch_size": self.batch_size,
            "seed": self.seed,
            "keep_special_tokens": self.keep_special_tokens,
            "epochs": self.epochs,
            "buffer_tokens": self.buffer_tokens,
            "with_replacement": self.with_replacement,
        }

    def state_dict(self) -> dict[str, Any]:
        """The place in the stream, in plain numbers and strings."""
        place = {
            "epoch": self._epoch,
            "group": self._group,
            "offset": self._offset,
            "tokens_seen": self.tokens_seen,
        }
        return {**self._identity(), **place}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go to a saved place; the batches from there on are the same bit for bit.

        Raises:
            ExpanderSaeError: the state belongs to another harvest or other settings.
        """
        for name, value in self._identity().items():
            if state.get(name) != value:
                raise ExpanderSaeError(
                    f"expected a stream state with {name} = {value}; got {state.get(name)}. Resume with the "
                    "same activations and settings, or start anew."
                )
        self._epoch, self._group = int(state["epoch"]), int(state["group"])
        self._offset, self.tokens_seen = int(state["offset"]), int(state["tokens_seen"])
