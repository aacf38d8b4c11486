"""What a request asks for, each value checked as it is taken."""

from __future__ import annotations

import json
import math
from typing import Any

from starlette.requests import Request

from expander_sae.records import ExpanderSaeError


class Asked:
    """The values of an address."""

    def __init__(self, request: Request) -> None:
        self._query, self._path = request.query_params, request.path_params

    def text(self, name: str) -> str:
        """What stands behind `name`, or nothing."""
        return self._query.get(name, "")

    def one_of(self, name: str, allowed: tuple[str, ...]) -> str:
        """One of some words."""
        value = self.text(name)
        if value not in allowed:
            raise ExpanderSaeError(f"expected {name} as one of {', '.join(filter(None, allowed))}; got {value[:100]!r}")
        return value

    def number(self, name: str, default: int, *, most: int) -> int:
        """A whole number from 0 to `most`."""
        value = self.text(name)
        return _whole(name, value, most) if value else default

    def numbers(self, name: str, *, most: int) -> list[int]:
        """Whole numbers with commas between them, at most so many."""
        values = [value for value in self.text(name).split(",") if value.strip()]
        if len(values) > most:
            raise ExpanderSaeError(f"expected at most {most} numbers as {name}; got {len(values)}")
        return [_whole(name, value, 1 << 31) for value in values]

    def share(self, name: str) -> float | None:
        """A number from 0 to 1, if it is given."""
        value = self.text(name)
        if not value:
            return None
        try:
            found = float(value)
        except ValueError:
            found = math.nan
        if not 0 <= found <= 1:
            raise ExpanderSaeError(f"expected a density from 0 to 1; got {value[:100]!r}")
        return found

    def place(self, name: str) -> int:
        """A number that is part of the path."""
        return int(self._path[name])


class Body:
    """The fields of a request's JSON."""

    def __init__(self, whole: Any) -> None:
        self.whole = whole

    def _take(self, name: str) -> Any:
        if not isinstance(self.whole, dict):
            raise ExpanderSaeError(f"expected a JSON object with {name}; got {type(self.whole).__name__}")
        return self.whole.get(name)

    def text(self, name: str, *, most: int, least: int = 0) -> str:
        """A text of so many characters."""
        value = self._take(name)
        if not isinstance(value, str) or not least <= len(value) <= most:
            got = f"{len(value):,} characters" if isinstance(value, str) else type(value).__name__
            raise ExpanderSaeError(f"expected {name} as text of {least} to {most:,} characters; got {got}")
        return value

    def flag(self, name: str) -> bool:
        """True or false."""
        value = self._take(name)
        if not isinstance(value, bool):
            raise ExpanderSaeError(f"expected {name} as true or false; got {type(value).__name__}")
        return value

    def number(self, name: str, least: int, most: int) -> int:
        """A whole number in a range."""
        value = self._take(name)
        if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
            raise ExpanderSaeError(f"expected {name} as a whole number from {least} to {most}; got {str(value)[:100]}")
        return value

    def real(self, name: str, least: float, most: float) -> float:
        """A number in a range."""
        value = self._take(name)
        if isinstance(value, bool) or not isinstance(value, int | float) or not least <= value <= most:
            raise ExpanderSaeError(f"expected {name} as a number from {least} to {most}; got {str(value)[:100]}")
        return float(value)

    def one_of(self, name: str, allowed: tuple[str, ...]) -> str:
        """One of some words."""
        value = self._take(name)
        if value not in allowed:
            raise ExpanderSaeError(f"expected {name} as one of {', '.join(allowed)}; got {str(value)[:100]!r}")
        return value


async def body_of(request: Request) -> Body:
    """The JSON of a request.

    Raises:
        ExpanderSaeError: it is none.
    """
    try:
        return Body(json.loads(await request.body()))
    except (ValueError, RecursionError) as error:
        raise ExpanderSaeError(f"expected JSON; got something else: {str(error)[:200]}") from error


def _whole(name: str, value: str, most: int) -> int:
    text = value.strip()
    if not (text.isascii() and text.isdigit() and len(text) <= 12 and int(text) <= most):
        raise ExpanderSaeError(f"expected {name} as a whole number from 0 to {most}; got {value[:100]!r}")
    return int(text)
