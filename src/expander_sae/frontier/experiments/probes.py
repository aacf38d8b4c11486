"""Probes of every SAE of a grid for concepts, beside what was never trained: rows for pages."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cached_property, partial
from typing import Any

from torch import Tensor

from expander_sae.evaluation.meaning import (
    Features,
    Probed,
    coordinates,
    latent_features,
    prepare,
    principal_components,
)
from expander_sae.evaluation.meaning.probe import KS, TooLittleText, score
from expander_sae.evaluation.nulls import SAMPLE, untrained
from expander_sae.records import ExpanderSaeError
from expander_sae.saes import AbstractSae

from .context import Context, Grid, Read

__all__ = ["Probes", "TooLittleText"]

_SAID = ("name", "kind", "reading", "learned_values", "support_kept", "energy_kept", "mismatches")
"""What a row says itself, or `score` does not measure."""


class Probes:
    """Probes on the first held-out tokens of a context. A rerun that finds every piece reads no text and no model.

    Raises:
        ExpanderSaeError: there is no language model, whose tokenizer says which words tokens are.
    """

    def __init__(self, context: Context, tokens: int, ks: Sequence[int] = KS) -> None:
        if not context.has_language_model:
            raise ExpanderSaeError(
                "expected the language model whose tokens are probed for concepts; got none. Give it with --model, "
                "without --no-ce"
            )
        self.context, self.tokens, self.ks = context, tokens, ks
        self.depends = {"tokens": tokens} | ({} if ks == KS else {"ks": list(ks)})

    @cached_property
    def probed(self) -> Probed:
        """The tokens with their concepts.

        Raises:
            TooLittleText: there is not enough of it.
        """
        model = self.context.language_model()
        assert model is not None
        kept = self.context.settings.evaluation().keep_special_tokens
        return prepare(self.context.store, model.tokenizer, max_tokens=self.tokens, keep_special_tokens=kept)

    @cached_property
    def sample(self) -> Tensor:
        """Training activations, for what is not trained."""
        return self.context.store.sample("train", SAMPLE, seed=0)

    def beside_its_twin(self, grid: Grid, one: Read) -> list[dict[str, Any]]:
        """The rows of an SAE read in one way and of its untrained twin."""
        record, depends = one.record, {**grid.depends_on(one.record), **self.depends}
        makers = {
            "trained": lambda: one.sae,
            "untrained": lambda: untrained(one.sae, self.sample, seed=record.seed + 1),
        }
        rows = []
        for kind, make in makers.items():
            name = f"{one.name}-{kind}"
            self.context.say(f"probing {name}")
            found: dict[str, Any] = {"read_by": str(one.sae.reading), "kind": kind, "values": one.sae.learned_values()}
            if kind == "trained" and one.evaluation is not None:
                found["fvu"] = one.evaluation.fvu
            rows.append(self.context.row(record, name, depends, partial(self._of_latents, make, kind), **found))
        return rows

    def rows(self, grid: Grid, readings: Sequence[str] = ()) -> list[dict[str, Any]]:
        """Those of every SAE of a grid, read in every way."""
        return [row for one in grid.read(readings) for row in self.beside_its_twin(grid, one)]

    def of_sae(self, sae: AbstractSae) -> dict[str, Any]:
        """What the latents of an SAE tell."""
        return self._of_latents(lambda: sae, sae.kind)

    def raw_coordinates(self) -> dict[str, Any]:
        """The row of the activations' own coordinates."""
        return self._of_no_sae("raw coordinates", lambda: coordinates(self.probed.x))

    def principal_components(self) -> dict[str, Any]:
        """The row of their principal components."""
        return self._of_no_sae("principal components", lambda: principal_components(self.probed.x, self.sample))

    def _of_no_sae(self, name: str, make: Callable[[], Features]) -> dict[str, Any]:
        self.context.say(f"probing {name}")
        made = self.context.piece(name.replace(" ", "-"), self.depends, lambda: self._score(make(), "coordinates"))
        return {"variant": name, "family": "", "seed": 0, "read_by": "", "kind": "coordinates", "values": 0, **made}

    def _of_latents(self, make: Callable[[], AbstractSae], kind: str) -> dict[str, Any]:
        return self._score(latent_features(kind, make(), self.probed.x), kind)

    def _score(self, features: Features, kind: str) -> dict[str, Any]:
        record = score(features, self.probed, "standardised", 0, kind=kind, reading="", learned_values=0, ks=self.ks)
        return {name: value for name, value in record.to_dict().items() if name not in _SAID}
