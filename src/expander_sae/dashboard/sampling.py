"""Drawing next tokens, and saying them as text piece by piece."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


class Sampler:
    """Draws a token for each row of logits, by the same random numbers in every row.

    Args:
        temperature: 0 takes the likeliest.
        seed: of the draws.
    """

    def __init__(self, *, temperature: float, seed: int) -> None:
        self.temperature = temperature
        self._draw = torch.Generator().manual_seed(seed)

    def draw(self, logits: Tensor) -> Tensor:
        """Token ids [rows] from logits [rows, vocabulary]: argmax of logits / temperature + Gumbel noise."""
        scores = logits.float().cpu()
        if self.temperature:
            noise = torch.rand(scores.shape[-1], generator=self._draw).clamp_min(1e-20)
            scores = scores / self.temperature - (-noise.log()).log()
        return scores.argmax(-1)


class Spoken:
    """The text of tokens as they come; a letter of several tokens is held back until it is whole."""

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        self._ids: list[int] = []
        self._said = ""
        self.ended = False

    def more(self, token: int) -> str:
        """What this token adds."""
        if self.ended:
            return ""
        if token == self._tokenizer.eos_token_id:
            self.ended = True
            return self.rest()
        self._ids.append(token)
        text = self._text()
        if text.endswith("\ufffd"):
            return ""
        return self._add(text)

    def rest(self) -> str:
        """What was held back."""
        return self._add(self._text())

    def _text(self) -> str:
        return self._tokenizer.decode(self._ids, skip_special_tokens=False, clean_up_tokenization_spaces=False)

    def _add(self, text: str) -> str:
        added, self._said = text[len(self._said) :], text
        return added
