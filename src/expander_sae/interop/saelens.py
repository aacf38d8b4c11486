"""Our SAEs as SAELens objects; importing this module registers the architecture `expander_sae` with SAELens.

    import expander_sae.interop.saelens
    from sae_lens import SAE
    sae = SAE.load_from_disk("sae/")  # a folder that `expander-sae export --to saelens` wrote

The object holds an SAE of this package (`core`), which does the work on its own kernels: `encode` gives our codes, by
pursuit where that is how the SAE reads them, spread out as [..., d_sae]. `W_enc` and `W_dec` are made when asked for.
Pre-activations of all latents are never made, so `hook_sae_acts_pre` does not fire (as in SAELens's matching pursuit).
"""

import copy
from pathlib import Path
from typing import Any

from expander_sae.pursuit import Reading
from expander_sae.saes import AbstractSae

from .dense import dense_weights
from .saelens_classes import ExpanderSAE, ExpanderTrainingSAE
from .saelens_config import ExpanderSAEConfig, ExpanderTrainingSAEConfig
from .saelens_files import check_dtype, dense_parts, metadata_for, metadata_from, read_saelens, sae_from_parts
from .saelens_ours import describe, folded
from .tensors import Arrays
from .threshold import ThresholdSae

from sae_lens import SAE  # pyright: ignore[reportMissingImports] # isort: skip
from sae_lens.saes.sae import SAEMetadata  # pyright: ignore[reportMissingImports] # isort: skip

__all__ = [
    "ExpanderSAE",
    "ExpanderSAEConfig",
    "ExpanderTrainingSAE",
    "ExpanderTrainingSAEConfig",
    "from_saelens",
    "to_saelens",
]


def to_saelens(
    sae: AbstractSae | ThresholdSae,
    *,
    dtype: str = "float32",
    device: str = "cpu",
    dense: bool = False,
    reading: Reading | None = None,
) -> Any:
    """The SAE as a SAELens object, a copy.

    Args:
        sae: any SAE of this package.
        dtype: float32, float16 or bfloat16: what its numbers are rounded to, and the type of what it takes and gives.
        device: where it lives.
        dense: `W_enc` and `W_dec` in full under SAELens's own architecture (`dense_bytes` says how large that is), for
            tools that write to them or do not import this package.
        reading: with `dense`, as in `dense_weights`.

    Raises:
        ExpanderSaeError: no such dtype, or SAELens's dense architecture gives other codes.
    """
    stored = check_dtype(dtype)
    if dense or isinstance(sae, ThresholdSae):
        config, tensors = dense_parts(dense_weights(sae, reading=reading), stored)
        result = SAE.from_dict(config | {"dtype": dtype, "device": "cpu", "metadata": metadata_for(sae)})
        result.load_state_dict(tensors)
        return result.to(device=device)
    sae = folded(sae)
    config = ExpanderSAEConfig(**describe(sae), metadata=SAEMetadata(**metadata_for(sae)))
    build: Any = ExpanderSAE
    result = build(config)
    result.core = copy.deepcopy(sae)
    result.rows_known = True
    return result.to(dtype=stored, device=device)


def from_saelens(source: Any) -> AbstractSae | ThresholdSae:
    """The SAE of this package that a SAELens object or folder holds, a copy.

    Codes are in the units of the activations: what SAELens's folds left in them is taken out.

    Raises:
        ExpanderSaeError: as in `read_saelens`.
    """
    if isinstance(source, str | Path):
        return read_saelens(source)
    if isinstance(source, ExpanderSAE | ExpanderTrainingSAE):
        sae = copy.deepcopy(source.core)
        sae.metadata = metadata_from(source.cfg.to_dict())
        return sae.eval()
    state: dict[str, Any] = source.state_dict()
    source.process_state_dict_for_saving(state)
    return sae_from_parts(source.cfg.to_dict(), Arrays(state, Path("the SAELens object")), "the SAELens object")
