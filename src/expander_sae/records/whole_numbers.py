"""Whole numbers that a user gives: sizes, counts, seeds."""

from numbers import Integral

from .errors import ExpanderSaeError


def whole_number(what: str, value: object, *, least: int | None = None, most: int | None = None) -> int:
    """A whole number of any integer type, NumPy's too, as Python's own; True and 3.0 are none.

    Raises:
        ExpanderSaeError: it is none, or not in least..most (None: no bound).

    Example:
        >>> whole_number("k", 8, least=1)
        8
    """
    if isinstance(value, Integral) and not isinstance(value, bool):
        number = int(value)
        if (least is None or number >= least) and (most is None or number <= most):
            return number
    bound = "" if least is None else f" of at least {least}" if most is None else f" in {least}..{most}"
    raise ExpanderSaeError(f"expected {what} as a whole number{bound}; got {value!r}")
