"""What latents tell of concepts, beside what was never trained: a table, figures and a sentence for a page."""

from __future__ import annotations

from collections.abc import Sequence

from expander_sae.records.spread import Spread

from ..drawing import Line, lines
from ..families import FAMILY
from ..page import Cell, Figure, Row, Table, by, number, over_seeds, sentence
from ..results import Summary

_COUNTS = {"f1_1": "broad, best latent", "f1_5": "broad, best five", "narrow_f1": "narrow"}
"""Path in a row, and what it is called."""
_SHUFFLED = {"shuffled_f1_1": "broad, shuffled", "shuffled_narrow_f1": "narrow, shuffled"}


def told_table(rows: Sequence[Row], summaries: Sequence[Summary]) -> Table:
    """One row for each SAE in the order of its summaries, its untrained twin's numbers beside its own."""
    trained, never = (by(_of_kind(rows, kind), "variant") for kind in ("trained", "untrained"))
    cells: list[list[Cell]] = []
    for name in [summary.variant for summary in summaries if summary.variant in trained]:
        pairs = [number(over_seeds(of.get(name, ()), path), 3) for path in _COUNTS for of in (trained, never)]
        cells.append([name, *pairs, *(number(over_seeds(trained[name], path), 3) for path in _SHUFFLED)])
    coordinates = _of_kind(rows, "coordinates")
    pairs = [cell for path in _COUNTS for cell in (number(over_seeds(coordinates, path), 3), None)]
    cells.append(["raw coordinates", *pairs, *(number(over_seeds(coordinates, path), 3) for path in _SHUFFLED)])
    columns = ["SAE", *(heading for name in _COUNTS.values() for heading in (name, "untrained")), *_SHUFFLED.values()]
    first = rows[0]
    note = (
        f"F1 on {first['tokens']:,} held-out tokens of {first['documents']} documents, each SAE by its own reading: "
        f"{first['broad_concepts']} broad concepts by the best one and the best five latents, "
        f"{first['narrow_concepts']} narrow ones by the best; chosen and fitted on one half of the documents, tested "
        "on the other. Untrained: same kind, sizes and reading. Shuffled: labels at other tokens. Mean over seeds ± "
        "half width of the 95% interval. docs/concepts/meaning.md has the definitions."
    )
    return Table("Do latents tell concepts?", columns, cells, note)


def told_figures(rows: Sequence[Row]) -> list[Figure | None]:
    """Broad and narrow concepts against learned values, a line for each family, raw coordinates as a level."""
    drawn = []
    for path, words in (("f1_1", "broad concepts"), ("narrow_f1", "narrow concepts")):
        level = over_seeds(_of_kind(rows, "coordinates"), path)
        families = [
            Line(FAMILY[family].label, _by_values(mine, path), family=family)
            for family, mine in by(_of_kind(rows, "trained"), "family").items()
        ]
        sparse = [row for row in _of_kind(rows, "untrained") if row["family"] == "expander"]
        drawn.append(
            lines(
                f"{path}_by_learned_values",
                f"F1 of the best latent for {words} against learned values, by family",
                [*families, Line("Expander, untrained", _by_values(sparse, path), reference=True)],
                x="learned values",
                y="F1 of the best latent",
                title=f"{words[:1].upper()}{words[1:]} (higher is better)",
                log_x=True,
                levels=[("raw coordinates", level.mean)] if level is not None else [],
            )
        )
    return drawn


def against_coordinates(rows: Sequence[Row]) -> str:
    """Which SAEs' latents tell no more than raw coordinates do, seed means compared."""
    parts = []
    for path, words in _COUNTS.items():
        bar = over_seeds(_of_kind(rows, "coordinates"), path)
        if bar is None:
            continue
        means = {name: over_seeds(mine, path) for name, mine in by(_of_kind(rows, "trained"), "variant").items()}
        behind = [name for name, found in means.items() if found is not None and found.mean <= bar.mean]
        parts.append(f"{words} (theirs {bar.mean:.3f}): {', '.join(behind) or 'no SAE'}")
    return f"Latents that tell concepts no better than raw coordinates do, by F1. {sentence(parts)}"


def _of_kind(rows: Sequence[Row], kind: str) -> list[Row]:
    return [row for row in rows if row["kind"] == kind]


def _by_values(rows: Sequence[Row], path: str) -> list[tuple[float, Spread | None]]:
    return [(mine[0]["values"], over_seeds(mine, path)) for mine in by(rows, "variant").values()]
