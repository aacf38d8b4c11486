"""What the live pages ask of a language model: which latents fire on a text, and what one of them does."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from expander_sae.activations import load_language_model
from expander_sae.activations.blocks import text_config
from expander_sae.activations.models import splice_after_block
from expander_sae.activations.modules import activations_at, changed_output
from expander_sae.activations.running import input_device, own_run, text_inputs
from expander_sae.activations.tokens import special_ids
from expander_sae.latents import View
from expander_sae.latents.identity import sae_sha256, token_texts
from expander_sae.ops import Codes
from expander_sae.pursuit import parse_reading
from expander_sae.records import ExpanderSaeError, Provenance
from expander_sae.saes import AbstractSae, load_sae

from .sampling import Sampler, Spoken

POSITIONS = 512
"""Tokens of a text that are read, at most."""
SHOWN = 12
"""Next tokens of each kind that an ablation is told by."""
_UNMOVED = 1e-5
"""A change of probability that is none."""
_PIECE = 64
"""Positions whose distributions over the vocabulary are compared at once."""


class Session:
    """A loaded model and the SAEs of the views, for one thread."""

    def __init__(self, model: str, saes: Sequence[Path], *, device: str, dtype: str) -> None:
        self.language_model = load_language_model(model, dtype=dtype, device=device)
        self.model, self.tokenizer = self.language_model.model, self.language_model.tokenizer
        self.folders, self.device = list(saes), device
        self._saes: dict[tuple[str, str], AbstractSae] = {}
        self._special = torch.tensor(special_ids(self.tokenizer), dtype=torch.int64, device="cpu")

    def fire(self, view: View, meta: Mapping[str, Any], text: str) -> dict[str, Any]:
        """Which latents fire on each token of a text, by falling activation, and on how many each does."""
        sae = self.sae_of(view)
        ids, cut = self._ids(text)
        read = self._read(ids)
        hidden = activations_at(self.model, self._place(sae, meta), ids[None], torch.ones_like(ids)[None])[0]
        codes = self._codes(sae, hidden, read)
        here: dict[int, list[float]] = {}
        tokens = []
        for i, said in enumerate(self.spoken(ids)):
            fires = [(j, v) for j, v in zip(codes.indices[i].tolist(), codes.values[i].tolist(), strict=True) if v]
            fires.sort(key=lambda pair: -abs(pair[1]))
            for j, value in fires:
                here.setdefault(j, []).append(value)
            tokens.append({"text": said, "read": bool(read[i]), "latents": fires})
        latents = [{"latent": j, "here": max(v, key=abs), "times": len(v)} for j, v in here.items()]
        return {"tokens": tokens, "latents": latents, "cut": cut, "note": self._note(sae)}

    def ablate(self, view: View, meta: Mapping[str, Any], prompt: str, latent: int) -> dict[str, Any]:
        """What the next-token distributions lose when one latent is taken out of the activations."""
        sae = self.sae_of(view)
        ids, cut = self._ids(prompt)
        read = self._read(ids)
        inputs = text_inputs(self.model, ids[None], torch.ones_like(ids)[None])
        value = torch.zeros(len(ids))
        place, column = self._place(sae, meta), column_of(sae, latent)

        def without(hidden: Tensor) -> Tensor:
            nonlocal value
            value = activation_of(self._codes(sae, hidden[0], read), latent)
            return hidden - (value.to(hidden.device)[:, None] * column.to(hidden.device)).to(hidden.dtype)[None]

        with own_run(self.model):
            before = self.model(**inputs).logits[0]
            with self._changed(place, without):
                after = self.model(**inputs).logits[0]
        moved = torch.cat([
            divergence(one, two) for one, two in zip(before.split(_PIECE), after.split(_PIECE), strict=True)
        ])  # fmt: skip
        tokens = [
            {"text": said, "value": v, "kl": max(0.0, kl)}
            for said, v, kl in zip(self.spoken(ids), value.tolist(), moved.tolist(), strict=True)
        ]
        return {
            "tokens": tokens, "fires": int((value != 0).sum()), "next": self._next(before[-1], after[-1]), "cut": cut,
            "note": self._note(sae),
        }  # fmt: skip

    def generate(
        self,
        view: View,
        meta: Mapping[str, Any],
        prompt: str,
        latent: int,
        *,
        value: float,
        how: str,
        tokens: int,
        temperature: float,
        seed: int,
        emit: Callable[[dict[str, Any]], None],
        stop: threading.Event,
    ) -> None:
        """Go on from a prompt twice at once, as the model is and with one latent clamped to a value (or with the value
        added to it); `emit` gets both texts piece by piece. Both draw by the same numbers, so that only what the latent
        does sets them apart.
        """
        sae = self.sae_of(view)
        ids, cut = self._ids(prompt, room=tokens)
        column, first = column_of(sae, latent), True
        note = "; ".join(filter(None, [self._note(sae), f"only the last {len(ids)} tokens were read" if cut else None]))
        if note:
            emit({"note": note})

        def steered(hidden: Tensor) -> Tensor:
            nonlocal first
            row = hidden[1].to(torch.float32)
            touched = torch.ones(len(row), dtype=torch.bool)
            if first:  # the first position, whose norm is a giant's in most models, is left as it is
                touched, first = self._read(ids), False
            more = torch.where(touched, value, 0.0)
            if how == "clamp":
                more = torch.where(touched, value - activation_of(self._codes(sae, row, touched), latent), 0.0)
            new = row + more.to(row.device)[:, None] * column.to(row.device)
            return torch.stack([hidden[0], new.to(hidden.dtype)])

        sampler = Sampler(temperature=temperature, seed=seed)
        spoken = [Spoken(self.tokenizer), Spoken(self.tokenizer)]
        device = input_device(self.model)
        fed, past = ids.repeat(2, 1).to(device), None
        with own_run(self.model), self._changed(self._place(sae, meta), steered):
            for _ in range(tokens):
                if stop.is_set():
                    return
                output = self.model(input_ids=fed, past_key_values=past, use_cache=True)
                past = output.past_key_values
                if past is None:
                    raise ExpanderSaeError(
                        f"expected a model that keeps its past while it generates; got {type(self.model).__name__}"
                    )
                drawn = sampler.draw(output.logits[:, -1])
                texts = [said.more(int(token)) for said, token in zip(spoken, drawn, strict=True)]
                emit({name: text for name, text in zip(("plain", "steered"), texts, strict=True) if text})
                if all(said.ended for said in spoken):
                    break
                fed = drawn[:, None].to(device)
        emit({name: said.rest() for name, said in zip(("plain", "steered"), spoken, strict=True)})

    def sae_of(self, view: View) -> AbstractSae:
        """The SAE of a view, read as the view is.

        Raises:
            ExpanderSaeError: it is in none of the folders.
        """
        known = self._saes.get((view.sha256, view.reading))
        if known is None:
            known = self._find(view).to(self.device).read_by(parse_reading(view.reading))
            self._saes[view.sha256, view.reading] = known
        return known

    def _find(self, view: View) -> AbstractSae:
        seen = []
        for folder in (*self.folders, Path(view.folder)):
            if not (folder / "config.json").is_file():
                seen.append(f"{folder} (no SAE there)")
                continue
            found = load_sae(folder)
            if sae_sha256(found) == view.sha256:
                return found
            seen.append(f"{folder} (another SAE)")
        raise ExpanderSaeError(
            f"expected the SAE of {view.name} that the store was made from; got {', '.join(seen)}. Give its folder "
            "with --sae"
        )

    def spoken(self, ids: Tensor) -> list[str]:
        """What each token says, with the space before it."""
        return token_texts(self.tokenizer, ids.tolist())

    def _ids(self, text: str, room: int = 0) -> tuple[Tensor, bool]:
        """Token ids [tokens] as far as they are read, and whether some were left out."""
        ids = torch.tensor(self.tokenizer(text)["input_ids"], dtype=torch.int64)
        longest = getattr(text_config(self.model), "max_position_embeddings", None) or POSITIONS + room
        most = max(1, min(POSITIONS, longest - room))
        if not len(ids):
            raise ExpanderSaeError("expected a text with at least one token; got none")
        return (ids[-most:] if room else ids[:most]), len(ids) > most

    def _read(self, ids: Tensor) -> Tensor:
        """Which positions SAEs read, bool [tokens]: neither the first nor special ones."""
        read = ~torch.isin(ids, self._special)
        read[0] = False
        return read

    def _place(self, sae: AbstractSae, meta: Mapping[str, Any]) -> int | str:
        """Where the SAE belongs: a block, or the name of a module."""
        known = Provenance.of_sae(sae)
        place = known.module if known.module is not None else known.layer
        place = meta.get("layer") if place is None else place
        if not isinstance(place, int | str):
            raise ExpanderSaeError("expected the layer of this SAE in its metadata or the store's; got none")
        return place

    def _changed(self, place: int | str, change: Callable[[Tensor], Tensor]) -> AbstractContextManager[None]:
        if isinstance(place, int):
            return splice_after_block(self.model, place, change)
        return changed_output(self.model, place, change)

    def _codes(self, sae: AbstractSae, hidden: Tensor, read: Tensor) -> Codes:
        """Codes [tokens, k] on the CPU; zero where nothing is read."""
        if hidden.shape[-1] != sae.d_in:
            raise ExpanderSaeError(
                f"expected activations {sae.d_in} wide, as the SAE is; got {hidden.shape[-1]}. Is this its model?"
            )
        indices = torch.zeros(len(read), sae.k, dtype=torch.int64)
        values = torch.zeros(len(read), sae.k)
        if bool(read.any()):
            with torch.no_grad():
                codes = sae.encode(hidden.detach()[read.to(hidden.device)].to(self.device, torch.float32))
            indices[read], values[read] = codes.indices.cpu(), codes.values.float().cpu()
        return Codes(indices, values)

    def _next(self, before: Tensor, after: Tensor) -> list[dict[str, Any]]:
        """Tokens that are likeliest with the latent or without it, or change most."""
        one, two = before.float().softmax(-1).cpu(), after.float().softmax(-1).cpu()
        moved = (two - one).abs()
        most = [values.topk(min(SHOWN, len(one))).indices for values in (one, two, moved)]
        most[2] = most[2][moved[most[2]] > _UNMOVED]
        chosen = torch.cat(most).unique()
        chosen = chosen[one[chosen].argsort(descending=True)]
        rows = zip(self.spoken(chosen), one[chosen].tolist(), two[chosen].tolist(), strict=True)
        return [{"token": said, "before": p, "after": q} for said, p, q in rows]

    def _note(self, sae: AbstractSae) -> str | None:
        """How this model differs from the one that the SAE was trained on, if it does."""
        known = Provenance.of_sae(sae)
        here = Provenance(model=self.language_model.model_id, revision=self.language_model.revision)
        return "; ".join(known.differences(here)) or None


def column_of(sae: AbstractSae, latent: int) -> Tensor:
    """The unit-norm column w_j [d_in]."""
    with torch.no_grad():
        return sae.dictionary().columns(torch.tensor([latent], device=sae.b_dec.device))[0].float()


def activation_of(codes: Codes, latent: int) -> Tensor:
    """The code of one latent on each token [tokens]."""
    return (codes.values * (codes.indices == latent)).sum(1)


def divergence(before: Tensor, after: Tensor) -> Tensor:
    """KL(before || after) of next-token distributions in nats, [positions], from logits [positions, vocabulary]."""
    one, two = before.float().log_softmax(-1), after.float().log_softmax(-1)
    return (one.exp() * (one - two)).sum(-1).cpu()
