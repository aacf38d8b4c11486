"""The server: which address gives which page's data, and what is said when something is wrong."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from importlib.resources import files
from typing import Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import ASGIApp

from expander_sae.latents import Conflict, LabelFile, View
from expander_sae.records import ExpanderSaeError
from expander_sae.web.answers import json_answer, no_such_page, problem, unexpected
from expander_sae.web.guard import Access, TooLargeError

from .asked import Asked, body_of
from .current import CurrentStore
from .live import Live
from .live_routes import live_routes
from .pages import Pages, checked_latent, label_told
from .security import PageGuard

SCRIPTS = (
    "dom", "text", "tip", "api", "router", "charts", "tokens", "labels", "map", "live-parts", "page-overview",
    "page-search", "page-latent", "page-compare", "page-text", "page-steer", "page-ablate", "page-labels", "keys",
    "main",
)  # fmt: skip
"""In the order they are read."""
STYLES = ("base.css", "parts.css")
_TYPES = {"js": "text/javascript", "css": "text/css", "svg": "image/svg+xml", "html": "text/html"}
Answer = Callable[[Pages, Asked], Any]


def static_file(name: str) -> bytes:
    """A file of the pages, as the package has it."""
    return files("expander_sae.dashboard").joinpath("static", name).read_bytes()


def index_html(scripts: tuple[str, ...] = SCRIPTS, head: str = "") -> bytes:
    """The one HTML file, with the scripts it reads."""
    tags = "\n  ".join(f'<script defer src="{name}.js"></script>' for name in scripts)
    page = static_file("index.html").decode().replace("<!--scripts-->", tags)
    return page.replace('<meta charset="utf-8">', f'<meta charset="utf-8">{head}').encode()


def make_app(current: CurrentStore, labels: LabelFile, live: Live, access: Access) -> ASGIApp:
    """The whole server as an ASGI application."""
    reading: dict[str, Answer] = {
        "/api/store": lambda pages, asked: {**pages.about(), "static": False, "live": live.state()},
        "/api/overview": lambda pages, asked: pages.overview(_view(pages, asked)),
        "/api/places": lambda pages, asked: pages.places(_view(pages, asked)),
        "/api/search": _search,
        "/api/summaries": lambda pages, asked: {
            "items": pages.summaries(_view(pages, asked), asked.numbers("latents", most=200))
        },
        "/api/latent/{latent:int}": lambda pages, asked: pages.latent(*_latent(pages, asked)),
        "/api/compare": _compare,
        "/api/labels": lambda pages, asked: pages.all_labels(),
        "/api/labels/export": lambda pages, asked: labels.export_json(),
    }

    def route(path: str, answer: Answer) -> Route:
        async def endpoint(request: Request) -> Response:
            asked = Asked(request)
            return await current.in_thread(
                lambda: json_answer(current.read(lambda served: answer(Pages(served, labels), asked)))
            )

        return Route(path, endpoint)

    async def put_label(request: Request) -> Response:
        asked, told = Asked(request), await body_of(request)

        def write() -> Response:
            view, j = current.read(lambda served: _latent(Pages(served, labels), asked))
            text, note = told.text("text", most=2_000), told.text("note", most=20_000)
            star, seen = told.flag("star"), told.number("seen", 0, 1 << 53)
            try:
                label = labels.put(view.sha256, j, text=text, note=note, star=star, seen=seen)
            except Conflict as conflict:
                return json_answer({"error": str(conflict), "current": label_told(conflict.current)}, 409)
            return json_answer({"label": label_told(label)})

        return await current.in_thread(write)

    async def import_labels(request: Request) -> Response:
        told = (await body_of(request)).whole
        return await current.in_thread(lambda: json_answer(labels.import_json(told)))

    @asynccontextmanager
    async def lifespan(_app: Starlette) -> AsyncIterator[None]:
        yield
        live.close()
        labels.close()
        current.close()

    app = Starlette(
        routes=[
            *_static_routes(),
            *(route(path, answer) for path, answer in reading.items()),
            Route("/api/labels/import", import_labels, methods=["POST"]),
            Route("/api/labels/{latent:int}", put_label, methods=["PUT"]),
            *live_routes(current, labels, live),
        ],
        exception_handlers={
            ExpanderSaeError: problem(400),
            TooLargeError: problem(413),
            OSError: problem(503),  # the file is gone, or the disk
            HTTPException: no_such_page,
            Exception: unexpected,
        },
        lifespan=lifespan,
    )
    return PageGuard(app, access)


def _static_routes() -> list[Route]:
    contents = {name: static_file(name) for name in (*STYLES, "icon.svg", *(f"{script}.js" for script in SCRIPTS))}
    contents[""] = index_html()

    def route(name: str, content: bytes) -> Route:
        kind = _TYPES[(name or "index.html").rpartition(".")[2]]

        async def endpoint(_request: Request) -> Response:
            return Response(content, 200, {"cache-control": "no-cache"}, f"{kind}; charset=utf-8")

        return Route(f"/{name}", endpoint)

    return [route(name, content) for name, content in contents.items()]


def _view(pages: Pages, asked: Asked) -> View:
    return pages.store.view(asked.text("view") or None)


def _latent(pages: Pages, asked: Asked) -> tuple[View, int]:
    view = _view(pages, asked)
    return view, checked_latent(view, asked.place("latent"))


def _search(pages: Pages, asked: Asked) -> dict[str, Any]:
    low, high = asked.share("lo"), asked.share("hi")
    density = None if low is None and high is None else (low or 0.0, 1.0 if high is None else high)
    return pages.search(
        _view(pages, asked),
        text=asked.text("q").strip(),
        where=asked.one_of("in", ("", "token", "label")),
        order=asked.one_of("order", ("", "match", "specific", "density", "max", "energy", "latent")),
        alive=asked.one_of("alive", ("", "all", "dead")),
        density=density,
        labelled=asked.text("labelled") == "1",
        limit=asked.number("limit", 50, most=200),
        offset=asked.number("offset", 0, most=1 << 31),
    )


def _compare(pages: Pages, asked: Asked) -> dict[str, Any]:
    return pages.compare(
        _view(pages, asked),
        pages.store.view(asked.text("other")),
        order=asked.one_of("order", ("", "alike", "latent")),
        limit=asked.number("limit", 50, most=200),
        offset=asked.number("offset", 0, most=1 << 31),
    )
