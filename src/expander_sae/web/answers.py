"""What servers answer: JSON, one sentence for what is wrong, and the result of work unless its visitor has left."""

from __future__ import annotations

import asyncio
import json
import threading
from concurrent.futures import Future
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from expander_sae.records import ExpanderSaeError

_LOOK = 0.5
"""Seconds after which it is looked whether the visitor is still there."""


class BusyError(ExpanderSaeError):
    """No room for another request: try again in a moment."""

    status = 429


class Job:
    """One piece of work that waits for a thread: its result, and a way to call it off."""

    def __init__(self) -> None:
        self.future: Future[Any] = Future()
        self.cancelled = threading.Event()


async def finished(request: Request, job: Job) -> Any:
    """The work's result; whoever left has it called off."""
    waited = asyncio.wrap_future(job.future)
    try:
        while True:
            done, _ = await asyncio.wait({waited}, timeout=_LOOK)
            if done:
                return waited.result()
            if await request.is_disconnected():
                raise asyncio.CancelledError
    finally:
        job.cancelled.set()


def json_answer(told: Any, status: int = 200) -> Response:
    """An answer in JSON of ASCII alone: lone surrogates and line separators are spelt out."""
    text = json.dumps(told, allow_nan=False, separators=(",", ":"))
    return Response(text, status, {"cache-control": "no-store"}, "application/json")


def problem(status: int) -> Any:
    """A handler that answers an error with its own sentence, and its own status where it has one."""

    async def handler(_request: Request, error: Exception) -> Response:
        return json_answer({"error": str(error)}, getattr(error, "status", status))

    return handler


async def no_such_page(_request: Request, error: Exception) -> Response:
    """The answer to an address that is none."""
    status = getattr(error, "status_code", 500)
    return json_answer({"error": f"there is no such page ({getattr(error, 'detail', '')})"}, status)


async def unexpected(_request: Request, error: Exception) -> Response:
    """The answer where something is wrong with the server."""
    return json_answer({"error": f"the server failed: {type(error).__name__}; its terminal says more"}, 500)
