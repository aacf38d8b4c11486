"""One guarantee, in a form that can be read, stored and checked."""

from dataclasses import asdict, dataclass
from typing import Any, Literal


@dataclass(frozen=True)
class Certificate:
    """What is guaranteed for a mask or a dictionary, on what grounds, and whether it says anything at all.

    Attributes:
        name: short and stable, for instance "unique_codes_any_values".
        value: the number; for a guarantee about sparse codes, the largest k it covers.
        status: "certified" if it is a theorem applied to numbers computed exactly (up to float64 rounding, which
            is allowed for); "estimated" if a sample entered.
        assumptions: what has to hold beyond the numbers that were computed.
        formula: how the value came about.
        source: the theorem, by its usual reference.
        cost_seconds: what computing it took.
        vacuous: whether it says nothing, or nothing for the k that was asked about.
        sentence: the same in plain words.
    """

    name: str
    value: float | int | None
    status: Literal["certified", "estimated"]
    assumptions: tuple[str, ...]
    formula: str
    source: str
    cost_seconds: float
    vacuous: bool
    sentence: str

    def to_dict(self) -> dict[str, Any]:
        """The fields as plain types, for JSON.

        Example:
            >>> Certificate("x", 1, "certified", (), "f", "s", 0.0, False, "One.").to_dict()["value"]
            1
        """
        return {**asdict(self), "assumptions": list(self.assumptions)}
