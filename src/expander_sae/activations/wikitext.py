"""MediaWiki markup to plain text.

Sixty lines of our own rather than a parser library: ninety-six articles of one demo do not justify a
dependency, and a template that is dropped whole costs a language model less than one that is half expanded.
"""

import html
import re

_SPANS = re.compile(
    r"<!--.*?-->|<(ref|math|gallery|timeline|source|imagemap|score|code|pre|syntaxhighlight|sup)\b"
    r"(?:[^>]*/>|[^>]*>.*?</\1\s*>)",
    re.DOTALL | re.IGNORECASE,
)
_TEMPLATE = re.compile(r"\{\{([^{}]*)\}\}")
_TABLE = re.compile(r"\{\|(?:(?!\{\|).)*?\|\}", re.DOTALL)
_LINK = re.compile(r"\[\[([^\[\]]*)\]\]")
_URL = re.compile(r"\[(?:https?:|ftp:|mailto:)?//?[^\s\]]+\s*([^\]]*)\]")
_HEADING = re.compile(r"^(={2,6})\s*(.*?)\s*\1\s*$", re.MULTILINE)
_TAG = re.compile(r"</?[a-zA-Z][^<>]*>")
_MARKERS = re.compile(r"^[*#:;]+\s*", re.MULTILINE)
_LEFTOVERS = re.compile(r"^\s*[|!{}].*$|__[A-Z]+__", re.MULTILINE)
_EMPTY_BRACKETS = re.compile(r"\s*\(\s*[,;:/\s]*\)")
_PREFIX = re.compile(r"^\s*:?[A-Za-z][A-Za-z-]*\s*:")
_END_SECTIONS = {
    "see also",
    "references",
    "external links",
    "further reading",
    "notes",
    "bibliography",
    "sources",
    "notes and references",
    "footnotes",
    "citations",
    "gallery",
}
_KEPT_TEMPLATES = {"lang", "nowrap", "transl", "transliteration", "small", "abbr", "smallcaps", "nobold"}


def strip_markup(wikitext: str) -> str:
    """Plain text of an article, without templates, tables, references, markup and closing lists.

    Headings keep a line of their own.

    Example:
        >>> strip_markup("'''Albedo''' is a [[number|figure]]{{cn}}.<ref>x</ref>")
        'Albedo is a figure.'
    """
    text = _SPANS.sub("", wikitext)
    text = _until_stable(_TEMPLATE, _template, text)
    text = _until_stable(_TABLE, lambda _match: "", text)
    text = _until_stable(_LINK, _link, text)
    text = _URL.sub(r"\1", text)
    text = _without_end_sections(text)
    text = _HEADING.sub(r"\n\2\n", text)
    text = _TAG.sub("", text)
    text = re.sub(r"'{2,5}", "", text)
    text = html.unescape(html.unescape(text)).replace("\xa0", " ")
    text = _LEFTOVERS.sub("", _MARKERS.sub("", text))
    text = _EMPTY_BRACKETS.sub("", text)
    text = re.sub(r"[ \t]+", " ", text)
    text = re.sub(r" +([,.;:)])", r"\1", re.sub(r"([(]) +", r"\1", text))
    return re.sub(r"\s*\n\s*\n\s*", "\n\n", text).strip()


def _until_stable(pattern: re.Pattern[str], replacement: object, text: str) -> str:
    """Replace innermost matches until none is left; nesting deeper than 20 is left to the clean-up."""
    for _ in range(20):
        text, count = pattern.subn(replacement, text)  # pyright: ignore[reportCallIssue, reportArgumentType]
        if count == 0:
            break
    return text


def _template(match: re.Match[str]) -> str:
    name, *arguments = [part.strip() for part in match.group(1).split("|")]
    name = name.lower()
    plain = [argument for argument in arguments if "=" not in argument]
    if name in ("convert", "cvt") and len(plain) >= 2:
        return f"{plain[0]} {plain[1]}"
    if name in _KEPT_TEMPLATES and plain:
        return plain[-1]
    return ""


def _link(match: re.Match[str]) -> str:
    target, *labels = match.group(1).split("|")
    if _PREFIX.match(target) and not labels:
        # A category or another language; a title with a colon in running text nearly always has a label.
        return target if " " in target.split(":", 1)[1][:1] else ""
    if re.match(r"\s*(file|image|category|wikt|media)\s*:", target, re.IGNORECASE):
        return ""
    return labels[-1] if labels and labels[-1].strip() else target


def _without_end_sections(text: str) -> str:
    """Cut from the first heading such as "See also" or "References" to the end of that level."""
    kept: list[str] = []
    dropping = 0
    position = 0
    for match in _HEADING.finditer(text):
        level = len(match.group(1))
        if not dropping:
            kept.append(text[position : match.start()])
            position = match.start()
        if dropping and level <= dropping:
            dropping, position = 0, match.start()
        if not dropping and match.group(2).strip().lower() in _END_SECTIONS:
            dropping = level
    if not dropping:
        kept.append(text[position:])
    return "".join(kept)
