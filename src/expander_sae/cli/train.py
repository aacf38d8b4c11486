"""`expander-sae train`: one or more SAEs on harvested activations, in one pass."""

from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table

from expander_sae.records import ExpanderSaeError, write_json

from .console import errors, output
from .frontier import integers
from .options import (
    Activations,
    BatchSize,
    Device,
    Expansion,
    Irregular,
    Json,
    K,
    LearningRate,
    NLatents,
    Overwrite,
    Preset,
    Quiet,
    Signed,
    Spare,
    SpecialTokens,
    Stages,
    Tokens,
)


def train(
    ctx: typer.Context,
    activations: Activations,
    out: Annotated[Path, typer.Option(help="Folder for the SAEs, one each. The same command again goes on there.")],
    degree: Annotated[str, typer.Option(help="Non-zeros per column (the paper's d); several with commas.")] = "7",
    dense: Annotated[bool, typer.Option("--dense", help="Also train a dense TopK SAE of the same size.")] = False,
    k: K = 32,
    expansion: Expansion = 8,
    n_latents: NLatents = None,
    construction: Annotated[
        str | None,
        typer.Option(
            help="How the mask is made: balanced, uniform, repaired (uniform, no row empty) or clustered.",
            show_default="the preset's: balanced, in paper repaired",
        ),
    ] = None,
    preset: Preset = "meaning",
    tokens: Tokens = None,
    batch_size: BatchSize = None,
    learning_rate: LearningRate = None,
    seed: Annotated[int, typer.Option(help="Of the mask, the initial values and the order of the data.")] = 0,
    stages: Stages = None,
    spare: Spare = None,
    irregular: Irregular = None,
    signed: Signed = None,
    latent_bias: Annotated[
        bool | None,
        typer.Option(
            "--latent-bias/--no-latent-bias",
            help="Learn one bias per latent.",
            show_default="the preset's: no, in paper yes",
        ),
    ] = None,
    flatness: Annotated[
        float | None,
        typer.Option(help="Keep the magnitudes of every column within this factor, by projections in the last steps."),
    ] = None,
    coherence: Annotated[
        float, typer.Option(help="Weight of a penalty on the largest inner products of the columns; 0: none.")
    ] = 0.0,
    row_cap: Annotated[
        float | None,
        typer.Option(help="Where entries move: no row gets more columns than this many times the mean."),
    ] = None,
    keep_special_tokens: SpecialTokens = None,
    accumulate: Annotated[
        int, typer.Option(help="Sum the gradients of so many pieces of a batch before a step, to save memory.")
    ] = 1,
    device: Device = "cpu",
    overwrite: Overwrite = False,
    json: Json = None,
    quiet: Quiet = False,
) -> None:
    """Train Expander SAEs on harvested activations.

    All SAEs of one command see the same batches. Ctrl-C leaves a checkpoint; the same command goes on from it. What is
    finished is not done again, unless by --overwrite. Started by torchrun, every rank takes a share of each batch
    (docs/guides/scaling.md).
    """
    from expander_sae.activations import ActivationStore  # torch takes seconds to import
    from expander_sae.distributed import started
    from expander_sae.saes import AbstractSae, DenseTopKSae, ExpanderSae, IrregularSae
    from expander_sae.training import Coherence, Flatness, StoreBatches, find_preset, heldout_sample
    from expander_sae.training import train as run

    chosen = find_preset(preset).obeying(
        tokens=tokens,
        batch_size=batch_size,
        learning_rate=learning_rate,
        signed=signed,
        latent_bias=latent_bias,
        construction=construction,
        stages=stages,
        spare=spare,
        keep_special_tokens=keep_special_tokens,
        irregular=irregular,
    )
    moves = chosen.training.move_supports
    if moves is None and row_cap is not None:
        raise ExpanderSaeError(f"expected no --row-cap beside --preset {preset}, by which no entry moves; got it")
    if chosen.irregular and moves is None and chosen.training.anneal is None:
        raise ExpanderSaeError(
            f"expected no --irregular beside --preset {preset}, by which no entry moves or goes; got it"
        )
    config = replace(
        chosen.training,
        seed=seed,
        flatness=None if flatness is None else Flatness(flatness),
        coherence=Coherence(coherence) if coherence else None,
        move_supports=None if moves is None else replace(moves, row_cap=row_cap),
    )
    ranks, device = ctx.with_resource(started(device))
    store = ActivationStore.open(activations)
    shared: dict[str, Any] = {
        "d_in": store.d_in,
        "n_latents": expansion * store.d_in if n_latents is None else n_latents,
        "k": k,
        "seed": seed,
        "signed": chosen.signed,
        "latent_bias": chosen.latent_bias,
    }
    reading = chosen.reading.sized(k, shared["n_latents"])
    if chosen.irregular and chosen.training.anneal is None and not reading.least_squares:
        raise ExpanderSaeError("expected --stages above 0 beside --irregular; got 0, by which no entries move")
    saes: dict[str, AbstractSae] = {}
    most = 4 if chosen.training.anneal is None else 8  # where entries move there must be rows to move to
    for d in integers(degree, "--degree"):
        given = {**shared, "reading": reading, "construction": chosen.construction}
        if chosen.irregular:
            # By the name of what was asked for, as in the verb `frontier`.
            saes[f"{'irregular' if irregular else 'expander'}-d{d}"] = IrregularSae.averaging(d, **given, most=most)
        else:
            saes[f"expander-d{d}"] = sae = ExpanderSae(**given, degree=d)
            if chosen.dense_draw:
                sae.draw_as_dense()
    if dense:
        saes["dense"] = DenseTopKSae(**shared)
    saes = {name: sae.to(device) for name, sae in saes.items()}
    kept = chosen.keep_special_tokens
    stream = StoreBatches(store, config, keep_special_tokens=kept)
    heldout = heldout_sample(store, config, keep_special_tokens=kept)
    records = run(
        saes,
        stream,
        config,
        folder=out,
        progress=not quiet,
        heldout=heldout,
        overwrite=overwrite,
        say=errors().print if ranks.first else lambda _text: None,
        ranks=ranks,
        accumulate=accumulate,
    )
    if json is not None and ranks.first:
        write_json(json, [record.to_dict() for record in records.values()])
    if not quiet and ranks.first:
        table = Table(title=f"Trained in {out}", caption="fvu and dead on the last batch and window of training")
        for column in ("SAE", "learned values", "tokens", "fvu", "dead", "tokens/s"):
            table.add_column(column, justify="left" if column == "SAE" else "right")
        for name, record in records.items():
            table.add_row(
                name,
                f"{saes[name].learned_values():,}",
                f"{record.tokens:,}",
                "diverged" if record.diverged else f"{record.final_fvu:.3f}",
                f"{record.final_dead_fraction:.1%}",
                f"{record.tokens_per_second:,.0f}",
            )
        output(json, soft_wrap=False).print(table)
    diverged = [name for name, record in records.items() if record.diverged]
    if diverged and ranks.first:
        raise ExpanderSaeError(f"{', '.join(diverged)} diverged and was not saved. Lower --learning-rate.")
