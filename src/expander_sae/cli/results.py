"""Files and folders that a verb makes: a rerun finds its own work done, and other work is not replaced unasked."""

from __future__ import annotations

import filecmp
import tempfile
from collections.abc import Callable
from pathlib import Path

from expander_sae.records import ExpanderSaeError


def write_result(out: Path, overwrite: bool, write: Callable[[Path], object]) -> None:
    """Call `write(out)`, unless the same is there already; files that are there and differ are an error.

    Args:
        out: the file or folder to write. A folder may hold other files too.
        overwrite: replace what differs.
        write: writes to the path that it is given, the same bytes whenever it is called.

    Raises:
        ExpanderSaeError: a file is there already and is another one, or what `write` raises.
    """
    if overwrite or not (out.is_file() or out.is_dir()):
        write(out)
        return
    with tempfile.TemporaryDirectory() as room:
        made = Path(room) / (out.name or "made")
        write(made)
        files = [made] if made.is_file() else sorted(file for file in made.rglob("*") if file.is_file())
        pairs = [(file, out / file.relative_to(made) if file != made else out) for file in files]
        differing = [old for new, old in pairs if old.exists() and not _same(new, old)]
        if differing:
            raise there_already(differing[0])
        if all(old.exists() for _, old in pairs):
            return
    write(out)


def _same(new: Path, old: Path) -> bool:
    return old.is_file() and filecmp.cmp(new, old, shallow=False)


def there_already(path: Path) -> ExpanderSaeError:
    """What is said where something else would have to be replaced."""
    return ExpanderSaeError(
        f"{path} is there already, and this command would write something else. Choose another --out, or replace it "
        "with --overwrite."
    )
