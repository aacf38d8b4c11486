"""How many positions a model has, against how many a text is cut into."""

import warnings
from typing import Any

from torch import nn

from expander_sae.records import ExpanderSaeError, ExpanderSaeWarning

from .blocks import text_config
from .running import uncompiled

_LIMITS = (
    "max_position_embeddings", "n_positions", "n_ctx", "max_seq_len", "max_seq_length", "max_sequence_length",
    "max_context_length", "seq_length", "seq_len", "max_length_positions",
)  # fmt: skip
"""What families call it."""
_TABLES = ("pos", "wpe")
"""In the name of a table or buffer with one entry for each position."""
_SPARE = 8
"""Entries that such a table may have beyond the limit (OPT has two)."""


def max_positions(model: Any) -> tuple[int | None, bool]:
    """The positions a model was made for, None if its configuration does not say; and whether it can have no more.

    A table of positions ends; rotary embeddings and ALiBi go on, past what the model was trained on.
    """
    model = uncompiled(model)
    config = text_config(model)
    named = [getattr(config, name, None) for name in _LIMITS]
    limits = [limit for limit in named if isinstance(limit, int) and not isinstance(limit, bool) and limit > 0]
    if not limits or getattr(config, "alibi", False) or _has_alibi(model):
        return None, False
    return min(limits), any(_ends_at(model, limit) for limit in limits)


def _has_alibi(model: nn.Module) -> bool:
    # Bloom and MPT have no positions at all, whatever their configuration calls a sequence.
    config: Any = model.config
    return "alibi" in str(getattr(config, "attn_config", "")) or getattr(config, "model_type", "") == "bloom"


def _ends_at(model: nn.Module, limit: int) -> bool:
    tables = [*model.named_parameters(), *model.named_buffers()]
    positions = any(
        tensor.ndim >= 2 and limit <= tensor.shape[0] <= limit + _SPARE
        for name, tensor in tables
        if any(part in name.lower() for part in _TABLES)
    )
    masks = any(tensor.ndim >= 2 and tensor.shape[-2:] == (limit, limit) for _, tensor in model.named_buffers())
    return positions or masks


def check_context(model: Any, context: int) -> None:
    """Raise before any work if a model has fewer positions than a text has tokens in a block; warn where it can run but
    was not trained so far.

    Raises:
        ExpanderSaeError: it ends before.
    """
    limit, ends = max_positions(model)
    if limit is None or context <= limit:
        return
    said = f"blocks of {context} tokens, but {type(uncompiled(model)).__name__} has {limit} positions"
    if ends:
        raise ExpanderSaeError(f"expected a context of at most {limit} tokens; got {said}. Lower --context.")
    warnings.warn(f"{said}: what it computes past them it was not trained for", ExpanderSaeWarning, stacklevel=3)
