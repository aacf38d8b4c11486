"""`expander-sae convert`: an SAE in, the same SAE with its values in another type out."""

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from expander_sae.records import ExpanderSaeError, write_json


def convert(
    sae: Annotated[Path, typer.Argument(help="Folder of a trained SAE.")],
    out: Annotated[Path, typer.Option(help="Folder to write, another one.")],
    values: Annotated[
        str, typer.Option(help="Type of the dictionary's values on disk: float32, float16, bfloat16 or int8.")
    ] = "float16",
    json: Annotated[Path | None, typer.Option(help="Also write the sizes as JSON to this file.")] = None,
    quiet: Annotated[bool, typer.Option("--quiet", help="Print nothing.")] = False,
) -> None:
    """Store an SAE in fewer bytes; `expander-sae eval` on both folders says what that costs."""
    from expander_sae.saes import load_sae  # torch takes seconds to import

    if out.resolve() == sae.resolve():
        raise ExpanderSaeError(f"expected --out to be another folder than the SAE's; got {out} for both")
    load_sae(sae).save(out, values=values)
    sizes = {str(folder): sum(path.stat().st_size for path in folder.glob("[cs]*")) for folder in (sae, out)}
    if json is not None:
        write_json(json, {"values": values, "bytes": sizes})
    if not quiet:
        before, after = sizes.values()
        Console().print(f"{before / 1024:,.1f} KiB before, {after / 1024:,.1f} KiB in {out}", soft_wrap=True)
