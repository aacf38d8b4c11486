"""Seconds and memory to make every mask, up to a million columns: benchmarks/results/masks.csv.

python benchmarks/masks.py [--most-seconds 300] [--out benchmarks/results/masks.csv]

Each mask is made in a process of its own (on Linux), so that its peak memory is its own; one that takes longer than
--most-seconds is stopped and listed with no time.
"""

import argparse
import csv
import json
import subprocess
import sys
from pathlib import Path

from facts import facts

SIZES = (
    # d_in, n_latents, degree
    (512, 4096, 7),
    (2048, 16384, 7),
    (2048, 65536, 16),
    (2048, 1 << 20, 7),
    (2048, 1 << 20, 64),
    (4096, 1 << 20, 64),  # the smallest d_in with a field of at least 64 elements per group
)
CONSTRUCTIONS = ("uniform", "balanced", "clustered", "capped", "greedy", "polynomial", "galois")
CHILD = """
import json, sys, time
import numpy as np
def status(name):
    lines = open("/proc/self/status").read().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(name))
from expander_sae.graphs import make_mask
from expander_sae.graphs.overlap import overlap_profile
from expander_sae.graphs.shared_subsets import duplicate_columns
construction, d_in, n_latents, degree = sys.argv[1], *map(int, sys.argv[2:])
open("/proc/self/clear_refs", "w").write("5")  # the peak starts from here
before = status("VmRSS")
start, used = time.perf_counter(), time.process_time()
mask = make_mask(construction, d_in=d_in, n_latents=n_latents, degree=degree, seed=0)
seconds, cpu_seconds = time.perf_counter() - start, time.process_time() - used
peak = status("VmHWM") - before
degrees = mask.right_degrees()
profile = overlap_profile(mask, p_max=1, budget=200_000_000)
print(json.dumps({
    "seconds": round(seconds, 3), "cpu_seconds": round(cpu_seconds, 3),
    "peak_mib": round(peak / 1024), "rows_mib": round(mask.rows.nbytes / 2**20, 1),
    "largest_overlap": profile.largest, "overlaps": "counted" if profile.exact else "sampled, a lower bound",
    "duplicate_columns": duplicate_columns(mask),
    "right_degree_lowest": int(degrees.min()), "right_degree_highest": int(degrees.max()), "sha256": mask.sha256(),
}))
"""


def measure(construction: str, size: tuple[int, int, int], most_seconds: float) -> dict[str, str | int | float]:
    row: dict[str, str | int | float] = {"construction": construction}
    row |= dict(zip(("d_in", "n_latents", "degree"), size, strict=True))
    command = [sys.executable, "-c", CHILD, construction, *map(str, size)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=most_seconds, check=False)
    except subprocess.TimeoutExpired:
        return row | {"note": f"over {most_seconds:g} s"}
    if done.returncode:
        return row | {"note": done.stderr.strip().splitlines()[-1].partition(": ")[2][:160]}
    return row | json.loads(done.stdout)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "masks.csv")
    parser.add_argument("--most-seconds", type=float, default=300.0)
    options = parser.parse_args()
    rows = []
    for size in SIZES:
        for construction in CONSTRUCTIONS:
            rows.append(measure(construction, size, options.most_seconds) | facts())
            print(
                {name: value for name, value in rows[-1].items() if name not in ("sha256", "cpu", "torch")}, flush=True
            )
    names = dict.fromkeys(name for row in rows for name in row)
    with options.out.open("w", newline="", encoding="utf-8") as handle:
        writer = csv.DictWriter(handle, list(names))
        writer.writeheader()
        writer.writerows(rows)


if __name__ == "__main__":
    main()
