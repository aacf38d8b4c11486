"""A few seconds of checks on this very machine: do the backends agree, and how fast are they."""

import time
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from expander_sae.ops.backends import native_core, why_not_native, why_not_triton
from expander_sae.ops.block_omp import block_omp
from expander_sae.ops.encode_topk import encode_topk
from expander_sae.ops.reconstruction_loss import reconstruction_loss


class Check(NamedTuple):
    """One check of one backend."""

    name: str
    passed: bool
    detail: str


def _example(
    batch: int, d_in: int, n_latents: int, degree: int, device: torch.device, *, whole: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """x, rows, values; whole numbers make every sum exact, so that backends must agree to the last bit."""
    generator = torch.Generator().manual_seed(0)
    rows = (
        torch.rand(n_latents, d_in, generator=generator, dtype=torch.float32, device="cpu")
        .topk(degree)
        .indices.sort(dim=1)
        .values
    )
    if whole:
        x = torch.randint(-3, 4, (batch, d_in), generator=generator, device="cpu").float()
        values = torch.randint(-2, 3, (n_latents, degree), generator=generator, device="cpu").float()
    else:
        x, values = (
            torch.randn(s, generator=generator, dtype=torch.float32, device="cpu")
            for s in ((batch, d_in), (n_latents, degree))
        )
    return x.to(device), rows.to(device), values.to(device)


def usable_backends() -> dict[str, str | None]:
    """Per backend and device kind, why it cannot run here, or None if it can."""
    return {
        "native (C++, CPU)": why_not_native(torch.device("cpu")),
        "triton (CUDA)": why_not_triton(torch.device("cuda"))
        or (None if torch.cuda.is_available() else "torch sees no CUDA device"),
    }


def native_facts() -> dict[str, str]:
    """What the C++ core chose: instruction set and thread runtime."""
    core = native_core()
    if core is None:
        return {}
    return {
        "instruction set": f"{core.instruction_set()} (built: {core.available_instruction_sets()})",
        "threads": f"{torch.get_num_threads()}, on: {core.thread_runtime()}",
    }


def run_checks() -> list[Check]:
    """Compare every backend that runs here with the reference, values and gradients."""
    checks = []
    if why_not_native(torch.device("cpu")) is None:
        checks += [_same_codes("native", torch.device("cpu")), _same_gradients(), _same_pursuit()]
    if torch.cuda.is_available() and why_not_triton(torch.device("cuda")) is None:
        checks.append(_same_codes("triton", torch.device("cuda")))
    return checks


def _same_codes(backend: str, device: torch.device) -> Check:
    x, rows, values = _example(67, 96, 1500, 7, device, whole=True)
    want = encode_topk(x, rows, values, 24, backend="reference")
    got = encode_topk(x, rows, values, 24, backend=backend)
    same = torch.equal(got.indices, want.indices) and torch.equal(got.values, want.values)
    return Check(
        f"{backend}: encode_topk equals the reference", same, "67 tokens, d_in 96, n_latents 1500, ties included"
    )


def _same_gradients() -> Check:
    x, rows, values = _example(67, 96, 1500, 7, torch.device("cpu"), whole=False)
    gradients = []
    for backend in ("reference", "native"):
        leaf = values.clone().requires_grad_()
        reconstruction_loss(
            x, rows, leaf, 24, center=torch.zeros(96, dtype=torch.float32, device="cpu"), backend=backend
        ).loss.backward()
        assert leaf.grad is not None
        gradients.append(leaf.grad)
    error = float((gradients[0] - gradients[1]).abs().max() / gradients[0].abs().max())
    return Check("native: gradients equal the reference", error < 1e-5, f"largest relative difference {error:.1e}")


def _same_pursuit() -> Check:
    x, rows, values = _example(67, 96, 1500, 7, torch.device("cpu"), whole=False)
    unit = torch.nn.functional.normalize(values, dim=1)
    found = [block_omp(x, rows, unit, 16, block=4, spare=8, backend=name) for name in ("reference", "native")]
    supports = [codes.indices.sort(dim=1).values for codes in found]
    same = (supports[0] == supports[1]).all(dim=1)
    error = float((found[0].values - found[1].values)[same].abs().max()) if bool(same.any()) else float("inf")
    return Check(
        "native: pursuit equals the reference",
        float(same.float().mean()) > 0.95 and error < 1e-3,
        f"same support in {int(same.sum())} of 67 tokens (float32 may break a near tie the other way), codes within "
        f"{error:.0e}",
    )


def timings(seconds: float = 5.0) -> dict[str, float]:
    """Median microseconds per token of encode_topk on CPU at d_in 2048, n_latents 32768, degree 7, k 32.

    "batch 512" is per token of a large batch, "one token" the latency of a batch of one, "matrix product + topk" the
    dense way at the same size (float32, batch 64).
    """
    x, _, values = _example(512, 2048, 1, 7, torch.device("cpu"), whole=False)
    generator = torch.Generator().manual_seed(1)
    rows = torch.randint(0, 2048 // 7, (32768, 7), generator=generator, device="cpu") + torch.arange(
        7, device="cpu"
    ) * (2048 // 7)
    rows, values = rows.to(torch.uint16), torch.randn(32768, 7, generator=generator, dtype=torch.float32, device="cpu")
    dense = torch.randn(32768, 2048, generator=generator, dtype=torch.float32, device="cpu")
    share = seconds / 3
    return {
        "batch 512": _median_seconds(lambda: encode_topk(x, rows, values, 32), share) / 512 * 1e6,
        "one token": _median_seconds(lambda: encode_topk(x[:1], rows, values, 32), share) * 1e6,
        "matrix product + topk": _median_seconds(lambda: torch.topk(x[:64] @ dense.T, 32), share) / 64 * 1e6,
    }


def _median_seconds(call: Callable[[], object], budget: float) -> float:
    call()
    spent: list[float] = []
    while sum(spent) < budget or len(spent) < 3:
        started = time.perf_counter()
        call()
        spent.append(time.perf_counter() - started)
    return sorted(spent)[len(spent) // 2]
