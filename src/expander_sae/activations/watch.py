"""A hook on one module, watched: it runs once in every forward pass of the model, or there is an error.

Nothing tells a hook that it did not run (a compiled graph passes it by), or that its module runs at two depths. Every
hook of this package is set here.
"""

import sys
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from typing import Any

import torch
from torch import Tensor, nn

from expander_sae.records import ExpanderSaeError, ExpanderSaeWarning

from .outputs import hidden_of, residual_of, with_hidden
from .running import evaluating, is_compiled, own_run


class _ForwardStoppedError(Exception):
    """Raised by our own hook, once the wanted module has run; always caught here."""


class _Watch:
    """Counts the forward passes of a model, and the calls of one of its modules in each."""

    def __init__(self, model: nn.Module, name: str) -> None:
        self.model, self.name = model, name
        self.depth = self.passes = self.calls = self.calls_in_all = 0
        self.tokens: torch.Size | None = None

    def begin(self, _model: nn.Module, inputs: tuple[Any, ...], named: dict[str, Any]) -> None:
        """A forward pass begins."""
        self.depth += 1
        if self.depth > 1:
            return
        self.calls = 0
        ids = named.get("input_ids", inputs[0] if inputs else None)
        self.tokens = None
        if isinstance(ids, Tensor) and ids.ndim == 2 and not ids.is_floating_point():
            self.tokens = ids.shape

    def end(self, _model: nn.Module, _inputs: Any, _output: Any) -> None:
        """It ends, well or not."""
        self.depth -= 1
        self.passes += self.depth == 0

    def count(self) -> None:
        """The module ran.

        Raises:
            ExpanderSaeError: it did already, in the same forward pass.
        """
        self.calls_in_all += 1
        # A call of a part of the model alone, or a second one for the gradient's sake, is no part of a forward pass.
        if self.depth == 0:
            return
        self.calls += 1
        if self.calls > 1:
            raise ExpanderSaeError(
                f"expected {self.name} of {type(self.model).__name__} to run once in a forward pass; got a "
                "second run: its layers share it, so what it returns belongs to no one place. Name a module that is "
                "used once."
            )

    def check(self, hidden: Tensor) -> Tensor:
        """The activations, if they are one vector for each token as far as that can be told.

        Raises:
            ExpanderSaeError: the input is text and there are several streams of activations.
        """
        if self.depth and self.tokens is not None and hidden.ndim > 3:
            raise ExpanderSaeError(
                f"expected {self.name} to return activations [batch, position, d_in] for tokens "
                f"{list(self.tokens)}; got {list(hidden.shape)}, several streams of them. Name a module that returns "
                "one."
            )
        return hidden

    def ended(self) -> None:
        """The hook is gone.

        Raises:
            ExpanderSaeError: the model ran, and the module did not.
        """
        if self.calls_in_all:
            return
        if self.passes or is_compiled(self.model):
            raise ExpanderSaeError(
                f"{self.name} did not run in a forward pass of {type(self.model).__name__}, so nothing was read or "
                "changed there. A compiled model passes hooks by: take the one that `torch.compile` was given "
                "(`model._orig_mod`); else name a module that runs."
            )
        warnings.warn(
            f"no forward pass of {type(self.model).__name__} was seen, so nothing was read or changed at {self.name}",
            ExpanderSaeWarning,
            stacklevel=6,
        )


@contextmanager
def _watched(model: nn.Module, module: nn.Module, name: str, hook: Callable[[_Watch, Any], Any]) -> Iterator[_Watch]:
    """While open, `hook` gets every output of the module, and may return another."""
    watch = _Watch(model, name)

    def ran(_module: nn.Module, _inputs: Any, output: Any) -> Any:
        watch.count()
        return hook(watch, output)

    # A graph that is compiled meanwhile must call it, not trace through an SAE.
    called: Any = torch.compiler.disable(ran) if "torch._dynamo" in sys.modules else ran
    handles = [
        model.register_forward_pre_hook(watch.begin, with_kwargs=True, prepend=True),
        model.register_forward_hook(watch.end, always_call=True),
        module.register_forward_hook(called),
    ]
    try:
        yield watch
    finally:
        for handle in handles:
            handle.remove()


def recomputing() -> bool:
    """Whether a backward pass is running: gradient checkpointing calls modules, and their hooks, once more in it."""
    return torch._C._current_graph_task_id() != -1


@contextmanager
def changed(
    model: nn.Module,
    module: nn.Module,
    name: str,
    change: Callable[[Tensor], Tensor | None],
    *,
    residual: bool = False,
    reads_only: bool = False,
) -> Iterator[None]:
    """While open, the activations [..., d_in] out of a module are replaced by what `change` makes of them.

    None from `change` leaves them alone. What it returns is cast back to their dtype and device. With `residual` the
    module returns a pair (update, residual) and its activations are their sum, as with the blocks of vLLM. With
    `reads_only`, `change` is not called when a backward pass computes the activations again. Meanwhile the
    model is in eval mode.

    Raises:
        ExpanderSaeError: the module returns no activations (or no such pair), runs more than once in a forward pass,
            never runs although the model does, or `change` returns another shape.
    """

    def replace(watch: _Watch, output: Any) -> Any:
        if reads_only and recomputing():
            return None
        before = watch.check(hidden_of(output))
        if not residual:
            new = change(before)
            return None if new is None else with_hidden(output, new)
        rest = residual_of(output)
        new = change(before + rest)
        return None if new is None else with_hidden(output, new - rest)

    with evaluating(model), _watched(model, module, name, replace) as watch:
        yield
    watch.ended()


def stopped_at(model: nn.Module, module: nn.Module, name: str, inputs: dict[str, Any], *, whole: bool = False) -> Any:
    """What a module returns in a forward pass of ours, which ends there unless the `whole` of it is wanted.

    Raises:
        ExpanderSaeError: the module did not run, or (in a whole pass) ran more than once.
    """
    return stopped_behind(model, {name: module}, inputs, whole=whole)[name]


def stopped_behind(
    model: nn.Module, modules: Mapping[str, nn.Module], inputs: dict[str, Any], *, whole: bool = False
) -> dict[str, Any]:
    """What several modules return in one forward pass of ours, by what each is called; it ends behind the last of them.

    Raises:
        ExpanderSaeError: one of them did not run, or (in a whole pass, or before the last one) ran more than once.
    """
    caught: dict[str, Any] = {}

    def catch(name: str) -> Callable[[_Watch, Any], None]:
        def stop(_watch: _Watch, output: Any) -> None:
            caught[name] = output
            if not whole and len(caught) == len(modules):
                raise _ForwardStoppedError

        return stop

    with ExitStack() as stack:
        stack.enter_context(own_run(model))
        watches = [stack.enter_context(_watched(model, module, name, catch(name))) for name, module in modules.items()]
        with suppress(_ForwardStoppedError):
            model(**inputs)
    for watch in watches:
        watch.ended()
    return caught
