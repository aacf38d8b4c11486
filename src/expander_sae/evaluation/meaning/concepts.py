"""What a latent may be about: yes-or-no questions that can be read off any text, in a fixed list.

Broad concepts hold on many tokens and are the same for every text; `narrow.py` has those that a text brings itself.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from .text import Text

DETERMINERS = ["the", "a", "an", "this", "that", "these", "those", "every", "each", "some", "any", "no", "another"]
PREPOSITIONS = [
    "of",
    "in",
    "to",
    "for",
    "with",
    "on",
    "at",
    "from",
    "by",
    "about",
    "as",
    "into",
    "through",
    "after",
    "over",
    "between",
    "out",
    "against",
    "during",
    "without",
    "before",
    "under",
    "around",
    "among",
    "within",
    "along",
    "across",
    "behind",
    "beyond",
    "upon",
    "toward",
    "towards",
    "since",
    "until",
    "near",
]
PRONOUNS = [
    "i",
    "you",
    "he",
    "she",
    "it",
    "we",
    "they",
    "him",
    "her",
    "them",
    "me",
    "us",
    "his",
    "its",
    "their",
    "our",
    "your",
    "my",
    "mine",
    "hers",
    "theirs",
    "himself",
    "herself",
    "itself",
    "themselves",
    "who",
    "whom",
    "whose",
    "which",
]
AUXILIARIES = [
    "is",
    "are",
    "was",
    "were",
    "be",
    "been",
    "being",
    "am",
    "has",
    "have",
    "had",
    "do",
    "does",
    "did",
    "will",
    "would",
    "can",
    "could",
    "may",
    "might",
    "shall",
    "should",
    "must",
]
CONJUNCTIONS = [
    "and",
    "or",
    "but",
    "nor",
    "so",
    "yet",
    "because",
    "although",
    "though",
    "while",
    "whereas",
    "unless",
    "if",
    "than",
]
_NUMBER, _YEAR = re.compile(r"\d+\Z"), re.compile(r"(1\d{3}|20\d{2})\Z")
_PUNCTUATION = re.compile(r"[^\w\s]+\Z")
_ENDS = {".", "!", "?"}
SENTENCE_LATE = 20
"""Tokens after the start of a sentence from which on a token is late in it."""


class Concept(NamedTuple):
    """A question with its answer at every place of a text."""

    name: str
    group: str
    """Which table it belongs to: `token` (what the token is), `form` (how its word is written), `context` (what is
    around it), `position`, `article`; or one of the narrow groups."""
    labels: np.ndarray
    """bool [places]."""


def broad_concepts(text: Text) -> list[Concept]:
    """The questions of `BROAD`, and for each document of the text whether a token is from it."""
    found = [Concept(name, group, answer(text) & text.real) for group, name, answer in BROAD]
    documents = np.unique(text.document)
    if len(documents) > 1:
        found += [Concept(f"article {d}", "article", (text.document == d) & text.real) for d in documents]
    return found


def _word(test: Callable[[str], bool]) -> Callable[[Text], np.ndarray]:
    """Tokens whose word passes a test."""

    def answer(text: Text) -> np.ndarray:
        known = {word: test(word) for word in set(text.word.tolist())}
        return np.array([known[word] for word in text.word.tolist()], dtype=bool)

    return answer


def _one_of(words: list[str]) -> Callable[[Text], np.ndarray]:
    chosen = set(words)
    return _word(lambda word: word.lower() in chosen)


def _ending(end: str) -> Callable[[Text], np.ndarray]:
    return _word(lambda word: len(word) > len(end) + 1 and word.isalpha() and word.lower().endswith(end))


def _first_letter(letter: str) -> Callable[[Text], np.ndarray]:
    """The token begins a word with this letter."""
    begins = _word(lambda word: word[:1].lower() == letter and word.isalpha())
    return lambda text: begins(text) & text.starts


def _next(answer: Callable[[Text], np.ndarray]) -> Callable[[Text], np.ndarray]:
    """The next token starts a word for which the answer is yes."""
    return lambda text: text.shifted(answer(text) & text.starts, 1)


def _after(answer: Callable[[Text], np.ndarray]) -> Callable[[Text], np.ndarray]:
    """The token before is the last of a word for which the answer is yes."""
    return lambda text: text.shifted(answer(text), -1) & text.starts


def _inside(opening: str, closing: str) -> Callable[[Text], np.ndarray]:
    """Between an opening and a closing mark of the same block, the marks themselves left out."""

    def answer(text: Text) -> np.ndarray:
        out = np.zeros(len(text.piece), dtype=bool)
        depth = 0
        for place, piece in enumerate(text.piece.tolist()):
            if place % text.length == 0:
                depth = 0
            marks = False
            for character in piece:
                if character in closing and (depth or character not in opening):
                    depth, marks = max(0, depth - 1), True
                elif character in opening:
                    depth, marks = depth + 1, True
            out[place] = depth > 0 and not marks
        return out

    return answer


def _since_sentence(text: Text) -> np.ndarray:
    """Tokens since the sentence began, 0 on its first; int64."""
    out, since = np.zeros(len(text.piece), dtype=np.int64), 0
    for place, word in enumerate(text.word.tolist()):
        since = 0 if place % text.length == 0 else since
        out[place] = since
        since = 0 if word in _ENDS else since + 1
    return out


_punctuation, _number = _word(lambda w: bool(_PUNCTUATION.match(w))), _word(lambda w: bool(_NUMBER.match(w)))
_capital = _word(lambda w: w[:1].isupper() and w.isalpha())
_preposition = _one_of(PREPOSITIONS)

BROAD: tuple[tuple[str, str, Callable[[Text], np.ndarray]], ...] = (
    ("token", "is a number", _number),
    ("token", "is capitalised", _capital),
    ("token", "is punctuation", _punctuation),
    ("token", "is a comma", _word(lambda w: w == ",")),
    ("token", "is a determiner", _one_of(DETERMINERS)),
    ("token", "is a preposition", _preposition),
    ("token", "is a pronoun", _one_of(PRONOUNS)),
    ("token", "is an auxiliary verb", _one_of(AUXILIARIES)),
    ("token", "is a conjunction", _one_of(CONJUNCTIONS)),
    *(("form", f"word ends in -{end}", _ending(end)) for end in ("ing", "ed", "s", "ly", "tion")),
    ("form", "goes on with a word", lambda text: ~text.starts),
    *(("form", f"word begins with {letter}", _first_letter(letter)) for letter in "sacp"),
    ("form", "is of a year", _word(lambda w: bool(_YEAR.match(w)))),
    *(("context", f"next is {word!r}", _next(_one_of([word]))) for word in ("the", "of", "and", "in", "to", "a")),
    ("context", "next is a comma", _next(_word(lambda w: w == ","))),
    ("context", "next is a full stop", _next(_word(lambda w: w == "."))),
    ("context", "next is a number", _next(_number)),
    ("context", "next is capitalised", _next(_capital)),
    ("context", "next goes on with the word", lambda text: text.shifted(~text.starts, 1)),
    ("context", "after 'the'", _after(_one_of(["the"]))),
    ("context", "after a preposition", _after(_preposition)),
    ("context", "after a number", _after(_number)),
    ("context", "after 'and'", _after(_one_of(["and"]))),
    ("context", "in parentheses", _inside("(", ")")),
    ("context", "in quotation marks", _inside('"“', '"”')),
    ("position", "starts a sentence", lambda text: (_since_sentence(text) == 0) & (text.position > 0)),
    ("position", "is late in its sentence", lambda text: _since_sentence(text) >= SENTENCE_LATE),
    ("position", "is early in its block", lambda text: text.position < text.length // 8),
    ("position", "is late in its block", lambda text: text.position >= text.length - text.length // 8),
)
"""Group, name and answer of each broad concept but the articles."""
