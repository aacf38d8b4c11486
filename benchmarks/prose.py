"""Numbers in prose that come from a record by name.

A comment behind a number says which it is, and no reader sees it:

    degree 7 leaves .259<!-- k32; expander-d7; fvu --> of the variance, .245 ± .001<!-- ... --> with its interval
    81<!-- k32; dense; learned values over k32; expander-d7; learned values --> times fewer values

Record; SAE; column, and where a page has several tables or rows of an SAE more of them: `read by=omp`, or
`at=1,400,000` for the place along an axis that a table's title ends with. A record's name may lack
`smollm2-135m-layer14-` or `smollm2-135m-`; a column is a metric's name or a heading. Two of them with ` over ` or
` less ` between are divided or subtracted. The number is written in the digits that it has: as many behind the point,
with commas, in percent.
"""

import re
from pathlib import Path

from recorded import page_of_record, parts, rows_of, short, variant, whole

from expander_sae.frontier.page import Number
from expander_sae.records.metrics import METRIC
from expander_sae.records.spread import Rate

NAMED = re.compile(
    r"(?P<shown>\d[\d,]*(?:\.\d+)?%?|\.\d+%?)(?P<half> ± (?:\d*\.)?\d+)?<!-- (?P<of>(?:(?!-->).)*;(?:(?!-->).)*) -->"
)
BETWEEN = re.compile(r" (over|less) ")
PREFIXES = ("", "smollm2-135m-layer14-", "smollm2-135m-")


def with_numbers(line: str, results: Path) -> str:
    """A line, with every number that names its record as the record says."""
    return NAMED.sub(lambda found: _written(found, results), line)


def _written(found: re.Match[str], results: Path) -> str:
    value, half = value_of(found["of"], results)
    shown = _like(found["shown"], value)
    if found["half"] is not None:
        if half is None:
            raise SystemExit(f"expected an interval of {found['of']}; it has none")
        shown += f" ± {_like(found['half'].removeprefix(' ± '), half)}"
    return f"{shown}<!-- {found['of']} -->"


def _like(shown: str, value: float) -> str:
    """A value in the digits of what is there."""
    digits = len(shown.rstrip("%").partition(".")[2])
    if shown.endswith("%"):
        return f"{100 * value:.{digits}f}%"
    return short(value, digits) if digits else f"{value:,.0f}"


def value_of(of: str, results: Path) -> tuple[float, float | None]:
    """The number that a comment names, and half its 95% interval where it has one and stands alone."""
    first, *more = BETWEEN.split(of)
    value, half = _cell(first, results)
    for sign, address in zip(more[::2], more[1::2], strict=True):
        other, half = _cell(address, results)[0], None
        value = value / other if sign == "over" else value - other
    return value, half


def _cell(address: str, results: Path) -> tuple[float, float | None]:
    name, sae, column, *conditions = parts(address, ";")
    records = [prefix + name for prefix in PREFIXES if (results / f"{prefix}{name.partition('+')[0]}.json").is_file()]
    if not records:
        raise SystemExit(f"expected a record of {results}; got {name!r}")
    heading = METRIC[column].heading if column in METRIC else column
    wanted = dict(condition.split("=", 1) for condition in conditions)
    place = wanted.pop("at", None)
    for table in page_of_record(records[0], results).tables:
        if place is not None and table.title.rpartition(": ")[2] != place:
            continue
        for row in rows_of(table):
            if "SAE" not in row or variant(row) != sae or heading not in row:
                continue
            if any(key not in row or whole(row[key]) != value for key, value in wanted.items()):
                continue
            cell = row[heading]
            if isinstance(cell, Number | Rate):
                return cell.found.mean, getattr(cell.found, "interval", None)
            if isinstance(cell, int | float):
                return float(cell), None
    raise SystemExit(f"expected a number at {address}; its record has none there")
