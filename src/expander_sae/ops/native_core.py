"""Calls into the compiled core: contiguous tensors in, its errors out as ours."""

from typing import Any, overload

import torch
from torch import Tensor

from expander_sae.ops.backends import native_core
from expander_sae.records import ExpanderSaeError


@overload
def plain(tensor: Tensor) -> Tensor: ...
@overload
def plain(tensor: None) -> None: ...
@overload
def plain(tensor: Tensor | None) -> Tensor | None: ...
def plain(tensor: Tensor | None) -> Tensor | None:
    """The tensor without autograd, its numbers in a row and with their own signs (a lazy negative is made)."""
    return None if tensor is None else tensor.detach().resolve_neg().contiguous()


def rows16(rows: Tensor | None) -> Tensor | None:
    """Rows as the core reads them; a mask kept as uint16 is passed through."""
    if rows is None:
        return None
    if rows.dtype != torch.uint16:
        if rows.numel() and not 0 <= int(rows.min()) <= int(rows.max()) < 65536:
            raise ExpanderSaeError(f"expected row indices in 0..65535; got {int(rows.min())}..{int(rows.max())}")
        rows = rows.to(torch.uint16)
    return rows.detach().contiguous()


def call(name: str, *arguments: Any) -> Any:
    """Run one function of the core.

    Raises:
        ExpanderSaeError: an input holds NaN or infinity, or an index points outside the dictionary.
    """
    core = native_core()
    assert core is not None, "backends.choose_backend lets nothing through without the core"
    try:
        return getattr(core, name)(*arguments)
    except ValueError as error:
        raise ExpanderSaeError(
            f"{error}. Check the activations for overflow and the dictionary for a diverged run."
        ) from error
