"""Which of the core's instruction sets runs, and another one for a while."""

from collections.abc import Iterator
from contextlib import contextmanager

from expander_sae.ops.backends import native_core
from expander_sae.records import ExpanderSaeError


def instruction_sets() -> list[str]:
    """Those that were built and that this machine runs, the best first; empty without the C++ core.

    Example:
        >>> instruction_sets()[-1] in ("baseline", "neon")
        True
    """
    core = native_core()
    return [] if core is None else core.available_instruction_sets().split(",")


@contextmanager
def use_instruction_set(name: str) -> Iterator[None]:
    """Within it the core's kernels run on this instruction set, in all threads of the process: for tests and timings.

    Results are the same bits within one set. Between sets sums may round differently, which may decide a near tie.

    Raises:
        ExpanderSaeError: the set was not built, or this machine does not run it.

    Example:
        >>> from expander_sae.ops.backends import native_core
        >>> with use_instruction_set(instruction_sets()[-1]):
        ...     native_core().instruction_set() == instruction_sets()[-1]
        True
    """
    core = native_core()
    if core is None or name not in instruction_sets():
        known = ", ".join(instruction_sets()) or "none: the C++ core is not installed"
        raise ExpanderSaeError(f"expected an instruction set that was built and runs here ({known}); got {name!r}")
    before = core.instruction_set()
    core.select_instruction_set(name)
    try:
        yield
    finally:
        core.select_instruction_set(before)
