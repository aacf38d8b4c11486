"""Who may ask the server what: every request passes here first, and every answer leaves with these headers.

The pages show text that nobody has vetted and can run a model, so a page of another site must not be able to read or
change anything: not by a link, a form or a script, and not by a name that resolves to this machine (DNS rebinding).
"""

from __future__ import annotations

import ipaddress
import secrets
import socket
from dataclasses import dataclass, field
from http.cookies import CookieError, SimpleCookie
from urllib.parse import parse_qsl, urlencode

from starlette.datastructures import Headers
from starlette.responses import PlainTextResponse, RedirectResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

MAX_BODY = 64 * 1024
"""Bytes of a request's body; a file of labels may be larger."""
MAX_LABELS = 16 * 1024 * 1024
MAX_QUERY = 8 * 1024
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'; "
    "require-trusted-types-for 'script'; trusted-types 'none'"
)
"""No script or style but the package's own files, nothing from outside, and no markup made of text."""
HEADERS = {
    "content-security-policy": POLICY,
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "x-frame-options": "DENY",
    "permissions-policy": "camera=(), geolocation=(), microphone=()",
}
_CHANGES = ("POST", "PUT", "PATCH", "DELETE")
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


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach a server that listens at `host`."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host.lower() in _LOOPBACK_NAMES


class Guard:
    """ASGI middleware: refuses what should not have been asked, bounds what is sent, and sets the headers."""

    def __init__(self, app: ASGIApp, access: Access) -> None:
        self.app, self.access = app, access

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)  # start and stop of the server; there are no websockets
            return

        async def with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                names = {name.lower() for name, _ in message["headers"]}
                more = ((name.encode(), value.encode()) for name, value in HEADERS.items())
                message["headers"] = [*message["headers"], *(pair for pair in more if pair[0] not in names)]
            await send(message)

        headers = Headers(scope=scope)
        refusal = self._refusal(scope, headers)
        if refusal is not None:
            await refusal(scope, receive, with_headers)
            return
        limit = MAX_LABELS if scope["path"] == "/api/labels/import" else MAX_BODY
        declared = headers.get("content-length", "0")
        if not declared.isdigit() or int(declared) > limit:
            await _no(413, f"expected at most {limit:,} bytes; got {declared[:20]}")(scope, receive, with_headers)
            return
        await self.app(scope, _bounded(receive, limit), with_headers)

    def _refusal(self, scope: Scope, headers: Headers) -> Response | None:
        """Why this request is not let through, as an answer."""
        host = headers.get("host", "")
        if not self._is_ours(host):
            return _no(421, f"expected a request to this server by its own name; got Host {host[:100]!r}")
        if len(scope["query_string"]) > MAX_QUERY:
            return _no(414, f"expected at most {MAX_QUERY:,} bytes behind the question mark")
        origin, method = headers.get("origin"), scope["method"]
        own = f"{scope['scheme']}://{host}"
        if origin is not None and origin != own:
            return _no(403, f"expected a request from a page of this server; got Origin {origin[:100]!r}")
        if headers.get("sec-fetch-site", "none") not in ("same-origin", "none") and scope["path"] != "/":
            return _no(403, "expected a request from a page of this server; got one from another site")
        if method in _CHANGES:
            if origin is None:
                return _no(403, f"expected the header Origin: {own} on a request that changes something; got none")
            kind = headers.get("content-type", "").partition(";")[0].strip().lower()
            if kind != "application/json":
                return _no(415, f"expected content type application/json; got {kind[:100]!r}")
        return self._without_token(scope, headers)

    def _is_ours(self, host: str) -> bool:
        name = host.rpartition("]")[0].lstrip("[") if host.startswith("[") else host.partition(":")[0]
        try:
            ipaddress.ip_address(name)
        except ValueError:
            return name.lower() in self.access.names
        return True

    def _without_token(self, scope: Scope, headers: Headers) -> Response | None:
        token = self.access.token
        if token is None or _same(_cookie(headers, self.access.cookie), token):
            return None
        query = parse_qsl(scope["query_string"].decode("latin-1"), keep_blank_values=True)
        if scope["path"] != "/" or not any(name == "token" and _same(value, token) for name, value in query):
            return _no(401, "expected the token of this server: open the address that `expander-sae browse` printed")
        rest = urlencode([pair for pair in query if pair[0] != "token"])
        answer = RedirectResponse(f"/?{rest}" if rest else "/", status_code=303)  # out of the history and of sight
        answer.set_cookie(self.access.cookie, token, httponly=True, samesite="strict", path="/")
        return answer


def _same(given: str | None, token: str) -> bool:
    """In a time that says nothing about how much of it was right."""
    return given is not None and secrets.compare_digest(given.encode("utf-8", "replace"), token.encode())


def _cookie(headers: Headers, name: str) -> str | None:
    try:
        found = SimpleCookie(headers.get("cookie", "")).get(name)
    except CookieError:
        return None
    return None if found is None else found.value


def _no(status: int, message: str) -> Response:
    return PlainTextResponse(f"{message}\n", status_code=status)


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
