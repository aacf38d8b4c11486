"""`expander-sae experiment`: one question in; records, figures and a page out."""

import shlex
import sys
from pathlib import Path
from typing import Annotated

import typer
from rich import box
from rich.table import Table

from expander_sae.records import ExpanderSaeError

from .console import output
from .frontier import integers
from .options import (
    BatchSize,
    ComputeDtype,
    CrossEntropy,
    CrossEntropyTokens,
    Device,
    Irregular,
    LearningRate,
    MaxTokens,
    Model,
    NLatents,
    Preset,
    Stages,
    Tokens,
)


def experiment(
    name: Annotated[str | None, typer.Argument(help="Which experiment; --list shows all.")] = None,
    out: Annotated[
        Path | None,
        typer.Option(help="Folder for everything; reruns go on there, experiments share its SAEs."),
    ] = None,
    acts: Annotated[
        list[Path] | None,
        typer.Option(help="Folder of activations that `expander-sae harvest` wrote; several for a question on layers."),
    ] = None,
    recipe: Annotated[
        str | None,
        typer.Option(
            help="Harvest as a recipe says, into --out, and take its sizes: pythia-70m, pythia-160m, qwen2.5-3b, "
            "llama-3.2-1b, smollm2-135m, or a .toml file.",
            show_default="that of --model, if it has one and there is no --acts",
        ),
    ] = None,
    layer: Annotated[
        str | None,
        typer.Option(
            help="Layers to harvest by the recipe, with commas.",
            show_default="its first; all for the experiment layers",
        ),
    ] = None,
    text: Annotated[str | None, typer.Option(help="Text for the recipe, instead of its own.")] = None,
    wheels: Annotated[
        Path | None,
        typer.Option(
            help="Folder with the wheels that the recipe smollm2-135m is made of; see `expander-sae offline`.",
            show_default="the installed packages",
        ),
    ] = None,
    show: Annotated[bool, typer.Option("--list", help="Show every experiment and its question.")] = False,
    preset: Preset = "fidelity",
    degrees: Annotated[
        str | None, typer.Option(help="Degrees, with commas.", show_default="4,7,16,30,64,200, or the recipe's")
    ] = None,
    k: Annotated[
        int | None, typer.Option("--k", help="Active latents per token.", show_default="32, or the recipe's")
    ] = None,
    expansion: Annotated[
        int | None,
        typer.Option(help="Latents as a multiple of the activations' width.", show_default="8, or the recipe's"),
    ] = None,
    n_latents: NLatents = None,
    seeds: Annotated[str, typer.Option(help="Seeds, with commas; three at least for a claim.")] = "0,1,2",
    tokens: Tokens = None,
    batch_size: BatchSize = None,
    learning_rate: LearningRate = None,
    stages: Stages = None,
    irregular: Irregular = None,
    option: Annotated[
        list[str] | None,
        typer.Option("--set", help="NAME=VALUE of the experiment's own options, which --list shows; may be repeated."),
    ] = None,
    shared: Annotated[
        Path | None, typer.Option(help="Folder of SAEs that other runs trained.", show_default="saes in --out")
    ] = None,
    model: Model = None,
    ce: CrossEntropy = True,
    ce_tokens: CrossEntropyTokens = 16_384,
    max_tokens: MaxTokens = None,
    compute_dtype: ComputeDtype = "auto",
    device: Device = "cpu",
    quiet: Annotated[bool, typer.Option("--quiet", help="No progress bars.")] = False,
) -> None:
    """Run one experiment: write its records, figures and page to OUT/NAME, and bind all pages into OUT/report.html."""
    console = output(quiet=quiet)
    if show:
        output(quiet=quiet, soft_wrap=False).print(_all_experiments())
        return
    if name is None or out is None:
        raise ExpanderSaeError(
            "expected the name of an experiment and --out FOLDER; got only one of them. --list shows the names."
        )

    from expander_sae.activations import ActivationStore, load_language_model  # torch takes seconds to import
    from expander_sae.frontier.experiments import Settings, find_experiment, run_experiment
    from expander_sae.recipes import load_recipe, recipe_of

    from .report import all_pages
    from .source import model_name, model_note

    chosen = find_experiment(name)
    if recipe is not None:
        plan = load_recipe(recipe)
    else:  # a model of a recipe is enough, unless there are activations already
        plan = recipe_of(model) if model is not None and not acts and chosen.needs_activations else None
    if plan is None and (layer is not None or text is not None):
        raise ExpanderSaeError(
            "expected --layer and --text only beside --recipe or the --model of one; got them without. --acts says it "
            "all by itself."
        )
    defaults = plan or Settings()
    settings = Settings(
        preset=preset,
        degrees=defaults.degrees if degrees is None else tuple(integers(degrees, "--degrees")),
        k=defaults.k if k is None else k,
        expansion=defaults.expansion if expansion is None else expansion,
        n_latents=n_latents,
        seeds=tuple(integers(seeds, "--seeds")),
        tokens=tokens,
        batch_size=batch_size,
        learning_rate=learning_rate,
        stages=stages,
        irregular=irregular,
        max_tokens=max_tokens,
        ce_tokens=ce_tokens or None,
        options=chosen.read_options(_pairs(option or [])),
    )
    stores = [ActivationStore.open(folder) for folder in acts or []]
    if plan is not None and plan.offline and model is None and text is None:
        from expander_sae.activations import make_offline

        console.print("Model and text without a hub")
        made = make_offline(wheels, out / "offline")
        model, text = str(made.model), str(made.text)
    elif wheels is not None:
        raise ExpanderSaeError(
            "expected --wheels only beside --recipe smollm2-135m without --model and --text; got it elsewhere"
        )
    if plan is not None:
        own = plan.layers if chosen.every_layer else plan.layers[:1]
        layers = own if layer is None else integers(layer, "--layer")
        for number in layers:
            place = out / f"acts-{plan.name}-layer{number}"
            stores.append(plan.harvest(place, number, model=model, text=text, device=device, progress=not quiet))
        model = model or plan.model
    # Before hours of training, not after: is there a model to evaluate with?
    where = model_name(model, stores[0].manifest["settings"]) if ce and stores else None
    about_model = None if where is None else model_note(where)
    page = run_experiment(
        chosen,
        out,
        settings,
        stores=stores,
        language_model=None
        if where is None
        else lambda: load_language_model(where, dtype=compute_dtype, device=device),
        shared=shared,
        device=device,
        command=shlex.join(["expander-sae", *sys.argv[1:]]),
        notes=[about_model] if about_model else [],
        say=lambda text: console.print(text),
        progress=not quiet,
    )
    console.print(page.claim)
    console.print(f"Report: {all_pages(out)}")


def _pairs(texts: list[str]) -> dict[str, str]:
    pairs = [text.partition("=") for text in texts]
    wrong = [text for text, (_, sign, _) in zip(texts, pairs, strict=True) if not sign]
    if wrong:
        raise ExpanderSaeError(f"expected --set NAME=VALUE; got {wrong[0]!r}")
    return {name.strip(): value for name, _, value in pairs}


def _all_experiments() -> Table:
    from expander_sae.frontier.experiments import NAMES, find_experiment

    drawn = Table(box=box.SIMPLE_HEAD)
    for heading in ("experiment", "question", "needs", "--set"):
        drawn.add_column(heading, no_wrap=heading == "experiment")
    for name in NAMES:
        one = find_experiment(name)
        options = "\n".join(f"{key}={_text(value)}" for key, value in one.options.items())
        drawn.add_row(name, one.question, "activations" if one.needs_activations else "nothing", options)
    return drawn


def _text(value: object) -> str:
    return ",".join(map(str, value)) if isinstance(value, list | tuple) else str(value)
