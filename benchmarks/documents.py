"""Tables and figures of the documents, from the records in docs/results.

    python benchmarks/documents.py            # fills every table below a marker in docs/*.md, draws docs/figures
    python benchmarks/documents.py --check    # fails if a table is not what the records say

A marker is a comment on a line of its own, with the lines of its table below:

    <!-- quality: RECORD [RECORD ...] | variant, variant, ... | column, column, ... -->
    <!-- readings: RECORD | variant, variant, ... -->
    <!-- along: RECORD | heading of the axis -->
    <!-- tuning: RECORD RECORD ... | variant, variant, ... -->
    <!-- budgets: RECORD -->
    <!-- seeds: RECORD | model of the paper, layer -->
    <!-- took: TABLE | group, group, ... -->
    <!-- page: RECORD | title of a table of its page | column; column; ... | column=cell, cell, ...; column=... -->

Quality: a row for each of the variants named (of the first record that has it), all where none is; A+B are the SAEs
of record A as `expander-sae eval --json` measured them for B; columns of `document_tables.COLUMNS`, `USUAL` where
none is. Readings: fvu / delta_ce (where measured) / tokens per second, a row for each inference, a column for each
variant. Along: what an experiment along an axis (steps,
data-efficiency, active-latents) measured, three rows for each place, a column for each SAE. Tuning: seed 0's held-out
fvu by batch and rate, a row for each record (A,B: the SAEs of both), and dead latents of the full dense SAE. Budgets:
an `encoders` record, fvu / delta_ce / tokens per second, a column for each budget. Seeds: every seed of the Expander
SAEs, with the paper's means for the same degrees and k. Took: minutes of one core by group of `grid.toml`, out of
docs/results/TABLE.csv, which `grid.py --keep` writes. Page: the table as the experiment's own page has it, without
the single seeds; all of its columns and rows where none is named.
"""

import argparse
import re
import sys
from collections.abc import Sequence
from pathlib import Path

from document_tables import read_page, table

DOCS = Path(__file__).parent.parent / "docs"
FIGURES = {
    # name in docs/figures: record, figure of its page
    "fvu_by_learned_values": ("smollm2-135m-layer14-k32", "fvu_by_learned_values"),
    "delta_ce_by_learned_values": ("smollm2-135m-layer14-k32", "delta_ce_by_learned_values"),
    "fvu_by_bytes_on_disk": ("smollm2-135m-layer14-k32", "fvu_by_bytes_on_disk"),
    "ce_recovered_zero_beside_the_paper": ("smollm2-135m-layer14-k32", "ce_recovered_zero_beside_the_paper"),
    "fvu_by_learned_values_k64": ("smollm2-135m-layer14-k64", "fvu_by_learned_values"),
    "delta_ce_by_learned_values_k64": ("smollm2-135m-layer14-k64", "delta_ce_by_learned_values"),
    "fvu_by_bytes_of_values": ("smollm2-135m-layer14-k32-storage", "fvu_by_bytes"),
    "fvu_by_k": ("smollm2-135m-layer14-active-latents", "fvu_along"),
    "delta_ce_by_k": ("smollm2-135m-layer14-active-latents", "delta_ce_along"),
    "fvu_by_diversity": ("smollm2-135m-layer14-k32-support", "fvu_by_diversity"),
    "fvu_by_speed_k32": ("smollm2-135m-layer14-k32-amortisation", "fvu_by_speed"),
    "delta_ce_by_speed_k32": ("smollm2-135m-layer14-k32-amortisation", "delta_ce_by_speed"),
    "fvu_by_speed_k64": ("smollm2-135m-layer14-k64-amortisation", "fvu_by_speed"),
    "delta_ce_by_speed_k64": ("smollm2-135m-layer14-k64-amortisation", "delta_ce_by_speed"),
    "fvu_by_speed_budget8": ("smollm2-135m-layer14-k32-encoders", "fvu_by_speed_budget8"),
    "fvu_by_speed_budget16": ("smollm2-135m-layer14-k32-encoders", "fvu_by_speed_budget16"),
    "fvu_by_speed_budget32": ("smollm2-135m-layer14-k32-encoders", "fvu_by_speed_budget32"),
    "collision_deficit": ("collisions", "deficit"),
    "planted_omp_by_construction": ("synthetic", "omp_by_construction"),
    "planted_methods": ("synthetic", "methods"),
    "planted_phases_omp": ("synthetic", "phases_omp"),
    "planted_paper_grid": ("synthetic", "paper_grid"),
    "certificate_gap": ("certificate-gap", "gap"),
}
MARKER = re.compile(r"^<!-- (?P<kind>quality|readings|along|tuning|budgets|seeds|page|took): (?P<text>.+) -->$")


def draw(record: str, name: str, results: Path) -> bytes:
    """One figure of a record's page, as SVG."""
    found = {figure.name: figure.svg for figure in read_page(record, results).figures if figure is not None}
    if name not in found:
        raise SystemExit(f"expected the figure {name} of {record} among {', '.join(found)}")
    return found[name]


def filled(lines: Sequence[str], results: Path) -> list[str]:
    """A document's lines, every table below a marker made anew."""
    made: list[str] = []
    at = 0
    while at < len(lines):
        made.append(lines[at])
        marker = MARKER.match(lines[at])
        at += 1
        if marker is not None:
            while at < len(lines) and lines[at].startswith("|"):
                at += 1
            made += table(marker.group("kind"), marker.group("text"), results)
    return made


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument(
        "--check", action="store_true", help="write nothing; fail if a table is not what its records say"
    )
    parser.add_argument("--tables", action="store_true", help="fill the tables only; figures take most of a minute")
    parser.add_argument("--show", help="print one marker's table, given as in the marker: 'quality: RECORD'")
    given = parser.parse_args()
    if given.show:
        kind, _, text = given.show.partition(":")
        print("\n".join(table(kind, text, DOCS / "results")))
        return
    for path in sorted(DOCS.glob("*.md")):
        before = path.read_text(encoding="utf-8").splitlines()
        after = filled(before, DOCS / "results")
        if given.check and before != after:
            wrong = next(number for number, (a, b) in enumerate(zip(before, after, strict=False), 1) if a != b)
            sys.exit(f"{path}: line {wrong} is not what the records say; run python benchmarks/documents.py")
        if not given.check and before != after:
            path.write_text("\n".join(after) + "\n", encoding="utf-8")
    if not given.check and not given.tables:
        for name, (record, figure) in FIGURES.items():
            (DOCS / "figures" / f"{name}.svg").write_bytes(draw(record, figure, DOCS / "results"))


if __name__ == "__main__":
    main()
