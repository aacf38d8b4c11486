"""A language model as the judge of contexts, over any endpoint that speaks the OpenAI chat protocol."""

from __future__ import annotations

import json
import math
import re
from typing import Any

import torch
from torch import Tensor

from expander_sae.records import ExpanderSaeError

from .chat_model import ChatModel
from .endpoint import NoAnswer

_TASK = (
    "A feature of a language model fires on some tokens of a text. You see passages where it fires on the token "
    "between « and », passages where it does not fire on that token, and numbered passages to judge. Say for each "
    "numbered one how likely the feature fires on its marked token, from 0 (surely not) to 10 (surely). Answer with a "
    "JSON list of {count} numbers in the order of the passages, and nothing else."
)
_ATTEMPTS = 3
"""An answer that is no list of numbers is asked for again so often."""
_REPLY_TOKENS = 1024


class ChatJudge:
    """Asks a chat model how likely a latent fires at each place, given places where it does and does not.

    One question for each latent, at temperature 0; scores are the model's own numbers from 0 to 10.

    Args:
        token_ids: int64 [tokens], in the order they were read.
        blocks: the block of text of each, int64 [tokens].
        tokenizer: of the model that was read; `decode(list of ids)` gives text.
        url: of the endpoint, up to and including its version, as http://localhost:8000/v1.
        model: its name there.
        api_key: if the endpoint wants one.
        width: tokens shown to each side, within the block.
        timeout: seconds to wait for an answer.

    Raises:
        ExpanderSaeError: the address is not one of http or https, or the key cannot be in a header; in `scores`, if the
            endpoint cannot be reached or does not answer with a number for each candidate three times over.
    """

    def __init__(
        self,
        token_ids: Tensor,
        blocks: Tensor,
        tokenizer: Any,
        *,
        url: str,
        model: str,
        api_key: str | None = None,
        width: int = 16,
        timeout: float = 120.0,
    ) -> None:
        self.chat = ChatModel(url, model, api_key=api_key, timeout=timeout)
        self.ids, self.blocks, self.tokenizer = token_ids, blocks, tokenizer
        self.url, self.model, self.width = url, model, width

    def passage(self, position: int) -> str:
        """The text around a place, on one line, its token between « and »."""
        around = range(max(0, position - self.width), min(len(self.ids), position + self.width + 1))
        inside = [place for place in around if self.blocks[place] == self.blocks[position]]
        before = self._text([place for place in inside if place < position])
        after = self._text([place for place in inside if place > position])
        return f"{before}«{self._text([position])}»{after}".replace("\n", " ")

    def _text(self, places: list[int]) -> str:
        return self.tokenizer.decode(self.ids[places].tolist()) if places else ""

    def question(self, examples: Tensor, counterexamples: Tensor, candidates: Tensor) -> str:
        """What is asked about one latent."""
        parts = [
            ("It fires:", [self.passage(place) for place in examples.tolist()]),
            ("It does not fire:", [self.passage(place) for place in counterexamples.tolist()]),
            ("Judge:", [f"{n}. {self.passage(p)}" for n, p in enumerate(candidates.tolist(), 1)]),
        ]
        return "\n\n".join("\n".join([heading, *lines]) for heading, lines in parts)

    def scores(self, examples: Tensor, counterexamples: Tensor, candidates: Tensor) -> Tensor:
        """The model's number for each candidate, float64 [candidates]; all arguments are positions, int64."""
        wanted = len(candidates)
        messages = [
            {"role": "system", "content": _TASK.format(count=wanted)},
            {"role": "user", "content": self.question(examples, counterexamples, candidates)},
        ]
        answer = ""
        for attempt in range(_ATTEMPTS):
            answer = self._ask(messages, seed=attempt)
            found = _numbers(answer)
            if found is not None and len(found) == wanted:
                return torch.tensor(found, dtype=torch.float64, device="cpu")
        raise ExpanderSaeError(
            f"expected a JSON list of {wanted} numbers from {self.model} at {self.url}; got {_ATTEMPTS} times "
            f"something else, at last: {answer[:200]!r}. A model that follows instructions better may do."
        )

    def _ask(self, messages: list[dict[str, str]], seed: int) -> str:
        try:
            return self.chat.ask(messages, seed=seed, max_tokens=_REPLY_TOKENS).text
        except NoAnswer as error:
            raise ExpanderSaeError(
                f"expected an answer in the OpenAI chat protocol from the judge {self.model} at {self.url}; got "
                f"{error}. SAEs that were judged are kept: run the same command again once it answers."
            ) from error


def _numbers(answer: str) -> list[float] | None:
    """The last list of numbers in a text; None where there is none."""
    lists = re.findall(r"\[[^\[\]]*\]", answer)
    try:
        found = json.loads(lists[-1]) if lists else None
        if not isinstance(found, list) or not all(type(number) in (int, float) for number in found):
            return None
        numbers = [float(number) for number in found]
    except (ValueError, OverflowError):  # no JSON, or a number of thousands of digits
        return None
    return numbers if all(map(math.isfinite, numbers)) else None
