"""What says how far `make setup` is: exit codes are passed on, failures are loud, everything else is quiet."""

import importlib.util
import io
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PROGRESS = ROOT / "dev" / "progress.py"

spec = importlib.util.spec_from_file_location("progress", PROGRESS)
progress = importlib.util.module_from_spec(spec)
spec.loader.exec_module(progress)


def follow(log, script):
    return subprocess.run(
        [sys.executable, "-S", str(PROGRESS), "step", str(log), "--", "sh", "-c", script],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


@pytest.mark.parametrize(("script", "code"), [("exit 7", 7), ("kill -9 $$", 137), ("false | true; exit 1", 1)])
def test_a_failure_shows_the_output_and_keeps_its_exit_code(tmp_path, script, code):
    log = tmp_path / "new folder" / "log"
    done = follow(log, f"echo to stdout; echo to stderr >&2; {script}")
    assert done.returncode == code
    assert "to stdout\nto stderr\n" in done.stdout
    assert f"FAILED with exit code {code}" in done.stdout
    assert str(log) in done.stdout


def test_a_success_is_quiet_and_logged_whole(tmp_path):
    done = follow(tmp_path / "log", "echo noise; echo '[1/2] Building CXX object a.dir/x.cpp.o'; printf 'no newline'")
    assert (done.returncode, done.stderr) == (0, "")
    told = [re.sub(r"^\[ *\d+ s\] ", "", line) for line in done.stdout.splitlines()]
    assert told == ["step: started", "step: core: [1/2] 50% compiled, x.cpp for a", "step: done"]
    assert (tmp_path / "log").read_text() == "noise\n[1/2] Building CXX object a.dir/x.cpp.o\nno newline"


def test_what_cannot_be_run_is_named(tmp_path):
    command = [sys.executable, str(PROGRESS), "step", str(tmp_path / "log"), "--", "no-such-command"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "cannot run no-such-command" in done.stderr


CASES = {
    "  [12/46] Building CXX object CMakeFiles/avx2.dir/src/expander_sae/ops/csrc/scan.cpp.o": (
        "core: [12/46] 26% compiled, scan.cpp for avx2"
    ),
    "[46/46] Linking CXX shared module _native.abi3.so": "core: [46/46] 100% compiled, _native.abi3.so",
    "Collecting torch==2.13.0 (from -r requirements.txt)": "packages: 1 looked up, collecting torch==2.13.0",
    "  Downloading https://files.example.org/a/b/numpy-2.4.6-cp311.whl.metadata (6 kB)": (
        "packages: 0 looked up, downloading numpy-2.4.6-cp311.whl.metadata"
    ),
    "Installing collected packages: numpy, torch": "installing 2 packages",
    "tests/end_to_end/test_text_to_report.py::test_text_to_report[llama] PASSED           [ 50%]": (
        "50% of the tests, tests/end_to_end/test_text_to_report.py::test_text_to_report[llama]"
    ),
    "Installing collected packages: expander-sae": "installing expander-sae",
}


@pytest.mark.parametrize(("line", "told"), CASES.items())
def test_known_lines_become_steps(line, told):
    assert progress.Steps().read(line, 0.0)[0] == told


def test_other_lines_say_nothing():
    for line in ("", "-- Configuring done (1.7s)", "Requirement already satisfied: numpy", "warning: [-Wfoo] x.cpp:3"):
        assert progress.Steps().read(line, 0.0) is None


def test_the_sets_that_cmake_names_are_shown():
    message = re.search(r'message\(STATUS "(expander-sae core.*)"\)', (ROOT / "CMakeLists.txt").read_text())[1]
    line = "-- " + message.replace("${sets}", "baseline;avx2").replace("${EXPANDER_SETS}", "local")
    told = progress.Steps().read(line, 0.0)
    assert told == ("core: instruction sets baseline, avx2 (those this machine runs)", True)


def test_time_left_is_estimated_from_what_was_compiled():
    steps = progress.Steps()
    steps.read("[1/40] Building CXX object a.dir/x.cpp.o", 100.0)
    assert steps.read("[10/40] Building CXX object a.dir/y.cpp.o", 130.0)[0].endswith("about 90 s left")


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.mark.parametrize(("out", "lines"), [(io.StringIO(), 5), (Terminal(), 1)])
def test_silence_is_broken_now_and_then(out, lines):
    now = [0.0]
    display = progress.Display("step", out, clock=lambda: now[0])
    display.note("installing", False)
    for _ in range(35):
        now[0] += 1.0
        display.tick()
    display.say("done", final=True)
    assert out.getvalue().count("\n") == lines
    assert out.getvalue().count("installing") >= 3
