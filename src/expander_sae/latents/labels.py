"""Labels, notes and stars that people give latents: a file of its own beside a store, safe for two writers at once."""

from __future__ import annotations

import dataclasses
import os
import sqlite3
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Self

from expander_sae.records import ExpanderSaeError
from expander_sae.records.files import plain

from .explanations import SCHEMA as EXPLANATIONS
from .explanations import Explanation, read, write
from .writing import storable

_SCHEMA = """
CREATE TABLE IF NOT EXISTS labels(
    sha256  TEXT NOT NULL,     -- of the SAE: a store that is made anew keeps its labels
    latent  INTEGER NOT NULL,
    text    TEXT NOT NULL,
    note    TEXT NOT NULL,
    star    INTEGER NOT NULL,
    method  TEXT NOT NULL,     -- "person", or what made it
    score   REAL,
    changed TEXT NOT NULL,     -- ISO 8601, UTC
    version INTEGER NOT NULL,  -- 1, 2, ...
    PRIMARY KEY(sha256, latent)
) WITHOUT ROWID
"""
_COLUMNS = "sha256, latent, text, note, star, method, score, changed, version"
LENGTHS = {"text": 2_000, "note": 20_000, "method": 200}
"""Characters, at most."""
_WAIT = 10.0
"""Seconds for another writer."""


@dataclass(frozen=True)
class Label:
    """What a person says a latent is."""

    sha256: str
    """Of the SAE."""
    latent: int
    text: str
    note: str
    star: bool
    method: str
    score: float | None
    changed: str
    version: int
    """1 when it was first written, one more with every change."""

    def as_dict(self) -> dict[str, Any]:
        """As JSON has it."""
        return plain(dataclasses.asdict(self))


class Conflict(ExpanderSaeError):
    """Somebody else changed the label meanwhile: `current` is what it is now, None if there is none."""

    def __init__(self, current: Label | None) -> None:
        self.current = current
        now = "there is none" if current is None else f"it is version {current.version}, {current.text!r}"
        super().__init__(f"expected the label as it was last read; got another one: {now}. Read it again.")


class LabelFile:
    """Labels by the sha256 of the SAE and the latent, in `NAME.labels.db` beside a store `NAME.db`.

    The file is made by the first label. Any number of processes and threads may read and write.

    Example:
        >>> labels = LabelFile.beside("latents.db")  # doctest: +SKIP
        >>> labels.put(view.sha256, 123, text="rivers", seen=0).version  # doctest: +SKIP
        1
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        self._own = threading.local()
        self._lock = threading.Lock()
        self._connections: list[sqlite3.Connection] = []

    @classmethod
    def beside(cls, store: str | os.PathLike[str]) -> Self:
        """The labels that go with a store: `latents.labels.db` beside `latents.db`."""
        path = Path(store)
        return cls(path.with_name(f"{path.stem}.labels.db"))

    def close(self) -> None:
        """Close the connections of every thread; the next call opens one again."""
        with self._lock:
            while self._connections:
                self._connections.pop().close()
            self._own = threading.local()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: Any) -> None:
        self.close()

    def get(self, sha256: str, latent: int) -> Label | None:
        """The label of a latent, or None.

        Raises:
            ExpanderSaeError: the file is damaged.
        """
        found = self._read(f"SELECT {_COLUMNS} FROM labels WHERE sha256 = ? AND latent = ?", sha256, latent)
        return found[0] if found else None

    def all(self, sha256: str | None = None) -> list[Label]:
        """Every label, or those of one SAE, by latent.

        Raises:
            ExpanderSaeError: the file is damaged.
        """
        if sha256 is None:
            return self._read(f"SELECT {_COLUMNS} FROM labels ORDER BY sha256, latent")
        return self._read(f"SELECT {_COLUMNS} FROM labels WHERE sha256 = ? ORDER BY latent", sha256)

    def put(
        self,
        sha256: str,
        latent: int,
        *,
        text: str | None = None,
        note: str | None = None,
        star: bool | None = None,
        method: str = "person",
        score: float | None = None,
        seen: int,
    ) -> Label:
        """Write a label; what is None stays as it is.

        Args:
            sha256: of the SAE.
            latent: which.
            text: the label itself.
            note: anything longer.
            star: whether it is marked.
            method: who says so.
            score: how well it fits, if that was measured.
            seen: the version that was read before; 0: there was none.

        Raises:
            Conflict: it is of another version now.
            ExpanderSaeError: a text is too long, or the file cannot be written.
        """
        for name, given in (("text", text), ("note", note), ("method", method)):
            if given is not None and len(given) > LENGTHS[name]:
                raise ExpanderSaeError(f"expected a {name} of {LENGTHS[name]:,} characters at most; got {len(given):,}")
        with self._writing() as connection:
            before = self._now(connection, sha256, latent)
            if (0 if before is None else before.version) != seen:
                raise Conflict(before)
            changed = datetime.now(UTC).isoformat(timespec="seconds")
            blank = Label(sha256, latent, "", "", False, method, None, changed, 0) if before is None else before
            label = dataclasses.replace(
                blank,
                text=blank.text if text is None else storable(text),
                note=blank.note if note is None else storable(note),
                star=blank.star if star is None else bool(star),
                method=storable(method),
                score=score,
                changed=changed,
                version=blank.version + 1,
            )
            self._replace(connection, label)
        return label

    def explanations(self, sha256: str, latent: int | None = None, *, reading: str | None = None) -> list[Explanation]:
        """What machines say of an SAE's latents, or of one of them or of one reading; chat models first.

        Raises:
            ExpanderSaeError: the file is damaged.
        """
        if not self.path.is_file():
            return []
        with self._explained():
            return read(self._connection(), sha256, latent, reading=reading)

    def put_explanations(self, explanations: Iterable[Explanation]) -> None:
        """Keep what a machine says; no label of a person changes.

        Raises:
            ExpanderSaeError: the file cannot be written.
        """
        with self._writing() as connection:
            write(connection, explanations)

    def export_json(self) -> dict[str, Any]:
        """Every label, for `import_json`."""
        return {"format": "expander-sae labels 1", "labels": [label.as_dict() for label in self.all()]}

    def import_json(self, told: Any) -> dict[str, int]:
        """Take labels over; where there is one already the one changed last stays. How many were taken, and not.

        Raises:
            ExpanderSaeError: they are no labels, or the file cannot be written; nothing is taken then.
        """
        try:
            if told["format"] != "expander-sae labels 1":
                raise KeyError("format")
            labels = [_checked(row) for row in told["labels"]]
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise ExpanderSaeError(
                f"expected labels that `export_json` or the browser wrote; got others: {error}"
            ) from error
        taken = 0
        with self._writing() as connection:
            for label in labels:
                before = self._now(connection, label.sha256, label.latent)
                if before is not None and before.changed >= label.changed:
                    continue
                version = 1 if before is None else before.version + 1
                self._replace(connection, dataclasses.replace(label, version=version))
                taken += 1
        return {"taken": taken, "left": len(labels) - taken}

    def _read(self, statement: str, *values: Any) -> list[Label]:
        if not self.path.is_file():
            return []
        with self._explained():
            return [_label(row) for row in self._connection().execute(statement, values)]

    def _now(self, connection: sqlite3.Connection, sha256: str, latent: int) -> Label | None:
        asked = f"SELECT {_COLUMNS} FROM labels WHERE sha256 = ? AND latent = ?"
        row = connection.execute(asked, (sha256, latent)).fetchone()
        return None if row is None else _label(row)

    def _replace(self, connection: sqlite3.Connection, label: Label) -> None:
        values = [getattr(label, name) for name in _COLUMNS.split(", ")]
        connection.execute(f"INSERT OR REPLACE INTO labels({_COLUMNS}) VALUES ({', '.join('?' * 9)})", values)

    @contextmanager
    def _writing(self) -> Iterator[sqlite3.Connection]:
        """A transaction that no other writer is in."""
        with self._explained():
            self.path.parent.mkdir(parents=True, exist_ok=True)
            connection = self._connection()
            connection.execute("BEGIN IMMEDIATE")
            try:
                yield connection
                connection.execute("COMMIT")
            except BaseException:
                connection.execute("ROLLBACK")
                raise

    @contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except (sqlite3.Error, OSError) as error:
            raise ExpanderSaeError(
                f"expected a file of labels that can be read and written at {self.path}; got {error}. Move it away if "
                "it is damaged, and check the folder's rights."
            ) from error

    def _connection(self) -> sqlite3.Connection:
        connection: sqlite3.Connection | None = getattr(self._own, "connection", None)
        if connection is None:
            connection = sqlite3.connect(self.path, isolation_level=None, timeout=_WAIT, check_same_thread=False)
            with self._lock:
                self._connections.append(connection)
            connection.execute("PRAGMA journal_mode=WAL")
            connection.execute(_SCHEMA)
            connection.execute(EXPLANATIONS)
            self._own.connection = connection
        return connection


def _label(row: tuple[Any, ...]) -> Label:
    sha256, latent, text, note, star, *rest = row
    return Label(sha256, latent, text, note, bool(star), *rest)


def _checked(row: Any) -> Label:
    """A label out of JSON.

    Raises:
        ValueError, KeyError: a field is missing or is none.
    """
    latent, score = row["latent"], row.get("score")
    if isinstance(latent, bool) or not isinstance(latent, int) or latent < 0:
        raise ValueError(f"latent {latent!r}")
    if score is not None and (isinstance(score, bool) or not isinstance(score, int | float)):
        raise ValueError(f"score {score!r}")
    texts = {name: row.get(name, "") for name in ("sha256", "text", "note", "method", "changed")}
    for name, text in texts.items():
        if not isinstance(text, str) or len(text) > LENGTHS.get(name, 100):
            raise ValueError(f"a {name} that is no text, or too long")
    return Label(
        storable(texts["sha256"]),
        latent,
        storable(texts["text"]),
        storable(texts["note"]),
        bool(row.get("star", False)),
        storable(texts["method"]) or "person",
        score,
        storable(texts["changed"]),
        0,
    )
