"""What each page shows, as plain dictionaries: the server sends them, and a static site has them in its files.

Latents are told with the labels people gave them. A view is named by its name, as in links.
"""

from __future__ import annotations

import base64
import json
import math
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from expander_sae.latents import Context, Label, LabelFile, Latent, LatentStore, Neighbour, Summary, View
from expander_sae.records import ExpanderSaeError

from .current import Served

BARS = 40
"""Of the histogram of cosines."""
LONG = 200
"""Characters of a token that are sent; a vocabulary may hold words of thousands."""
LIKENESSES = 8
"""Latents with shared rows whose rows are drawn."""


class Pages:
    """The pages of one opened store with its labels."""

    def __init__(self, served: Served, labels: LabelFile) -> None:
        self.served, self.store, self.labels = served, served.store, labels

    def about(self) -> dict[str, Any]:
        """The store itself, and its views."""
        views = self.store.views
        return {
            "title": self.store.path.stem,
            "generation": self.served.generation,
            "meta": self.store.meta,
            "views": [
                {
                    **{name: value for name, value in view.as_dict().items() if name not in ("config", "id", "folder")},
                    "same": [other.name for other in views if other.sha256 == view.sha256],
                }
                for view in views
            ],
        }

    def overview(self, view: View) -> dict[str, Any]:
        """Histograms of density and energy over the latents that are alive."""
        found = self.served.once(("overview", view.id), lambda: self.store.overview(view).as_dict())
        told = {name: found[name] for name in ("density", "energy", "dead", "firings")}
        return {**told, "alive": view.n_latents - view.dead}

    def places(self, view: View) -> dict[str, Any]:
        """The map: arrays in base64, little-endian; x and y in 1/32767."""
        return self.served.once(("places", view.id), lambda: _places(self.store, view))

    def search(
        self,
        view: View,
        *,
        text: str = "",
        where: str = "",
        order: str = "match",
        alive: str = "",
        density: tuple[float, float] | None = None,
        labelled: bool = False,
        limit: int = 50,
        offset: int = 0,
    ) -> dict[str, Any]:
        """Latents of a view, `limit` of them, and whether there are more.

        `where` is what `text` is looked for in: words of tokens and contexts, "token" exactly, or "label". Those with
        a label that fits come first among words.
        """
        dead = alive == "dead"
        if dead:
            density = (0.0, 0.0)
        options: dict[str, Any] = {"view": view, "density": density, "alive": alive == "", "order": order or "match"}
        known = self._labels_of(view)
        if where == "label" or labelled:
            wanted = [j for j, label in known.items() if _fits(label, text if where == "label" else "")]
            if text and where != "label":
                found = self.store.search(text or None, **options, limit=view.n_latents)
                found = [one for one in found if one.index in set(wanted)]
            else:
                found = [one for one in self.store.summaries(sorted(wanted), view) if _kept(one, alive, density)]
                found = _ordered(found, order)
            total = len(found)
            return self._listed(view, found[offset : offset + limit], known, total > offset + limit, total)
        asked = {"token": text} if where == "token" and text else {"text": text or None}
        found = self.store.search(**asked, **options, limit=limit + 1, offset=offset)
        return self._listed(view, found[:limit], known, len(found) > limit, None)

    def summaries(self, view: View, latents: Sequence[int]) -> list[dict[str, Any]]:
        """A line about each of some latents."""
        known = self._labels_of(view)
        return [_line(one, known.get(one.index)) for one in self.store.summaries(latents, view)]

    def latent(self, view: View, j: int) -> dict[str, Any]:
        """Everything about one latent, with a line about each of those near it."""
        latent = self.store.latent(j, view=view)
        near = [*latent.nearest, *latent.together, *latent.row_neighbours]
        lines = {line["latent"]: line for line in self.summaries(view, sorted({one.latent for one in near}))}
        top = latent.edges[-1] if len(latent.edges) else 0.0
        return {
            "view": view.name,
            "latent": j,
            **{name: getattr(latent, name) for name in ("firings", "dead", "energy")},
            **{
                name: _number(getattr(latent, name)) for name in ("density", "mean", "max", "token_entropy", "specific")
            },
            "histogram": latent.histogram.tolist(),
            "histogram_top": _number(top),
            "promoted": [{"token": cut(one.token), "value": one.value} for one in latent.promoted],
            "suppressed": [{"token": cut(one.token), "value": one.value} for one in latent.suppressed],
            "top_tokens": [{"token": cut(t.token), "firings": t.firings, "mean": t.mean} for t in latent.top_tokens],
            "nearest": _valued(latent.nearest, lines),
            "together": _valued(latent.together, lines),
            "row_neighbours": self._with_rows(view, latent.row_neighbours[:LIKENESSES], lines),
            "rows": [] if latent.rows is None else latent.rows.tolist(),
            "weights": [] if latent.weights is None else _short(latent.weights.tolist()),
            "contexts": _contexts(latent),
            "matches": self._matches(latent),
            "readings": [self._reading(other, j) for other in self.store.views if other.sha256 == view.sha256],
            "label": label_told(self.labels.get(view.sha256, j)),
            "explanations": self._explanations(view, j),
        }

    def compare(self, view: View, other: View, *, order: str, limit: int, offset: int) -> dict[str, Any]:
        """For each latent of a view its nearest in another, a page of them, and all cosines as a histogram."""
        latents, others, cosines = self.pairs(view, other)
        if not len(cosines):
            return {"total": 0, "items": [], "counts": [0] * BARS, "low": 0.0, "median": None, "above": 0}
        by = {"alike": slice(None), "latent": np.argsort(latents, kind="stable")}.get(order, slice(None, None, -1))
        chosen = [values[by][offset : offset + limit].tolist() for values in (latents, others, cosines)]
        mine, theirs = self.summaries(view, chosen[0]), self.summaries(other, chosen[1])
        low = min(0.0, float(cosines[-1]))
        return {
            "total": len(cosines),
            "items": [
                {"mine": one, "other": two, "cosine": cosine}
                for one, two, cosine in zip(mine, theirs, chosen[2], strict=True)
            ],
            "counts": np.histogram(np.minimum(cosines, 1.0), BARS, (low, 1.0))[0].tolist(),
            "low": low,
            "median": float(np.median(cosines)),
            "above": int((cosines > 0.9).sum()),
        }

    def pairs(self, view: View, other: View) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Latents, their nearest in another view, and the cosines, by falling cosine."""

        def read() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
            if view.d_in != other.d_in or view.id == other.id:
                self.store.compare(view, other)  # says what is wrong
            asked = "SELECT latent, other, cosine FROM matches WHERE view = ? AND other_view = ?"
            rows = np.array(self.store.rows(asked, view.id, other.id), dtype=np.float64).reshape(-1, 3)
            rows = rows[np.argsort(-rows[:, 2], kind="stable")]
            return rows[:, 0].astype(np.int64), rows[:, 1].astype(np.int64), rows[:, 2]

        return self.served.once(("compare", view.id, other.id), read)

    def all_labels(self) -> dict[str, Any]:
        """Every label, with the first view of its SAE if this store has one."""
        views = {view.sha256: view.name for view in reversed(self.store.views)}
        items = [
            {**label_told(label), "latent": label.latent, "view": views.get(label.sha256), "changed": label.changed}
            for label in self.labels.all()
            if label.text or label.note or label.star
        ]
        return {"items": items, "file": self.labels.path.name}

    def _labels_of(self, view: View) -> dict[int, Label]:
        return {label.latent: label for label in self.labels.all(view.sha256) if label.latent < view.n_latents}

    def _listed(
        self, view: View, found: list[Summary], known: dict[int, Label], more: bool, total: int | None
    ) -> dict[str, Any]:
        return {"items": [_line(one, known.get(one.index)) for one in found], "more": more, "total": total}

    def _with_rows(self, view: View, near: list[Neighbour], lines: dict[int, dict[str, Any]]) -> list[dict[str, Any]]:
        asked = (
            "SELECT latent, rows, weights FROM supports WHERE view = ? AND latent IN (SELECT value FROM json_each(?))"
        )
        columns = self.store.rows(asked, view.id, json.dumps([one.latent for one in near]))
        array = self.store.array
        told = {j: (array(r, "<u4").tolist(), _short(array(w, "<f4").tolist())) for j, r, w in columns}
        return [
            {**lines[one.latent], "value": one.value, "rows": told[one.latent][0], "weights": told[one.latent][1]}
            for one in near
            if one.latent in told
        ]

    def _matches(self, latent: Latent) -> list[dict[str, Any]]:
        found = []
        for name, match in latent.matches.items():
            (line,) = self.summaries(self.store.view(name), [match.other])
            found.append({**line, "view": name, "cosine": match.cosine})
        return found

    def _reading(self, view: View, j: int) -> dict[str, Any]:
        (row,) = self.store.rows(
            "SELECT firings, mean, max, energy FROM latents WHERE view = ? AND latent = ?", view.id, j
        )
        firings, mean, highest, energy = row
        density = firings / max(1, view.tokens)
        told = {"firings": firings, "density": density, "mean": mean, "max": highest, "energy": energy}
        return {"view": view.name, "reading": view.reading, **told}

    def _explanations(self, view: View, j: int) -> list[dict[str, Any]]:
        return [one.as_dict() for one in self.labels.explanations(view.sha256, j, reading=view.reading)]


def checked_latent(view: View, j: int) -> int:
    """A latent's number, if the view has it.

    Raises:
        ExpanderSaeError: it has not.
    """
    if not 0 <= j < view.n_latents:
        raise ExpanderSaeError(f"expected a latent from 0 to {view.n_latents - 1} of {view.name}; got {j}")
    return j


def label_told(label: Label | None) -> dict[str, Any]:
    """A label as the pages have it; version 0: there is none."""
    if label is None:
        return {"text": "", "note": "", "star": False, "version": 0}
    return {name: getattr(label, name) for name in ("text", "note", "star", "version")}


def cut(token: str) -> str:
    """A token as far as a page shows it."""
    return token if len(token) <= LONG else f"{token[: LONG // 2]}… ({len(token):,} characters)"


def _line(one: Summary, label: Label | None) -> dict[str, Any]:
    line: dict[str, Any] = {
        "latent": one.index,
        "firings": one.firings,
        "density": one.density,
        "max": _number(one.max),
        "specific": _number(one.specific),
        "tokens": [cut(token) for token in one.top_tokens],
    }
    if label is not None:
        line |= {"label": label.text, "star": label.star}
    return line


def _fits(label: Label, text: str) -> bool:
    told = f"{label.text}\n{label.note}".casefold()
    return bool(label.text or label.note or label.star) and all(word in told for word in text.casefold().split())


def _kept(one: Summary, alive: str, density: tuple[float, float] | None) -> bool:
    if {"": not one.firings, "dead": one.firings > 0}.get(alive, False):
        return False
    return density is None or density[0] <= one.density <= density[1]


def _ordered(found: list[Summary], order: str) -> list[Summary]:
    if order in ("specific", "density", "max"):
        return sorted(found, key=lambda one: -(getattr(one, order) or 0.0))
    return found


def _valued(near: Iterable[Neighbour], lines: dict[int, dict[str, Any]]) -> list[dict[str, Any]]:
    return [{**lines[one.latent], "value": one.value} for one in near]


def _contexts(latent: Latent) -> dict[str, list[dict[str, Any]]]:
    parts = {"top": latent.contexts, **{str(part): found for part, found in latent.quantiles.items()}}
    return {part: [_context(one) for one in found] for part, found in parts.items()}


def _context(one: Context) -> dict[str, Any]:
    told = {name: getattr(one, name) for name in ("document", "block", "position", "peak")}
    told["tokens"] = [cut(token) for token in one.tokens]
    return {**told, "activation": _short([one.activation])[0], "values": _short(one.values)}


def _short(values: list[float]) -> list[float]:
    """Four digits, which no page shows more of; zeros as 0, of which there are most."""
    return [float(f"{value:.4g}") if value and math.isfinite(value) else 0 for value in values]


def _number(value: float | None) -> float | None:
    return float(value) if value is not None and math.isfinite(value) else None


def _places(store: LatentStore, view: View) -> dict[str, Any]:
    found = store.places(view)
    x, y = (np.rint(np.clip(np.nan_to_num(axis), -1, 1) * 32767) for axis in (found.x, found.y))
    columns = {"latent": (found.latent, "<i4"), "x": (x, "<i2"), "y": (y, "<i2"), "density": (found.density, "<f4")}
    coded = {
        name: base64.b64encode(values.astype(dtype).tobytes()).decode() for name, (values, dtype) in columns.items()
    }
    return {"n": len(found.latent), **coded}
