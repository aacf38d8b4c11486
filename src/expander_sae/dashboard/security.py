"""What the browser's pages may be asked, and the headers they leave with."""

from __future__ import annotations

from http.cookies import CookieError, SimpleCookie
from urllib.parse import parse_qsl, urlencode

from starlette.datastructures import Headers
from starlette.responses import RedirectResponse, Response
from starlette.types import Scope

from expander_sae.web.guard import Guard, same

MAX_BODY = 64 * 1024
"""Bytes of a request's body; a file of labels may be larger."""
MAX_LABELS = 16 * 1024 * 1024
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


class PageGuard(Guard):
    """The guard of pages that show text which nobody has vetted: the token is a cookie, changes say their origin."""

    headers = HEADERS

    def most(self, path: str) -> int:
        """Bytes of a body, at most."""
        return MAX_LABELS if path == "/api/labels/import" else MAX_BODY

    def refusal(self, scope: Scope, headers: Headers) -> Response | None:
        """Why this request is not let through, as an answer."""
        if scope["method"] in _CHANGES:
            if headers.get("origin") is None:
                own = f"{scope['scheme']}://{headers.get('host', '')}"
                return self.no(403, f"expected the header Origin: {own} on a request that changes something; got none")
            kind = headers.get("content-type", "").partition(";")[0].strip().lower()
            if kind != "application/json":
                return self.no(415, f"expected content type application/json; got {kind[:100]!r}")
        return self._without_token(scope, headers)

    def _without_token(self, scope: Scope, headers: Headers) -> Response | None:
        token = self.access.token
        if token is None or same(_cookie(headers, self.access.cookie), token):
            return None
        query = parse_qsl(scope["query_string"].decode("latin-1"), keep_blank_values=True)
        if scope["path"] != "/" or not any(name == "token" and same(value, token) for name, value in query):
            return self.no(
                401, "expected the token of this server: open the address that `expander-sae browse` printed"
            )
        rest = urlencode([pair for pair in query if pair[0] != "token"])
        answer = RedirectResponse(f"/?{rest}" if rest else "/", status_code=303)  # out of the history and of sight
        answer.set_cookie(self.access.cookie, token, httponly=True, samesite="strict", path="/")
        return answer


def _cookie(headers: Headers, name: str) -> str | None:
    try:
        found = SimpleCookie(headers.get("cookie", "")).get(name)
    except CookieError:
        return None
    return None if found is None else found.value
