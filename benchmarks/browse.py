"""How soon the browser opens and how long its answers take, over HTTP: benchmarks/results/browse.csv.

python benchmarks/browse.py [--latents 131072] [--requests 200] [--store FILE] [--out benchmarks/results/browse.csv]

Without --store a made-up store of that many latents is written first. "opens" is the time from the command to the first
page of the overview being answered, in a process of its own; then every page's data is asked for many times over one
connection, each time of another latent, search or page, and the median, 95th percentile and largest are written.
"""

import argparse
import csv
import http.client
import os
import random
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from urllib.parse import urlencode

import numpy as np
from machine import cpu

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tests" / "latents"))
WORDS = ("river", "stone", "captain", "the", "winter bird", "12", "caf", "zzz")


def questions(draw: random.Random, n_latents: int, views: list[str]) -> dict[str, tuple[str, dict[str, object]]]:
    """One question to each page."""
    view = draw.choice(views)
    some = {"view": view}
    return {
        "page": ("/", {}),
        "store": ("/api/store", {}),
        "overview": ("/api/overview", some),
        "map": ("/api/places", some),
        "latent": (f"/api/latent/{draw.randrange(n_latents)}", some),
        "search, words": ("/api/search", {**some, "q": draw.choice(WORDS)}),
        "search, token": ("/api/search", {**some, "q": draw.choice(WORDS), "in": "token"}),
        "search, density": ("/api/search", {**some, "lo": 0.02, "hi": 0.02 + draw.random() / 5}),
        "search, most specific": ("/api/search", {**some, "order": "specific", "offset": 50 * draw.randrange(20)}),
        "search, dead": ("/api/search", {**some, "alive": "dead"}),
        "compare": ("/api/compare", {"view": views[0], "other": views[1], "offset": 50 * draw.randrange(50)}),
        "labels": ("/api/labels", {}),
    }


def ask(connection: http.client.HTTPConnection, path: str, params: dict[str, object]) -> tuple[float, int]:
    """Seconds until the whole answer was read, and its bytes."""
    start = time.perf_counter()
    connection.request("GET", f"{path}?{urlencode(params)}" if params else path)
    answer = connection.getresponse()
    content = answer.read()
    if answer.status != 200:
        raise SystemExit(f"{path} {params}: {answer.status} {content[:200]!r}")
    return time.perf_counter() - start, len(content)


def measure(store: Path, requests: int, seed: int = 0) -> list[dict[str, object]]:
    from expander_sae.latents import LatentStore

    with LatentStore.open(store) as known:
        views, n_latents = [view.name for view in known.views], known.views[0].n_latents
    start = time.perf_counter()
    command = [sys.executable, "-m", "expander_sae.cli.main", "browse", str(store), "--no-open", "--port", "0"]
    server = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env={**os.environ, "PYTHONUNBUFFERED": "1"})
    try:
        assert server.stdout is not None
        port = int(re.search(r":(\d+)/", server.stdout.readline())[1])  # type: ignore[index]
        connection = http.client.HTTPConnection("127.0.0.1", port)
        for path in ("/", "/api/store", "/api/overview", "/api/places"):
            ask(connection, path, {})
        rows: list[dict[str, object]] = [{"what": "opens", "median_ms": round(1e3 * (time.perf_counter() - start), 1)}]
        draw = random.Random(seed)
        times: dict[str, list[tuple[float, int]]] = {}
        for _ in range(requests):
            for name, question in questions(draw, n_latents, views).items():
                times.setdefault(name, []).append(ask(connection, *question))
    finally:
        server.terminate()
        server.wait(20)
    for name, found in times.items():
        milliseconds = 1e3 * np.array([seconds for seconds, _ in found])
        middle, high, most = np.percentile(milliseconds, [50, 95, 100])
        size = int(np.median([size for _, size in found]))
        told = {"median_ms": round(middle, 1), "p95_ms": round(high, 1), "largest_ms": round(most, 1), "bytes": size}
        rows.append({"what": name, **told})
    return [{"n_latents": n_latents, "store_mb": round(store.stat().st_size / 1e6), **row} for row in rows]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--latents", type=int, default=131_072)
    parser.add_argument("--requests", type=int, default=200, help="of each page")
    parser.add_argument("--store", type=Path, help="a store that is there, instead of a made-up one")
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks" / "results" / "browse.csv")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        store = args.store
        if store is None:
            from made_up import make_store

            names = ("expander-d7, encoder", "dense, encoder")
            sizes = {"d_in": 256, "degree": 7, "contexts": 6, "per_quantile": 2}
            store = make_store(Path(folder) / "latents.db", n_latents=args.latents, views=names, hostile=False, **sizes)
        rows = measure(store, args.requests)
    names = ("cpu", "n_latents", "store_mb", "what", "median_ms", "p95_ms", "largest_ms", "bytes")
    with args.out.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, names, lineterminator="\n")
        writer.writeheader()
        writer.writerows({"cpu": cpu(), **row} for row in rows)
    for row in rows:
        print(*(f"{row.get(name, '')!s:>22}" for name in names[3:]))


if __name__ == "__main__":
    main()
