"""A language model as the judge of contexts, over any endpoint that speaks the OpenAI chat protocol."""

from __future__ import annotations

import http.client
import json
import math
import re
import time
import urllib.error
import urllib.parse
import urllib.request
from typing import Any

import torch
from torch import Tensor

from expander_sae.records import ExpanderSaeError

_TASK = (
    "A feature of a language model fires on some tokens of a text. You see passages where it fires on the token "
    "between « and », passages where it does not fire on that token, and numbered passages to judge. Say for each "
    "numbered one how likely the feature fires on its marked token, from 0 (surely not) to 10 (surely). Answer with a "
    "JSON list of {count} numbers in the order of the passages, and nothing else."
)
_ATTEMPTS = 3
"""An answer that is no list of numbers is asked for again so often."""
_REPLY_TOKENS = 1024
_REPLY_BYTES = 4 << 20
"""An answer of `_REPLY_TOKENS` tokens with all that is said around it is far below."""


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
        _check_address(url)
        if api_key is not None and not (api_key.isascii() and api_key.isprintable() and api_key.strip() == api_key):
            raise ExpanderSaeError("expected an API key of printable ASCII characters; got others, or blanks")
        self.ids, self.blocks, self.tokenizer = token_ids, blocks, tokenizer
        self.url, self.model, self.width, self.timeout = url, model, width, timeout
        self._headers = {"Content-Type": "application/json"}
        if api_key is not None:
            self._headers["Authorization"] = f"Bearer {api_key}"

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
        asked = {
            "model": self.model, "messages": messages, "temperature": 0.0, "seed": seed, "max_tokens": _REPLY_TOKENS,
        }  # fmt: skip
        request = urllib.request.Request(
            f"{self.url.rstrip('/')}/chat/completions", json.dumps(asked).encode(), self._headers
        )
        try:
            with _OPENER.open(request, timeout=self.timeout) as reply:
                answer = json.loads(self._read(reply))["choices"][0]["message"]["content"] or ""
                if not isinstance(answer, str):
                    raise TypeError(f"content of type {type(answer).__name__}")
                return answer
        except urllib.error.HTTPError as error:
            if 300 <= error.code < 400:
                seen = f"a redirect to {error.headers.get('Location')}, which is not followed: give that address itself"
            else:
                seen = f"{error}: {error.read(200).decode(errors='replace')}"
            raise self._no_answer(seen) from error
        except (OSError, ValueError, LookupError, TypeError, RecursionError, http.client.HTTPException) as error:
            raise self._no_answer(f"{type(error).__name__}: {error}") from error

    def _read(self, reply: Any) -> bytes:
        """The answer, if it is of a size and comes in a time that answers have."""
        parts, size, end = [], 0, time.monotonic() + self.timeout
        while part := reply.read1(1 << 16):
            parts.append(part)
            size += len(part)
            if size > _REPLY_BYTES:
                raise ValueError(f"more than {_REPLY_BYTES >> 20} MiB")
            if time.monotonic() > end:
                raise TimeoutError(f"an answer that was not at its end after {self.timeout:g} s")
        return b"".join(parts)

    def _no_answer(self, seen: str) -> ExpanderSaeError:
        return ExpanderSaeError(
            f"expected an answer in the OpenAI chat protocol from the judge {self.model} at {self.url}; got {seen}. "
            "SAEs that were judged are kept: run the same command again once it answers."
        )


class _NoRedirects(urllib.request.HTTPRedirectHandler):
    """Takes no redirect: the key and the passages are for the address that was given, and no question survives one
    anyway (a POST becomes a GET)."""

    def redirect_request(self, *_: Any) -> None:
        """None: the redirect is an HTTPError."""
        return


def _opener() -> urllib.request.OpenerDirector:
    """Of http and https alone; the usual one also opens files and FTP."""
    opener = urllib.request.OpenerDirector()
    for handler in (
        urllib.request.ProxyHandler, urllib.request.HTTPHandler, urllib.request.HTTPSHandler, _NoRedirects,
        urllib.request.HTTPDefaultErrorHandler, urllib.request.HTTPErrorProcessor,
    ):  # fmt: skip
        opener.add_handler(handler())
    return opener


_OPENER = _opener()


def _check_address(url: str) -> None:
    try:
        parts = urllib.parse.urlsplit(url)
        sound = parts.scheme in ("http", "https") and bool(parts.hostname) and (parts.port or 1) > 0
        if parts.username is not None or parts.password is not None:
            raise ExpanderSaeError(
                "expected no credentials in the address of a chat endpoint; got some, which records would show"
            )
    except ExpanderSaeError:
        raise
    except ValueError:
        sound = False
    if not sound or not url.isascii() or any(character.isspace() or not character.isprintable() for character in url):
        raise ExpanderSaeError(
            f"expected the address of a chat endpoint as http://HOST/v1 or https://HOST/v1; got {url!r}"
        )


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
