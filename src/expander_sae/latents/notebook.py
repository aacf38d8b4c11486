"""A latent as a notebook shows it: HTML that needs nothing from elsewhere, and in which no text is markup."""

from __future__ import annotations

import html
from typing import Any

from .hostile import harmless

_SHOWN = 10
"""Contexts and tokens."""


def latent_html(latent: Any) -> str:
    """One latent: its numbers, tokens, histogram and best contexts, coloured by activation."""
    title = f"latent {latent.index} of {latent.view}"
    numbers = f"fires on {latent.density:.3%} of tokens ({latent.firings:,})"
    if latent.dead:
        return f"<div><b>{_safe(title)}</b>: {numbers}</div>"
    numbers += (
        f", mean {latent.mean:.3g}, max {latent.max:.3g}, {latent.energy:.2%} of the energy, "
        f"token entropy {latent.token_entropy:.2f} bits, specific {latent.specific:.2f} bits"
    )
    tokens = ", ".join(f"<code>{_safe(one.token)}</code> {one.firings:,}" for one in latent.top_tokens[:_SHOWN])
    lists = [("fires on", tokens)]
    for name, found in (("promotes", latent.promoted), ("suppresses", latent.suppressed)):
        lists.append((name, " ".join(f"<code>{_safe(one.token)}</code>" for one in found[:_SHOWN])))
    told = "".join(f"<div>{name}: {said}</div>" for name, said in lists if said)
    lines = "".join(_context(one, latent.max) for one in latent.contexts[:_SHOWN])
    return (
        f'<div style="font-family:sans-serif"><b>{_safe(title)}</b><div>{numbers}</div>{_bars(latent.histogram)}'
        f"{told}{lines}</div>"
    )


def _context(context: Any, highest: float) -> str:
    """One line; darker is a higher activation."""
    said = []
    for place, (token, value) in enumerate(zip(context.tokens, context.values, strict=True)):
        share = min(1.0, abs(value) / highest) if highest else 0.0
        style = f"background:rgba(230,159,0,{share:.2f})" if share else ""
        style += ";text-decoration:underline" if place == context.peak else ""
        said.append(f'<span style="{style}" title="{value:.4g}">{_safe(token)}</span>')
    return (
        f'<div style="white-space:pre-wrap;border-top:1px solid #8884"><small>{context.activation:.3g}</small> '
        f"<bdi>{''.join(said)}</bdi></div>"
    )


def _bars(histogram: Any) -> str:
    """The histogram as small bars."""
    highest = max(1, int(histogram.max()))
    bars = "".join(
        f'<rect x="{4 * place}" y="{24 - 24 * count / highest:.1f}" width="3" height="{24 * count / highest:.1f}"/>'
        for place, count in enumerate(histogram.tolist())
    )
    label = "histogram of activations"
    return f'<svg width="128" height="24" role="img" aria-label="{label}" fill="currentColor">{bars}</svg>'


def _safe(text: str) -> str:
    return html.escape(harmless(text))
