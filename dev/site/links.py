"""Is a built site whole: every link and anchor inside leads somewhere, and nothing is fetched from outside?

python dev/site/links.py build/site
"""

import sys
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

FETCHED = {("script", "src"), ("img", "src"), ("link", "href"), ("iframe", "src"), ("source", "src"), ("video", "src")}
"""What a browser asks for by itself."""
HARMLESS = ("canonical", "prev", "next")
"""Kinds of `link` that only say something."""


class Read(HTMLParser):
    """The links and anchors of a page."""

    def __init__(self) -> None:
        super().__init__()
        self.anchors: set[str] = set()
        self.links: list[str] = []
        self.fetched: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        self.anchors |= {value for name in ("id", "name") if (value := given.get(name))}
        for name in ("href", "src"):
            target = given.get(name)
            if target and (tag, name) in FETCHED and given.get("rel") not in HARMLESS:
                self.fetched.append(target)
            if target:
                self.links.append(target)


def complaints(site: Path) -> Iterator[str]:
    """What is wrong, a line each."""
    pages = {}
    for path in sorted(site.rglob("*.html")):
        pages[path.resolve()] = page = Read()
        page.feed(path.read_text(encoding="utf-8"))
    for path, page in pages.items():
        if path.name == "404.html":  # its addresses are of a server's root
            continue
        here = path.relative_to(site.resolve())
        for target in page.fetched:
            if urlsplit(target).scheme not in ("", "data") or target.startswith("//"):
                yield f"{here}: asks outside for {target}"
        for target in page.links:
            parts = urlsplit(target)
            if parts.scheme or target.startswith("//"):
                continue
            found = (path.parent / unquote(parts.path)).resolve() if parts.path else path
            if not found.exists():
                yield f"{here}: no {target}"
            elif found in pages and unquote(parts.fragment) not in pages[found].anchors | {""}:
                yield f"{here}: no anchor {target}"


def main() -> None:
    """Command line."""
    found = list(complaints(Path(sys.argv[1])))
    print("\n".join(found) or "every link and anchor leads somewhere, and nothing is fetched from outside")
    sys.exit(bool(found))


if __name__ == "__main__":
    main()
