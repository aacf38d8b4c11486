"""Text of a user's or a model's as it may be shown: nothing in it steers a terminal or the direction of writing."""

import unicodedata

_DIRECTIONS = {chr(code) for code in (0x061C, 0x200E, 0x200F, *range(0x202A, 0x202F), *range(0x2066, 0x206A))}


def spelt(character: str) -> str:
    """The character, or its code where it is a control character, half of a pair or turns the direction of writing.

    Example:
        >>> spelt("a"), spelt("\\x1b"), spelt("\\u202e")
        ('a', '\\\\x1b', '\\\\u202e')
    """
    if unicodedata.category(character) not in ("Cc", "Cs") and character not in _DIRECTIONS:
        return character
    code = ord(character)
    return f"\\x{code:02x}" if code < 256 else f"\\u{code:04x}"
