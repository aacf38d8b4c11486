"""Are latents about something? Offline detection of held-out contexts, with room for a language model as the judge."""

from __future__ import annotations

import importlib
import os
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import torch

from expander_sae.evaluation.chat import ChatJudge
from expander_sae.evaluation.contexts import ContextEmbedding, Judge, detection, evenly_over_rates
from expander_sae.evaluation.firing import firings
from expander_sae.evaluation.nulls import SAMPLE, untrained
from expander_sae.pursuit import parse_reading
from expander_sae.records import ExpanderSaeError
from expander_sae.records.spread import Spread, spread
from expander_sae.saes import AbstractSae

from ..drawing import bars
from ..page import Page, Table, by, number
from .context import Context, name_of
from .experiment import Experiment, Measured
from .quality import diverged

_HOW = ("tokens", "latents", "width", "judge", "chat_url", "chat_model")
"""Options that what an SAE is given depends on."""
_KEY = "EXPANDER_SAE_JUDGE_KEY"
_UNTRAINED = ", untrained"


def measure(context: Context) -> Measured:
    """Detection scores of latents drawn evenly over firing rates, for every SAE of the grid by its own reading and
    those asked for; beside each an untrained twin, and a shuffled null."""
    readings = [str(reading) for reading in context.option("readings")]
    for reading in readings:
        parse_reading(reading).check(context.settings.k, context.settings.n_for(context.store.d_in))
    grid = context.grid(degrees=context.chosen_degrees(), controls=context.option("controls"))
    how = {"kept": context.settings.evaluation().keep_special_tokens, **{name: context.option(name) for name in _HOW}}
    sample = context.store.sample("train", SAMPLE, seed=0)
    rows = []
    for one in grid.read(readings):
        record = one.record
        name = name_of(record) if one.own else one.name
        depends = {**grid.depends_on(record), **how}
        context.say(f"contexts of {name}")
        variant = record.variant + ("" if one.own else f", {one.sae.reading}")
        twin = untrained(one.sae, sample, seed=record.seed + 1)
        for suffix, sae in (("", one.sae), ("-untrained", twin)):
            make = partial(_scores, context, sae, record.seed)
            named = variant + (_UNTRAINED if suffix else "")
            rows.append(context.row(record, name + suffix, depends, make, variant=named))
    judge = context.option("judge")
    return {
        "saes": rows, "judge": f"chat, {context.option('chat_model')}" if judge == "chat" else judge,
        "options": dict(context.settings.options),
        "frontier": grid.records(),
    }  # fmt: skip


def _scores(context: Context, sae: AbstractSae, seed: int) -> dict[str, Any]:
    """Detection scores of some latents, and of as many firings at tokens drawn at random: what a judge reads out of
    nothing."""
    found, ids, blocks = firings(sae, context.heldout_batches(), context.option("tokens"))
    judge = _judge(context, ids, blocks)
    latents = evenly_over_rates(found, context.option("latents"), seed)
    scores = detection(found, judge, blocks, latents=latents, seed=seed)
    draw = torch.Generator().manual_seed(seed)
    moved = found._replace(token=torch.randperm(found.n_tokens, generator=draw, device="cpu")[found.token])
    null = detection(moved, judge, blocks, latents=latents, seed=seed)
    return {"aucs": [s.auc for s in scores], "firings": [s.firings for s in scores],
            "null": [s.auc for s in null], "asked": len(latents)}  # fmt: skip


def _judge(context: Context, ids: torch.Tensor, blocks: torch.Tensor) -> Judge:
    """The offline embedding, a chat model, or what a `module:function` makes of (token ids, blocks, store)."""
    name = context.option("judge")
    if name == "tf-idf":
        return ContextEmbedding(ids, blocks, width=context.option("width"))
    if name == "chat":
        model = context.language_model()
        url, who = context.option("chat_url"), context.option("chat_model")
        if model is None or not url or not who:
            raise ExpanderSaeError(
                "expected --set chat_url=URL and --set chat_model=NAME of an endpoint that speaks the OpenAI chat "
                "protocol, and the language model whose tokens are shown (--model, without --no-ce); a key, if it "
                f"wants one, in the environment as {_KEY}; got url {url!r}, name {who!r}, "
                f"{'no model' if model is None else 'a model'}"
            )
        return ChatJudge(ids, blocks, model.tokenizer, url=url, model=who, api_key=os.environ.get(_KEY))
    module, colon, attribute = name.partition(":")
    try:
        if not colon:
            raise AttributeError("there is no colon")
        return getattr(importlib.import_module(module), attribute)(ids, blocks, context.store)
    except (ImportError, AttributeError, ValueError) as error:
        raise ExpanderSaeError(f"expected judge as tf-idf, chat or module:function, got {name!r}: {error}") from error


def show(measured: Measured) -> Page:
    """Mean score by SAE, seed by seed, beside the null."""
    of = by(measured["saes"], "variant")
    rows = []
    for name, mine in of.items():
        clear = spread(_share_above(row["aucs"], 0.8) for row in mine)
        found = (_auc(mine), clear, spread(_mean(row["null"]) for row in mine))
        rows.append([name, sum(len(row["aucs"]) for row in mine), *(number(one, 3) for one in found)])
    table = Table(
        "Detection of held-out contexts", ["SAE", "latents scored", "mean AUC", "AUC above .8", "null, mean AUC"], rows,
        "AUC: chance that a context where the latent fires is scored above one where it does not; 0.5 is chance. Mean "
        "over seeds ± half width of the 95% interval. Null: the same latents at shuffled tokens.",
    )  # fmt: skip
    heights = [(name, _auc(mine)) for name, mine in of.items()]
    figure = bars("detection", "mean detection AUC by SAE", heights, y="mean AUC of detection (0.5 is chance)")
    return Page(
        claim=_claim(of),
        tables=[table],
        figures=[figure],
        notes=[
            f"Judge: {measured['judge']}. Examples come from one half of the text's blocks, questions from the other; "
            "latents are drawn evenly over four quarters of firing rate among those that fire eight times at least.",
            "The score says how well the words around predict a firing, not whether a person would find the latent "
            "meaningful. Untrained dictionaries score high: what counts is the distance to the untrained twin of the "
            "same kind, sizes and reading (docs/concepts/meaning.md has probes that measure more).",
            *diverged(measured["frontier"]),
        ],
    )


def _auc(rows: Sequence[Mapping[str, Any]]) -> Spread | None:
    return spread(_mean(row["aucs"]) for row in rows)


def _mean(values: Sequence[float | None]) -> float | None:
    kept = [value for value in values if value is not None]
    return sum(kept) / len(kept) if kept else None


def _share_above(values: Sequence[float | None], limit: float) -> float | None:
    kept = [value for value in values if value is not None]
    return sum(value > limit for value in kept) / len(kept) if kept else None


def _claim(of: Mapping[str, Sequence[Mapping[str, Any]]]) -> str:
    parts = []
    for name, rows in of.items():
        mean = _auc(rows)
        if mean is None or name.endswith(_UNTRAINED):
            continue
        interval = "" if mean.interval is None else f" ± {mean.interval:.3f}"
        null = _auc(of.get(name + _UNTRAINED, ()))
        parts.append(f"{name} {mean.mean:.3f}{interval}" + ("" if null is None else f" (untrained {null.mean:.3f})"))
    if not parts:
        return "No latent fired often enough to be scored."
    return f"Contexts are told by the words around with a mean AUC of: {', '.join(parts)}; 0.5 is chance."


EXPERIMENT = Experiment(
    name="coherence",
    question="Are sparse latents as coherent as dense ones, by automatic detection of their contexts?",
    measure=measure,
    show=show,
    options={
        "degrees": [7, 200], "controls": ["dense", "matched"], "readings": [], "tokens": 20_000, "latents": 200,
        "width": 4, "judge": "tf-idf", "chat_url": "", "chat_model": "",
    },
)  # fmt: skip
