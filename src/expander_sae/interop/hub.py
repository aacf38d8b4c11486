"""An SAE on the Hugging Face hub: pushed with a model card made from its records, read back by name."""

import os
import re
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from huggingface_hub import HfApi, hf_hub_download
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

from expander_sae.records import EvaluationRecord, ExpanderSaeError
from expander_sae.saes import AbstractSae, load_sae

from .model_card import model_card

# The hub's errors derive from those of the HTTP library, which is another one from release to release.
_ERRORS: tuple[type[Exception], ...] = (HfHubHTTPError, HfHubHTTPError.__mro__[1], HFValidationError, OSError)

CARD = "README.md"
FILES = ("config.json", "sae.safetensors")


def save_pretrained(
    sae: AbstractSae,
    folder: str | os.PathLike[str],
    *,
    name: str,
    evaluations: Mapping[str, EvaluationRecord] | None = None,
    licence: str = "apache-2.0",
    values: str = "float32",
) -> Path:
    """Write the SAE's two files and a model card into `folder`: what `push_to_hub` uploads.

    Args:
        sae: what to write.
        folder: made if need be.
        name: the SAE's, as the card's title.
        evaluations: records of `evaluate`, by reading or data; the card shows their numbers.
        licence: of the SAE, as the hub spells it.
        values: type of the dictionary's values on disk.

    Raises:
        ExpanderSaeError: as in `save_sae`.
    """
    folder = sae.save(Path(folder), values=values)
    card = model_card(sae, name=name, evaluations=evaluations or {}, licence=licence)
    (folder / CARD).write_text(card, encoding="utf-8")
    return folder


def push_to_hub(
    sae: AbstractSae,
    repo_id: str,
    *,
    evaluations: Mapping[str, EvaluationRecord] | None = None,
    licence: str = "apache-2.0",
    values: str = "float32",
    private: bool | None = None,
    revision: str | None = None,
    commit_message: str = "Upload an SAE",
    token: str | None = None,
    endpoint: str | None = None,
) -> str:
    """Upload the SAE and its model card to `repo_id`, made if need be, and return the commit's address.

    Args:
        sae: what to upload.
        repo_id: owner/name.
        evaluations, licence, values: as in `save_pretrained`.
        private: of a repository that is made now.
        revision: branch; None: the main one.
        commit_message: for the hub's history.
        token: None: the one that `hf auth login` stored.
        endpoint: another hub than huggingface.co.

    Raises:
        ExpanderSaeError: the hub refused or was not reached; says why.
    """
    api = HfApi(endpoint=endpoint, token=token)
    with tempfile.TemporaryDirectory() as folder:
        before = sae.folder
        save_pretrained(
            sae, folder, name=repo_id.rpartition("/")[2], evaluations=evaluations, licence=licence, values=values
        )
        sae.folder = before  # not the temporary one
        try:
            api.create_repo(repo_id, private=private, exist_ok=True)
            commit = api.upload_folder(
                repo_id=repo_id, folder_path=folder, revision=revision, commit_message=commit_message
            )
        except _ERRORS as error:
            raise _refused(f"cannot push to {repo_id}", error) from error
    return commit.commit_url


def from_pretrained(
    repo_id_or_folder: str | os.PathLike[str],
    *,
    revision: str | None = None,
    subfolder: str | None = None,
    cache_dir: str | os.PathLike[str] | None = None,
    token: str | None = None,
    local_files_only: bool = False,
    endpoint: str | None = None,
) -> AbstractSae:
    """The SAE in a repository of the hub, or in a local folder; mapped into memory, not copied.

    Both files come from one commit, whatever is pushed meanwhile.

    Args:
        repo_id_or_folder: owner/name, or a folder that `save` wrote; a folder that exists wins.
        revision: commit, tag or branch.
        subfolder: of the repository or folder.
        cache_dir: None: the hub's usual cache.
        token: for private repositories.
        local_files_only: only what the cache has.
        endpoint: another hub than huggingface.co.

    Raises:
        ExpanderSaeError: there is no such SAE, it cannot be fetched, or it is damaged.

    Example:
        >>> sae = from_pretrained("someone/smollm2-135m-layer14-expander-d7")  # doctest: +SKIP
    """
    name = os.fspath(repo_id_or_folder)
    if Path(name).is_dir():
        return load_sae(Path(name) / (subfolder or ""))
    if not re.fullmatch(r"[\w.-]+/[\w.-]+", name):
        raise ExpanderSaeError(f"expected the folder of an SAE or owner/name on the hub; got {name!r}")
    options: dict[str, Any] = {
        "subfolder": subfolder,
        "cache_dir": cache_dir,
        "token": token,
        "local_files_only": local_files_only,
        "endpoint": endpoint,
    }
    try:
        config = Path(hf_hub_download(name, FILES[0], revision=revision, **options))
        commit = config.parts[config.parts.index("snapshots") + 1]
        hf_hub_download(name, FILES[1], revision=commit, **options)
    except LocalEntryNotFoundError as error:
        raise ExpanderSaeError(
            f"cannot reach the hub for {name}, and the cache has no such SAE: {_first_line(error)} "
            "Check the network, or give a local folder."
        ) from error
    except _ERRORS as error:
        raise _refused(f"cannot fetch {name}", error) from error
    return load_sae(config.parent)


def _refused(what: str, error: Exception) -> ExpanderSaeError:
    return ExpanderSaeError(
        f"{what}: {_first_line(error)} Check the name, the token (`hf auth login`) and the network."
    )


def _first_line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return (lines or [type(error).__name__])[0]
