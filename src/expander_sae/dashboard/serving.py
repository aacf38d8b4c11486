"""Running the server: a port, an address to open, and an end in good order."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import socket
import webbrowser
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any

import uvicorn
from starlette.types import ASGIApp

from expander_sae.records import ExpanderSaeError

from .security import Access

PORT = 7341
"""Where the browser is unless it is told otherwise."""
_PATIENCE = 3
"""Seconds that answers under way have to end in when the server stops."""


def listen(host: str, port: int | None) -> socket.socket:
    """A socket that listens at `host`; without a port asked for, at the usual one or else at a free one.

    Raises:
        ExpanderSaeError: the port is taken, or there is no such address here.
    """
    wanted = [PORT, 0] if port is None else [port]
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


def address_of(host: str, port: int, access: Access) -> str:
    """What to open in a browser."""
    name = {"0.0.0.0": "localhost", "::": "localhost"}.get(host, f"[{host}]" if ":" in host else host)
    return f"http://{name}:{port}/" + ("" if access.token is None else f"?token={access.token}")


def serve(app: ASGIApp, listening: socket.socket, *, ready: Callable[[], None] = lambda: None) -> None:
    """Serve until Ctrl-C or SIGTERM; answers under way get a moment to end in. `ready` is called once it answers."""
    config = uvicorn.Config(
        app, log_level="warning", access_log=False, server_header=False, timeout_graceful_shutdown=_PATIENCE,
        proxy_headers=False, ws="none", h11_max_incomplete_event_size=64 * 1024, lifespan="on",
    )  # fmt: skip
    server = _Server(config, ready)
    asyncio.run(server.serve(sockets=[listening]))


def open_in_browser(address: str) -> None:
    """Have the desktop's browser open it; where there is none, the printed address is enough."""
    with contextlib.suppress(webbrowser.Error, OSError):
        webbrowser.open(address)


class _Server(uvicorn.Server):
    """uvicorn's server, for which a signal is the wished-for end and not an exception after it."""

    def __init__(self, config: uvicorn.Config, ready: Callable[[], None]) -> None:
        super().__init__(config)
        self._ready = ready

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

        before: dict[int, Any] = {number: signal.signal(number, stop) for number in numbers}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)
