"""A page for each record in docs/results: its claim, its figures, all of its tables."""

import json
import re

import documents
import recorded

from expander_sae.frontier.experiments import find_experiment

RESULTS = recorded.DOCS / "results"
EARLIER = re.compile(r"-(b1024|onebatch|tuning-.*)(-|$)|-(irregular|dense)$")
"""Records of settings or moves that are not today's."""


def names() -> list[str]:
    """The records that an experiment wrote."""
    paths = sorted((recorded.DOCS / "results").glob("*.json"))
    return [path.stem for path in paths if json.loads(path.read_text(encoding="utf-8")).get("experiment")]


def pages() -> dict[str, str]:
    """Markdown by file name."""
    made, listed = {}, []
    for name in names():
        made[f"{name}.md"] = page_of(name)
        asked = find_experiment(recorded.read(name, RESULTS)["experiment"])
        listed.append(f"| [{name}]({name}.md) | {asked.question} | {'earlier' if EARLIER.search(name) else 'today'} |")
    head = [
        "# Records",
        "",
        "Every record behind these pages, with all of its numbers. Files: `docs/results`.",
        "",
    ]
    made["index.md"] = "\n".join([*head, "| record | question | settings |", "|---|---|---|", *listed, ""])
    return made


def page_of(name: str) -> str:
    """A record's claim, figures, tables and notes."""
    page = recorded.page_of_record(name, RESULTS)
    lines = [f"# {name}", "", page.claim, ""]
    if EARLIER.search(name):
        lines += [
            "!!! note",
            "    Earlier settings or moves of entries: [history](../history.md).",
            "",
        ]
    shown = [figure for figure, (record, _) in documents.FIGURES.items() if record == name]
    lines += [line for figure in shown for line in (f"![{figure}](../../figures/{figure}.svg)", "")]
    for table in page.tables:
        rows = [[recorded.title(cell).replace("|", "\\|") for cell in row] for row in table.rows]
        columns = [column.replace("|", "\\|") for column in table.columns]
        lines += [f"## {table.title}", "", *documents.markdown(columns, rows), ""]
        lines += [table.note, ""] if table.note else []
    lines += [line for note in page.notes for line in (note, "")]
    return "\n".join(lines)
