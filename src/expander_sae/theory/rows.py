"""The rows of a dictionary, all of them where it is dense, and the mask that they are."""

import numpy as np
import torch
from torch import Tensor

from expander_sae.graphs import Mask
from expander_sae.ops import Dictionary


def with_rows(dictionary: Dictionary) -> Tensor:
    """Rows [n_latents, degree] of a dictionary; all of them, where it is dense."""
    if dictionary.rows is not None:
        return dictionary.rows
    return torch.arange(dictionary.d_in, device=dictionary.decoder.device).expand(dictionary.n_latents, -1)


def mask_and_values(dictionary: Dictionary) -> tuple[Mask, np.ndarray]:
    """The mask of a dictionary's rows, and its values [n_latents, degree] in the order of that mask, in their dtype."""
    rows, order = with_rows(dictionary).long().sort(dim=1)
    values = dictionary.decoder.detach().gather(1, order)
    mask = Mask(rows.cpu().numpy(), d_in=dictionary.d_in, construction="rows", seed=None)
    return mask, values.cpu().numpy()
