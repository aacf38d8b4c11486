"""Every run behind docs/results by one command: harvest once, then experiments side by side, resumable at any point.

    python benchmarks/grid.py                        # all of grid.toml into grid/, two runs at a time
    python benchmarks/grid.py --only k64,n18432      # groups, or records by name
    python benchmarks/grid.py --list

Every SAE is trained once: all runs share OUT/saes. Runs of a group of `grid.toml` follow each other, groups run side by
side, each on its share of the cores; where two need the SAEs of one seed, one waits for the other. A run that finished
is not started again (its records name the command that made them); one that was interrupted goes on where it stopped.
What each call took is added to OUT/took.jsonl. Records are gathered in OUT/records, with one report of all; with --keep
they are copied to docs/results too, and what they took to docs/results/grid.csv.
"""

import argparse
import csv
import datetime
import json
import os
import shlex
import signal
import subprocess
import sys
import threading
import time
import tomllib
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from machine import cpu

from expander_sae.records import write_atomically

HERE = Path(__file__).parent
PLAN = HERE / "grid.toml"
RESULTS = HERE.parent / "docs" / "results"
TIMES = RESULTS / "grid.csv"
PREPARING = "prepare"
"""The group of the model and the harvests."""


@dataclass(frozen=True)
class Run:
    """One experiment and where its records go."""

    record: str
    """Name of the file in docs/results, without its ending."""
    group: str
    experiment: str
    layer: int | None
    """Whose activations; None: it needs none."""
    arguments: tuple[str, ...]

    def folder(self, out: Path) -> Path:
        """The experiment's `--out`."""
        return out / self.group / self.record

    def command(self, out: Path) -> list[str]:
        """Arguments of `expander-sae`."""
        given = [
            "experiment",
            self.experiment,
            "--out",
            str(self.folder(out)),
            "--shared",
            str(out / "saes"),
        ]
        if self.layer is not None:
            given += ["--acts", str(activations(out, self.layer)), "--model", str(language_model(out))]
        return [*given, "--quiet", *self.arguments]

    def records(self, out: Path) -> Path:
        """The file that the experiment writes when it is done."""
        return self.folder(out) / self.experiment / "records.json"

    def line(self, out: Path) -> str:
        """The command as one line, as its records and the ledger have it."""
        return command_line(self.command(out))

    def is_done(self, out: Path) -> bool:
        """Whether its records are there and were made by this very command."""
        path = self.records(out)
        if not path.is_file():
            return False
        made_by = json.loads(path.read_text(encoding="utf-8")).get("command")
        return made_by == self.line(out)


def command_line(arguments: Sequence[str]) -> str:
    """A call of `expander-sae` as it is typed."""
    return shlex.join(["expander-sae", *arguments])


def activations(out: Path, layer: int) -> Path:
    """Where a layer's harvest is."""
    return out / f"activations-layer{layer}"


def language_model(out: Path) -> Path:
    """Where the model is; a harvest out of a folder does not say."""
    return out / "base" / "model"


def read_plan(path: Path = PLAN) -> tuple[dict[str, list[str]], list[Run]]:
    """Shared arguments by name, and every run in order."""
    plan = tomllib.loads(path.read_text(encoding="utf-8"))
    shared = {name: shlex.split(text) for name, text in plan["shared"].items()}
    runs = []
    for group in plan["group"]:
        for run in group["run"]:
            layer = run.get("layer", group.get("layer"))
            own = shared["activations"] if layer is not None else []
            arguments = (*own, *shlex.split(group.get("arguments", "")), *shlex.split(run.get("arguments", "")))
            runs.append(Run(run["record"], group["name"], run["experiment"], layer, arguments))
    names = [run.record for run in runs]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise SystemExit(f"expected every record once in {path}, got twice: {', '.join(twice)}")
    return shared, runs


def choose(runs: Sequence[Run], only: str | None) -> list[Run]:
    """The runs of the groups and records named, with commas; all of them where nothing is."""
    if only is None:
        return list(runs)
    wanted = [name.strip() for name in only.split(",") if name.strip()]
    known = {run.record for run in runs} | {run.group for run in runs}
    unknown = [name for name in wanted if name not in known]
    if unknown:
        raise SystemExit(f"expected --only out of the groups and records of the plan, got {', '.join(unknown)}")
    return [run for run in runs if run.record in wanted or run.group in wanted]


class Lanes:
    """Commands of `expander-sae`, so many at a time, each on its share of the cores."""

    def __init__(self, program: Sequence[str], out: Path, lanes: int) -> None:
        self.program, self.out, self.lanes = list(program), out, lanes
        self.stopped = threading.Event()
        self._running: set[subprocess.Popen[bytes]] = set()
        self._writing = threading.Lock()
        threads = str(max(1, (os.cpu_count() or 1) // lanes))
        self._environment = {**os.environ, "OMP_NUM_THREADS": threads}

    def call(self, name: str, arguments: Sequence[str]) -> bool:
        """Run one command, output into OUT/log/NAME.log, minutes into OUT/took.jsonl; whether it went well."""
        if self.stopped.is_set():
            return False
        log = self.out / "log" / f"{name}.log"
        log.parent.mkdir(parents=True, exist_ok=True)
        started = time.monotonic()
        print(f"{time.strftime('%H:%M:%S')} {name}: started", flush=True)
        with open(log, "wb") as output:
            # Of its own process group, so that Ctrl-C comes once, from us.
            process = subprocess.Popen(
                [*self.program, *arguments], stdout=output, stderr=subprocess.STDOUT, env=self._environment,
                start_new_session=True,
            )  # fmt: skip
            self._running.add(process)
            # Not wait(), which does not say how busy the cores were.
            _, status, used = os.wait4(process.pid, 0)
            self._running.discard(process)
            code = process.returncode = os.waitstatus_to_exitcode(status)
        how = "done" if code == 0 else f"failed ({code}), see {log}"
        took = {
            "name": name,
            "command": command_line(arguments),
            "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
            "cpu": cpu(),
            "threads": int(self._environment["OMP_NUM_THREADS"]),
            "minutes": round((time.monotonic() - started) / 60, 2),
            "core_minutes": round((used.ru_utime + used.ru_stime) / 60, 2),
            "exit_code": code,
        }
        with self._writing, open(self.out / "took.jsonl", "a", encoding="utf-8") as ledger:
            ledger.write(json.dumps(took) + "\n")
        minutes = f"{took['minutes']:.1f} min ({took['core_minutes']:.1f} of a core)"
        print(f"{time.strftime('%H:%M:%S')} {name}: {how}, {minutes}", flush=True)
        return code == 0

    def stop(self) -> None:
        """Interrupt what runs, as Ctrl-C would, so that it leaves checkpoints."""
        self.stopped.set()
        for process in list(self._running):
            process.send_signal(signal.SIGINT)


def harvest(lanes: Lanes, layer: int, harvesting: Sequence[str]) -> bool:
    """A layer's activations of the model's text; whether it went well."""
    model = language_model(lanes.out)
    return lanes.call(
        f"harvest-layer{layer}",
        ["harvest", "--model", str(model), "--text", str(model.with_name("text.jsonl")), "--layer", str(layer),
         "--out", str(activations(lanes.out, layer)), "--quiet", *harvesting],
    )  # fmt: skip


def prepare(lanes: Lanes, runs: Sequence[Run], harvesting: Sequence[str], wheels: Path) -> None:
    """The offline model, and a harvest for each layer; the same calls again find them done."""
    layers = sorted({run.layer for run in runs if run.layer is not None})
    if not layers:
        return
    base = language_model(lanes.out).parent
    if not lanes.call("offline", ["offline", "--out", str(base), "--wheels", str(wheels), "--quiet"]):
        raise SystemExit("the offline model could not be made: see the log")
    with ThreadPoolExecutor(lanes.lanes) as pool:
        if not all(pool.map(lambda layer: harvest(lanes, layer, harvesting), layers)):
            raise SystemExit("a harvest failed: see the log")


def run_groups(lanes: Lanes, runs: Sequence[Run], keep: Sequence[Path]) -> list[str]:
    """Every run, groups side by side, records copied to the folders `keep`; the records of those that failed."""
    failed = []

    def run_group(group: str) -> None:
        for run in (run for run in runs if run.group == group):
            done = run.is_done(lanes.out) or lanes.call(run.record, run.command(lanes.out))
            if not done:
                failed.append(run.record)
            else:
                kept = json.loads(run.records(lanes.out).read_text(encoding="utf-8"))
                text = json.dumps(kept, separators=(",", ":")) + "\n"
                for folder in keep:
                    folder.mkdir(parents=True, exist_ok=True)
                    (folder / f"{run.record}.json").write_text(text, encoding="utf-8")

    groups = list(dict.fromkeys(run.group for run in runs))
    with ThreadPoolExecutor(lanes.lanes) as pool:
        waiting = [pool.submit(run_group, group) for group in groups]
        try:
            for each in waiting:
                each.result()
        except KeyboardInterrupt:
            lanes.stop()
            raise
    return failed


def times(out: Path, runs: Sequence[Run]) -> list[dict[str, str]]:
    """What the runs that are done took, and what was prepared for them, in all calls of the same command.

    Calls that were interrupted or failed count: the next went on from what they left.
    """
    ledger = out / "took.jsonl"
    done = {run.record: run for run in runs if run.is_done(out)}
    found: dict[str, dict[str, Any]] = {}
    for number, line in enumerate(ledger.read_text(encoding="utf-8").splitlines() if ledger.is_file() else [], 1):
        try:
            took = json.loads(line)
        except json.JSONDecodeError:
            print(f"{ledger}, line {number} is not JSON (cut short?): it is left out of the times", file=sys.stderr)
            continue
        name = took["name"]
        if name in done and took["command"] == done[name].line(out):
            group = done[name].group
        elif name == "offline" or name.startswith("harvest-"):
            group = PREPARING
        else:
            continue
        row = found.setdefault(name, {"name": name, "group": group, "calls": 0, "minutes": 0.0, "core_minutes": 0.0})
        row["calls"] += 1
        row["minutes"] += took["minutes"]
        row["core_minutes"] += took["core_minutes"]
        row |= {key: took[key] for key in ("date", "cpu", "threads")}
    return [{key: f"{v:.1f}" if isinstance(v, float) else str(v) for key, v in row.items()} for row in found.values()]


def keep_times(rows: Sequence[dict[str, str]], runs: Sequence[Run], path: Path) -> None:
    """Write rows to a table; what is there of other runs of the plan stays."""
    kept: dict[str, dict[str, str]] = {}
    if path.is_file():
        with open(path, newline="", encoding="utf-8") as file:
            kept = {row["name"]: row for row in csv.DictReader(file)}
    known = {run.record for run in runs}
    together = kept | {row["name"]: row for row in rows}
    together = {name: row for name, row in together.items() if name in known or row["group"] == PREPARING}
    if not together:
        return
    columns = list(dict.fromkeys(column for row in together.values() for column in row))
    with write_atomically(path) as place, open(place, "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, columns, restval="")
        writer.writeheader()
        writer.writerows(together.values())


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--out", type=Path, default=Path("grid"), help="folder for everything; a rerun goes on there")
    parser.add_argument("--only", help="groups or records, with commas; default: all")
    parser.add_argument("--lanes", type=int, default=2, help="how many runs at a time, each on its share of the cores")
    parser.add_argument("--wheels", type=Path, default=Path(".dl"), help="folder with the wheels of model and text")
    parser.add_argument("--keep", action="store_true", help="copy the records to docs/results")
    parser.add_argument("--list", action="store_true", help="show every run and whether it is done")
    given = parser.parse_args()
    shared, everything = read_plan()
    runs = choose(everything, given.only)
    if given.list:
        for run in runs:
            done = "done" if run.is_done(given.out) else "    "
            print(f"{done} {run.group:8} {run.record}: expander-sae {shlex.join(run.command(given.out))}")
        return
    program = [str(Path(sys.executable).with_name("expander-sae"))]
    lanes = Lanes(program, given.out, given.lanes)
    started = time.monotonic()
    missing = [run for run in runs if not run.is_done(given.out)]
    prepare(lanes, missing, shared["harvest"], given.wheels)
    gathered = given.out / "records"
    failed = run_groups(lanes, runs, [gathered, RESULTS] if given.keep else [gathered])
    print(f"{len(runs) - len(failed)} of {len(runs)} done, {(time.monotonic() - started) / 60:.0f} min")
    bound = not gathered.is_dir() or lanes.call("report", ["report", str(gathered)])
    if given.keep:
        keep_times(times(given.out, runs), everything, TIMES)
    if failed or not bound:
        raise SystemExit(f"failed: {', '.join([*failed, *([] if bound else ['report'])])}")


if __name__ == "__main__":
    main()
