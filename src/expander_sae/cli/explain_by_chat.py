"""`expander-sae explain --method chat`: what it will cost, then the questions."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import typer

from expander_sae.evaluation.chat_model import ChatModel
from expander_sae.latents.explain.answers import Answers
from expander_sae.latents.explain.asking import Asker
from expander_sae.latents.explain.estimate import Estimate, estimate
from expander_sae.latents.explain.run import Explained, Explanation, by_chat
from expander_sae.records import ExpanderSaeError

from .console import Output, visible


class Chat(NamedTuple):
    """The endpoint, and how it is asked."""

    url: str | None
    model: str | None
    api_key: str | None
    price: tuple[float, float] | None
    """Of a million tokens, of questions and of answers."""
    parallel: int
    max_tokens: int


AT_ONCE = 16
"""Latents of a batch: a label is kept once its batch is scored."""


class Asking:
    """Questions to one endpoint: `confirm` before them, `labels` asks them, `say` after them.

    Raises:
        ExpanderSaeError: the endpoint or the model is not named, or is no endpoint.
    """

    def __init__(self, given: Explained, chat: Chat, place: Path, *, scored: bool) -> None:
        if not chat.url or not chat.model:
            raise ExpanderSaeError(
                "expected --url URL and --chat-model NAME of an endpoint that speaks the OpenAI chat protocol; got url "
                f"{chat.url!r}, model {chat.model!r}"
            )
        self.given, self.chat, self.scored = given, chat, scored
        given.at_once = AT_ONCE
        model = ChatModel(chat.url, chat.model, api_key=chat.api_key)
        self.asker = Asker(model, Answers(place), parallel=chat.parallel)

    def confirm(self, console: Output, ask: Callable[[str], bool] | None) -> None:
        """Say what it will cost, and stop unless `ask` says yes (None: nobody is asked)."""
        expected = estimate(self.given, self.asker, scored=self.scored, max_tokens=self.chat.max_tokens)
        console.print(_said(expected, self.chat.price))
        question = f"{expected.questions:,} questions to {self.chat.model} at {self.chat.url}"
        if expected.questions and ask is not None and not ask(question):
            raise typer.Exit(1)

    def labels(self) -> Iterator[list[Explanation]]:
        """The explanations, a batch at a time."""
        return by_chat(self.given, self.asker, scored=self.scored, max_tokens=self.chat.max_tokens)

    def say(self, console: Output) -> None:
        """What was used, and which questions got nothing."""
        tally = self.asker.tally
        console.print(
            f"{tally.asked:,} questions asked, {tally.known:,} known before; the endpoint counts "
            f"{tally.prompt_tokens:,} tokens of questions and {tally.completion_tokens:,} of answers"
            + _price(tally.prompt_tokens, tally.completion_tokens, self.chat.price, " = ")
        )
        if tally.unread:
            count = len(tally.unread)
            console.print(f"{count:,} questions got three answers that cannot be read, and give nothing:")
            for text in tally.unread[:3]:
                console.print(f"  {visible(text[:200])!r}")


def _said(expected: Estimate, price: tuple[float, float] | None) -> str:
    return (
        f"about {expected.questions:,} questions ({expected.known:,} more are known): about {expected.prompt_tokens:,} "
        f"tokens, and answers of {expected.completion_tokens:,} at most"
        + _price(expected.prompt_tokens, expected.completion_tokens, price, "; at most ")
    )


def _price(asked: int, answered: int, price: tuple[float, float] | None, before: str) -> str:
    return "" if price is None else f"{before}{(asked * price[0] + answered * price[1]) / 1e6:,.2f} by --price"
