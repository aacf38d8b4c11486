"""What mkdocs calls while it builds the site: pages that are made, not written, join those of docs/."""

import re
import sys
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE), str(HERE.parents[1] / "benchmarks")]

import api  # noqa: E402
import command_line  # noqa: E402
import record_pages  # noqa: E402


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Generated pages stand in the navigation where their room is."""
    for entry in config.nav:
        (title, below), *_ = entry.items()
        if title == "Reference":
            rooms = [{room: f"reference/api/{api.file_of(room)}"} for room in api.ROOMS]
            below[1:1] = [{"Command line": "reference/command-line.md"}, {"API": ["reference/api/index.md", *rooms]}]
        if title == "Developers":
            below.append({"Log": "developers/log.md"})
        if title == "Results":
            below.append({"Records": ["results/records/index.md"]})
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Adds them."""
    made = {f"reference/api/{name}": text for name, text in api.pages().items()}
    made["reference/command-line.md"] = command_line.page()
    made["developers/log.md"] = (HERE.parent / "LOG.md").read_text(encoding="utf-8")
    made |= {f"results/records/{name}": text for name, text in record_pages.pages().items()}
    for path, text in made.items():
        files.append(File.generated(config, path, content=text))
    return files


def on_post_page(output: str, page: Page, config: MkDocsConfig) -> str:
    """mkdocs leaves links of notebooks as they are written; they lead to the built pages here."""
    if not page.file.src_uri.endswith(".py"):
        return output
    return re.sub(r'(<a [^>]*href="(?![a-z]+:)[^"#]+)\.(?:md|py)(#[^"]*)?"', r'\1.html\2"', output)


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """A number and its interval stay on one line."""
    return markdown.replace(" ± ", "\u00a0±\u00a0")
