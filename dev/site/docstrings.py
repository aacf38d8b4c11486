"""Our docstrings say `Example:` where griffe knows `Examples:`, the heading under which it shows doctests as code."""

import re
from typing import Any

import griffe


class OneExample(griffe.Extension):
    """Reads the one as the other."""

    def on_object(self, *, obj: griffe.Object, **_: Any) -> None:
        """Of every object that is collected."""
        if obj.docstring is not None:
            obj.docstring.value = re.sub(r"^(\s*)Example:$", r"\1Examples:", obj.docstring.value, flags=re.MULTILINE)
