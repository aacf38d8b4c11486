"""The eight sets of texts that SAEBench probes on, read from the hub in their own columns.

Names, columns and classes are SAEBench's (0.6). A set is as large as its tasks need: rows are streamed and reading
stops when every class has enough.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from expander_sae.records import ExpanderSaeError

from .labelled import TEST_SIZE, TRAIN_SIZE, LabelledTexts, collect

LICENSE_CHARACTERS = 150
"""Characters at the head of a file of code that are left out: its licence, not its language."""
LEAST_CODE = 384
"""Characters of code that must be left."""


@dataclass(frozen=True)
class HubSet:
    """Where a set is and how its rows are read."""

    repo: str
    classes: tuple[str, ...]
    text: str = "text"
    label: str = "label"
    attribute: str | None = None
    """Column over which each class is balanced."""
    configurations: tuple[tuple[str, str], ...] = ()
    """Configuration of the set and the one class that it has, where the columns do not say the class."""
    own_split: bool = True
    """Whether the hub has a test split; otherwise both sides are drawn from `train`."""


_BIOS: dict[str, Any] = {
    "repo": "LabHC/bias_in_bios",
    "text": "hard_text",
    "label": "profession",
    "attribute": "gender",
}
_REVIEWS: dict[str, Any] = {"repo": "canrager/amazon_reviews_mcauley_1and5"}
HUB_SETS: dict[str, HubSet] = {
    "bias_in_bios_class_set1": HubSet(classes=("0", "1", "2", "6", "9"), **_BIOS),
    "bias_in_bios_class_set2": HubSet(classes=("11", "13", "14", "18", "19"), **_BIOS),
    "bias_in_bios_class_set3": HubSet(classes=("20", "21", "22", "25", "26"), **_BIOS),
    "amazon_reviews": HubSet(classes=("1", "2", "3", "5", "6"), label="category", attribute="rating", **_REVIEWS),
    "amazon_reviews_sentiment": HubSet(classes=("1.0", "5.0"), label="rating", **_REVIEWS),
    "github-code": HubSet(
        "codeparrot/github-code", ("C", "Python", "HTML", "Java", "PHP"), text="code", label="language", own_split=False
    ),
    "ag_news": HubSet("fancyzhx/ag_news", ("0", "1", "2", "3")),
    "europarl": HubSet(
        "Helsinki-NLP/europarl", ("en", "fr", "de", "es", "nl"), text="translation", own_split=False,
        configurations=(("en-fr", "en"), ("fr-it", "fr"), ("de-en", "de"), ("es-fr", "es"), ("nl-pt", "nl")),
    ),
}  # fmt: skip
"""SAEBench's sets by the name that `--labelled` takes."""

Load = Callable[..., Iterable[Mapping[str, Any]]]


def read_hub_set(name: str, load: Load | None = None) -> LabelledTexts:
    """One of SAEBench's sets, with rows enough for its sizes.

    Args:
        name: out of `HUB_SETS`.
        load: `datasets.load_dataset`, or what answers like it.

    Raises:
        ExpanderSaeError: no such set, the hub cannot be reached, or a row has other columns.
    """
    if name not in HUB_SETS:
        raise ExpanderSaeError(f"expected a set out of {', '.join(HUB_SETS)}; got {name!r}")
    chosen = HUB_SETS[name]
    if load is None:
        from datasets import load_dataset

        load = load_dataset
    rows: list[dict[str, Any]] = []
    sides = {"train": TRAIN_SIZE // 2, "test": TEST_SIZE // 2}
    wanted = list(sides.items()) if chosen.own_split else [("train", sum(sides.values()))]
    try:
        for split, each in wanted:
            for configuration, only in chosen.configurations or ((None, None),):
                place = (chosen.repo,) if configuration is None else (chosen.repo, configuration)
                source = load(*place, split=split, streaming=True)
                rows += _enough(source, chosen, chosen.classes if only is None else (only,), split, each)
    except KeyError as error:
        raise ExpanderSaeError(f"expected the columns of {chosen.repo} that SAEBench reads; got no {error}") from error
    except (OSError, ValueError, RuntimeError) as error:
        if isinstance(error, ExpanderSaeError):
            raise
        raise ExpanderSaeError(
            f"expected {chosen.repo} on the hub; got {str(error).splitlines()[0]} Give a .jsonl file of text and label "
            "instead."
        ) from error
    return collect(name, rows, chosen.repo)


def _enough(
    source: Iterable[Mapping[str, Any]], chosen: HubSet, classes: tuple[str, ...], split: str, each: int
) -> Iterable[dict[str, Any]]:
    """Rows of these classes, until there are `each` of every class (half as many of each attribute)."""
    got: Counter[tuple[str, str]] = Counter()
    full: set[str] = set()
    for row in source:
        if chosen.configurations:
            label, text = classes[0], row[chosen.text][classes[0]]
        else:
            label, text = str(row[chosen.label]), row[chosen.text]
        if label not in classes or label in full:
            continue
        if chosen.text == "code":
            text = text[LICENSE_CHARACTERS:]
            if len(text) <= LEAST_CODE:
                continue
        attribute = "" if chosen.attribute is None else str(row[chosen.attribute])
        limit = each if chosen.attribute is None else each // 2
        if got[label, attribute] >= limit:
            continue
        got[label, attribute] += 1
        made = {"text": text, "label": label}
        if chosen.attribute is not None:
            made["attribute"] = attribute
        if chosen.own_split:
            made["split"] = split
        yield made
        if sum(count for (of, _), count in got.items() if of == label) >= each:
            full.add(label)
            if full == set(classes):
                return
