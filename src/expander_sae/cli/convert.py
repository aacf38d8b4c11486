"""`expander-sae convert`: an SAE in, the same SAE with its values in another type out."""

from pathlib import Path
from typing import Annotated

import typer

from expander_sae.records import ExpanderSaeError, write_json

from .console import output
from .options import Overwrite
from .results import write_result


def convert(
    sae: Annotated[Path, typer.Argument(help="Folder of a trained SAE.")],
    out: Annotated[Path, typer.Option(help="Folder to write, another one.")],
    values: Annotated[
        str, typer.Option(help="Type of the dictionary's values on disk: float32, float16, bfloat16 or int8.")
    ] = "float16",
    overwrite: Overwrite = False,
    json: Annotated[Path | None, typer.Option(help="Also write the sizes as JSON to this file.")] = None,
    quiet: Annotated[bool, typer.Option("--quiet", help="Print nothing.")] = False,
) -> None:
    """Store an SAE in fewer bytes; `expander-sae eval` on both folders says what that costs."""
    from expander_sae.saes import load_sae  # torch takes seconds to import

    if out.resolve() == sae.resolve():
        raise ExpanderSaeError(f"expected --out to be another folder than the SAE's; got {out} for both")
    loaded = load_sae(sae)
    write_result(out, overwrite, lambda place: loaded.save(place, values=values))
    sizes = {str(folder): sum(path.stat().st_size for path in folder.glob("[cs]*")) for folder in (sae, out)}
    if json is not None:
        write_json(json, {"values": values, "bytes": sizes})
    if not quiet:
        before, after = sizes.values()
        output(json).print(f"{before / 1024:,.1f} KiB before, {after / 1024:,.1f} KiB in {out}")
