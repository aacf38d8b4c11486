"""Places of a text and what holds at each: the word, the words around it, its class."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cached_property
from typing import NamedTuple

import numpy as np

from expander_sae.evaluation.meaning.concepts import BROAD
from expander_sae.evaluation.meaning.text import Text, words_of

NEAR = 8
"""Tokens before a place in which a word stands `near` it."""

_CONCEPTS: dict[str, Callable[[Text], np.ndarray]] = {name: answer for _, name, answer in BROAD}
CLASSES = {
    "numbers": "is a number",
    "years": "is of a year",
    "capitalised words": "is capitalised",
    "punctuation": "is punctuation",
    "determiners": "is a determiner",
    "prepositions": "is a preposition",
    "pronouns": "is a pronoun",
    "auxiliary verbs": "is an auxiliary verb",
    "conjunctions": "is a conjunction",
    "words in -ing": "word ends in -ing",
    "words in -ed": "word ends in -ed",
    "words in -s": "word ends in -s",
    "words in -ly": "word ends in -ly",
    "words in -tion": "word ends in -tion",
    "later pieces of words": "goes on with a word",
}
"""What a token can be, as labels say it, by the concept's name."""
SURROUNDINGS = {
    "after a number": "after a number",
    "after a preposition": "after a preposition",
    "before a number": "next is a number",
    "before a capitalised word": "next is capitalised",
    "before more of the word": "next goes on with the word",
    "in parentheses": "in parentheses",
    "in quotation marks": "in quotation marks",
    "at the start of a sentence": "starts a sentence",
    "late in a sentence": "is late in its sentence",
}
"""What can be around a token, likewise."""


class Predicate(NamedTuple):
    """A yes-or-no question about a place.

    `kind` is one of: word (the word up to here is `key`), piece (the token is `key`, a later piece of a word), class,
    after (the word before is `key`), near (`key` is among the `NEAR` tokens before), before (the next word is `key`),
    around (one of `SURROUNDINGS`).
    """

    kind: str
    key: str

    def __str__(self) -> str:
        said = f"“{self.key}”"
        named = {"word": said, "piece": f"“…{self.key}”", "class": self.key, "around": self.key}
        return named.get(self.kind) or {
            "after": f"after {said}", "near": f"soon after {said}", "before": f"before {said}"
        }[self.kind]  # fmt: skip


class Places:
    """Every place of some rows of tokens (windows or blocks), row after row, as arrays [places].

    Args:
        rows: the tokens of each, as text with the space before them.
    """

    def __init__(self, rows: Sequence[Sequence[str]]) -> None:
        self.length = max([1, *map(len, rows)])
        piece = np.full(len(rows) * self.length, "", dtype=object)
        self.real = np.zeros(len(piece), dtype=bool)
        for number, row in enumerate(rows):
            span = slice(number * self.length, number * self.length + len(row))
            piece[span], self.real[span] = row, True
        word, starts = words_of(piece, self.length)
        nothing = np.zeros(len(piece), dtype=np.int64)
        self._text = Text(nothing, piece, word, starts, self.real, nothing, self.length)
        self._answers: dict[Predicate, np.ndarray] = {}

    @cached_property
    def words(self) -> dict[str, np.ndarray]:
        """By the kind of a predicate that asks for a word: the word at every place that it is compared with, in lower
        case; empty where there is none."""
        text = self._text
        lower = np.array([word.lower() for word in text.word], dtype=object)
        so_far = np.full_like(lower, "")
        before, here, last = np.full_like(lower, ""), "", ""
        for place, (piece, starts) in enumerate(zip(text.piece, text.starts, strict=True)):
            if place % self.length == 0:
                last = here = ""
            elif starts and lower[place - 1]:
                last = lower[place - 1]
            here = piece if starts else here + piece
            so_far[place], before[place] = here.strip().lower(), last
        pieces = np.where(text.starts, "", np.array([piece.strip().lower() for piece in text.piece], dtype=object))
        following = text.shifted(np.where(text.starts, lower, ""), 1)
        return {"word": so_far, "piece": pieces, "after": before, "before": following, "near": lower}

    @cached_property
    def _codes(self) -> dict[str, tuple[dict[str, int], np.ndarray]]:
        found = {}
        for kind, words in self.words.items():
            known: dict[str, int] = {}
            codes = np.array([known.setdefault(word, len(known)) for word in words], dtype=np.int32)
            found[kind] = (known, codes)
        return found

    def holds(self, predicate: Predicate) -> np.ndarray:
        """Where it holds, bool [places]; nowhere outside the rows."""
        if predicate not in self._answers:
            self._answers[predicate] = self._holds(predicate) & self.real
        return self._answers[predicate]

    def _holds(self, predicate: Predicate) -> np.ndarray:
        if predicate.kind in ("class", "around"):
            names = CLASSES if predicate.kind == "class" else SURROUNDINGS
            return _CONCEPTS[names[predicate.key]](self._text)
        known, codes = self._codes[predicate.kind]
        same = codes == known.get(predicate.key, -1)
        if predicate.kind != "near":
            return same
        table, near = same.reshape(-1, self.length), np.zeros((len(same) // self.length, self.length), dtype=bool)
        for back in range(2, min(NEAR, self.length - 1) + 1):
            near[:, back:] |= table[:, :-back]
        return near.ravel()

    def counts(self, kind: str) -> dict[str, int]:
        """How often each word is at a place, for a kind of predicate that asks for a word."""
        known, codes = self._codes[kind]
        counts = np.bincount(codes[self.real], minlength=len(known))
        return {word: int(count) for (word, _), count in zip(known.items(), counts, strict=True) if word}

    def around(self, places: np.ndarray) -> list[set[str]]:
        """The words among the `NEAR` tokens before each place, but for the token right before it."""
        words = self.words["near"]
        first = places // self.length * self.length
        return [
            {word for word in words[max(start, place - NEAR) : max(start, place - 1)] if word}
            for place, start in zip(places.tolist(), first.tolist(), strict=True)
        ]
