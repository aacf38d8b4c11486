"""JSON files that a rerun goes on from, with a checksum of what is in them."""

import hashlib
import json
import os
from collections.abc import Mapping
from typing import Any

from .errors import ExpanderSaeError
from .files import json_text, read_json, write_json

_SEAL = "sha256"


def write_sealed(path: str | os.PathLike[str], value: Mapping[str, Any]) -> None:
    """Write a JSON object, atomically, with a checksum of its other fields in the field `sha256`."""
    found = json.loads(json_text(value))  # what is read back: JSON has no tuples, no NaN and no keys but strings
    write_json(path, {**found, _SEAL: _digest(found)})


def read_sealed(path: str | os.PathLike[str]) -> dict[str, Any]:
    """What `write_sealed` wrote, or an object of an earlier release, which has no checksum.

    Raises:
        ExpanderSaeError: the file is missing, is no JSON object, or is damaged.
    """
    found = read_json(path)
    if not isinstance(found, dict):
        raise ExpanderSaeError(f"expected {os.fspath(path)} to hold a JSON object; it is damaged. Delete it.")
    seal = found.pop(_SEAL, None)
    if seal is not None and seal != _digest(found):
        raise ExpanderSaeError(
            f"{os.fspath(path)} is damaged: its checksum is not that of its content. Delete it: what it holds is made "
            "anew."
        )
    return found


def _digest(value: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()
