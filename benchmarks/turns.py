"""Calls that are timed beside each other take turns, so that what the machine does meanwhile meets all of them."""

import time
from collections.abc import Callable, Hashable, Mapping
from typing import TypeVar

Call = tuple[Callable[[], object], int]
"""What to call, and how many tokens that is."""
_Name = TypeVar("_Name", bound=Hashable)


def take_turns(calls: Mapping[_Name, Call], repeats: int) -> dict[_Name, list[float]]:
    """Tokens/s of each call; one round warms up."""
    rates: dict[_Name, list[float]] = {name: [] for name in calls}
    for number in range(repeats + 1):
        for name, (call, tokens) in calls.items():
            started = time.perf_counter()
            call()
            if number:
                rates[name].append(tokens / (time.perf_counter() - started))
    return rates
