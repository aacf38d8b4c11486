"""SAEs, their latents' names and the model, opened for a server."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path

import torch

from expander_sae.activations import LanguageModel, load_language_model
from expander_sae.latents import LatentStore
from expander_sae.latents.identity import sae_sha256
from expander_sae.latents.names import Names
from expander_sae.pursuit import Reading
from expander_sae.records import ExpanderSaeError, ExpanderSaeWarning, Provenance, check_provenance
from expander_sae.saes import load_sae

from .readers import ServedSae


def named_folders(given: Sequence[str]) -> dict[str, Path]:
    """Folders by the name each is asked for: FOLDER by its own name, or NAME=FOLDER.

    Raises:
        ExpanderSaeError: two have one name.

    Example:
        >>> named_folders(["runs/layer-14", "other=runs/layer-20"])
        {'layer-14': PosixPath('runs/layer-14'), 'other': PosixPath('runs/layer-20')}
    """
    found: dict[str, Path] = {}
    for text in given:
        name, equals, folder = text.partition("=")
        if not equals or Path(text).is_dir():
            name, folder = Path(text).resolve().name, text
        if not name or name in found:
            raise ExpanderSaeError(f"expected a name of its own for each SAE; got {name!r} again. Write NAME=FOLDER")
        found[name] = Path(folder)
    return found


def open_saes(
    folders: dict[str, Path],
    *,
    device: str,
    reading: Reading | None = None,
    labels: Path | None = None,
    language_model: LanguageModel | None = None,
) -> list[ServedSae]:
    """SAEs ready to encode, each with its place in the model and the names of its latents.

    Raises:
        ExpanderSaeError: a folder holds none, the reading does not fit it, or the store of labels is of none of them.
    """
    store = None if labels is None else LatentStore.open(labels)
    served = []
    for name, folder in folders.items():
        sae = load_sae(folder).to(device).eval().read_by(reading)
        known = Provenance.of_sae(sae)
        place = known.module if known.module is not None else known.layer
        if language_model is not None and place is None:
            warnings.warn(
                f"{name} does not say which layer it was trained on: it reads activations, no texts",
                ExpanderSaeWarning,
                stacklevel=2,
            )
        elif language_model is not None:
            met = Provenance(
                model=language_model.model_id,
                revision=language_model.revision,
                layer=known.layer if known.module is None else None,
                module=known.module,
                normalisation="none",
            )
            check_provenance("here", sae, met)
        sha256 = sae_sha256(sae)
        mine = store is not None and any(view.sha256 == sha256 for view in store.views)
        names = Names(store, sha256, str(sae.reading)) if store is not None and mine else None
        with torch.no_grad():
            sae.encode(torch.zeros(1, sae.d_in, dtype=torch.float32, device=device))  # what cannot encode, ends here
        served.append(ServedSae(name, sae, place, names))
    if store is not None and not any(one.names for one in served):
        raise ExpanderSaeError(
            f"expected a feature store of one of {', '.join(folders)}; got one of other SAEs in {store.path}"
        )
    return served


def open_model(model: str | None, *, device: str, dtype: str) -> LanguageModel | None:
    """The language model for texts, if there is to be one."""
    return None if model is None else load_language_model(model, dtype=dtype, device=device)


def check_texts(saes: Sequence[ServedSae], language_model: LanguageModel | None) -> None:
    """Raise unless the model computes, at the place of every SAE, activations of its width.

    Raises:
        ExpanderSaeError: it does not, or has no such place.
    """
    from expander_sae.activations.modules import activations_at_all

    if language_model is None:
        return
    places = {one.place for one in saes if one.place is not None}
    ids = torch.zeros(1, 2, dtype=torch.int64)
    found = activations_at_all(language_model.model, places, ids, torch.ones_like(ids)) if places else {}
    for one in saes:
        if one.place is not None and found[one.place].shape[-1] != one.sae.d_in:
            raise ExpanderSaeError(
                f"expected activations {one.sae.d_in} wide at {one.place}, as {one.name} is; got "
                f"{found[one.place].shape[-1]}. Is {language_model.model_id} its model?"
            )
