"""What goes over the wire: bytes of four kinds to activations, and codes to JSON or safetensors."""

from __future__ import annotations

import io
import json
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.lib import format as npy
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from expander_sae.ops import Codes

from .limits import RefusedError

JSON, RAW, NPY, SAFETENSORS = (
    "application/json",
    "application/octet-stream",
    "application/x-npy",
    "application/x-safetensors",
)
KINDS = (JSON, RAW, NPY, SAFETENSORS)
"""Content types of activations."""
NAME = "activations"
"""What they are called, in JSON and in safetensors."""
_FLOATS = ("<f2", "<f4", "<f8")


def read_json(data: bytes) -> Any:
    """Strict JSON in UTF-8: no NaN, no key twice, no depth that only an attacker needs.

    Raises:
        RefusedError: 400, it is none.
    """

    def constant(text: str) -> Any:
        raise ValueError(f"{text} is no number of JSON")

    def distinct(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        if len({name for name, _ in pairs}) != len(pairs):
            raise ValueError("a key stands twice in an object")
        return dict(pairs)

    try:
        return json.loads(data.decode("utf-8"), parse_constant=constant, object_pairs_hook=distinct)
    except RecursionError:
        raise RefusedError(400, "expected JSON; got one that is nested too deeply") from None
    except ValueError as error:
        raise RefusedError(400, f"expected JSON in UTF-8; got something else: {str(error)[:200]}") from None


def only_field(data: bytes, name: str) -> Any:
    """What stands in the one field of a JSON object.

    Raises:
        RefusedError: it is no JSON, no object, or has other fields.
    """
    told = read_json(data)
    if not isinstance(told, dict) or set(told) != {name}:
        seen = f"the fields {sorted(told)}"[:200] if isinstance(told, dict) else type(told).__name__
        raise RefusedError(422, f"expected a JSON object with one field, {name}; got {seen}")
    return told[name]


def read_activations(kind: str, data: bytes, *, d_in: int, most: int) -> Tensor:
    """Activations float32 [tokens, d_in] out of a body; float16 and bfloat16 are widened, float64 is rounded.

    Raises:
        RefusedError: 415 another kind, 400 no such file, 422 another shape or a number that is none, 413 too many.
    """
    if kind == JSON:
        found = _of_lists(only_field(data, NAME), d_in, most)
    elif kind == RAW:
        if len(data) % (4 * d_in):
            raise RefusedError(
                422,
                f"expected float32 numbers [tokens, {d_in}], {4 * d_in} bytes for each token; got {len(data)} bytes",
            )
        found = torch.from_numpy(np.frombuffer(data, dtype="<f4").reshape(-1, d_in).astype(np.float32))
    elif kind == NPY:
        found = torch.from_numpy(_of_npy(data))
    elif kind == SAFETENSORS:
        found = _of_safetensors(data)
    else:
        raise RefusedError(415, f"expected content type {', '.join(KINDS)}; got {kind[:100]!r}")
    if found.ndim != 2 or found.shape[1] != d_in:
        raise RefusedError(422, f"expected {NAME} [tokens, d_in={d_in}], the width of the SAE; got {list(found.shape)}")
    if not len(found) >= 1:
        raise RefusedError(422, f"expected {NAME} of at least one token; got none")
    if len(found) > most:
        raise RefusedError(413, f"expected at most {most:,} tokens in a request; got {len(found):,}")
    found = found.to(torch.float32)
    good = torch.isfinite(found).all(dim=1)
    if not bool(good.all()):
        token = int((~good).int().argmax())
        raise RefusedError(
            422, f"expected finite float32 numbers; got NaN, infinity or more than float32 in token {token}"
        )
    return found


def _of_lists(told: Any, d_in: int, most: int) -> Tensor:
    if not isinstance(told, list) or not all(isinstance(row, list) for row in told):
        raise RefusedError(422, f"expected {NAME} as a list of lists of numbers; got something else")
    if len(told) > most:
        raise RefusedError(413, f"expected at most {most:,} tokens in a request; got {len(told):,}")
    for token, row in enumerate(told):
        if len(row) != d_in:
            raise RefusedError(
                422, f"expected {d_in} numbers a token, the width of the SAE; got {len(row)} in token {token}"
            )
        if not set(map(type, row)) <= {int, float}:
            raise RefusedError(422, f"expected numbers; got something else in token {token}")
    try:
        with np.errstate(over="ignore"):  # what float32 does not hold is infinite, and refused by who called
            return torch.from_numpy(np.array(told, dtype=np.float64).reshape(len(told), d_in).astype(np.float32))
    except OverflowError:
        raise RefusedError(422, "expected finite float32 numbers; got a whole number far beyond them") from None


def _of_npy(data: bytes) -> np.ndarray:
    """The array of a .npy file, whose header says no more than is there: numpy would allocate first."""
    file = io.BytesIO(data)
    try:
        version = npy.read_magic(file)
        readers = {(1, 0): npy.read_array_header_1_0, (2, 0): npy.read_array_header_2_0}
        shape, fortran, dtype = readers[version](file)
    except (ValueError, KeyError, EOFError, SyntaxError, TypeError, RecursionError, MemoryError) as error:
        raise RefusedError(400, f"expected a .npy file; got something else: {str(error)[:200]}") from None
    if dtype.str not in _FLOATS or len(shape) != 2 or fortran:
        order = "columns first" if fortran else "rows first"
        raise RefusedError(
            422,
            f"expected float16, float32 or float64 [tokens, d_in], rows first; got {dtype.str} {shape}, {order}"[:300],
        )
    if len(data) - file.tell() != shape[0] * shape[1] * dtype.itemsize:
        raise RefusedError(
            400, f"expected the numbers of {shape} behind the header; got {len(data) - file.tell()} bytes"[:300]
        )
    return np.frombuffer(data, dtype=dtype, offset=file.tell()).reshape(shape).astype(_wide(dtype))


def _wide(dtype: np.dtype) -> type:
    return np.float64 if dtype.itemsize == 8 else np.float32


def _of_safetensors(data: bytes) -> Tensor:
    try:
        tensors = load(data)
    except (SafetensorError, ValueError, KeyError, TypeError, RuntimeError) as error:
        raise RefusedError(400, f"expected a safetensors file; got something else: {str(error)[:200]}") from None
    if set(tensors) != {NAME} or not tensors[NAME].is_floating_point():
        raise RefusedError(422, f"expected one tensor of floating-point numbers, {NAME}; got {sorted(tensors)}"[:300])
    return tensors[NAME]


def largest(codes: Codes, top: int) -> Codes:
    """The `top` codes of each token of the largest size, largest first; equal ones stay as they were."""
    order = codes.values.abs().sort(dim=1, descending=True, stable=True).indices[:, :top]
    return Codes(codes.indices.gather(1, order), codes.values.gather(1, order))


def as_safetensors(codes: Codes) -> bytes:
    """`indices` int32 and `values` float32, both [tokens, top]."""
    return save({"indices": codes.indices.to(torch.int32).contiguous(), "values": codes.values.contiguous()})


def fired(codes: Codes) -> list[list[list[float]]]:
    """For each token, [latent, activation] of each code that is none of the unused slots."""
    pairs = zip(codes.indices.tolist(), codes.values.tolist(), strict=True)
    return [[[j, value] for j, value in zip(*pair, strict=True) if value] for pair in pairs]


def strongest(tokens: Sequence[Sequence[Sequence[float]]], top: int) -> list[dict[str, Any]]:
    """The latents of the largest activations in a text, with the token where each is largest."""
    best: dict[int, tuple[float, int]] = {}
    for position, line in enumerate(tokens):
        for j, value in line:
            if abs(value) > abs(best.get(int(j), (0.0, 0))[0]):
                best[int(j)] = (value, position)
    order = sorted(best, key=lambda j: (-abs(best[j][0]), j))[:top]
    return [{"latent": j, "activation": best[j][0], "token": best[j][1]} for j in order]
