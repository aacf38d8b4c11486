"""How `expander-sae serve` answers at rising concurrency and past its limit: benchmarks/results/serve.csv.

python benchmarks/serve.py [--seconds 5] [--d-in 576] [--n-latents 24576] [--out benchmarks/results/serve.csv]

The server is a process of its own with one thread of the core; the clients are threads of this one, each with a
connection that it keeps. Activations: 16 tokens a request as float32 bytes, safetensors back, every answer compared
with `sae.encode` to the bit. Texts: a tiny random model, a sentence a request, two SAEs. The last line is a server
whose queue holds `--queue-past` requests, asked by far more clients than fit: the share that is refused, how quickly,
and that every other request was answered with the right codes.
"""

import argparse
import csv
import http.client
import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import torch
from machine import cpu
from safetensors.torch import load

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tests"))
CONCURRENCY = (1, 4, 16, 64)
TOKENS = 16
RAW, SAFE = "application/octet-stream", "application/x-safetensors"


def start(*options: str) -> tuple[subprocess.Popen, int]:
    run = [sys.executable, "-m", "expander_sae.cli.main", "serve", *options, "--port", "0"]
    env = {**os.environ, "PYTHONUNBUFFERED": "1", "COLUMNS": "200", "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    server = subprocess.Popen(run, stdout=subprocess.PIPE, text=True, env=env)
    assert server.stdout is not None
    found = re.search(r"at http://[^ ]*:(\d+)/", server.stdout.readline())
    if found is None:
        raise SystemExit("the server did not start")
    return server, int(found[1])


class Crowd:
    """Clients that ask for some seconds, each its next question once it has its answer."""

    def __init__(self, port: int, path: str, headers: dict[str, str], asked: list, right) -> None:
        self.port, self.path, self.headers, self.asked, self.right = port, path, headers, asked, right
        self.seconds: list[float] = []
        self.refused: list[float] = []
        self.wrong = self.lost = 0
        self.lock = threading.Lock()

    def run(self, clients: int, seconds: float) -> float:
        until = time.perf_counter() + seconds
        threads = [threading.Thread(target=self._ask, args=(number, until)) for number in range(clients)]
        begun = time.perf_counter()
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return time.perf_counter() - begun

    def _ask(self, number: int, until: float) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        while time.perf_counter() < until:
            number += 1
            body, expected = self.asked[number % len(self.asked)]
            begun = time.perf_counter()
            try:
                connection.request("POST", self.path, body=body, headers=self.headers)
                answer = connection.getresponse()
                content = answer.read()
            except (OSError, http.client.HTTPException):
                with self.lock:
                    self.lost += 1
                connection.close()
                continue
            took = time.perf_counter() - begun
            with self.lock:
                if answer.status == 429:
                    self.refused.append(took)
                elif answer.status == 200 and self.right(content, expected):
                    self.seconds.append(took)
                else:
                    self.wrong += 1

    def row(self, what: str, clients: int, seconds: float, tokens: int) -> dict[str, object]:
        def ms(times: list[float], share: float) -> float | str:
            return round(1e3 * sorted(times)[int(share * (len(times) - 1))], 2) if times else ""

        answered = len(self.seconds)
        found = {
            "what": what, "clients": clients, "answered": answered, "per_second": round(answered / seconds, 1),
            "tokens_per_second": round(tokens * answered / seconds), "p50_ms": ms(self.seconds, 0.5),
            "p99_ms": ms(self.seconds, 0.99), "refused": len(self.refused),
            "refused_p50_ms": ms(self.refused, 0.5), "refused_p99_ms": ms(self.refused, 0.99),
            "wrong": self.wrong, "lost": self.lost,
        }  # fmt: skip
        print(found, flush=True)
        return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=5.0)
    parser.add_argument("--d-in", type=int, default=576)
    parser.add_argument("--n-latents", type=int, default=24576)
    parser.add_argument("--k", type=int, default=32)
    parser.add_argument("--window-ms", default="5")
    parser.add_argument("--queue-past", default="8")
    parser.add_argument("--clients-past", type=int, default=64)
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks" / "results" / "serve.csv")
    options = parser.parse_args()
    from tiny_models import D_IN, make_documents, make_tiny_model

    from expander_sae.saes import ExpanderSae, load_sae

    rows: list[dict[str, object]] = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        ExpanderSae(d_in=options.d_in, n_latents=options.n_latents, degree=7, k=options.k).save(folder / "large")
        for layer in (0, 1):
            small = ExpanderSae(d_in=D_IN, n_latents=512, degree=4, k=8, seed=layer)
            small.metadata = {"activations": {"layer": layer, "model_id": "model", "d_in": D_IN}}
            small.save(folder / f"layer-{layer}")
        make_tiny_model(folder / "model")
        sae = load_sae(folder / "large").eval()
        asked = []
        with torch.no_grad():
            for _ in range(16):
                x = torch.randn(TOKENS, options.d_in)
                asked.append((x.numpy().tobytes(), sae.encode(x)))
        sentences = [one.split(". ")[1] + "." for one in make_documents(16)]
        texts = [(json.dumps({"texts": [one]}).encode(), one) for one in sentences]
        length = statistics.mean(len(one.split()) for one in sentences)
        print(f"texts of about {length:.0f} words")

        def same(content: bytes, codes) -> bool:
            found = load(content)
            return torch.equal(found["indices"], codes.indices.int()) and torch.equal(found["values"], codes.values)

        def said(content: bytes, text: str) -> bool:
            (one,) = json.loads(content)["texts"]
            return "".join(one["tokens"]) == text and len(one["saes"]) == 2

        def clients(what: str, port: int, path: str, headers: dict, asked: list, right, counts, tokens: int) -> None:
            Crowd(port, path, headers, asked, right).run(2, 1.0)  # warm
            for count in counts:
                crowd = Crowd(port, path, headers, asked, right)
                took = crowd.run(count, options.seconds)
                rows.append(crowd.row(what, count, took, tokens))

        activations = {"content-type": RAW, "accept": SAFE}
        json_headers = {"content-type": "application/json"}
        window = ("--window-ms", options.window_ms)
        for what, command, path, headers, questions, right, tokens in (
            ("activations", [str(folder / "large"), "--queue", "256", *window], "/v1/activations", activations, asked,
             same, TOKENS),
            ("texts", [str(folder / "layer-0"), str(folder / "layer-1"), "--model", str(folder / "model"), "--queue",
             "256", *window], "/v1/texts", json_headers, texts, said, 1),
        ):  # fmt: skip
            server, port = start(*command)
            clients(what, port, path, headers, questions, right, CONCURRENCY, tokens)
            server.terminate()
            if server.wait(60) != 0:
                raise SystemExit(f"the server ended with {server.returncode}")
        server, port = start(str(folder / "large"), "--queue", options.queue_past, *window)
        past = (options.clients_past,)
        what = f"activations, a queue of {options.queue_past}"
        clients(what, port, "/v1/activations", activations, asked, same, past, TOKENS)
        server.terminate()
        server.wait(60)
    for row in rows:
        row["cpu"] = cpu()
    options.out.parent.mkdir(parents=True, exist_ok=True)
    with options.out.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    if any(row["wrong"] or row["lost"] for row in rows):
        raise SystemExit("an answer was wrong or lost")


if __name__ == "__main__":
    main()
