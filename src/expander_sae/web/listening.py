"""Running a server: a port, clients that are slow, and an end in good order."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import socket
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any

import h11
import uvicorn
from starlette.types import ASGIApp
from uvicorn.protocols.http.h11_impl import H11Protocol

from expander_sae.records import ExpanderSaeError

_PATIENCE = 3
"""Seconds that answers under way have to end in when the server stops, unless it says otherwise."""
_HEAD = 10.0
"""Seconds that a client has to say what it wants: the first line and the headers."""
CONNECTIONS = 1024
"""Open at once; beyond it is a refusal (503), so that connections do not run out of file descriptors."""


def listen(host: str, port: int | None, *, usual: int) -> socket.socket:
    """A socket that listens at `host`; without a port asked for, at the `usual` one or else at a free one.

    Raises:
        ExpanderSaeError: the port is taken, or there is no such address here.
    """
    wanted = [usual, 0] if port is None else [port]
    if not 0 <= wanted[0] <= 65535:  # the system would take the rest of a division
        raise ExpanderSaeError(f"expected a --port from 0 to 65535; got {port}")
    for number in wanted:
        try:
            family, _, _, _, address = socket.getaddrinfo(host, number, type=socket.SOCK_STREAM)[0]
            # The protocol said: asyncio sends small pieces at once (TCP_NODELAY) where it reads that it is TCP.
            listening = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
            listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                listening.bind(address)
                listening.listen(128)  # asked for here: two servers can bind a port, only one can listen
            except OSError:
                listening.close()
                raise
            return listening
        except OSError as error:
            problem = error
    raise ExpanderSaeError(
        f"expected to listen at {host}, port {wanted[0]}; got {problem}. Give another --port (0: "
        "any free one) or --host"
    )


def base_address(host: str, port: int) -> str:
    """The address of a server on this machine that listens at `host`.

    Example:
        >>> base_address("::1", 80)
        'http://[::1]:80/'
    """
    name = {"0.0.0.0": "localhost", "::": "localhost"}.get(host, f"[{host}]" if ":" in host else host)
    return f"http://{name}:{port}/"


def serve(
    app: ASGIApp,
    listening: socket.socket,
    *,
    ready: Callable[[], None] = lambda: None,
    stopping: Callable[[], None] = lambda: None,
    patience: int = _PATIENCE,
) -> None:
    """Serve until Ctrl-C or SIGTERM; answers under way get `patience` seconds to end in.

    `ready` is called once it answers, `stopping` as soon as it is told to end (in a signal handler: it may set a flag).
    """
    config = uvicorn.Config(
        app, http=PatientProtocol, log_level="warning", access_log=False, server_header=False, proxy_headers=False,
        timeout_graceful_shutdown=patience, ws="none", h11_max_incomplete_event_size=64 * 1024, lifespan="on",
        limit_concurrency=CONNECTIONS,
    )  # fmt: skip
    server = _Server(config, ready, stopping)
    asyncio.run(server.serve(sockets=[listening]))


class PatientProtocol(H11Protocol):
    """uvicorn's HTTP/1.1, without clients that open a connection and never say what they want."""

    _deadline: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """A client is there."""
        super().connection_made(transport)
        self._watch()

    def data_received(self, data: bytes) -> None:
        """Something of a request came."""
        super().data_received(data)
        self._watch()

    def connection_lost(self, exc: Exception | None) -> None:
        """The client is gone."""
        self._forget()
        super().connection_lost(exc)

    def _watch(self) -> None:
        """Count the time while a request is begun and its headers are not complete."""
        if self.conn.their_state is not h11.IDLE:
            self._forget()
        elif self._deadline is None:
            self._deadline = self.loop.call_later(_HEAD, self.transport.close)

    def _forget(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None


class _Server(uvicorn.Server):
    """uvicorn's server, for which a signal is the wished-for end and not an exception after it."""

    def __init__(self, config: uvicorn.Config, ready: Callable[[], None], stopping: Callable[[], None]) -> None:
        super().__init__(config)
        self._ready, self._stopping = ready, stopping

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """As uvicorn's, and says when it is done."""
        await super().startup(sockets)
        self._ready()

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """While open, a signal stops the server, a second one at once; then the handlers are as before."""
        numbers = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)]

        def stop(_number: int, _frame: FrameType | None) -> None:
            self.force_exit = self.should_exit
            self.should_exit = True
            self._stopping()

        before: dict[int, Any] = {number: signal.signal(number, stop) for number in numbers}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)
