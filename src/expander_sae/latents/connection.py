"""A feature store's file, opened for reading: rows, blobs and words, and one error for whatever is damaged."""

from __future__ import annotations

import json
import sqlite3
import threading
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Self

import numpy as np

from expander_sae.records import ExpanderSaeError


class StoreChanged(ExpanderSaeError):
    """Another file has taken the store's place since it was opened: open it anew."""


class StoreFile:
    """One file, over one connection a thread."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._own = threading.local()
        self._lock = threading.Lock()
        self._connections: list[tuple[threading.Thread, sqlite3.Connection]] = []
        self._closed = False
        self._words: dict[int, str] = {}
        self._file: tuple[int, ...] | None = None

    def close(self) -> None:
        """Close the connections of every thread; what is asked afterwards is an error."""
        with self._lock:
            self._closed = True
            while self._connections:
                self._connections.pop()[1].close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: Any) -> None:
        self.close()

    def words(self, ids: Iterable[int]) -> dict[int, str]:
        """What tokens say; one that the store does not know is <ID>."""
        wanted = set(ids)
        unknown = [one for one in wanted if one not in self._words]
        if unknown:
            asked = "SELECT id, text FROM vocabulary WHERE id IN (SELECT value FROM json_each(?))"
            told = dict(self.rows(asked, json.dumps(unknown)))
            self._words.update({one: told.get(one, f"<{one}>") for one in unknown})
        return {one: self._words[one] for one in wanted}

    def rows(self, statement: str, *values: Any) -> list[tuple[Any, ...]]:
        """What SQL finds.

        Raises:
            ExpanderSaeError: the file is no store, or damaged.
        """
        try:
            return self._connection().execute(statement, values).fetchall()
        except sqlite3.ProgrammingError as error:
            if self._closed:
                raise ExpanderSaeError(f"expected an open store; got {self.path}, which was closed") from error
            raise
        except sqlite3.Error as error:
            raise self.damaged(error) from error

    def whole(self, view: Any, name: str, dtype: str) -> np.ndarray:
        """One number of every latent of a view, [n_latents]."""
        (blob,) = self.row("SELECT data FROM arrays WHERE view = ? AND name = ?", view.id, name)
        return self.array(blob, dtype, view.n_latents)

    def array(self, blob: Any, dtype: Any, count: int | None = None) -> np.ndarray:
        """A blob as an array of so many."""
        try:
            data = np.frombuffer(blob, dtype=dtype)
        except (ValueError, TypeError) as error:
            raise self.damaged(error) from error
        if count is not None and len(data) != count:
            raise self.damaged(f"expected {count} numbers; got {len(data)}")
        return data

    def damaged(self, why: object) -> ExpanderSaeError:
        """What is said of a file that cannot be read."""
        return ExpanderSaeError(
            f"expected a feature store in {self.path}; got a file that is none, or is damaged: {why}. Make it anew "
            "with `expander-sae features`."
        )

    def said(self, statement: str, *values: Any) -> list[tuple[Any, ...]]:
        """Rows whose first column is a token, with what it says before it."""
        rows = self.rows(statement, *values)
        words = self.words(row[0] for row in rows)
        return [(words[row[0]], *row) for row in rows]

    def _connection(self) -> sqlite3.Connection:
        connection: sqlite3.Connection | None = getattr(self._own, "connection", None)
        if connection is not None:
            return connection
        with self._lock:
            if self._closed:
                raise ExpanderSaeError(f"expected an open store; got {self.path}, which was closed")
            place = f"{self.path.resolve().as_uri()}?mode=ro"
            # Closed by whoever closes the store, which may be another thread.
            connection = sqlite3.connect(place, uri=True, check_same_thread=False)
            if self._file not in (None, self._stat()):  # a new thread would read another file than the old ones
                connection.close()
                raise StoreChanged(
                    f"expected the store that was opened at {self.path}; got another one. Open it again."
                )
            self._file = self._stat()
            self._leave_the_dead()
            self._connections.append((threading.current_thread(), connection))
        connection.execute("PRAGMA query_only=1")
        connection.execute(f"PRAGMA mmap_size={1 << 30}")
        self._own.connection = connection
        return connection

    def row(self, statement: str, *values: Any) -> tuple[Any, ...]:
        """The first row that SQL finds; there must be one."""
        rows = self.rows(statement, *values)
        if not rows:
            raise self.damaged("a row is missing")
        return rows[0]

    def _stat(self) -> tuple[int, ...]:
        found = self.path.stat()
        return found.st_dev, found.st_ino, found.st_mtime_ns

    def _leave_the_dead(self) -> None:
        """Close what threads that have ended left open."""
        for thread, connection in self._connections:
            if not thread.is_alive():
                connection.close()
        self._connections = [one for one in self._connections if one[0].is_alive()]
