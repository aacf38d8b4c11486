"""Numbers of a running server, in Prometheus' text format."""

from __future__ import annotations

import time
from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_LATEST
from starlette.types import ASGIApp, Message, Receive, Scope, Send

_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)
_COUNTS = (1, 2, 4, 8, 16, 32, 64, 128, 256)
_TOKENS = (1, 8, 64, 256, 1024, 4096, 16384)


class Metrics:
    """Counters of one server, in a registry of their own."""

    content_type = CONTENT_TYPE_LATEST

    def __init__(self, waiting: Callable[[], tuple[int, int]]) -> None:
        self.registry = registry = CollectorRegistry()
        prefix = {"namespace": "expander_sae", "registry": registry}
        self._requests = Counter("requests", "Requests by address and status.", ("path", "status"), **prefix)
        self._seconds = Histogram(
            "request_seconds", "From the headers of a request to the end of its answer.", ("path",),
            buckets=_SECONDS, **prefix,
        )  # fmt: skip
        self._batch_requests = Histogram("batch_requests", "Requests answered together.", buckets=_COUNTS, **prefix)
        self._batch_tokens = Histogram("batch_tokens", "Tokens of them.", buckets=_TOKENS, **prefix)
        self._batch_seconds = Histogram("batch_seconds", "Time for them.", buckets=_SECONDS, **prefix)
        self._tokens = Counter("encoded_tokens", "Tokens encoded, by SAE.", ("sae",), **prefix)
        Gauge("queue_requests", "Requests that wait.", **prefix).set_function(lambda: waiting()[0])
        Gauge("queue_tokens", "Tokens of the requests that wait.", **prefix).set_function(lambda: waiting()[1])

    def answered(self, path: str, status: int, seconds: float) -> None:
        """A request had its answer."""
        self._requests.labels(path, str(status)).inc()
        self._seconds.labels(path).observe(seconds)

    def ran(self, requests: int, tokens: int, seconds: float) -> None:
        """A batch was answered."""
        self._batch_requests.observe(requests)
        self._batch_tokens.observe(tokens)
        self._batch_seconds.observe(seconds)

    def encoded(self, name: str, tokens: int) -> None:
        """An SAE read tokens."""
        self._tokens.labels(name).inc(tokens)

    def text(self) -> bytes:
        """All of them."""
        return generate_latest(self.registry)


class Measured:
    """ASGI middleware that counts every answer, refusals too; addresses that are none of ours are one."""

    def __init__(self, app: ASGIApp, metrics: Metrics, paths: frozenset[str]) -> None:
        self.app, self.metrics, self.paths = app, metrics, paths

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        begun, status = time.monotonic(), 499  # nobody was there any more to answer

        async def seen(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self.app(scope, receive, seen)
        finally:
            path = scope["path"] if scope["path"] in self.paths else "other"
            self.metrics.answered(path, status, time.monotonic() - begun)
