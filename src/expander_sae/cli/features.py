"""`expander-sae features`: trained SAEs and activations or text in; a feature store out, to look at their latents."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Annotated, Any

import typer
from rich import box
from rich.table import Table

from expander_sae.records import ExpanderSaeError, write_json

from .console import output
from .options import ComputeDtype, Device, KeepSpecialTokens, Overwrite


def features(
    saes: Annotated[
        list[Path], typer.Argument(help="Folders of one or more trained SAEs, of this package or of another library.")
    ],
    out: Annotated[Path, typer.Option(help="File to write, latents.db say: SQLite.")],
    acts: Annotated[
        Path | None,
        typer.Option(help="Folder of activations that `expander-sae harvest` wrote; with --text, where they are kept."),
    ] = None,
    text: Annotated[
        list[str] | None,
        typer.Option(
            help="Or text, which the model reads first: .txt, .jsonl, .parquet, a folder, a dataset. Repeatable."
        ),
    ] = None,
    reading: Annotated[
        str | None,
        typer.Option(
            "--reading",
            "--inference",
            help="How codes are read, one or more with commas, each a view of its own: encoder, refit, stages:T, omp, "
            "and so on; see docs/concepts/readings.md.",
            show_default="the SAE's own",
        ),
    ] = None,
    model: Annotated[
        str | None,
        typer.Option(
            help="Language model: folder or hub id. With it the store has the tokens that each latent promotes.",
            show_default="the tokenizer alone of the one harvested",
        ),
    ] = None,
    logit_lens: Annotated[
        bool,
        typer.Option("--logit-lens/--no-logit-lens", help="With --model: the tokens that latents promote, or not."),
    ] = True,
    layer: Annotated[
        int | None,
        typer.Option(help="With --text: block, counted from 0.", show_default="the one the SAEs were trained on"),
    ] = None,
    context: Annotated[int, typer.Option(help="With --text: tokens per block of text.")] = 256,
    split: Annotated[
        str, typer.Option(help="With --acts: side of the document split to read, heldout or train.")
    ] = "heldout",
    max_tokens: Annotated[
        int | None, typer.Option(help="Read at most so many tokens, in whole blocks of text.", show_default="all")
    ] = None,
    contexts: Annotated[int, typer.Option(help="Contexts of each latent's highest activations.")] = 20,
    per_quantile: Annotated[int, typer.Option(help="Contexts of each quarter of its firings.")] = 5,
    neighbours: Annotated[int, typer.Option(help="Nearest latents of each kind.")] = 10,
    keep_special_tokens: KeepSpecialTokens = False,
    outlier_medians: Annotated[
        float, typer.Option(help="Leave out tokens with a norm above this many medians; 0 keeps all.")
    ] = 5.0,
    seed: Annotated[int, typer.Option(help="Of the samples of firings and tokens.")] = 0,
    compute_dtype: ComputeDtype = "auto",
    device: Device = "cpu",
    overwrite: Overwrite = False,
    json: Annotated[Path | None, typer.Option(help="Also write what was done as JSON to this file.")] = None,
    quiet: Annotated[bool, typer.Option("--quiet", help="No progress bar and no table.")] = False,
) -> None:
    """Read a text once and write everything that is shown of the latents into one file.

    Contexts, histograms, tokens, similar latents, a map: docs/guides/latent-store.md defines them.
    `expander-sae browse` shows the file, `expander-sae encode --labels` reads it too. An interrupted run goes
    on where it stopped.
    """
    from expander_sae.activations import ActivationStore, load_language_model, load_tokenizer
    from expander_sae.interop import read_sae
    from expander_sae.latents import LatentStore
    from expander_sae.latents.building import Settings, build_store, sources
    from expander_sae.pursuit import parse_reading

    from .evaluate import sae_names
    from .source import model_name

    if acts is None and not text:
        raise ExpanderSaeError("expected --acts FOLDER, --text SOURCE, or both; got neither")
    loaded: dict[str, Any] = {name: read_sae(folder).to(device) for name, folder in sae_names(saes).items()}
    for name, folder in sae_names(saes).items():
        loaded[name].folder = folder
    readings = None if reading is None else [parse_reading(one.strip()) for one in reading.split(",")]
    views = sources(loaded, readings)
    language_model, harvested = None, None
    if text:
        language_model, place = _model_of(loaded, model, layer, compute_dtype, device)
        harvested = acts or out.with_name(f".{out.name}.activations")
        store = _harvested(language_model, text, harvested, place, context, max_tokens, progress=not quiet)
        split = "train"
    else:
        assert acts is not None
        store = ActivationStore.open(acts)
        if model is not None and logit_lens:
            language_model = load_language_model(model, dtype=compute_dtype, device=device)
    build_store(
        views,
        store,
        out,
        tokenizer=(
            load_tokenizer(model_name(model, store.manifest["settings"]))
            if language_model is None
            else language_model.tokenizer
        ),
        model=language_model if logit_lens else None,
        settings=Settings(
            split=split,
            max_tokens=max_tokens,
            keep_special_tokens=keep_special_tokens,
            outlier_medians=outlier_medians or None,
            contexts=contexts,
            per_quantile=per_quantile,
            neighbours=neighbours,
            seed=seed,
        ),
        overwrite=overwrite,
        progress=not quiet,
    )
    if harvested is not None and acts is None:
        shutil.rmtree(harvested, ignore_errors=True)
    with LatentStore.open(out) as written:
        if json is not None:
            views_told = [view.as_dict() for view in written.views]
            write_json(json, {"file": str(out), "bytes": out.stat().st_size, **written.meta, "views": views_told})
        if not quiet:
            console = output(json, soft_wrap=False)
            console.print(_table(written))
            size = out.stat().st_size / 1e6
            live = "" if model is None else f" --model {model}"
            output(json).print(f"{size:,.1f} MB: {out}\nLook at it: expander-sae browse {out}{live}")


def _model_of(
    saes: dict[str, Any], model: str | None, layer: int | None, compute_dtype: str, device: str
) -> tuple[Any, int | str]:
    """The language model, and where in it the SAEs read."""
    from expander_sae.activations import load_language_model

    from .source import model_name

    trained_on = [sae.metadata.get("activations") or {} for sae in saes.values()]
    found = {one.get("module") or one.get("layer") for one in trained_on} if layer is None else {layer}
    place = found.pop() if len(found) == 1 else None
    if place is None:
        raise ExpanderSaeError(
            f"expected SAEs of one layer that is on record; got {', '.join(map(str, found)) or 'none'}. "
            "Give it with --layer."
        )
    name = model_name(model, trained_on[0])
    return load_language_model(name, dtype=compute_dtype, device=device), place


def _harvested(
    model: Any, text: list[str], folder: Path, place: int | str, context: int, max_tokens: int | None, *, progress: bool
) -> Any:
    """The activations of a text, all of it to be read."""
    from expander_sae.activations import harvest

    # A few more tokens than are read: first positions are left out.
    limit = None if max_tokens is None else 2 * max_tokens + context
    return harvest(
        model,
        text,
        folder,
        layer=place if isinstance(place, int) else None,
        module=None if isinstance(place, int) else place,
        context=context,
        max_tokens=limit,
        heldout_share=0.0,
        progress=progress,
    )


def _table(store: Any) -> Table:
    drawn = Table(
        title=f"Latents on {store.meta['tokens']:,} tokens of {store.meta['documents']:,} documents",
        box=box.SIMPLE_HEAD,
        padding=(0, 1, 0, 0),
    )
    drawn.add_column("view", overflow="fold")
    for heading in ("latents", "dead", "FVU"):
        drawn.add_column(heading, justify="right")
    for view in store.views:
        fvu = "" if view.fvu is None else f"{view.fvu:.3f}"
        drawn.add_row(view.name, f"{view.n_latents:,}", f"{view.dead:,}", fvu)
    return drawn
