"""Running a model for its activations: whatever state it is in, what comes out is what it computes in use."""

import inspect
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from expander_sae.ops.autograd import no_autocast

ORIGINAL = "_orig_mod"
"""Where `torch.compile` keeps the module it wraps."""


def uncompiled(model: Any) -> Any:
    """The model itself, out of what `torch.compile` wrapped around it."""
    while isinstance(getattr(model, ORIGINAL, None), nn.Module):
        model = getattr(model, ORIGINAL)
    return model


def is_compiled(model: nn.Module) -> bool:
    """Whether the model or a module in it is compiled, wrapped or in place: then hooks may not run."""
    return any(
        hasattr(module, ORIGINAL) or getattr(module, "_compiled_call_impl", None) is not None
        for module in model.modules()
    )


@contextmanager
def evaluating(model: Any) -> Iterator[None]:
    """While open every module of the model is in eval mode: dropout would be in the activations."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training


@contextmanager
def own_run(model: Any) -> Iterator[None]:
    """For a forward pass of ours: eval mode, no gradients, no autocast, nothing compiled; afterwards all as it was."""
    with ExitStack() as stack:
        stack.enter_context(evaluating(model))
        stack.enter_context(torch.no_grad())
        stack.enter_context(no_autocast())  # the dtype on record is the model's own
        if "torch._dynamo" in sys.modules and is_compiled(model):
            # A graph compiled before a hook was set does not call it.
            stack.enter_context(torch.compiler.set_stance("force_eager"))
        yield


def input_device(model: Any) -> torch.device:
    """Where a model takes its inputs: a device that is one, also where weights are offloaded or spread.

    A model that accelerate dispatches has its weights on "meta" between calls; its hooks know where they will be.
    """
    embeddings = _embeddings(model)
    for module in (embeddings, model):
        device = getattr(getattr(module, "_hf_hook", None), "execution_device", None)
        if device is not None:
            return _device(device)
    for module in (embeddings, model):
        for tensor in (*module.parameters(), *module.buffers()) if isinstance(module, nn.Module) else ():
            if tensor.device.type != "meta":
                return tensor.device
    for place in (getattr(model, "hf_device_map", None) or {}).values():
        if place not in ("disk", "meta"):
            return _device(place)
    return torch.device("cpu")


def _device(device: Any) -> torch.device:
    return torch.device("cuda", device) if isinstance(device, int) else torch.device(device)


def _embeddings(model: Any) -> Any:
    try:
        return model.get_input_embeddings()
    except (AttributeError, NotImplementedError):
        return None


def text_inputs(model: Any, input_ids: Tensor, attention_mask: Tensor | None) -> dict[str, Any]:
    """Keyword arguments of a forward pass over token ids [batch, position], without a cache where models have one."""
    device = input_device(model)
    inputs: dict[str, Any] = {"input_ids": input_ids.to(device, torch.int64)}
    if attention_mask is not None:
        inputs["attention_mask"] = attention_mask.to(device)
    parameters = inspect.signature(model.forward).parameters
    if "use_cache" in parameters or any(kind.kind is kind.VAR_KEYWORD for kind in parameters.values()):
        inputs["use_cache"] = False
    return inputs
