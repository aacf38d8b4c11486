"""`expander-sae browse`: a feature store's pages in the web browser, or as files."""

from pathlib import Path
from typing import Annotated

import typer

from expander_sae.records import ExpanderSaeError

from .console import output
from .options import ComputeDtype, Device, FeatureStore, Overwrite
from .results import there_already


def browse(
    store: FeatureStore,
    model: Annotated[
        str | None,
        typer.Option(
            help="Language model for the live pages (text, steer, ablate): folder or hub id. Loaded when first asked "
            "for.",
            show_default="none: no live pages",
        ),
    ] = None,
    sae: Annotated[
        list[Path] | None,
        typer.Option(help="Folder of a view's SAE for the live pages, if it has moved. May be repeated."),
    ] = None,
    labels: Annotated[
        Path | None,
        typer.Option(help="File of labels, notes and stars.", show_default="STORE.labels.db beside the store"),
    ] = None,
    port: Annotated[
        int | None, typer.Option(help="Port to listen at; 0: any free one.", show_default="7341, or a free one")
    ] = None,
    host: Annotated[
        str,
        typer.Option(
            help="Address to listen at. Others than this machine's own can be reached from outside: they ask for the "
            "random token in the printed address."
        ),
    ] = "127.0.0.1",
    show: Annotated[bool, typer.Option("--open/--no-open", help="Open the pages in the web browser.")] = True,
    export: Annotated[
        Path | None,
        typer.Option(
            help="Write the pages as files into this folder instead, to be opened from disk or hosted anywhere."
        ),
    ] = None,
    overwrite: Overwrite = False,
    device: Device = "cpu",
    compute_dtype: ComputeDtype = "auto",
) -> None:
    """Look at latents: overview, search, contexts, comparison, labels, and live on the model: text, steering, ablation.

    Ctrl-C ends it; labels are saved as they are written. docs/guides/browser.md says what each page shows.
    """
    from expander_sae.dashboard.current import CurrentStore  # a web server that no other verb needs
    from expander_sae.dashboard.live import Live
    from expander_sae.dashboard.opening import PORT, address_of, open_in_browser
    from expander_sae.dashboard.server import make_app
    from expander_sae.latents import LabelFile
    from expander_sae.web.guard import Access, is_loopback
    from expander_sae.web.listening import listen, serve

    if sae and model is None:
        raise ExpanderSaeError("expected --model with --sae, which is for the live pages; got --sae alone")
    known = LabelFile.beside(store) if labels is None else LabelFile(labels)
    console = output()
    if export is not None:
        from expander_sae.dashboard.export import export_site

        if export.exists() and any(export.iterdir()) and not overwrite:
            raise there_already(export)
        wrote = export_site(store, export, labels=known)
        console.print(f"{wrote.files:,} files, {wrote.bytes / 1e6:,.1f} MB: open {export / 'index.html'}")
        return
    current = CurrentStore(store)
    listening = listen(host, port, usual=PORT)
    number = listening.getsockname()[1]
    access = Access.to(host, number)
    address = address_of(host, number, access)
    app = make_app(current, known, Live(model, sae or [], device=device, dtype=compute_dtype), access)

    def ready() -> None:
        console.print(f"{store.name}: {address}")
        if not is_loopback(host):
            console.print(
                "Others can reach this address; whoever has the token in it can read everything and write labels."
            )
        console.print("Ctrl-C ends it.")
        if show:
            open_in_browser(address)

    serve(app, listening, ready=ready)
