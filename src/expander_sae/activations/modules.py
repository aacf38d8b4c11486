"""Any module of a model by its name: what comes out of it, and putting something else in its place."""

import difflib
import re
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any
from weakref import WeakKeyDictionary

from torch import Tensor, nn

from expander_sae.records import ExpanderSaeError

from .models import named_block, stream_of
from .outputs import hidden_of
from .running import ORIGINAL, text_inputs, uncompiled
from .watch import changed, stopped_at, stopped_behind

_WRAPPED = re.compile(rf"(^|\.){ORIGINAL}(?=\.|$)")


def named_module(model: nn.Module, name: str) -> nn.Module:
    """The module that `model.named_modules()` calls `name`; whether it is compiled makes no difference to its name.

    Raises:
        ExpanderSaeError: there is none; says which names are near.

    Example:
        >>> named_module(nn.Sequential(nn.Linear(2, 3), nn.ReLU()), "0")
        Linear(in_features=2, out_features=3, bias=True)
    """
    # By every name: a module that several places share has several.
    modules: dict[str, nn.Module] = {}
    for known, module in model.named_modules(remove_duplicate=False):
        modules.setdefault(_plain(known), module)  # the wrapper of a compiled part is called whatever is compiled
    if _plain(name) in modules and _plain(name):
        return modules[_plain(name)]
    near = difflib.get_close_matches(name, [known for known in modules if known], n=4, cutoff=0.3)
    raise ExpanderSaeError(
        f"expected the name of a module of {type(model).__name__}; got {name!r}. "
        f"Near it: {', '.join(near) or 'nothing'}. `model.named_modules()` lists them all."
    )


def _plain(name: str) -> str:
    """A module's name without what `torch.compile` puts into it."""
    return _WRAPPED.sub("", name).removeprefix(".")


def output_of(model: nn.Module, name: str, **inputs: Any) -> Tensor:
    """What module `name` returns when the model runs on `inputs`, [..., d_in]; the forward pass ends there.

    The first time the whole model runs, on the first of the inputs, to see that the module is used once. The model is
    in eval mode meanwhile, and without gradients.

    Raises:
        ExpanderSaeError: there is no such module, it returns no activations, or the model never ran it or ran it more
            than once.
    """
    model = uncompiled(model)
    return hidden_of(stopped_at(model, _used_once(model, name, inputs), repr(name), inputs))


def _used_once(model: nn.Module, name: str, inputs: dict[str, Any]) -> nn.Module:
    module = named_module(model, name)
    known = _USED_ONCE.setdefault(model, WeakKeyDictionary())
    places = sum(module is other for _, other in model.named_modules(remove_duplicate=False))
    if known.get(module) != places:
        first = {key: value[:1] if isinstance(value, Tensor) and value.ndim else value for key, value in inputs.items()}
        stopped_at(model, module, repr(name), first, whole=True)
        known[module] = places
    return module


_USED_ONCE: WeakKeyDictionary[nn.Module, WeakKeyDictionary[nn.Module, int]] = WeakKeyDictionary()
"""Modules that ran once in a forward pass of the model, and how many names they had then."""


def activations_at(model: Any, place: int | str, input_ids: Tensor, attention_mask: Tensor | None) -> Tensor:
    """What a language model computes at a place, [batch, position, d_in]; the forward pass ends there.

    `place` is a block, counted from 0 (the residual stream after it), or the name of a module (what it returns).

    Raises:
        ExpanderSaeError: there is no such place, or what the module returns is not one vector per token.
    """
    return activations_at_all(model, [place], input_ids, attention_mask)[place]


def activations_at_all(
    model: Any, places: Iterable[int | str], input_ids: Tensor, attention_mask: Tensor | None
) -> dict[int | str, Tensor]:
    """What a language model computes at several places in one forward pass, each [batch, position, d_in]; see
    `activations_at`. The pass ends behind the last of them.

    Raises:
        ExpanderSaeError: as there.
    """
    model = uncompiled(model)
    inputs = text_inputs(model, input_ids, attention_mask)
    modules: dict[str, nn.Module] = {}
    called: dict[int | str, str] = {}
    for place in places:
        if isinstance(place, int):
            block, name = named_block(model, place)
        else:
            block, name = _used_once(model, place, inputs), repr(place)
        modules[name], called[place] = block, name
    outputs = stopped_behind(model, modules, inputs)
    found: dict[int | str, Tensor] = {}
    for place, name in called.items():
        if isinstance(place, int):
            found[place] = stream_of(outputs[name], model, name, input_ids)
            continue
        found[place] = hidden = hidden_of(outputs[name])
        if hidden.ndim != 3 or hidden.shape[:2] != input_ids.shape:
            raise ExpanderSaeError(
                f"expected {place!r} to return a vector for each of {list(input_ids.shape)} tokens; got "
                f"{list(hidden.shape)}. `expander_sae.activations.harvest_items` takes vectors of whole items."
            )
    return found


@contextmanager
def changed_output(
    model: nn.Module,
    name: str,
    change: Callable[[Tensor], Tensor | None],
    *,
    residual: bool = False,
    reads_only: bool = False,
) -> Iterator[None]:
    """While open, the activations [..., d_in] out of module `name` are replaced by what `change` makes of them: see
    `expander_sae.activations.watch.changed`.

    Raises:
        ExpanderSaeError: there is no such module, it returns no activations (or no such pair), it does not run exactly
            once in a forward pass, or `change` returns another shape.
    """
    module = named_module(model, name)
    with changed(model, module, repr(name), change, residual=residual, reads_only=reads_only):
        yield
