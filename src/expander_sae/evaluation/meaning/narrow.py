"""Narrow concepts that a text brings itself: its words, names, word pairs and topics, by how often they occur."""

from __future__ import annotations

from collections import Counter

import numpy as np

from .concepts import AUXILIARIES, CONJUNCTIONS, DETERMINERS, PREPOSITIONS, PRONOUNS, Concept
from .text import Text

BANDS = ((24, 47), (48, 95), (96, 150))
"""Least and most occurrences of each frequency band, both counted in."""
PER_BAND = 24
"""Concepts of one group and band at most."""
TOPIC_REACH = 16
"""Tokens after a rare word among which the words of its topic are."""
TOPIC_OCCURRENCES = (3, 12)
"""How often the word of a topic occurs."""
LONGEST = 40
"""Characters of a word; longer runs of letters are no words."""
_COMMON = {*DETERMINERS, *PREPOSITIONS, *PRONOUNS, *AUXILIARIES, *CONJUNCTIONS, "not", "there"}


def narrow_concepts(text: Text, places: np.ndarray, *, seed: int = 0) -> list[Concept]:
    """Concepts that hold on 24 to 150 of the places evaluated, at most `PER_BAND` of each group and band.

    - *word*: the token is this whole word, in lower case;
    - *name*: the same, of capitalised words that never occur in lower case;
    - *pair*: the token is this word, and the word before it that one;
    - *topic*: a content word among the 16 tokens after a rare word, which is left out itself.

    Which of many are taken is drawn by the seed. A topic is named after its word.

    Args:
        text: the whole text.
        places: those that are evaluated.
        seed: of the draw.
    """
    draw = np.random.default_rng(seed)
    whole = text.starts & ~text.shifted(~text.starts, 1) & text.real
    # Arrays of strings take the room of the longest one for each.
    word = np.array([w if len(w) <= LONGEST else "" for w in text.word.tolist()], dtype=f"U{LONGEST}")
    lower = np.char.lower(word)
    letters = np.char.isalpha(word) & (np.char.str_len(word) > 2) & whole
    small = letters & (word == lower)
    written_small = set(word[small].tolist())
    common = np.isin(lower, list(_COMMON))
    name = letters & np.char.isupper(word.astype("U1")) & ~np.isin(lower, list(written_small))
    before = text.shifted(np.where(whole, lower, "").astype(object), -1).astype(str)
    pair = letters & (before != "")
    joined = np.char.add(np.char.add(before, " "), lower)
    found = [
        *_by_value("word", lower, small, places, draw),
        *_by_value("name", word, name, places, draw),
        *_by_value("pair", joined, pair, places, draw),
        *_topics(text, lower, letters & ~common, places, draw),
    ]
    return found


def band_of(occurrences: int) -> str:
    """The frequency band of a count, as `24-47`; `-` outside all of them.

    Example:
        >>> band_of(30), band_of(5)
        ('24-47', '-')
    """
    return next((f"{low}-{high}" for low, high in BANDS if low <= occurrences <= high), "-")


def _by_value(
    group: str, values: np.ndarray, allowed: np.ndarray, places: np.ndarray, draw: np.random.Generator
) -> list[Concept]:
    """One concept for each value that occurs often enough among the allowed places."""
    counts = Counter(values[places][allowed[places]].tolist())
    chosen = []
    for low, high in BANDS:
        fitting = sorted(value for value, count in counts.items() if low <= count <= high)
        drawn = draw.permutation(len(fitting))[:PER_BAND]
        chosen += [fitting[i] for i in sorted(drawn.tolist())]
    return [Concept(value, group, (values == value) & allowed) for value in chosen]


def _topics(
    text: Text, lower: np.ndarray, allowed: np.ndarray, places: np.ndarray, draw: np.random.Generator
) -> list[Concept]:
    """The content words after rare words."""
    counts = Counter(lower[allowed].tolist())
    low, high = TOPIC_OCCURRENCES
    rare = sorted(word for word, count in counts.items() if low <= count <= high)
    evaluated = np.zeros(len(text.token), dtype=bool)
    evaluated[places] = True
    full: Counter[str] = Counter()
    chosen = []
    for word in (rare[i] for i in draw.permutation(len(rare)).tolist()):
        here = (lower == word) & allowed
        labels = np.zeros(len(here), dtype=bool)
        for reach in range(1, TOPIC_REACH + 1):
            labels |= text.shifted(here, -reach)
        labels &= allowed & ~here
        band = band_of(int((labels & evaluated).sum()))
        if band != "-" and full[band] < PER_BAND:
            full[band] += 1
            chosen.append(Concept(f"after {word}", "topic", labels))
        if sum(full.values()) == PER_BAND * len(BANDS):
            break
    return chosen
