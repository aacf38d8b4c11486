"""`expander-sae export`: an SAE in, a folder or file that another library reads out."""

from pathlib import Path
from typing import Annotated

import typer

from expander_sae.records import ExpanderSaeError, write_json

from .console import output
from .options import Overwrite
from .results import write_result


def export(
    sae: Annotated[Path, typer.Argument(help="Folder of a trained SAE.")],
    out: Annotated[Path, typer.Option(help="Folder to write; for openai a file, *.pt.")],
    to: Annotated[
        str,
        typer.Option(
            help="saelens (sparse, exact; read with `import expander_sae.interop.saelens`), or dense: saelens-dense, "
            "sparsify, dictionary_learning, openai."
        ),
    ] = "saelens",
    dtype: Annotated[str, typer.Option(help="Type of the numbers: float32, float16 or bfloat16.")] = "float32",
    inference: Annotated[
        str | None,
        typer.Option(
            help="For a dense format and an SAE that reads its codes by a pursuit: `encoder` accepts the encoder's "
            "codes, the only ones those libraries compute.",
            show_default="refuse",
        ),
    ] = None,
    overwrite: Overwrite = False,
    json: Annotated[Path | None, typer.Option(help="Also write the format and the sizes as JSON to this file.")] = None,
    quiet: Annotated[bool, typer.Option("--quiet", help="Print nothing.")] = False,
) -> None:
    """Write an SAE for SAELens, sparsify, dictionary_learning or OpenAI's code.

    docs/guides/from-saelens.md says what is kept.
    """
    from expander_sae.interop import dense_bytes, read_sae, write_sae  # torch takes seconds to import
    from expander_sae.interop.saelens_files import check_dtype
    from expander_sae.pursuit import parse_reading

    if out.resolve() == sae.resolve():
        raise ExpanderSaeError(f"expected --out to be another folder than the SAE's; got {out} for both")
    loaded = read_sae(sae)
    reading = None if inference is None else parse_reading(inference)
    console = output(json, out, quiet=quiet)
    before = _size(sae)
    if to != "saelens":
        size = dense_bytes(loaded, check_dtype(dtype))
        console.print(f"dense: {size / 1e6:,.1f} MB, {size / before:,.1f} times the SAE's {before / 1e6:,.1f} MB")
    write_result(out, overwrite, lambda place: write_sae(loaded, place, to, dtype=dtype, reading=reading))
    if json is not None:
        write_json(json, {"format": to, "dtype": dtype, "bytes": {str(sae): before, str(out): _size(out)}})
    console.print(f"{_size(out) / 1e6:,.1f} MB for {to}: {out}")
    if to == "openai":
        console.print("their from_state_dict normalises the input of every TopK SAE: see docs/guides/from-saelens.md")


def _size(path: Path) -> int:
    """Bytes of a file, or of the files in a folder; 0 for a pipe, which keeps none."""
    files = path.iterdir() if path.is_dir() else [path] if path.is_file() else []
    return sum(file.stat().st_size for file in files)
