"""Pursuits on the C++ core (CPU): one column at a time, the correlations tracked instead of scanned; and those that
change the whole support in an iteration."""

import torch
from torch import Tensor

from expander_sae.ops import Codes, native_core
from expander_sae.ops.dictionary import Dictionary
from expander_sae.ops.encode_topk.native import supports as core_supports

from .columns import repeated_columns


def cannot_take(x: Tensor, dictionary: Dictionary) -> str | None:
    """Why the C++ core cannot take this call, or None if it can."""
    if dictionary.rows is None:
        return "dense dictionaries go to the definition, which is matrix products"
    return core_supports(x, dictionary.rows, dictionary.decoder)


def tracking_pays(dictionary: Dictionary) -> bool:
    """Whether OMP should track its correlations rather than scan the dictionary in lockstep over a tile of tokens.

    Per step and core, tracking takes about 4.2 ns for each column that touches a row of the picked one (it walks
    waiting rows too) and 0.05 ns for each of the n_latents numbers whose maximum it looks for; a scan of sixteen tokens
    at once takes 0.037 ns per value of the dictionary. Tracking wins from n_latents of about 10,000 on. The columns
    that touch a walked row are `sum c^2 / sum c` on average, with c the row degrees: many where learned supports crowd.
    """
    assert dictionary.rows is not None
    degree = dictionary.decoder.shape[1]
    counts = torch.bincount(dictionary.rows.long().flatten(), minlength=dictionary.d_in).double()
    length = float(counts.square().sum() / counts.sum())
    return 4.2 * degree * length + 0.05 * dictionary.n_latents < 0.037 * dictionary.n_latents * degree


def greedy(
    x: Tensor, dictionary: Dictionary, k: int, method: str, steps: int, *, tolerance: float, start: Codes | None
) -> Codes:
    """Codes [batch, k] by a method of the core: "omp", "mp", "gradient", "nnomp", "refit", "cosamp" or "niht".

    Those that track correlations hold 16 tokens' per thread, 64 * n_latents bytes.
    """
    center = dictionary.center
    indices = torch.empty((x.shape[0], k), dtype=torch.int64, device="cpu")
    codes = torch.empty((x.shape[0], k), dtype=torch.float32, device="cpu")
    if x.shape[0]:
        native_core.call(
            "greedy",
            native_core.plain(x),
            None if center is None else native_core.plain(center.float()),
            native_core.rows16(dictionary.rows),
            native_core.plain(dictionary.decoder),
            method,
            k,
            steps,
            dictionary.signed,
            tolerance,
            None if start is None else native_core.plain(start.indices),
            None if start is None else native_core.plain(start.values.float()),
            repeated_columns(dictionary).view(torch.uint8) if method == "niht" else None,
            torch.get_num_threads(),
            indices,
            codes,
        )
    return Codes(indices, codes)
