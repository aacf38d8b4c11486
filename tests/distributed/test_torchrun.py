"""A real torchrun, a rank of which is killed."""

import json
import os
import subprocess
import sys
from pathlib import Path

import torch
from test_training_over_ranks import TOLERANCE, trained

from expander_sae.distributed import ALONE
from expander_sae.saes import load_sae

# Without the second, gloo finds the addresses of processes that are dead in the store that torchrun goes on with.
ENVIRONMENT = {"OMP_NUM_THREADS": "1", "TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1"}


def test_a_killed_rank_is_started_again_and_the_pass_goes_on(tmp_path):
    script = Path(__file__).with_name("killed_pass.py")
    done = subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "--max-restarts", "1",
         "--monitor-interval", "0.1", str(script), str(tmp_path / "two"), "21"],
        capture_output=True, text=True, timeout=200, env={**os.environ, **ENVIRONMENT},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == ["ranks 2 restarts 1 steps 30"]
    trained(ALONE, tmp_path / "one", "meaning")
    one, two = (load_sae(tmp_path / name / "a") for name in ("one", "two"))
    assert torch.equal(one.rows, two.rows)
    torch.testing.assert_close(two.values, one.values, rtol=0, atol=TOLERANCE)
    steps = [json.loads(line)["step"] for line in (tmp_path / "two" / "metrics.jsonl").read_text().splitlines()]
    assert steps == [19, 29]  # the lines of steps that were done again are there once
