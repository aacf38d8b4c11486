"""Options that several verbs have, each written once."""

from pathlib import Path
from typing import Annotated

import typer

Activations = Annotated[Path, typer.Argument(help="Folder of activations that `expander-sae harvest` wrote.")]
FeatureStore = Annotated[Path, typer.Argument(help="Feature store that `expander-sae features` wrote.")]

K = Annotated[int, typer.Option("--k", help="Active latents per token.")]
Expansion = Annotated[int, typer.Option(help="Latents as a multiple of the activations' width.")]
NLatents = Annotated[int | None, typer.Option(help="Latents, instead of --expansion.")]
Preset = Annotated[
    str,
    typer.Option(
        "--preset",
        "--goal",
        help="meaning: latents that tell concepts (columns start on many rows, and the encoder is trained too; "
        "docs/concepts/meaning.md); fidelity: the least variance left unexplained, by pursuit from random columns; or "
        "paper: the recipe of arXiv 2607.01799 (its training, signed TopK, latent bias, uniform masks, all tokens "
        "kept, spliced everywhere). Options that are given stand above it.",
    ),
]
Tokens = Annotated[
    int | None, typer.Option(help="Training tokens of each SAE, counting repeats.", show_default="the preset's")
]
BatchSize = Annotated[int | None, typer.Option(help="Training tokens per step.", show_default="the preset's")]
LearningRate = Annotated[float | None, typer.Option(help="Peak learning rate.", show_default="the preset's")]
Stages = Annotated[
    int | None,
    typer.Option(
        help="How Expander SAEs find codes: 0 is the one-shot TopK encoder; T is block orthogonal matching pursuit in "
        "T stages, which also lets training move the dictionary's entries to better rows.",
        show_default="the preset's: 8, in paper 0",
    ),
]
Spare = Annotated[
    int | None,
    typer.Option(
        help="Columns each of those stages picks beyond its share and drops again.",
        show_default="the preset's: two for each it adds, in paper 0",
    ),
]
Irregular = Annotated[
    bool | None,
    typer.Option(
        "--irregular/--regular",
        help="Let columns have different numbers of non-zeros, `degree` on the average, at most 8 degree + 8 "
        "(4 degree + 4 by fidelity); or the same number in all of them, which the certificates need.",
        show_default="the preset's: yes in meaning, otherwise no",
    ),
]
Signed = Annotated[
    bool | None,
    typer.Option(
        "--signed/--no-signed",
        help="TopK without a ReLU, codes may be negative.",
        show_default="the preset's: no, in paper yes",
    ),
]
SpecialTokens = Annotated[
    bool | None,
    typer.Option(
        "--keep-special-tokens/--no-keep-special-tokens",
        help="Take first positions and special tokens too.",
        show_default="the preset's: no, in paper yes",
    ),
]
"""Of the verbs with a preset."""
KeepSpecialTokens = Annotated[
    bool, typer.Option("--keep-special-tokens", help="Take first positions and special tokens too.")
]

Model = Annotated[
    str | None,
    typer.Option(help="Language model for the cross entropy: folder or hub id.", show_default="the one harvested"),
]
CrossEntropy = Annotated[
    bool, typer.Option("--ce/--no-ce", help="Run the language model for the cross-entropy metrics, or not.")
]
CrossEntropyTokens = Annotated[
    int, typer.Option(help="Predicted tokens for the cross entropy, spread over the held-out text; 0 for all.")
]
ProbeTokens = Annotated[
    int,
    typer.Option(
        help="Held-out tokens on which latents are probed for concepts, beside what was never trained "
        "(docs/concepts/meaning.md); 0 leaves that out, as --no-ce does."
    ),
]
MaxTokens = Annotated[int | None, typer.Option(help="Evaluate on the first so many tokens only.", show_default="all")]
EncodedAtOnce = Annotated[int, typer.Option(help="Tokens encoded at once.")]
ComputeDtype = Annotated[
    str,
    typer.Option(
        help="What the language model computes in: bfloat16, float32, or auto (bfloat16 where the hardware has it)."
    ),
]


def _usable(device: str) -> str:
    """The device, if there is one: before hours of work, not after."""
    if device != "cpu":
        from expander_sae.ops.backends import check_device  # torch takes seconds to import

        check_device(device)
    return device


Device = Annotated[
    str, typer.Option(help="Where the language model and the SAEs are: cpu, cuda, ...", callback=_usable)
]

Json = Annotated[Path | None, typer.Option(help="Also write the records as JSON to this file.")]
Overwrite = Annotated[
    bool, typer.Option("--overwrite", help="Replace what is there already; without it finished work is left as it is.")
]
Quiet = Annotated[bool, typer.Option("--quiet", help="No progress bar and no table.")]
