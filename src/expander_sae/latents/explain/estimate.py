"""How much will be asked, before anything is."""

from __future__ import annotations

from dataclasses import dataclass

from .asking import Asker
from .prompts import LONGEST, ask_to_judge
from .run import Explained, names
from .scores import KINDS, samples

LOOKED_AT = 256
"""Latents whose questions are counted; of more, the rest is taken to be like them."""


@dataclass(frozen=True)
class Estimate:
    """Questions that are to be asked, and their tokens; those that are known are in none of them but `known`."""

    questions: int
    known: int
    prompt_tokens: int
    completion_tokens: int
    """At most, if every answer is as long as it may be."""


def estimate(given: Explained, asker: Asker, *, scored: bool, max_tokens: int) -> Estimate:
    """Count the questions of (a sample of) the latents.

    What is asked to score a label has the label in it. Where a latent's name is known, its scores are taken to be known
    too; where it is not, the label is taken to be as long as one may be.
    """
    step = max(1, len(given.latents) // LOOKED_AT)
    looked_at = given.latents[::step]
    questions = known = prompt = 0
    for latent in looked_at:
        evidence = given.evidence(latent)
        (name,) = names(given, [evidence], max_tokens=max_tokens)
        mine = [name]
        if scored and evidence.scored:
            for kind in KINDS:
                mine += 2 * ask_to_judge("x" * LONGEST, samples(evidence, kind), max_tokens=max_tokens)
        if asker.known(name):
            known += len(mine)
        else:
            questions += len(mine)
            prompt += sum(question.tokens for question in mine)
    scale = len(given.latents) / len(looked_at)
    count = round(questions * scale)
    return Estimate(count, round(known * scale), round(prompt * scale), count * max_tokens)
