"""Errors have one form, "expected ... got ..."; what cannot be said so, a full disk say, says what happened."""

import ast
import re
from pathlib import Path

import pytest

SOURCE = Path(__file__).parents[2] / "src" / "expander_sae"


def messages(folder: Path) -> list[tuple[str, str]]:
    """Every text that an `ExpanderSaeError` is made of, with its place; what is computed is shown as {}."""
    found = []
    for path in sorted(folder.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and getattr(node.func, "id", None) == "ExpanderSaeError":
                pieces = [part for part in ast.walk(node.args[0]) if isinstance(part, ast.Constant)]
                pieces.sort(key=lambda part: (part.lineno, part.col_offset))
                text = "{}".join(part.value for part in pieces if isinstance(part.value, str))
                found.append((f"{path.relative_to(SOURCE)}:{node.lineno}", text))
    return found


ROOMS = sorted(path.parent.name for path in SOURCE.glob("*/__init__.py"))


@pytest.mark.parametrize("room", ROOMS)
def test_what_was_expected_stands_beside_what_was_given(room):
    for place, text in messages(SOURCE / room):
        assert not re.search(r"\bsaw\b|\bmust be\b|\bshould be\b", text), f"{place}: {text}"
        assert not re.search(r"\bfound none\b|  ", text), f"{place}: {text}"
        assert "expected" not in text or re.search(r"expected.*\bgot\b", text, re.DOTALL), f"{place}: {text}"


def test_messages_are_found():
    assert len(messages(SOURCE)) > 200
