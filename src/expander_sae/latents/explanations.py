"""What a machine says a latent is: a table beside people's labels, by the SAE, its reading and the method."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from typing import Any

METHODS = ("chat", "embedding", "words")
"""In the order in which they are shown."""
SCHEMA = """
CREATE TABLE IF NOT EXISTS explanations(
    sha256  TEXT NOT NULL,     -- of the SAE, as in `labels`
    reading TEXT NOT NULL,     -- one SAE fires on other tokens when it is read in another way
    latent  INTEGER NOT NULL,
    method  TEXT NOT NULL,
    text    TEXT NOT NULL,
    scores  TEXT NOT NULL,     -- JSON; {}: none
    made_by TEXT NOT NULL,     -- the chat model, say
    created TEXT NOT NULL,     -- ISO 8601, UTC
    PRIMARY KEY(sha256, reading, latent, method)
) WITHOUT ROWID
"""
_COLUMNS = "sha256, reading, latent, method, text, scores, made_by, created"


@dataclass(frozen=True)
class Explanation:
    """One explanation of a latent and how well it tells held-out text (docs/guides/explain.md)."""

    sha256: str
    """Of the SAE."""
    reading: str
    latent: int
    method: str
    """One of `METHODS`."""
    text: str
    scores: dict[str, dict[str, float | int | None]] = field(default_factory=dict)
    """By kind, detection and fuzzing: balanced_accuracy, null, and the numbers of windows, firing and silent; empty
    where the latent has too few."""
    made_by: str = ""
    created: str = ""

    def as_dict(self) -> dict[str, Any]:
        """As JSON has it."""
        return asdict(self)


def read(
    connection: sqlite3.Connection, sha256: str, latent: int | None = None, *, reading: str | None = None
) -> list[Explanation]:
    """Of an SAE, by latent and in the order of `METHODS`; of one latent or one reading, if they are given."""
    asked = f"SELECT {_COLUMNS} FROM explanations WHERE sha256 = ?"
    values: list[str | int] = [sha256]
    for column, value in (("latent", latent), ("reading", reading)):
        if value is not None:
            asked += f" AND {column} = ?"
            values.append(value)
    rows = connection.execute(f"{asked} ORDER BY latent, method, reading", values)
    return [_explanation(row) for row in rows]


def _explanation(row: tuple[Any, ...]) -> Explanation:
    told = dict(zip(_COLUMNS.split(", "), row, strict=True))
    return Explanation(**{**told, "scores": json.loads(told["scores"])})


def write(connection: sqlite3.Connection, explanations: Iterable[Explanation]) -> None:
    """Write explanations, each in the place of an earlier one of the same method."""
    rows = [
        (one.sha256, one.reading, one.latent, one.method, one.text, json.dumps(one.scores), one.made_by, one.created)
        for one in explanations
    ]
    connection.executemany(f"INSERT OR REPLACE INTO explanations({_COLUMNS}) VALUES ({', '.join('?' * 8)})", rows)
