"""The addresses of the server, and what each takes and answers; docs/guides/serving.md describes them."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from contextlib import asynccontextmanager
from typing import Any

import torch
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import ASGIApp
from torch import Tensor

from expander_sae.activations import LanguageModel
from expander_sae.activations.blocks import text_config
from expander_sae.latents.identity import token_texts
from expander_sae.ops import Codes
from expander_sae.records import ExpanderSaeError
from expander_sae.web.answers import BusyError, finished, json_answer, no_such_page, problem, unexpected
from expander_sae.web.guard import Access, TooLargeError

from .authorization import TokenGuard
from .batching import Batcher, Work
from .limits import Limits, RefusedError
from .metrics import Measured, Metrics
from .readers import Reader, ReadText, ServedSae, Texts, Vectors
from .wire import SAFETENSORS, as_safetensors, fired, largest, only_field, read_activations, strongest

PATHS = ("/v1/saes", "/v1/activations", "/v1/texts", "/health", "/metrics")


class Server:
    """Everything behind the addresses: the SAEs, the model, and the queue before them.

    Args:
        saes: what is served, each under a name of its own.
        language_model: for texts; None: activations only.
        limits: what it does not go beyond.
    """

    def __init__(self, saes: Sequence[ServedSae], language_model: LanguageModel | None, limits: Limits) -> None:
        self.saes = {sae.name: sae for sae in saes}
        self.language_model, self.limits = language_model, limits
        self.metrics = Metrics(lambda: self.batcher.waiting())
        self._reader = Reader(saes, language_model, batch=limits.batch, told=self.metrics.encoded)
        self._tokenizing = threading.Lock()  # tokenizers keep state while they run
        self._held = 0
        self.batcher = Batcher(self._run, limits)

    def app(self, access: Access) -> ASGIApp:
        """The server as an ASGI application."""

        @asynccontextmanager
        async def lifespan(_app: Starlette) -> AsyncIterator[None]:
            yield
            await run_in_threadpool(self.batcher.close)

        routes = [
            Route("/v1/saes", self._list),
            Route("/v1/activations", self._activations, methods=["POST"]),
            Route("/v1/texts", self._texts, methods=["POST"]),
            Route("/health", self._health),
            Route("/metrics", self._metrics),
        ]
        handlers: dict[Any, Any] = {
            BusyError: self._busy,
            ExpanderSaeError: problem(422),
            TooLargeError: problem(413),
            ClientDisconnect: problem(400),  # nobody reads it
            HTTPException: no_such_page,
            Exception: unexpected,
        }
        app = Starlette(routes=routes, exception_handlers=handlers, lifespan=lifespan)
        return Measured(TokenGuard(app, access, self.limits.body), self.metrics, frozenset(PATHS))

    def _run(self, batch: Sequence[Work]) -> None:
        begun = time.monotonic()
        self._reader.run(batch)
        self.metrics.ran(len(batch), sum(work.size for work in batch), time.monotonic() - begun)

    async def _busy(self, _request: Request, error: Exception) -> Response:
        answer = json_answer({"error": str(error)}, 429)
        answer.headers["retry-after"] = str(self.batcher.retry_after())
        return answer

    async def _health(self, _request: Request) -> Response:
        alive = self.batcher.alive
        return json_answer({"status": "ok" if alive else "stopping"}, 200 if alive else 503)

    async def _metrics(self, _request: Request) -> Response:
        return Response(self.metrics.text(), 200, {"content-type": self.metrics.content_type})

    async def _list(self, _request: Request) -> Response:
        told = [
            {
                "name": one.name, "d_in": one.sae.d_in, "n_latents": one.sae.n_latents, "k": one.sae.k,
                "reading": str(one.sae.reading), "place": one.place, "labels": one.names is not None,
            }
            for one in self.saes.values()
        ]  # fmt: skip
        model = None if self.language_model is None else self.language_model.model_id
        return json_answer({"model": model, "saes": told})

    async def _activations(self, request: Request) -> Response:
        self.batcher.check_room()
        served, top = self._one_of(request), _top(request)
        kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()

        def work(data: bytes) -> Work:
            return Vectors(served, read_activations(kind, data, d_in=served.sae.d_in, most=self.limits.tokens))

        def answer(codes: Codes) -> Response:
            chosen = codes if top is None else largest(codes, top)
            if SAFETENSORS in request.headers.get("accept", ""):
                return Response(as_safetensors(chosen), media_type=SAFETENSORS)
            told: dict[str, Any] = {
                "sae": served.name, "indices": chosen.indices.tolist(), "values": chosen.values.tolist()
            }  # fmt: skip
            used = chosen.indices[chosen.values != 0].unique().tolist()
            return json_answer(told | _labels(served, used))

        return await self._answered(request, work, answer)

    async def _texts(self, request: Request) -> Response:
        if self.language_model is None:
            raise RefusedError(404, "expected a server with a language model; got one without: start it with --model")
        self.batcher.check_room()
        names = request.query_params.getlist("sae")
        saes = [self._named(name) for name in dict.fromkeys(names)] or [
            one for one in self.saes.values() if one.place is not None
        ]
        unplaced = [one.name for one in saes if one.place is None]
        if unplaced or not saes:
            raise RefusedError(422, f"expected an SAE whose place in the model is known; got {unplaced}")
        top = _top(request) or 8
        kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
        if kind != "application/json":
            raise RefusedError(415, f"expected content type application/json; got {kind[:100]!r}")
        ids: list[Tensor] = []

        def work(data: bytes) -> Work:
            ids.extend(self._ids(only_field(data, "texts")))
            return Texts(saes, ids)

        def answer(results: list[ReadText]) -> Response:
            told: list[dict[str, Any]] = []
            used: dict[str, set[int]] = {one.name: set() for one in saes}
            for one, result in zip(ids, results, strict=True):
                read, found = result.read.tolist(), {}
                for name, codes in result.codes.items():
                    lines = iter(fired(largest(codes, top)))
                    tokens = [next(lines) if here else [] for here in read]
                    used[name] |= {int(j) for line in tokens for j, _ in line}
                    found[name] = {"top": strongest(tokens, top), "tokens": tokens}
                words = token_texts(self._tokenizer, one.tolist())
                told.append({"tokens": words, "read": read, "saes": found})
            labels = {one.name: _labels(one, sorted(used[one.name])).get("labels") for one in saes if one.names}
            return json_answer({"texts": told} | ({"labels": labels} if labels else {}))

        return await self._answered(request, work, answer)

    async def _answered(
        self, request: Request, work_of: Callable[[bytes], Work], answer: Callable[[Any], Response]
    ) -> Response:
        """Read a request, wait for the model, and answer; all but the waiting is done by other threads."""
        held = 0
        try:
            data = bytearray()
            try:
                async with asyncio.timeout(self.limits.reading):
                    async for piece in request.stream():
                        held += len(piece)
                        self._held += len(piece)
                        if self._held > self.limits.held:
                            raise BusyError("the server is busy: it holds as much as it can. Try again in a moment")
                        data += piece
            except TimeoutError:
                raise RefusedError(
                    408, f"expected the whole request within {self.limits.reading:g} seconds; got a part of it"
                ) from None
            work = await run_in_threadpool(work_of, bytes(data))
            self.batcher.submit(work)
            result = await finished(request, work)
            return await run_in_threadpool(answer, result)
        finally:
            self._held -= held

    @property
    def _tokenizer(self) -> Any:
        assert self.language_model is not None
        return self.language_model.tokenizer

    def _ids(self, texts: Any) -> Iterable[Tensor]:
        """Token ids [tokens] of each text.

        Raises:
            RefusedError: they are no texts, or too many or too long.
        """
        if not isinstance(texts, list) or not texts or not all(isinstance(text, str) for text in texts):
            raise RefusedError(422, "expected texts as a list of at least one string; got something else")
        if len(texts) > self.limits.texts:
            raise RefusedError(413, f"expected at most {self.limits.texts} texts in a request; got {len(texts)}")
        longest = getattr(text_config(self.language_model.model), "max_position_embeddings", None)  # type: ignore[union-attr]
        most = min(self.limits.tokens, longest or self.limits.tokens)
        found, total = [], 0
        for number, text in enumerate(texts):
            if any("\ud800" <= letter <= "\udfff" for letter in text):
                raise RefusedError(422, f"expected Unicode text; got half of a surrogate pair in text {number}")
            if len(text) > 64 * most:  # hours of a tokenizer; no token is that long on the average
                raise RefusedError(413, f"expected texts of at most {most:,} tokens; got {len(text):,} characters")
            with self._tokenizing:
                ids = self._tokenizer(text, verbose=False)["input_ids"]
            total += len(ids)
            if not ids:
                raise RefusedError(422, f"expected texts of at least one token; got none in text {number}")
            if len(ids) > most or total > self.limits.tokens:
                raise RefusedError(
                    413,
                    f"expected texts of at most {most:,} tokens, {self.limits.tokens:,} in a request; got {total:,}",
                )
            found.append(torch.tensor(ids, dtype=torch.int64))
        return found

    def _one_of(self, request: Request) -> ServedSae:
        names = request.query_params.getlist("sae")
        if not names and len(self.saes) == 1:
            return next(iter(self.saes.values()))
        if len(names) != 1:
            raise RefusedError(422, f"expected ?sae= with one of {', '.join(self.saes)}; got {len(names)} of them")
        return self._named(names[0])

    def _named(self, name: str) -> ServedSae:
        if name not in self.saes:
            raise RefusedError(404, f"expected an SAE out of {', '.join(self.saes)}; got {name[:100]!r}")
        return self.saes[name]


def _top(request: Request) -> int | None:
    text = request.query_params.get("top")
    if text is None:
        return None
    if not (text.isascii() and text.isdigit() and len(text) < 7 and int(text) > 0):
        raise RefusedError(422, f"expected top as a whole number from 1; got {text[:100]!r}")
    return int(text)


def _labels(served: ServedSae, latents: Sequence[int]) -> dict[str, Any]:
    if served.names is None:
        return {}
    told = served.names.of(latents)
    return {"labels": {str(j): told[j][0] for j in latents}}
