"""Functions run by several ranks: processes that a server with torch already imported forks, so that one starts in no
time."""

import multiprocessing
import signal
import tempfile
import traceback
from pathlib import Path

import torch
import torch.distributed as dist

from expander_sae.distributed import Ranks

_SERVER = multiprocessing.get_context("forkserver")
_LATER = ("torch._dynamo", "torch.distributed.tensor")  # what torch itself imports at a first step
_SERVER.set_forkserver_preload(["torch", "torch.distributed", *_LATER, "expander_sae.training", "pytest"])


def in_ranks(size, function, *arguments):
    """`function(ranks, *arguments)` on every rank; what each returned, by rank. An exception is what it was there."""
    with tempfile.TemporaryDirectory() as folder:
        results = _SERVER.Queue()
        processes = [
            _SERVER.Process(target=_one, args=(rank, size, folder, results, function, arguments), daemon=True)
            for rank in range(size)
        ]
        for process in processes:
            process.start()
        found = dict(results.get(timeout=120) for _ in processes)
        for process in processes:
            process.join(30)
    for rank in range(size):
        if isinstance(found[rank], str) and found[rank].startswith("Traceback"):
            raise AssertionError(f"rank {rank}: {found[rank]}")
    return [found[rank] for rank in range(size)]


def _one(rank, size, folder, results, function, arguments):
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background job begins with it ignored
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{Path(folder) / 'meeting'}", rank=rank, world_size=size)
    try:
        result = function(Ranks(dist.group.WORLD), *arguments)
    except BaseException:
        result = traceback.format_exc()
    results.put((rank, result))
    results.close()
    results.join_thread()
    dist.destroy_process_group()
