"""Time the Triton kernels on one NVIDIA GPU against dense bf16 GEMM + torch.topk.

    python benchmarks/gpu.py --csv gpu.csv

First the kernels are checked on the device; nothing is timed if a check fails. A row gives the median and the
quartiles of the time per call between CUDA events, the time per token, and two rates: `must_move` is what any
implementation has to read and write (x, rows, values, codes) over the time, with its share of the measured copy
ceiling; `gathered` is what the kernel's inner loop reads, mostly from L1. No run of this script on a GPU has been
recorded yet.
"""

import argparse
import csv
import statistics
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from expander_sae.graphs import make_mask
from expander_sae.ops.encode_topk import triton as encode
from expander_sae.ops.sparse_decode import triton as decode

# d_in, n_latents, degree, k
SHAPES = [
    (512, 4096, 7, 32),
    (576, 18432, 7, 32),
    (768, 24576, 7, 32),
    (2048, 16384, 7, 32),
    (2048, 32768, 4, 32),
    (2048, 32768, 7, 32),
    (2048, 32768, 16, 32),
    (2048, 32768, 32, 32),
    (2048, 32768, 64, 32),
    (2048, 1 << 20, 7, 32),
]
TUNINGS = [(tile, lanes, warps) for tile in (8, 16, 32) for lanes in (64, 128, 256) for warps in (4, 8)]
Row = dict[str, Any]


def dictionary(d_in: int, n_latents: int, degree: int) -> tuple[Tensor, Tensor]:
    mask = make_mask("balanced", d_in=d_in, n_latents=n_latents, degree=degree, seed=0)
    rows = torch.tensor(mask.rows).cuda()
    generator = torch.Generator(device="cuda").manual_seed(0)
    values = torch.randn(n_latents, degree, device="cuda", generator=generator)
    return rows, torch.nn.functional.normalize(values, dim=1)


def plain_pre(x: Tensor, rows: Tensor, values: Tensor) -> Tensor:
    """[batch, n_latents] in the dtype of values."""
    index = rows.to(torch.int64)
    pre = torch.zeros(len(x), len(rows), dtype=values.dtype, device=x.device)
    for e in range(index.shape[1]):
        pre += x.to(values.dtype)[:, index[:, e]] * values[:, e]
    return pre


def check(shape: tuple[int, int, int, int], dtype: torch.dtype) -> list[str]:
    """What is wrong at this shape, as sentences; empty if all is well."""
    d_in, n_latents, degree, k = shape
    rows, values = dictionary(d_in, n_latents, degree)
    wrong: list[str] = []
    generator = torch.Generator(device="cuda").manual_seed(1)
    # Small integers: no rounding and thousands of ties, so indices have to be equal.
    grid_x = torch.randint(-3, 4, (40, d_in), device="cuda", generator=generator).to(dtype)
    grid_values = torch.randint(-2, 3, values.shape, device="cuda", generator=generator).float()
    for signed in (False, True):
        got = encode.forward(grid_x, rows, grid_values, k, None, None, signed)
        pre = plain_pre(grid_x, rows, grid_values)
        best = torch.sort(pre if signed else pre.relu(), dim=1, descending=True, stable=True)
        if not (torch.equal(got[0], best.indices[:, :k]) and torch.equal(got[1], best.values[:, :k])):
            wrong.append(f"encode differs on the integer grid, signed={signed}")
    x = torch.randn(40, d_in, device="cuda", generator=generator).to(dtype)
    indices, codes = encode.forward(x, rows, values, k, None, None, False)
    pre = plain_pre(x, rows, values.double())
    if not torch.allclose(codes.double(), pre.relu().topk(k).values, atol=1e-5):
        wrong.append("encode values differ on real numbers")
    if not torch.allclose(pre.relu().gather(1, indices), codes.double(), atol=1e-5):
        wrong.append("encode indices do not belong to its values")
    out = decode.forward(indices, codes, rows, values, d_in)
    columns, targets = values.double()[indices] * codes[..., None], rows.to(torch.int64)[indices]
    expected = torch.zeros(40, d_in, dtype=torch.float64, device="cuda")
    expected.scatter_add_(1, targets.flatten(1), columns.flatten(1))
    if not torch.allclose(out.double(), expected, atol=1e-5):
        wrong.append("decode differs")
    grad = torch.randn(40, d_in, device="cuda", generator=generator)
    entries = grad.double().gather(1, targets.flatten(1)).view_as(columns)
    grad_codes, grad_values = decode.backward(grad, indices, codes, rows, values, True, True)
    assert grad_codes is not None
    assert grad_values is not None
    if not torch.allclose(grad_codes.double(), (entries * values.double()[indices]).sum(2), atol=1e-4):
        wrong.append("the gradient in the codes differs")
    wanted = torch.zeros(values.shape, dtype=torch.float64, device="cuda")
    wanted.index_add_(0, indices.flatten(), (entries * codes[..., None]).flatten(0, 1))
    if not torch.allclose(grad_values.double(), wanted, atol=1e-4):
        wrong.append("the gradient in the values differs")
    again = decode.backward(grad, indices, codes, rows, values, True, True)[1]
    if again is None or not torch.equal(grad_values, again):
        wrong.append("two runs of the backward pass give different bits")
    return wrong


def time_ms(call: Callable[[], object], repeats: int) -> list[float]:
    """Milliseconds of each of `repeats` calls, sorted, after a warm-up."""
    for _ in range(5):
        call()
    pairs = [[torch.cuda.Event(enable_timing=True) for _ in range(2)] for _ in range(repeats)]
    for start, end in pairs:
        start.record()
        call()
        end.record()
    torch.cuda.synchronize()
    return sorted(start.elapsed_time(end) for start, end in pairs)


def copy_ceiling(repeats: int) -> float:
    """Bytes per second that a copy of 1 GiB reads and writes."""
    source = torch.empty(1 << 30, dtype=torch.uint8, device="cuda")
    target = torch.empty_like(source)
    return 2 * source.numel() / (statistics.median(time_ms(lambda: target.copy_(source), repeats)) / 1e3)


def measure(name: str, call: Callable[[], object], moved: int, gathered: int, batch: int, repeats: int) -> Row:
    times = time_ms(call, repeats)
    median = statistics.median(times)
    return {
        "op": name,
        "batch": batch,
        "median_ms": round(median, 4),
        "lower_quartile_ms": round(times[len(times) // 4], 4),
        "upper_quartile_ms": round(times[-1 - len(times) // 4], 4),
        "ns_per_token": round(median * 1e6 / batch, 2),
        "must_move_gb_s": round(moved / median / 1e6, 1),
        "gathered_gb_s": round(gathered / median / 1e6, 1),
    }


def dense_rows(x: Tensor, n_latents: int, k: int, repeats: int) -> list[Row]:
    """Dense bf16 GEMM + topk, eager and compiled; a row with an empty time where it does not fit."""
    batch, d_in = x.shape
    moved = 2 * (x.numel() + d_in * n_latents) + 10 * batch * k

    def dense(x: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
        values, indices = torch.topk((x @ weights).relu(), k)
        return indices, values

    rows: list[Row] = []
    for name, function in (("dense bf16", dense), ("dense bf16, torch.compile", torch.compile(dense))):
        try:
            weights = torch.randn(d_in, n_latents, device="cuda", dtype=torch.bfloat16)
            x16 = x.bfloat16()

            def call(function: Any = function, x16: Tensor = x16, weights: Tensor = weights) -> object:
                return function(x16, weights)

            rows.append(measure(name, call, moved, 0, batch, repeats))
        except torch.cuda.OutOfMemoryError:
            rows.append({"op": name, "batch": batch, "median_ms": None})
        torch.cuda.empty_cache()
    return rows


def sparse_rows(x: Tensor, rows: Tensor, values: Tensor, k: int, repeats: int) -> list[Row]:
    """The four Triton ops of a training step."""
    (batch, d_in), (n_latents, degree) = x.shape, values.shape
    entry = rows.element_size() + 4
    indices, codes = encode.forward(x, rows, values, k, None, None, False)
    out = decode.forward(indices, codes, rows, values, d_in)
    table, code_bytes, touched = n_latents * degree * entry, 12 * batch * k, batch * k * degree * 4
    x_bytes, out_bytes = x.numel() * x.element_size(), 4 * out.numel()
    name = str(x.dtype).removeprefix("torch.")
    ops: list[tuple[str, Callable[[], object], int, int]] = [
        (
            f"encode {name}",
            lambda: encode.forward(x, rows, values, k, None, None, False),
            x_bytes + table + code_bytes,
            batch * n_latents * degree * x.element_size(),
        ),
        (
            f"encode backward {name}",
            lambda: encode.backward(codes, indices, x, rows, values, None, True, True, True),
            x_bytes + out_bytes + table + 4 * n_latents * (degree + 1) + code_bytes,
            3 * touched,
        ),
        (
            "decode",
            lambda: decode.forward(indices, codes, rows, values, d_in),
            out_bytes + code_bytes + min(table, batch * k * degree * entry),
            2 * touched,
        ),
        (
            "decode backward",
            lambda: decode.backward(out, indices, codes, rows, values, True, True),
            out_bytes + table + 4 * n_latents * degree + code_bytes,
            2 * touched,
        ),
    ]
    return [measure(label, call, moved, gathered, batch, repeats) for label, call, moved, gathered in ops]


def tuned_rows(x: Tensor, rows: Tensor, values: Tensor, k: int, repeats: int) -> list[Row]:
    """The encoder under other launch parameters."""
    found: list[Row] = []
    start = encode.default_tuning(x, len(values), k)
    for tile, lanes, warps in TUNINGS:
        for group in {start.group // 2, start.group, start.group * 2}:
            tuning = start._replace(tile=tile, lanes=lanes, warps=warps, group=group)

            def call(tuning: encode.Tuning = tuning) -> object:
                return encode.forward(x, rows, values, k, None, None, False, tuning)

            gathered = len(x) * values.numel() * x.element_size()
            found.append(measure(f"encode {tuning}", call, 0, gathered, len(x), repeats))
    return sorted(found, key=lambda row: row["median_ms"])[:5]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch", type=int, default=4096, help="tokens per call")
    parser.add_argument("--repeats", type=int, default=30, help="timed calls per row")
    parser.add_argument("--csv", type=Path, default=Path("gpu.csv"), help="where the table goes")
    parser.add_argument("--tune", action="store_true", help="also try other launch parameters of the encoder")
    arguments = parser.parse_args()
    if not torch.cuda.is_available():
        print("benchmarks/gpu.py needs a CUDA device; there is none.")
        return 2
    torch.manual_seed(0)
    for shape in SHAPES:
        for dtype in (torch.float32, torch.bfloat16):
            for sentence in check(shape, dtype):
                print(f"WRONG at {shape}, {dtype}: {sentence}. Nothing is timed.")
                return 1
    ceiling = copy_ceiling(arguments.repeats)
    device = torch.cuda.get_device_name()
    print(f"{device}, torch {torch.__version__}: all checks pass; copy ceiling {ceiling / 1e9:.0f} GB/s")
    table: list[Row] = []
    for d_in, n_latents, degree, k in SHAPES:
        rows, values = dictionary(d_in, n_latents, degree)
        x = torch.randn(arguments.batch, d_in, device="cuda")
        found = dense_rows(x, n_latents, k, arguments.repeats)
        for typed in (x, x.bfloat16()):
            found += sparse_rows(typed, rows, values, k, arguments.repeats)
            if arguments.tune:
                found += tuned_rows(typed, rows, values, k, arguments.repeats)
        dense_times = [row["median_ms"] for row in found[:2] if row["median_ms"]]
        for row in found:
            row |= {"d_in": d_in, "n_latents": n_latents, "degree": degree, "k": k, "device": device}
            if row["median_ms"]:
                row["share_of_copy"] = round(row["must_move_gb_s"] * 1e9 / ceiling, 3)
                if row["op"].startswith("encode ") and "backward" not in row["op"] and dense_times:
                    row["times_faster_than_dense"] = round(min(dense_times) / row["median_ms"], 2)
            print(", ".join(f"{key} {value}" for key, value in row.items() if key != "device"), flush=True)
        table += found
    names = list(dict.fromkeys(key for row in table for key in row))
    with arguments.csv.open("w", newline="") as file:
        writer = csv.DictWriter(file, names)
        writer.writeheader()
        writer.writerows(table)
    print(f"wrote {arguments.csv}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
