"""The fields of a JSON object that somebody else wrote: taken by name, checked as they are taken, none left over."""

import math
from collections.abc import Iterable, Mapping
from typing import Any, NoReturn

from .errors import ExpanderSaeError

_MISSING: Any = object()
_SHOWN = 80


class Fields:
    """What a config says, one field at a time; a type, a range or a name that is not known is one error."""

    def __init__(self, values: Mapping[str, Any], where: object) -> None:
        self.all = dict(values)
        self.left = dict(values)
        self.where = where
        """Named in errors: the file."""

    def __contains__(self, name: str) -> bool:
        return name in self.left

    def take(self, name: str, default: Any = _MISSING) -> Any:
        """A field as it is.

        Raises:
            ExpanderSaeError: it is missing and there is no default.
        """
        found = self.left.pop(name, default)
        if found is _MISSING:
            raise ExpanderSaeError(f"{self.where} lacks or garbles a field: expected {name}; got none")
        return found

    def again(self, name: str) -> "Fields":
        """Fields that still hold one that was taken, to look at what it is."""
        return Fields({name: self.all[name]}, self.where)

    def integer(self, name: str, least: int, most: int, default: Any = _MISSING) -> Any:
        """A whole number in least..most (or the default, where the field is missing).

        Raises:
            ExpanderSaeError: it is something else: a float, a bool, a string, or out of range.
        """
        found = self.take(name, default)
        given = found is not default or default is _MISSING
        if given and (isinstance(found, bool) or not isinstance(found, int) or not least <= found <= most):
            self.refuse(name, f"a whole number in {least}..{most}", found)
        return found

    def boolean(self, name: str, default: Any = _MISSING) -> bool:
        """True or false.

        Raises:
            ExpanderSaeError: it is something else.
        """
        found = self.take(name, default)
        if not isinstance(found, bool):
            self.refuse(name, "true or false", found)
        return found

    def text(self, name: str, default: Any = _MISSING) -> Any:
        """A string (or the default, where the field is missing).

        Raises:
            ExpanderSaeError: it is something else.
        """
        found = self.take(name, default)
        if (found is not default or default is _MISSING) and not isinstance(found, str):
            self.refuse(name, "text", found)
        return found

    def fields(self, name: str, default: Any = _MISSING) -> "Fields":
        """An object within; null where the default is an empty one is empty too.

        Raises:
            ExpanderSaeError: it is something else.
        """
        found = self.take(name, default)
        if found is None and default is not _MISSING:
            found = default
        if not isinstance(found, dict):
            self.refuse(name, "an object", found)
        return Fields(found, f"{self.where}, {name}")

    def one_of(self, name: str, known: Iterable[Any], default: Any = None) -> Any:
        """A field that only these values are understood of.

        Raises:
            ExpanderSaeError: it is another.
        """
        known = tuple(known)
        found = self.take(name, default)
        if not any(type(found) is type(value) and found == value for value in (*known, default)):
            self.refuse(name, " or ".join(repr(value) for value in known), found)
        return found

    def refuse(self, name: str, expected: str, found: Any) -> NoReturn:
        """Say what was expected of a field.

        Raises:
            ExpanderSaeError: always.
        """
        raise ExpanderSaeError(f"expected {name} as {expected} in {self.where}; got {shown(found)}")

    def done(self, harmless: Iterable[str] = ()) -> None:
        """Say that nothing else is wanted, but for fields that change nothing.

        Raises:
            ExpanderSaeError: there are others: what they say would be ignored.
        """
        more = sorted(set(self.left) - set(harmless))
        if more:
            raise ExpanderSaeError(
                f"{self.where} also says {shown(', '.join(more))}, which this reader does not know: the SAE might "
                "compute something else with it. Read it with the release or library that wrote it."
            )


def object_in(values: Mapping[str, Any], name: str) -> dict[str, Any]:
    """A field that is an object, or an empty one: of records that anyone may have written, for what is only shown.

    Example:
        >>> object_in({"training": "none"}, "training")
        {}
    """
    found = values.get(name)
    return dict(found) if isinstance(found, dict) else {}


def shown(value: Any) -> str:
    """A value in a message: short, whatever it is."""
    if isinstance(value, int) and not isinstance(value, bool) and abs(value) >= 10**30:
        return "a whole number of " + str(int(math.log10(abs(value))) + 1) + " digits"
    if isinstance(value, dict | list):
        return "an object" if isinstance(value, dict) else "a list"
    text = repr(value)
    return text if len(text) <= _SHOWN else text[: _SHOWN - 3] + "..."
