"""`expander-sae probe`: trained SAEs and held-out activations in; how well their latents tell concepts out."""

from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer
from rich import box
from rich.table import Table

from expander_sae.records import NULLS, ExpanderSaeError, ProbeRecord, Provenance, check_provenance, write_json
from expander_sae.records.progress import Bars

from .console import output
from .options import ComputeDtype, Device, Json, KeepSpecialTokens, Quiet
from .probe_texts import Texts, probe_texts, read_saes
from .probe_words import probe_words

_SELECTIONS = ("standardised", "mean difference")


_RUNS = {"layer", "device", "compute_dtype"}
_ONLY = {
    "acts": {"max_tokens", "split", "selection", "nulls", "keep_special_tokens"},
    "labelled": {"nulls", "keep_special_tokens", "context", "train_texts", "test_texts", "auc", "perturb", *_RUNS},
    "first_letters": {"max_words", *_RUNS},
}
"""Options that only some sources of concepts have."""


def probe(
    ctx: typer.Context,
    saes: Annotated[
        list[Path], typer.Argument(help="Folders of one or more trained SAEs, of this package or of another library.")
    ],
    acts: Annotated[
        Path | None,
        typer.Option(help="Folder of activations that `expander-sae harvest` wrote: concepts are read off its text."),
    ] = None,
    labelled: Annotated[
        str | None,
        typer.Option(
            help="Or texts with labels, as SAEBench: a .jsonl file of text and label, a folder with a folder of .txt "
            "files for each class, or one of SAEBench's sets on the hub."
        ),
    ] = None,
    first_letters: Annotated[
        bool,
        typer.Option(
            "--first-letters",
            help="Or words of the model's vocabulary: how much of their first letter is absorbed by other latents.",
        ),
    ] = False,
    max_words: Annotated[int, typer.Option(help="With --first-letters: words that are asked.")] = 4000,
    model: Annotated[
        str | None,
        typer.Option(
            help="Language model: folder or hub id. Of activations its tokenizer is read, on labelled texts it runs.",
            show_default="the one harvested",
        ),
    ] = None,
    inference: Annotated[
        str | None,
        typer.Option(
            help="How codes are read, one or more with commas: encoder, refit, stages:T, omp, and so on; see "
            "docs/concepts/readings.md.",
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
    layer: Annotated[
        int | None,
        typer.Option(
            help="Block whose stream the SAEs explain, counted from 0.",
            show_default="the one they were trained on",
        ),
    ] = None,
    context: Annotated[int, typer.Option(help="With --labelled: tokens read of each text.")] = 128,
    train_texts: Annotated[int, typer.Option(help="With --labelled: texts of a task to fit on, half of the class.")] = (
        4000
    ),
    test_texts: Annotated[int, typer.Option(help="With --labelled: texts of a task to test on.")] = 1000,
    auc: Annotated[
        bool,
        typer.Option("--auc", help="With --labelled: also probes on 16 to 128 latents, as sae-probes; takes minutes."),
    ] = False,
    perturb: Annotated[
        bool,
        typer.Option(
            "--perturb",
            help="With --labelled: also what probes of the stream lose without a few latents (TPP; SCR where texts "
            "have an attribute).",
        ),
    ] = False,
    device: Device = "cpu",
    compute_dtype: ComputeDtype = "auto",
    seed: Annotated[int, typer.Option(help="Of the halves of the text, the draw of concepts and the nulls.")] = 0,
    json: Json = None,
    quiet: Quiet = False,
) -> None:
    """Say how well the best latents of trained SAEs tell concepts, beside an untrained dictionary, Expander SAEs with
    shuffled rows or random values, raw coordinates, principal components and shuffled labels.

    A dictionary whose latents mean something is ahead of all of these; docs/concepts/meaning.md says what is measured.
    """
    _check_options(ctx, {"acts": acts is not None, "labelled": labelled is not None, "first_letters": first_letters})
    if first_letters:
        probe_words(
            saes, model, inference, layer=layer, max_words=max_words, seed=seed, device=device,
            compute_dtype=compute_dtype, json=json, quiet=quiet,
        )  # fmt: skip
        return
    if labelled is not None:
        probe_texts(
            saes, labelled, model, inference, Texts(layer, context, train_texts, test_texts, keep_special_tokens, seed),
            nulls=nulls, auc=auc, perturb=perturb, device=device, compute_dtype=compute_dtype, json=json, quiet=quiet,
        )  # fmt: skip
        return
    assert acts is not None
    from expander_sae.activations import ActivationStore, load_tokenizer  # torch takes seconds to import
    from expander_sae.activations.tokens import tokenizer_hash
    from expander_sae.evaluation.meaning import prepare
    from expander_sae.evaluation.meaning import probe as run
    from expander_sae.evaluation.nulls import SAMPLE

    from .source import model_name

    if selection not in _SELECTIONS:
        raise ExpanderSaeError(f"expected --selection out of {', '.join(_SELECTIONS)}; got {selection!r}")
    store = ActivationStore.open(acts)
    loaded = read_saes(saes, inference)
    settings = store.manifest["settings"]
    mismatches = {name: check_provenance(name, sae, Provenance.of_settings(settings)) for name, sae in loaded.items()}
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
    records = [replace(record, mismatches=mismatches.get(record.name)) for record in records]
    if json is not None:
        write_json(json, [record.to_dict() for record in records])
    if not quiet:
        output(json, soft_wrap=False).print(table(records))


def _check_options(ctx: typer.Context, sources: dict[str, bool]) -> None:
    """One source of concepts, and no option of another."""
    named = [_option(name) for name, given in sources.items() if given]
    if len(named) != 1:
        raise ExpanderSaeError(
            f"expected one of --acts, --labelled and --first-letters; got {' and '.join(named) or 'none'}"
        )
    source = next(name for name, given in sources.items() if given)
    wrong = [
        _option(name)
        for name in sorted(set().union(*_ONLY.values()) - _ONLY[source])
        if getattr(ctx.get_parameter_source(name), "name", "") == "COMMANDLINE"
    ]
    if wrong:
        raise ExpanderSaeError(f"expected options that {named[0]} has; got {', '.join(wrong)}")


def _option(name: str) -> str:
    return "--" + name.replace("_", "-")


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
    for heading in ("broad,\nbest 1", "best 5", "shuf-\nfled", "narrow", "above\n.5", "latents", "density", "kept"):
        drawn.add_column(heading, justify="right")
    nulls = False
    for record in records:
        if record.kind in NULLS and not nulls:
            nulls = True
            drawn.add_section()
        drawn.add_row(
            record.name,
            *(f"{value:.3f}" for value in (record.f1_1, record.f1_5, record.shuffled_f1_1, record.narrow_f1)),
            f"{record.narrow_above_half:.0%}",
            str(record.covering_latents),
            f"{record.density:.4f}",
            "" if record.support_kept is None else f"{record.support_kept:.0%}",
        )
    return drawn
