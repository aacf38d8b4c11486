"""Which language model goes with activations on disk."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from expander_sae.records import ExpanderSaeError


def model_name(given: str | None, harvested: Mapping[str, Any]) -> str:
    """The model asked for, or the one in a harvest's settings if its id says where it is.

    Raises:
        ExpanderSaeError: none was given, and the harvested one lay in a folder whose place is not on record.
    """
    if given is not None:
        return given
    name, revision = harvested.get("model_id"), str(harvested.get("model_revision", ""))
    if not name:
        raise ExpanderSaeError(
            "expected the activations' language model in their settings; got none. Give it with --model."
        )
    # A content hash instead of a hub commit: the model was in a folder, and the id is that folder's own name.
    if revision.startswith("sha256:") and not (Path(name) / "config.json").is_file():
        raise ExpanderSaeError(
            f"expected the place of the activations' language model; got the name of its folder alone, {name}. "
            "Give it with --model FOLDER, or leave the cross entropy out with --no-ce."
        )
    return str(name)


def model_note(name: str) -> str | None:
    """What a reader must know about a model that `expander-sae offline` made; None for any other."""
    if not (Path(name).resolve().parent / "offline.json").is_file():
        return None
    return (
        "The language model is SmolLM2-135M-Instruct with weights rounded to 4 bits: small, tuned for chat, and "
        "rounded. Its numbers say nothing about other models."
    )
