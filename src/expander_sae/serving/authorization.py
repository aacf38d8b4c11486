"""Who may ask this server: whoever has its token, in a header that no page of another site can set."""

from __future__ import annotations

from starlette.datastructures import Headers
from starlette.responses import Response
from starlette.types import ASGIApp, Scope

from expander_sae.web.answers import json_answer
from expander_sae.web.guard import Access, Guard, same

OPEN = "/health"
"""What needs no token, for whoever watches whether the server is there."""


class TokenGuard(Guard):
    """The guard of a server that programs ask: `Authorization: Bearer TOKEN`."""

    headers = {  # noqa: RUF012
        "x-content-type-options": "nosniff",
        "content-security-policy": "default-src 'none'; frame-ancestors 'none'",
        "cache-control": "no-store",
        "cross-origin-resource-policy": "same-origin",
    }

    def __init__(self, app: ASGIApp, access: Access, body: int) -> None:
        super().__init__(app, access)
        self._body = body

    def most(self, path: str) -> int:
        """Bytes of a body, at most."""
        return self._body

    def refusal(self, scope: Scope, headers: Headers) -> Response | None:
        """Why this request is not let through, as an answer."""
        if self.access.token is None or scope["path"] == OPEN:
            return None
        scheme, _, given = headers.get("authorization", "").partition(" ")
        if scheme.lower() == "bearer" and same(given.strip(), self.access.token):
            return None
        answer = self.no(401, "expected the header Authorization: Bearer TOKEN with the token of this server")
        answer.headers["www-authenticate"] = "Bearer"
        return answer

    def no(self, status: int, message: str) -> Response:
        """An answer that says why not, in the form of all others."""
        return json_answer({"error": message}, status)
