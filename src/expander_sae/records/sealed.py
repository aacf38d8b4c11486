"""JSON files that a rerun goes on from, with a checksum of what is in them."""

import hashlib
import json
import os
from collections.abc import Mapping
from typing import Any

from .errors import ExpanderSaeError
from .files import json_text, read_json, write_json

_SEAL = "sha256"


def seal(value: Mapping[str, Any]) -> dict[str, Any]:
    """An object as JSON holds it, with a checksum of its other fields in the field `sha256`."""
    found = json.loads(json_text(value))  # what is read back: JSON has no tuples, no NaN and no keys but strings
    found.pop(_SEAL, None)
    return {**found, _SEAL: _digest(found)}


def unseal(
    value: Any, path: str | os.PathLike[str], advice: str = "Delete it: what it holds is made anew."
) -> dict[str, Any]:
    """What was sealed, or an object of an earlier release, which has no checksum.

    Args:
        value: as it was read.
        path: the file that it was read from.
        advice: what to do if it is damaged.

    Raises:
        ExpanderSaeError: it is no object, or another one than was sealed.
    """
    found = dict(value) if isinstance(value, dict) else {_SEAL: ""}
    digest = found.pop(_SEAL, None)
    if digest is not None and digest != _digest(found):
        raise ExpanderSaeError(f"{os.fspath(path)} is damaged: its checksum is not that of its content. {advice}")
    return found


def write_sealed(path: str | os.PathLike[str], value: Mapping[str, Any]) -> None:
    """Write a JSON object, atomically, with a checksum."""
    write_json(path, seal(value))


def read_sealed(path: str | os.PathLike[str]) -> dict[str, Any]:
    """What `write_sealed` wrote, or an object of an earlier release, which has no checksum.

    Raises:
        ExpanderSaeError: the file is missing, is no JSON object, or is damaged.
    """
    return unseal(read_json(path), path)


def _digest(value: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()
