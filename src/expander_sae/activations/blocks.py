"""The decoder blocks of a model, found by what the model itself reports."""

import itertools
from collections.abc import Iterable
from typing import Any, NamedTuple
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from expander_sae.records import ExpanderSaeError

from .running import input_device, own_run, text_inputs, uncompiled

_BATCH, _POSITIONS = 2, 3
"""Of the forward pass that shows which modules are the blocks; unequal, so that axes can be told apart."""
_FOUND: WeakKeyDictionary[nn.Module, nn.ModuleList] = WeakKeyDictionary()


class _Call(NamedTuple):
    module: nn.Module
    inputs: Tensor | None
    """The first tensor that goes in."""
    output: Tensor | None


def n_blocks(model: Any) -> int:
    """Number of decoder blocks of a causal language model.

    Raises:
        ExpanderSaeError: it has no list of blocks that can be told.
    """
    return len(decoder_blocks(model))


def d_in_of(model: Any) -> int:
    """Width of the residual stream.

    Raises:
        ExpanderSaeError: the model's configuration does not say it.
    """
    width = getattr(text_config(model), "hidden_size", None)
    if isinstance(width, bool) or not isinstance(width, int):
        raise ExpanderSaeError(
            f"expected a hidden_size in the configuration of {type(model).__name__}; got {width!r}. "
            "This model family is not supported."
        )
    return width


def text_config(model: Any) -> Any:
    """The part of a model's configuration that is about its decoder of text.

    Raises:
        ExpanderSaeError: it has no configuration.
    """
    config = getattr(model, "config", None)
    if config is None:
        raise ExpanderSaeError(
            f"expected a causal language model of transformers; got {type(model).__name__}, which has no configuration"
        )
    return config.get_text_config() if hasattr(config, "get_text_config") else config


def decoder_blocks(model: Any) -> nn.ModuleList:
    """The list of decoder blocks, whatever the family calls it.

    Of the lists with as many entries as the configuration has layers, it is the one whose entries, in a forward pass
    over a few tokens, run once each and in order, and hand on [batch, position, d_in]: each what the next one reads, or
    what the model reports as its hidden states. Where the model cannot run here, it is the only list of that length.

    Raises:
        ExpanderSaeError: the model has no such list.
    """
    model = uncompiled(model)
    config = text_config(model)
    counts = {getattr(config, name, None) for name in ("num_hidden_layers", "decoder_layers")} - {None}
    lists = [module for module in model.modules() if isinstance(module, nn.ModuleList) and len(module) in counts]
    known = _FOUND.get(model)
    if known is not None and any(known is candidate for candidate in lists):
        return known
    if not lists:
        raise _unsupported(model, f"a list of {' or '.join(map(str, sorted(counts, key=str)))} decoder blocks")
    _FOUND[model] = found = _found(model, lists)
    return found


def _found(model: nn.Module, lists: list[nn.ModuleList]) -> nn.ModuleList:
    try:
        calls, reported = _observed(model, [block for blocks in lists for block in blocks])
    # Whatever a family may raise that wants more than token ids, or other hardware.
    except (RuntimeError, TypeError, ValueError, AttributeError, LookupError, AssertionError, ImportError) as error:
        if len(lists) == 1:
            return lists[0]
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise _unsupported(
            model, f"one list of its blocks (it has {len(lists)} of that length, and cannot run to tell: {reason})"
        ) from error
    fitting = [blocks for blocks in lists if _is_stream(blocks, calls, reported, d_in_of(model))]
    if not fitting:
        raise _unsupported(model, "blocks that hand on one stream [batch, position, d_in], each once and in order")
    # Inside each block there may be a list of the same length, of modules that pass the stream on.
    sizes = [sum(parameter.numel() for parameter in blocks.parameters()) for blocks in fitting]
    if sizes.count(max(sizes)) > 1:
        raise _unsupported(model, f"one list of decoder blocks; {sizes.count(max(sizes))} look alike")
    return fitting[sizes.index(max(sizes))]


def _unsupported(model: Any, expected: str) -> ExpanderSaeError:
    return ExpanderSaeError(
        f"expected {expected} in {type(model).__name__}; got none. This model family is not supported by layer; "
        "take the output of a module by its name (--module)."
    )


def _observed(model: Any, modules: Iterable[nn.Module]) -> tuple[list[_Call], list[Tensor]]:
    """The calls of some modules in a forward pass over a few tokens, in order, and the hidden states it reports."""
    calls: list[_Call] = []

    def note(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
        read = _first_tensor((*args, *(kwargs[name] for name in ("hidden_states", "x") if name in kwargs)))
        calls.append(_Call(module, None if read is None else read.clone(), _clone(_first_tensor(output))))

    handles = [module.register_forward_hook(note, with_kwargs=True) for module in set(modules)]
    try:
        # Past the first ids, which some families keep for padding.
        ids = 3 + torch.arange(_BATCH * _POSITIONS, device=input_device(model)).view(_BATCH, _POSITIONS)
        with own_run(model):
            inputs = text_inputs(model, ids % max(_vocabulary(model), 1), torch.ones_like(ids))
            output = model(**inputs, output_hidden_states=True)
    finally:
        for handle in handles:
            handle.remove()
    reported = getattr(output, "hidden_states", None)
    return calls, [state for state in reported or () if isinstance(state, Tensor)]


def _vocabulary(model: Any) -> int:
    return int(getattr(text_config(model), "vocab_size", None) or 1 << 30)


def _clone(tensor: Tensor | None) -> Tensor | None:
    return None if tensor is None else tensor.clone()


def _first_tensor(output: Any) -> Tensor | None:
    """The first tensor of floating-point numbers in what goes into a module or comes out of it."""
    if isinstance(output, Tensor):
        return output if output.is_floating_point() else None
    parts = output.values() if isinstance(output, dict) else output if isinstance(output, tuple | list) else ()
    first = next(iter(parts), None)
    return first if isinstance(first, Tensor) and first.is_floating_point() else None


def _is_stream(blocks: nn.ModuleList, calls: list[_Call], reported: list[Tensor], d_in: int) -> bool:
    """Whether these modules ran as the blocks of a decoder do."""
    mine = [call for call in calls if any(call.module is block for block in blocks)]
    if len(mine) != len(blocks) or any(call.module is not block for call, block in zip(mine, blocks, strict=True)):
        return False
    if any(call.output is None or call.output.shape != (_BATCH, _POSITIONS, d_in) for call in mine):
        return False
    # The last state that is reported is behind the final norm.
    as_reported = len(reported) == len(blocks) + 1 and all(
        _equal(call.output, state) for call, state in zip(mine[:-1], reported[1:-1], strict=True)
    )
    return as_reported or all(_equal(one.output, after.inputs) for one, after in itertools.pairwise(mine))


def _equal(one: Tensor | None, another: Tensor | None) -> bool:
    if one is None or another is None or one.shape != another.shape:
        return False
    return torch.equal(one, another.to(one.device, one.dtype)) or torch.allclose(
        one, another.to(one.device, one.dtype), rtol=1e-4, atol=1e-6, equal_nan=True
    )
