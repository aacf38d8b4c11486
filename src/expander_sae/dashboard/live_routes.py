"""The addresses that run the model: which latents fire on a text, generating with one clamped, taking one away."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route

from expander_sae.latents import LabelFile, View
from expander_sae.records import ExpanderSaeError
from expander_sae.web.answers import finished, json_answer

from .asked import Asked, body_of
from .current import CurrentStore
from .live import Live, ModelJob
from .pages import Pages, checked_latent

TEXT = 4_000
"""Characters of a prompt or a text."""
TOKENS = 128
"""That are generated at most."""


def live_routes(current: CurrentStore, labels: LabelFile, live: Live) -> list[Route]:
    """What needs the model."""

    async def view_of(request: Request) -> tuple[View, dict[str, Any]]:
        name = Asked(request).text("view") or None
        return await current.in_thread(
            lambda: current.read(lambda served: (served.store.view(name), served.store.meta))
        )

    async def lines(view: View, latents: list[int]) -> dict[int, dict[str, Any]]:
        def read() -> list[dict[str, Any]]:
            return current.read(lambda served: Pages(served, labels).summaries(served.store.view(view.name), latents))

        return {line["latent"]: line for line in await current.in_thread(read)}

    async def fire(request: Request) -> Response:
        view, meta = await view_of(request)
        text = (await body_of(request)).text("text", least=1, most=TEXT)
        found = await finished(request, live.submit(lambda session, _: session.fire(view, meta, text)))
        known = await lines(view, [one["latent"] for one in found["latents"]])
        here = [{**known[one["latent"]], **one} for one in found["latents"]]
        here.sort(key=lambda one: -abs(one["here"]) / (one["max"] or abs(one["here"]) or 1.0) * (one["specific"] or 0))
        return json_answer({**found, "latents": here})

    async def ablate(request: Request) -> Response:
        view, meta = await view_of(request)
        body = await body_of(request)
        prompt = body.text("prompt", least=1, most=TEXT)
        latent = checked_latent(view, body.number("latent", 0, 1 << 31))
        return json_answer(
            await finished(request, live.submit(lambda session, _: session.ablate(view, meta, prompt, latent)))
        )

    async def steer(request: Request) -> Response:
        view, meta = await view_of(request)
        body = await body_of(request)
        prompt = body.text("prompt", least=1, most=TEXT)
        latent = checked_latent(view, body.number("latent", 0, 1 << 31))
        highest = (await lines(view, [latent]))[latent]["max"]
        if not highest:
            raise ExpanderSaeError(
                f"expected a latent that fired, whose largest activation is the unit; got {latent}, which never did"
            )
        options = {
            "value": body.real("strength", -20, 20) * highest,
            "how": body.one_of("how", ("clamp", "add")),
            "tokens": body.number("tokens", 1, TOKENS),
            "temperature": body.real("temperature", 0, 2),
            "seed": body.number("seed", 0, 1 << 31),
        }
        loop = asyncio.get_running_loop()
        parts: asyncio.Queue[dict[str, Any] | None] = asyncio.Queue()

        def emit(part: dict[str, Any] | None) -> None:
            loop.call_soon_threadsafe(parts.put_nowait, part)

        job = live.submit(
            lambda session, cancelled: session.generate(
                view, meta, prompt, latent, **options, emit=emit, stop=cancelled
            )
        )
        job.future.add_done_callback(lambda _: emit(None) if not loop.is_closed() else None)
        return StreamingResponse(
            _lines_of(job, parts), headers={"cache-control": "no-store"}, media_type="application/x-ndjson"
        )

    return [
        Route("/api/live/fire", fire, methods=["POST"]),
        Route("/api/live/steer", steer, methods=["POST"]),
        Route("/api/live/ablate", ablate, methods=["POST"]),
    ]


async def _lines_of(job: ModelJob, parts: asyncio.Queue[dict[str, Any] | None]) -> AsyncIterator[bytes]:
    try:
        while (part := await parts.get()) is not None:
            yield _line(part)
        if not job.future.cancelled() and (error := job.future.exception()) is not None:
            known = isinstance(error, ExpanderSaeError)
            yield _line({"error": str(error) if known else f"the server failed: {type(error).__name__}"})
    finally:
        job.cancelled.set()


def _line(part: dict[str, Any]) -> bytes:
    return json.dumps(part).encode() + b"\n"
