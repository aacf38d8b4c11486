"""`expander-sae explain`: a feature store in, labels of its latents with their scores out."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from expander_sae.records import ExpanderSaeError, write_json
from expander_sae.records.progress import Bars

from .console import Output, errors, output, visible
from .options import FeatureStore, Quiet

if TYPE_CHECKING:
    from expander_sae.latents.explain.run import Explained, Explanation

_METHODS = ("words", "embedding", "chat")
_KEY = "EXPANDER_SAE_JUDGE_KEY"


def explain(
    store: FeatureStore,
    method: Annotated[
        str,
        typer.Option(
            help="words: a rule over words and token classes, no model is asked; embedding: the phrase that a small "
            "installed model finds nearest to where a latent fires; or chat: a language model over the OpenAI chat "
            f"protocol (--url, --chat-model; a key, if it wants one, in the environment as {_KEY})."
        ),
    ] = "words",
    view: Annotated[
        str | None, typer.Option(help="Which SAE and reading, by name or number.", show_default="the first")
    ] = None,
    latents: Annotated[str | None, typer.Option(help="Only these, as 1,2,5-9.", show_default="all that fire")] = None,
    top: Annotated[int | None, typer.Option(help="Only so many, those of the most energy.")] = None,
    url: Annotated[
        str | None, typer.Option(help="For chat: the endpoint with its version, as http://localhost:8000/v1.")
    ] = None,
    chat_model: Annotated[str | None, typer.Option(help="For chat: the model's name there.")] = None,
    price: Annotated[
        str | None,
        typer.Option(help="For chat: what a million tokens cost, of questions and of answers, as 0.15,0.60."),
    ] = None,
    parallel: Annotated[int, typer.Option(help="For chat: questions under way at once.")] = 8,
    max_reply_tokens: Annotated[int, typer.Option(help="For chat: tokens of an answer at most.")] = 400,
    answers: Annotated[
        Path | None,
        typer.Option(
            help="For chat and embedding: file that keeps what was found; nothing in it is asked again.",
            show_default="STORE.answers.db",
        ),
    ] = None,
    scores: Annotated[
        bool, typer.Option("--scores/--no-scores", help="Score labels on held-out windows, or not.")
    ] = True,
    labels: Annotated[
        Path | None, typer.Option(help="File of labels to write to.", show_default="STORE.labels.db")
    ] = None,
    yes: Annotated[bool, typer.Option("--yes", help="For chat: do not ask whether the price is all right.")] = False,
    seed: Annotated[int, typer.Option(help="Of the draws of held-out windows and nulls.")] = 0,
    json: Annotated[Path | None, typer.Option(help="Also write the labels as JSON to this file.")] = None,
    quiet: Quiet = False,
) -> None:
    """Label the latents of a feature store, and score the labels by detection and fuzzing on text that they were not
    made from, beside the labels of other latents; docs/guides/explain.md says how.

    Labels go into the label file beside the store, where the browser and `encode --labels` find them. A person's label
    is never touched.
    """
    from expander_sae.latents import LabelFile, LatentStore  # NumPy, and for words torch

    if method not in _METHODS:
        raise ExpanderSaeError(f"expected --method out of {', '.join(_METHODS)}; got {method!r}")
    prices = _prices(price)
    answered = answers or store.with_name(f"{store.stem}.answers.db")
    console = output(json, quiet=quiet)
    with LatentStore.open(store) as opened, _label_file(LabelFile, labels, store) as file:
        from expander_sae.latents.explain.run import Explained

        chosen = opened.view(int(view) if view is not None and view.isdigit() else view)
        given = Explained(opened, chosen, _chosen(latents, top, opened, chosen), seed=seed)
        if not given.latents:
            raise ExpanderSaeError(f"expected latents of {chosen.name} that fire; got none")
        if method == "words":
            from expander_sae.latents.explain.run import by_words

            found = _kept(by_words(given, scored=scores), given, file, quiet)
        elif method == "embedding":
            from expander_sae.latents.explain.answers import Answers
            from expander_sae.latents.explain.embedding import AT_ONCE, by_embedding
            from expander_sae.latents.explain.encoder import installed_encoder

            given.at_once = AT_ONCE
            steps = by_embedding(given, installed_encoder(), Answers(answered), scored=scores)
            found = _kept(steps, given, file, quiet)
        else:
            from .explain_by_chat import Asking, Chat

            chat = Chat(url, chat_model, os.environ.get(_KEY), prices, parallel, max_reply_tokens)
            asking = Asking(given, chat, answered, scored=scores)
            asking.confirm(console, None if yes else _confirmed)
            found = _kept(asking.labels(), given, file, quiet)
            asking.say(console)
        if json is not None:
            write_json(json, [one.as_dict() for one in found])
        _say(console, given, found, file.path)


def _label_file(kind: Any, labels: Path | None, store: Path) -> Any:
    return kind.beside(store) if labels is None else kind(labels)


def _kept(steps: Any, given: Explained, file: Any, quiet: bool) -> list[Explanation]:
    """All explanations; each batch is in the label file before the next begins."""
    found: list[Explanation] = []
    with Bars("Explaining", show=not quiet) as bars:
        bar = bars.begin("latents", len(given.latents))
        for number, batch in enumerate(steps, 1):
            file.put_explanations(batch)
            found += batch
            bars.update(bar, done=min(len(given.latents), number * given.at_once))
    return found


def _say(console: Output, given: Explained, found: list[Explanation], place: Path) -> None:
    """How many labels there are, how good they are, and some of them."""
    console.print(f"{len(found):,} of {len(given.latents):,} latents of {given.view.name} have a label: {place}")
    for kind in ("detection", "fuzzing"):
        scored = [one.scores[kind] for one in found if one.scores.get(kind, {}).get("balanced_accuracy") is not None]
        if scored:
            mean = sum(one["balanced_accuracy"] or 0.0 for one in scored) / len(scored)
            nulls = [one["null"] for one in scored if one["null"] is not None]
            null = f", by another latent's label {sum(nulls) / len(nulls):.3f}" if nulls else ""
            console.print(f"{kind}: balanced accuracy {mean:.3f}{null}; mean of {len(scored):,} latents (chance .5)")
    for one in found[:10]:
        console.print(f"  {one.latent:>7}  {visible(one.text)}")
    if len(found) > 10:
        console.print(f"  ... and {len(found) - 10:,} more")


def _confirmed(question: str) -> bool:
    """Whether the person at the terminal says yes.

    Raises:
        ExpanderSaeError: there is no terminal.
    """
    if not sys.stdin.isatty():
        raise ExpanderSaeError("expected --yes where nobody can be asked; got no terminal")
    errors().print(question)
    return typer.confirm("Ask?", err=True)


def _prices(text: str | None) -> tuple[float, float] | None:
    """Of a million tokens of questions and of answers."""
    if text is None:
        return None
    try:
        question, answer = (float(part) for part in text.split(","))
        if not (0 <= question < float("inf") and 0 <= answer < float("inf")):
            raise ValueError
    except ValueError:
        raise ExpanderSaeError(f"expected --price as two numbers, 0.15,0.60; got {text!r}") from None
    return question, answer


def _chosen(latents: str | None, top: int | None, store: Any, view: Any) -> list[int]:
    if latents is not None and top is not None:
        raise ExpanderSaeError("expected --latents or --top; got both")
    if top is not None:
        if top < 1:
            raise ExpanderSaeError(f"expected --top of one at least; got {top}")
        return [one.index for one in store.search(view=view, order="energy", limit=top)]
    return list(range(view.n_latents)) if latents is None else numbers(latents, view.n_latents)


def numbers(text: str, count: int) -> list[int]:
    """The latents that a text as 1,2,5-9 names, each once, in its order.

    Raises:
        ExpanderSaeError: it is no such text, or names one that there is not.
    """
    found: dict[int, None] = {}
    for part in text.split(","):
        first, dash, last = part.strip().partition("-")
        ends = (first, last if dash else first)
        if not all(end.isascii() and end.isdigit() for end in ends) or not int(ends[0]) <= int(ends[1]) < count:
            raise ExpanderSaeError(f"expected --latents as 1,2,5-9, below {count}; got {part.strip()!r} in {text!r}")
        found |= dict.fromkeys(range(int(ends[0]), int(ends[1]) + 1))
    return list(found)
