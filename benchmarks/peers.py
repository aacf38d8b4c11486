"""`make bench-peers`: our training step against the training steps of released packages, each in its own process.

Per shape, first every package tries its settings (float32, bfloat16 autocast, ...) at two batch sizes, and the fastest
is its "best CPU setting". Then rounds: our Expander SAE, every package at its best and our dense control in turn, our
Expander SAE again, so that a slow moment of the machine shows. Everyone gets the same activations, k and threads; AuxK
is off everywhere, nobody logs. Our loss and gradients are compared with their reference in every process of ours before
anything is timed. All numbers go to benchmarks/results/peers.csv with commit, versions and machine.

    python benchmarks/peers.py            # half an hour on two cores
    python benchmarks/peers.py --quick    # one round, ten minutes at most
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import mean, median
from typing import Any, NamedTuple

import torch
from facts import facts, replace_own_rows
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from expander_sae.activations import ActivationStore

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE / "peers"))  # `peers` itself is this file

from common import synthetic_activations  # noqa: E402

PEERS_PYTHON = HERE.parent / ".venv-peers" / "bin" / "python"
INSTALL = """python3 -m venv .venv-peers
.venv-peers/bin/python -m pip install -c constraints.txt -r benchmarks/peers/requirements.txt
.venv-peers/bin/python -m pip install --no-deps -r benchmarks/peers/no-deps.txt"""
EXPANDER, DENSE = "ours, expander d=7", "ours, dense tied"
PEERS = {
    "sae-lens": "time_sae_lens.py",
    "dictionary-learning": "time_dictionary_learning.py",
    "overcomplete": "time_overcomplete.py",
    "sparsify": "time_sparsify.py",
}
Shape = tuple[int, int]
# Slowest first; batch sizes in --quick and otherwise. Large batches spread a package's dense Adam over more tokens.
BATCHES: dict[Shape, tuple[list[int], list[int]]] = {
    (2048, 32768): ([256, 512], [256, 1024]),
    (576, 18432): ([512, 1024], [512, 2048]),
    (512, 4096): ([512, 2048], [1024, 4096]),
}
OTHER_BATCHES = [256, 1024]
LEAST_SECONDS = 5.0
"""Nothing is started with less left: most packages take longer to import."""
Line = dict[str, Any]


class Plan(NamedTuple):
    """What applies to every process."""

    k: int
    threads: int
    deadline: float
    scout_seconds: float
    round_seconds: float
    compiled: bool


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="one round, small batches, --minutes 10")
    parser.add_argument("--rounds", type=int, help="default 3; 1 with --quick")
    parser.add_argument("--minutes", type=float, help="start nothing after this and stop what runs")
    parser.add_argument("--shapes", nargs="+", metavar="DxN", help="for instance 2048x32768")
    parser.add_argument("--batches", type=int, nargs="+", help="batch sizes to try at every shape")
    parser.add_argument("--activations", type=Path, help="a harvest folder; shapes of another width are left out")
    parser.add_argument("--compile", action="store_true", help="try sae-lens compiled as well (minutes)")
    parser.add_argument("--k", type=int, default=32)
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--csv", type=Path, default=HERE / "results" / "peers.csv")
    a = parser.parse_args()
    if not PEERS_PYTHON.exists():
        print(f"expected the packages to compare with in .venv-peers; install them with\n\n{INSTALL}", file=sys.stderr)
        return 2
    console = Console()
    minutes = a.minutes or (10.0 if a.quick else float("inf"))
    plan = Plan(a.k, a.threads, time.monotonic() + 60 * minutes, *((1.0, 3.0) if a.quick else (3.0, 10.0)), a.compile)
    torch.set_num_threads(a.threads)  # what facts() writes down
    load = os.getloadavg()[0]
    if load > 0.5:
        console.print(f"[yellow]load average {load:.1f}: the machine is not quiet, these numbers are too low[/]")
    shapes = [_shape(text) for text in a.shapes] if a.shapes else list(BATCHES)
    store = ActivationStore.open(a.activations) if a.activations else None
    rows: list[Line] = []
    for shape in shapes:
        if store is not None and store.d_in != shape[0]:
            console.print(f"{shape} left out: the activations have d_in = {store.d_in}")
            continue
        batches = a.batches or (BATCHES[shape][0 if a.quick else 1] if shape in BATCHES else OTHER_BATCHES)
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / "activations.pt"
            tokens = max(8192, 2 * max(batches))
            x = synthetic_activations(tokens, shape[0]) if store is None else store.sample("train", tokens, seed=0)
            torch.save(x, file)
            lines = measure(shape, batches, file, plan, a.rounds or (1 if a.quick else 3), console)
        if not lines:
            return 1
        report(shape, lines, console)
        rows += lines
        # After every shape, so that an interrupted run keeps what it has.
        write(rows, a.csv, {"cores": str(os.cpu_count()), "load_at_start": f"{load:.2f}"})
    console.print(f"all numbers: {a.csv}")
    return 0


def _shape(text: str) -> Shape:
    d_in, n_latents = text.split("x")
    return int(d_in), int(n_latents)


def measure(shape: Shape, batches: list[int], file: Path, plan: Plan, rounds: int, console: Console) -> list[Line]:
    """Scout every contestant's settings, then let the best ones take turns."""
    lines: list[Line] = []
    best: dict[str, Line] = {}
    for name in (EXPANDER, DENSE, *PEERS):
        console.print(f"{shape}: {name} tries its settings", style="dim")
        found = start(name, shape, batches, None, file, plan, plan.scout_seconds, console)
        lines += [line | {"phase": "scout", "round": 0} for line in found]
        if found:
            best[name] = max(found, key=_rate)
        elif name == EXPANDER:
            return []  # start() said why: the check failed, or the time is up

    def turn(name: str, number: int, at: list[int]) -> None:
        settings = [best[name]["setting"]]
        found = start(name, shape, at, settings, file, plan, plan.round_seconds, console)
        lines.extend(line | {"phase": "round", "round": number} for line in found)

    others = [name for name in best if name != EXPANDER]
    for number in range(1, rounds + 1):
        if plan.deadline - time.monotonic() < LEAST_SECONDS:
            console.print(f"[yellow]{shape}: round {number} and later left out, the time is up[/]")
            break
        console.print(f"{shape}: round {number}", style="dim")
        turn(EXPANDER, number, batches)
        shift = number % max(1, len(others))
        for name in others[shift:] + others[:shift]:
            turn(name, number, [best[name]["batch"]])
        turn(EXPANDER, number, batches)
    return lines


def start(
    name: str,
    shape: Shape,
    batches: list[int],
    settings: list[str] | None,
    file: Path,
    plan: Plan,
    seconds: float,
    console: Console,
) -> list[Line]:
    """Run one contestant in its own process; its JSON lines, with `name` added."""
    ours = name in (EXPANDER, DENSE)
    script = HERE / "peers" / ("time_ours.py" if ours else PEERS[name])
    command = [sys.executable if ours else str(PEERS_PYTHON), str(script)]
    command += ["--d-in", str(shape[0]), "--n-latents", str(shape[1]), "--k", str(plan.k)]
    command += ["--batch", *map(str, batches), "--seconds", str(seconds), "--threads", str(plan.threads)]
    command += ["--activations", str(file)]
    if ours:
        settings = [name.removeprefix("ours, ")]
    if settings is None and plan.compiled and name == "sae-lens":
        settings = ["float32", "bf16 autocast", "float32 sparse", "float32 compiled", "bf16 autocast compiled"]
    if settings:
        command += ["--settings", *settings]
    left = plan.deadline - time.monotonic()
    if left < LEAST_SECONDS:
        console.print(f"[yellow]{shape}: {name} left out, the time is up[/]")
        return []
    environment = os.environ | {"OMP_NUM_THREADS": str(plan.threads), "MKL_NUM_THREADS": str(plan.threads)}
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)
    try:
        out, errors = process.communicate(timeout=None if left == float("inf") else left)
    except subprocess.TimeoutExpired:
        process.kill()
        out, errors = process.communicate()
        console.print(f"[yellow]{shape}: {name} stopped, the time is up[/]")
    else:
        if process.returncode != 0:
            last = (errors.strip().splitlines() or ["no message"])[-1]
            console.print(f"[red]{shape}: {name} failed ({process.returncode}): {last}[/]")
    lines = [json.loads(text) | {"name": name} for text in out.splitlines() if text.startswith("{")]
    for line in lines:
        if line["torch"] != torch.__version__:
            console.print(f"[yellow]{name} ran on torch {line['torch']}, we on {torch.__version__}[/]")
    return lines


def _rate(line: Line) -> float:
    return median(line["tokens_per_s"])


def _rates(lines: list[Line], name: str, batch: int | None = None) -> tuple[int, str, list[float]]:
    """(batch, setting, every repeat) of a contestant at its best or the given batch; scouting's if no round has it."""
    mine = [line for line in lines if line["name"] == name and batch in (None, line["batch"])]
    mine = [line for line in mine if line["phase"] == "round"] or mine
    groups: dict[tuple[int, str], list[float]] = {}
    for line in mine:
        groups.setdefault((line["batch"], line["setting"]), []).extend(line["tokens_per_s"])
    (at, setting), rates = max(groups.items(), key=lambda item: median(item[1]))
    return at, setting, rates


def report(shape: Shape, lines: list[Line], console: Console) -> None:
    """Print the table of one shape and the two ratios."""
    ours_batch, _, ours = _rates(lines, EXPANDER)
    title = f"training step, d_in {shape[0]}, n_latents {shape[1]}, k {lines[0]['k']}, AuxK off"
    table = Table(title=title, box=SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for heading, justify in (("", "left"), ("best setting", "left"), ("batch", "right")):
        table.add_column(heading, justify=justify)  # type: ignore[arg-type]
    for heading in ("tokens/s", "spread", "ours is"):
        table.add_column(heading, justify="right")
    rates = {name: _rates(lines, name) for name in dict.fromkeys(line["name"] for line in lines)}
    for name, (batch, setting, values) in sorted(rates.items(), key=lambda item: -median(item[1][2])):
        ratio = "" if name == EXPANDER else f"{median(ours) / median(values):,.1f} x"
        shown = "" if name in (EXPANDER, DENSE) else setting
        spread = f"{(max(values) - min(values)) / median(values):.0%}"
        table.add_row(name, shown, str(batch), f"{median(values):,.0f}", spread, ratio)
    console.print(table)
    peers = {name: rate for name, rate in rates.items() if name in PEERS}
    missing = [name for name in PEERS if name not in peers]
    if missing:
        console.print(f"[yellow]not measured: {', '.join(missing)}[/]")
    if not peers:
        return
    fastest = max(peers, key=lambda name: median(peers[name][2]))
    batch, _, theirs = peers[fastest]
    _, _, same = _rates(lines, EXPANDER, batch)
    which = "the fastest package measured" if missing else "the fastest package"
    console.print(
        f"{shape}: {median(ours) / median(theirs):,.1f} times {which}, {fastest} "
        f"(ours at batch {ours_batch}); {median(same) / median(theirs):,.1f} times at its own batch of {batch}"
        + _per_round(lines, ours_batch, fastest)
    )
    scouted = [line for line in lines if line["phase"] == "scout" and line["name"] in PEERS]
    tried = ", ".join(
        f"{line['name']} {line['setting']} @{line['batch']} {_rate(line):,.0f}"
        for line in sorted(scouted, key=lambda line: (line["name"], -_rate(line)))
    )
    console.print(f"tried: {tried}", style="dim")


def _per_round(lines: list[Line], ours_batch: int, fastest: str) -> str:
    """Our mean before and after over the package's turn between them, lowest and highest round."""
    ratios = []
    for number in sorted({line["round"] for line in lines} - {0}):
        now = [line for line in lines if line["round"] == number]
        ours = [_rate(line) for line in now if line["name"] == EXPANDER and line["batch"] == ours_batch]
        theirs = [_rate(line) for line in now if line["name"] == fastest]
        if ours and theirs:
            ratios.append(mean(ours) / theirs[0])
    return f"; per round {min(ratios):,.1f} to {max(ratios):,.1f}" if len(ratios) > 1 else ""


def write(rows: list[Line], path: Path, machine: dict[str, str]) -> None:
    """All measured lines, in place of this machine's earlier ones; `tokens_per_s` is the median of the repeats."""
    columns = ["phase", "round", "peer", "version", "setting", "d_in", "n_latents", "k", "batch", "steps"]
    about = facts() | machine
    replace_own_rows(
        path,
        [
            {
                **{column: row[column] for column in columns},
                "tokens_per_s": f"{_rate(row):.2f}",
                "repeats": " ".join(str(rate) for rate in row["tokens_per_s"]),
                "peer_torch": row["torch"],
                "peer_threads": row["threads"],
                **about,
            }
            for row in rows
        ],
    )


if __name__ == "__main__":
    sys.exit(main())
