"""A page: a claim, tables, figures. Cells are numbers with their spread until somebody renders them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from expander_sae.records.spread import Rate, Spread, spread

from .families import title_of


@dataclass(frozen=True, eq=False)
class Figure:
    """One drawing of a page; it is drawn when its `svg` is first asked for, and equal to one that looks the same."""

    name: str
    """File name without its ending."""
    caption: str
    """What is drawn, for someone who cannot see it."""
    draw: Callable[[], bytes] = field(repr=False)

    @cached_property
    def svg(self) -> bytes:
        """The drawing."""
        return self.draw()

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Figure) and self._looks() == other._looks()

    def __hash__(self) -> int:
        return hash(self._looks())

    def _looks(self) -> tuple[str, str, bytes]:
        return self.name, self.caption, self.svg


@dataclass(frozen=True)
class Number:
    """A mean over seeds, to be written with so many digits."""

    found: Spread
    digits: int

    def text(self) -> str:
        """Mean and interval, and on a second line every seed's value where there are several."""
        return self.found.text(self.digits)


@dataclass(frozen=True)
class Sae:
    """The name of an SAE, at the head of its row."""

    variant: str
    degree: int | None = None
    """The one whose size it has."""
    diverged: int = 0

    def text(self) -> str:
        """As pages have it."""
        return self.variant + self._lost()

    def _lost(self) -> str:
        return f" ({self.diverged} diverged)" if self.diverged else ""

    def title(self) -> str:
        """As documents have it."""
        return title_of(self.variant, self.degree) + self._lost()


Cell = str | int | float | None | Number | Rate | Sae
"""Text, numbers shown as they are, None for a dash, and what has a `text` of its own."""


@dataclass(frozen=True)
class Table:
    """One table of a page."""

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[Cell]]
    note: str = ""


@dataclass(frozen=True)
class Page:
    """The answer to one question."""

    claim: str
    """One sentence, from the numbers."""
    tables: Sequence[Table] = ()
    figures: Sequence[Figure | None] = ()
    """None (nothing to draw) is left out."""
    notes: Sequence[str] = ()
    """What to mind."""


def plain(cell: Cell) -> str | int | float | None:
    """A cell as JSON has it; what follows a line break is set small."""
    return cell.text() if isinstance(cell, Number | Rate | Sae) else cell


def number(found: Spread | None, digits: int) -> Number | None:
    """A spread as a cell; None where there is none."""
    return None if found is None else Number(found, digits)


_SMALLEST_CLAIM = 3
"""Seeds below which a difference is not a claim."""


def caution(seeds: int) -> str:
    """The sentence to add to a claim about trained SAEs that so many seeds do not carry; empty where they do."""
    return "" if seeds >= _SMALLEST_CLAIM else f" With {seeds} seed{'s' if seeds > 1 else ''} this is no claim yet."


def sentence(parts: Sequence[str]) -> str:
    """The parts with semicolons between them, as one sentence."""
    text = "; ".join(parts)
    return f"{text[:1].upper()}{text[1:]}."


Row = Mapping[str, Any]
Columns = Mapping[str, tuple[Any, ...]]
"""Heading -> (path of a value in a row, digits), or (path, digits, factor)."""


def value_at(row: Row, path: str) -> Any:
    """What a row has at a path of keys with slashes between them; None where a key is missing."""
    found: Any = row
    for key in path.split("/"):
        found = None if found is None else found.get(key)
    return found


def over_seeds(rows: Iterable[Row], path: str, factor: float = 1.0) -> Spread | None:
    """The spread of one value over rows, which are those of several seeds."""
    values = [value_at(row, path) for row in rows]
    return spread(value if value is None or factor == 1.0 else value * factor for value in values)


def numbers(rows: Sequence[Row], columns: Columns) -> list[Number | None]:
    """One cell for each column."""
    return [
        number(over_seeds(rows, path, *factor), digits) for path, digits, *factor in columns.values()
    ]  # fmt: skip


def known(columns: Columns, groups: Mapping[Any, Sequence[Row]]) -> Columns:
    """The columns that some row has a value of: records of earlier releases lack those that came later."""
    rows = [row for of in groups.values() for row in of]
    return {name: at for name, at in columns.items() if any(value_at(row, at[0]) is not None for row in rows)}


def by(rows: Iterable[Row], key: str, *more: str) -> dict[Any, list[Row]]:
    """Rows that share a key (a tuple of several), in the order of their first."""
    groups: dict[Any, list[Row]] = {}
    for row in rows:
        group = (row[key], *(row[one] for one in more)) if more else row[key]
        groups.setdefault(group, []).append(row)
    return groups


def table_by(title: str, groups: Mapping[Any, Sequence[Row]], columns: Columns, note: str = "", *head: str) -> Table:
    """One row for each group, its key in the first columns (`SAE` where no `head` is given), then its numbers."""
    keys: list[list[Any]] = [list(key) if isinstance(key, tuple) else [key] for key in groups]
    rows = [[*key, *numbers(of, columns)] for key, of in zip(keys, groups.values(), strict=True)]
    return Table(title, [*(head or ["SAE"]), *columns], rows, note)
