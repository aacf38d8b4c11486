"""The pages as files: the same ones, with their data in scripts that a browser loads from disk as from any host.

Data are scripts and not JSON because a page opened from disk may load scripts beside it and nothing else. Latents lie
in shards; what stands in many places, the words of contexts and the lines about latents, is written once.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from expander_sae.latents import LabelFile, View
from expander_sae.records import write_atomically

from .current import CurrentStore
from .pages import Pages
from .server import SCRIPTS, STYLES, index_html, static_file

SHARD = 32
"""Latents of one file."""
_POLICY = (
    "default-src 'none'; script-src 'self' file:; style-src 'self' file:; img-src 'self' file: data:; "
    "base-uri 'none'; form-action 'none'"
)
_NEAR = ("nearest", "together", "row_neighbours")
_LINE = ("firings", "density", "max", "specific", "tokens", "label", "star")
"""What a line about a latent says; the page takes it from the list of all lines."""


@dataclass
class Wrote:
    """How much was written."""

    files: int = 0
    bytes: int = 0


def export_site(store: Path, folder: Path, *, labels: LabelFile) -> Wrote:
    """Write a store's pages, all but those that run a model, into `folder`.

    Raises:
        ExpanderSaeError: there is no such store, or the folder cannot be written.
    """
    current = CurrentStore(store)
    try:
        return current.read(lambda served: _Site(Pages(served, labels), folder).write())
    finally:
        current.close()


class _Site:
    def __init__(self, pages: Pages, folder: Path) -> None:
        self.pages, self.folder, self.wrote = pages, folder, Wrote()

    def write(self) -> Wrote:
        for name in (*STYLES, "icon.svg"):
            self._file(name, static_file(name))
        scripts = tuple("frozen" if name == "api" else name for name in SCRIPTS)
        for name in scripts:
            self._file(f"{name}.js", static_file(f"{name}.js"))
        views = self.pages.store.views
        about = {**self.pages.about(), "static": True, "live": {"enabled": False}, "shard": SHARD}
        self._data("store", about)
        self._data("labels", self.pages.all_labels())
        for view in views:
            self._view(view)
            for other in views:
                if other.id != view.id and other.d_in == view.d_in:
                    columns = self.pages.pairs(view, other)
                    self._data(f"{view.id}/compare-{other.id}", [values.tolist() for values in columns])
        # Last: a site that is written over is whole, old or new, as soon as its first page is.
        head = f'\n  <meta http-equiv="Content-Security-Policy" content="{_POLICY}">'
        self._file("index.html", index_html(scripts, head))
        return self.wrote

    def _view(self, view: View) -> None:
        pages = self.pages
        self._data(f"{view.id}/overview", {"overview": pages.overview(view), "places": pages.places(view)})
        every = range(view.n_latents)
        lines: list[dict[str, Any]] = []
        for start in range(0, view.n_latents, 1000):
            lines += pages.summaries(view, every[start : start + 1000])
        energy = {
            j: share for j, share in pages.store.rows("SELECT latent, energy FROM latents WHERE view = ?", view.id)
        }
        self._data(f"{view.id}/lines", [{**line, "energy": energy[line["latent"]]} for line in lines])
        for start in range(0, view.n_latents, SHARD):
            words = _Words()
            latents = [_shorter(pages.latent(view, j), words) for j in every[start : start + SHARD]]
            self._data(f"{view.id}/latents-{start // SHARD}", {"words": words.all, "latents": latents})

    def _data(self, name: str, told: Any) -> None:
        text = json.dumps(told, allow_nan=False, separators=(",", ":"))  # ASCII alone: no line separator ends a line
        self._file(f"data/{name}.js", f"app.frozen({json.dumps(name)},{text});\n".encode())

    def _file(self, name: str, content: bytes) -> None:
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        with write_atomically(path) as temporary:
            temporary.write_bytes(content)
        self.wrote.files += 1
        self.wrote.bytes += len(content)


class _Words:
    """The words of a shard, each once."""

    def __init__(self) -> None:
        self.all: list[str] = []
        self._number: dict[str, int] = {}

    def numbers(self, words: Iterable[str]) -> list[int]:
        found = []
        for word in words:
            if word not in self._number:
                self._number[word] = len(self.all)
                self.all.append(word)
            found.append(self._number[word])
        return found


def _shorter(latent: dict[str, Any], words: _Words) -> dict[str, Any]:
    """A latent without what the page finds elsewhere: words by number, other latents by theirs."""
    contexts = {
        part: [{**one, "tokens": words.numbers(one["tokens"])} for one in found]
        for part, found in latent["contexts"].items()
    }
    near = {name: [_without_line(one) for one in latent[name]] for name in (*_NEAR, "matches")}
    return {**latent, "contexts": contexts, **near}


def _without_line(one: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in one.items() if name not in _LINE}
