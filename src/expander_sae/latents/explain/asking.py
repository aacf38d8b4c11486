"""Many questions to one chat model: some at a time, from disk where they were asked before, until they are answered."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from queue import Empty, SimpleQueue
from typing import Any

from expander_sae.evaluation.chat_model import ChatModel, Messages, Reply
from expander_sae.evaluation.endpoint import NoAnswer, patiently
from expander_sae.records import ExpanderSaeError

from .answers import Answers

TRIES = 7
"""Of one request, over about two minutes."""
ANSWERS = 3
"""An answer that cannot be read is asked for again so often, with another seed."""
BYTES_A_TOKEN = 3.5
"""Of prompts, when tokens are estimated: English text in JSON, with its marks."""


@dataclass(frozen=True)
class Question:
    """What is asked, and how its answer is read."""

    messages: Messages
    read: Callable[[str], Any]
    """What the answer says; None where it says nothing that can be used."""
    max_tokens: int

    @property
    def tokens(self) -> int:
        """Of the prompt, estimated."""
        return round(sum(len(message["content"].encode()) for message in self.messages) / BYTES_A_TOKEN)


@dataclass
class Tally:
    """What was asked and what came."""

    asked: int = 0
    known: int = 0
    """Answers that were on disk."""
    prompt_tokens: int = 0
    completion_tokens: int = 0
    unread: list[str] = field(default_factory=list)
    """The last answer to each question that got none that can be used."""


class Asker:
    """Asks a chat model.

    Args:
        chat: the model.
        answers: what it said before, and where it is kept.
        parallel: questions under way at once.
        tries: of one request; see `expander_sae.evaluation.endpoint.patiently`.
    """

    def __init__(self, chat: ChatModel, answers: Answers, *, parallel: int = 8, tries: int = TRIES) -> None:
        if parallel < 1:
            raise ExpanderSaeError(f"expected at least one question at a time; got {parallel}")
        self.chat, self.answers, self.parallel, self.tries = chat, answers, parallel, tries
        self.tally = Tally()

    def known(self, question: Question) -> bool:
        """Whether its answer is on disk."""
        return self.answers.get(self._key(question, 0)) is not None

    def ask(self, questions: Sequence[Question], *, progress: Callable[[int], Any] | None = None) -> list[Any]:
        """What each answer says; None for those that cannot be read after three times.

        Raises:
            ExpanderSaeError: the endpoint refuses, or does not answer for two minutes; what was answered is kept.
        """
        said: list[Any] = [None] * len(questions)
        waiting = list(range(len(questions)))
        for seed in range(ANSWERS):
            unread = []
            for place, reply in self._replies(questions, waiting, seed):
                said[place] = questions[place].read(reply.text)
                if said[place] is None:
                    unread.append((place, reply.text))
                if progress is not None and (said[place] is not None or seed == ANSWERS - 1):
                    progress(1)
            waiting = [place for place, _ in unread]
        self.tally.unread += [text for _, text in unread]
        return said

    def _replies(self, questions: Sequence[Question], places: list[int], seed: int) -> Iterator[tuple[int, Reply]]:
        keys = {place: self._key(questions[place], seed) for place in places}
        known = {place: self.answers.get(keys[place]) for place in places}
        for place, reply in known.items():
            if reply is not None:
                self.tally.known += 1
                yield place, reply
        for place, reply in self._from_model(questions, [place for place in places if known[place] is None], seed):
            self.answers.put(keys[place], reply)
            self.tally.asked += 1
            self.tally.prompt_tokens += reply.prompt_tokens
            self.tally.completion_tokens += reply.completion_tokens
            yield place, reply

    def _from_model(self, questions: Sequence[Question], places: list[int], seed: int) -> Iterator[tuple[int, Reply]]:
        """In the order in which answers come. Threads end with the process: an interrupt waits for none."""
        waiting: SimpleQueue[int] = SimpleQueue()
        done: SimpleQueue[tuple[int, Reply | Exception]] = SimpleQueue()
        stop = threading.Event()
        for place in places:
            waiting.put(place)

        def ask(place: int) -> Reply:
            if stop.is_set():
                raise NoAnswer("stopped", passing=False)
            question = questions[place]
            return self.chat.ask(question.messages, seed=seed, max_tokens=question.max_tokens)

        def work() -> None:
            while not stop.is_set():
                try:
                    place = waiting.get_nowait()
                except Empty:
                    return
                try:
                    done.put((place, patiently(partial(ask, place), tries=self.tries, sleep=stop.wait)))
                except Exception as error:
                    done.put((place, error))

        for _ in range(min(self.parallel, len(places))):
            threading.Thread(target=work, daemon=True).start()
        try:
            for _ in places:
                place, reply = done.get()
                if isinstance(reply, NoAnswer):
                    raise self._no_answer(reply) from reply
                if isinstance(reply, Exception):
                    raise reply
                yield place, reply
        finally:
            stop.set()

    def _key(self, question: Question, seed: int) -> str:
        return Answers.key(self.chat.endpoint.url, self.chat.model, question.messages, seed, question.max_tokens)

    def _no_answer(self, error: NoAnswer) -> ExpanderSaeError:
        return ExpanderSaeError(
            f"expected an answer in the OpenAI chat protocol from {self.chat.model} at {self.chat.endpoint.url}; got "
            f"{error}. What was answered is kept in {self.answers.path}: run the same command again once it answers."
        )
