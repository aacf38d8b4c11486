"""The pass over the text: every view at once, its state on disk now and then, so that a rerun goes on."""

from __future__ import annotations

import json
import time
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from expander_sae.activations import ActivationStore
from expander_sae.records import ExpanderSaeError, write_atomically
from expander_sae.records.interrupts import held_back
from expander_sae.saes.init import norm_limit, token_norms

from ..pool import Pool
from .chunks import Chunk, places, read
from .collect import Collected
from .settings import Settings, Source

STATE = "state.npz"
MEDIAN_SAMPLE = 32_768
"""First tokens, whose median norm says what an outlier is, as in `evaluate`."""
SHARE = 10.0
"""Times as long as saving takes, at least, lies between two states."""


class Pass:
    """One pass; `run` it, then look at `views`, `pool` and `base`.

    Args:
        views: what is read.
        store: activations of text.
        settings: how.
        folder: for the state.
        made_from: what a state must be of, to go on from it.
        every: seconds between two states, at least.

    Raises:
        ExpanderSaeError: the text is too long, or `max_tokens` is less than a block.
    """

    def __init__(
        self,
        views: list[Source],
        store: ActivationStore,
        settings: Settings,
        folder: Path,
        made_from: dict[str, Any],
        *,
        every: float = 20.0,
    ) -> None:
        self.store, self.settings, self.folder, self.every = store, settings, folder, every
        self.made_from = json.dumps(made_from, sort_keys=True)
        self.text = store.tokens(settings.split)
        length = self.text.input_ids.shape[1]
        if len(self.text) * length >= (1 << 32) - 1:
            raise ExpanderSaeError(
                f"expected fewer than 2^32 places in the text; got {len(self.text):,} blocks of {length}. Read less of "
                "it with --max-tokens."
            )
        kept = (~self.text.special).sum(1) if not settings.keep_special_tokens else self.text.lengths
        after = np.cumsum(kept.numpy().astype(np.int64))
        limit = int(after[-1]) if settings.max_tokens is None else settings.max_tokens
        self.blocks = int(np.searchsorted(after, limit, side="right"))
        """Of text that are read."""
        if self.blocks == 0 or after[self.blocks - 1] == 0:
            raise ExpanderSaeError(f"expected a block of text to read, {int(after[0])} tokens; got {limit} at most")
        self.offered = int(after[self.blocks - 1])
        """Tokens that are looked at; `tokens` of them are read."""
        self.lengths = self.text.lengths[: self.blocks].numpy().astype(np.int64)
        self.views = [Collected(view, settings, length, folder, number) for number, view in enumerate(views)]
        self.pool = Pool(self.lengths, before=settings.before, after=settings.after, seed=settings.seed)
        self.base = np.zeros(0, dtype=np.int64)
        """Tokens of each id."""
        self._reference = np.zeros(store.d_in)
        self._sum = np.zeros(store.d_in)
        self._square = 0.0
        self._chunks = self._seen = 0
        self.tokens = 0
        """Read so far; without outliers."""
        self._giant = self._giant_norm()

    def run(self, advance: Callable[[int], None]) -> None:
        """Read what is left. An interrupt between two pieces saves the state first.

        Raises:
            ExpanderSaeError: a shard is damaged, or the disk is full.
        """
        self._restore()
        advance(self._seen)
        saved, cost, whole = time.monotonic(), 0.0, True
        try:
            for number, place in enumerate(places(self.store, self.settings.split, self.settings.chunk)):
                if number < self._chunks:
                    continue
                chunk = read(self.store, place, keep_special_tokens=self.settings.keep_special_tokens)
                chunk = chunk.first(int(np.searchsorted(chunk.block, self.blocks)))
                with held_back():
                    whole = False
                    self._add(chunk)
                    self._chunks += 1
                    whole = True
                advance(len(chunk.token))
                if self._seen == self.offered:
                    break
                now = time.monotonic()
                if now - saved >= max(self.every, SHARE * cost):
                    self._save()
                    saved = time.monotonic()
                    cost = saved - now
        except KeyboardInterrupt:
            if whole:
                self._save()
            raise
        if self._seen != self.offered:
            raise ExpanderSaeError(
                f"expected {self.offered:,} tokens in {self.store.path}, as its text says; got {self._seen:,}. Harvest "
                "it again."
            )
        self._save()

    def _giant_norm(self) -> float:
        """Above it a token is an outlier."""
        medians = self.settings.outlier_medians
        if medians is None:
            return float("inf")
        kept = self.settings.keep_special_tokens
        first = self.store.blocks(self.settings.split, keep_special_tokens=kept, max_tokens=MEDIAN_SAMPLE)
        return norm_limit(torch.cat([token_norms(x.float(), "activations") for x in first]), medians)

    def _add(self, chunk: Chunk) -> None:
        self._seen += len(chunk.token)
        x = chunk.x.float()
        ordinary = token_norms(x, "activations") <= self._giant
        chunk, x = chunk.part(ordinary), x[ordinary]
        if not len(x):
            return
        exact = x.double().numpy()
        if self.tokens == 0:
            self._reference = exact.mean(0)
        exact -= self._reference
        self._sum += exact.sum(0)
        self._square += float(np.square(exact).sum())
        counts = np.bincount(chunk.token, minlength=len(self.base))
        counts[: len(self.base)] += self.base
        self.base = counts
        for number, view in enumerate(self.views):
            codes = view.add(chunk, x.to(next(view.source.sae.parameters()).device))
            self.pool.see(number, chunk.block, chunk.position, codes.indices.numpy(), codes.values.numpy())
        self.tokens += len(chunk.token)

    def fvu(self, view: Collected) -> float:
        """Fraction of variance unexplained, as docs/reference/metrics.md has it; NaN where all tokens are equal."""
        shift = self._sum / self.tokens
        variance = self._square - self.tokens * float(shift @ shift)
        return view.error / variance if variance > 1e-14 * self._square else float("nan")

    def _save(self) -> None:
        arrays = {
            "base": self.base, "reference": self._reference, "sum": self._sum, "square": np.array(self._square),
            "chunks": np.array(self._chunks), "seen": np.array(self._seen), "tokens": np.array(self.tokens),
            "made_from": np.array(self.made_from),
        }  # fmt: skip
        arrays |= {f"pool/{key}": value for key, value in self.pool.state().items()}
        for number, view in enumerate(self.views):
            arrays |= {f"{number}/{key}": value for key, value in view.state().items()}
        with held_back():
            with write_atomically(self.folder / STATE) as temporary, open(temporary, "wb") as out:
                np.savez(out, **arrays)  # type: ignore[arg-type]
            for view in self.views:
                view.pairs.tidy()

    def _restore(self) -> None:
        """Go on from a state of the same work; another's is not looked at."""
        path = self.folder / STATE
        if not path.is_file():
            return
        try:
            with np.load(path, allow_pickle=False) as arrays:
                if str(arrays["made_from"]) != self.made_from:
                    return
                state = {name: arrays[name] for name in arrays.files}
            self.base, self._reference, self._sum = state["base"], state["reference"], state["sum"]
            self._square, self._chunks = float(state["square"]), int(state["chunks"])
            self._seen, self.tokens = int(state["seen"]), int(state["tokens"])
            self.pool.restore(_part(state, "pool/"))
            for number, view in enumerate(self.views):
                view.restore(_part(state, f"{number}/"))
        except (OSError, ValueError, KeyError, TypeError, zipfile.BadZipFile) as error:
            raise ExpanderSaeError(
                f"expected the state of an interrupted run in {path}; got a damaged one: {error}. Delete "
                f"{self.folder} and begin anew."
            ) from error


def _part(state: dict[str, Any], prefix: str) -> dict[str, Any]:
    return {key.removeprefix(prefix): value for key, value in state.items() if key.startswith(prefix)}
