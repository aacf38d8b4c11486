"""A short form of `make soak`, and that it would see what it looks for."""

import subprocess
import sys
from pathlib import Path

import pytest
import soak

HERE = Path(__file__).parent


def judged(memory, files=8):
    times = [60.0 * number for number in range(1, 31)]
    rows = [(memory(t), files if t < 1500 else files + (files > 8), 1, 0) for t in times]
    return {name: grows for name, *_, grows in soak.judged(times, rows)}


def test_what_grows_is_seen_and_what_only_wavers_is_not():
    assert judged(lambda t: 900 + (t % 7)) == dict.fromkeys(soak.WHAT, False)
    assert judged(lambda t: 900 + t / 20)["MiB"]  # 180 MiB an hour
    assert judged(lambda t: 900.0, files=9)["files"]


@pytest.mark.slow
def test_a_short_soak_ends_with_a_table(monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(HERE.parent))
    command = [sys.executable, str(HERE / "soak.py"), "--minutes", "0.5"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    lines = {line.split()[0]: line for line in done.stdout.splitlines()[2:]}
    assert set(lines) == set(soak.WHAT), done.stderr
    assert not any("GROWS" in lines[name] for name in ("files", "threads", "temporary"))  # memory needs longer
