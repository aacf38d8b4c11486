"""An SAE on the Hugging Face hub: pushed with a model card made from its records, read back by name."""

import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Self

from huggingface_hub import ModelCard, ModelHubMixin, hf_hub_download
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

from expander_sae.records import EvaluationRecord, ExpanderSaeError, ProbeRecord, disk_errors, write_atomically
from expander_sae.saes import AbstractSae, load_sae

from .model_card import model_card

# The hub's errors derive from those of the HTTP library, which is another one from release to release.
_ERRORS: tuple[type[Exception], ...] = (HfHubHTTPError, HfHubHTTPError.__mro__[1], HFValidationError, OSError)

CARD = "README.md"
FILES = ("config.json", "sae.safetensors")


class HubSae(ModelHubMixin, library_name="expander-sae"):
    """An SAE with huggingface_hub's own `save_pretrained`, `push_to_hub` and `from_pretrained`; it is `.sae`.

    The functions of this module are these methods with our errors. `card` is what the model card takes besides the SAE:
    name, evaluations, probes, licence.

    Example:
        >>> HubSae.from_pretrained("someone/smollm2-135m-layer14-expander-d7").sae  # doctest: +SKIP
    """

    def __init__(self, sae: AbstractSae, *, values: str = "float32", card: Mapping[str, Any] | None = None) -> None:
        self.sae, self.values = sae, values
        self.card = {"name": "sae", "evaluations": {}, "licence": "apache-2.0"} | dict(card or {})

    def save_pretrained(
        self,
        save_directory: str | Path,
        *,
        config: Any = None,
        repo_id: str | None = None,
        push_to_hub: bool = False,
        model_card_kwargs: dict[str, Any] | None = None,
        **push_to_hub_kwargs: Any,
    ) -> str | None:
        """As the mixin's, but over an SAE: the mixin removes its config first, and leaves its card.

        Raises:
            ExpanderSaeError: as in `save_sae`.
        """
        folder = Path(save_directory)
        self._save_pretrained(folder)
        card = self.generate_model_card(**(model_card_kwargs or {}))
        with write_atomically(folder / CARD) as temporary:
            temporary.write_text(str(card), encoding="utf-8")
        if push_to_hub:
            return self.push_to_hub(repo_id or folder.name, config=config, **push_to_hub_kwargs)
        return None

    def _save_pretrained(self, save_directory: Path) -> None:
        before = self.sae.folder
        self.sae.save(save_directory, values=self.values)
        self.sae.folder = before  # the mixin pushes from a temporary one

    def generate_model_card(self, *args: Any, **kwargs: Any) -> ModelCard:
        """The card of `model_card`."""
        return ModelCard(model_card(self.sae, **self.card))

    @classmethod
    def _from_pretrained(
        cls,
        *,
        model_id: str,
        revision: str | None,
        cache_dir: str | Path | None,
        token: str | bool | None,
        local_files_only: bool,
        force_download: bool = False,
        subfolder: str | None = None,
        values: str = "float32",
        **_: Any,
    ) -> Self:
        if Path(model_id).is_dir():
            return cls(load_sae(Path(model_id) / (subfolder or "")), values=values)
        options: dict[str, Any] = {
            "subfolder": subfolder,
            "cache_dir": cache_dir,
            "token": token,
            "local_files_only": local_files_only,
            "force_download": force_download,
        }
        config = Path(hf_hub_download(model_id, FILES[0], revision=revision, **options))
        commit = config.parts[config.parts.index("snapshots") + 1]  # both files from one, whatever is pushed meanwhile
        hf_hub_download(model_id, FILES[1], revision=commit, **options)
        return cls(load_sae(config.parent), values=values)


def save_pretrained(
    sae: AbstractSae,
    folder: str | os.PathLike[str],
    *,
    name: str,
    evaluations: Mapping[str, EvaluationRecord] | None = None,
    probes: Sequence[ProbeRecord] = (),
    licence: str = "apache-2.0",
    values: str = "float32",
) -> Path:
    """Write the SAE's two files and a model card into `folder`: what `push_to_hub` uploads.

    Args:
        sae: what to write.
        folder: made if need be; a card that is there already is written anew.
        name: the SAE's, as the card's title.
        evaluations: records of `evaluate`, by reading or data; the card shows their numbers.
        probes: records of `expander_sae.evaluation.meaning.probe`, nulls too; the card shows what latents tell, and
            says where that is no more than raw coordinates do.
        licence: of the SAE, as the hub spells it.
        values: type of the dictionary's values on disk.

    Raises:
        ExpanderSaeError: as in `save_sae`.
    """
    folder = Path(folder)
    card = {"name": name, "evaluations": evaluations or {}, "probes": probes, "licence": licence}
    with disk_errors(folder):
        HubSae(sae, values=values, card=card).save_pretrained(folder)
    sae.folder = folder
    return folder


def push_to_hub(
    sae: AbstractSae,
    repo_id: str,
    *,
    evaluations: Mapping[str, EvaluationRecord] | None = None,
    probes: Sequence[ProbeRecord] = (),
    licence: str = "apache-2.0",
    values: str = "float32",
    private: bool | None = None,
    revision: str | None = None,
    commit_message: str = "Upload an SAE",
    token: str | None = None,
) -> str:
    """Upload the SAE and its model card to `repo_id`, made if need be, and return the commit's address.

    The hub is huggingface.co, or the one that the environment variable HF_ENDPOINT names.

    Args:
        sae: what to upload.
        repo_id: owner/name.
        evaluations, probes, licence, values: as in `save_pretrained`.
        private: of a repository that is made now.
        revision: branch; None: the main one.
        commit_message: for the hub's history.
        token: None: the one that `hf auth login` stored.

    Raises:
        ExpanderSaeError: the hub refused or was not reached; says why.

    Example:
        >>> push_to_hub(sae, "someone/my-sae", evaluations=evaluate({"heldout": sae}, store))  # doctest: +SKIP
    """
    name = repo_id.rpartition("/")[2]
    card = {"name": name, "evaluations": evaluations or {}, "probes": probes, "licence": licence}
    try:
        commit: Any = HubSae(sae, values=values, card=card).push_to_hub(
            repo_id, commit_message=commit_message, private=private, token=token, branch=revision
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
) -> AbstractSae:
    """The SAE in a repository of the hub, or in a local folder; mapped into memory, not copied.

    Both files come from one commit, whatever is pushed meanwhile. The hub is huggingface.co, or the one that the
    environment variable HF_ENDPOINT names.

    Args:
        repo_id_or_folder: owner/name, or a folder that `save` wrote; a folder that exists wins.
        revision: commit, tag or branch.
        subfolder: of the repository or folder.
        cache_dir: None: the hub's usual cache.
        token: for private repositories.
        local_files_only: only what the cache has.

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
    cache = None if cache_dir is None else Path(cache_dir)
    try:
        found: Any = HubSae.from_pretrained(
            name,
            revision=revision,
            cache_dir=cache,
            token=token,
            local_files_only=local_files_only,
            subfolder=subfolder,
        )
    except LocalEntryNotFoundError as error:
        raise ExpanderSaeError(
            f"cannot reach the hub for {name}, and the cache has no such SAE: {_first_line(error)} "
            "Check the network, or give a local folder."
        ) from error
    except _ERRORS as error:
        raise _refused(f"cannot fetch {name}", error) from error
    return found.sae


def _refused(what: str, error: Exception) -> ExpanderSaeError:
    return ExpanderSaeError(
        f"{what}: {_first_line(error)} Check the name, the token (`hf auth login`) and the network."
    )


def _first_line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return (lines or [type(error).__name__])[0]
