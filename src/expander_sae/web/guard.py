"""Who may ask a server what: every request passes here first, and every answer leaves with the server's headers.

Servers run models and show what is private, so a page of another site must not be able to read or change anything: not
by a link, a form or a script, and not by a name that resolves to this machine (DNS rebinding).
"""

from __future__ import annotations

import ipaddress
import secrets
import socket
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar

from starlette.datastructures import Headers
from starlette.responses import PlainTextResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

MAX_QUERY = 8 * 1024
"""Bytes behind the question mark."""
_LOOPBACK_NAMES = ("localhost",)


@dataclass(frozen=True)
class Access:
    """What a request must bring: a known name in `Host`, and the token if there is one."""

    token: str | None = field(default=None, repr=False)
    names: frozenset[str] = frozenset(_LOOPBACK_NAMES)
    """Host names that are ours; addresses written as numbers are always taken, no name server can forge them."""
    cookie: str = "expander-sae"

    @classmethod
    def to(cls, host: str, port: int) -> Access:
        """For a server that listens at this address: one that others can reach asks for a random token."""
        names, cookie = frozenset((*_LOOPBACK_NAMES, host.lower())), f"expander-sae-{port}"
        if is_loopback(host):
            return cls(None, names, cookie)
        return cls(secrets.token_urlsafe(24), names | {socket.gethostname().lower()}, cookie)

    def knows(self, host: str) -> bool:
        """Whether a `Host` header names this server."""
        name = host.rpartition("]")[0].lstrip("[") if host.startswith("[") else host.partition(":")[0]
        try:
            ipaddress.ip_address(name)
        except ValueError:
            return name.lower() in self.names
        return True


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach a server that listens at `host`."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host.lower() in _LOOPBACK_NAMES


def same(given: str | None, token: str) -> bool:
    """Whether a token is the right one, in a time that says nothing about how much of it was right."""
    return given is not None and secrets.compare_digest(given.encode("utf-8", "replace"), token.encode())


class Guard:
    """ASGI middleware: refuses what should not have been asked, bounds what is sent, and sets the headers.

    A server says in a subclass what else it refuses, how large a body may be, and which headers it sets.
    """

    headers: ClassVar[Mapping[str, str]] = {}
    """Set on every answer that has not set them itself."""

    def __init__(self, app: ASGIApp, access: Access) -> None:
        self.app, self.access = app, access

    def most(self, path: str) -> int:
        """Bytes of a body sent to `path`, at most."""
        raise NotImplementedError

    def refusal(self, scope: Scope, headers: Headers) -> Response | None:
        """Why this request, which comes from nowhere foreign, is not let through, as an answer."""
        raise NotImplementedError

    def no(self, status: int, message: str) -> Response:
        """An answer that says why not."""
        return PlainTextResponse(f"{message}\n", status_code=status)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)  # start and stop of the server; there are no websockets
            return

        async def with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                names = {name.lower() for name, _ in message["headers"]}
                more = ((name.encode(), value.encode()) for name, value in self.headers.items())
                message["headers"] = [*message["headers"], *(pair for pair in more if pair[0] not in names)]
            await send(message)

        headers = Headers(scope=scope)
        refusal = self._foreign(scope, headers) or self.refusal(scope, headers)
        limit = self.most(scope["path"])
        declared = headers.get("content-length", "0")
        if refusal is None and (not declared.isdigit() or len(declared) > 18 or int(declared) > limit):
            refusal = self.no(413, f"expected at most {limit:,} bytes; got {declared[:20]}")
        if refusal is not None:
            await refusal(scope, receive, with_headers)
            return
        await self.app(scope, _bounded(receive, limit), with_headers)

    def _foreign(self, scope: Scope, headers: Headers) -> Response | None:
        """Why a request is not one to this server, or is one of another site's page."""
        host = headers.get("host", "")
        if not self.access.knows(host):
            return self.no(421, f"expected a request to this server by its own name; got Host {host[:100]!r}")
        if len(scope["query_string"]) > MAX_QUERY:
            return self.no(414, f"expected at most {MAX_QUERY:,} bytes behind the question mark")
        origin = headers.get("origin")
        if origin is not None and origin != f"{scope['scheme']}://{host}":
            return self.no(403, f"expected a request from a page of this server; got Origin {origin[:100]!r}")
        if headers.get("sec-fetch-site", "none") not in ("same-origin", "none") and scope["path"] != "/":
            return self.no(403, "expected a request from a page of this server; got one from another site")
        return None


class TooLargeError(Exception):
    """A body went on beyond what it may have."""


def _bounded(receive: Receive, limit: int) -> Receive:
    """A body that does not say its length is counted as it comes."""
    seen = 0

    async def counted() -> Message:
        nonlocal seen
        message = await receive()
        seen += len(message.get("body", b""))
        if seen > limit:
            raise TooLargeError(f"expected at most {limit:,} bytes; got more")
        return message

    return counted
