"""`expander-sae amortise`: a trained SAE in, the same dictionary with an encoder of its own out."""

from pathlib import Path
from typing import Annotated

import typer

from expander_sae.records import ExpanderSaeError, write_json

from .console import errors, output
from .options import Device, Overwrite


def amortise(
    sae: Annotated[Path, typer.Argument(help="Folder of a trained Expander SAE that encodes by pursuit.")],
    activations: Annotated[Path, typer.Argument(help="Folder of activations that `expander-sae harvest` wrote.")],
    out: Annotated[Path, typer.Option(help="Folder for the SAE, under its old name.")],
    tokens: Annotated[int, typer.Option(help="Activations seen, counting repeats.")] = 400_000,
    batch_size: Annotated[int, typer.Option(help="Tokens per step.")] = 1024,
    learning_rate: Annotated[float, typer.Option(help="Peak learning rate.")] = 3e-3,
    seed: Annotated[int, typer.Option(help="Order of the activations.")] = 0,
    device: Device = "cpu",
    overwrite: Overwrite = False,
    json: Annotated[Path | None, typer.Option(help="Also write the training record as JSON to this file.")] = None,
    quiet: Annotated[bool, typer.Option("--quiet", help="No progress bar.")] = False,
) -> None:
    """Train a separate encoder, on the dictionary's rows, to predict the codes that pursuit finds.

    The dictionary does not change. Read the result with `--inference encoder`, `refit` or `warm:M`. Ctrl-C leaves a
    checkpoint; the same command goes on from it.
    """
    from expander_sae.activations import ActivationStore  # torch takes seconds to import
    from expander_sae.saes import ExpanderSae, load_sae
    from expander_sae.training import StoreBatches, TrainConfig, train, with_own_encoder

    loaded = load_sae(sae)
    if not isinstance(loaded, ExpanderSae) or loaded.kind != ExpanderSae.kind:
        article = "an" if loaded.kind[0] in "aeiou" else "a"
        raise ExpanderSaeError(f"expected an Expander SAE in {sae}; got {article} {loaded.kind} one")
    config = TrainConfig(
        tokens=tokens, batch_size=batch_size, learning_rate=learning_rate, seed=seed, revive=None, amortise=True
    )
    name = sae.resolve().name
    stream = StoreBatches(ActivationStore.open(activations), config)
    saes = {name: with_own_encoder(loaded).to(device)}
    records = train(saes, stream, config, folder=out, progress=not quiet, overwrite=overwrite, say=errors().print)
    record = records[name]
    if json is not None:
        write_json(json, record.to_dict())
    if record.diverged:
        raise ExpanderSaeError("training the encoder diverged and it was not saved. Lower --learning-rate.")
    if not quiet:
        output(json).print(
            f"{out / name}: fvu {record.final_fvu:.3f} by one pass of the encoder, on the last batch", soft_wrap=True
        )
