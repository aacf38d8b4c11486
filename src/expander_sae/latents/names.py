"""What latents are called, for who shows codes: by people, by explanations, or by the tokens they fire on."""

from __future__ import annotations

from collections.abc import Iterable

from expander_sae.records import ExpanderSaeError

from .hostile import harmless
from .labels import LabelFile
from .latent import View
from .store import LatentStore


class Names:
    """What latents of one SAE are called: by a person, else by an explanation, else by the tokens they fire on.

    Args:
        store: a feature store.
        sha256: of the SAE.
        reading: whose numbers are shown, if the store has it.

    Raises:
        ExpanderSaeError: the store is of other SAEs.
    """

    def __init__(self, store: LatentStore, sha256: str, reading: str) -> None:
        views = [view for view in store.views if view.sha256 == sha256]
        if not views:
            names = ", ".join(view.name for view in store.views)
            raise ExpanderSaeError(
                f"expected a feature store of this SAE; got one of {names} in {store.path}. `expander-sae features` "
                "makes one."
            )
        self.store = store
        self.view: View = next((view for view in views if view.reading == reading), views[0])
        with LabelFile.beside(store.path) as labels:
            explained = labels.explanations(sha256)
            self._given = {one.latent: one.text for one in explained if one.text}
            self._given |= {one.latent: one.text for one in labels.all(sha256) if one.text}
        self._told: dict[int, tuple[str, float]] = {}

    def of(self, latents: Iterable[int]) -> dict[int, tuple[str, float]]:
        """Name and highest activation of each."""
        new = sorted(set(latents) - set(self._told))
        for line in self.store.summaries(new, self.view):
            tokens = " ".join(harmless(token.strip() or token, 20) for token in line.top_tokens[:3])
            name = self._given.get(line.index) or (f"fires on {tokens}" if tokens else "never fired")
            self._told[line.index] = harmless(name, 60), line.max or 0.0
        return self._told
