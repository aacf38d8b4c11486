"""The activations in what a module returns: finding them, and putting others in their place."""

from typing import Any

from torch import Tensor

from expander_sae.records import ExpanderSaeError

_NAMES = ("last_hidden_state", "hidden_states")
"""Fields that hold the activations wherever a module returns several by name; else they are the first."""


def hidden_of(output: Any) -> Tensor:
    """The activations [..., d_in] in a module's output: a tensor, or that of a tuple, list, dict or `ModelOutput`.

    Of several the first; of several with names, `last_hidden_state` or `hidden_states` if there is one.

    Raises:
        ExpanderSaeError: no tensor of floating-point numbers is there.
    """
    first = output
    if isinstance(output, dict):
        first = output.get(_key(output))
    elif isinstance(output, tuple | list):
        first = output[0] if output else None
    if not isinstance(first, Tensor) or not first.is_floating_point() or first.ndim < 2:
        raise ExpanderSaeError(
            "expected a module that returns activations [..., d_in], alone or first in a tuple; got "
            f"{type(output).__name__}{f' with {type(first).__name__}' if first is not output else ''}"
        )
    return first


def _key(output: dict[Any, Any]) -> Any:
    return next((name for name in _NAMES if isinstance(output.get(name), Tensor)), next(iter(output), None))


def with_hidden(output: Any, hidden: Tensor) -> Any:
    """A module's output with its activations replaced, cast to what they were.

    Raises:
        ExpanderSaeError: `hidden` has another shape.
    """
    before = hidden_of(output)
    if hidden.shape != before.shape:
        raise ExpanderSaeError(
            f"expected a change to keep the shape {tuple(before.shape)} of the activations; got {tuple(hidden.shape)}"
        )
    return in_form_of(output, hidden.to(device=before.device, dtype=before.dtype))


def in_form_of(output: Any, hidden: Tensor) -> Any:
    """A module's output with `hidden` in the place of its activations, whatever shape they have."""
    if isinstance(output, tuple | list):
        rest = list(output)[1:]
        # A named tuple takes its fields one by one.
        return type(output)(hidden, *rest) if hasattr(output, "_fields") else type(output)([hidden, *rest])
    if isinstance(output, dict):
        changed = type(output)(**output)
        changed[_key(output)] = hidden
        return changed
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
