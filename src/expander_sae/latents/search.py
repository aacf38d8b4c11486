"""Which latents a search finds, and in which order: SQL and its values."""

from __future__ import annotations

import math
import re
from typing import Any

from expander_sae.records import ExpanderSaeError, whole_number

from .latent import View
from .writing import row_of, storable

ORDERS = {
    "match": "",
    "specific": "l.specific DESC",
    "density": "l.firings DESC",
    "max": "l.max DESC",
    "energy": "l.energy DESC",
    "latent": "l.latent",
}
_WORD = re.compile(r"[^\W_]+")
_SPACES = "' ' || char(9, 10, 13)"
TEXT_LENGTH = 10_000
"""Characters that a search may have."""
MATCHES = 4_000
"""Latents with the words that are looked at, in order of their numbers: a word that more have tells none of them."""


def statement(
    view: View,
    *,
    text: str | None,
    token: str | int | None,
    density: tuple[float, float] | None,
    alive: bool,
    order: str,
    limit: int,
    offset: int,
) -> tuple[str, list[Any]]:
    """SQL that finds the indices of latents; `LatentStore.search` says what the arguments are.

    Raises:
        ExpanderSaeError: no such order, or a search that is none.
    """
    if order not in ORDERS:
        raise ExpanderSaeError(f"expected an order out of {', '.join(ORDERS)}; got {order!r}")
    for given in (text, token):
        if isinstance(given, str) and len(given) > TEXT_LENGTH:
            raise ExpanderSaeError(f"expected at most {TEXT_LENGTH:,} characters to search for; got {len(given):,}")
    tables, joined, where, values = ["latents l"], [], ["l.view = ?"], [view.id]
    best = ORDERS["density"]
    if token is not None:
        ids, value = _tokens(token)
        tables.append(f"({_HITS.format(tokens=ids)}) t ON t.latent = l.latent")
        joined += [view.id, value]
        best = "1.0 * t.hits * t.hits / l.firings DESC"
    if text is not None and text.strip():
        words = _WORD.findall(text)
        if words:
            tables.append(f"({_MATCHES}) m ON l.latent = m.latent")
            phrases = " ".join(f'"{word}"' for word in words) + ("*" if len(words[-1]) > 1 else "")
            joined += [row_of(view.id, 0), phrases, row_of(view.id, 0), row_of(view.id, view.n_latents)]
            best = "m.score"
        else:  # signs alone: no word to look up
            where.append(f"l.latent IN ({_LATENTS.format(tokens=_CONTAINS)})")
            values += [view.id, storable(text.strip())]
    if alive:
        where.append("l.firings > 0")
    if density is not None:
        low, high = density
        where.append("l.firings BETWEEN ? AND ?")
        values += [math.ceil(low * view.tokens - 1e-9), math.floor(high * view.tokens + 1e-9)]
    values += [whole_number("limit", limit, least=0), whole_number("offset", offset, least=0)]
    ordered = ORDERS[order] or best
    ordered += "" if ordered == "l.latent" else ", l.latent"
    found = f"SELECT l.latent FROM {' JOIN '.join(tables)} WHERE {' AND '.join(where)}"
    return f"{found} ORDER BY {ordered} LIMIT ? OFFSET ?", [*joined, *values]


_MATCHES = (
    "SELECT rowid - ? AS latent, bm25(texts, 10.0, 1.0) AS score FROM texts "
    f"WHERE texts MATCH ? AND rowid BETWEEN ? AND ? LIMIT {MATCHES}"
)
_LATENTS = "SELECT latent FROM top_tokens WHERE view = ? AND token IN ({tokens})"
_HITS = (
    "SELECT latent, SUM(firings) AS hits FROM top_tokens INDEXED BY by_token "
    "WHERE view = ? AND token IN ({tokens}) GROUP BY latent"
)
_CONTAINS = "SELECT id FROM vocabulary WHERE instr(text, ?) > 0"


def _tokens(token: str | int) -> tuple[str, Any]:
    """What finds the ids of a token, and the value that it takes."""
    if isinstance(token, int):
        return "?", whole_number("token", token, least=0, most=(1 << 32) - 1)
    token = storable(token)
    if not token.strip():
        return "SELECT id FROM vocabulary WHERE text = ?", token
    return f"SELECT id FROM vocabulary WHERE lower(trim(text, {_SPACES})) = lower(?)", token.strip()
