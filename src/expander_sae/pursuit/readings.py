"""Every reading by the name it has in files and on the command line."""

from dataclasses import fields
from typing import Any

from expander_sae.records import ExpanderSaeError

from .cosamp import CoSaMP
from .encoder import Encoder
from .gradient_pursuit import GradientPursuit
from .matching import MatchingPursuit
from .niht import NIHT
from .nonnegative import NonNegativeOMP
from .omp import OMP, WarmOMP
from .pursuit import Pursuit
from .reading import Reading
from .refit import Refit
from .stages import Stages

DEFAULT_READING = Stages(8, spare=None)
"""How an SAE reads its codes unless told otherwise: eight stages, two spare columns for each that a stage adds."""

READINGS: dict[str, type[Reading]] = {
    kind.name: kind
    for kind in (
        Encoder, Refit, Stages, OMP, WarmOMP, NonNegativeOMP, MatchingPursuit, GradientPursuit, CoSaMP, NIHT
    )
}  # fmt: skip
"""Every reading, simplest first."""

_WRITTEN = {"stages": "stages:T", "warm": "warm:M"}
"""Those whose number has to be given."""


def reading_names() -> str:
    """All names with what they take, for help texts and errors: `encoder, refit, stages:T, ...`."""
    return ", ".join(_WRITTEN.get(name, name) for name in READINGS)


def parse_reading(text: str) -> Reading:
    """The reading that `str` writes so: NAME, NAME:NUMBER, stages:T+SPARE, and @TOLERANCE behind a pursuit.

    Raises:
        ExpanderSaeError: there is no such reading, a number is missing, or stands where none belongs.

    Example:
        >>> parse_reading("stages:8+8"), parse_reading("omp@0.1")
        (Stages(stages=8, spare=8), OMP(tolerance=0.1))
    """
    head, at, tolerance = text.partition("@")
    name, colon, number = head.partition(":")
    number, plus, spare = number.partition("+")
    kind = READINGS.get(name)
    if kind is None or len(text) > 60:
        raise ExpanderSaeError(f"expected a reading out of {reading_names()}; got {text[:80]!r}")
    counts = [_count(number)] if colon else []
    counts += [None if spare == "auto" else _count(spare)] if plus else []
    names = [field.name for field in fields(kind) if field.name != "tolerance"]
    needed = 1 if name in _WRITTEN else 0
    options = {"tolerance": _number(tolerance)} if at else {}
    misplaced = (at and not issubclass(kind, Pursuit)) or -1 in counts or options.get("tolerance") == -1
    if misplaced or not needed <= len(counts) <= len(names):
        raise ExpanderSaeError(f"expected {_usage(kind, names, needed)}; got {text!r}")
    return kind(*counts, **options)


def in_stages(reading: Reading, stages: int | None, spare: int | None) -> Reading:
    """A reading with what the options `--stages` and `--spare` of a command say in its place; 0 stages is the encoder.

    Args:
        reading: where neither is given.
        stages: of block OMP; None: those of `reading`.
        spare: columns each picks beyond its share; None: those of `reading`.

    Raises:
        ExpanderSaeError: no such numbers, or spare columns without a stage.

    Example:
        >>> str(in_stages(DEFAULT_READING, 4, None)), str(in_stages(DEFAULT_READING, 0, None))
        ('stages:4+auto', 'encoder')
    """
    if stages is None and spare is None:
        return reading
    before = reading if isinstance(reading, Stages) else None
    if stages is None:
        stages = 0 if before is None else before.stages
    if spare is None:
        spare = 0 if before is None else before.spare
    return Stages(stages, spare) if stages or spare else Encoder()


def of_numbers(stages: int, spare: int | None) -> Reading:
    """The reading that records and files of earlier releases name by two numbers; 0 stages: the encoder.

    Raises:
        ExpanderSaeError: no such numbers.

    Example:
        >>> of_numbers(8, 8), of_numbers(0, 0)
        (Stages(stages=8, spare=8), Encoder())
    """
    return Stages(stages, spare) if stages else Encoder()


def as_numbers(reading: Reading, idle: int | None = 0) -> dict[str, Any]:
    """A reading as records have it, which outlast the names in Python: stages and the encoder as two numbers, any
    other by its text.

    Args:
        reading: any.
        idle: the spare columns that are written beside the encoder's 0 stages, where they mean nothing.

    Example:
        >>> as_numbers(Stages(8, spare=8)), as_numbers(Encoder())
        ({'stages': 8, 'spare': 8}, {'stages': 0, 'spare': 0})
    """
    if isinstance(reading, Encoder):
        return {"stages": 0, "spare": idle}
    if isinstance(reading, Stages):
        return {"stages": reading.stages, "spare": reading.spare}
    return {"reading": str(reading)}


def _usage(kind: type[Reading], names: list[str], needed: int) -> str:
    number = "" if not names else f":{names[0].upper()}"
    usage = kind.name + (number if needed or not number else f" or {kind.name}{number}")
    usage += "[+SPARE]" if len(names) > 1 else ""
    return usage + (", maybe with @TOLERANCE in [0, 1) behind it" if issubclass(kind, Pursuit) else "")


def _count(digits: str) -> int:
    """A whole number, -1 for what is none."""
    return int(digits) if digits.isdecimal() and len(digits) < 10 else -1


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return -1
