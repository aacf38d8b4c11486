"""A server killed again and again while clients ask: no answer is wrong, and the next start is as the first.

python tests/serving/kill_server.py [--kills 100]     (PYTHONPATH=tests:tests/serving)
"""

import argparse
import random
import tempfile
import time
from pathlib import Path

import torch
from served import Crowd, make_saes, start

from expander_sae.saes import load_sae


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=100)
    options = parser.parse_args()
    draw, port, right = random.Random(0), 0, 0
    with tempfile.TemporaryDirectory() as name:
        folder = make_saes(Path(name))["stages"]
        before = {path.name: path.read_bytes() for path in folder.iterdir()}
        sae, answers = load_sae(folder).eval(), []
        with torch.no_grad():
            for n in (1, 4, 30):
                x = torch.randn(n, sae.d_in)
                codes = sae.encode(x)
                answers.append((x.numpy().tobytes(), [codes.indices.tolist(), codes.values.tolist()]))
        for number in range(options.kills):
            process, port = start([folder], *(["--port", str(port)] if port else []))
            crowd = Crowd(port, answers, clients=8)
            crowd.until(1)
            time.sleep(draw.random())
            process.kill()
            process.wait(20)
            crowd.end()
            right += crowd.right
            if crowd.wrong or {path.name: path.read_bytes() for path in folder.iterdir()} != before:
                raise SystemExit(f"kill {number}: {crowd.wrong} wrong answers, or the SAE's folder was changed")
        print(f"{options.kills} kills, {right} right answers, none wrong")


if __name__ == "__main__":
    main()
