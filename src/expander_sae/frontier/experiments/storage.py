"""What an SAE weighs and how fast one token goes through: value types on disk, their fidelity, batch-1 latency."""

from __future__ import annotations

import statistics
import time
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch

from expander_sae.evaluation import bytes_on_disk, evaluate
from expander_sae.records.metrics import METRIC
from expander_sae.records.spread import Spread, spread
from expander_sae.saes import AbstractSae, load_sae
from expander_sae.saes.files import PRECISIONS

from ..drawing import Line, lines
from ..page import Page, Row, Table, by, numbers, over_seeds, table_by
from .context import Context, name_of, written
from .experiment import Experiment, Measured
from .quality import diverged

_METRICS = ("fvu", "delta_ce", "ce_recovered_zero", "ce_recovered_mean", "kl")
_TYPES = {METRIC[name].heading: (name, 4) for name in _METRICS}
"""A digit more than elsewhere: value types differ in the last one."""


def measure(context: Context) -> Measured:
    """Save every SAE of the grid in every value type, read it back, evaluate it, and time it token by token."""
    grid = context.grid(degrees=context.chosen_degrees(), controls=context.option("controls"))
    evaluation = vars(context.settings.evaluation())
    rows = []
    for record, sae in grid.saes():
        name, mark = name_of(record), {"sae": written(grid.folder / record.folder)}
        depends = {**mark, "language_model": context.has_language_model, "evaluation": evaluation}
        context.say(f"value types and latency of {name}")
        types = context.piece(f"types-{name}", depends, partial(_types, context, sae))
        timed = {**mark, "calls": context.option("calls")}
        rows.append(context.row(record, f"latency-{name}", timed, partial(_latency, context, sae), types=types))
    return {"saes": rows, "frontier": grid.records()}


def _types(context: Context, sae: AbstractSae) -> dict[str, Any]:
    """Bytes and fidelity by value type; types that this kind of SAE cannot have are left out."""
    with TemporaryDirectory() as place:
        copies: dict[str, AbstractSae] = {}
        own_encoder = getattr(sae, "encoder", None) is not None
        for precision in PRECISIONS:
            if precision == "int8" and own_encoder:
                continue
            sae.save(Path(place) / precision, values=precision)
            copies[precision] = load_sae(Path(place) / precision)
        settings = vars(context.settings.evaluation())
        found = evaluate(
            copies, context.store, language_model=context.language_model(), progress=context.progress, **settings
        )
        return {
            precision: {
                "bytes": bytes_on_disk(Path(place) / precision),
                **{metric: getattr(found[precision], metric) for metric in _METRICS},
            }
            for precision in copies
        }


@torch.no_grad()
def _latency(context: Context, sae: AbstractSae) -> dict[str, Any]:
    """Median milliseconds of encoding and decoding one token, over calls on different tokens."""
    calls = context.option("calls")
    x = context.store.sample("heldout", calls + 10, 0)
    encoding, decoding = [], []
    for number in range(len(x)):
        one = x[number : number + 1]
        started = time.perf_counter()
        codes = sae.encode(one)
        encoded = time.perf_counter()
        sae.decode(codes)
        if number >= min(10, len(x) - 1):  # the first calls pay for caches and thread pools
            encoding.append(1e3 * (encoded - started))
            decoding.append(1e3 * (time.perf_counter() - encoded))
    return {
        "inference": str(sae.reading),
        "threads": torch.get_num_threads(),
        "encode_ms": statistics.median(encoding),
        "decode_ms": statistics.median(decoding),
    }


def show(measured: Measured) -> Page:
    """Fidelity against bytes over the value types, and the latencies."""
    of = by(measured["saes"], "variant")
    rows, drawn = [], []
    for name, mine in of.items():
        points: list[tuple[float, Spread | float | None]] = []
        for precision in PRECISIONS:
            found: list[Row] = [row["types"][precision] for row in mine if precision in row["types"]]
            if found:
                size = statistics.mean(one["bytes"] for one in found)
                points.append((size, over_seeds(found, "fvu")))
                rows.append([name, precision, round(size), *numbers(found, _TYPES)])
        drawn.append(Line(name, points))
    read = {(name, mine[0]["inference"]): mine for name, mine in of.items()}
    threads = measured["saes"][0]["threads"] if measured["saes"] else 0
    return Page(
        claim=_claim(of),
        tables=[
            Table("Value types", ["SAE", "values", "bytes on disk", *_TYPES], rows,
                  "Bytes of the whole folder. Biases stay float32, learned rows packed."),
            table_by("One token at a time", read, {"encode, ms": ("encode_ms", 3), "decode, ms": ("decode_ms", 3)},
                     f"Median over calls with a batch of one, {threads} threads; whatever else the machine did is in "
                     "it.", "SAE", "read by"),
        ],
        figures=[
            lines("fvu_by_bytes", "fvu against bytes on disk over value types, one line for each SAE", drawn,
                  x="bytes on disk", y="fvu", log_x=True)
        ],
        notes=[
            "A mask that a seed makes is stored as the seed; learned rows are packed into few bits more than it takes "
            "to number the supports.",
            *diverged(measured["frontier"]),
        ],
    )  # fmt: skip


def _claim(of: Mapping[str, Sequence[Mapping[str, Any]]]) -> str:
    parts = []
    for name, rows in of.items():
        pairs = [(r["types"]["float32"], r["types"]["int8"]) for r in rows if {"float32", "int8"} <= r["types"].keys()]
        worse = spread(small["fvu"] - full["fvu"] for full, small in pairs)
        if worse is not None:
            share = statistics.mean(small["bytes"] / full["bytes"] for full, small in pairs)
            parts.append(f"{name} {worse.mean:+.5f} at {share:.0%} of the bytes")
    if not parts:
        return "No SAE was stored in both float32 and int8."
    return f"Values in int8 instead of float32 change fvu by: {', '.join(parts)}."


EXPERIMENT = Experiment(
    name="storage",
    question="How small do the files get, what does a smaller value type cost, and how long does one token take?",
    measure=measure,
    show=show,
    options={"degrees": [7, 30, 200], "controls": ["dense", "matched", "fixed"], "calls": 200},
)
