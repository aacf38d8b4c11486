"""`expander-sae serve`: codes over HTTP, for monitors."""

import importlib.util
import os
import secrets
from pathlib import Path
from typing import Annotated

import typer

from expander_sae.records import ExpanderSaeError

from .console import output
from .options import ComputeDtype, Device

_TOKEN = "EXPANDER_SAE_TOKEN"
_SHORTEST = 16


def serve(
    saes: Annotated[
        list[str], typer.Argument(help="Folders of trained SAEs, asked for by the folder's name; or NAME=FOLDER.")
    ],
    model: Annotated[
        str | None,
        typer.Option(help="Language model for texts: folder or hub id.", show_default="none: activations only"),
    ] = None,
    labels: Annotated[
        Path | None,
        typer.Option(help="A feature store that `expander-sae features` wrote: answers name their latents."),
    ] = None,
    inference: Annotated[
        str | None,
        typer.Option(help="How codes are read, as in `encode`; see docs/pursuit.md.", show_default="each SAE's own"),
    ] = None,
    port: Annotated[
        int | None, typer.Option(help="Port to listen at; 0: any free one.", show_default="7342, or a free one")
    ] = None,
    host: Annotated[
        str,
        typer.Option(help="Address to listen at. Others than this machine's own can be reached: they ask for a token."),
    ] = "127.0.0.1",
    allow_host: Annotated[
        list[str] | None,
        typer.Option(help="Another name by which this server may be asked, behind a proxy say. May be repeated."),
    ] = None,
    token_file: Annotated[
        Path | None,
        typer.Option(
            help=f"File with the token that requests must bring, at least {_SHORTEST} characters.",
            show_default=f"the environment's {_TOKEN}; else a random one, which is printed, where others can ask",
        ),
    ] = None,
    window: Annotated[
        float,
        typer.Option(
            "--window-ms",
            help="Milliseconds that a request waits for others, to share a forward pass; 0: each is answered alone.",
        ),
    ] = 5.0,
    queue: Annotated[int, typer.Option(help="Requests that may wait; the next one is refused at once (429).")] = 64,
    max_tokens: Annotated[int, typer.Option(help="Tokens of one request, and of one forward pass, at most.")] = 8192,
    max_mb: Annotated[int, typer.Option(help="Megabytes of one request at most.")] = 32,
    drain: Annotated[
        int, typer.Option("--drain-seconds", help="Seconds that requests have to end in when the server is stopped.")
    ] = 30,
    compute_dtype: ComputeDtype = "auto",
    device: Device = "cpu",
) -> None:
    """Answer texts or activations with their top latents, over HTTP.

    Requests that come together share a forward pass; SIGTERM answers what waits and ends. docs/guides/serving.md has
    the addresses and a client.
    """
    if importlib.util.find_spec("prometheus_client") is None:
        raise ExpanderSaeError("expected prometheus-client, for /metrics; got none: pip install 'expander-sae[serve]'")
    from dataclasses import replace

    from expander_sae.pursuit import parse_reading  # torch takes seconds to import
    from expander_sae.serving.app import Server
    from expander_sae.serving.limits import Limits
    from expander_sae.serving.opening import check_texts, named_folders, open_model, open_saes
    from expander_sae.web.guard import Access, is_loopback
    from expander_sae.web.listening import base_address, listen
    from expander_sae.web.listening import serve as run

    for name, number in (("--queue", queue), ("--max-tokens", max_tokens), ("--max-mb", max_mb)):
        if number < 1:
            raise ExpanderSaeError(f"expected {name} from 1; got {number}")
    if not 0 <= window <= 10_000 or drain < 0:
        raise ExpanderSaeError(
            f"expected --window-ms from 0 to 10000 and --drain-seconds from 0; got {window}, {drain}"
        )
    token = _token(token_file)
    printed = token is None and not is_loopback(host)
    if printed:
        token = secrets.token_urlsafe(24)
    reading = None if inference is None else parse_reading(inference)
    folders = named_folders(saes)
    listening = listen(host, port, usual=7342)
    access = Access.to(host, listening.getsockname()[1])
    names = access.names | {name.lower() for name in allow_host or ()}
    language_model = open_model(model, device=device, dtype=compute_dtype)
    served = open_saes(folders, device=device, reading=reading, labels=labels, language_model=language_model)
    check_texts(served, language_model)
    limits = Limits(
        window=window / 1e3, queue=queue, batch=max_tokens, tokens=max_tokens, body=max_mb << 20, drain=drain
    )
    server = Server(served, language_model, limits)
    console = output()

    def ready() -> None:
        console.print(f"serving {', '.join(folders)} at {base_address(host, listening.getsockname()[1])}")
        if printed:
            console.print(f"Authorization: Bearer {token}")

    app = server.app(replace(access, token=token, names=names))
    run(app, listening, ready=ready, stopping=server.batcher.stop, patience=drain)


def _token(file: Path | None) -> str | None:
    """The token that was given: not on the command line, which everybody on the machine can read."""
    if file is None:
        token, source = os.environ.get(_TOKEN), _TOKEN
    else:
        token, source = file.read_text(encoding="utf-8").strip(), str(file)
    if token is None:
        return None
    if len(token) < _SHORTEST or not token.isascii() or not token.isprintable() or " " in token:
        raise ExpanderSaeError(
            f"expected a token of at least {_SHORTEST} ASCII characters without spaces in {source}; got {len(token)} "
            "characters"
        )
    return token
