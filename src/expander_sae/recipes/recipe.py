"""What a recipe says, and how one is read and harvested."""

from __future__ import annotations

import dataclasses
import tomllib
from dataclasses import dataclass
from importlib import resources
from pathlib import Path, PurePath
from typing import Any

from expander_sae.activations import ActivationStore, LanguageModel, harvest
from expander_sae.records import ExpanderSaeError


@dataclass(frozen=True)
class Recipe:
    """Where activations come from and which SAEs are trained on them."""

    name: str
    layers: tuple[int, ...]
    """The main one first, counted from 0."""
    d_in: int
    """Width of this model; another model (a tiny one of the same family, say) may have another."""
    expansion: int
    k: int
    degrees: tuple[int, ...]
    context: int
    document_tokens: int
    """The first so many tokens of each document."""
    train_tokens: int
    heldout_tokens: int
    compute_dtype: str
    stored_dtype: str = "auto"
    """Of the activations on disk."""
    min_document_tokens: int = 16
    """Documents with fewer tokens are left out."""
    model: str | None = None
    """Id on the hub; None where `offline`."""
    text: str | None = None
    offline: bool = False
    """Model and text are those that `expander-sae offline` makes."""
    paper: str | None = None
    """Its name in the paper's results."""

    def harvest(
        self,
        folder: Path,
        layer: int,
        *,
        model: LanguageModel | str | None = None,
        text: str | None = None,
        device: str = "cpu",
        progress: bool = True,
    ) -> ActivationStore:
        """Harvest one layer into `folder`, or open what an earlier call harvested there.

        Args:
            folder: for the shards; an interrupted harvest goes on there.
            layer: after which block, counted from 0.
            model: instead of the recipe's, a loaded model, a folder or an id.
            text: instead of the recipe's.
            device: where the model runs.
            progress: draw a bar.

        Raises:
            ExpanderSaeError: the recipe names no model and none was given, or as in `harvest`.
        """
        model, text = model or self.model, text or self.text
        if model is None or text is None:
            raise ExpanderSaeError(
                f"the recipe {self.name} uses what `expander-sae offline` makes: run it first, and give its model and "
                "text.jsonl with --model and --text"
            )
        return harvest(
            model,
            text,
            folder,
            layer=layer,
            context=self.context,
            max_tokens=self.train_tokens,
            max_heldout_tokens=self.heldout_tokens,
            max_document_tokens=self.document_tokens,
            compute_dtype=self.compute_dtype,
            dtype=self.stored_dtype,
            min_piece=self.min_document_tokens,
            device=device,
            progress=progress,
        )


def recipe_names() -> list[str]:
    """Every recipe, by name."""
    return sorted(file.name.removesuffix(".toml") for file in _folder().iterdir() if file.name.endswith(".toml"))


def load_recipe(name: str) -> Recipe:
    """The recipe of a name, or of a TOML file of one's own.

    Raises:
        ExpanderSaeError: there is none, or the file lacks or misspells a field.
    """
    own = Path(name)
    if own.suffix == ".toml" and own.is_file():
        text, name = own.read_text(encoding="utf-8"), own.stem
    elif name in recipe_names():
        text = (_folder() / f"{name}.toml").read_text(encoding="utf-8")
    else:
        raise ExpanderSaeError(f"expected a recipe out of {', '.join(recipe_names())}, or a .toml file; got {name!r}")
    try:
        fields: dict[str, Any] = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ExpanderSaeError(f"the recipe {name} is not TOML: {error}") from error
    known = {field.name: field for field in dataclasses.fields(Recipe)}
    required = {n for n, field in known.items() if field.default is dataclasses.MISSING} - {"name"}
    missing, unknown = sorted(required - fields.keys()), sorted(fields.keys() - known.keys())
    if missing or unknown:
        raise ExpanderSaeError(f"the recipe {name} lacks {missing or 'nothing'} and has unknown {unknown or 'nothing'}")
    plain: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in fields.items()}
    return Recipe(name=name, **plain)


def recipe_of(model: str) -> Recipe | None:
    """The recipe of a model, by its id on the hub or a folder of that name; None for models without one.

    Example:
        >>> recipe_of("EleutherAI/pythia-70m-deduped").name
        'pythia-70m'
    """
    for name in recipe_names():
        recipe = load_recipe(name)
        if recipe.model is not None and PurePath(recipe.model).name == PurePath(model).name:
            return recipe
    return None


def _folder() -> Any:
    return resources.files("expander_sae.recipes")
