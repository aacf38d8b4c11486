"""Tokens as they may be shown anywhere: nothing in them steers a terminal or the direction of writing."""

from expander_sae.records.shown import spelt

LENGTH = 200
"""Characters of a token that are shown."""
_NAMES = {"\n": "↵", "\t": "⇥", "\r": "␍"}


def harmless(text: str, length: int = LENGTH) -> str:
    """The text with line breaks and tabs as signs, control characters and direction marks spelt out, and cut off.

    Example:
        >>> harmless("a\\n\\x1b[31m")
        'a↵\\\\x1b[31m'
    """
    shown = "".join(_NAMES.get(character) or spelt(character) for character in text[:length])
    return shown if len(text) <= length else f"{shown}… ({len(text):,} characters)"
