"""The model and its SAEs: what a batch of requests asks of them, in as few passes as can be."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from expander_sae.activations import LanguageModel
from expander_sae.activations.modules import activations_at_all
from expander_sae.activations.tokens import special_ids
from expander_sae.latents.names import Names
from expander_sae.ops import Codes
from expander_sae.ops.backends import why_not_native
from expander_sae.pursuit.native import cannot_take
from expander_sae.saes import AbstractSae

from .batching import Work


@dataclass(frozen=True, eq=False)
class ServedSae:
    """An SAE by the name it is asked for."""

    name: str
    sae: AbstractSae
    place: int | str | None
    """Where in the model it belongs, None where that is not known: it reads activations only."""
    names: Names | None = None
    """What its latents are called."""

    @property
    def device(self) -> torch.device:
        """Where its numbers are."""
        return self.sae.b_dec.device

    def codes_stand_alone(self) -> bool:
        """Whether a token's codes are the same bits whatever tokens are encoded with it.

        The C++ core computes every token by itself. Matrix products, of dense dictionaries and on other devices, round
        by the shape of the whole batch.
        """
        x = torch.zeros(1, self.sae.d_in, dtype=torch.float32, device=self.device)
        with torch.no_grad():
            return why_not_native(self.device) is None and cannot_take(x, self.sae.dictionary()) is None


class Vectors(Work):
    """Activations [tokens, d_in] for one SAE; answered with `Codes`."""

    def __init__(self, sae: ServedSae, x: Tensor) -> None:
        super().__init__(len(x))
        self.sae, self.x = sae, x


class Texts(Work):
    """Token ids of texts, for some of the SAEs; answered with a `ReadText` for each text."""

    def __init__(self, saes: Sequence[ServedSae], ids: Sequence[Tensor]) -> None:
        super().__init__(sum(len(one) for one in ids))
        self.saes, self.ids = saes, ids


class ReadText(NamedTuple):
    """Which positions of a text were read, bool [tokens], and their codes by the name of the SAE, [read, k]."""

    read: Tensor
    codes: dict[str, Codes]


class Reader:
    """What the model's thread does.

    Args:
        saes: all that are served.
        language_model: what runs on texts; None: activations only.
        batch: tokens of a forward pass at most, padding included (a longer text has one of its own).
        told: called with the tokens of every pass and the names of the SAEs that read them.
    """

    def __init__(
        self,
        saes: Sequence[ServedSae],
        language_model: LanguageModel | None,
        *,
        batch: int,
        told: Callable[[str, int], None] = lambda name, tokens: None,
    ) -> None:
        self.language_model, self.batch, self._told = language_model, batch, told
        self._alone = {sae.name: sae.codes_stand_alone() for sae in saes}
        tokenizer = None if language_model is None else language_model.tokenizer
        ids = [] if tokenizer is None else special_ids(tokenizer)
        self._special = torch.tensor(ids, dtype=torch.int64, device="cpu")

    @torch.no_grad()
    def run(self, batch: Sequence[Work]) -> None:
        """Answer every request of a batch."""
        vectors: dict[str, list[Vectors]] = {}
        texts: list[Texts] = []
        for work in batch:
            if isinstance(work, Vectors):
                vectors.setdefault(work.sae.name, []).append(work)
            elif isinstance(work, Texts):
                texts.append(work)
        for name, works in vectors.items():
            for group in [works] if self._alone[name] else [[one] for one in works]:
                _answered(group, self._encoded)
        _answered(texts, self._texts)

    def _encoded(self, works: Sequence[Vectors]) -> list[Codes]:
        served = works[0].sae
        return _parts(self._codes(served, torch.cat([work.x for work in works])), [len(work.x) for work in works])

    def _codes(self, served: ServedSae, x: Tensor) -> Codes:
        self._told(served.name, len(x))
        codes = served.sae.encode(x.to(served.device, torch.float32))
        return Codes(codes.indices.cpu(), codes.values.float().cpu())

    def _texts(self, works: Sequence[Texts]) -> list[list[ReadText]]:
        assert self.language_model is not None
        everything = [(work, text) for work in works for text in range(len(work.ids))]
        found: dict[tuple[int, int], ReadText] = {}
        for chosen in passes(everything, self.batch):
            ids = [work.ids[text] for work, text in chosen]
            lengths = torch.tensor([len(one) for one in ids])
            padded = torch.nn.utils.rnn.pad_sequence(list(ids), batch_first=True)
            mask = torch.arange(padded.shape[1]) < lengths[:, None]
            read = mask & self.ordinary(padded)
            saes = {sae.name: sae for work, _ in chosen for sae in work.saes}
            places = {sae.place for sae in saes.values() if sae.place is not None}
            hidden = activations_at_all(self.language_model.model, places, padded, mask.to(torch.int64))
            results = [ReadText(read[i, : len(one)], {}) for i, one in enumerate(ids)]
            for sae in saes.values():
                mine = [i for i, (work, _) in enumerate(chosen) if sae in work.saes]
                assert sae.place is not None
                stream = hidden[sae.place]
                x = torch.cat([stream[i][read[i].to(stream.device)] for i in mine])
                codes = self._codes(sae, x) if len(x) else _none(sae)
                for i, part in zip(mine, _parts(codes, [int(read[i].sum()) for i in mine]), strict=True):
                    results[i].codes[sae.name] = part
            for (work, text), result in zip(chosen, results, strict=True):
                found[id(work), text] = result
        return [[found[id(work), text] for text in range(len(work.ids))] for work in works]

    def ordinary(self, ids: Tensor) -> Tensor:
        """Which positions SAEs read, bool [..., tokens]: neither the first nor special ones."""
        read = ~torch.isin(ids, self._special)
        read[..., 0] = False
        return read


def passes(texts: Sequence[tuple[Texts, int]], most: int) -> Iterator[list[tuple[Texts, int]]]:
    """Texts of like length together, at most so many tokens at once with their padding."""
    chosen: list[tuple[Texts, int]] = []
    longest = 0
    for work, text in sorted(texts, key=lambda one: -len(one[0].ids[one[1]])):
        if chosen and (len(chosen) + 1) * longest > most:
            yield chosen
            chosen = []
        if not chosen:
            longest = len(work.ids[text])
        chosen.append((work, text))
    if chosen:
        yield chosen


def _answered(works: Sequence[Any], run: Callable[[Sequence[Any]], Sequence[Any]]) -> None:
    """Answer requests together; where that fails, each alone, so that it fails only for whom it is about."""
    if not works:
        return
    try:
        results = run(works)
    except Exception as error:
        if len(works) == 1:
            works[0].future.set_exception(error)
            return
        for work in works:
            _answered([work], run)
        return
    for work, result in zip(works, results, strict=True):
        work.future.set_result(result)


def _parts(codes: Codes, lengths: Sequence[int]) -> list[Codes]:
    return [
        Codes(*part) for part in zip(codes.indices.split(list(lengths)), codes.values.split(list(lengths)), strict=True)
    ]


def _none(served: ServedSae) -> Codes:
    k = served.sae.k
    return Codes(torch.zeros(0, k, dtype=torch.int64), torch.zeros(0, k))
