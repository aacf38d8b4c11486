"""Reading codes by pursuit: tokens/s on CPU, beside the same algorithms on a dense dictionary and other libraries.

First the native pursuits are compared with their definitions; nothing is timed when they differ. Then, per shape, all
calls of this process take turns, several times: ours on the sparse dictionary, ours on a dense one of the same size
(matrix products, batched solves); then scikit-learn's `orthogonal_mp` with the Gram matrix given. Where the packages of
`make bench-peers` are installed, overcomplete's OMP and sae-lens's matching pursuit follow in their own processes, on
the same activations. Everything goes to benchmarks/results/pursuit.csv.

    python benchmarks/pursuit.py            # some minutes on two cores
    python benchmarks/pursuit.py --quick        # one shape
    python benchmarks/pursuit.py --isa avx2     # the core on another set of this machine
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from statistics import median
from typing import Any

import torch
from ceiling import multiply_adds
from facts import facts, replace_own_rows
from rich.console import Console
from rich.table import Table
from sklearn.linear_model import orthogonal_mp_gram
from turns import Call, take_turns

from expander_sae.graphs import make_mask
from expander_sae.ops import block_omp, encode_topk, instruction_sets, use_instruction_set
from expander_sae.pursuit import (
    NIHT,
    OMP,
    CoSaMP,
    Dictionary,
    GradientPursuit,
    MatchingPursuit,
    NonNegativeOMP,
    Refit,
    Stages,
)

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE / "peers"))

from common import synthetic_activations  # noqa: E402

PEERS_PYTHON = HERE.parent / ".venv-peers" / "bin" / "python"
PEERS = {"OMP": "time_pursuit_overcomplete.py", "MP": "time_pursuit_sae_lens.py"}
SHAPES = ((512, 4096, 7, 64), (576, 4608, 7, 32), (576, 18432, 7, 32), (2048, 16384, 7, 64))
BATCH = 1024


def problem(d_in: int, n_latents: int, degree: int) -> tuple[Dictionary, torch.Tensor]:
    """A balanced mask with random unit columns, and the same columns' size in dense ones."""
    rows = make_mask(d_in=d_in, n_latents=n_latents, degree=degree, seed=0).rows.astype("int64")
    generator = torch.Generator().manual_seed(0)
    values = torch.nn.functional.normalize(torch.randn(n_latents, degree, generator=generator), dim=1)
    dense = torch.nn.functional.normalize(torch.randn(n_latents, d_in, generator=generator), dim=1)
    return Dictionary(torch.from_numpy(rows), values, d_in, signed=True), dense


def check() -> None:
    """Stop unless every native method agrees with its definition."""
    dictionary, _ = problem(128, 1500, 7)
    x = synthetic_activations(64, 128)
    x = x - x.mean(0)
    alone = (OMP(), MatchingPursuit(), GradientPursuit(), NonNegativeOMP(), CoSaMP(), NIHT())
    for reading in (*alone, Stages(4), Stages(4, 8)):
        found = [
            reading.codes(dictionary, x, 16, backend=name).indices.sort(1).values for name in ("native", "reference")
        ]
        same = float((found[0] == found[1]).all(1).float().mean())
        if same < 0.95:  # float32 breaks a near tie the other way now and then
            sys.exit(f"not timing anything: {reading} picks as its definition for only {same:.0%} of tokens")


def sparse_calls(x: torch.Tensor, w: Dictionary, k: int) -> dict[str, Call]:
    """Every way to read codes, on the sparse dictionary."""
    start, few = encode_topk(x, w.rows, w.decoder, k, signed=True), x[:256]
    return {
        "encoder": (lambda: encode_topk(x, w.rows, w.decoder, k), len(x)),
        "encoder + refit": (
            lambda: Refit().codes_on(encode_topk(x, w.rows, w.decoder, k), w, x, k),
            len(x),
        ),
        "refit of given supports": (lambda: Refit().codes_on(start, w, x, k), len(x)),
        "one-shot + refit": (lambda: block_omp(x, w.rows, w.decoder, k, block=k), len(x)),
        "blocks of 8": (lambda: block_omp(x, w.rows, w.decoder, k, block=8), len(x)),
        "8 stages + spare": (lambda: Stages(8, None).codes(w, x, k), len(x)),
        "4 stages + spare": (lambda: Stages(4, None).codes(w, x, k), len(x)),
        "OMP": (lambda: OMP().codes(w, x, k), len(x)),
        "non-negative OMP": (lambda: NonNegativeOMP().codes(w, x, k), len(x)),
        "MP": (lambda: MatchingPursuit().codes(w, x, k), len(x)),
        "gradient pursuit": (lambda: GradientPursuit().codes(w, x, k), len(x)),
        "CoSaMP": (lambda: CoSaMP().codes(w, few, k), len(few)),
        "NIHT": (lambda: NIHT().codes(w, few, k), len(few)),
    }


def dense_calls(x: torch.Tensor, w: torch.Tensor, k: int) -> dict[str, Call]:
    """The same with matrix products; few tokens, because they take long."""
    few, fewer = x[:256], x[:64]
    gram = (w @ w.T).double().numpy() if len(w) <= 5000 else None
    dense = Dictionary.of_matrix(w, signed=True)
    calls: dict[str, Call] = {
        "encoder": (lambda: encode_topk(few, None, w, k), len(few)),
        "one-shot + refit": (lambda: block_omp(few, None, w, k, block=k), len(few)),
        "blocks of 8": (lambda: block_omp(few, None, w, k, block=8), len(few)),
        "8 stages + spare": (
            lambda: block_omp(fewer, None, w, k, block=-(-k // 8), spare=2 * -(-k // 8)),
            len(fewer),
        ),
        "OMP": (lambda: block_omp(fewer, None, w, k), len(fewer)),
        "MP": (lambda: MatchingPursuit().codes(dense, fewer, k), len(fewer)),
        "gradient pursuit": (
            lambda: GradientPursuit().codes(dense, fewer, k),
            len(fewer),
        ),
    }
    if gram is not None:
        products = (w @ fewer.T).double().numpy()
        calls["OMP, scikit-learn"] = (lambda: orthogonal_mp_gram(gram, products, n_nonzero_coefs=k), len(fewer))
    return calls


def peer_rates(shape: tuple[int, int, int, int], x: torch.Tensor) -> dict[str, tuple[str, list[float]]]:
    """Tokens/s of the other libraries, by the method they correspond to."""
    found = {}
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "activations.pt"
        torch.save(x, file)
        for method, script in PEERS.items():
            command = [str(PEERS_PYTHON), str(HERE / "peers" / script), "--d-in", str(shape[0])]
            command += ["--n-latents", str(shape[1]), "--k", str(shape[3]), "--batch", "64", "--seconds", "6"]
            command += ["--steps", "3", "--threads", str(torch.get_num_threads()), "--activations", str(file)]
            environment = os.environ | {"OMP_NUM_THREADS": str(torch.get_num_threads())}
            done = subprocess.run(command, capture_output=True, text=True, env=environment)
            lines = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
            if done.returncode or not lines:
                sys.exit(f"{script} failed: {(done.stderr.strip().splitlines() or ['no message'])[-1]}")
            found[method] = (f"{lines[0]['peer']} {lines[0]['version']}", lines[0]["tokens_per_s"])
    return found


def measure(shape: tuple[int, int, int, int], repeats: int, peers: bool, isa: str) -> list[dict[str, Any]]:
    """One row per method and dictionary."""
    d_in, n_latents, degree, k = shape
    w, dense = problem(d_in, n_latents, degree)
    x = synthetic_activations(BATCH, d_in)
    x = x - x.mean(0)
    calls = {f"sparse {name}": call for name, call in sparse_calls(x, w, k).items()}
    calls |= {f"dense {name}": call for name, call in dense_calls(x, dense, k).items()}
    # Another thread pool, which spins for a while after each call: it would slow whoever comes next.
    foreign = {name: calls.pop(name) for name in list(calls) if "scikit-learn" in name}
    rates = take_turns(calls, repeats) | take_turns(foreign, repeats)
    rows = []
    for name, values in rates.items():
        kind, _, method = name.partition(" ")
        ours = rates.get(f"sparse {method.partition(',')[0]}")
        ratios = [] if ours is None or kind == "sparse" else [a / b for a, b in zip(ours, values, strict=True)]
        rows.append(_row(shape, kind, method, values, ratios) | _share(shape, kind, method, values, isa))
    for method, (peer, values) in (peer_rates(shape, x) if peers else {}).items():
        ratio = median(rates[f"sparse {method}"]) / median(values)
        rows.append(_row(shape, peer, method, values, [ratio]) | _share(shape, peer, method, values, isa))
    return rows


SCANS = {
    "encoder": 1, "encoder + refit": 1, "one-shot + refit": 1, "8 stages + spare": 8, "4 stages + spare": 4,
}  # fmt: skip
"""How often a method goes through the dictionary, where that is known; tracked pursuits do once and then walk rows."""


def _share(shape: tuple[int, int, int, int], by: str, method: str, rates: list[float], isa: str) -> dict[str, Any]:
    """The multiply-adds of a method's scans, beside what the cache can feed (ceiling.py)."""
    d_in, n_latents, degree, k = shape
    scans = -(-k // 8) if method == "blocks of 8" else SCANS.get(method)
    fed = multiply_adds(isa, d_in, torch.get_num_threads())
    known = by == "sparse" and scans is not None
    done = median(rates) * (scans or 0) * degree * n_latents / 1e9
    return {
        "ceiling_gmac_per_s": round(fed, 1) if known else "",
        "scans_share_of_ceiling": round(done / fed, 3) if known else "",
    }


def _row(shape: tuple[int, int, int, int], by: str, method: str, rates: list[float], ratios: list[float]) -> dict:
    d_in, n_latents, degree, k = shape
    return {
        "d_in": d_in,
        "n_latents": n_latents,
        "degree": degree if by == "sparse" else d_in,
        "k": k,
        "method": method,
        "by": by,
        "tokens_per_s": round(median(rates), 1),
        "lowest": round(min(rates), 1),
        "highest": round(max(rates), 1),
        "sparse_is_times_faster": round(median(ratios), 2) if ratios else "",
        "ratio_lowest": round(min(ratios), 2) if ratios else "",
        "ratio_highest": round(max(ratios), 2) if ratios else "",
        "repeats": len(rates),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="the first shape only")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--isa", choices=instruction_sets(), default=instruction_sets()[0], help="of the core")
    parser.add_argument("--out", type=Path, default=HERE / "results" / "pursuit.csv")
    arguments = parser.parse_args()
    with use_instruction_set(arguments.isa):
        run(arguments)


def run(arguments: argparse.Namespace) -> None:
    say = Console()
    check()
    peers = PEERS_PYTHON.exists()
    if not peers:
        say.print("other libraries left out: `make bench-peers` installs them")
    rows: list[dict] = []
    for shape in SHAPES[:1] if arguments.quick else SHAPES:
        found = measure(shape, arguments.repeats, peers, arguments.isa)
        table = Table(title="d_in {}, n_latents {}, degree {}, k {}".format(*shape))
        for heading in ("method", "dictionary", "tokens/s", "spread", "sparse is"):
            table.add_column(heading, justify="left" if heading in ("method", "dictionary") else "right")
        for row in sorted(found, key=lambda row: -row["tokens_per_s"]):
            ratio = row["sparse_is_times_faster"]
            table.add_row(
                row["method"],
                row["by"],
                f"{row['tokens_per_s']:,.0f}",
                f"{row['lowest']:,.0f}..{row['highest']:,.0f}",
                f"{ratio:,.0f} x" if ratio else "",
            )
        say.print(table)
        rows += found
        about = facts()
        replace_own_rows(arguments.out, [row | about for row in rows], ("d_in", "n_latents"))
    say.print(f"written to {arguments.out}", highlight=False)


if __name__ == "__main__":
    main()
