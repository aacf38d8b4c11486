"""What a chat model said, on disk by what it was asked: nothing is asked twice, whenever a run ends."""

from __future__ import annotations

import hashlib
import json
import os
import sqlite3
from pathlib import Path

from expander_sae.evaluation.chat_model import Messages, Reply
from expander_sae.records import ExpanderSaeError

_TABLE = """
CREATE TABLE IF NOT EXISTS answers (
    asked TEXT PRIMARY KEY,   -- SHA-256 of the address, the model and the whole question
    answer TEXT NOT NULL, prompt_tokens INTEGER NOT NULL, completion_tokens INTEGER NOT NULL
) WITHOUT ROWID
"""


class Answers:
    """A file of answers; for the thread that opened it.

    Args:
        path: made if need be.

    Raises:
        ExpanderSaeError: there is another file, or it cannot be written.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        try:
            self._file = sqlite3.connect(self.path, isolation_level=None)
            self._file.execute(_TABLE)
        except sqlite3.Error as error:
            raise self._unusable(error) from error

    @staticmethod
    def key(url: str, model: str, messages: Messages, seed: int, max_tokens: int) -> str:
        """What a question is known by."""
        asked = json.dumps([url, model, messages, seed, max_tokens])
        return hashlib.sha256(asked.encode()).hexdigest()

    def get(self, key: str) -> Reply | None:
        """What was said, if it was asked before."""
        row = self._file.execute(
            "SELECT answer, prompt_tokens, completion_tokens FROM answers WHERE asked = ?", [key]
        ).fetchone()
        return None if row is None else Reply(*row)

    def put(self, key: str, reply: Reply) -> None:
        """Keep what was said; on disk when this returns."""
        try:
            self._file.execute("INSERT OR REPLACE INTO answers VALUES (?, ?, ?, ?)", [key, *reply])
        except sqlite3.Error as error:
            raise self._unusable(error) from error

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def _unusable(self, error: sqlite3.Error) -> ExpanderSaeError:
        return ExpanderSaeError(
            f"expected a file of answers, or none, at {self.path}; got {error}. Remove it, or choose another with "
            "--answers."
        )
