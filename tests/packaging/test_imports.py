"""Who imports whom: no circles among the modules of the package, and no heavy package before it is needed.

Every import counts, wherever it stands: one inside a function or under `TYPE_CHECKING` only hides a circle, and its
files still cannot be read or moved one without the other. The `__init__` of a package is a module of its own; an import
of a module is none of the packages around it, which Python imports by itself.
"""

import ast
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SOURCE = ROOT / "src"
_NAMED = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["dependencies"]
DEPENDENCIES = {re.match(r"[\w-]+", text)[0].replace("-", "_") for text in _NAMED} | {"scipy", "pandas"}
"""Packages that come with this one; most take from a tenth of a second to seconds to import."""


def modules(source: Path, package: str) -> dict[str, Path]:
    """Every module of a package by its name."""
    found: dict[str, Path] = {}
    for path in sorted((source / package).rglob("*.py")):
        parts = path.relative_to(source).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def imported(name: str, path: Path, known: dict[str, Path]) -> Iterator[str]:
    """The modules of the package that a module imports anywhere in its file."""
    package = name.split(".") if path.name == "__init__.py" else name.split(".")[:-1]
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name in known)
        elif isinstance(node, ast.ImportFrom):
            around = package[: len(package) - node.level + 1] if node.level else []
            base = ".".join([*around, *filter(None, [node.module])])
            inner = [f"{base}.{alias.name}" for alias in node.names]
            yield from (one if one in known else base for one in inner if one in known or base in known)


def circles(source: Path, package: str) -> set[frozenset[str]]:
    """Groups of modules each of which imports every other one, by whatever way."""
    known = modules(source, package)
    graph = {name: set(imported(name, path, known)) - {name} for name, path in known.items()}

    def reached(start: str) -> set[str]:
        found: set[str] = set()
        waiting = [start]
        while waiting:
            new = graph[waiting.pop()] - found
            found |= new
            waiting += new
        return found

    reach = {name: reached(name) for name in graph}
    groups = {frozenset(other for other in reach[name] if name in reach[other]) for name in graph}
    return {group for group in groups if len(group) > 1}


def test_no_module_imports_itself_in_a_circle():
    found = circles(SOURCE, "expander_sae")
    assert not found, f"modules that import each other: {[sorted(group) for group in found]}"


def test_a_circle_is_found_however_it_is_hidden(tmp_path):
    package = tmp_path / "pack"
    (package / "inner").mkdir(parents=True)
    (package / "__init__.py").touch()
    (package / "inner" / "__init__.py").write_text("from .first import A\n")
    (package / "inner" / "first.py").write_text("def f():\n    from .second import B\n")
    (package / "inner" / "second.py").write_text(
        "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from pack.inner import third\n"
    )
    (package / "inner" / "third.py").write_text("import pack.inner.first\nfrom .. import __name__\n")
    (package / "alone.py").write_text("from .inner.first import f\nimport ast\n")
    assert circles(tmp_path, "pack") == {frozenset(f"pack.inner.{name}" for name in ("first", "second", "third"))}


@pytest.mark.parametrize(
    ("code", "allowed"),
    [
        ("import expander_sae, expander_sae.records", set()),
        ("import expander_sae.graphs", {"numpy"}),
        ("from expander_sae.cli.main import app\napp(['--help'], standalone_mode=False)", {"typer", "rich"}),
        ("from expander_sae.cli.main import app\napp(['train', '--help'], standalone_mode=False)", {"typer", "rich"}),
        # Figures and reports are drawn by experiments, not by who trains a grid.
        ("import expander_sae.frontier", set()),
        (
            "from expander_sae.frontier import Sweep, load_frontier, plan, run_frontier",
            {"torch", "numpy", "safetensors", "rich", "filelock"},
        ),
        (
            "import expander_sae.compression, expander_sae.interop",  # and with them all that trains and reads SAEs
            {"torch", "numpy", "safetensors", "rich"},
        ),
    ],
)
def test_only_what_is_needed_is_imported(code, allowed):
    report = "print(*{name.partition('.')[0] for name in sys.modules})"
    run = [sys.executable, "-c", f"import sys\n{code}\n{report}"]
    shown = subprocess.run(run, capture_output=True, text=True, check=True, timeout=120).stdout
    assert not (DEPENDENCIES - allowed) & set(shown.splitlines()[-1].split())
