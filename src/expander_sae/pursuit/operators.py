"""Every reading as one operator of torch.library, by its name; see `expander_sae.ops.operators`."""

from __future__ import annotations

from functools import cache
from typing import Any

from torch import Tensor

from expander_sae.ops import Dictionary
from expander_sae.ops.operators import code_slots, register

from .reading import Reading
from .readings import parse_reading

_parsed = cache(parse_reading)


def _read(
    x: Tensor,
    rows: Tensor | None,
    decoder: Tensor,
    encoder: Tensor | None,
    bias: Tensor | None,
    center: Tensor | None,
    signed: bool,
    k: int,
    reading: str,
) -> tuple[Tensor, Tensor]:
    w = Dictionary(rows, decoder, x.shape[1], encoder, bias, center, signed=signed, rows_checked=True)
    codes = _parsed(reading).codes(w, x, k)
    return codes.values, codes.indices


def _read_fake(x: Tensor, _rows: Any, decoder: Tensor, _e: Any, _b: Any, _c: Any, _s: bool, k: int, _r: str) -> Any:
    return code_slots(x, decoder, k)


read_codes = register(
    "read_codes",
    "(Tensor x, Tensor? rows, Tensor decoder, Tensor? encoder, Tensor? bias, Tensor? center, bool signed, int k, "
    "str reading) -> (Tensor, Tensor)",
    _read,
    _read_fake,
)
"""Codes by a reading, without gradients; the encoder has an operator of its own, which has them."""


def same_text(reading: Reading) -> str:
    """The text by which the operator finds this reading again."""
    text = str(reading)
    assert parse_reading(text) == reading, f"{text} is not how {reading!r} is written"
    return text
