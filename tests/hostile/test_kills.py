"""A short form of `make kills`, and that it would see what it looks for."""

import json
import os
import subprocess
import sys
from pathlib import Path

import kills
import torch

HERE = Path(__file__).parent


def test_a_few_kills_of_a_few_verbs():
    done = subprocess.run(
        [sys.executable, str(HERE / "kills.py"), "--kills", "2", "--tokens", "21000", "--verbs", "train,encode"],
        env={**os.environ, "PYTHONPATH": str(HERE.parent), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert [line.split()[0] for line in lines] == ["train", "encode"]
    assert all("2 runs" in line and " 0 wrong" in line and " 0 killed" not in line for line in lines)


def test_other_bits_and_half_written_files_are_seen(tmp_path):
    (tmp_path / "a.json").write_text(json.dumps({"seconds": 1, "fvu": 0.5}))
    torch.save({"x": torch.ones(3)}, tmp_path / "c.pt")
    whole = kills.results(tmp_path)
    assert kills.half_written(tmp_path) == []
    (tmp_path / "a.json").write_text(json.dumps({"seconds": 2, "fvu": 0.5}))
    assert kills.differences(whole, kills.results(tmp_path)) == []
    (tmp_path / "a.json").write_text(json.dumps({"seconds": 2, "fvu": 0.6}))
    assert kills.differences(whole, kills.results(tmp_path)) == ["a.json"]
    (tmp_path / "a.json").write_text('{"seconds": 1')
    (tmp_path / "b.safetensors").write_bytes(b"\x10")
    (tmp_path / "c.pt").write_bytes((tmp_path / "c.pt").read_bytes()[:50])
    assert [line.split(":")[0] for line in sorted(kills.half_written(tmp_path))] == ["a.json", "b.safetensors", "c.pt"]
