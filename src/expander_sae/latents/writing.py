"""The rows of a feature store written to a new file; reading is in `store.py`. No torch."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterable, Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np

from expander_sae.records import ExpanderSaeError
from expander_sae.records.files import plain

from .whole import seal_file

FORMAT = 1
BINS = 32
"""Of a latent's histogram."""
FIRES = np.dtype([("place", "<u2"), ("value", "<f4")])
"""Where in a window a latent fires."""


class StoreWriter:
    """Writes one store; as a context. Arrays are indexed by latent unless it is said otherwise.

    Args:
        path: a new or empty file; see `records.write_atomically` for one that replaces another.

    Raises:
        ExpanderSaeError: the disk is full or the file cannot be written.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        try:
            self._connection = sqlite3.connect(path, isolation_level=None)
            # The file is renamed into place once it is whole: a journal would only double what is written.
            self._connection.executescript("PRAGMA journal_mode=OFF; PRAGMA synchronous=OFF; PRAGMA page_size=8192;")
            self._connection.executescript(_script("schema.sql"))
            self._connection.execute("BEGIN")
        except sqlite3.Error as error:
            raise self._cannot(error) from error

    def __enter__(self) -> StoreWriter:
        return self

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        try:
            if error is None:
                self._connection.execute("INSERT INTO texts(texts) VALUES ('optimize')")
                self._connection.execute("COMMIT")
                self._connection.executescript(_script("indices.sql") + "ANALYZE;")
        except sqlite3.Error as failed:
            raise self._cannot(failed) from failed
        finally:
            self._connection.close()
        if isinstance(error, sqlite3.Error):
            raise self._cannot(error) from error
        if error is None:
            seal_file(self._path)

    def meta(self, values: Mapping[str, Any]) -> None:
        """What the store is of; NaN becomes null."""
        rows = {"format": FORMAT, **values}.items()
        self._many("INSERT INTO meta VALUES (?, ?)", ((key, _json(value)) for key, value in rows))

    def vocabulary(self, ids: Iterable[int], texts: Iterable[str]) -> None:
        """What tokens say; what no UTF-8 can hold is spelt out."""
        self._many("INSERT INTO vocabulary VALUES (?, ?)", zip(ids, map(storable, texts), strict=True))

    def blocks(self, ids: Sequence[int], documents: Sequence[int], tokens: Iterable[np.ndarray]) -> None:
        """Blocks of text, each with its token ids."""
        blobs = (np.ascontiguousarray(ids, dtype="<u4").tobytes() for ids in tokens)
        self._many("INSERT INTO blocks VALUES (?, ?, ?)", zip(ids, documents, blobs, strict=True))

    def view(self, number: int, values: Mapping[str, Any]) -> None:
        """One SAE, read in one way: the columns of `views`, with `config` and `overview` as dictionaries."""
        row = {"id": number, **values, "config": _json(values["config"]), "overview": _json(values["overview"])}
        names = ", ".join(row)
        marks = ", ".join("?" * len(row))
        self._many(f"INSERT INTO views({names}) VALUES ({marks})", [tuple(row.values())])

    def latents(self, view: int, columns: Mapping[str, np.ndarray], histogram: np.ndarray) -> None:
        """The numbers of every latent of a view, by the names of the table's columns; histogram [n_latents, BINS]."""
        names = ("firings", "mean", "max", "energy", "token_entropy", "specific", "top")
        lists = [columns[name].tolist() for name in names]  # SQLite has NULL for NaN
        count = len(lists[0])
        blobs = _rows(histogram, "<u4")
        rows = zip([view] * count, range(count), *lists, blobs, strict=True)
        self._many("INSERT INTO latents VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)", rows)
        self.array(view, "firings", columns["firings"], "<i8")

    def contexts(self, view: int, part: np.ndarray, columns: Mapping[str, np.ndarray], values: np.ndarray) -> None:
        """Contexts in order of latent, part and rank.

        Args:
            view: of which.
            part: [contexts].
            columns: latent, rank, activation, block, position, first and length, each [contexts].
            values: codes of the latent on the tokens of each window, [contexts, window], 0 behind its length.
        """
        lists = [columns[name].tolist() for name in ("latent", "rank", "activation", "block", "position", "first")]
        latent, *rest = lists
        place = np.nonzero(values)
        ends = np.cumsum((values != 0).sum(1)).tolist()
        fires = np.empty(len(place[0]), dtype=FIRES)
        fires["place"], fires["value"] = place[1], values[place]
        blobs = (fires[begin:end].tobytes() for begin, end in zip([0, *ends], ends, strict=False))
        rows = zip(
            [view] * len(latent), latent, part.tolist(), *rest, columns["length"].tolist(), blobs, strict=True
        )  # fmt: skip
        self._many("INSERT INTO contexts VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)", rows)

    def pool(self, block: np.ndarray, first: np.ndarray, length: np.ndarray) -> None:
        """Windows of the text, [windows] each; see `pool.py`."""
        rows = zip(range(len(block)), block.tolist(), first.tolist(), length.tolist(), strict=True)
        self._many("INSERT INTO pool VALUES (?, ?, ?, ?)", rows)

    def pool_fires(self, view: int, latents: Sequence[np.ndarray]) -> None:
        """The latents that fire in each of them, rising."""
        rows = (
            (view, number, np.ascontiguousarray(some, dtype="<u4").tobytes()) for number, some in enumerate(latents)
        )
        self._many("INSERT INTO pool_fires VALUES (?, ?, ?)", rows)

    def top_tokens(self, view: int, columns: Mapping[str, np.ndarray]) -> None:
        """latent, rank, token, firings and mean, each [entries]."""
        lists = [columns[name].tolist() for name in ("latent", "rank", "token", "firings", "mean")]
        rows = zip([view] * len(lists[0]), *lists, strict=True)
        self._many("INSERT INTO top_tokens VALUES (?, ?, ?, ?, ?, ?)", rows)

    def logits(self, view: int, latents: np.ndarray, rank: int, tokens: np.ndarray, values: np.ndarray) -> None:
        """Tokens [latents, ranks] and what their logits gain, from rank 1 up or, where `rank` is -1, from -1 down."""
        count, ranks = tokens.shape
        each = np.tile(np.arange(1, ranks + 1) * rank, count)
        columns = (np.repeat(latents, ranks), each, tokens.ravel(), values.ravel())
        rows = zip([view] * len(each), *(column.tolist() for column in columns), strict=True)
        self._many("INSERT INTO logits VALUES (?, ?, ?, ?, ?)", rows)

    def neighbours(self, view: int, how: str, latents: np.ndarray, others: np.ndarray, values: np.ndarray) -> None:
        """Others [latents, ranks] by falling value; one of -1 is none."""
        count, ranks = others.shape
        kept = others.ravel() >= 0
        columns = (np.repeat(latents, ranks), np.tile(np.arange(ranks), count), others.ravel(), values.ravel())
        latent, rank, other, value = (column[kept].tolist() for column in columns)
        rows = zip([view] * len(latent), latent, [how] * len(latent), rank, other, value, strict=True)
        self._many("INSERT INTO neighbours VALUES (?, ?, ?, ?, ?, ?)", rows)

    def supports(self, view: int, rows: np.ndarray, weights: np.ndarray) -> None:
        """The columns of a sparse dictionary, [n_latents, degree] both; a weight of 0 is a slot without an entry."""
        present = weights != 0
        ends = np.cumsum(present.sum(1)).tolist()
        flat_rows, flat_weights = rows[present].astype("<u4"), weights[present].astype("<f4")
        table = (
            (view, latent, flat_rows[begin:end].tobytes(), flat_weights[begin:end].tobytes())
            for latent, (begin, end) in enumerate(zip([0, *ends], ends, strict=False))
        )
        self._many("INSERT INTO supports VALUES (?, ?, ?, ?)", table)

    def matches(self, view: int, other_view: int, other: np.ndarray, cosine: np.ndarray) -> None:
        """The nearest latent of another view for each latent."""
        count = len(other)
        rows = zip([view] * count, range(count), [other_view] * count, other.tolist(), cosine.tolist(), strict=True)
        self._many("INSERT INTO matches VALUES (?, ?, ?, ?, ?)", rows)

    def array(self, view: int, name: str, data: np.ndarray, dtype: str) -> None:
        """One number a latent in one piece."""
        blob = np.ascontiguousarray(data, dtype=dtype).tobytes()
        self._many("INSERT INTO arrays VALUES (?, ?, ?)", [(view, name, blob)])

    def texts(self, view: int, latents: Iterable[int], tokens: Iterable[str], contexts: Iterable[str]) -> None:
        """What a search for words finds latents by."""
        rows = (
            (row_of(view, latent), storable(said), storable(around))
            for latent, said, around in zip(latents, tokens, contexts, strict=True)
        )
        self._many("INSERT INTO texts(rowid, tokens, contexts) VALUES (?, ?, ?)", rows)

    def _many(self, statement: str, rows: Iterable[Sequence[Any]]) -> None:
        try:
            self._connection.executemany(statement, rows)
        except sqlite3.Error as error:
            raise self._cannot(error) from error

    def _cannot(self, error: sqlite3.Error) -> ExpanderSaeError:
        return ExpanderSaeError(f"cannot write {self._path}: {error}. Free some space or choose another place.")


def row_of(view: int, latent: int) -> int:
    """The number of a latent's row in `texts`."""
    return (view << 32) | latent


def _script(name: str) -> str:
    return files("expander_sae.latents").joinpath(name).read_text(encoding="utf-8")


def storable(text: str) -> str:
    """The text, with what no UTF-8 can hold spelt out."""
    return text.encode("utf-8", "backslashreplace").decode()


def _json(value: Any) -> str:
    return json.dumps(plain(value), allow_nan=False)


def _rows(table: np.ndarray, dtype: str) -> Iterable[bytes]:
    """The rows of a table as blobs."""
    data = np.ascontiguousarray(table, dtype=dtype)
    step = data.shape[1] * data.itemsize
    whole = data.tobytes()
    return (whole[begin : begin + step] for begin in range(0, len(whole), step)) if step else iter([b""] * len(data))
