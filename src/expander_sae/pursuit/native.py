"""Pursuits on the C++ core (CPU): one column at a time, the correlations tracked instead of scanned; and those that
change the whole support in an iteration."""

import torch
from torch import Tensor

from expander_sae.ops import Codes, native_core
from expander_sae.ops.encode_topk.native import supports as core_supports

from .dictionary import Dictionary, repeated_columns
from .selection import ITERATIONS

METHODS = ("omp", "mp", "gradient", "nnomp", "refit", "cosamp", "niht")
"""The methods of the core."""


def supports(
    method: str, block: int, spare: int, x: Tensor, dictionary: Dictionary, warm_start: Codes | None
) -> str | None:
    """Why the C++ core cannot take this call, or None if it can."""
    if method not in METHODS:
        return f"the C++ core has {', '.join(METHODS)}; got {method!r}"
    if (block > 1 or spare) and warm_start is not None:
        return "the C++ core takes a warm start one column at a time and with nothing to spare; the reference does all"
    return core_supports(x, dictionary.rows, dictionary.values)


def tracking_pays(dictionary: Dictionary) -> bool:
    """Whether OMP should track its correlations rather than scan the dictionary in lockstep over a tile of tokens.

    Per step and core, tracking takes about 4.2 ns for each column that touches a row of the picked one (it walks
    waiting rows too) and 0.05 ns for each of the n_latents numbers whose maximum it looks for; a scan of sixteen tokens
    at once takes 0.037 ns per value of the dictionary. Tracking wins from n_latents of about 10,000 on. The columns
    that touch a walked row are `sum c^2 / sum c` on average, with c the row degrees: many where learned supports crowd.
    """
    assert dictionary.rows is not None
    degree = dictionary.values.shape[1]
    counts = torch.bincount(dictionary.rows.flatten(), minlength=dictionary.d_in).double()
    length = float(counts.square().sum() / counts.sum())
    return 4.2 * degree * length + 0.05 * dictionary.n_latents < 0.037 * dictionary.n_latents * degree


def greedy(
    x: Tensor,
    dictionary: Dictionary,
    k: int,
    method: str,
    *,
    signed: bool,
    tolerance: float,
    center: Tensor | None,
    warm_start: Codes | None,
    steps: int | None,
) -> Codes:
    """Codes [batch, k] by one of `METHODS`; those that track correlations hold 16 tokens' per thread, 64 * n_latents
    bytes."""
    if steps is None:
        steps = ITERATIONS if method in ("cosamp", "niht") else k
    indices = torch.empty((x.shape[0], k), dtype=torch.int64, device="cpu")
    codes = torch.empty((x.shape[0], k), dtype=torch.float32, device="cpu")
    if x.shape[0]:
        native_core.call(
            "greedy",
            native_core.plain(x),
            None if center is None else native_core.plain(center.float()),
            native_core.rows16(dictionary.rows),
            native_core.plain(dictionary.values),
            method,
            k,
            steps,
            signed,
            tolerance,
            None if warm_start is None else native_core.plain(warm_start.indices),
            None if warm_start is None else native_core.plain(warm_start.values.float()),
            repeated_columns(dictionary, signed=signed).view(torch.uint8) if method == "niht" else None,
            torch.get_num_threads(),
            indices,
            codes,
        )
    return Codes(indices, codes)
