"""What is in a feature store: views, latents, contexts, searches. SQLite and NumPy alone: no torch."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Self

import numpy as np

from expander_sae.records import ExpanderSaeError

from .connection import StoreFile
from .contexts import ALL, read_contexts
from .latent import (
    Context,
    Histogram,
    Latent,
    Match,
    Neighbour,
    Overview,
    Places,
    Summary,
    TokenCount,
    TokenWeight,
    View,
)
from .pool import PoolWindow, read_pool
from .search import statement
from .tables import arrow, frame
from .whole import check_file
from .writing import BINS, FORMAT

_VIEW = (
    "id, name, sae, folder, sha256, reading, kind, d_in, n_latents, degree, k, tokens, fvu, dead, energy, config"
)  # fmt: skip
SHOWN = 5
"""Top tokens of a summary."""


class LatentStore(StoreFile):
    """What `expander-sae features` wrote, read-only. Any number of threads may read at once, each over a connection of
    its own; a file that is replaced meanwhile stays readable as it was.

    Example:
        >>> store = LatentStore.open("latents.db")  # doctest: +SKIP
        >>> store.search("river", order="specific")[0].top_tokens  # doctest: +SKIP
        [' river', ' rivers', ' stream']
        >>> store.latent(123).contexts[0].tokens  # doctest: +SKIP
    """

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self.meta: dict[str, Any] = {}
        self.views: tuple[View, ...] = ()

    @classmethod
    def open(cls, path: str | os.PathLike[str]) -> Self:
        """Open a store.

        Raises:
            ExpanderSaeError: there is no file, it is no store, it is damaged, or of a later format.
        """
        store = cls(Path(path))
        if not store.path.is_file():
            raise ExpanderSaeError(
                f"expected a feature store at {path}; got no file. `expander-sae features` makes one."
            )
        try:
            check_file(store.path)
            store.meta = {key: json.loads(value) for key, value in store.rows("SELECT key, value FROM meta")}
            version = store.meta.get("format")
            if not isinstance(version, int) or not 1 <= version <= FORMAT:
                raise ExpanderSaeError(
                    f"expected a feature store of format {FORMAT} at most in {path}; got {version!r}. Read it with the "
                    "version of expander-sae that wrote it, or make it anew."
                )
            rows = store.rows(f"SELECT {_VIEW} FROM views ORDER BY id")
            store.views = tuple(View(*row[:-1], config=json.loads(row[-1])) for row in rows)
        except (ExpanderSaeError, ValueError, TypeError) as error:
            store.close()
            raise error if isinstance(error, ExpanderSaeError) else store.damaged(error) from error
        if not store.views:
            store.close()
            raise store.damaged("it has no SAE")
        return store

    def view(self, view: str | int | View | None = None) -> View:
        """A view by its name or number; None: the first.

        Raises:
            ExpanderSaeError: there is none of that name.
        """
        if isinstance(view, View):
            return view
        if view is None:
            return self.views[0]
        for one in self.views:
            if view in (one.id, one.name):
                return one
        names = ", ".join(f"{one.id} ({one.name})" for one in self.views)
        raise ExpanderSaeError(f"expected a view out of {names}; got {view!r}")

    def latent(self, j: int, *, view: str | int | View | None = None) -> Latent:
        """Everything about one latent.

        Raises:
            ExpanderSaeError: the view has no such latent.
        """
        view = self.view(view)
        j = self._index(j, view)
        row = self.row(
            "SELECT firings, mean, max, energy, token_entropy, specific, top, histogram FROM latents "
            "WHERE view = ? AND latent = ?",
            view.id, j,
        )  # fmt: skip
        firings, mean, highest, energy, entropy, specific, top, histogram = row
        contexts = read_contexts(self, view.id, j, ALL)
        logits = self.said(
            "SELECT token, value, rank FROM logits WHERE view = ? AND latent = ? ORDER BY abs(rank)", view.id, j
        )
        support = self.rows("SELECT rows, weights FROM supports WHERE view = ? AND latent = ?", view.id, j)
        return Latent(
            view=view.name,
            index=j,
            firings=firings,
            density=firings / max(1, view.tokens),
            mean=mean,
            max=highest,
            energy=energy,
            token_entropy=entropy,
            specific=specific,
            dead=firings == 0,
            histogram=self.array(histogram or bytes(4 * BINS), "<u4", BINS).astype(np.int64),
            edges=np.linspace(0.0, top or 0.0, BINS + 1),
            promoted=[TokenWeight(said, *rest[:2]) for said, *rest in logits if rest[2] > 0],
            suppressed=[TokenWeight(said, *rest[:2]) for said, *rest in logits if rest[2] < 0],
            top_tokens=[
                TokenCount(*row)
                for row in self.said(
                    "SELECT token, firings, mean FROM top_tokens WHERE view = ? AND latent = ? ORDER BY rank",
                    view.id,
                    j,
                )
            ],
            nearest=self._neighbours(j, view, "cosine"),
            together=self._neighbours(j, view, "together"),
            row_neighbours=self._neighbours(j, view, "rows"),
            rows=self.array(support[0][0], "<u4").astype(np.int64) if support else None,
            weights=self.array(support[0][1], "<f4") if support else None,
            contexts=[one for one in contexts if one.part == 0],
            quantiles={part: [one for one in contexts if one.part == part] for part in (1, 2, 3, 4)},
            matches={
                name: Match(j, other, cosine)
                for name, other, cosine in self.rows(
                    "SELECT name, other, cosine FROM matches JOIN views ON views.id = other_view "
                    "WHERE view = ? AND latent = ? AND other_view IN (SELECT id FROM views) ORDER BY other_view",
                    view.id,
                    j,
                )
            },
        )

    def contexts(
        self, j: int, *, quantile: int | None = None, view: str | int | View | None = None, limit: int = 20
    ) -> list[Context]:
        """Text on which a latent fires, by falling activation.

        Args:
            j: which latent.
            quantile: None: its highest activations, one of a block at most; 1 to 4: of the lowest to the highest
                quarter of its firings, drawn evenly.
            view: None: the first.
            limit: at most so many.

        Raises:
            ExpanderSaeError: no such latent, quantile or view.
        """
        view = self.view(view)
        if quantile not in (None, 1, 2, 3, 4):
            raise ExpanderSaeError(f"expected a quantile out of 1, 2, 3 and 4, or None; got {quantile!r}")
        return read_contexts(self, view.id, self._index(j, view), (quantile or 0,), limit)

    def pool(self, view: str | int | View | None = None) -> list[PoolWindow]:
        """Windows of the text with the latents that fire in each: where any other latent is known to be silent."""
        return read_pool(self, self.view(view).id)

    def search(
        self,
        text: str | None = None,
        *,
        token: str | int | None = None,
        view: str | int | View | None = None,
        density: tuple[float, float] | None = None,
        alive: bool = True,
        order: str = "match",
        limit: int = 50,
        offset: int = 0,
    ) -> list[Summary]:
        """Latents of a view by what they fire on.

        Args:
            text: words, all of them, in the top tokens or first contexts; the last may be the beginning of one. Of
                words that very many latents have, the first 4,000 of these are looked at.
            token: one of the top tokens, as text (case and spaces around it do not count) or by its id.
            view: None: the first.
            density: lowest and highest share of the tokens.
            alive: leave out those that never fired.
            order: match (how well text or token fits; without either as density), specific, density, max or energy, all
                highest first, or latent.
            limit: at most so many.
            offset: leave out so many first.

        Raises:
            ExpanderSaeError: no such view or order.
        """
        view = self.view(view)
        asked, values = statement(
            view, text=text, token=token, density=density, alive=alive, order=order, limit=limit, offset=offset
        )
        return self.summaries((j for (j,) in self.rows(asked, *values)), view)

    def summaries(self, latents: Iterable[int], view: str | int | View | None = None) -> list[Summary]:
        """A line about each latent, in the order given.

        Raises:
            ExpanderSaeError: the view has no such latent.
        """
        view = self.view(view)
        wanted = [self._index(j, view) for j in latents]
        asked = json.dumps(wanted)
        told = {
            j: rest
            for j, *rest in self.rows(
                "SELECT latent, firings, max, specific FROM latents "
                "WHERE view = ? AND latent IN (SELECT value FROM json_each(?))",
                view.id, asked,
            )
        }  # fmt: skip
        tokens: dict[int, list[str]] = {}
        top = self.said(
            "SELECT token, latent FROM top_tokens WHERE view = ? AND latent IN (SELECT value FROM json_each(?)) "
            f"AND rank < {SHOWN} ORDER BY latent, rank",
            view.id, asked,
        )  # fmt: skip
        for said, _, j in top:
            tokens.setdefault(j, []).append(said)
        lines = []
        for j in wanted:
            if j not in told:
                raise self.damaged(f"it lacks latent {j} of {view.name}")
            firings, highest, specific = told[j]
            density = firings / max(1, view.tokens)
            lines.append(Summary(view.name, j, firings, density, highest, specific, tokens.get(j, [])))
        return lines

    def overview(self, view: str | int | View | None = None) -> Overview:
        """How many latents have which density and which share of the energy."""
        view = self.view(view)
        (text,) = self.row("SELECT overview FROM views WHERE id = ?", view.id)
        try:
            told = json.loads(text)
            density, energy = (
                Histogram(np.array(told[name]["edges"], float), np.array(told[name]["counts"], np.int64))
                for name in ("density", "energy")
            )
        except (ValueError, KeyError, TypeError) as error:
            raise self.damaged(error) from error
        return Overview(view, density, energy, view.dead, int(self.whole(view, "firings", "<i8").sum()))

    def places(self, view: str | int | View | None = None) -> Places:
        """Where each latent is on the map, [n_latents]."""
        view = self.view(view)
        x, y = (self.whole(view, name, "<f4") for name in ("x", "y"))
        return Places(np.arange(view.n_latents), x, y, self.whole(view, "firings", "<i8") / max(1, view.tokens))

    def compare(self, view: str | int | View, other: str | int | View) -> list[Match]:
        """For each latent of a view, the one of the other whose column is nearest; by falling cosine.

        Raises:
            ExpanderSaeError: no such view, or the two are not of one width.
        """
        view, other = self.view(view), self.view(other)
        if view.d_in != other.d_in or view.id == other.id:
            raise ExpanderSaeError(
                f"expected two views of one width; got {view.name} (d_in {view.d_in}) and {other.name} ({other.d_in})"
            )
        rows = self.rows(
            "SELECT latent, other, cosine FROM matches WHERE view = ? AND other_view = ? ORDER BY cosine DESC, latent",
            view.id, other.id,
        )  # fmt: skip
        return [Match(*row) for row in rows]

    def table(self, view: str | int | View | None = None) -> Any:
        """The numbers of every latent as a `pandas.DataFrame`.

        Raises:
            ExpanderSaeError: pandas is not installed.
        """
        return frame(self._columns(self.view(view)))

    def arrow(self, view: str | int | View | None = None) -> Any:
        """The numbers of every latent as a `pyarrow.Table`.

        Raises:
            ExpanderSaeError: pyarrow is not installed.
        """
        return arrow(self._columns(self.view(view)))

    def _columns(self, view: View) -> dict[str, np.ndarray]:
        """The numbers of every latent."""
        names = ("latent", "firings", "mean", "max", "energy", "token_entropy", "specific")
        rows = self.rows(f"SELECT {', '.join(names)} FROM latents WHERE view = ? ORDER BY latent", view.id)
        columns: dict[str, np.ndarray] = dict(zip(names, map(np.array, zip(*rows, strict=True)), strict=True))
        for name in names[2:]:
            columns[name] = columns[name].astype(np.float64)  # None becomes NaN
        columns["density"] = columns["firings"] / max(1, view.tokens)
        return columns

    def _index(self, j: Any, view: View) -> int:
        if isinstance(j, bool) or not isinstance(j, int | np.integer) or not 0 <= j < view.n_latents:
            raise ExpanderSaeError(f"expected a latent from 0 to {view.n_latents - 1} of {view.name}; got {j!r}")
        return int(j)

    def _neighbours(self, j: int, view: View, how: str) -> list[Neighbour]:
        asked = "SELECT other, value FROM neighbours WHERE view = ? AND latent = ? AND how = ? ORDER BY rank"
        return [Neighbour(*row) for row in self.rows(asked, view.id, j, how)]
