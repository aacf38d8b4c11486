"""A service that takes JSON over http or https and answers in JSON: asked once, or until it answers.

Imports no torch. The address is checked before anything is asked, no redirect is followed (the key and the texts are
for the address that was given), and an answer has a size and a time that answers have.
"""

from __future__ import annotations

import http.client
import json
import random
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Mapping
from typing import Any

from expander_sae.records import ExpanderSaeError

REPLY_BYTES = 4 << 20
"""An answer of a few thousand tokens with all that is said around it is far below."""
_LONGEST_WAIT = 60.0
_PASSING = {408, 409, 425, 429, 500, 502, 503, 504, 529}
"""Statuses after which the same request may be answered."""


class NoAnswer(ExpanderSaeError):
    """What came instead of an answer.

    Attributes:
        passing: whether the same request may be answered later: a rate limit, a fault of the server, no connection.
        wait: seconds that the server asked for, if it did.
    """

    def __init__(self, seen: str, *, passing: bool, wait: float | None = None) -> None:
        super().__init__(seen)
        self.passing, self.wait = passing, wait


class Endpoint:
    """An address that JSON is posted to.

    Args:
        url: up to the path that `post` adds, as http://localhost:8000/v1.
        headers: sent with every request, the key for one.
        timeout: seconds to wait for an answer.

    Raises:
        ExpanderSaeError: the address is not one of http or https, or a header cannot be one.
    """

    def __init__(self, url: str, *, headers: Mapping[str, str] | None = None, timeout: float = 120.0) -> None:
        check_address(url)
        for value in (headers or {}).values():
            if not (value.isascii() and value.isprintable() and value.strip() == value):
                raise ExpanderSaeError("expected an API key of printable ASCII characters; got others, or blanks")
        self.url, self.timeout = url.rstrip("/"), timeout
        self._headers = {"Content-Type": "application/json", **(headers or {})}

    def post(self, path: str, body: Any) -> Any:
        """What is answered to `body` at `path`, read as JSON.

        Raises:
            NoAnswer: the endpoint cannot be reached, refuses, or does not answer in JSON.
        """
        request = urllib.request.Request(f"{self.url}/{path}", json.dumps(body).encode(), self._headers)
        try:
            with _OPENER.open(request, timeout=self.timeout) as reply:
                return json.loads(self._read(reply))
        except urllib.error.HTTPError as error:
            raise _refused(error) from error
        except NoAnswer:
            raise
        except (OSError, ValueError, RecursionError, http.client.HTTPException) as error:
            raise NoAnswer(f"{type(error).__name__}: {error}", passing=True) from error

    def _read(self, reply: Any) -> bytes:
        parts, size, end = [], 0, time.monotonic() + self.timeout
        while part := reply.read1(1 << 16):
            parts.append(part)
            size += len(part)
            if size > REPLY_BYTES:
                raise NoAnswer(f"more than {REPLY_BYTES >> 20} MiB", passing=False)
            if time.monotonic() > end:
                raise TimeoutError(f"an answer that was not at its end after {self.timeout:g} s")
        return b"".join(parts)


def patiently(ask: Callable[[], Any], *, tries: int, sleep: Callable[[float], Any] = time.sleep) -> Any:
    """What `ask()` gives, asked again after 1, 2, 4, ... seconds (or as the server says) where the fault may pass.

    Raises:
        NoAnswer: the last one, after `tries` of them, or the first that does not pass.
    """
    for attempt in range(tries):
        try:
            return ask()
        except NoAnswer as error:
            if not error.passing or attempt == tries - 1:
                raise
            wait = min(2.0**attempt, _LONGEST_WAIT) if error.wait is None else error.wait
            sleep(wait * random.uniform(1.0, 1.25))  # so that requests that failed together do not come back together
    raise AssertionError("tries is at least one")


def _refused(error: urllib.error.HTTPError) -> NoAnswer:
    if 300 <= error.code < 400:
        where = error.headers.get("Location")
        return NoAnswer(f"a redirect to {where}, which is not followed: give that address itself", passing=False)
    try:
        said = error.read(200).decode(errors="replace")
    except (OSError, http.client.HTTPException):
        said = ""
    return NoAnswer(f"{error}: {said}", passing=error.code in _PASSING, wait=_asked_to_wait(error))


def _asked_to_wait(error: urllib.error.HTTPError) -> float | None:
    """Seconds in `Retry-After`, at most a minute; a date there is passed over."""
    said = str(error.headers.get("Retry-After", "")).strip()
    return min(float(said), _LONGEST_WAIT) if said.isascii() and said.isdigit() else None


class _NoRedirects(urllib.request.HTTPRedirectHandler):
    """Takes no redirect; no question survives one anyway (a POST becomes a GET)."""

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


def check_address(url: str) -> None:
    """Raise unless the address is one of http or https, without credentials in it."""
    try:
        parts = urllib.parse.urlsplit(url)
        sound = parts.scheme in ("http", "https") and bool(parts.hostname) and (parts.port or 1) > 0
        if parts.username is not None or parts.password is not None:
            raise ExpanderSaeError(
                "expected no credentials in the address of an endpoint; got some, which records would show"
            )
    except ExpanderSaeError:
        raise
    except ValueError:
        sound = False
    if not sound or not url.isascii() or any(character.isspace() or not character.isprintable() for character in url):
        raise ExpanderSaeError(f"expected the address of an endpoint as http://HOST/v1 or https://HOST/v1; got {url!r}")
