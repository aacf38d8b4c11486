"""`make bench`: encode and training step on CPU, paired with the dense way in one process.

First every op is compared with its reference; nothing is timed when that fails. Then, per shape and degree, sparse
and dense
calls alternate (so that a slow moment of the machine hits both), several times, and the table gives medians with the
spread
of the ratio. Results go to benchmarks/results/cpu.csv with commit, versions and machine; rows of other machines and
instruction sets stay.

    python benchmarks/run.py                # everything, under ten minutes on two cores
    python benchmarks/run.py --quick        # three shapes, degree 7
    python benchmarks/run.py --isa avx2     # the core on another set of this machine; torch stays as it is
"""

import argparse
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from ceiling import multiply_adds
from facts import facts, replace_own_rows
from rich.console import Console
from rich.table import Table

from expander_sae.graphs import make_mask
from expander_sae.ops import instruction_sets, selftest, use_instruction_set
from expander_sae.ops.encode_topk import native
from expander_sae.pursuit import Encoder
from expander_sae.saes import DenseTopKSae, ExpanderSae, InputStatistics
from expander_sae.training import TrainConfig
from expander_sae.training.member import Member

RESULTS = Path(__file__).parent / "results"
K = 32


@dataclass(frozen=True)
class Shape:
    """One dictionary size, the model it belongs to, and how many tokens a dense call gets."""

    name: str
    d_in: int
    n_latents: int
    dense_batch: int


SHAPES = (
    Shape("Pythia-70M", 512, 4096, 512),
    Shape("SmolLM2-135M", 576, 18432, 256),
    Shape("Pythia-160M", 768, 6144, 256),
    Shape("Pythia-160M, 32x", 768, 24576, 128),
    Shape("Qwen2.5-3B, Llama-3.2-1B", 2048, 16384, 64),
    Shape("Qwen2.5-3B, Llama-3.2-1B, 16x", 2048, 32768, 64),
)
DEGREES = (4, 7, 16, 32, 64)
BATCHES = (1, 4, 16, 64, 256, 1024, 4096)
BATCH = 1024


def paired(calls: dict[str, tuple[Callable[[], object], int]], repeats: int) -> dict[str, list[float]]:
    """Microseconds per token of each call, `repeats` rounds in which all take turns; one round before that warms up.

    Between two calls a small matrix product runs on torch's own threads, as in training: kernels that fight with its
    thread pool would be caught here.
    """
    between = torch.randn(256, 256)
    times: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(repeats + 1):
        for name, (call, tokens) in calls.items():
            between @ between
            started = time.perf_counter()
            call()
            times[name].append((time.perf_counter() - started) / tokens * 1e6)
    return {name: spent[1:] for name, spent in times.items()}


def median(numbers: list[float]) -> float:
    return sorted(numbers)[len(numbers) // 2]


def activations(batch: int, d_in: int) -> torch.Tensor:
    """Gaussian around a low-rank part and a mean, so that pre-activations are as unequal as a language model's."""
    generator = torch.Generator().manual_seed(0)
    low_rank = torch.randn(batch, 32, generator=generator) @ torch.randn(32, d_in, generator=generator) * 0.3
    return torch.randn(batch, d_in, generator=generator) + low_rank + 0.5


def encode_calls(shape: Shape, degree: int) -> dict[str, tuple[Callable[[], object], int]]:
    """Our encoder at a large batch and at a batch of one."""
    x = activations(BATCH, shape.d_in)
    mask = make_mask(d_in=shape.d_in, n_latents=shape.n_latents, degree=degree, seed=0)
    rows = torch.tensor(mask.rows.astype("uint16"))
    values = torch.nn.functional.normalize(torch.randn(shape.n_latents, degree), dim=1)
    # A bias far below zero lets no candidate through: what is left is the gather-reduce itself.
    closed = torch.full((shape.n_latents,), -1e6)
    return {
        f"encode d={degree}": (lambda: native.forward(x, rows, values, K, None, None, False), BATCH),
        f"no push d={degree}": (lambda: native.forward(x, rows, values, K, closed, None, False), BATCH),
        f"one token d={degree}": (lambda: native.forward(x[:1], rows, values, K, None, None, False), 1),
    }


def dense_encode_calls(shape: Shape) -> dict[str, tuple[Callable[[], object], int]]:
    """The dense encoder, in both precisions; the faster one counts."""
    calls = {}
    for dtype in (torch.float32, torch.bfloat16):
        x = activations(shape.dense_batch, shape.d_in).to(dtype)
        w = torch.randn(shape.n_latents, shape.d_in).to(dtype)
        name = str(dtype).removeprefix("torch.")
        calls[f"dense encode {name}"] = (lambda x=x, w=w: torch.topk(x @ w.T, K), shape.dense_batch)
        calls[f"dense one token {name}"] = (lambda x=x, w=w: torch.topk(x[:1] @ w.T, K), 1)
    return calls


def step_calls(shape: Shape, degree: int | None) -> dict[str, tuple[Callable[[], object], int]]:
    """A whole training step: forward, loss, backward, clip, Adam, unit norms, dead-latent bookkeeping."""
    batch = 2048 if degree is not None else shape.dense_batch
    x = activations(batch, shape.d_in)
    statistics = InputStatistics(x.mean(0), 1.0, float((x - x.mean(0)).square().sum(1).mean()), 0)
    config = TrainConfig(tokens=batch * 10_000, batch_size=batch, revive=None)
    sizes = {"d_in": shape.d_in, "n_latents": shape.n_latents, "k": K}
    sae = DenseTopKSae(**sizes) if degree is None else ExpanderSae(**sizes, degree=degree, reading=Encoder())
    member = Member("sae", sae, config, statistics)
    name = "dense step" if degree is None else f"step d={degree}"
    return {name: (lambda: member.step(5, x), batch)}


def ceilings() -> dict[str, float]:
    """What this machine does at best, in one process with everything else: multiply-adds by matrix product, and memory.

    `product` in billions of multiply-adds/s: a float32 matrix product of 2048 squared, the highest rate of any code
    here. `memory` in GB/s: the sum of 256 MB, read once.
    """
    a, large = torch.randn(2048, 2048), torch.ones(2**26)
    best = paired({"product": (lambda: a @ a, 1), "sum": (large.sum, 1)}, 5)
    return {
        "product": 2048**3 / min(best["product"]) / 1e3,
        "memory": large.numel() * 4 / min(best["sum"]) / 1e3,
    }


def shares(row: dict, peak: dict[str, float], isa: str) -> dict[str, float]:
    """How near a call comes to both ceilings: its multiply-adds, and the least it must move through memory.

    The ceiling of multiply-adds is for dense calls the matrix product, for sparse ones what the cache can feed of a
    tile (ceiling.py), on as many threads.

    A step counts its encode, and three passes over the k active columns of a token: reconstruction, the gradient of the
    codes, that of the values. Its optimiser's work is per call, not per token, and left out.
    """
    name = row["call"]
    width = row["d_in"] if name.startswith("dense") else int(name.partition("d=")[2].partition(" ")[0])
    batch = int(name.partition("batch ")[2].partition(" ")[0] or (1 if "one token" in name else BATCH))
    # x and the codes once per token, the dictionary once per call.
    moved = 4 * row["d_in"] + 12 * K + (6 if width < row["d_in"] else 4) * width * row["n_latents"] / batch
    active = 3 * K * width if "step" in name else 0
    rate = (width * row["n_latents"] + active) / row["us_per_token"] / 1e3
    fed = peak["product"] if width == row["d_in"] else multiply_adds(isa, row["d_in"], torch.get_num_threads())
    return {
        "gmac_per_s": rate,
        "ceiling_gmac_per_s": fed,
        "share_of_ceiling": rate / fed,
        "share_of_memory": moved / row["us_per_token"] / 1e3 / peak["memory"],
        "ceiling_memory": peak["memory"],
    }


def batch_calls(shape: Shape) -> dict[str, tuple[Callable[[], object], int]]:
    """Encode at batches from one token to thousands; small ones several times over, for the clock to see."""
    mask = make_mask(d_in=shape.d_in, n_latents=shape.n_latents, degree=7, seed=0)
    rows = torch.tensor(mask.rows.astype("uint16"))
    values = torch.nn.functional.normalize(torch.randn(shape.n_latents, 7), dim=1)

    def encode(batch: int, times: int) -> Callable[[], object]:
        x = activations(batch, shape.d_in)
        return lambda: [native.forward(x, rows, values, K, None, None, False) for _ in range(times)]

    plan = {batch: max(1, 256 // batch) for batch in BATCHES}
    return {f"batch {batch} d=7": (encode(batch, times), batch * times) for batch, times in plan.items()}


def measure(
    shapes: tuple[Shape, ...], degrees: tuple[int, ...], repeats: int, isa: str, say: Console
) -> Iterator[dict]:
    """One row per shape and call."""
    peak = ceilings()
    say.print(f"ceilings: {peak['product']:,.0f} billion multiply-adds/s, {peak['memory']:,.0f} GB/s", highlight=False)
    for shape in shapes:
        calls = dense_encode_calls(shape)
        for degree in degrees:
            calls |= encode_calls(shape, degree)
        encode = paired(calls, repeats)
        steps = step_calls(shape, None)
        for degree in degrees:
            steps |= step_calls(shape, degree)
        step = paired(steps, max(3, repeats // 2))
        faster = {
            kind: min((f"{kind} float32", f"{kind} bfloat16"), key=lambda name: median(encode[name]))
            for kind in ("dense encode", "dense one token")
        }
        sweep = paired(batch_calls(shape), max(3, repeats // 2)) if shape in (SHAPES[0], SHAPES[-1]) else {}
        for name, times in (encode | step | sweep).items():
            kind = "dense one token" if "one token" in name else "dense encode"
            base = step["dense step"] if "step" in name else encode[faster[kind]]
            ratios = [other / own for own, other in zip(times, base, strict=False)]
            row = {
                "model": shape.name,
                "d_in": shape.d_in,
                "n_latents": shape.n_latents,
                "k": K,
                "call": name,
                "us_per_token": median(times),
                "us_per_token_min": min(times),
                "us_per_token_max": max(times),
                "times_faster_than_dense": median(ratios),
                "ratio_min": min(ratios),
                "ratio_max": max(ratios),
                "repeats": len(times),
            }
            yield row | shares(row, peak, isa)
        say.print(f"{shape.name}: done", highlight=False)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="three shapes, degree 7")
    parser.add_argument("--isa", choices=instruction_sets(), default=instruction_sets()[0], help="of the core")
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--out", type=Path, default=RESULTS / "cpu.csv")
    arguments = parser.parse_args()
    with use_instruction_set(arguments.isa):
        run(arguments)


def run(arguments: argparse.Namespace) -> None:
    say = Console()
    failed = [check for check in selftest.run_checks() if not check.passed]
    if failed:
        sys.exit(f"not timing anything, these checks fail: {failed}")
    shapes = (SHAPES[0], SHAPES[1], SHAPES[-1]) if arguments.quick else SHAPES
    degrees = (7,) if arguments.quick else DEGREES
    common = facts()
    table = Table(title=f"{common['cpu']}, {arguments.isa}, {common['threads']} threads, k = {K}")
    columns = ("shape", "call", "µs/token", "spread", "times faster than dense", "spread", "of the ceiling")
    for column in columns:
        table.add_column(column, justify="right" if column not in columns[:2] else "left")
    written = []
    for row in measure(shapes, degrees, arguments.repeats, arguments.isa, say):
        written.append({k: f"{v:.4g}" if isinstance(v, float) else v for k, v in row.items()} | common)
        table.add_row(
            f"{row['d_in']} x {row['n_latents']}",
            row["call"],
            f"{row['us_per_token']:,.2f}",
            f"{row['us_per_token_min']:,.2f}..{row['us_per_token_max']:,.2f}",
            f"{row['times_faster_than_dense']:,.1f}",
            f"{row['ratio_min']:,.1f}..{row['ratio_max']:,.1f}",
            f"{row['share_of_ceiling']:.0%}",
        )
    replace_own_rows(arguments.out, written, ("d_in", "n_latents"))
    say.print(table)
    say.print(f"written to {arguments.out}", highlight=False)


if __name__ == "__main__":
    main()
