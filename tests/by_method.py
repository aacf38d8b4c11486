"""Codes by the name of an algorithm and loose options, for tests that run over many algorithms."""

from dataclasses import replace

from expander_sae.ops import block_omp
from expander_sae.pursuit import OMP, READINGS, Dictionary, Refit

METHODS = ("omp", "mp", "nnomp", "gradient", "cosamp", "niht", "refit")


def pursue(
    x, dictionary, k, method="omp", *, block=1, spare=0, signed=True, tolerance=0.0, center=None, warm_start=None,
    steps=None, backend="auto",
):  # fmt: skip
    """`block` above 1 and "refit" without a warm start are block OMP's definition, or its kernel if that is named."""
    if not isinstance(dictionary, Dictionary):
        dictionary = Dictionary.of_matrix(dictionary)
    dictionary = replace(dictionary, signed=signed, center=center)
    if method == "refit" and warm_start is not None:
        return Refit().codes_on(warm_start, dictionary, x, k, backend=backend)
    if method == "refit":
        block = k
    if block > 1 or spare:
        return block_omp(
            x, dictionary.rows, dictionary.decoder, k, block=block, spare=spare, signed=signed, tolerance=tolerance,
            center=center, backend="reference" if backend == "auto" else backend,
        )  # fmt: skip
    options = {"tolerance": tolerance} | ({} if steps is None else {"steps": steps})
    reading = OMP(**options) if method == "refit" else READINGS[method](**options)
    if warm_start is not None:
        return reading.codes_from(warm_start, dictionary, x, k, backend=backend)
    return reading.codes(dictionary, x, k, backend=backend)
