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
    named = {name: getattr(dictionary, name) for name in ("rows", "decoder", "encoder", "bias", "center")}
    named |= {name: getattr(sae, name, None) for name in ("threshold", "selection")}
    for name, tensor in named.items():
        if tensor is None:
            continue
        digest.update(f"{name} {list(tensor.shape)}\n".encode())
        for piece in tensor.detach().cpu().reshape(-1).split(1 << 22):
            whole = piece.long() if name == "rows" else piece.float()
            digest.update(whole.contiguous().numpy().tobytes())
    return digest.hexdigest()


def token_texts(tokenizer: Any, ids: Iterable[int]) -> list[str]:
    """What each token says, with the space before it; one that the tokenizer does not know is <ID>."""
    known = len(tokenizer)
    return [piece_of(tokenizer, int(one)) if 0 <= one < known else f"<{one}>" for one in ids]
