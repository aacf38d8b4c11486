"""What an experiment works with: settings, activations, a language model, and pieces that a rerun takes over."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple, cast

from torch import Tensor

from expander_sae.activations import ActivationStore, LanguageModel
from expander_sae.evaluation.codes import TokenBatch, store_batches
from expander_sae.pursuit import Reading, parse_reading
from expander_sae.records import EvaluationRecord, ExpanderSaeError, FrontierRecord
from expander_sae.records.sealed import read_sealed, write_sealed
from expander_sae.saes import AbstractSae, load_sae
from expander_sae.training import TrainConfig

from ..results import Frontier
from ..settings import Sweep
from ..sweep import run_frontier
from ..variants import plan
from .settings import Settings


def written(folder: Path) -> str:
    """When an SAE was saved: what a piece that was made from it depends on."""
    return str((folder / "sae.safetensors").stat().st_mtime_ns)


def name_of(record: FrontierRecord) -> str:
    """An SAE and its seed, in the name of a piece."""
    return f"{record.variant}-seed{record.seed}"


def next_seed(seed: int, seeds: Iterable[int]) -> int:
    """The one after it, the first after the last."""
    ordered = sorted(seeds)
    return ordered[(ordered.index(seed) + 1) % len(ordered)]


def ways_to_read(sae: AbstractSae, readings: Iterable[str]) -> list[Reading]:
    """An SAE's own reading, then those of others that it has columns enough for, each once."""
    fitting = [way for way in map(parse_reading, readings) if way.fits(sae.k, sae.n_latents)]
    return list(dict.fromkeys([sae.reading, *fitting]))


class Read(NamedTuple):
    """An SAE read in one way."""

    record: FrontierRecord
    sae: AbstractSae
    own: bool
    """Whether that is its own reading."""
    evaluation: EvaluationRecord | None
    """By that reading; None where the grid was not evaluated by it."""

    @property
    def name(self) -> str:
        """Its name in that of a piece."""
        return f"{name_of(self.record)}-{self.sae.reading}".replace(":", "")


class Grid(NamedTuple):
    """SAEs that are trained and evaluated, and where they are."""

    frontier: Frontier
    folder: Path

    def records(self) -> dict[str, Any]:
        """The records alone, plain, for experiments whose measurement is another."""
        return {"records": [record.to_dict() for record in self.frontier.records]}

    def saes(self) -> Iterator[tuple[FrontierRecord, AbstractSae]]:
        """Every SAE that did not diverge, read from disk one at a time, with its record."""
        for record in self.frontier.records:
            if record.evaluation is not None:
                yield record, load_sae(self.folder / record.folder)

    def read(self, readings: Sequence[str] = ()) -> Iterator[Read]:
        """Every SAE by its own reading, then by the others that it has columns enough for."""
        evaluations = {
            (r.variant, r.seed, parse_reading(r.reading)): r.evaluation
            for r in self.frontier.readings if r.reading is not None
        }  # fmt: skip
        for record, sae in self.saes():
            for way in ways_to_read(sae, readings):
                own = way == sae.reading
                evaluation = record.evaluation if own else evaluations.get((record.variant, record.seed, way))
                yield Read(record, sae.read_by(way), own, evaluation)

    def twin(self, record: FrontierRecord) -> FrontierRecord | None:
        """The same SAE of the next seed that did not diverge; None where there is no other."""
        mine = (r for r in self.frontier.records if r.variant == record.variant and r.evaluation is not None)
        of_seed = {r.seed: r for r in mine}
        other = next_seed(record.seed, of_seed)
        return None if other == record.seed else of_seed[other]

    def cpu_seconds(self, record: FrontierRecord) -> float | None:
        """What an SAE's training cost, with that of the dense SAE it was cut out of; None where it is not on record."""
        own = record.training.cpu_seconds
        if own is None or record.family != "pruned":
            return own
        dense = next(r for r in self.frontier.records if (r.family, r.seed) == ("dense", record.seed))
        return None if dense.training.cpu_seconds is None else own + dense.training.cpu_seconds

    def depends_on(self, record: FrontierRecord) -> dict[str, str]:
        """What a piece that is made from an SAE depends on."""
        return {"sae": written(self.folder / record.folder)}


class Context:
    """Everything `measure` may use.

    Attributes:
        folder: the experiment's own, `DIR/NAME`.
        settings: what the command line said.
        stores: harvested activations; several for a question about layers.
        device: where SAEs are trained and evaluated.
        say: tell the reader of the terminal something.
        progress: whether bars are drawn.
        command: the command line behind a grid, and
        notes: what is said beside it, for its `frontier.json`.

    Args:
        shared: where experiments keep the SAEs they share; None: in `folder` itself, for one grid.
        language_model: loads the model the activations came from; None: run without one.
    """

    def __init__(
        self,
        folder: Path,
        settings: Settings,
        *,
        shared: Path | None,
        stores: Sequence[ActivationStore] = (),
        language_model: Callable[[], LanguageModel] | None = None,
        device: str = "cpu",
        say: Callable[[str], None] = lambda _text: None,
        progress: bool = False,
        command: str | None = None,
        notes: Sequence[str] = (),
    ) -> None:
        self.folder, self.settings, self.stores = folder, settings, tuple(stores)
        self.device, self.say, self.progress = device, say, progress
        self.command, self.notes = command, tuple(notes)
        self._shared, self._load_model = shared, language_model
        self._model: LanguageModel | None = None

    @property
    def store(self) -> ActivationStore:
        """The activations, the first of them where there are several.

        Raises:
            ExpanderSaeError: there are none.
        """
        if not self.stores:
            raise ExpanderSaeError(
                "expected harvested activations for this experiment; got none. Give their folder: --acts"
            )
        return self.stores[0]

    @property
    def has_language_model(self) -> bool:
        """Whether there is a language model to ask; it need not be loaded yet."""
        return self._load_model is not None

    def language_model(self) -> LanguageModel | None:
        """The language model behind the activations, loaded when first asked for; None: run without one."""
        if self._model is None and self._load_model is not None:
            self._model = self._load_model()
        return self._model

    def heldout_batches(self) -> Iterator[TokenBatch]:
        """Held-out activations in order, special tokens in or out as the settings say."""
        kept = self.settings.evaluation().keep_special_tokens
        return store_batches(self.store, "heldout", keep_special_tokens=kept)

    def heldout_blocks(self, tokens: int, size: int | None = None) -> Iterator[Tensor]:
        """The first held-out activations, float32 [up to `size`, d_in] each, as stored where that is None."""
        for batch in self.heldout_batches():
            x = batch.x[:tokens].float()
            yield from x.split(len(x) if size is None else size)
            tokens -= len(x)
            if tokens <= 0:
                break

    def option(self, name: str) -> Any:
        """A setting of this experiment alone."""
        return self.settings.options[name]

    def need_two_seeds(self, others: str) -> None:
        """Raise where there is nothing to compare latents with; `others` says whose those would be."""
        seeds = list(self.settings.seeds)
        if len(seeds) < 2:
            raise ExpanderSaeError(
                f"expected two seeds at least, since latents are compared with {others}; got {seeds}"
            )

    def grid(
        self,
        *,
        degrees: Iterable[int] | None = None,
        controls: Iterable[str] = (),
        readings: Sequence[str] = (),
        store: ActivationStore | None = None,
        config: TrainConfig | None = None,
        train_tokens: int | None = None,
        k: int | None = None,
        label: str = "",
        cross_entropy: bool = True,
    ) -> Grid:
        """Train and evaluate what is missing of a grid of SAEs, and give all of it.

        SAEs are kept in `DIR/saes/`, one folder for each layer, size, k and preset, so that every experiment of one DIR
        trains each of them once.

        Args:
            degrees: of the Expander SAEs; None: those of the command line that the activations are wide enough for.
            controls: any of `expander_sae.frontier.CONTROLS`; "none" asks for none.
            readings: other inferences to read every SAE by.
            store: other activations than the first.
            config: another training pass than the command line's; needs a `label` of its own.
            train_tokens: train on the first so many stored tokens only; needs a `label` of its own.
            k: other active latents per token than the command line's.
            label: added to the folder's name.
            cross_entropy: evaluate with the language model too, where there is one.

        Raises:
            ExpanderSaeError: as in `plan`, `Sweep` and `run_frontier`.
        """
        settings = self.settings if k is None else replace(self.settings, k=k)
        store = store or self.store
        n_latents = settings.n_for(store.d_in)
        chosen = self.degrees(store) if degrees is None else list(degrees)
        sizes = {"d_in": store.d_in, "n_latents": n_latents, "k": settings.k, "seeds": settings.seeds}
        wanted = [control for control in controls if control != "none"]
        left_out: list[str] = []
        variants = plan(chosen, wanted, **sizes, note=left_out.append)
        for note in left_out:
            self.say(f"Note: {note}")
        name = f"layer{store.layer}-n{n_latents}-k{settings.k}-{_recipe(settings)}{label and '-' + label}"
        folder = self.folder if self._shared is None else self._shared / name
        # A loader, so that a rerun that finds everything done loads no model.
        asked = cross_entropy and self._load_model is not None
        model = cast(Callable[[], LanguageModel], self.language_model) if asked else None
        sweep = Sweep(
            store,
            folder,
            variants,
            config or settings.training(),
            model,
            evaluation=settings.evaluation(),
            saes=settings.sae_options(),
            readings=readings,
            train_tokens=train_tokens,
            device=self.device,
            command=self.command,
            notes=[*self.notes, *(f"{note[:1].upper()}{note[1:]}." for note in left_out)],
            progress=self.progress,
            say=self.say,
        )
        return Grid(run_frontier(sweep), folder)

    def degrees(self, store: ActivationStore | None = None) -> list[int]:
        """The degrees asked for that fit the activations; the others are said to be left out."""
        d_in = (store or self.store).d_in
        fitting = [degree for degree in self.settings.degrees if degree <= d_in]
        left = [str(degree) for degree in self.settings.degrees if degree > d_in]
        if left:
            self.say(f"degrees left out, above d_in = {d_in}: {', '.join(left)}")
        if not fitting:
            raise ExpanderSaeError(f"expected a degree of at most d_in = {d_in}; got {', '.join(left)}")
        return fitting

    def chosen_degrees(self, store: ActivationStore | None = None) -> list[int]:
        """The degrees of this experiment's option `degrees` that the command line asked for too; all of the command
        line's where none of them is among the option's."""
        asked = self.degrees(store)
        chosen = [degree for degree in asked if degree in self.option("degrees")]
        left = [str(degree) for degree in asked if degree not in chosen]
        if chosen and left:
            self.say(f"degrees left to other experiments: {', '.join(left)}; --set degrees= takes them in")
        return chosen or asked

    def row(
        self, record: FrontierRecord, name: str, depends_on: Mapping[str, Any], make: Callable[[], Any], **more: Any
    ) -> dict[str, Any]:
        """One SAE as a row for tables: whose it is, `more` that is said of it, and the dictionary of its `piece`."""
        whose = {"variant": record.variant, "family": record.family, "seed": record.seed}
        return {**whose, **more, **self.piece(name, depends_on, make)}

    def piece(self, name: str, depends_on: Mapping[str, Any], make: Callable[[], Any]) -> Any:
        """`make()`, or what an earlier run's `make()` gave under the same name and dependence.

        Args:
            name: of the file in `DIR/NAME/pieces/`.
            depends_on: everything the result depends on, as plain values; where it differs, the piece is made again.
            make: gives a plain value.
        """
        path = self.folder / "pieces" / f"{name}.json"
        mark = json.loads(json.dumps(dict(depends_on)))
        if path.is_file():
            found = read_sealed(path)
            if found.get("depends_on") == mark and "value" in found:
                return found["value"]
        write_sealed(path, {"depends_on": mark, "value": make()})
        # Read back, so that a first run and a rerun work with the same values.
        return read_sealed(path)["value"]


def _recipe(settings: Settings) -> str:
    """In a folder's name: the preset ("fidelity" as earlier releases called it), and what was said of columns."""
    name = "default" if settings.preset == "fidelity" else settings.preset
    if settings.irregular is None:
        return name
    return f"{name}-{'irregular' if settings.irregular else 'regular'}"
