"""`expander-sae probe`: trained SAEs and held-out activations in; how well their latents tell concepts out."""

from pathlib import Path
from typing import Annotated, Any

import typer
from rich import box
from rich.table import Table

from expander_sae.records import ExpanderSaeError, ProbeRecord, write_json
from expander_sae.records.progress import Bars

from .console import output
from .options import Json, KeepSpecialTokens, Quiet

_SELECTIONS = ("standardised", "mean difference")


def probe(
    saes: Annotated[
        list[Path], typer.Argument(help="Folders of one or more trained SAEs, of this package or of another library.")
    ],
    acts: Annotated[Path, typer.Option(help="Folder of activations that `expander-sae harvest` wrote.")],
    model: Annotated[
        str | None,
        typer.Option(
            help="Language model whose tokenizer made the text: folder or hub id.", show_default="the one harvested"
        ),
    ] = None,
    inference: Annotated[
        str | None,
        typer.Option(
            help="How codes are read, one or more with commas: encoder, refit, stages:T, omp, and so on; see "
            "docs/pursuit.md.",
            show_default="the SAE's own",
        ),
    ] = None,
    max_tokens: Annotated[
        int | None, typer.Option(help="Probe on the first so many tokens only.", show_default="all")
    ] = None,
    split: Annotated[str, typer.Option(help="Side of the document split to probe on: heldout or train.")] = "heldout",
    selection: Annotated[
        str,
        typer.Option(
            help="How the latents of a probe are chosen: standardised (difference of means over the standard "
            "deviation) or 'mean difference' (as SAEBench)."
        ),
    ] = "standardised",
    nulls: Annotated[
        bool, typer.Option("--nulls/--no-nulls", help="Probe what was never trained as well, or not.")
    ] = True,
    keep_special_tokens: KeepSpecialTokens = False,
    seed: Annotated[int, typer.Option(help="Of the halves of the text, the draw of concepts and the nulls.")] = 0,
    json: Json = None,
    quiet: Quiet = False,
) -> None:
    """Say how well the best latents of trained SAEs tell concepts, beside an untrained dictionary, Expander SAEs with
    shuffled rows or random values, raw coordinates, principal components and shuffled labels.

    A dictionary whose latents mean something is ahead of all of these; docs/meaning.md says what is measured.
    """
    from expander_sae.activations import ActivationStore, load_tokenizer  # torch takes seconds to import
    from expander_sae.activations.tokens import tokenizer_hash
    from expander_sae.evaluation.meaning import prepare
    from expander_sae.evaluation.meaning import probe as run
    from expander_sae.evaluation.meaning.probe import SAMPLE
    from expander_sae.interop import read_sae

    from .evaluate import read_otherwise, sae_names
    from .source import model_name

    if selection not in _SELECTIONS:
        raise ExpanderSaeError(f"expected --selection out of {', '.join(_SELECTIONS)}; got {selection!r}")
    store = ActivationStore.open(acts)
    loaded: dict[str, Any] = read_otherwise({n: read_sae(f) for n, f in sae_names(saes).items()}, inference)
    settings = store.manifest["settings"]
    tokenizer = load_tokenizer(model_name(model, settings))
    if settings.get("tokenizer_sha256") not in (None, tokenizer_hash(tokenizer)):
        raise ExpanderSaeError(
            f"expected the tokenizer that the activations in {acts} were harvested with; got another one. Give the "
            "language model they came from with --model."
        )
    probed = prepare(
        store, tokenizer, split=split, max_tokens=max_tokens, keep_special_tokens=keep_special_tokens, seed=seed
    )
    with Bars("Probing", show=not quiet) as bars:
        bar = bars.begin("dictionaries", None)
        records = run(
            loaded,
            probed,
            store.sample("train", SAMPLE, seed=0),
            selection=selection,
            nulls=nulls,
            seed=seed,
            say=lambda _name: bars.advance(bar, 1),
        )
    if json is not None:
        write_json(json, [record.to_dict() for record in records])
    if not quiet:
        output(json, soft_wrap=False).print(table(records))


def table(records: list[ProbeRecord]) -> Table:
    """One row for each dictionary and null; fits 80 columns."""
    first = records[0]
    drawn = Table(
        title=f"F1 of the best latents on {first.tokens:,} tokens of {first.documents} documents: "
        f"{first.broad_concepts} broad concepts, {first.narrow_concepts} narrow ones",
        box=box.SIMPLE_HEAD,
        padding=(0, 1, 0, 0),
    )
    drawn.add_column("dictionary", overflow="fold")
    for heading in ("broad,\nbest 1", "best 5", "shuf-\nfled", "narrow", "above\n.5", "latents", "density"):
        drawn.add_column(heading, justify="right")
    nulls = False
    for record in records:
        if record.kind in ("half untrained", "untrained", "coordinates") and not nulls:
            nulls = True
            drawn.add_section()
        drawn.add_row(
            record.name,
            *(f"{value:.3f}" for value in (record.f1_1, record.f1_5, record.shuffled_f1_1, record.narrow_f1)),
            f"{record.narrow_above_half:.0%}",
            str(record.covering_latents),
            f"{record.density:.4f}",
        )
    return drawn
