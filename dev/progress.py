"""Runs a long command and says in one line now and then how far it is: `progress.py TITLE LOG -- COMMAND...`.

The command's whole output goes to the file LOG. Shown are the steps known below: on a terminal in one line that is
written over, elsewhere in a line per step and one at least every `HEARTBEAT` seconds. If the command fails, the end of
its output and the path of LOG are shown, and its exit code is passed on. Only the standard library: this runs before
anything is installed. (Not a filter in awk: Debian's awk reads whole blocks from a pipe, so lines would come late.)
"""

import queue
import re
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TextIO

HEARTBEAT = 10.0  # seconds between lines where the output is no terminal
SHOWN_ON_FAILURE = 60  # lines

# [12/46] Building CXX object CMakeFiles/avx2.dir/src/expander_sae/ops/csrc/scan.cpp.o
_COMPILED = re.compile(r"\[(\d+)/(\d+)\] .*?(?:([\w-]+)\.dir/(?:\S*/)?)?([^/\s]+)$")
_SETS = re.compile(r"-- expander-sae core: instruction sets (\S+) \((\w+);")
_PACKAGE = re.compile(r"\s*(Collecting|Downloading|Using cached) (?:https?://\S*/)?([^\s/]+)")
_TESTED = re.compile(r"(\S+::.+) (?:PASSED|FAILED|SKIPPED|ERROR) +\[ *(\d+)%\]")
_INSTALLING = re.compile(r"Installing collected packages: (.+)")


class Steps:
    """What the lines of pip, CMake, Ninja and pytest say about how far the command is."""

    def __init__(self) -> None:
        self.packages = 0
        self.compiling_since: float | None = None

    def read(self, line: str, now: float) -> tuple[str, bool] | None:
        """What `line` tells, and whether it begins a step (shown at once); None if it tells nothing."""
        if found := _COMPILED.search(line):
            return self._compiled(int(found[1]), int(found[2]), found[3], found[4], now)
        if found := _SETS.search(line):
            sets = found[1].replace(";", ", ")
            whose = {"local": "those this machine runs", "all": "all"}.get(found[2], found[2])
            return f"core: instruction sets {sets} ({whose})", True
        if found := _INSTALLING.search(line):
            packages = found[1].split(", ")
            return f"installing {len(packages)} packages" if len(packages) > 1 else f"installing {packages[0]}", True
        if found := _TESTED.match(line):
            return f"{found[2]}% of the tests, {found[1]}", True
        if found := _PACKAGE.match(line):
            self.packages += found[1] == "Collecting"
            return f"packages: {self.packages} looked up, {found[1].lower()} {found[2]}", False
        return None

    def _compiled(self, done: int, of: int, folder: str | None, name: str, now: float) -> tuple[str, bool]:
        first = self.compiling_since is None
        if first:
            self.compiling_since = now
        told = f"core: [{done}/{of}] {100 * done // of}% compiled, {name.removesuffix('.o')}"
        if folder and folder != "_native":
            told += f" for {folder}"
        spent = now - (self.compiling_since or now)
        if done < of and spent > 5:
            told += f", about {spent * (of - done) / done:.0f} s left"
        return told, first


class Display:
    """One line that is written over on a terminal; elsewhere a line per step and one now and then."""

    def __init__(self, title: str, out: TextIO, clock: Callable[[], float] = time.monotonic) -> None:
        self.title, self.out, self.clock = title, out, clock
        self.terminal = out.isatty()
        self.start = self.last = clock()
        self.told = "started"
        self.say(self.told)

    def note(self, told: str, begins: bool) -> None:
        """A step was told of."""
        self.told = told
        if begins or self.terminal:
            self.say(told)

    def tick(self) -> None:
        """Says the latest again if nothing was said for long."""
        if self.clock() - self.last >= (1.0 if self.terminal else HEARTBEAT):
            self.say(self.told)

    def say(self, told: str, *, final: bool = False) -> None:
        """Writes one line."""
        self.last = self.clock()
        line = f"[{self.last - self.start:4.0f} s] {self.title}: {told}"
        if self.terminal:
            self.out.write(f"\r\x1b[K{line[:150]}" + ("\n" if final else ""))
        else:
            self.out.write(line + "\n")
        self.out.flush()


def lines_of(stream: TextIO, wait: float) -> Iterator[str | None]:
    """The lines as they come; None whenever none came for `wait` seconds."""
    arrived: queue.SimpleQueue[str | None] = queue.SimpleQueue()

    def read() -> None:
        for line in stream:
            arrived.put(line)
        arrived.put(None)

    threading.Thread(target=read, daemon=True).start()
    while True:
        try:
            line = arrived.get(timeout=wait)
        except queue.Empty:
            yield None
            continue
        if line is None:
            return
        yield line


def run(title: str, log: Path, command: list[str], out: TextIO) -> int:
    """Runs the command and returns its exit code, by the shell's rule for one that a signal ended."""
    log.parent.mkdir(parents=True, exist_ok=True)
    display, steps = Display(title, out), Steps()
    with log.open("w", encoding="utf-8") as copy:
        child = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace", bufsize=1
        )
        assert child.stdout is not None
        for line in lines_of(child.stdout, wait=1.0):
            if line is not None:
                copy.write(line)
                copy.flush()
                if step := steps.read(line.rstrip(), display.clock()):
                    display.note(*step)
            display.tick()
        code = child.wait()
    code = code if code >= 0 else 128 - code
    if code:
        display.say(f"FAILED with exit code {code}", final=True)
        written = log.read_text(encoding="utf-8").splitlines()
        out.write("\n".join(written[-SHOWN_ON_FAILURE:]) + "\n")
        out.write(f"{title} failed with exit code {code}; the whole output ({len(written)} lines) is in {log}\n")
    else:
        display.say("done", final=True)
    return code


def main(arguments: list[str]) -> int:
    """Reads the command line."""
    if len(arguments) < 4 or arguments[2] != "--":
        sys.exit("usage: progress.py TITLE LOG -- COMMAND...")
    title, log, _, *command = arguments
    try:
        return run(title, Path(log), command, sys.stdout)
    except FileNotFoundError as error:
        sys.exit(f"{title}: cannot run {command[0]}: {error.strerror}")
    except KeyboardInterrupt:
        return 130


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
