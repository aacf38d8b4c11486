"""The tables of the documents: names of SAEs, and one function for each kind of marker of `documents.py`."""

import csv
import json
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from expander_sae.frontier.experiments import Page, find_experiment
from expander_sae.frontier.experiments.quality import records_from
from expander_sae.frontier.experiments.run import page_of
from expander_sae.frontier.over_seeds import Spread
from expander_sae.frontier.paper import select
from expander_sae.frontier.report import in_order
from expander_sae.frontier.results import Summary, summarise
from expander_sae.records import FrontierRecord


def number(value: float, digits: int) -> str:
    """Without the zero before the point."""
    return f"{value:.{digits}f}".replace("0.", ".", 1) if abs(value) < 1 else f"{value:.{digits}f}"


def mean(metric: str, digits: int) -> Callable[[Summary], str]:
    """A metric's mean over seeds."""
    return lambda s: "" if metric not in s.metrics else number(s.metrics[metric].mean, digits)


def mean_and_interval(metric: str, digits: int) -> Callable[[Summary], str]:
    """With half the 95% interval where there are several seeds."""

    def text(summary: Summary) -> str:
        found: Spread | None = summary.metrics.get(metric)
        if found is None:
            return ""
        half = "" if found.interval is None else f" ± {number(found.interval, digits)}"
        return number(found.mean, digits) + half

    return text


COLUMNS: dict[str, Callable[[Summary], str]] = {
    "learned values": lambda s: f"{s.learned_values:,}",
    "bytes": lambda s: f"{s.bytes_on_disk:,}",
    "fvu": mean_and_interval("fvu", 4),
    "rel_err": mean_and_interval("rel_err", 3),
    "Δ CE, nats": mean_and_interval("delta_ce", 3),
    "KL": mean("kl", 3),
    "CE recovered, zero": mean_and_interval("ce_recovered_zero", 3),
    "mean form": mean_and_interval("ce_recovered_mean", 3),
    "retention, zero": mean("retention_zero", 3),
    "retention, mean form": mean("retention_mean", 3),
    "dead": lambda s: f"{100 * s.metrics['dead_fraction'].mean:.1f}%",
}
USUAL = [column for column in COLUMNS if column != "rel_err"]
FULL = {
    "dense": "full dense",
    "dense-untied": "full dense, encoder of its own",
    "dense-randinit": "full dense, random encoder",
    "dense-omp": "full dense, trained and read by pursuit",
}
SPARSE = {
    "expander": "degree {d}",
    "irregular": "degree {d} on the average, irregular",
    "oneshot": "degree {d}, fixed mask, one-shot",
    "fixed": "degree {d}, random mask",
    "clustered": "degree {d}, disjoint blocks as in the paper",
    "banded": "degree {d}, windows of neighbouring rows",
    "shared": "degree {d}, few supports, shared",
    "pruned": "degree {d}, cut out of the full dense SAE and retuned",
}
SMALL = {
    "matched": "dense, n′ = {n}",
    "matched-omp": "dense, n′ = {n}, pursuit",
    "matched-bytes": "dense of degree {d}'s bytes, n′ = {n}",
    "matched-bytes-omp": "dense of degree {d}'s bytes, n′ = {n}, pursuit",
    "matched-decoder": "dense, own encoder, n′ = {n} (decoder values of degree {d})",
    "matched-untied": "dense, own encoder, n′ = {n} (learned values of degree {d})",
    "pca": "{n} directions, all used",
}


def name_of(summary: Summary, k: int) -> str:
    """What the documents call an SAE."""
    known = name_of_variant(summary.variant)
    size = re.search(r"[nr](\d+)", summary.variant)
    if known != summary.variant or size is None:
        return known
    if summary.family == "pca-topk":
        return f"best {k} of {size.group(1)} directions"
    return SMALL[summary.family].format(n=size.group(1), d=summary.matched_degree)


def name_of_variant(variant: str) -> str:
    """What the documents call an SAE of which only the variant is known; any other text as it is."""
    variant, comma, reading = variant.partition(", ")
    if comma:
        return f"{name_of_variant(variant)}, {reading}"
    if variant in FULL:
        return FULL[variant]
    sparse = re.fullmatch(r"([a-z]+)-d(\d+)", variant)
    if sparse is not None and sparse.group(1) in SPARSE:
        return SPARSE[sparse.group(1)].format(d=sparse.group(2))
    dialled = re.fullmatch(r"diversity([\d.]+)-d(\d+)", variant)
    if dialled is not None:
        return f"degree {dialled.group(2)}, diversity {dialled.group(1)}"
    small = re.fullmatch(r"dense-n(\d+)", variant)
    return variant if small is None else SMALL["matched"].format(n=small.group(1))


def table(kind: str, text: str, results: Path) -> list[str]:
    """The lines of a marker's table."""
    kinds = {
        "quality": quality,
        "readings": readings,
        "along": along,
        "tuning": tuning,
        "budgets": budgets,
        "seeds": seeds,
        "page": page,
        "took": took,
    }
    return kinds[kind](text, results)


def _markdown(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    return [f"| {' | '.join(columns)} |", "|---" * len(columns) + "|", *(f"| {' | '.join(row)} |" for row in rows)]


def took(text: str, results: Path) -> list[str]:
    """Minutes of one core by group, of a table that `grid.py --keep` wrote; the groups named and their sum."""
    name, _, groups = (part.strip() for part in text.partition("|"))
    path = results / f"{name}.csv"
    if not path.is_file():
        raise SystemExit(f"expected {path}, which `python benchmarks/grid.py --keep` writes")
    with open(path, newline="", encoding="utf-8") as file:
        found = list(csv.DictReader(file))
    rows, total, longest = [], 0.0, 0.0
    for group in (part.strip() for part in groups.split(",")):
        of_it = [row for row in found if row["group"] == group]
        if not of_it:
            raise SystemExit(f"expected runs of the group {group} in {path}; it has none")
        minutes = [float(row["core_minutes"]) for row in of_it]
        wall = [float(row["minutes"]) for row in of_it]
        rows.append([group, str(len(of_it)), f"{sum(minutes):.0f}", f"{max(wall):.0f}"])
        total, longest = total + sum(minutes), max(longest, *wall)
    rows.append(["**together**", "", f"**{total:.0f}**", f"{longest:.0f}"])
    return _markdown(["group", "runs", "minutes of one core", "longest run, minutes"], rows)


def readings(text: str, results: Path) -> list[str]:
    """Every inference of an `amortisation` record."""
    record, _, variants = (part.strip() for part in text.partition("|"))
    measured = _measured(results / f"{record}.json")
    own = summarise(records_from(measured["records"]))
    every = [*own, *summarise(FrontierRecord.from_dict(one) for one in measured["readings"])]
    names = _words(variants) or [s.variant for s in own]
    columns = [next(s for s in own if s.variant == name) for name in names]
    k = measured["settings"]["k"]
    rows = []
    # The inference that Expander SAEs have of their own first; a dense SAE's is its encoder.
    for inference in dict.fromkeys(s.inference for s in every):
        cells = []
        for column in columns:
            found = [s for s in every if (s.variant, s.inference) == (column.variant, inference)]
            cells.append(_reading(found[0]) if found else "")
        rows.append([f"`{inference}`", *cells])
    return _markdown(["read by", *(name_of(s, k) for s in columns)], rows)


def _reading(summary: Summary) -> str:
    shown = [mean(metric, digits)(summary) for metric, digits in (("fvu", 3), ("delta_ce", 2))]
    return " / ".join([*filter(None, shown), f"{summary.metrics['encode_tokens_per_second'].mean:,.0f}"])


def along(text: str, results: Path) -> list[str]:
    """Fidelity at every place of an axis."""
    record, _, axis = (part.strip() for part in text.partition("|"))
    stored = json.loads((results / f"{record}.json").read_text(encoding="utf-8"))
    places = [
        (run["at"], run["frontier"]["settings"]["k"], in_order(summarise(records_from(run["frontier"]["records"]))))
        for run in stored["measured"]["runs"]
    ]
    names = {s.variant: name_of(s, k) for _, k, summaries in places for s in summaries}
    rows: list[list[str]] = []
    kinds = {
        "fvu": [mean_and_interval("fvu", 4)],
        "Δ CE, KL": [mean_and_interval("delta_ce", 3), mean("kl", 3)],
        "CE recovered, zero / mean": [mean("ce_recovered_zero", 3), mean("ce_recovered_mean", 3)],
    }
    for at, _, summaries in places:
        of = {summary.variant: summary for summary in summaries}
        for number_of_row, (heading, columns) in enumerate(kinds.items()):
            between = " / " if "/" in heading else ", "
            cells = [between.join(c(of[v]) for c in columns if c(of[v])) if v in of else "" for v in names]
            if any(cells):
                rows.append([f"{at:,.0f}" if number_of_row == 0 else "", heading, *cells])
    return _markdown([axis, "", *names.values()], rows)


def tuning(text: str, results: Path) -> list[str]:
    """Seed 0 of the same SAEs under several batches and rates."""
    records, _, variants = (part.strip() for part in text.partition("|"))
    names = _words(variants)
    rows = []
    for record in records.split():
        parts = [_measured(results / f"{one}.json") for one in record.split(",")]
        settings = parts[0]["settings"]["training"]
        found = {
            one.variant: one.evaluation for part in parts for one in records_from(part["records"]) if one.seed == 0
        }
        cells = [number(found[name].fvu, 4) for name in names]
        cells.append(f"{100 * found['dense'].dead_fraction:.1f}%")
        rate = f"{settings['learning_rate']:.0e}".replace("e-0", "e-")
        rows.append([f"{settings['batch_size']}, {rate}", *cells])
    return _markdown(["batch, peak rate", *map(name_of_variant, names), "dead of the full dense SAE"], rows)


BUDGET_ROWS = (
    # what it is, family, inference
    ("one pass: one-shot, fixed mask", "oneshot", "encoder"),
    ("one pass: half in an encoder, taught", "taught", "encoder"),
    ("one pass: half in an encoder, end to end", "end to end", "encoder"),
    ("the same support, least squares on it", "end to end", "refit"),
    ("dictionary alone, `refit`", "expander", "refit"),
    ("dictionary alone, `stages:2`", "expander", "stages:2"),
    ("half in a taught encoder, its 8 best columns, then OMP", "taught", "warm:8"),
    ("dictionary alone, `stages:4+16`", "expander", "stages:4+16"),
    ("dictionary alone, `stages:8+8`", "expander", "stages:8+8"),
)


def budgets(text: str, results: Path) -> list[str]:
    """Every way to spend a budget of entries."""
    measured = json.loads((results / f"{text.strip()}.json").read_text(encoding="utf-8"))["measured"]
    summaries = summarise(records_from([*measured["records"], *measured["readings"], *measured["encoders"]]))
    found = {(s.family, s.inference, s.matched_degree): s for s in summaries}
    sizes = measured["budgets"]
    rows = []
    for words, family, inference in BUDGET_ROWS:
        cells = [_reading(found[family, inference, size]) for size in sizes]
        rows.append([words, *cells])
    return _markdown(["", *(f"d = {size}" for size in sizes)], rows)


def seeds(text: str, results: Path) -> list[str]:
    """Single seeds by degree, above the paper's means."""
    record, _, where = (part.strip() for part in text.partition("|"))
    model, _, layer = where.rpartition(",")
    measured = _measured(results / f"{record}.json")
    every, k = records_from(measured["records"]), measured["settings"]["k"]
    degrees = measured["settings"]["degrees"]
    found = [one for one in select(model.strip(), int(layer), k) if one.architecture == "expander_tied"]
    if not found:
        raise SystemExit(f"expected a model, layer and k of the paper's, got {model.strip()}, {layer}, {k}")
    theirs = {one.degree: one for one in found}
    rows = []
    numbers = ", ".join(map(str, measured["settings"]["seeds"]))
    for words, metric in (("rel_err", "rel_err"), ("CE recovered, zero", "ce_recovered_zero")):
        ours = [
            ", ".join(number(getattr(one.evaluation, metric), 3) for one in every if one.variant == f"expander-d{d}")
            for d in degrees
        ]
        means = [getattr(theirs[d], metric) if d in theirs else None for d in degrees]
        rows.append([f"{words}, seeds {numbers}", *ours])
        rows.append(["the paper", *("" if one is None else number(one.mean, 3) for one in means)])
    return _markdown(["", *(f"degree {d}" for d in degrees)], rows)


def page(text: str, results: Path) -> list[str]:
    """A table of a record's own page, or some of its columns and rows."""
    # Not at the bars within a column's name.
    parts = [part.strip() for part in re.split(r"\s\|(?=\s)", text)] + ["", ""]
    record, title, columns, conditions = parts[0], parts[1], _named(parts[2]), _named(parts[3])
    tables = {one.title: one for one in read_page(record, results).tables}
    if title not in tables:
        raise SystemExit(f"expected {title!r} among the tables of {record}: {', '.join(tables)}")
    found = tables[title]
    wanted = {column: _cells(cells) for column, _, cells in (one.partition("=") for one in conditions)}
    unknown = [column for column in (*columns, *wanted) if column not in found.columns]
    if unknown:
        raise SystemExit(f"expected columns out of {'; '.join(found.columns)}; got {'; '.join(unknown)}")
    rows = [dict(zip(found.columns, (_cell(cell) for cell in row), strict=True)) for row in found.rows]
    for column, cells in wanted.items():
        missing = [cell for cell in cells if all(row[column] != cell for row in rows)]
        if missing:
            raise SystemExit(f"expected {', '.join(missing)} in the column {column} of {record}")
    shown = columns or found.columns
    kept = [row for row in rows if all(row[column] in cells for column, cells in wanted.items())]
    heading = [column.replace("|", "\\|") for column in shown]
    return _markdown(heading, [[name_of_variant(row[column]) for column in shown] for row in kept])


def _named(text: str) -> list[str]:
    return [name.strip() for name in text.split(";") if name.strip()]


def _cells(text: str) -> list[str]:
    return [cell.strip() for cell in text.split(",") if cell.strip()]


def _cell(value: str | int | float | None) -> str:
    if value is None or isinstance(value, str):
        return (value or "").partition("\n")[0]
    return f"{value:,}" if isinstance(value, int) else f"{value:.4g}"


def quality(text: str, results: Path) -> list[str]:
    """Metrics of the SAEs of frontiers."""
    parts = [part.strip() for part in text.split("|")] + ["", ""]
    records, variants, columns = parts[0].split(), _words(parts[1]), _words(parts[2])
    unknown = [column for column in columns if column not in COLUMNS]
    if unknown:
        raise SystemExit(f"expected columns out of {', '.join(COLUMNS)}; got {', '.join(unknown)}")
    found: dict[str, tuple[Summary, int]] = {}
    for record in records:
        measured = _measured(results / f"{record}.json")
        for summary in in_order(summarise(records_from(measured["records"]))):
            found.setdefault(summary.variant, (summary, measured["settings"]["k"]))
    missing = [variant for variant in variants if variant not in found]
    if missing:
        raise SystemExit(f"expected {', '.join(missing)} among {', '.join(found)} of {', '.join(records)}")
    shown = columns or USUAL
    chosen = [found[variant] for variant in variants or found]
    rows = [[name_of(summary, k), *(COLUMNS[column](summary) for column in shown)] for summary, k in chosen]
    return _markdown(["SAE", *shown], rows)


def _words(text: str) -> list[str]:
    # Commas inside a column's name are not followed by a known start, so names are looked up longest first.
    names, rest = [], text
    while rest:
        known = next((c for c in sorted(COLUMNS, key=len, reverse=True) if rest.startswith(c)), rest.split(",")[0])
        names.append(known.strip())
        rest = rest[len(known) :].lstrip(" ,")
    return names


def _measured(path: Path) -> dict[str, Any]:
    """A frontier; for a name A+B that of A with the evaluations that `expander-sae eval --json` wrote to B."""
    name, _, other = path.stem.partition("+")
    record = json.loads(path.with_name(f"{name}.json").read_text(encoding="utf-8"))
    found = record.get("measured", record)
    found = found if "records" in found else found["frontier"]
    if other:
        read_anew = json.loads(path.with_name(f"{other}.json").read_text(encoding="utf-8"))
        kept = [
            one | {"evaluation": read_anew[one["folder"]]} for one in found["records"] if one["folder"] in read_anew
        ]
        found = found | {"records": kept}
    return found


def read_page(record: str, results: Path) -> Page:
    stored = json.loads((results / f"{record}.json").read_text(encoding="utf-8"))
    return page_of(find_experiment(stored["experiment"]), stored)
