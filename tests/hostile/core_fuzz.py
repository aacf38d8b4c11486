"""Random calls of the C++ core: odd shapes and ranks, repeated columns, zero and huge tokens, wrong arguments.

Every call either gives codes in their form (indices in range and distinct, finite values, sizes falling) or raises one
error, and the same call gives the same bits whatever ran before it. `make fuzz` runs this on a core built with
AddressSanitizer and UndefinedBehaviorSanitizer; `make test` runs a short form on the ordinary core.
"""

import argparse
import importlib.util
import sys
import time
from collections import Counter
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

METHODS = ("omp", "mp", "gradient", "nnomp", "refit", "cosamp", "niht")


def load_core(path: Path) -> None:
    """Make this build of the core the package's."""
    spec = importlib.util.spec_from_file_location("expander_sae.ops._native", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    sys.modules["expander_sae.ops._native"] = module


class Case:
    """One random dictionary with tokens."""

    def __init__(self, rng: np.random.Generator) -> None:
        self.rng = rng
        self.d_in = int(rng.choice([1, 2, 3, 5, 8, 15, 16, 17, 33, 64]))
        self.degree = int(min(self.d_in, rng.choice([1, 2, 3, 4, 7, 8, 16, 30])))
        self.n = int(rng.choice([1, 2, 3, 7, 16, 63, 64, 65, 200, 700]))
        self.batch = int(rng.choice([1, 2, 3, 15, 16, 17, 33, 65]))
        self.rows = np.sort(
            np.stack([rng.permutation(self.d_in)[: self.degree] for _ in range(self.n)]).astype(np.uint16), axis=1
        )
        values = rng.standard_normal((self.n, self.degree))
        if rng.random() < 0.3:
            values = np.sign(values) + (values == 0)
        values /= np.linalg.norm(values, axis=1, keepdims=True)
        self.values = values.astype(np.float32)
        if rng.random() < 0.4:  # repeated columns, opposite ones, and pairs that are nearly the same
            source, target = rng.integers(0, self.n, 8), rng.integers(0, self.n, 8)
            self.rows[target] = self.rows[source]
            noise = 1 + rng.choice([0, 1e-6, 1e-3]) * rng.standard_normal((8, self.degree))
            self.values[target] = (self.values[source] * rng.choice([1, -1], (8, 1)) * noise).astype(np.float32)
        if rng.random() < 0.1:
            self.values[rng.integers(0, self.n)] = 0
        self.x = rng.standard_normal((self.batch, self.d_in)).astype(np.float32)
        if rng.random() < 0.3:  # tokens that a few columns explain exactly
            codes = rng.standard_normal((self.batch, self.n)) * (rng.random((self.batch, self.n)) < 2 / self.n)
            full = np.zeros((self.n, self.d_in))
            np.put_along_axis(full, self.rows.astype(np.int64), self.values, 1)
            self.x = (codes @ full).astype(np.float32)
        kind = rng.random()
        if kind < 0.25:
            self.x[rng.integers(0, self.batch)] = 0
        elif kind < 0.4:
            powers = rng.choice([-44, -37, -20, 0, 12, 19, 30, 37], (self.batch, 1)).astype(np.float64)
            with np.errstate(over="ignore"):
                self.x = np.clip(self.x * 10.0**powers, -3.3e38, 3.3e38).astype(np.float32)
        elif kind < 0.45:
            self.x[:] = 0
        self.center = rng.standard_normal(self.d_in).astype(np.float32) if rng.random() < 0.5 else None
        if self.center is not None and rng.random() < 0.3:
            self.x[rng.integers(0, self.batch)] = self.center
        self.k = int(rng.integers(1, min(self.n, 70) + 1))
        self.signed = bool(rng.random() < 0.5)
        self.threads = int(rng.choice([1, 1, 2]))
        self.tolerance = float(rng.choice([0.0, 0.0, 0.1, 0.9]))

    def spoil(self) -> str:
        """Put one number where none belongs; the error that is due names it."""
        bad = self.rng.choice([np.nan, np.inf, -np.inf])
        where = str(self.rng.choice(["x", "values", "center"]))
        if where == "center" and self.center is None:
            where = "x"
        array = getattr(self, where)
        array.flat[self.rng.integers(0, array.size)] = bad
        return where


def check_codes(indices: np.ndarray, values: np.ndarray, n: int, by_size: bool) -> None:
    """In range, distinct, finite, falling."""
    assert indices.min(initial=0) >= 0, indices
    assert indices.max(initial=0) < n, indices
    ordered = np.sort(indices, axis=1)
    assert (ordered[:, 1:] != ordered[:, :-1]).all(), "an index stands twice"
    assert np.isfinite(values).all(), values
    for row in values:
        size = np.abs(row[row != 0]) if by_size else row[row != 0]
        assert (np.diff(size) <= 0).all(), row


def call(core: ModuleType, case: Case, name: str, method: str, block: int, spare: int) -> tuple[np.ndarray, np.ndarray]:
    """Codes of one op; what is wrong with its arguments is raised as ValueError."""
    indices = np.empty((case.batch, case.k), np.int64)
    codes = np.empty((case.batch, case.k), np.float32)
    w = (case.rows, case.values)
    if name == "encode":
        bias = case.rng.standard_normal(case.n).astype(np.float32) if case.seed % 2 else None
        core.encode_topk(case.x, case.center, *w, bias, case.k, case.signed, case.threads, 0, indices, codes)
    elif name == "block":
        core.block_omp(
            case.x, case.center, *w, case.k, block, spare, case.signed, case.tolerance, case.threads, indices, codes
        )
    else:
        warm = case.warm if method in ("omp", "refit") else (None, None)
        if method == "refit" and warm[0] is None:
            warm = np.zeros((case.batch, 1), np.int64), np.ones((case.batch, 1), np.float32)
        repeated = (case.rng.random(case.n) < 0.1).astype(np.uint8) if method == "niht" else None
        steps = min(2 * case.k, 20)
        core.greedy(
            case.x, case.center, *w, method, case.k, steps, case.signed, case.tolerance, *warm, repeated, case.threads,
            indices, codes,
        )  # fmt: skip
    return indices, codes


def one_round(core: ModuleType, seed: int) -> str:
    """What was called; raises AssertionError where the answer is not in form."""
    rng = np.random.default_rng(seed)
    case = Case(rng)
    case.seed = seed  # type: ignore[attr-defined]
    name = str(rng.choice(["encode", "block", "block", "greedy", "greedy"]))
    method = str(rng.choice(METHODS))
    block = int(rng.integers(1, case.k + 1))
    spare = int(rng.integers(0, max(1, min(case.n - case.k, 2 * case.k + 16) + 1)))
    width = int(rng.integers(1, case.k + 1))
    warm_indices = np.stack([rng.permutation(case.n)[:width] for _ in range(case.batch)]).astype(np.int64)
    warm_codes = rng.standard_normal((case.batch, width)).astype(np.float32) * (rng.random((case.batch, width)) < 0.8)
    case.warm = (warm_indices, warm_codes) if rng.random() < 0.5 else (None, None)  # type: ignore[attr-defined]
    spoiled = case.spoil() if rng.random() < 0.05 else None
    state = rng.bit_generator.state
    case.rng = rng
    results = []
    for _ in range(2):
        rng.bit_generator.state = state
        try:
            results.append(call(core, case, name, method, block, spare))
        except ValueError as error:
            results.append(str(error))
    first, again = results
    label = name if name != "greedy" else method
    if isinstance(first, str):
        assert first == again
        assert spoiled is not None or "beyond the numbers of float32" in first, first
        if spoiled is not None:
            assert spoiled in first or "beyond" in first, (spoiled, first)
        return f"{label}: refused"
    assert spoiled is None, f"{label} took NaN or infinity in {spoiled}"
    check_codes(*first, case.n, by_size=case.signed and name != "encode")
    assert np.array_equal(first[0], again[0])
    assert np.array_equal(first[1], again[1])
    if name == "block" or (name == "greedy" and method in ("omp", "cosamp", "refit", "nnomp")):
        check_residual(case, *first, label)
    return label


def check_residual(case: Case, indices: np.ndarray, codes: np.ndarray, label: str) -> None:
    """No code leaves more than it found: ||x - center - W z|| <= ||x - center||, to float32 rounding."""
    x = case.x.astype(np.float64) - (0 if case.center is None else case.center.astype(np.float64))
    full = np.zeros((case.n, case.d_in))
    np.put_along_axis(full, case.rows.astype(np.int64), case.values.astype(np.float64), 1)
    left = np.linalg.norm(x - np.einsum("bk,bkd->bd", codes.astype(np.float64), full[indices]), axis=1)
    length = np.linalg.norm(x, axis=1)
    assert (left <= 1.01 * length + 1e-43).all(), (label, left, length)


def hostile_arguments(core: ModuleType, seed: int) -> str:
    """A binding called with shapes and counts that do not fit: ValueError, TypeError or MemoryError, never a crash."""
    rng = np.random.default_rng(seed)

    def size() -> int:
        return int(rng.choice([0, 1, 2, 3, 8]))

    def matrix(kind: Any = np.float32) -> np.ndarray:
        return np.ones((size(), size()), kind)

    def vector(kind: Any = np.float32) -> np.ndarray | None:
        return None if rng.random() < 0.5 else np.ones(size(), kind)

    def number() -> int:
        return int(rng.choice([-1, 0, 1, 2, 8, 2**31, 2**62]))

    def indices() -> np.ndarray:
        return rng.integers(-1, 4, (size(), size())).astype(np.int64)

    flag, tolerance = bool(rng.random() < 0.5), float(rng.choice([0, 0.5, -1, np.nan, 2]))
    threads = int(rng.choice([-1, 0, 1, 2]))
    rows = np.zeros((size(), size()), np.uint16)
    calls: dict[str, tuple[Any, ...]] = {
        "encode_topk": (matrix(), vector(), rows, matrix(), vector(), number(), flag, threads, int(rng.choice([0, 5])),
                        indices(), matrix()),
        "block_omp": (matrix(), vector(), rows, matrix(), number(), number(), number(), flag, tolerance, threads,
                      indices(), matrix()),
        "greedy": (matrix(), vector(), rows, matrix(), str(rng.choice([*METHODS, "x"])), number(), number(), flag,
                   tolerance, indices() if flag else None, matrix() if flag else None, vector(np.uint8), threads,
                   indices(), matrix()),
        "decode": (indices(), matrix(), rows if flag else None, matrix(), vector(), threads, matrix()),
        "decode_backward": (indices(), matrix(), rows, matrix(), matrix(), threads, matrix(), matrix()),
        "encode_backward": (indices(), matrix(), matrix(), vector(), rows, matrix(), threads, matrix(), matrix(), None),
        "correlate": (matrix(), vector(), rows, matrix(), threads, matrix()),
        "support_gram": (indices(), rows, matrix(), number(), threads, np.ones((size(), size(), size()), np.float32)),
        "unit_columns": (matrix(), 1e-8, threads, matrix(), np.ones(size(), np.float32)),
        "unit_columns_backward": (matrix(), matrix(), np.ones(size(), np.float32), threads, matrix()),
        "loss": (indices(), matrix(), matrix(), np.ones(size(), np.float32), rows if flag else None, matrix(), None,
                 1.0, flag, threads, matrix(), None, np.ones(size(), np.float32), None, None,
                 np.zeros(size(), np.uint8)),
    }  # fmt: skip
    name = str(rng.choice(list(calls)))
    try:
        getattr(core, name)(*calls[name])
    except (ValueError, TypeError, MemoryError):
        return f"{name}: refused"
    return f"{name}: taken"


def run(rounds: int, *, first: int = 0, progress: bool = False) -> Counter[str]:
    """So many rounds on every instruction set of this machine in turn, half of them with scratch full of NaN bits."""
    from expander_sae.ops import instruction_sets, use_instruction_set
    from expander_sae.ops.backends import native_core

    core, sets = native_core(), instruction_sets()
    assert core is not None
    seen: Counter[str] = Counter()
    started = time.monotonic()
    poisoned = core.poison_scratch(False)
    try:
        for seed in range(first, first + rounds):
            core.poison_scratch(seed // len(sets) % 2 == 0)
            with use_instruction_set(sets[seed % len(sets)]):
                try:
                    seen[one_round(core, seed)] += 1
                    seen[hostile_arguments(core, seed)] += 1
                except BaseException:
                    print(f"round {seed}, {core.instruction_set()}", file=sys.stderr, flush=True)
                    raise
            if progress and (seed + 1) % 1000 == 0:
                print(f"{seed + 1 - first} rounds, {time.monotonic() - started:.0f} s", flush=True)
    finally:
        core.poison_scratch(poisoned)
    return seen


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=10_000)
    parser.add_argument("--first", type=int, default=0, help="the first seed")
    parser.add_argument("--core", type=Path, help="a build of the core to use")
    arguments = parser.parse_args()
    if arguments.core:
        load_core(arguments.core)
    for what, count in sorted(run(arguments.rounds, first=arguments.first, progress=True).items()):
        print(f"{what}: {count}")
