"""Which SAE a view is of, and what its tokens say."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from typing import Any

from expander_sae.evaluation.meaning.text import piece_of


def sae_sha256(sae: Any) -> str:
    """SHA-256 of everything an SAE computes with: its dictionary, thresholds, k and the sign.

    It does not depend on the folder, the reading or what is on record of the training, so that labels stay with the
    latents; and it is the same before an SAE is saved and after it is read.
    """
    digest = hashlib.sha256(f"{sae.k} {sae.signed}\n".encode())
    dictionary = sae.dictionary().detached()
    named = {name: getattr(dictionary, name) for name in ("decoder", "encoder", "bias", "center")}
    if dictionary.rows is not None:
        named = {**named, **_entries(dictionary)}
    named |= {name: getattr(sae, name, None) for name in ("threshold", "selection")}
    for name, tensor in named.items():
        if tensor is None:
            continue
        digest.update(f"{name} {list(tensor.shape)}\n".encode())
        for piece in tensor.detach().cpu().reshape(-1).split(1 << 22):
            whole = piece if name in ("rows", "counts") else piece.float()
            digest.update(whole.contiguous().numpy().tobytes())
    return digest.hexdigest()


def _entries(dictionary: Any) -> dict[str, Any]:
    """What a sparse dictionary's columns hold, by row: slots without an entry have any row, and are left out."""
    present = dictionary.decoder != 0
    rows = dictionary.rows.long().masked_fill(~present, dictionary.d_in)
    order = rows.argsort(dim=1, stable=True)
    kept = present.gather(1, order)
    found = {"rows": rows.gather(1, order)[kept], "counts": present.sum(1)}
    for name in ("decoder", "encoder"):
        values = getattr(dictionary, name)
        found[name] = None if values is None else values.gather(1, order)[kept]
    return found


def token_texts(tokenizer: Any, ids: Iterable[int]) -> list[str]:
    """What each token says, with the space before it; one that the tokenizer does not know is <ID>."""
    known = len(tokenizer)
    return [piece_of(tokenizer, int(one)) if 0 <= one < known else f"<{one}>" for one in ids]
