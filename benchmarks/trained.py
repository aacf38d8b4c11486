"""Reading trained SAEs: OMP that tracks its correlations against OMP that scans, and every SAE's own way beside them.

Learned supports crowd on few rows, which random masks of the same degree do not show. Both ways of OMP are compared
first: nothing is timed where they pick other columns. All calls of one process take turns, several times; the numbers
are medians of tokens/s, and how many times slower than the first SAE each is by its own inference. Everything goes to
benchmarks/results/trained.csv.

    python benchmarks/trained.py demo-out/activations demo-out/frontier/seed0/expander-d7 OTHER-SAE ...
    python benchmarks/trained.py demo-out/activations --balanced 2048,16384,7,64      # a random dictionary beside them
"""

import argparse
import csv
import sys
from functools import partial
from pathlib import Path
from statistics import median

import torch
from facts import facts
from rich.console import Console
from rich.table import Table
from turns import Call, take_turns

from expander_sae.activations import ActivationStore
from expander_sae.ops import Codes, block_omp
from expander_sae.pursuit import Encoder, native
from expander_sae.saes import ExpanderSae, load_sae

HERE = Path(__file__).resolve().parent
WAYS = ("tracked", "scanned", "own")


def read(sae: ExpanderSae, x: torch.Tensor, way: str) -> Codes:
    """Codes of x [batch, d_in]: by the SAE's own inference, or by one of both ways of OMP."""
    if way == "own":
        return sae.encode(x)
    w = sae.dictionary().detached()
    if way == "scanned":
        return block_omp(x, w.rows, w.decoder, sae.k, center=w.center, signed=w.signed, backend="native")
    return native.greedy(x, w, sae.k, "omp", sae.k, tolerance=0.0, start=None)


def check(name: str, sae: ExpanderSae, x: torch.Tensor) -> None:
    """Stop unless both ways of OMP pick the same columns."""
    one, other = (read(sae, x[:64], way).indices.sort(1).values for way in WAYS[:2])
    same = float((one == other).all(1).float().mean())
    if same < 0.9:  # float32 breaks a near tie the other way now and then
        sys.exit(f"not timing anything: on {name} both ways of OMP agree for only {same:.0%} of tokens")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("activations", type=Path)
    parser.add_argument("saes", type=Path, nargs="*")
    parser.add_argument("--balanced", action="append", default=[], metavar="D_IN,N_LATENTS,DEGREE,K")
    parser.add_argument("--tokens", type=int, default=1024)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--out", type=Path, default=HERE / "results" / "trained.csv")
    arguments = parser.parse_args()
    x = ActivationStore.open(arguments.activations).sample("heldout", arguments.tokens, seed=0)
    problems: list[tuple[str, ExpanderSae, torch.Tensor]] = []
    for folder in arguments.saes:
        sae = load_sae(folder)
        if not isinstance(sae, ExpanderSae):
            sys.exit(f"expected SAEs with sparse columns; {folder} holds a {sae.kind} one")
        problems.append((f"{folder.name}, k {sae.k}", sae, x))
    for text in arguments.balanced:
        d_in, n_latents, degree, k = (int(part) for part in text.split(","))
        sae = ExpanderSae(d_in=d_in, n_latents=n_latents, degree=degree, k=k, reading=Encoder()).eval()
        noise = torch.randn(arguments.tokens, d_in, generator=torch.Generator().manual_seed(0))
        problems.append((f"balanced {d_in} x {n_latents}, degree {degree}, k {k}", sae, noise))
    if not problems:
        sys.exit("expected folders of SAEs, or --balanced")
    with torch.no_grad():
        for problem in problems:
            check(*problem)
        calls: dict[tuple[str, str], Call] = {
            (name, way): (partial(read, sae, tokens, way), len(tokens))
            for name, sae, tokens in problems
            for way in WAYS
        }
        rates = take_turns(calls, arguments.repeats)
    table = Table(title=f"tokens/s, medians of {arguments.repeats}")
    for heading in ("dictionary", "OMP tracked", "OMP scanned", "pursue takes", "own inference", "times slower"):
        table.add_column(heading, justify="left" if heading == "dictionary" else "right")
    rows, about = [], facts()
    first = rates[problems[0][0], "own"]
    for name, sae, _ in problems:
        tracked, scanned, own = (rates[name, way] for way in WAYS)
        takes = "tracked" if native.tracking_pays(sae.dictionary()) else "scanned"
        trained = not name.startswith("balanced")  # the others read by the encoder, which says nothing here
        slower = f"{median(a / b for a, b in zip(first, own, strict=True)):.2f}" if trained else ""
        table.add_row(
            name, f"{median(tracked):,.0f}", f"{median(scanned):,.0f}", takes,
            f"{median(own):,.0f} ({sae.reading})", slower,
        )  # fmt: skip
        row = {"dictionary": name, "kind": sae.kind, "degree": sae.degree, "pursue_takes": takes,
               "own_inference": str(sae.reading), "times_slower_than_first": slower}  # fmt: skip
        for way in WAYS:
            row |= {way: round(median(rates[name, way]), 1), f"{way}_lowest": round(min(rates[name, way]), 1),
                    f"{way}_highest": round(max(rates[name, way]), 1)}  # fmt: skip
        rows.append(row | about)
    Console().print(table)
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    with arguments.out.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    Console().print(f"written to {arguments.out}", highlight=False)


if __name__ == "__main__":
    main()
