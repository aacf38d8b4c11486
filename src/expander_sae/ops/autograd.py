"""What every op promises of torch's own machinery: its own precision, and first derivatives by backward.

An op computes the same numbers inside `torch.autocast` as outside. What it cannot do (second derivatives, forward-mode
derivatives, `torch.func` transforms) is one error on every backend, never a derivative that is silently missing.
"""

import functools
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import is_dataclass
from typing import Any, ParamSpec, TypeVar

import torch
from torch import Tensor
from torch.autograd import forward_ad

from expander_sae.records import ExpanderSaeError

P = ParamSpec("P")
R = TypeVar("R")


_DEVICES = ("cpu", "cuda", "xpu", "mps")


def _autocasts() -> list[str]:
    return [device for device in _DEVICES if torch.is_autocast_enabled(device)]


@contextmanager
def no_autocast() -> Iterator[None]:
    """Matrix products in the type of their inputs, whatever autocast says around the block."""
    with ExitStack() as off:
        for device in _autocasts():
            off.enter_context(torch.autocast(device, enabled=False))
        yield


def own_precision(function: Callable[P, R]) -> Callable[P, R]:
    """A function whose numbers do not depend on autocast; `no_autocast` for all of it."""

    @functools.wraps(function)
    def in_own_precision(*args: P.args, **kwargs: P.kwargs) -> R:
        if not _autocasts():  # the usual case costs a microsecond
            return function(*args, **kwargs)
        with no_autocast():
            return function(*args, **kwargs)

    return in_own_precision


def op(function: Callable[P, R]) -> Callable[P, R]:
    """An op: in its own precision, refusing what would drop its derivatives.

    Raises:
        ExpanderSaeError: it is called inside a `torch.func` transform, or with a forward-mode tangent.
    """

    inside = own_precision(function)

    @functools.wraps(function)
    def checked(*args: P.args, **kwargs: P.kwargs) -> R:
        if torch.compiler.is_compiling():  # nothing is computed yet: what runs later comes here again
            return function(*args, **kwargs)
        _refuse_transforms(function.__name__, (*args, *kwargs.values()))
        return inside(*args, **kwargs)

    return checked


def _refuse_transforms(name: str, arguments: tuple[Any, ...]) -> None:
    transformed = torch._C._are_functorch_transforms_active()
    if not transformed and forward_ad._current_level >= 0:
        flat = [part for argument in arguments for part in _parts(argument)]
        transformed = any(forward_ad.unpack_dual(t).tangent is not None for t in flat if isinstance(t, Tensor))
    if transformed:
        raise ExpanderSaeError(
            f"expected {name} outside torch.func transforms (vmap, grad, jvp) and forward-mode derivatives; got one. "
            "It takes a whole batch and has first derivatives by backward. Call it on the batch, and use backward()."
        )


def _parts(argument: Any) -> Iterable[Any]:
    """The tensors of codes and of dictionaries, and anything else as it is."""
    if is_dataclass(argument) and not isinstance(argument, type):
        return vars(argument).values()
    return argument if isinstance(argument, tuple) else (argument,)


def first_order(backward: Callable[..., Any]) -> Callable[..., Any]:
    """The backward of a `torch.autograd.Function` that has no second derivative.

    torch's `once_differentiable` drops it without a word where the incoming gradient does not require one.

    Raises:
        ExpanderSaeError: backward is run with `create_graph=True`.
    """

    @functools.wraps(backward)
    def once(ctx: Any, *gradients: Tensor) -> Any:
        if torch.is_grad_enabled():
            raise ExpanderSaeError(
                "expected backward without create_graph=True; got it: codes and dictionaries have no second "
                "derivatives. Leave the term that needs them out of the loss."
            )
        with no_autocast():
            return backward(ctx, *gradients)

    return once


def differentiable_once(function: Callable[..., Any], *inputs: Any) -> Any:
    """`function(*inputs)`, plain PyTorch, with the derivatives that an op has: the first ones.

    The definition of an op so promises no more than its kernels do, and its backward ignores autocast as theirs does.
    """
    return _FirstOrder.apply(function, *inputs)


class _FirstOrder(torch.autograd.Function):
    """Keeps the graph that autograd made inside, and walks it once backward comes."""

    @staticmethod
    def forward(ctx: Any, function: Callable[..., Any], *inputs: Any) -> Any:
        needed = ctx.needs_input_grad[1:]
        leaves = [
            value.detach().requires_grad_(needs) if isinstance(value, Tensor) else value
            for value, needs in zip(inputs, needed, strict=True)
        ]
        with torch.set_grad_enabled(any(needed)):
            found = function(*leaves)
        outputs = found if isinstance(found, tuple) else (found,)
        ctx.leaves = [leaf if needs else None for leaf, needs in zip(leaves, needed, strict=True)]
        ctx.outputs = [output if output.requires_grad else None for output in outputs]
        ctx.set_materialize_grads(False)
        results = tuple(output.detach() for output in outputs)
        ctx.mark_non_differentiable(*(r for r, o in zip(results, outputs, strict=True) if not o.requires_grad))
        return results if isinstance(found, tuple) else results[0]

    @staticmethod
    @first_order
    def backward(ctx: Any, *gradients: Tensor | None) -> tuple[Tensor | None, ...]:
        pairs = [(o, g) for o, g in zip(ctx.outputs, gradients, strict=True) if o is not None and g is not None]
        wanted = [leaf for leaf in ctx.leaves if leaf is not None]
        if not pairs or not wanted:
            return (None,) * (1 + len(ctx.leaves))
        outputs, incoming = zip(*pairs, strict=True)
        found = iter(torch.autograd.grad(outputs, wanted, incoming, retain_graph=True, allow_unused=True))
        return None, *(None if leaf is None else next(found) for leaf in ctx.leaves)
