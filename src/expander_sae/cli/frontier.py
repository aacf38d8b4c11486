"""`expander-sae frontier`: activations in; many SAEs, their records, figures and a report out."""

import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich import box
from rich.table import Table

from expander_sae.frontier.families import controls_in_words
from expander_sae.records import ExpanderSaeError, write_json
from expander_sae.records.metrics import QUALITY

from .console import output
from .options import (
    Activations,
    BatchSize,
    ComputeDtype,
    CrossEntropy,
    CrossEntropyTokens,
    Device,
    Expansion,
    Irregular,
    K,
    LearningRate,
    MaxTokens,
    Model,
    NLatents,
    Preset,
    ProbeTokens,
    Quiet,
    Signed,
    Spare,
    SpecialTokens,
    Stages,
    Tokens,
)

if TYPE_CHECKING:
    from expander_sae.frontier import Frontier


def frontier(
    acts: Activations,
    out: Annotated[Path, typer.Option(help="Folder for SAEs, records, figures and report; a rerun goes on there.")],
    degrees: Annotated[
        str, typer.Option(help="Non-zeros per column of the Expander SAEs, with commas between them.")
    ] = "4,7,16,32,64",
    controls: Annotated[
        str,
        typer.Option(
            help=f"What to compare with, with commas: {controls_in_words()}; or none. "
            "docs/developers/experiments.md says what each is.",
        ),
    ] = "dense,matched",
    k: K = 32,
    expansion: Expansion = 8,
    n_latents: NLatents = None,
    seeds: Annotated[
        str, typer.Option(help="Seeds, with commas; one SAE of each kind for each. Three at least for a claim.")
    ] = "0",
    preset: Preset = "meaning",
    tokens: Tokens = None,
    batch_size: BatchSize = None,
    learning_rate: LearningRate = None,
    stages: Stages = None,
    spare: Spare = None,
    inference: Annotated[
        str,
        typer.Option(
            help="Also read every SAE by these, with commas, for the figure of quality against speed: encoder, refit, "
            "stages:T, omp, warm:M, nnomp, mp, gradient, cosamp, niht; see docs/concepts/readings.md."
        ),
    ] = "",
    irregular: Irregular = None,
    signed: Signed = None,
    keep_special_tokens: SpecialTokens = None,
    model: Model = None,
    ce: CrossEntropy = True,
    ce_tokens: CrossEntropyTokens = 16_384,
    probe_tokens: ProbeTokens = 20_000,
    max_tokens: MaxTokens = None,
    splice: Annotated[
        str | None,
        typer.Option(
            help="ordinary or everywhere; see `expander-sae eval --help`.",
            show_default="the preset's: ordinary, in paper everywhere",
        ),
    ] = None,
    compute_dtype: ComputeDtype = "auto",
    device: Device = "cpu",
    json: Annotated[Path | None, typer.Option(help="Also write frontier.json to this file.")] = None,
    quiet: Quiet = False,
) -> None:
    """Train Expander SAEs over a range of degrees beside dense controls, evaluate all, and write a report.

    All SAEs of a seed see the same batches. Pieces that an earlier run finished are not done again. It is
    the experiment `frontier` in a folder of its own.
    """
    from expander_sae.activations import ActivationStore, load_language_model  # torch takes seconds to import
    from expander_sae.frontier.experiments import Context, Settings, find_experiment
    from expander_sae.frontier.results import from_dict

    from .report import all_pages
    from .source import model_name, model_note

    settings = Settings(
        preset=preset,
        degrees=tuple(integers(degrees, "--degrees")),
        k=k,
        expansion=expansion,
        n_latents=n_latents,
        seeds=tuple(integers(seeds, "--seeds")),
        tokens=tokens,
        batch_size=batch_size,
        learning_rate=learning_rate,
        stages=stages,
        spare=spare,
        irregular=irregular,
        signed=signed,
        keep_special_tokens=keep_special_tokens,
        splice=splice,
        max_tokens=max_tokens,
        ce_tokens=ce_tokens or None,
        options={"controls": words(controls), "readings": words(inference), "probe_tokens": probe_tokens},
    )
    console = output(json, quiet=quiet)
    store = ActivationStore.open(acts)
    # Before hours of training, not after: is there a model to evaluate with?
    name = model_name(model, store.manifest["settings"]) if ce else None
    about_model = None if name is None else model_note(name)
    context = Context(
        out,
        settings,
        shared=None,
        stores=[store],
        language_model=None if name is None else lambda: load_language_model(name, dtype=compute_dtype, device=device),
        device=device,
        command=shlex.join(["expander-sae", *sys.argv[1:]]),
        notes=[about_model] if about_model else [],
        progress=not quiet,
        say=lambda text: console.print(text),
    )
    found = from_dict(find_experiment("frontier").measure(context))
    if json is not None:
        write_json(json, found.to_dict())
    output(json, quiet=quiet, soft_wrap=False).print(table(found))
    console.print(f"Report: {all_pages(out)}")


def words(text: str) -> list[str]:
    """The parts between commas."""
    return [part.strip() for part in text.split(",") if part.strip()]


def integers(text: str, option: str) -> list[int]:
    """Whole numbers between commas.

    Raises:
        ExpanderSaeError: one is not a number.
    """
    try:
        return [int(part) for part in words(text)]
    except ValueError as error:
        raise ExpanderSaeError(f"expected whole numbers with commas between them for {option}; got {text!r}") from error


def table(found: "Frontier") -> Table:
    """The variants over their seeds, in the order of the report."""
    from expander_sae.frontier.results import in_order

    summaries = in_order(found.summaries())
    shown = [one for one in QUALITY if one.short and any(one.name in summary.metrics for summary in summaries)]
    title = f"k = {found.settings['k']}, seeds {found.settings['seeds']}; means over seeds"
    # Fits 80 columns; the report has the rest.
    drawn = Table(title=title, box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False)
    drawn.add_column("SAE", no_wrap=True)
    for heading in ("learned\nvalues", *(metric.short for metric in shown)):
        drawn.add_column(heading, justify="right")
    for number, summary in enumerate(summaries):
        found_of = [(metric, summary.metrics.get(metric.name)) for metric in shown]
        last = number + 1 == len(summaries) or summaries[number + 1].matched_degree != summary.matched_degree
        drawn.add_row(
            summary.variant,
            f"{summary.learned_values:,}",
            *(metric.text(None if spread is None else spread.mean) for metric, spread in found_of),
            end_section=last,
        )
    return drawn
