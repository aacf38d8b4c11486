"""From what the pass gathered to the rows of the store."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from expander_sae.evaluation.meaning.text import documents_of
from expander_sae.ops import Dictionary

from ..identity import token_texts
from ..writing import StoreWriter
from . import layout, similar
from .collect import Collected
from .lens import LogitLens
from .reading import Pass
from .together import together
from .token_numbers import token_numbers

SEARCHED = 5
"""First contexts of a latent whose words a search finds."""
_LATENTS_AT_ONCE = 4_096
_DECADES = {"density": np.linspace(-8, 0, 33), "energy": np.linspace(-10, 0, 41)}
"""log10 of the edges of the overview's bins."""


class Finish:
    """Writes what was gathered.

    Args:
        writer: of a new store.
        gathered: a finished pass.
        tokenizer: that made the text.
        lens: None: no tokens promoted.
        said: called with every piece of work done, in latents.
    """

    def __init__(
        self,
        writer: StoreWriter,
        gathered: Pass,
        tokenizer: Any,
        lens: LogitLens | None,
        said: Callable[[int], None],
    ) -> None:
        self.writer, self.gathered, self.tokenizer, self.lens, self.said = writer, gathered, tokenizer, lens, said
        self.ids = gathered.text.input_ids[: gathered.blocks].numpy().astype(np.int64)
        real = np.arange(self.ids.shape[1]) < gathered.lengths[:, None]
        self.known = np.zeros(max(int(self.ids.max()) + 1, len(tokenizer)), dtype=bool)
        """Which tokens are in the text, or shown otherwise."""
        self.known[np.unique(self.ids[real])] = True
        self.words = np.full(len(self.known), "", dtype=object)
        here = np.flatnonzero(self.known)
        self.words[here] = token_texts(tokenizer, here.tolist())
        self.shown = np.zeros(gathered.blocks, dtype=bool)
        """Which blocks contexts show."""

    def write(self, config: Callable[[Any], dict[str, Any]]) -> None:
        """Everything but `meta`; config: what else is on record of an SAE."""
        dictionaries = [one.source.sae.dictionary().detached() for one in self.gathered.views]
        for number, (one, dictionary) in enumerate(zip(self.gathered.views, dictionaries, strict=True)):
            self._numbers(number, one, dictionary, config(one.source))
            self._support(number, dictionary)
            self._contexts(number, one)
            self._together(number, one)
            same = [i for i, view in enumerate(self.gathered.views) if view.source.sha256 == one.source.sha256]
            if number == same[0]:  # what follows from the columns is that of every reading
                self._alike(same, dictionary)
                self._logits(same, dictionary)
            for other, theirs in enumerate(dictionaries):
                if other != number and theirs.d_in == dictionary.d_in:
                    self._matches(number, other, dictionaries)
        self.shown[self.gathered.pool.block] = True
        self._text()
        self.gathered.pool.write(self.writer, len(dictionaries))

    def _numbers(self, number: int, one: Collected, dictionary: Dictionary, config: dict[str, Any]) -> None:
        counted, view = one.numbers, one.source
        firings, tokens = counted.firings, self.gathered.tokens
        alive = firings > 0
        energy = counted.squares / max(counted.squares.sum(), 1e-300)
        found = token_numbers(one.pairs.parts(), firings, self.gathered.base, self.one_setting("tokens"))
        rates = {"density": firings[alive] / tokens, "energy": energy[alive]}
        self.writer.view(
            number,
            {
                "name": view.name,
                "sae": view.sae_name,
                "folder": str(getattr(view.sae, "folder", None) or ""),
                "sha256": view.sha256,
                "reading": view.reading,
                "kind": view.sae.kind,
                "d_in": view.sae.d_in,
                "n_latents": view.sae.n_latents,
                "degree": None if dictionary.rows is None else round(view.sae.decoder_values() / view.sae.n_latents),
                "k": view.sae.k,
                "tokens": tokens,
                "fvu": self.gathered.fvu(one),
                "dead": int((~alive).sum()),
                "energy": float(counted.squares.sum() / tokens),
                "config": config,
                "overview": {name: _overview(rate, _DECADES[name]) for name, rate in rates.items()},
            },
        )
        columns = {
            "firings": firings,
            "mean": np.where(alive, counted.total / np.maximum(firings, 1), np.nan),
            "max": np.where(alive, counted.max.astype(np.float64), np.nan),
            "energy": energy,
            "token_entropy": found.entropy,
            "specific": found.specific,
            "top": counted.top,
        }
        self.writer.latents(number, columns, counted.histogram)
        self.writer.top_tokens(number, found.top)
        self.top = found.top

    def one_setting(self, name: str) -> int:
        """A number of the settings."""
        return int(getattr(self.gathered.settings, name))

    def _support(self, number: int, dictionary: Dictionary) -> None:
        if dictionary.rows is not None:
            self.writer.supports(number, dictionary.rows.numpy(), dictionary.decoder.float().numpy())

    def _contexts(self, number: int, one: Collected) -> None:
        n = one.source.sae.n_latents
        edges = np.searchsorted(self.top["latent"], np.arange(n + 1))
        said = self.words[self.top["token"]]
        for low in range(0, n, _LATENTS_AT_ONCE):
            high = min(n, low + _LATENTS_AT_ONCE)
            part, columns, values = self._ranked(one, low, high)
            self.shown[columns["block"]] = True
            self.writer.contexts(number, part, columns, values)
            around = self._around(part, columns)
            latents = [j for j in range(low, high) if edges[j] < edges[j + 1]]
            tokens = (" ".join(said[edges[j] : edges[j + 1]]) for j in latents)
            self.writer.texts(number, latents, tokens, (around[j] for j in latents))

    def _ranked(self, one: Collected, low: int, high: int) -> tuple[np.ndarray, dict[str, np.ndarray], np.ndarray]:
        """Contexts of some latents in order: part, columns and values."""
        found = [self._firings(best.places()[low:high], best.windows[low:high]) for best in (one.top, one.drawn)]
        latent, place, first, values, size = (np.concatenate(pair) for pair in zip(*found, strict=True))
        drawn = np.repeat([0, 1], [len(pair[0]) for pair in found])
        order = np.lexsort((place, -size, drawn, latent))
        group = latent * 2 + drawn
        begin = np.flatnonzero(np.diff(group[order], prepend=-1))
        many = np.diff(begin, append=len(order))
        rank, many = np.arange(len(order)) - np.repeat(begin, many), np.repeat(many, many)
        quarter = 4 * rank // many  # 0: the highest
        part = np.where(drawn[order] == 0, 0, 4 - quarter)
        rank = np.where(part == 0, rank, rank + (-quarter * many // 4))
        back = np.lexsort((rank, part, latent[order]))
        order, part, rank = order[back], part[back], rank[back]
        block, position = place[order] // self.ids.shape[1], place[order] % self.ids.shape[1]
        length = np.minimum(position + self.one_setting("after") + 1, self.gathered.lengths[block]) - first[order]
        columns = {
            "latent": latent[order] + low, "rank": rank, "activation": size[order], "block": block,
            "position": position, "first": first[order], "length": length,
        }  # fmt: skip
        return part, columns, values[order]

    def _firings(self, places: np.ndarray, windows: np.ndarray) -> tuple[np.ndarray, ...]:
        """Latent, place, first token of the window, its values and the activation of what there is."""
        latent, slot = np.nonzero(places >= 0)
        place, values = places[latent, slot], windows[latent, slot]
        position = place % self.ids.shape[1]
        first = np.maximum(position - self.one_setting("before"), 0)
        size = np.abs(values[np.arange(len(place)), position - first])
        return latent, place, first, values, size

    def _around(self, part: np.ndarray, columns: dict[str, np.ndarray]) -> dict[int, str]:
        """The words of each latent's first contexts."""
        near = (part == 0) & (columns["rank"] < SEARCHED)
        rows = zip(*(columns[name][near].tolist() for name in ("latent", "block", "first", "length")), strict=True)
        found: dict[int, str] = {}
        for latent, block, first, length in rows:
            said = "".join(self.words[self.ids[block, first : first + length]])
            found[latent] = f"{found[latent]}\n{said}" if latent in found else said
        return found

    def _alike(self, numbers: list[int], dictionary: Dictionary) -> None:
        n, count = dictionary.n_latents, self.one_setting("neighbours")
        nearest = np.zeros((n, min(count, n - 1)), dtype=np.int64)
        cosines = np.zeros(nearest.shape, dtype=np.float32)
        for found in similar.alike(dictionary, count):
            nearest[found.latents], cosines[found.latents] = found.nearest, found.cosines
            for number in numbers:
                self.writer.neighbours(number, "cosine", found.latents, found.nearest, found.cosines)
                if found.by_rows is not None and found.shared is not None:
                    self.writer.neighbours(number, "rows", found.latents, found.by_rows, found.shared)
            self.said(len(found.latents))
        at = layout.places(similar.projected(dictionary), nearest, cosines)
        for number in numbers:
            for axis, name in enumerate("xy"):
                self.writer.array(number, name, at[:, axis], "<f4")

    def _together(self, number: int, one: Collected) -> None:
        count = self.one_setting("neighbours")
        if count:
            for latents, others, values in together(*one.sample.fired(), one.source.sae.n_latents, count):
                self.writer.neighbours(number, "together", latents, others, values)

    def _logits(self, numbers: list[int], dictionary: Dictionary) -> None:
        if self.lens is None or self.lens.unembedding.shape[1] != dictionary.d_in:
            return
        count = min(self.one_setting("tokens"), len(self.lens.unembedding))
        step = max(1, similar.PIECE // len(self.lens.unembedding))
        for latents in torch.arange(dictionary.n_latents).split(step):
            logits = self.lens.logits(dictionary.columns(latents).float())
            for sign in (1, -1):
                best = logits.topk(count, dim=1, largest=sign > 0)
                self.known[best.indices.unique().numpy()] = True
                for number in numbers:
                    self.writer.logits(number, latents.numpy(), sign, best.indices.numpy(), best.values.numpy())
            self.said(len(latents))

    def _matches(self, number: int, other: int, dictionaries: list[Dictionary]) -> None:
        views = self.gathered.views
        if views[number].source.sha256 == views[other].source.sha256:
            same = np.arange(dictionaries[number].n_latents)
            self.writer.matches(number, other, same, np.ones(len(same)))
            return
        self.writer.matches(number, other, *similar.matches(dictionaries[number], dictionaries[other]))

    def _text(self) -> None:
        blocks = np.flatnonzero(self.shown)
        documents = documents_of(self.gathered.text)[blocks].tolist()
        tokens = (self.ids[block, : self.gathered.lengths[block]] for block in blocks)
        self.writer.blocks(blocks.tolist(), documents, tokens)
        ids = np.flatnonzero(self.known).tolist()
        self.writer.vocabulary(ids, token_texts(self.tokenizer, ids))


def _overview(rates: np.ndarray, edges: np.ndarray) -> dict[str, list[Any]]:
    """How many rates are in which bin of log10; those outside are in the outermost."""
    logs = np.log10(np.maximum(rates, 1e-300)).clip(edges[0], edges[-1])
    return {"edges": edges.tolist(), "counts": np.histogram(logs, edges)[0].tolist()}
