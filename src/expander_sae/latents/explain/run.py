"""From a store to explanations with their scores: some latents at a time, so that memory stays small."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from datetime import UTC, datetime
from itertools import islice
from typing import Any, TypeVar

import numpy as np

from expander_sae.latents.explanations import Explanation
from expander_sae.latents.latent import Context, View
from expander_sae.latents.store import LatentStore

from . import words
from .asking import Asker, Question
from .evidence import Evidence, Window, split
from .prompts import ask_for_name, ask_to_judge
from .rule import Background, Rule
from .scores import KINDS, Sample, others, samples, score

AT_ONCE = 64
"""Latents; each is the null of another one of them."""
BLOCKS = 400
"""Of text, that word statistics are taken from."""
PROMOTED = 10
"""Promoted tokens that a chat model is told of."""

T = TypeVar("T")


class Explained:
    """The latents of one view that are to be explained, and the text around them.

    Args:
        store: an opened feature store.
        view: one of its views.
        latents: which; those that never fired are left out.
        seed: of the draws of windows and nulls.
    """

    def __init__(self, store: LatentStore, view: View, latents: Sequence[int], *, seed: int = 0) -> None:
        self.store, self.view, self.seed = store, view, seed
        firings = store.whole(view, "firings", "<i8")
        self.density = firings / max(1, view.tokens)
        self.latents = [latent for latent in latents if firings[latent] > 0]
        self._pool = [
            (one, Window(one.block, tuple(one.tokens), np.zeros(len(one.tokens)))) for one in store.pool(view)
        ]

    def evidence(self, latent: int) -> Evidence:
        """Its windows, divided into those that explain and those that are held out."""
        told = self.store.latent(latent, view=self.view)
        silent = [window for one, window in self._pool if one.silent(latent)]
        quarters = [[_window(one) for one in told.quantiles[quarter]] for quarter in (1, 2, 3, 4)]
        return split(latent, [_window(one) for one in told.contexts], quarters, silent, seed=self.seed)

    def text(self) -> list[tuple[str, ...]]:
        """The tokens of `BLOCKS` blocks, drawn evenly from those in the store."""
        drawn = self.store.rows("SELECT tokens FROM blocks ORDER BY (id * 2654435761) % 4294967296 LIMIT ?", BLOCKS)
        blocks = [self.store.array(blob, "<u4").tolist() for (blob,) in drawn]
        words = self.store.words(one for block in blocks for one in block)
        return [tuple(words[one] for one in block) for block in blocks]

    def batches(self) -> Iterator[list[Evidence]]:
        """Of `AT_ONCE` latents at a time."""
        for latents in _batched(self.latents, AT_ONCE):
            yield [self.evidence(latent) for latent in latents]

    def told(self, latent: int, method: str, text: str, scores: dict[str, Any], made_by: str) -> Explanation:
        """An explanation of one of them, as it is stored."""
        created = datetime.now(UTC).isoformat(timespec="seconds")
        return Explanation(
            self.view.sha256, self.view.reading, latent, method, text, scores, made_by=made_by, created=created
        )


def by_words(given: Explained, *, scored: bool = True) -> Iterator[list[Explanation]]:
    """Label latents by rules over words and token classes; a latent where no word is over-represented gets none.

    Yields:
        The explanations of `AT_ONCE` latents at a time; fewer where some have none.
    """
    background = Background(given.text())
    for batch in given.batches():
        rules = [words.explain(one, background, float(given.density[one.latent])) for one in batch]
        found = [(one, rule) for one, rule in zip(batch, rules, strict=True) if rule is not None]
        null = others(len(found), seed=given.seed)
        yield [
            given.told(one.latent, "words", str(rule), _by_rule(given, one, rule, found[other][1], scored), "rule")
            for (one, rule), other in zip(found, null, strict=True)
        ]


def _by_rule(given: Explained, evidence: Evidence, rule: Rule, null: Rule, scored: bool) -> dict[str, Any]:
    scores: dict[str, Any] = {"rule": {"dice": round(rule.dice, 4), "share": round(rule.share, 4)}}
    if scored and evidence.scored:
        for kind in KINDS:
            asked = samples(evidence, kind, seed=given.seed)
            scores[kind] = score(asked, words.judge(rule, asked), [] if null is rule else words.judge(null, asked))
    return scores


def names(given: Explained, batch: Sequence[Evidence], *, max_tokens: int) -> list[Question]:
    """The questions what each latent of a batch fires on."""
    questions = []
    for one in batch:
        latent = given.store.latent(one.latent, view=given.view)
        promoted = [word.token for word in latent.promoted[:PROMOTED]]
        questions.append(ask_for_name(one, latent.max or 0.0, promoted, max_tokens=max_tokens))
    return questions


def by_chat(
    given: Explained, asker: Asker, *, scored: bool = True, max_tokens: int = 400, progress: Any = None
) -> Iterator[list[Explanation]]:
    """Label latents by a chat model, which judges held-out windows by the label too.

    A latent without an answer that can be read gets no label.

    Yields:
        The explanations of `AT_ONCE` latents at a time; fewer where some have none.

    Raises:
        ExpanderSaeError: the endpoint refuses or does not answer; what was answered is kept by the `asker`.
    """
    for batch in given.batches():
        texts = asker.ask(names(given, batch, max_tokens=max_tokens), progress=progress)
        found = [(one, text) for one, text in zip(batch, texts, strict=True) if text is not None]
        null = others(len(found), seed=given.seed)
        partners = [found[other][1] for other in null]
        scores = _judged(given, asker, found, partners, max_tokens, progress) if scored else [{} for _ in found]
        yield [
            given.told(one.latent, "chat", text, told, asker.chat.model)
            for (one, text), told in zip(found, scores, strict=True)
        ]


def _judged(
    given: Explained, asker: Asker, found: Sequence[tuple[Evidence, str]], partners: Sequence[str], max_tokens: int,
    progress: Any,
) -> list[dict[str, Any]]:  # fmt: skip
    """Detection and fuzzing of every label and of its null, all asked together."""
    questions: list[Question] = []
    parts: list[tuple[int, str, list[Sample], slice, slice]] = []
    for number, ((one, text), other) in enumerate(zip(found, partners, strict=True)):
        for kind in KINDS if one.scored else ():
            asked = samples(one, kind, seed=given.seed)
            spans = []
            for label in (text, other) if len(found) > 1 else (text,):
                more = ask_to_judge(label, asked, max_tokens=max_tokens)
                spans.append(slice(len(questions), len(questions) + len(more)))
                questions += more
            parts.append((number, kind, asked, spans[0], spans[-1]))
    answers = asker.ask(questions, progress=progress)
    scores: list[dict[str, Any]] = [{} for _ in found]
    for number, kind, asked, mine, null in parts:
        said = [_flat(asked, answers[span]) for span in (mine, null)]
        scores[number][kind] = score(asked, said[0], said[1] if len(found) > 1 else [])
    return scores


def _flat(asked: Sequence[Sample], answers: Sequence[list[bool] | None]) -> list[bool | None]:
    """An answer for each window; None where a question's could not be read."""
    said: list[bool | None] = []
    for answer in answers:
        count = min(len(asked) - len(said), 5)
        said += [None] * count if answer is None else answer
    return said


def _window(context: Context) -> Window:
    return Window(context.block, tuple(context.tokens), np.asarray(context.values, dtype=np.float64))


def _batched(many: Iterable[T], size: int) -> Iterator[list[T]]:
    left = iter(many)
    while batch := list(islice(left, size)):
        yield batch
