"""Tables and figures of the documents, from the pages of the records in docs/results.

    python benchmarks/documents.py            # fills every table below a marker in docs/**/*.md, draws docs/figures
    python benchmarks/documents.py --check    # fails if a table is not what the records say

A number of a document's prose may name its record behind it (`prose.py`); it is filled too. A marker is a comment on a
line of its own, with the lines of its table below:

    <!-- page: RECORD | title of a table of its page | column; column; ... | column=cell, cell, ...; column=... -->
    <!-- quality: RECORD [RECORD ...] | variant, variant, ... | column; column; ... -->
    <!-- readings: RECORD | variant, variant, ... -->
    <!-- along: RECORD | heading of the axis | heading; heading -->
    <!-- tuning: RECORD RECORD ... | variant, variant, ... -->
    <!-- budgets: RECORD -->
    <!-- seeds: RECORD | model of the paper, layer -->
    <!-- took: TABLE | group, group, ... -->
    <!-- families -->

Page: the table as the experiment's own page has it, without the single seeds; all of its columns and rows where none
is named. Quality: the page's table of SAEs in fewer digits, a row for each of the variants named (of the first record
that has it), all where none is; A+B are the SAEs of record A as `expander-sae eval --json` measured them for B; the
columns of `USUAL` where none is named. Readings: fvu / delta_ce (where measured) / tokens per second, a row for each
inference, a column for each variant. Along: what an experiment
along an axis (steps, data-efficiency, active-latents) measured, a row for each place and heading (fvu; Δ CE, KL; CE
recovered, zero / mean), a column for each SAE. Tuning: seed 0's held-out fvu by batch and rate, a row for each record
(A,B: the SAEs of both), and dead latents of the full dense SAE. Budgets: an `encoders` record, as
readings, a column for each budget. Seeds: every seed of the Expander SAEs, with the paper's means for the same
degrees and k. Took: minutes of one core by group of `grid.toml`, out of docs/results/TABLE.csv, which `grid.py
--keep` writes. Families: every control in words.
"""

import argparse
import csv
import re
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from overview import fidelity_against_size
from prose import with_numbers
from recorded import (
    DOCS,
    HEADED,
    Row,
    mean,
    page_of_record,
    parts,
    read,
    rows_of,
    saes,
    short,
    title,
    variant,
    whole,
)

from expander_sae.frontier.families import CONTROLS, title_of
from expander_sae.frontier.page import Cell, Number
from expander_sae.paper import select
from expander_sae.records.metrics import METRIC

FIGURES = {
    # name in docs/figures: record, figure of its page
    "fvu_by_learned_values": ("smollm2-135m-layer14-k32", "fvu_by_learned_values"),
    "delta_ce_by_learned_values": ("smollm2-135m-layer14-k32", "delta_ce_by_learned_values"),
    "fvu_by_bytes_on_disk": ("smollm2-135m-layer14-k32", "fvu_by_bytes_on_disk"),
    "ce_recovered_zero_beside_the_paper": ("smollm2-135m-layer14-k32", "ce_recovered_zero_beside_the_paper"),
    "fvu_by_learned_values_k64": ("smollm2-135m-layer14-k64", "fvu_by_learned_values"),
    "delta_ce_by_learned_values_k64": ("smollm2-135m-layer14-k64", "delta_ce_by_learned_values"),
    "fvu_by_bytes_of_values": ("smollm2-135m-layer14-k32-storage", "fvu_by_bytes"),
    "fvu_by_training_tokens": ("smollm2-135m-layer14-k32-learning-curves", "heldout_fvu_by_tokens"),
    "support_kept_by_noise": ("smollm2-135m-layer14-k32-stability", "support_kept_by_noise"),
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
MARKER = re.compile(
    r"^<!-- (?P<kind>page|quality|readings|along|tuning|budgets|seeds|took|families)(: (?P<text>.+))? -->$"
)
FVU, REL_ERR, DELTA, KL, ZERO, MEAN, DEAD, SPEED = (
    METRIC[name].heading
    for name in ("fvu", "rel_err", "delta_ce", "kl", "ce_recovered_zero", "ce_recovered_mean", "dead_fraction",
                 "encode_tokens_per_second")
)  # fmt: skip
USUAL = ("learned values", "bytes on disk", FVU, DELTA, KL, ZERO, MEAN, "retention, zero", "retention, mean", DEAD)
WITHOUT_INTERVAL = (KL, "retention, zero", "retention, mean")
"""Columns that documents are wide enough for without it."""


def narrow(heading: str, cell: Cell) -> str:
    """A cell of a table of SAEs in the digits of documents, with half the 95% interval if there are several seeds."""
    if isinstance(cell, int):
        return f"{cell:,}"
    if not isinstance(cell, Number):
        return ""
    if heading == DEAD:
        return f"{100 * cell.found.mean:.1f}%"
    digits, half = HEADED[heading].narrow, cell.found.interval
    return mean(cell, digits) + ("" if half is None or heading in WITHOUT_INTERVAL else f" ± {short(half, digits)}")


def markdown(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """The lines of a table."""
    return [f"| {' | '.join(columns)} |", "|---" * len(columns) + "|", *(f"| {' | '.join(row)} |" for row in rows)]


def page(text: str, results: Path) -> list[str]:
    """A table of a record's own page, or some of its columns and rows."""
    # Not at the bars within a column's name.
    given = [part.strip() for part in re.split(r"\s\|(?=\s)", text)] + ["", ""]
    record, wanted_title, columns, conditions = given[0], given[1], parts(given[2], ";"), parts(given[3], ";")
    tables = {one.title: one for one in page_of_record(record, results).tables}
    if wanted_title not in tables:
        raise SystemExit(f"expected {wanted_title!r} among the tables of {record}: {', '.join(tables)}")
    found = tables[wanted_title]
    wanted = {column: parts(cells) for column, _, cells in (one.partition("=") for one in conditions)}
    _known([*columns, *wanted], found.columns)
    rows = rows_of(found)
    for column, cells in wanted.items():
        missing = [cell for cell in cells if all(whole(row[column]) != cell for row in rows)]
        if missing:
            raise SystemExit(f"expected {', '.join(missing)} in the column {column} of {record}")
    kept = [row for row in rows if all(whole(row[column]) in cells for column, cells in wanted.items())]
    shown = columns or found.columns
    return markdown([c.replace("|", "\\|") for c in shown], [[title(row[column]) for column in shown] for row in kept])


def quality(text: str, results: Path) -> list[str]:
    """Metrics of the SAEs of records."""
    given = [part.strip() for part in text.split("|")] + ["", ""]
    found: dict[str, Row] = {}
    for record in given[0].split():
        found |= {name: row for name, row in saes(record, results).items() if name not in found}
    wanted = parts(given[1])
    missing = [name for name in wanted if name not in found]
    if missing:
        raise SystemExit(f"expected {', '.join(missing)} among {', '.join(found)} of {given[0]}")
    shown = parts(given[2], ";") or USUAL
    _known(shown, {**HEADED, **dict.fromkeys(USUAL)})
    rows = [found[name] for name in wanted or found]
    return markdown(["SAE", *shown], [[title(row["SAE"]), *(narrow(c, row.get(c)) for c in shown)] for row in rows])


def _known(columns: Sequence[str], known: Any) -> None:
    unknown = [column for column in columns if column not in known]
    if unknown:
        raise SystemExit(f"expected columns out of {'; '.join(known)}; got {'; '.join(unknown)}")


def _reading(row: Row) -> str:
    """fvu / delta_ce where it was measured / tokens per second."""
    speed = row[SPEED]
    assert isinstance(speed, Number)
    shown = [mean(row.get(FVU), 3), mean(row.get(DELTA), 2)]
    return " / ".join([*filter(None, shown), f"{speed.found.mean:,.0f}"])


def _read_by(record: str, results: Path) -> dict[tuple[str, str], Row]:
    """The rows of a page's table of SAEs that are read in several ways, by variant and reading."""
    table = next(one for one in page_of_record(record, results).tables if "read by" in one.columns)
    return {(variant(row), str(row["read by"])): row for row in rows_of(table)}


def readings(text: str, results: Path) -> list[str]:
    """Every inference of an `amortisation` record."""
    record, _, variants = (part.strip() for part in text.partition("|"))
    found = _read_by(record, results)
    names = parts(variants) or list(dict.fromkeys(name for name, _ in found))
    rows = [
        [f"`{way}`", *(_reading(found[name, way]) if (name, way) in found else "" for name in names)]
        for way in dict.fromkeys(way for _, way in found)
    ]
    return markdown(["read by", *(title_of(name) for name in names)], rows)


BUDGET_ROWS = (
    # what it is, variant of the budget {d} or its half {h}, inference
    ("one pass: one-shot, fixed mask", "oneshot-d{d}", "encoder"),
    ("one pass: half in an encoder, taught", "expander-d{h} + encoder, taught", "encoder"),
    ("one pass: half in an encoder, end to end", "expander-d{h} + encoder, end to end", "encoder"),
    ("the same support, least squares on it", "expander-d{h} + encoder, end to end", "refit"),
    ("dictionary alone, `stages:2`", "expander-d{d}", "stages:2"),
    ("half in a taught encoder, its 8 best columns, then OMP", "expander-d{h} + encoder, taught", "warm:8"),
    ("dictionary alone, `stages:4+16`", "expander-d{d}", "stages:4+16"),
    ("dictionary alone, `stages:8+8`", "expander-d{d}", "stages:8+8"),
)


def budgets(text: str, results: Path) -> list[str]:
    """Every way to spend a budget of entries."""
    found, sizes = _read_by(text.strip(), results), read(text.strip(), results)["measured"]["budgets"]
    rows = [
        [words, *(_reading(found[name.format(d=size, h=size // 2), inference]) for size in sizes)]
        for words, name, inference in BUDGET_ROWS
    ]
    return markdown(["", *(f"d = {size}" for size in sizes)], rows)


ALONG = {FVU: (FVU,), "Δ CE, KL": (DELTA, KL), "CE recovered, zero / mean": (ZERO, MEAN)}


def along(text: str, results: Path) -> list[str]:
    """Fidelity at every place of an axis."""
    record, axis, headings = [*(part.strip() for part in text.split("|")), ""][:3]
    kept = parts(headings, ";") or list(ALONG)
    places = {
        one.title.rpartition(": ")[2]: {variant(row): row for row in rows_of(one)}
        for one in page_of_record(record, results).tables
    }
    names = {name: title(row["SAE"]) for of in places.values() for name, row in of.items()}
    rows: list[list[str]] = []
    for at, of in places.items():
        for place, heading in enumerate(kept):
            columns = ALONG[heading]
            between = " / " if "/" in heading else ", "
            cells = []
            for name in names:
                shown = [narrow(c, of[name].get(c)) for c in columns] if name in of else []
                if between == " / ":
                    shown = [one.partition(" ±")[0] for one in shown]
                cells.append(between.join(filter(None, shown)))
            if any(cells):
                rows.append([at if place == 0 else "", heading, *cells])
    return markdown([axis, "", *names.values()], rows)


def tuning(text: str, results: Path) -> list[str]:
    """Seed 0 of the same SAEs under several batches and rates."""
    records, _, variants = (part.strip() for part in text.partition("|"))
    names, rows = parts(variants), []
    for record in records.split():
        found = {name: row for one in parts(record) for name, row in saes(one, results).items()}
        settings = read(parts(record)[0], results)["measured"]["settings"]["training"]
        rate = f"{settings['learning_rate']:.0e}".replace("e-0", "e-")
        fvus = [short(_first(found[name][FVU]), 4) for name in names]
        rows.append([f"{settings['batch_size']}, {rate}", *fvus, f"{100 * _first(found['dense'][DEAD]):.1f}%"])
    return markdown(["batch, peak rate", *map(title_of, names), "dead of the full dense SAE"], rows)


def _first(cell: Cell) -> float:
    assert isinstance(cell, Number)
    return cell.found.values[0]


def seeds(text: str, results: Path) -> list[str]:
    """Single seeds by degree, above the paper's means."""
    record, _, where = (part.strip() for part in text.partition("|"))
    model, _, layer = where.rpartition(",")
    settings, every = read(record, results)["measured"]["settings"], saes(record, results)
    degrees, k = settings["degrees"], settings["k"]
    theirs = {r.degree: r for r in select(model.strip(), int(layer), k) if r.architecture == "expander_tied"}
    if not theirs:
        raise SystemExit(f"expected a model, layer and k of the paper's, got {model.strip()}, {layer}, {k}")
    rows = []
    numbers = ", ".join(map(str, settings["seeds"]))
    for metric in (METRIC["rel_err"], METRIC["ce_recovered_zero"]):
        cells = [every[f"expander-d{d}"][metric.heading] for d in degrees]
        ours = [", ".join(short(v, 3) for v in c.found.values) if isinstance(c, Number) else "" for c in cells]
        means = [getattr(theirs[d], metric.name) if d in theirs else None for d in degrees]
        rows.append([f"{metric.heading}, seeds {numbers}", *ours])
        rows.append(["the paper", *("" if one is None else short(one.mean, 3) for one in means)])
    return markdown(["", *(f"degree {d}" for d in degrees)], rows)


def took(text: str, results: Path) -> list[str]:
    """Minutes of one core by group, of a table that `grid.py --keep` wrote; the groups named and their sum."""
    name, _, groups = (part.strip() for part in text.partition("|"))
    path = results / f"{name}.csv"
    if not path.is_file():
        raise SystemExit(f"expected {path}, which `python benchmarks/grid.py --keep` writes")
    with open(path, newline="", encoding="utf-8") as file:
        found = list(csv.DictReader(file))
    rows, total, longest = [], 0.0, 0.0
    for group in parts(groups):
        of_it = [row for row in found if row["group"] == group]
        if not of_it:
            raise SystemExit(f"expected runs of the group {group} in {path}; it has none")
        minutes = [float(row["core_minutes"]) for row in of_it]
        wall = [float(row["minutes"]) for row in of_it]
        rows.append([group, str(len(of_it)), f"{sum(minutes):.0f}", f"{max(wall):.0f}"])
        total, longest = total + sum(minutes), max(longest, *wall)
    rows.append(["**together**", "", f"**{total:.0f}**", f"{longest:.0f}"])
    return markdown(["group", "runs", "minutes of one core", "longest run, minutes"], rows)


def families(_text: str, _results: Path) -> list[str]:
    """Every control in words."""
    return markdown(["control", "what it is"], [[f"`{name}`", words] for name, words in CONTROLS.items()])


KINDS: dict[str, Callable[[str, Path], list[str]]] = {
    "page": page, "quality": quality, "readings": readings, "along": along, "tuning": tuning, "budgets": budgets,
    "seeds": seeds, "took": took, "families": families,
}  # fmt: skip


def table(kind: str, text: str, results: Path) -> list[str]:
    """The lines of a marker's table."""
    return KINDS[kind](text, results)


OVERVIEW = "fidelity_against_size"
"""The figure of several records."""


def draw(record: str, name: str, results: Path) -> bytes:
    """One figure of a record's page, as SVG."""
    found = {figure.name: figure.svg for figure in page_of_record(record, results).figures if figure is not None}
    if name not in found:
        raise SystemExit(f"expected the figure {name} of {record} among {', '.join(found)}")
    return found[name]


def filled(lines: Sequence[str], results: Path) -> list[str]:
    """A document's lines, every table below a marker made anew."""
    made: list[str] = []
    at = 0
    while at < len(lines):
        marker = MARKER.match(lines[at])
        made.append(lines[at] if marker else with_numbers(lines[at], results))
        at += 1
        if marker is not None:
            while at < len(lines) and lines[at].startswith("|"):
                at += 1
            made += table(marker.group("kind"), marker.group("text") or "", results)
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
    for path in [DOCS.parent / "README.md", *sorted(DOCS.rglob("*.md"))]:
        before = path.read_text(encoding="utf-8").splitlines()
        after = filled(before, DOCS / "results")
        if given.check and before != after:
            wrong = next(number for number, (a, b) in enumerate(zip(before, after, strict=False), 1) if a != b)
            sys.exit(f"{path}: line {wrong} is not what the records say; run python benchmarks/documents.py")
        if not given.check and before != after:
            path.write_text("\n".join(after) + "\n", encoding="utf-8")
    if not given.check and not given.tables:
        (DOCS / "figures" / f"{OVERVIEW}.svg").write_bytes(fidelity_against_size(DOCS / "results").svg)
        for name, (record, figure) in FIGURES.items():
            (DOCS / "figures" / f"{name}.svg").write_bytes(draw(record, figure, DOCS / "results"))


if __name__ == "__main__":
    main()
