"""Do latents mean something? Sparse probing of every SAE of the grid, beside what was never trained."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ..drawing import Line, lines
from ..page import Page, Row, Table, by, numbers, over_seeds
from .context import Context
from .experiment import Experiment, Measured
from .quality import diverged

_COLUMNS = {
    "fvu": ("fvu", 3),
    "broad, best latent": ("f1_1", 3),
    "best 5": ("f1_5", 3),
    "shuffled": ("shuffled_f1_1", 3),
    "narrow": ("narrow_f1", 3),
    "above .5": ("narrow_above_half", 3),
    "density": ("density", 4),
}
_GROUPS = {
    **{group: (f"broad_by_group/{group}", 3) for group in ("token", "form", "context", "position", "article")},
    **{group: (f"narrow_by_group/{group}", 3) for group in ("word", "name", "pair", "topic")},
}
_NULLS = ("untrained", "coordinates")


def measure(context: Context) -> Measured:
    """Probe every SAE by its own reading and by those asked for, an untrained twin of each, and the coordinates."""
    from .probes import Probes  # needs scikit-learn, which pages do not

    probes = Probes(context, context.option("tokens"))
    readings = [str(reading) for reading in context.option("readings")]
    grid = context.grid(degrees=context.chosen_degrees(), controls=context.option("controls"), readings=readings)
    rows = probes.rows(grid, readings)
    rows += [probes.raw_coordinates(), probes.principal_components()]
    return {"saes": rows, "frontier": grid.records()}


def show(measured: Measured) -> Page:
    """Probes by SAE and reading, the nulls below; meaning against fidelity as a figure."""
    rows = measured["saes"]
    trained = by((row for row in rows if row["kind"] == "trained"), "variant", "read_by")
    empty = by((row for row in rows if row["kind"] in _NULLS), "variant", "read_by")
    head = ["SAE", "read by", "values"]

    def table(title: str, columns: Mapping[str, tuple[Any, ...]], note: str) -> Table:
        cells = []
        for (variant, reading), mine in [*trained.items(), *empty.items()]:
            null = mine[0]["kind"] == "untrained"
            cells.append(
                [f"{variant}, untrained" if null else variant, reading, 0 if null else mine[0]["values"],
                 *numbers(mine, columns)]
            )  # fmt: skip
        return Table(title, [*head, *columns], cells, note)

    first = rows[0]
    note = (
        f"F1 of the best latents on {first['tokens']:,} held-out tokens of {first['documents']} documents: "
        f"{first['broad_concepts']} broad concepts (best one and best five latents, logistic regression) and "
        f"{first['narrow_concepts']} narrow ones (best latent and threshold); chosen and fitted on one half of the "
        "documents, tested on the other. Shuffled: labels at other tokens. Mean over seeds ± half width of the 95% "
        "interval. docs/meaning.md has the definitions."
    )
    return Page(
        claim=_claim(trained, empty),
        tables=[
            table("How well latents tell concepts", _COLUMNS, note),
            table("The best latent by group of concepts", _GROUPS, "Broad: the first five."),
        ],
        figures=[_against_fidelity(trained, path, words) for path, words in
                 (("f1_1", "broad concepts"), ("narrow_f1", "narrow concepts"))],
        notes=diverged(measured["frontier"]),
    )  # fmt: skip


def _against_fidelity(trained: Mapping[Any, Sequence[Row]], path: str, words: str) -> Any:
    drawn = []
    for (variant, reading), mine in trained.items():
        left, found = over_seeds(mine, "fvu"), over_seeds(mine, path)
        if left is not None:
            drawn.append(Line(f"{variant}, {reading}", [(left.mean, found)], family=mine[0]["family"]))
    return lines(
        f"{path}_against_fvu", f"F1 of the best latent for {words} against the variance left unexplained", drawn,
        x="fvu", y=f"F1 of the best latent, {words}", title=f"{words[:1].upper()}{words[1:]} (up and left is better)",
    )  # fmt: skip


def _claim(trained: Mapping[Any, Sequence[Row]], empty: Mapping[Any, Sequence[Row]]) -> str:
    """Which SAEs beat everything that was never trained, in both tests, seed means compared."""
    bars = {path: max(_mean(rows, path) for rows in empty.values()) for path in ("f1_1", "narrow_f1")}
    ahead = [f"{variant} ({reading})" for (variant, reading), rows in trained.items()
             if all(_mean(rows, path) > bar for path, bar in bars.items())]  # fmt: skip
    return (
        f"{len(ahead)} of {len(trained)} dictionaries have better latents than everything that was never trained "
        f"(F1 {bars['f1_1']:.3f} on broad, {bars['narrow_f1']:.3f} on narrow concepts)"
        + (f": {', '.join(ahead)}." if ahead else ".")
    )


def _mean(rows: Sequence[Row], path: str) -> float:
    found = over_seeds(rows, path)
    return float("-inf") if found is None else found.mean


EXPERIMENT = Experiment(
    name="meaning",
    question="Do latents tell concepts better than what was never trained?",
    measure=measure,
    show=show,
    options={
        "degrees": [7, 16, 32],
        "controls": ["dense", "matched", "matched-omp"],
        "readings": ["encoder", "stages:8"],
        "tokens": 60_000,
    },
)
