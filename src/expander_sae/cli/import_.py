"""`expander-sae import`: another library's SAE in, one of ours out."""

from pathlib import Path
from typing import Annotated

import typer

from expander_sae.records import ExpanderSaeError, write_json

from .console import output
from .options import Overwrite
from .results import write_result


def import_(
    path: Annotated[
        Path, typer.Argument(help="Folder or file of one SAE: SAELens, sparsify, dictionary_learning or OpenAI.")
    ],
    out: Annotated[Path, typer.Option(help="Folder to write.")],
    format: Annotated[
        str | None,
        typer.Option(
            help="saelens, sparsify, dictionary_learning or openai.", show_default="by the names of the files"
        ),
    ] = None,
    values: Annotated[
        str, typer.Option(help="Type of the dictionary's values on disk: float32, float16, bfloat16 or int8.")
    ] = "float32",
    overwrite: Overwrite = False,
    json: Annotated[Path | None, typer.Option(help="Also write what was read as JSON to this file.")] = None,
    quiet: Annotated[bool, typer.Option("--quiet", help="Print nothing.")] = False,
) -> None:
    """Read a TopK SAE of another library, for `eval`, `encode`, `certify` and all else here; no code in it is run."""
    from expander_sae.interop import ThresholdSae, read_sae  # torch takes seconds to import

    if out.resolve() == path.resolve():
        raise ExpanderSaeError(f"expected --out to be another folder than the SAE's; got {out} for both")
    sae = read_sae(path, format)
    if isinstance(sae, ThresholdSae):
        raise ExpanderSaeError(
            f"expected a TopK SAE over unit columns, which this package can hold, in {path}; got a {sae.activation} SAE"
            + (" over columns of uneven length. " if sae.activation == "topk" else ". ")
            + "`expander-sae compress` and expander_sae.interop.read_sae read it as it is."
        )
    write_result(out, overwrite, lambda place: sae.save(place, values=values))
    imported = sae.metadata.get("imported") or {}
    if json is not None:
        write_json(json, {"imported": imported, **sae.describe(), "learned_values": sae.learned_values()})
    console = output(json, quiet=quiet)
    console.print(
        f"{sae.kind} SAE, d_in {sae.d_in}, {sae.n_latents:,} latents, k {sae.k}"
        + (f", from {imported['format']}" if "format" in imported else "")
        + f": {out}",
        markup=False,
    )
    if imported.get("input") == "layer_norm":
        console.print(
            "it reads activations normalised token by token: expander_sae.interop.openai.layer_norm makes them",
            markup=False,
        )
