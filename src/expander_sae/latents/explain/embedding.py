"""A label without a language model's prose: the phrase at a latent's firings that lies nearest to their windows.

With e(.) the encoder's vector of norm 1, F the windows that explain and Q windows of the text in which the latent is
silent, a phrase p is by

    nearer(p) = mean over F of e(p)·e(w) - mean over Q of e(p)·e(w),   w not of the document that p is taken from,

nearer to where the latent fires than to where it does not, in units of cosine. (The document is left out because what
one document is about names nothing.) The label is the candidate that is so most. A window is said to fire where
e(label)·e(window) reaches a threshold: the one with the best balanced accuracy on F and Q.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from expander_sae.evaluation.chat_model import Reply
from expander_sae.evaluation.meaning.concepts import (
    AUXILIARIES,
    CONJUNCTIONS,
    DETERMINERS,
    PREPOSITIONS,
    PRONOUNS,
)

from .answers import Answers
from .encoder import Encodes
from .evidence import Evidence, Window
from .places import Places
from .run import Explained, Explanation
from .scores import Sample, others, samples, score

WORDS = 4
"""Of a phrase at most."""
AT_ONCE = 16
"""Latents of a batch: labels are kept once it is done, seconds later."""
CANDIDATES = 64
"""Phrases of a latent that are looked at."""
LEAST = 0.06
"""By how much nearer a phrase has to be, or there is no label. Of 40 draws of 30 random windows none reached it."""
FUNCTION_WORDS = frozenset({*DETERMINERS, *PREPOSITIONS, *PRONOUNS, *AUXILIARIES, *CONJUNCTIONS})
"""A phrase of several words neither begins nor ends in one."""
_WORD = re.compile(r"\w+(?:[-'’]\w+)*")

Vectors = Mapping[str, np.ndarray]
"""Of each text its vector, float32 [width]."""


class Phrase(NamedTuple):
    """A label, by how much it is nearer to firing windows, and the cosine from which on it says that a window fires."""

    text: str
    nearer: float
    threshold: float


def said(window: Window) -> str:
    """The text of a window as an encoder reads it: what is no character is replaced."""
    return "".join(window.tokens).encode("utf-8", "replace").decode()


def candidates(windows: Sequence[Window]) -> dict[str, int]:
    """Phrases of one to `WORDS` words over the word at each window's strongest firing, in small letters, with the
    document that each is first found in.

    Those of the most documents come first; of equal ones, each window's shortest. At most `CANDIDATES`.
    """
    documents: dict[str, list[int]] = {}
    rank: dict[str, int] = {}
    for window in windows:
        for place, phrase in enumerate(_around_peak(window)):
            documents.setdefault(phrase, []).append(window.document)
            rank[phrase] = min(place, rank.get(phrase, place))
    best = sorted(documents, key=lambda phrase: (-len(set(documents[phrase])), rank[phrase]))[:CANDIDATES]
    return {phrase: documents[phrase][0] for phrase in best}


def _around_peak(window: Window) -> Iterator[str]:
    """Only words with one space between them are a phrase."""
    text = "".join(window.tokens)
    end = len("".join(window.tokens[: int(np.abs(window.values).argmax()) + 1]))
    words = list(_WORD.finditer(text))
    at = sum(word.start() < end for word in words) - 1
    for length in range(1, WORDS + 1):
        for first in range(max(0, at - length + 1), min(at, len(words) - length) + 1):
            chosen = [word.group().lower() for word in words[first : first + length]]
            phrase, ends = " ".join(chosen), {chosen[0], chosen[-1]}
            together = text[words[first].start() : words[first + length - 1].end()].lower() == phrase
            whole = length == 1 or not ends & FUNCTION_WORDS
            if together and whole and all(map(Places.sayable, chosen)):
                yield phrase


def choose(evidence: Evidence, vectors: Vectors) -> Phrase | None:
    """The nearest phrase and its threshold; None where none is nearer by `LEAST`, or nothing silent is known."""
    phrases = candidates(evidence.explain)
    if not phrases or not evidence.quiet:
        return None
    labels = np.stack([vectors[phrase] for phrase in phrases])
    taken_from = np.array(list(phrases.values()))
    firing, quiet = (_elsewhere(labels, taken_from, many, vectors) for many in (evidence.explain, evidence.quiet))
    nearer = np.nan_to_num(firing - quiet, nan=-1.0)
    best = int(nearer.argmax())
    if nearer[best] < LEAST:
        return None
    label = labels[best]
    return Phrase(list(phrases)[best], float(nearer[best]), threshold(*_cosines(evidence, label, vectors)))


def _elsewhere(labels: np.ndarray, taken_from: np.ndarray, windows: Sequence[Window], vectors: Vectors) -> np.ndarray:
    """Mean cosine of each label with the windows of other documents than its own, float [labels]; NaN: none."""
    cosines = labels @ np.stack([vectors[said(window)] for window in windows]).T
    other = taken_from[:, None] != np.array([window.document for window in windows])
    count = other.sum(1)
    return np.divide((cosines * other).sum(1), count, out=np.full(len(labels), np.nan), where=count > 0)


def _cosines(evidence: Evidence, label: np.ndarray, vectors: Vectors) -> list[np.ndarray]:
    """With the windows that explain, firing and silent; float [windows] each."""
    return [np.array([vectors[said(one)] @ label for one in many]) for many in (evidence.explain, evidence.quiet)]


def threshold(firing: np.ndarray, quiet: np.ndarray) -> float:
    """The cosine that divides firing windows from silent ones with the best balanced accuracy; cosines [windows]."""
    known = np.unique(np.concatenate([firing, quiet]))
    cuts = (known[1:] + known[:-1]) / 2 if len(known) > 1 else known
    rates = [(many[:, None] >= cuts).mean(0) for many in (firing, quiet)]
    return float(cuts[(rates[0] - rates[1]).argmax()])


def by_embedding(
    given: Explained, encoder: Encodes, answers: Answers, *, scored: bool = True
) -> Iterator[list[Explanation]]:
    """Label latents by the phrase that an encoder finds nearest to where they fire; one without a near one gets none.

    Args:
        given: the latents.
        encoder: see `expander_sae.latents.explain.encoder`.
        answers: where the labels of each batch are kept: the same batch is not encoded twice.
        scored: score labels by detection.

    Yields:
        The explanations of `at_once` latents at a time; fewer where some have none.
    """
    pool: dict[str, np.ndarray] = {}
    for batch in given.batches():
        key = _key(given, encoder, batch, scored)
        known = answers.get(key)
        if known is None:
            known = Reply(json.dumps(list(_labels(given, encoder, batch, pool, scored))), 0, 0)
            answers.put(key, known)
        yield [
            given.told(latent, "embedding", text, scores, encoder.name)
            for latent, text, scores in json.loads(known.text)
        ]


def _labels(
    given: Explained, encoder: Encodes, batch: Sequence[Evidence], pool: dict[str, np.ndarray], scored: bool
) -> Iterator[tuple[int, str, dict[str, Any]]]:
    """Of each latent that gets a label: its number, the label and its scores; `pool` keeps the vectors of
    silent windows, which all batches share."""
    silent = dict.fromkeys(said(window) for one in batch for window in (*one.quiet, *one.silent))
    pool.update(_embedded(encoder, [text for text in silent if text not in pool]))
    texts = [said(window) for one in batch for window in (*one.explain, *one.firing)]
    vectors = pool | _embedded(encoder, [*texts, *(text for one in batch for text in candidates(one.explain))])
    found = [(one, phrase) for one in batch if (phrase := choose(one, vectors)) is not None]
    for (one, phrase), other in zip(found, others(len(found), seed=given.seed), strict=True):
        scores: dict[str, Any] = {
            "phrase": {"nearer": round(phrase.nearer, 4), "threshold": round(phrase.threshold, 4)}
        }
        if scored and one.scored:
            asked = samples(one, "detection", seed=given.seed)
            null = found[other][1]
            judged = [_judged(one, asked, label.text, vectors) for label in (phrase, null)]
            scores["detection"] = score(asked, judged[0], judged[1] if len(found) > 1 else [])
        yield one.latent, phrase.text, scores


def _judged(evidence: Evidence, asked: Sequence[Sample], text: str, vectors: Vectors) -> list[bool | None]:
    """Yes or no for each window, by a threshold from this latent's explaining windows, whoever's label it is."""
    label = vectors[text]
    least = threshold(*_cosines(evidence, label, vectors))
    return [bool(vectors[said(sample.window)] @ label >= least) for sample in asked]


def _embedded(encoder: Encodes, texts: Iterable[str]) -> dict[str, np.ndarray]:
    distinct = list(dict.fromkeys(texts))
    return dict(zip(distinct, encoder(distinct), strict=True))


def _key(given: Explained, encoder: Encodes, batch: Sequence[Evidence], scored: bool) -> str:
    """What the labels of a batch are known by: all that they depend on."""
    told: list[Any] = ["embedding", encoder.name, WORDS, CANDIDATES, LEAST, given.seed, scored]
    for one in batch:
        told.append(one.latent)
        for windows in (one.explain, one.quiet, one.firing, one.silent):
            told.append([(window.document, window.block, window.tokens, window.values.tolist()) for window in windows])
    return hashlib.sha256(json.dumps(told).encode()).hexdigest()
