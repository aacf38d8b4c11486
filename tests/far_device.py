"""A device that is not the CPU, on a machine that has none: mixing its tensors with the CPU's fails as on a GPU.

A `FarTensor` holds a CPU tensor and says it is on "far:0"; operations run on what it holds. So code runs here with real
numbers, and raises where a GPU would: an operation on tensors of two devices, `.numpy()`, the CPU's generator.
It shows nothing about kernels. torch calls the way to register such a device experimental, and it changes the whole
process, so import this in a process of its own.
"""

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map
from torch.utils.backend_registration import _setup_privateuseone_for_python_backend

_setup_privateuseone_for_python_backend("far")
FAR = torch.device("far", 0)

_MAY_MIX = ("_to_copy", "copy_", "index", "index_put", "index_put_", "_index_put_impl_")
"""Operations that CUDA does across devices: copies, and an index that lies on the CPU."""


class FarTensor(torch.Tensor):
    """A tensor on the far device."""

    @staticmethod
    def __new__(cls, near):
        far = torch.Tensor._make_wrapper_subclass(
            cls,
            near.size(),
            strides=near.stride(),
            storage_offset=near.storage_offset(),
            dtype=near.dtype,
            device=FAR,
        )
        far.near = near
        return far

    def __repr__(self):
        return f"far {self.near!r}"

    def tolist(self):
        return self.detach().near.tolist()

    def data_ptr(self):
        return self.near.data_ptr()

    @classmethod
    def __torch_dispatch__(cls, operation, types, args=(), kwargs=None):
        return _run(operation, args, kwargs or {})


class FarDevice(TorchDispatchMode):
    """Inside this, `device="far"` works."""

    def __torch_dispatch__(self, operation, types, args=(), kwargs=None):
        return _run(operation, args, kwargs or {})


def _run(operation, args, kwargs):
    tensors = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, torch.Tensor)]
    far = [tensor for tensor in tensors if isinstance(tensor, FarTensor)]
    name = operation.overloadpacket.__name__
    device = kwargs.get("device")
    if device is not None:
        to_far = torch.device(device).type == FAR.type
        kwargs = {**kwargs, "device": torch.device("cpu")}
    elif name in _MAY_MIX:
        to_far = isinstance(args[0], FarTensor)
    else:
        to_far = bool(far)
        near = [tensor for tensor in tensors if not isinstance(tensor, FarTensor)]
        if far and any(tensor.ndim for tensor in near):
            raise RuntimeError(f"{operation}: expected all tensors on one device; found far and cpu")
    if to_far and kwargs.get("generator") is not None:
        raise RuntimeError(f"{operation}: expected a generator of the far device; found the CPU's")
    near_args, near_kwargs = tree_map(_near, (args, kwargs))
    known = {id(tensor.near): tensor for tensor in far}  # what is changed in place is given back itself

    def wrapped(out):
        if not isinstance(out, torch.Tensor) or not to_far:
            return out
        return known[id(out)] if id(out) in known else FarTensor(out)

    return tree_map(wrapped, operation(*near_args, **near_kwargs))


def _near(leaf):
    return leaf.near if isinstance(leaf, FarTensor) else leaf
