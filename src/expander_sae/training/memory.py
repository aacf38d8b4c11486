"""Batches of activations that are in memory, or that come from any iterable."""

import hashlib
import uuid
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor

from expander_sae.ops.checks import shape_of
from expander_sae.records import ExpanderSaeError

from .batches import some_rows


def activations_of(batch: Any, what: str = "activations") -> Tensor:
    """Activations [tokens, d_in], float32, of a tensor, an array or a data frame [..., d_in], or of the first part of a
    tuple or list of them (what a `DataLoader` hands on).

    Raises:
        ExpanderSaeError: it is none of these.
    """
    found: Any = batch
    if isinstance(found, tuple | list) and len(found) and hasattr(found[0], "shape"):
        found = found[0]
    if hasattr(found, "to_numpy"):  # a data frame's columns are the coordinates
        found = found.to_numpy()  # pyright: ignore[reportAttributeAccessIssue]
    if isinstance(found, np.ma.MaskedArray):
        raise ExpanderSaeError(f"expected {what} without a mask; got a masked array. Leave the masked tokens out.")
    if isinstance(found, np.ndarray) and found.dtype.kind == "f":
        kind = np.float64 if found.dtype.itemsize > 4 else np.float32
        found = torch.from_numpy(
            np.require(found, kind, ["C_CONTIGUOUS", "WRITEABLE"])
        )  # a copy only if it must be one
    tensor = found if isinstance(found, Tensor) and found.layout == torch.strided else None
    if tensor is None or tensor.ndim < 2 or not tensor.is_floating_point() or not tensor.shape[-1]:
        got = shape_of(found) if isinstance(found, Tensor) else type(found).__name__
        raise ExpanderSaeError(f"expected {what} as a tensor or an array [..., d_in] of a floating type; got {got}")
    return tensor.detach().reshape(-1, tensor.shape[-1]).float()


class MemoryBatches:
    """Shuffled, endless, resumable batches of a tensor of activations: each epoch in an order of its own.

    Args:
        x: [tokens, d_in], float32.
        batch_size: tokens of a batch; where there are fewer, they come again in it.
        seed: of the orders.
    """

    def __init__(self, x: Tensor, batch_size: int, seed: int) -> None:
        if not len(x):
            raise ExpanderSaeError("expected activations to train on; got none")
        self._x, self._batch_size, self._seed = x, batch_size, seed
        self._epoch, self._at = 0, 0
        self._order = self._shuffled()

    def _shuffled(self) -> Tensor:
        generator = torch.Generator().manual_seed(self._seed * 1_000_003 + self._epoch)
        return torch.randperm(len(self._x), generator=generator, device="cpu")

    def __next__(self) -> Tensor:
        """x [batch, d_in]; what is left over at the end of an epoch begins the next batch."""
        parts, missing = [], self._batch_size
        while missing:
            if self._at == len(self._x):
                self._epoch, self._at = self._epoch + 1, 0
                self._order = self._shuffled()
            found = self._order[self._at : self._at + missing]
            parts.append(found)
            self._at, missing = self._at + len(found), missing - len(found)
        return self._x[torch.cat(parts)]

    def sample(self, n: int, *, seed: int) -> Tensor:
        """Some activations [at most n, d_in]."""
        return some_rows(self._x, n, seed)

    def describe(self) -> dict[str, Any]:
        """Which activations these are, by their numbers."""
        digest = hashlib.sha256(self._x.contiguous().numpy().data).hexdigest()  # without a copy
        return {"source": "memory", "tokens": len(self._x), "sha256": digest}

    def state_dict(self) -> dict[str, Any]:
        """The place in the epochs."""
        return {"epoch": self._epoch, "at": self._at}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go back to a saved place."""
        self._epoch, self._at = state["epoch"], state["at"]
        self._order = self._shuffled()


class IterableBatches:
    """Batches of one size out of an iterable's own, in its order; gone through again as often as it can be.

    A pass over an iterable cannot be resumed: nobody can say whether its batches are the same again.

    Args:
        batches: a `DataLoader`, a list, a generator, of what `activations_of` takes.
        batch_size: tokens of the batches handed on.
        sample_tokens: read ahead, for statistics; they are trained on in their turn.

    Raises:
        ExpanderSaeError: there are no activations in it.
    """

    def __init__(self, batches: Iterable[Any], batch_size: int, sample_tokens: int) -> None:
        self._batches, self._batch_size = batches, batch_size
        self._again = not isinstance(batches, Iterator)
        self._coming = iter(batches)
        self._waiting: list[Tensor] = []
        self._count, self._seen, self._fetched = 0, 0, False
        while self._count < sample_tokens and self._fetch():
            pass
        if not self._waiting:
            raise ExpanderSaeError("expected activations to train on; got an iterable without any")
        self._sample = torch.cat(self._waiting)[:sample_tokens]

    def _fetch(self) -> bool:
        """Take one more batch of the iterable's first round; False at its end."""
        for batch in self._coming:
            x = activations_of(batch, "batches")
            if self._waiting and x.shape[1] != self._waiting[0].shape[1]:
                raise ExpanderSaeError(
                    f"expected batches of one d_in; got {self._waiting[0].shape[1]} and {x.shape[1]}"
                )
            self._waiting.append(x)
            self._count += len(x)
            self._seen += len(x)
            self._fetched = True
            return True
        return False

    def __next__(self) -> Tensor:
        """x [batch, d_in]; what an iterator has left over at its end is a smaller one."""
        while self._count < self._batch_size:
            if self._fetch():
                continue
            if self._again and self._fetched:
                self._coming, self._fetched = iter(self._batches), False
            elif self._count:
                break
            else:
                raise ExpanderSaeError(
                    f"expected more activations; got {self._seen}, where the iterator ended. Give something that can "
                    "be gone through again (a list, a DataLoader), or ask for no more tokens than there are."
                )
        whole = torch.cat(self._waiting)
        self._waiting = [whole[self._batch_size :]]
        self._count = len(self._waiting[0])
        return whole[: self._batch_size]

    def sample(self, n: int, *, seed: int) -> Tensor:
        """The first activations [at most n, d_in]."""
        return self._sample[:n]

    def describe(self) -> dict[str, Any]:
        """Activations that are like no others."""
        return {"source": "an iterable", "id": uuid.uuid4().hex}

    def state_dict(self) -> dict[str, Any]:
        """Nothing to go on from."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Never called: the description is like no other."""
        raise ExpanderSaeError("expected a tensor or an activation store to resume on; got an iterable")
