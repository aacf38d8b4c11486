"""The points of the paper that stand beside a record, and which of them were made as it was."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from expander_sae.recipes import recipe_of
from expander_sae.records.spread import Spread

from .results import (
    ARCHITECTURES,
    BATCH,
    TOKENS,
    PaperResult,
    paper_diagnostics,
    paper_replication,
    paper_results,
    paper_speeds,
    select,
)

FALLBACK = ("pythia-70m", 3)
"""The paper's model and layer with the most results, and the only one with diagnostics."""
FALLBACK_K = 64
REPLICATED = ("qwen2.5-3b", 12, 64)
"""Model, layer and k of the independent replication, where it changes none of them."""
_Points = Sequence[tuple[float, Spread | float | None]]


@dataclass(frozen=True)
class Curve:
    """Somebody else's points (x, y), to be drawn beside ours."""

    name: str
    points: _Points
    same: bool
    """Whether they were made under the same conditions as ours."""


class Paper:
    """The paper's numbers to draw beside one record's: those of the same model, layer and k, or else Pythia-70M's.

    Attributes:
        model, layer, k: whose numbers they are.
        matches: whether the record's SAEs are of the same sizes and trained in the same way, on the same layer of the
            same model.
    """

    def __init__(self, record: Mapping[str, Any]) -> None:
        settings = record["settings"]
        stores = [store["settings"] for store in record["activations"]]
        recipe = recipe_of(stores[0]["model_id"]) if stores else None
        name = None if recipe is None else recipe.paper
        layer = stores[0].get("layer") if stores else None
        self.k: int = settings["k"]
        results = [] if name is None or layer is None else select(name, layer, self.k)
        self.model, self.layer = (results[0].model, results[0].layer) if results else FALLBACK
        # Not the narrow dense ones.
        full = max((r.n_latents for r in results), default=0)
        n_latents = _n_latents(settings, stores)
        self._other = [] if settings["preset"] == "paper" else ["another trainer"]
        self._other += [] if n_latents == full else [f"{n_latents:,} latents instead of {full:,}"]
        self._same_place = bool(results)
        self.matches = self._same_place and not self._other
        if not select(self.model, self.layer, self.k):
            self.k = FALLBACK_K

    def note(self) -> str:
        """Whose numbers those are, in a sentence for the page."""
        where = f"{self.model}, layer {self.layer}, k = {self.k}, {TOKENS:,} tokens, its recipe, first tokens kept"
        if self.matches:
            return f"Dashed: the paper's own numbers for the same model, layer, sizes and trainer ({where})."
        if self._same_place:
            return f"Grey: the paper's own numbers for the same model, layer and k ({where}); {', '.join(self._other)}."
        return (
            f"Grey: the paper's own numbers ({where}); another model or size, other text. They are there for the "
            "shape, not for the height."
        )

    def lines(
        self,
        metric: str,
        x: Callable[[PaperResult], float],
        architectures: Sequence[str] = tuple(ARCHITECTURES),
        *,
        inference: str = "encoder",
    ) -> list[Curve]:
        """A metric of its results, one line for each kind of SAE."""
        results = select(self.model, self.layer, self.k, inference=inference)
        read = "" if inference == "encoder" else f", {inference}"
        return [
            self._curve(
                f"{self.model} layer {self.layer}, k = {self.k}: {ARCHITECTURES[kind]}{read}",
                [(x(r), getattr(r, metric)) for r in results if r.architecture == kind],
            )
            for kind in architectures
        ]

    def along_data(self, metric: str, kinds: Sequence[tuple[str, int]]) -> list[Curve]:
        """A metric against the stored training tokens, for SAEs (architecture, degree)."""
        found = _full([r for r in paper_results() if (r.model, r.layer, r.k) == (*FALLBACK, FALLBACK_K)])
        return [
            self._of_fallback(
                f"{ARCHITECTURES[kind]}, {degree} values a column",
                [(r.train_tokens, getattr(r, metric)) for r in found if (r.architecture, r.degree) == (kind, degree)],
                FALLBACK_K,
            )
            for kind, degree in kinds
        ]

    def along_layers(self, metric: str) -> list[Curve]:
        """A metric of its Expander SAEs by layer, one line for each degree it has at several; k = 64."""
        layers: dict[int, list[PaperResult]] = {}
        for r in paper_results():
            if (r.model, r.k, r.inference, r.architecture) == (self.model, FALLBACK_K, "encoder", "expander_tied"):
                layers.setdefault(r.degree, []).append(r)
        return [
            self._curve(
                f"{self.model}, k = {FALLBACK_K}: degree {degree}",
                [(r.layer, getattr(r, metric)) for r in layers[degree]],
                self.k == FALLBACK_K,
            )
            for degree in sorted(layers)
            if len({r.layer for r in layers[degree]}) > 1
        ]

    def along_k(self, metric: str) -> list[Curve]:
        """A metric along k, for its Expander SAEs of the least, a middle and the highest degree, and the dense ones."""
        here = (self.model, self.layer, TOKENS)
        every = [r for r in paper_results() if (r.model, r.layer, r.train_tokens) == here]
        found = sorted(_full(every), key=lambda r: r.k)
        degrees = sorted({r.degree for r in every if (r.architecture, r.inference) == ("expander_tied", "encoder")})
        shown = sorted({degrees[0], degrees[len(degrees) // 2], degrees[-1]}) if degrees else []
        kinds: list[tuple[str, int | None, str]] = [("expander_tied", d, f"Expander, degree {d}") for d in shown]
        kinds += [(dense, None, ARCHITECTURES[dense]) for dense in ("dense_tied", "dense_warmtied")]
        return [
            self._curve(
                f"{self.model} layer {self.layer}: {name}",
                [(r.k, getattr(r, metric)) for r in found if r.architecture == kind and degree in (None, r.degree)],
            )
            for kind, degree, name in kinds
        ]

    def replication(self, metric: str, axis: str) -> list[Curve]:
        """A metric of the independent replication along its steps (in tokens) or layers."""
        model, layer, k = REPLICATED
        along_steps = axis == "steps"
        found = [r for r in paper_replication() if (r.layer == layer if along_steps else r.steps == 5_000)]
        words = f"layer {layer}, k = {k}" if along_steps else f"k = {k}"
        return [
            self._curve(
                f"{model}, {words}: {name}",
                [(r.steps * BATCH if along_steps else r.layer, getattr(r, metric)) for r in found
                 if r.architecture == kind],
                (self.model, self.k) == (model, k) and (self.layer == layer or not along_steps),
                whose="a replication of the paper",
            )
            for kind, name in (("expander", "degree 7"), ("dense", "full dense"))
        ]  # fmt: skip

    def learning_curves(self) -> list[Curve]:
        """Held-out rel_err along the training tokens."""
        curves: dict[tuple[str, int, int], list[tuple[float, Spread | float | None]]] = {}
        for d in paper_diagnostics():
            if d.group == "learning_curve(rel_err)":
                step = int(d.quantity.removeprefix("step"))
                curves.setdefault((d.architecture, d.degree, d.k), []).append((step * BATCH, d.value))
        return [
            self._of_fallback(f"{ARCHITECTURES[kind]}, {degree} values a column", points, k)
            for (kind, degree, k), points in curves.items()
        ]

    def speeds(self) -> list[Curve]:
        """rel_err against tokens/s as it reports them, on its own machines: always grey."""
        found: dict[str, list[tuple[float, Spread | float | None]]] = {}
        for speed in paper_speeds():
            name = f"{ARCHITECTURES[speed.architecture]} degree {speed.degree}, {speed.device}"
            found.setdefault(name, []).append((speed.tokens_per_second, speed.rel_err))
        return [self._curve(name, points, False) for name, points in found.items()]

    def diagnostics(self, group: str, quantity: str, architectures: Sequence[str] = ("expander_tied",)) -> list[Curve]:
        """A quantity of its diagnostics against the degree, at our k if it has that, else at 64."""
        found = [d for d in paper_diagnostics() if (d.group, d.quantity) == (group, quantity)]
        k = self.k if any(d.k == self.k for d in found) else FALLBACK_K
        return [
            self._of_fallback(
                ARCHITECTURES[kind], [(d.degree, d.value) for d in found if (d.k, d.architecture) == (k, kind)], k
            )
            for kind in architectures
        ]

    def _of_fallback(self, words: str, points: _Points, k: int) -> Curve:
        """Of numbers that only one model and layer has."""
        model, layer = FALLBACK
        same = (self.model, self.layer, self.k) == (*FALLBACK, k)
        return self._curve(f"{model} layer {layer}, k = {k}: {words}", points, same)

    def _curve(self, name: str, points: _Points, same: bool = True, whose: str = "paper") -> Curve:
        return Curve(f"{whose}, {name}", points, same and self.matches)


def _full(results: Sequence[PaperResult]) -> list[PaperResult]:
    """Those that are read by their encoder and have as many latents as any: not the narrow dense ones."""
    read = [r for r in results if r.inference == "encoder"]
    full = max((r.n_latents for r in read), default=0)
    return [r for r in read if r.n_latents == full]


def _n_latents(settings: Mapping[str, Any], stores: Sequence[Mapping[str, Any]]) -> int | None:
    """Of the record's full-sized SAEs; None where no activations say how wide they are."""
    if settings["n_latents"] is not None or not stores:
        return settings["n_latents"]
    return settings["expansion"] * stores[0]["d_in"]
