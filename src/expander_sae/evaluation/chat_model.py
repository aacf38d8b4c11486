"""A language model behind any endpoint that speaks the OpenAI chat protocol. Imports no torch."""

from __future__ import annotations

from typing import Any, NamedTuple

from .endpoint import Endpoint, NoAnswer

Messages = list[dict[str, str]]


class Reply(NamedTuple):
    """What a chat model said, and the tokens that the endpoint counted (0 where it does not say)."""

    text: str
    prompt_tokens: int
    completion_tokens: int


class ChatModel:
    """Asks one model at temperature 0.

    Args:
        url: of the endpoint, up to and including its version, as http://localhost:8000/v1.
        model: its name there.
        api_key: if the endpoint wants one.
        timeout: seconds to wait for an answer.

    Raises:
        ExpanderSaeError: the address is not one of http or https, or the key cannot be in a header.
    """

    def __init__(self, url: str, model: str, *, api_key: str | None = None, timeout: float = 120.0) -> None:
        headers = {} if api_key is None else {"Authorization": f"Bearer {api_key}"}
        self.endpoint, self.model = Endpoint(url, headers=headers, timeout=timeout), model

    def ask(self, messages: Messages, *, seed: int, max_tokens: int) -> Reply:
        """What the model answers.

        Raises:
            NoAnswer: the endpoint cannot be reached, refuses, or does not answer in this protocol.
        """
        asked = {
            "model": self.model, "messages": messages, "temperature": 0.0, "seed": seed, "max_tokens": max_tokens,
        }  # fmt: skip
        answer = self.endpoint.post("chat/completions", asked)
        try:
            text = answer["choices"][0]["message"]["content"] or ""
            if not isinstance(text, str):
                raise TypeError(f"content of type {type(text).__name__}")
        except (LookupError, TypeError) as error:
            raise NoAnswer(f"{type(error).__name__}: {error}", passing=False) from error
        usage = answer.get("usage")
        return Reply(text, _count(usage, "prompt_tokens"), _count(usage, "completion_tokens"))


def _count(usage: Any, name: str) -> int:
    said = usage.get(name) if isinstance(usage, dict) else None
    return said if type(said) is int and said >= 0 else 0
