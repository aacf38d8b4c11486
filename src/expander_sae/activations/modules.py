"""Any module of a model by its name: what comes out of it, and putting something else in its place."""

import difflib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from expander_sae.records import ExpanderSaeError

from .models import residual_after_block


class _ForwardStoppedError(Exception):
    """Raised by our own hook, once the wanted module has run; always caught here."""


def named_module(model: nn.Module, name: str) -> nn.Module:
    """The module that `model.named_modules()` calls `name`.

    Raises:
        ExpanderSaeError: there is none; says which names are near.

    Example:
        >>> named_module(nn.Sequential(nn.Linear(2, 3), nn.ReLU()), "0")
        Linear(in_features=2, out_features=3, bias=True)
    """
    modules = dict(model.named_modules())
    if name in modules and name:
        return modules[name]
    near = difflib.get_close_matches(name, [known for known in modules if known], n=4, cutoff=0.3)
    raise ExpanderSaeError(
        f"expected the name of a module of {type(model).__name__}; there is no {name!r}. "
        f"Near it: {', '.join(near) or 'nothing'}. `model.named_modules()` lists them all."
    )


def hidden_of(output: Any) -> Tensor:
    """The activations [..., d_in] in a module's output: a tensor, or the first of a tuple, list or `ModelOutput`.

    Raises:
        ExpanderSaeError: no tensor of floating-point numbers is there.
    """
    first = output
    if isinstance(output, dict):
        first = next(iter(output.values()), None)
    elif isinstance(output, tuple | list):
        first = output[0] if output else None
    if not isinstance(first, Tensor) or not first.is_floating_point() or first.ndim < 2:
        raise ExpanderSaeError(
            "expected a module that returns activations [..., d_in], alone or first in a tuple; got "
            f"{type(output).__name__}{f' with {type(first).__name__}' if first is not output else ''}"
        )
    return first


def with_hidden(output: Any, hidden: Tensor) -> Any:
    """A module's output with its activations replaced, cast to what they were.

    Raises:
        ExpanderSaeError: `hidden` has another shape.
    """
    before = hidden_of(output)
    if hidden.shape != before.shape:
        raise ExpanderSaeError(f"expected activations of shape {tuple(before.shape)}, got {tuple(hidden.shape)}")
    hidden = hidden.to(device=before.device, dtype=before.dtype)
    if isinstance(output, tuple | list):
        rest = list(output)[1:]
        # A named tuple takes its fields one by one.
        return type(output)(hidden, *rest) if hasattr(output, "_fields") else type(output)([hidden, *rest])
    if isinstance(output, dict):
        changed = type(output)(**output)
        changed[next(iter(output))] = hidden
        return changed
    return hidden


def output_of(model: nn.Module, name: str, **inputs: Any) -> Tensor:
    """What module `name` returns when the model runs on `inputs`, [..., d_in]; the forward pass ends there.

    Raises:
        ExpanderSaeError: there is no such module, it returns no activations, or the model never ran it.
    """
    caught: list[Any] = []

    def stop(_module: nn.Module, _inputs: Any, output: Any) -> None:
        caught.append(output)
        raise _ForwardStoppedError

    handle = named_module(model, name).register_forward_hook(stop)
    try:
        with torch.no_grad():
            model(**inputs)
    except _ForwardStoppedError:
        pass
    finally:
        handle.remove()
    if not caught:
        raise ExpanderSaeError(f"{name!r} did not run in a forward pass of {type(model).__name__}: name another module")
    return hidden_of(caught[0])


def activations_at(model: Any, place: int | str, input_ids: Tensor, attention_mask: Tensor | None) -> Tensor:
    """What a language model computes at a place, [batch, position, d_in]; the forward pass ends there.

    `place` is a block, counted from 0 (the residual stream after it), or the name of a module (what it returns).

    Raises:
        ExpanderSaeError: there is no such place, or what the module returns is not one vector per token.
    """
    if isinstance(place, int):
        return residual_after_block(model, input_ids, attention_mask, place)
    device = next(model.parameters()).device
    inputs: dict[str, Any] = {"input_ids": input_ids.to(device, torch.int64)}
    if attention_mask is not None:
        inputs["attention_mask"] = attention_mask.to(device)
    hidden = output_of(model, place, **inputs)
    if hidden.ndim != 3 or hidden.shape[:2] != input_ids.shape:
        raise ExpanderSaeError(
            f"expected {place!r} to return a vector for each of {list(input_ids.shape)} tokens; got "
            f"{list(hidden.shape)}. `expander_sae.activations.harvest_items` takes vectors of whole items."
        )
    return hidden


def residual_of(output: Any) -> Tensor:
    """What a block that leaves its last addition to the next one returns second: the stream before it, [..., d_in].

    Raises:
        ExpanderSaeError: the output is no pair of activations of one shape.
    """
    second = output[1] if isinstance(output, tuple | list) and len(output) == 2 else None
    if not isinstance(second, Tensor) or second.shape != hidden_of(output).shape:
        raise ExpanderSaeError(
            f"expected residual=True for a module that returns (update, residual) of one shape; got {_shapes(output)}"
        )
    return second


def _shapes(output: Any) -> str:
    parts = output if isinstance(output, tuple | list) else [output]
    return ", ".join(str(list(part.shape)) if isinstance(part, Tensor) else type(part).__name__ for part in parts)


@contextmanager
def changed_output(
    model: nn.Module, name: str, change: Callable[[Tensor], Tensor | None], *, residual: bool = False
) -> Iterator[None]:
    """While open, the activations [..., d_in] out of module `name` are replaced by what `change` makes of them.

    None from `change` leaves them alone. What it returns is cast back to their dtype and device. With `residual` the
    module returns a pair (update, residual) and its activations are their sum, as with the blocks of vLLM.

    Raises:
        ExpanderSaeError: there is no such module, it returns no activations (or no such pair), or `change` returns
            another shape.
    """

    def replace(_module: nn.Module, _inputs: Any, output: Any) -> Any:
        before = hidden_of(output)
        if not residual:
            new = change(before)
            return None if new is None else with_hidden(output, new)
        rest = residual_of(output)
        new = change(before + rest)
        return None if new is None else with_hidden(output, new - rest)

    handle = named_module(model, name).register_forward_hook(replace)
    try:
        yield
    finally:
        handle.remove()
