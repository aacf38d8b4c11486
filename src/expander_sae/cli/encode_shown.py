"""`expander-sae encode --labels`: codes on the terminal, with what a feature store and its labels say of latents."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rich.text import Text

from expander_sae.latents import LatentStore
from expander_sae.latents.hostile import harmless
from expander_sae.latents.names import Names

from .console import Output

_SHADES = ("grey50", "yellow4", "gold3", "dark_orange", "bold dark_orange")
"""From a weak activation to the highest that the store saw."""
_WIDTH = 18
"""Characters of a token on its line."""


def print_codes(
    console: Output,
    names: Names,
    codes: Iterator[tuple[list[int], list[list[int]], list[list[float]]]],
    words: Callable[[list[int]], list[str]],
    top: int,
) -> int:
    """A line for each token: what it says, and its largest codes with the latents' names; the number of tokens.

    Args:
        console: where.
        names: of the latents.
        codes: token ids, indices and values of some tokens at a time.
        words: what tokens say.
        top: latents of a token at most.
    """
    count = 0
    for ids, indices, values in codes:
        count += len(ids)
        chosen = [
            sorted(((v, j) for j, v in zip(*pair, strict=True) if v), key=lambda one: -abs(one[0]))[:top]
            for pair in zip(indices, values, strict=True)
        ]
        told = names.of(j for line in chosen for _, j in line)
        for said, line in zip(words(ids), chosen, strict=True):
            shown = Text(harmless(said, _WIDTH).ljust(_WIDTH), style="bold")
            for value, j in line:
                name, highest = told[j]
                shown.append(f"  {j} {value:.3g} ", style=_shade(value, highest))
                shown.append(name, style="default not bold")
            console.print(shown)
    return count


def print_latent(console: Output, names: Names, j: int) -> None:
    """One latent's numbers and best contexts, each token coloured by its activation.

    Raises:
        ExpanderSaeError: the SAE has no such latent.
    """
    latent = names.store.latent(j, view=names.view)
    name, highest = names.of([j])[j]
    console.print(Text.assemble((f"{j} ", "bold"), (name, "bold"), f"  ({latent.view})"))
    console.print(f"fires on {latent.firings:,} of {names.view.tokens:,} tokens ({latent.density:.3%})")
    if latent.dead:
        return
    console.print(
        f"activation {latent.mean:.3g} on average, {latent.max:.3g} at most; token entropy "
        f"{latent.token_entropy:.2f} bits, specific {latent.specific:.2f} bits"
    )
    for what, found in (("fires on", latent.top_tokens), ("promotes", latent.promoted)):
        if found:
            console.print(f"{what}: " + "  ".join(harmless(one.token, 20) for one in found))
    for context in latent.contexts:
        line = Text(f"{context.activation:8.3g}  ", style="dim")
        for place, (token, value) in enumerate(zip(context.tokens, context.values, strict=True)):
            style = _shade(value, highest) if value else "default not dim"
            line.append(harmless(token), style=f"{style} underline" if place == context.peak else style)
        console.print(line)


@contextmanager
def open_names(labels: Path, sae: Any) -> Iterator[Names]:
    """The names of an SAE's latents, from a feature store and the labels beside it.

    Raises:
        ExpanderSaeError: there is no such store, or it is of other SAEs.
    """
    from expander_sae.latents.identity import sae_sha256

    with LatentStore.open(labels) as store:
        yield Names(store, sae_sha256(sae), str(sae.reading))


def _shade(value: float, highest: float) -> str:
    share = min(1.0, abs(value) / highest) if highest else 1.0
    return f"{_SHADES[round(share * (len(_SHADES) - 1))]} not dim"
