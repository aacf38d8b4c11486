"""The figure of the README: what is left unexplained against learned values, ours beside dense."""

from pathlib import Path

from recorded import Row, saes

from expander_sae.frontier.drawing import Line, lines
from expander_sae.frontier.page import Figure, Number
from expander_sae.records.metrics import METRIC
from expander_sae.records.spread import Spread

RECORD = "smollm2-135m-layer14-k32"
DEGREES = (4, 7, 16, 30, 64, 200)
FEW = (32, 56, 128, 240, 512, 1600)
"""Latents of dense SAEs of as many values."""


def fidelity_against_size(results: Path) -> Figure:
    """Sparse, dense of as many values by its encoder and by our pursuit, and the full dense one."""
    rows = saes(RECORD, results)
    for more in ("matched-omp", "dense-omp"):
        rows |= {name: row for name, row in saes(f"{RECORD}-{more}", results).items() if name not in rows}
    drawn = [
        Line(
            "sparse, degree 4 to 200",
            [_point(rows[f"expander-d{degree}"]) for degree in DEGREES],
            labels=[str(degree) for degree in DEGREES],
            family="expander",
        ),
        Line("dense, few latents", [_point(rows[f"dense-n{n}"]) for n in FEW], family="matched"),
        Line("dense, few latents, our pursuit", [_point(rows[f"dense-n{n}-omp"]) for n in FEW], family="matched-omp"),
        Line("full dense", [_point(rows["dense"])], family="dense"),
        Line("full dense, our pursuit", [_point(rows["dense-omp"])], family="dense-omp"),
    ]
    caption = "fraction of variance unexplained against learned values, sparse and dense SAEs, SmolLM2-135M, k = 32"
    figure = lines(
        "fidelity_against_size", caption, drawn, x="learned values", y="variance left unexplained (fvu)", log_x=True
    )
    assert figure is not None
    return figure


def _point(row: Row) -> tuple[float, Spread]:
    values, fvu = row["learned values"], row[METRIC["fvu"].heading]
    assert isinstance(values, int)
    assert isinstance(fvu, Number)
    return float(values), fvu.found
