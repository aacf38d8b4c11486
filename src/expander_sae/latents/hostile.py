"""Tokens as they may be shown anywhere: nothing in them steers a terminal or the direction of writing."""

import unicodedata

LENGTH = 200
"""Characters of a token that are shown."""
_NAMES = {"\n": "↵", "\t": "⇥", "\r": "␍"}
_DIRECTIONS = {chr(code) for code in (0x061C, 0x200E, 0x200F, *range(0x202A, 0x202F), *range(0x2066, 0x206A))}


def harmless(text: str, length: int = LENGTH) -> str:
    """The text with line breaks and tabs as signs, control characters and direction marks spelt out, and cut off.

    Example:
        >>> harmless("a\\n\\x1b[31m")
        'a↵\\\\x1b[31m'
    """
    shown = "".join(_shown(character) for character in text[:length])
    return shown if len(text) <= length else f"{shown}… ({len(text):,} characters)"


def _shown(character: str) -> str:
    if character in _NAMES:
        return _NAMES[character]
    if unicodedata.category(character) in ("Cc", "Cs") or character in _DIRECTIONS:
        code = ord(character)
        return f"\\x{code:02x}" if code < 256 else f"\\u{code:04x}"
    return character
