"""The fields of an SAE's `config.json`, checked as they are taken, and its sizes against those of its arrays."""

from collections.abc import Collection
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from expander_sae.graphs import unpack_rows
from expander_sae.pursuit import Reading, of_numbers, parse_reading
from expander_sae.pursuit.reading import checked_reading
from expander_sae.records import ExpanderSaeError, Fields
from expander_sae.records.fields import shown

from .files import PACKED, PRECISIONS, VERSION


def checked_config(config: dict[str, Any], where: Path, kinds: Collection[str]) -> dict[str, Any]:
    """The fields of a config in their types; sizes are compared with the arrays before anything is made of them."""
    fields, huge = Fields(config, where), 2**31
    fields.take("format")
    version = fields.take("version", None)
    if isinstance(version, bool) or version not in range(1, VERSION + 1):
        raise ExpanderSaeError(
            f"expected format version 1 to {VERSION} in {where}; got {shown(config.get('version'))}. "
            "Use the release that wrote it."
        )
    kind = fields.text("kind")
    if kind not in kinds:
        raise ExpanderSaeError(f"expected kind as one of {', '.join(map(repr, kinds))}; got {shown(kind)}")
    found: dict[str, Any] = {"kind": kind}
    for name in ("d_in", "n_latents", "k"):
        found[name] = fields.integer(name, 1, huge)
    found["reading"] = _reading(fields, version)
    found["reading"].check(found["k"], found["n_latents"])
    found["seed"] = fields.integer("seed", -(2**63), 2**64 - 1)
    found["signed"], found["latent_bias"] = fields.boolean("signed"), fields.boolean("latent_bias")
    if kind != "dense":
        found["degree"] = fields.integer("degree", 1, found["d_in"])
        mask = fields.fields("mask")
        found["mask"] = {
            "construction": mask.text("construction"),
            "seed": None if mask.take("seed") is None else mask.again("seed").integer("seed", 0, 2**64 - 1),
            "sha256": mask.text("sha256"),
        }
        mask.done()
    # Older folders do not say tied: there was no other kind.
    found["tied"] = fields.boolean("tied", *(() if kind == "dense" else (True,)))
    if kind == "irregular":
        found["entries"] = fields.integer("entries", 1, huge)
    found["values"] = fields.one_of("values", PRECISIONS, default="float32")
    fields.take("arrays_sha256")
    found["metadata"] = fields.fields("metadata", {}).left
    fields.done()
    return found


def check_reading(reading: Reading, k: int, n_latents: int) -> None:
    """Raise unless an SAE of these sizes can be saved with a reading and read back with the same one."""
    checked_reading(reading).check(k, n_latents)
    if parse_reading(str(reading)) != reading:
        raise ExpanderSaeError(f"expected a reading whose text names it; got {reading!r}, which is written {reading}")


def _reading(fields: Fields, version: int) -> Reading:
    if version >= 3:
        return parse_reading(fields.text("reading"))
    return of_numbers(fields.integer("stages", 0, 2**31), fields.integer("spare", 0, 2**31, default=0))


MOST_EMPTY = 256
"""Slots for each entry that an SAE of irregular degrees may have: more would be memory that its file does not hold."""


def check_sizes_of(config: dict[str, Any], arrays: dict[str, Tensor], path: Path) -> None:
    """Compare the sizes in a config with those of the arrays, which the file does hold."""
    n, d_in = config["n_latents"], config["d_in"]
    wanted = {"b_dec": [d_in]}
    if config["kind"] == "irregular":
        entries = arrays["values"].numel() if "values" in arrays else 0
        wanted |= {"counts": [n], "values": [entries]}
        if n * config["degree"] > MOST_EMPTY * entries:
            raise ExpanderSaeError(
                f"expected values in {path}, and at most {MOST_EMPTY} slots for each; got n_latents {n} and degree "
                f"{config['degree']} for {entries} values"
            )
    else:
        wanted["values"] = [n, config.get("degree", d_in)]
    for name, shape in wanted.items():
        if name in arrays and list(arrays[name].shape) != shape:
            kind = PRECISIONS[config["values"]] if name == "values" else "numbers"
            raise ExpanderSaeError(
                f"expected {name} as {kind} {shape} in {path}; got {arrays[name].dtype} {list(arrays[name].shape)}"
            )
    for name in {"rows", "counts"} & set(arrays):
        if arrays[name].is_floating_point() or arrays[name].dtype == torch.bool:
            raise ExpanderSaeError(f"expected {name} as integers in {path}; got {arrays[name].dtype}")
    missing = sorted(set(wanted) - set(arrays))
    if missing:
        raise ExpanderSaeError(f"expected arrays {sorted(wanted)} in {path}; got {sorted(arrays)}")


def unpacked_rows(config: dict[str, Any], arrays: dict[str, Tensor], path: Path) -> Tensor:
    """The rows in place of the packed ones, which only an Expander SAE with a learned mask has."""
    expected = config["kind"] == "expander" and config["mask"]["seed"] is None
    if not expected or "rows" in arrays:
        raise ExpanderSaeError(
            f"expected {PACKED} in {path} only of an Expander SAE whose mask has no seed, without rows beside them; "
            f"got {sorted(arrays)} of kind {config['kind']!r}. Copy the whole folder again."
        )
    packed = arrays.pop(PACKED)
    if packed.dtype != torch.uint8:  # numpy has no bfloat16
        raise ExpanderSaeError(f"expected {PACKED} as uint8 in {path}; got {packed.dtype}. Copy the folder again.")
    try:
        rows = unpack_rows(packed.numpy(), **{name: config[name] for name in ("d_in", "n_latents", "degree")})
    except ExpanderSaeError as error:
        raise ExpanderSaeError(f"{path}: {error}") from error
    return torch.from_numpy(rows)
