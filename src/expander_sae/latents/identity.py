"""Which SAE a view is of, and what its tokens say."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from typing import Any

import torch

from expander_sae.evaluation.meaning.text import piece_of


def sae_sha256(sae: Any) -> str:
    """SHA-256 of everything an SAE computes with: the names, types, shapes and bytes of its tensors, k and the sign.

    It does not depend on the folder, the reading or what is on record of the training, so that labels stay with the
    latents.
    """
    digest = hashlib.sha256(f"{sae.k} {sae.signed}\n".encode())
    for name, tensor in sorted(sae.state_dict().items()):
        data = tensor.detach().cpu().contiguous()
        digest.update(f"{name} {data.dtype} {list(data.shape)}\n".encode())
        for piece in data.reshape(-1).view(torch.uint8).split(1 << 24):
            digest.update(piece.numpy().tobytes())
    return digest.hexdigest()


def token_texts(tokenizer: Any, ids: Iterable[int]) -> list[str]:
    """What each token says, with the space before it; one that the tokenizer does not know is <ID>."""
    known = len(tokenizer)
    return [piece_of(tokenizer, int(one)) if 0 <= one < known else f"<{one}>" for one in ids]
