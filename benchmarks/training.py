"""Training with pursuit codes: one optimiser step against the plain step of the same SAE, paired in one process.

At (576, 4608), k 32: stages of block OMP with and without spare columns, learned supports included (a move of entries
every 20 steps, as the default recipe has it), on activations like a language model's. Results go to
benchmarks/results/training.csv.

    python benchmarks/training.py
    python benchmarks/training.py --isa avx2    # the core on another set of this machine
"""

import argparse
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from statistics import median

import torch
from facts import facts, replace_own_rows
from rich.console import Console
from rich.table import Table
from run import RESULTS, paired

sys.path.insert(0, str(Path(__file__).resolve().parent / "peers"))

from common import synthetic_activations

from expander_sae.ops import instruction_sets, selftest, use_instruction_set
from expander_sae.pursuit import Encoder, Stages
from expander_sae.saes import DenseTopKSae, ExpanderSae, input_statistics
from expander_sae.training import MoveSupports, TrainConfig
from expander_sae.training.member import Member

D_IN, N_LATENTS, K, BATCH, STEPS = 576, 4608, 32, 1024, 20
WAYS = ((0, 0), (4, 0), (4, 4), (8, 0), (8, 8))
DENSE_BATCH = 128


def steps(member: Member, x: torch.Tensor) -> Callable[[], object]:
    """So many steps that a move of entries, where there is any, is among them."""
    return lambda: [member.step(number, x) for number in range(STEPS)]


def calls(degree: int) -> dict[str, tuple[Callable[[], object], int]]:
    """The plain step, those with pursuit codes, and the dense SAE's plain step."""
    x = synthetic_activations(BATCH, D_IN)
    statistics = input_statistics(x)
    config = TrainConfig(revive=None, reading=None)
    found, moves = {}, MoveSupports(every=STEPS)  # which one-shot SAEs do not make
    for stages, spare in WAYS:
        sae = ExpanderSae(
            d_in=D_IN, n_latents=N_LATENTS, degree=degree, k=K, reading=Stages(stages, spare) if stages else Encoder()
        )
        member = Member(f"{stages}+{spare}", sae, replace(config, move_supports=moves), statistics)
        found["plain" if stages == 0 else f"{stages} stages + {spare} spare"] = (steps(member, x), BATCH * STEPS)
    dense = Member("dense", DenseTopKSae(d_in=D_IN, n_latents=N_LATENTS, k=K), config, statistics)
    found["dense plain"] = (steps(dense, x[:DENSE_BATCH]), DENSE_BATCH * STEPS)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--out", type=Path, default=RESULTS / "training.csv")
    parser.add_argument("--isa", choices=instruction_sets(), default=instruction_sets()[0], help="of the core")
    arguments = parser.parse_args()
    with use_instruction_set(arguments.isa):
        run(arguments)


def run(arguments: argparse.Namespace) -> None:
    failed = [check for check in selftest.run_checks() if not check.passed]
    if failed:
        sys.exit(f"not timing anything, these checks fail: {failed}")
    say, rows = Console(), []
    for degree in (7, 16):
        times = paired(calls(degree), arguments.repeats)
        table = Table(title=f"one step, d_in {D_IN}, n_latents {N_LATENTS}, degree {degree}, k {K}")
        for heading in ("codes", "µs/token", "spread", "times the plain step", "spread"):
            table.add_column(heading, justify="left" if heading == "codes" else "right")
        for name, own in times.items():
            ratios = [mine / plain for mine, plain in zip(own, times["plain"], strict=True)]
            row = {
                "d_in": D_IN,
                "n_latents": N_LATENTS,
                "degree": degree,
                "k": K,
                "codes": name,
                "us_per_token": median(own),
                "us_per_token_min": min(own),
                "us_per_token_max": max(own),
                "times_the_plain_step": median(ratios),
                "ratio_min": min(ratios),
                "ratio_max": max(ratios),
                "repeats": len(own),
            }
            rows.append({key: f"{value:.4g}" if isinstance(value, float) else value for key, value in row.items()})
            table.add_row(
                name,
                f"{median(own):.2f}",
                f"{min(own):.2f}..{max(own):.2f}",
                f"{median(ratios):.2f}",
                f"{min(ratios):.2f}..{max(ratios):.2f}",
            )
        say.print(table)
    about = facts()
    replace_own_rows(arguments.out, [row | about for row in rows])
    say.print(f"written to {arguments.out}", highlight=False)


if __name__ == "__main__":
    main()
