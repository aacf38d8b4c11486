"""The physical limit of a scan: multiply-adds a second fed from a tile in the cache (ceiling.cpp), per instruction set.

python benchmarks/ceiling.py            # every set of this machine, tiles in the first and second cache
"""

import os
import subprocess
import sys
import tempfile
from functools import cache
from pathlib import Path

SOURCE = Path(__file__).with_name("ceiling.cpp")
FLAGS = {
    "avx512": [
        *("-mavx512f", "-mavx512bw", "-mavx512dq", "-mavx512vl", "-mavx512cd"),
        *("-mavx2", "-mfma", "-mprefer-vector-width=512"),
    ],
    "avx2": ["-mavx2", "-mfma"],
    "baseline": [],
    "neon": [],
}


@cache
def _program(instruction_set: str) -> Path:
    program = Path(tempfile.mkdtemp()) / f"ceiling-{instruction_set}"
    compiler = os.environ.get("CXX", "c++")
    command = [compiler, "-std=c++20", "-O3", "-ffp-contract=fast", *FLAGS[instruction_set], "-pthread"]
    done = subprocess.run([*command, str(SOURCE), "-o", str(program)], capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"the ceiling cannot be measured without a C++20 compiler: {done.stderr.strip()[:300]}")
    return program


@cache
def multiply_adds(instruction_set: str, d_in: int, threads: int) -> float:
    """Billions a second of all threads together, the best of three."""
    command = [str(_program(instruction_set)), str(d_in), str(threads), "0.4"]
    return max(float(subprocess.run(command, capture_output=True, text=True, check=True).stdout) for _ in range(3))


if __name__ == "__main__":
    import torch

    from expander_sae.ops import instruction_sets

    for name in instruction_sets():
        for d_in in (64, 512, 576, 768, 2048):
            for threads in sorted({1, torch.get_num_threads()}):
                rate = multiply_adds(name, d_in, threads)
                kib = d_in * 64 * 4 // 1024
                print(f"{name:9} tile {kib:4d} KiB, {threads} threads: {rate:6.1f} billion multiply-adds/s", flush=True)
