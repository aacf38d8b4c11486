"""What the timing scripts of this folder share: arguments, activations, the clock and the JSON line.

Runs in two environments, so it needs nothing but torch and the standard library. The scripts are called `time_*.py`
because a script's own folder comes first on the import path: `sae_lens.py` would import itself.
"""

import argparse
import gc
import importlib.metadata
import importlib.util
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

Step = Callable[[int, Tensor], object]
"""One training step: (number of the step, x [batch, d_in])."""


class Job(NamedTuple):
    """What to time."""

    d_in: int
    n_latents: int
    k: int
    batches: list[int]
    settings: list[str]
    steps: int
    repeats: int
    seconds: float
    threads: int
    activations: Path | None


Make = Callable[[str, Job, Tensor], tuple[Step, torch.nn.Module]]


def job(settings: list[str], extra_settings: tuple[str, ...] = ()) -> Job:
    """Read the command line; `settings` run by default, `extra_settings` only when named."""
    parser = argparse.ArgumentParser(description="Time one library's TopK training step; prints JSON lines.")
    parser.add_argument("--d-in", type=int, required=True)
    parser.add_argument("--n-latents", type=int, required=True)
    parser.add_argument("--k", type=int, default=32)
    parser.add_argument("--batch", type=int, nargs="+", required=True, help="one or more batch sizes")
    known = [*settings, *extra_settings]
    parser.add_argument("--settings", nargs="+", choices=known, default=settings, help="default: %(default)s")
    parser.add_argument("--steps", type=int, default=50, help="most steps per repeat")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=10.0, help="aim for one setting and batch, without warm-up")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--activations", type=Path, help="a tensor [tokens, d_in] saved by torch.save")
    a = parser.parse_args()
    torch.set_num_threads(a.threads)
    return Job(a.d_in, a.n_latents, a.k, a.batch, a.settings, a.steps, a.repeats, a.seconds, a.threads, a.activations)


def synthetic_activations(tokens: int, d_in: int, seed: int = 0) -> Tensor:
    """x [tokens, d_in]: a sparse mixture of fixed directions, an offset and normal noise."""
    generator = torch.Generator().manual_seed(seed)
    rank = max(1, min(256, d_in // 2))
    directions = torch.nn.functional.normalize(torch.randn(rank, d_in, generator=generator), dim=1)
    amounts = torch.randn(tokens, rank, generator=generator).sub_(1.0).relu_()
    offset = torch.randn(d_in, generator=generator) * 0.1
    return 10 * amounts @ directions + offset + 0.3 * torch.randn(tokens, d_in, generator=generator)


def load_activations(wanted: Job) -> Tensor:
    """The activations that were asked for, at least one batch of them."""
    if wanted.activations is None:
        return synthetic_activations(2 * max(wanted.batches), wanted.d_in)
    x = torch.load(wanted.activations, weights_only=True).float()
    if x.ndim != 2 or x.shape[1] != wanted.d_in or len(x) < max(wanted.batches):
        sys.exit(f"expected [tokens >= {max(wanted.batches)}, d_in = {wanted.d_in}]; got {list(x.shape)}")
    return x


def package_without_init(name: str) -> None:
    """Make `name.submodule` importable without running `name/__init__.py`.

    For packages whose top level imports language or vision models that their SAE code does not need.
    """
    spec = importlib.util.find_spec(name)
    assert spec is not None, f"{name} is not installed"
    sys.modules[name] = importlib.util.module_from_spec(spec)


def bfloat16_autocast(enabled: bool) -> torch.autocast:
    """CPU autocast to bfloat16, or nothing."""
    return torch.autocast("cpu", dtype=torch.bfloat16, enabled=enabled)


def run(wanted: Job, peer: str, distribution: str, make: Make) -> None:
    """Time every setting and batch size, one JSON line each.

    Args:
        wanted: the job.
        peer: name in the table.
        distribution: name on the package index, for the version.
        make: (setting, job, activations) -> training step, and the SAE it trains.
    """
    x = load_activations(wanted)
    for setting in wanted.settings:
        facts = {
            "peer": peer,
            "version": importlib.metadata.version(distribution),
            "setting": setting,
            "d_in": wanted.d_in,
            "n_latents": wanted.n_latents,
            "k": wanted.k,
            "threads": torch.get_num_threads(),
            "torch": torch.__version__,
        }
        torch.manual_seed(0)
        step, sae = make(setting, wanted, x)
        done = 0
        for batch in wanted.batches:
            rates, steps, done = _time(step, x, batch, wanted, done, warm_up=4 if "compiled" in setting else 1)
            if not all(bool(p.isfinite().all()) for p in sae.parameters()):
                sys.exit(f"{peer}, {setting}, batch {batch}: the parameters are not finite any more")
            measured = {"batch": batch, "steps": steps, "tokens_per_s": [round(rate, 2) for rate in rates]}
            print(json.dumps(facts | measured), flush=True)
        del step, sae
        gc.collect()  # two copies of a large SAE with its optimiser do not always fit


def _time(step: Step, x: Tensor, batch: int, wanted: Job, done: int, *, warm_up: int) -> tuple[list[float], int, int]:
    """Tokens per second of every repeat, steps per repeat, and the number of steps taken so far."""
    batches = [b for b in x.split(batch) if len(b) == batch]

    def take(count: int) -> float:
        nonlocal done
        started = time.perf_counter()
        for _ in range(count):
            step(done, batches[done % len(batches)])
            done += 1
        return time.perf_counter() - started

    # The first step allocates the optimiser's state (compiled code: the first few compile); where steps are short, one
    # more says how long they take.
    one = take(warm_up) / warm_up
    if warm_up > 1 or one < wanted.seconds / 2:
        one = take(1)
    steps = max(1, min(wanted.steps, int(wanted.seconds / wanted.repeats / one)))
    rates: list[float] = []
    spent = 0.0
    while len(rates) < wanted.repeats and (not rates or spent < wanted.seconds):
        took = take(steps)
        spent += took
        rates.append(steps * batch / took)
    return rates, steps, done
