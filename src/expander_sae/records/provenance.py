"""Which activations an SAE was trained on, and whether those it meets now are the same kind.

An SAE read on another layer, module or model computes numbers that look like any others. So wherever an SAE meets
activations, what is on record of both is compared here: a difference is a warning and a field of the record; what is
not on record on one side is no difference.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

from .errors import ExpanderSaeError, ExpanderSaeWarning

RAW = "none"
"""The normalisation of activations as the model computes them."""

_CONTENT, _COMMIT = re.compile(r"sha256:\S+"), re.compile(r"[0-9a-f]{40}")
_BLOCK = re.compile(r"^(?:(?P<before>.*?)\.)?(?P<list>layers?|blocks?|h)\.(?P<number>\d+)(?:\.(?P<after>.+))?$")
_RESIDUAL = {"", "hook_resid_post", "hook_out"}
_BEFORE = {"hook_resid_pre", "hook_in"}
_PARTS = {
    "attention": {"attn", "self_attn", "attention", "self_attention", "hook_attn_out", "attn.hook_out"},
    "mlp": {"mlp", "hook_mlp_out", "mlp.hook_out", "feed_forward", "ffn"},
}
_TOWERS = ("vision", "visual", "audio", "speech", "encoder", "decoder")
_WRAPPERS = re.compile(r"(?:^|(?<=\.))_orig_mod\.|^module\.|\._orig_mod$")
_SITE = re.compile(r"^(resid_post|resid_pre|mlp_out|attn_out|mlp|attention|attn)_(?:layer_)?(\d+)$")


class ProvenanceWarning(ExpanderSaeWarning):
    """An SAE meets activations of another model, place or scale than those it was trained on."""


@dataclass(frozen=True)
class Place:
    """Where in a model activations are taken: a part of a block, or whatever else has a name."""

    part: str
    """"residual", "attention", "mlp", or the name of another module, within its block."""
    block: int | None
    """The block whose output (or part) it is, counted from 0; -1 is what the first block reads."""
    tower: str | None = None
    """Which stack of blocks, in models of several, where the name tells."""

    @classmethod
    def of(cls, layer: int | None, module: str | None) -> Self | None:
        """The place of a block counted from 0, or of a module or hook by its name; None if neither is known.

        Names of transformers ("model.layers.3.mlp"), TransformerLens and SAELens ("blocks.3.hook_mlp_out"),
        dictionary_learning ("mlp_out_layer_3") and sparsify ("layers.3.mlp") mean the same place.

        Example:
            >>> Place.of(None, "blocks.3.hook_resid_pre") == Place.of(2, None)
            True
        """
        if module is None:
            return None if layer is None else cls("residual", layer)
        name = _WRAPPERS.sub("", module)
        site = _SITE.match(name)
        if site is not None:
            name = f"blocks.{site[2]}.hook_{site[1]}" if "_" in site[1] else f"blocks.{site[2]}.{site[1]}"
        found = _BLOCK.match(name)
        if found is None:
            return cls(name, None)
        number, after, before = int(found["number"]), found["after"] or "", found["before"] or ""
        tower = next((tower for tower in _TOWERS if tower in before), None)
        if after in _RESIDUAL:
            return cls("residual", number, tower)
        if after in _BEFORE:
            return cls("residual", number - 1, tower)
        part = next((part for part, names in _PARTS.items() if after in names), after)
        return cls(part, number, tower)

    def same(self, other: Place) -> bool:
        """Whether both may be one place; a stack that only one of them names says nothing."""
        towers = {self.tower, other.tower} - {None}
        if self.block is None and other.block is None:  # one name may be longer by what wraps the model
            names = sorted((self.part, other.part), key=len)
            return names[0] == names[1] or names[1].endswith(f".{names[0]}")
        return (self.part, self.block) == (other.part, other.block) and len(towers) < 2

    def __str__(self) -> str:
        """In words."""
        if self.block is None:
            return self.part
        if self.part == "residual":
            return "before block 0" if self.block < 0 else f"after block {self.block}"
        return f"{self.part} of block {self.block}"


@dataclass(frozen=True)
class Provenance:
    """What is on record of activations, or of those that an SAE was trained on; None is not known."""

    model: str | None = None
    """A hub id, the name of a local folder, or what another library calls the model."""
    revision: str | None = None
    """A hub commit, or `sha256:...` over a local folder's files."""
    layer: int | None = None
    """The block, counted from 0, after which the residual stream was taken."""
    module: str | None = None
    """The module or hook whose output was taken, by name; counts before `layer`."""
    d_in: int | None = None
    normalisation: str | None = None
    """What was done to the activations before the SAE reads them: "none", "layer_norm", ..."""

    @classmethod
    def of_settings(cls, settings: Mapping[str, Any]) -> Self:
        """Of a harvest's settings, or of the `activations` in an SAE's metadata. Garbled fields are unknown ones."""
        revision = _text(settings.get("model_revision"))
        return cls(
            model=_text(settings.get("model_id")),
            revision=None if revision == "unknown" else revision,
            layer=_number(settings.get("layer")),
            module=_text(settings.get("module")) or _text(settings.get("hook_name")),
            d_in=_number(settings.get("d_in")),
            # Nothing but a harvest says so, and a harvest stores what the model computes.
            normalisation=_text(settings.get("normalisation")) or (RAW if "d_in" in settings else None),
        )

    @classmethod
    def of_sae(cls, sae: Any) -> Self:
        """Of the activations an SAE was trained on, from its metadata: ours, or what an import put on record."""
        metadata = getattr(sae, "metadata", None) or {}
        ours, theirs = metadata.get("activations"), metadata.get("imported")
        found = cls.of_settings(ours if isinstance(ours, Mapping) else {})
        imported = theirs if isinstance(theirs, Mapping) else {}
        known = found.layer is not None or found.module is not None
        given = _text(imported.get("hook_name")) or _text(imported.get("submodule")) or _text(imported.get("hookpoint"))
        place = Place.of(None, given)
        # A folder's own name is no hook unless it reads like one.
        hook = given if place is not None and (place.block is not None or "hook" in place.part) else None
        read_by = {"raw": RAW, None: None}.get(imported.get("input"), _text(imported.get("input")))
        return cls(
            model=found.model or _text(imported.get("model")),
            revision=found.revision,
            layer=found.layer if known else _number(imported.get("layer")),
            module=found.module if known else hook,
            d_in=_number(getattr(sae, "d_in", None)),
            normalisation=read_by or found.normalisation,
        )

    @property
    def place(self) -> Place | None:
        """Where in the model."""
        return Place.of(self.layer, self.module)

    def differences(self, other: Provenance) -> list[str]:
        """What is known on both sides and differs, a phrase each: "layer or module: after block 0, now after block 2".

        Names of a model that differ in form only (with and without owner, a folder's own name) are the same; of two
        content hashes or two commits, what they say decides.

        Example:
            >>> Provenance(model="gpt2", layer=3).differences(Provenance(model="openai-community/gpt2", layer=4))
            ['layer or module: after block 3, now after block 4']
        """
        found = []
        model = _models(self, other)
        if model is not None:
            found.append(f"model: {model[0]}, now {model[1]}")
        mine, theirs = self.place, other.place
        if mine is not None and theirs is not None and not mine.same(theirs):
            found.append(f"layer or module: {_words(self)}, now {_words(other)}")
        for name in ("d_in", "normalisation"):
            before, now = getattr(self, name), getattr(other, name)
            if None not in (before, now) and before != now:
                found.append(f"{name}: {before}, now {now}")
        return found


def check_provenance(name: str, sae: Any, activations: Provenance, *, stacklevel: int = 2) -> list[str] | None:
    """Compare an SAE with activations that it is about to read; warn of what differs and return it for the record.

    Args:
        name: of the SAE, for the message.
        sae: anything with `metadata` and `d_in`.
        activations: what it meets.
        stacklevel: of the warning, as in `warnings.warn`, counted from the caller.

    Returns:
        The differences; None where there are none.

    Raises:
        ExpanderSaeError: the widths differ.
    """
    trained = Provenance.of_sae(sae)
    if None not in (trained.d_in, activations.d_in) and trained.d_in != activations.d_in:
        raise ExpanderSaeError(
            f"expected activations of d_in {trained.d_in}, that of the SAE {name}; got {activations.d_in}. "
            "Was it trained on another model or module?"
        )
    found = trained.differences(activations)
    warn_of_differences(f"the SAE {name} was trained on other activations", found, stacklevel=stacklevel + 1)
    return found or None


def warn_of_differences(what: str, differences: list[str], *, stacklevel: int = 2) -> None:
    """Warn of differences, if there are any; in one line."""
    if differences:
        warnings.warn(f"{what} ({'; '.join(differences)})", ProvenanceWarning, stacklevel=stacklevel + 1)


def _models(mine: Provenance, other: Provenance) -> tuple[str, str] | None:
    """Both models in words if they differ."""
    for kind in (_CONTENT, _COMMIT):
        if all(side.revision is not None and kind.fullmatch(side.revision) for side in (mine, other)):
            same = mine.revision == other.revision
            if kind is _CONTENT or same:  # contents decide alone; a commit belongs to its name
                return None if same else (_named(mine), _named(other))
            return _named(mine), _named(other)
    if mine.model is None or other.model is None or _same_name(mine.model, other.model):
        return None
    return _named(mine), _named(other)


def _same_name(one: str, another: str) -> bool:
    (owner, name), (other_owner, other_name) = _split(one), _split(another)
    return name == other_name and (owner == other_owner or None in (owner, other_owner))


def _split(name: str) -> tuple[str | None, str]:
    """Owner, if any, and bare name of a model, in one spelling."""
    parts = [part for part in re.split(r"[/\\]", name.strip().lower()) if part not in ("", ".", "..")]
    # What has more than two parts is a path, whose folders own nothing.
    owner = parts[0] if len(parts) == 2 and name[:1] not in "/.~\\" else None
    bare = (parts or [""])[-1].replace("_", "-").removeprefix("meta-")
    return owner, {"gpt2-small": "gpt2"}.get(bare, bare)


def _named(side: Provenance) -> str:
    revision = "" if side.revision is None else f" ({side.revision[:19]})"
    return f"{side.model or 'a model'}{revision}"


def _words(side: Provenance) -> str:
    return str(side.place) if side.module is None else side.module


def _text(value: Any) -> str | None:
    return value if isinstance(value, str) and value else None


def _number(value: Any) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) else None
