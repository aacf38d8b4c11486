"""Which backends can run here, and the rule that picks one.

Nothing is chosen at import time, and no environment variable changes a result.
"""

import importlib.util
from types import ModuleType

import torch

from expander_sae.records import ExpanderSaeError

BACKENDS = ("auto", "reference", "native", "triton")


def native_core() -> ModuleType | None:
    """The compiled C++ core, or None if the package was installed without it."""
    if importlib.util.find_spec("expander_sae.ops._native") is None:
        return None
    return importlib.import_module("expander_sae.ops._native")


def why_not_native(device: torch.device) -> str | None:
    """The reason the C++ core cannot take a tensor on `device`, or None if it can."""
    if device.type != "cpu":
        return f"the C++ core runs on CPU tensors, these are on {device}"
    if native_core() is None:
        return "the C++ core is not installed; reinstall the package with a C++20 compiler at hand"
    return None


def why_not_triton(device: torch.device) -> str | None:
    """The reason Triton kernels cannot take a tensor on `device`, or None if they can."""
    if importlib.util.find_spec("triton") is None:
        return "triton is not installed; pip install 'expander-sae[triton]'"
    if device.type != "cuda":
        return f"Triton kernels run on CUDA tensors, these are on {device}"
    return None


def check_device(name: str) -> torch.device:
    """The device of that name, if torch can put a tensor there.

    Raises:
        ExpanderSaeError: there is no such device here.

    Example:
        >>> check_device("cpu")
        device(type='cpu')
    """
    try:
        probe = torch.zeros(1, device=name, dtype=torch.float32)
        probe.item()
        return probe.device
    except (RuntimeError, AssertionError, ImportError) as error:  # what it is depends on how torch was built
        reason = str(error).splitlines()[0]
        raise ExpanderSaeError(
            f"expected a device that torch can use here, such as cpu or cuda:0; got {name!r}: {reason}. "
            "For CUDA, install a torch that was built for it, on a machine that has such a device."
        ) from error


def choose_backend(backend: str, device: torch.device, **reasons: str | None) -> str:
    """The backend that will run: the named one, or the fastest that can.

    Args:
        backend: one of `BACKENDS`.
        device: where the tensors are.
        reasons: per backend, why this call cannot use it, for what only the op knows (shapes, dtypes).

    Raises:
        ExpanderSaeError: the name is unknown, or the named backend cannot run; the reason is in the message.
    """
    if backend not in BACKENDS:
        raise ExpanderSaeError(f"expected backend as one of {', '.join(BACKENDS)}; got {backend!r}")
    if backend == "reference":
        return backend
    why = {
        "native": why_not_native(device) or reasons.get("native"),
        "triton": why_not_triton(device) or reasons.get("triton"),
    }
    if backend == "auto":
        return next((name for name in ("native", "triton") if why[name] is None), "reference")
    if why[backend] is not None:
        raise ExpanderSaeError(f"backend={backend!r} cannot run here: {why[backend]}. Use backend='auto'.")
    return backend
