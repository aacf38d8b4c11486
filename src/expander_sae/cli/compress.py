"""`expander-sae compress`: a trained dense SAE in, an Expander SAE of the same latents out."""

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich import box
from rich.table import Table

from expander_sae.records import ExpanderSaeError, write_json
from expander_sae.records.locks import alone_in
from expander_sae.records.metrics import METRIC

from .console import output
from .options import ComputeDtype, CrossEntropy, CrossEntropyTokens, MaxTokens, Model, Overwrite, Quiet

if TYPE_CHECKING:
    from expander_sae.compression import CompressionRecord

RECORD, LATENTS = "compression.json", "latents.safetensors"
_METRICS = [METRIC[name] for name in ("fvu", "delta_ce", "ce_recovered_zero", "ce_recovered_mean")]


def compress(
    dense: Annotated[Path, typer.Argument(help="A trained dense SAE: ours, SAELens's, sparsify's, ...")],
    acts: Annotated[Path, typer.Option(help="Folder of activations that `expander-sae harvest` wrote.")],
    out: Annotated[Path, typer.Option(help="Folder for the SAE, its records and the fate of each latent.")],
    degree: Annotated[str, typer.Option(help="Non-zeros kept per column, or auto for the smallest that will do.")],
    target_retention: Annotated[
        float, typer.Option(help="For --degree auto: share of the dense SAE's --target-metric to keep.")
    ] = 0.95,
    target_metric: Annotated[
        str, typer.Option(help="ce_recovered (both forms; runs the language model) or explained_variance.")
    ] = "ce_recovered",
    support: Annotated[
        str, typer.Option(help="Which rows a column keeps: magnitude, balanced or error; see docs/guides/compress.md.")
    ] = "error",
    encoder: Annotated[
        str | None,
        typer.Option(
            help="pursuit: read by block pursuit, reconstructs best. own: a separate encoder, trained to fire "
            "where the dense SAE fired, so that labels of latents hold best. both: one dictionary trained for either "
            "reading, entries given up little by little: keeps most of what latents tell.",
            show_default="both; pursuit with --support or --tokens 0",
        ),
    ] = None,
    regular: Annotated[
        bool, typer.Option("--regular", help="With both: as many entries in every column, as the certificates need.")
    ] = False,
    stages: Annotated[int | None, typer.Option(help="Stages of the pursuit.", show_default="8")] = None,
    spare: Annotated[
        int | None,
        typer.Option(
            help="Columns each of those stages picks beyond its share and drops again.",
            show_default="two for each it adds, 0 with both",
        ),
    ] = None,
    row_cap: Annotated[
        float, typer.Option(help="Most columns on a row, times the mean, for --support balanced.")
    ] = 4.0,
    tokens: Annotated[int, typer.Option(help="Activations seen in fine-tuning; 0 for none.")] = 400_000,
    batch_size: Annotated[int, typer.Option(help="Tokens per step.")] = 1024,
    learning_rate: Annotated[
        float | None,
        typer.Option(
            help="Peak of fine-tuning; lower stays nearer to the original directions.",
            show_default="5e-3; 2e-3 with own, 1e-2 with both",
        ),
    ] = None,
    k: Annotated[
        int | None, typer.Option("--k", help="Active latents per token.", show_default="the dense SAE's")
    ] = None,
    inference: Annotated[
        str | None, typer.Option(help="Also measure it read by these, with commas; see docs/concepts/readings.md.")
    ] = None,
    model: Model = None,
    ce: CrossEntropy = True,
    ce_tokens: CrossEntropyTokens = 16_384,
    max_tokens: MaxTokens = None,
    compute_dtype: ComputeDtype = "auto",
    seed: Annotated[int, typer.Option(help="Order of the activations.")] = 0,
    overwrite: Overwrite = False,
    json: Annotated[Path | None, typer.Option(help="Also write the record as JSON to this file.")] = None,
    quiet: Quiet = False,
) -> None:
    """Compress a dense SAE and say what became of it: latent j stays latent j, so labels keep their numbers.

    Writes OUT/expander-dDEGREE with compression.json (every metric before and after) and latents.safetensors (cosine
    and agreement of firing, per latent) in it. The same command goes on after an interruption.
    """
    from expander_sae.activations import ActivationStore, load_language_model  # torch takes seconds to import
    from expander_sae.compression import (
        CompressionRecord,
        Recipe,
        Target,
        describe_source,
        measure,
        smallest_degree,
        write_latents,
    )
    from expander_sae.compression import compress as run
    from expander_sae.interop import read_sae
    from expander_sae.pursuit import in_stages, parse_reading

    from .source import model_name

    target = Target(target_retention, target_metric)
    store = ActivationStore.open(acts)
    loaded: Any = read_sae(dense)
    if loaded.dictionary().rows is not None:
        raise ExpanderSaeError(f"expected a dense SAE to compress in {dense}; got a sparse one")
    language_model = None
    if ce:
        name = model_name(model, store.manifest["settings"])
        language_model = load_language_model(name, dtype=compute_dtype)
    elif degree == "auto" and target_metric == "ce_recovered":
        raise ExpanderSaeError(
            "expected --ce with --target-metric ce_recovered; got --no-ce. Or take explained_variance."
        )
    source = describe_source(dense, loaded)
    readings = [parse_reading(part.strip()) for part in (inference or "").split(",") if part.strip()]
    found: dict[int, CompressionRecord] = {}

    def at(chosen: int) -> float:
        recipe = Recipe(
            degree=chosen,
            support=support,
            encoder=encoder,
            regular=regular,
            row_cap=row_cap,
            tokens=tokens,
            batch_size=batch_size,
            learning_rate=learning_rate,
            k=k,
            seed=seed,
        )
        assert recipe.reading is not None
        recipe = replace(recipe, reading=in_stages(recipe.reading, stages, spare))
        sae = run(loaded, store, recipe, folder=out, source=source, progress=not quiet, overwrite=overwrite)
        record = measure(
            loaded,
            sae,
            store,
            readings=readings,
            language_model=language_model,
            ce_tokens=ce_tokens or None,
            max_tokens=max_tokens,
            progress=not quiet,
        )
        found[chosen] = record
        folder = out / f"expander-d{chosen}"
        write_json(folder / RECORD, record.to_dict())
        write_latents(record, folder / LATENTS)
        return target.kept(record.dense, next(iter(record.compressed.values()))) if degree == "auto" else 1.0

    with alone_in(out, "compression", "compresses an SAE"):
        if degree == "auto":
            chosen = smallest_degree(at, target_retention, store.d_in)
        else:
            chosen = _number(degree)
            at(chosen)
    if json is not None:
        write_json(json, {"degree": chosen, "searched": sorted(found), **found[chosen].to_dict()})
    if not quiet:
        console = output(json, soft_wrap=False)
        for one in sorted(found):
            console.print(table(found[one]))
        output(json).print(f"{out / f'expander-d{chosen}'}")


def _number(degree: str) -> int:
    if not degree.isdecimal():
        raise ExpanderSaeError(f"expected --degree as a number or auto; got {degree!r}")
    return int(degree)


def table(record: "CompressionRecord") -> Table:
    """Before and after, one line for each way of reading."""
    title = f"degree {record.recipe['degree']}, support {record.recipe['support']}, {record.dense.tokens:,} tokens"
    drawn = Table(title=title, box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False)
    drawn.add_column("SAE read by", no_wrap=True)
    for heading in ("KiB", *(metric.short for metric in _METRICS), "firing\nF1", "median\nF1", "cosine"):
        drawn.add_column(heading, justify="right")
    lines = [("dense", record.dense, None)]
    lines += [(name, one, record.latents[name]) for name, one in record.compressed.items()]
    for name, one, latents in lines:
        kib = None if one.bytes_on_disk is None else one.bytes_on_disk / 1024
        cells = [metric.text(getattr(one, metric.name)) for metric in _METRICS]
        numbers = (
            [None] * 3
            if latents is None
            else [latents["f1_micro"], latents["f1"]["median"], latents["cosine"]["median"]]
        )
        cells += ["–" if value is None else f"{value:.3f}" for value in numbers]
        drawn.add_row(name, "–" if kib is None else f"{kib:,.0f}", *cells)
    return drawn
