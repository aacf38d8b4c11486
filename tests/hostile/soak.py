"""Train, evaluate, encode and browse in one process for an hour: nothing that a process holds may grow.

    PYTHONPATH=tests OMP_NUM_THREADS=1 python tests/hostile/soak.py [--minutes 60]

After every round: resident memory, open files, threads and temporary files. The first third of the time is warm-up. Of
the rest a straight line is fitted; memory may rise by `LIMIT_MIB` in an hour (its own noise, two standard errors of the
slope, is taken off first), the others not at all between the first and the last tenth. Exit code 1 if something grows.
"""

import argparse
import gc
import os
import shutil
import sys
import tempfile
import threading
import time
from pathlib import Path

import numpy as np
import torch
from shop import Shop, call, make_shop

from expander_sae.latents import LabelFile, LatentStore

LIMIT_MIB = 40.0
"""A leak of one batch of the smallest real pass (2048 x 576 floats, 4.5 MiB) every six minutes."""
WHAT = ("MiB", "files", "threads", "temporary")


def held(place):
    """Resident MiB, open files, threads, and temporary files of this process."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    temporary = sum(1 for _ in place.rglob("*"))
    return (
        pages * os.sysconf("SC_PAGE_SIZE") / 2**20,
        len(os.listdir("/proc/self/fd")),
        threading.active_count(),
        temporary,
    )


def one_round(shop, out):
    """Every verb that a long-lived process would call, and what a browser asks for."""
    for verb, name in (("train", "saes"), ("eval", "r.json"), ("encode", "codes.safetensors"), ("features", "l.db")):
        call([*shop.arguments(verb, out / name), "--quiet"])
    with LatentStore.open(out / "l.db") as store, LabelFile.beside(out / "l.db") as labels:
        for latent in range(0, store.view().n_latents, 8):
            store.latent(latent).as_dict()
        labels.put("0" * 64, 1, text="one", seen=0)
        readers = [threading.Thread(target=lambda: store.search("the")) for _ in range(4)]
        for one in readers:
            one.start()
        for one in readers:
            one.join()
    shutil.rmtree(out)


def slope(times, values):
    """Of a straight line, an hour, and its standard error."""
    hours = np.asarray(times) / 3600
    (rise, _), covariance = np.polyfit(hours, values, 1, cov=True)
    return rise, float(np.sqrt(covariance[0, 0]))


def judged(times, rows):
    """(what, first, last, slope an hour, two standard errors, whether it grows) of what was held after the warm-up."""
    kept = [(t, row) for t, row in zip(times, rows, strict=True) if t > times[-1] / 3]
    at, table = [t for t, _ in kept], np.array([row for _, row in kept], dtype=float)
    tenth = max(1, len(table) // 10)
    for number, name in enumerate(WHAT):
        column = table[:, number]
        rise, error = slope(at, column) if len(at) > 4 and np.ptp(column) else (0.0, 0.0)
        first, last = np.median(column[:tenth]), np.median(column[-tenth:])
        grows = rise - 2 * error > LIMIT_MIB if name == "MiB" else last > first
        yield name, first, last, rise, 2 * error, bool(grows)


def main(arguments=None):
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--minutes", type=float, default=60)
    given = options.parse_args(arguments)
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        (place / "shop").mkdir()
        shop: Shop = make_shop(place / "shop")
        (place / "tmp").mkdir()
        tempfile.tempdir = str(place / "tmp")
        began, times, rows = time.monotonic(), [], []
        while time.monotonic() - began < 60 * given.minutes or len(times) < 6:
            one_round(shop, place / "tmp" / "out")
            gc.collect()
            times.append(time.monotonic() - began)
            rows.append(held(place / "tmp"))
        found = list(judged(times, rows))
    print(f"{len(times)} rounds in {times[-1] / 60:.1f} min; of what came after the first third:")
    print(f"{'':10} {'first':>9} {'last':>9} {'an hour':>9} {'2 s.e.':>8}")
    for name, first, last, rise, error, grows in found:
        print(f"{name:10} {first:9.1f} {last:9.1f} {rise:9.2f} {error:8.2f} {'GROWS' if grows else ''}".rstrip())
    return int(any(row[-1] for row in found))


if __name__ == "__main__":
    sys.exit(main())
