"""The ranks that `torchrun` started."""

import gc
import os
from collections.abc import Iterator
from contextlib import contextmanager

import torch
import torch.distributed as dist

from .ranks import ALONE, Ranks


@contextmanager
def started(device: str = "cpu") -> Iterator[tuple[Ranks, str]]:
    """The ranks of this `torchrun`, and the device of this one: "cuda" is the GPU of its own that each rank of a
    machine has. Without `torchrun`, one rank on the device as it is.

    Tensors on the CPU are exchanged by gloo, those on GPUs by NCCL.

    Example:
        >>> with started() as (ranks, device):
        ...     ranks.size, device
        (1, 'cpu')
    """
    if not dist.is_torchelastic_launched() or int(os.environ["WORLD_SIZE"]) == 1:
        yield ALONE, device
        return
    on_gpu = torch.device(device).type == "cuda"
    if on_gpu:
        device = f"cuda:{os.environ['LOCAL_RANK']}"
        torch.cuda.set_device(device)
    dist.init_process_group("cpu:gloo,cuda:nccl" if on_gpu else "gloo")
    try:
        assert dist.group.WORLD is not None
        yield Ranks(dist.group.WORLD), device
    finally:
        dist.destroy_process_group()
        # A finished pass refers to itself, and would keep the group until Python ends: gloo's threads abort it then.
        gc.collect()
