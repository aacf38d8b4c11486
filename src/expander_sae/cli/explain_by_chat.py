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


def explain_by_chat(
    given: Explained, chat: Chat, place: Path, *, scored: bool, yes: bool, console: Output,
    ask: Callable[[str], bool],
) -> Iterator[list[Explanation]]:  # fmt: skip
    """Say what it costs, ask whether that is all right, and label; at the end say what was used and what went wrong."""
    if not chat.url or not chat.model:
        raise ExpanderSaeError(
            "expected --url URL and --chat-model NAME of an endpoint that speaks the OpenAI chat protocol; got url "
            f"{chat.url!r}, model {chat.model!r}"
        )
    model = ChatModel(chat.url, chat.model, api_key=chat.api_key)
    answers = Answers(place)
    try:
        asker = Asker(model, answers, parallel=chat.parallel)
        expected = estimate(given, asker, scored=scored, max_tokens=chat.max_tokens)
        console.print(_said(expected, chat.price))
        if (
            expected.questions
            and not yes
            and not ask(f"{expected.questions:,} questions to {chat.model} at {chat.url}")
        ):
            raise typer.Exit(1)
        yield from by_chat(given, asker, scored=scored, max_tokens=chat.max_tokens)
    finally:
        answers.close()
    tally = asker.tally
    console.print(
        f"{tally.asked:,} questions asked, {tally.known:,} known before; the endpoint counts {tally.prompt_tokens:,} "
        f"tokens of questions and {tally.completion_tokens:,} of answers"
        + _price(tally.prompt_tokens, tally.completion_tokens, chat.price, " = ")
    )
    if tally.unread:
        console.print(f"{len(tally.unread):,} questions got three answers that cannot be read, and give nothing:")
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
