"""The latents of a view as other tools show them: groups of contexts, histograms, texts that their files can hold."""

from __future__ import annotations

import gzip
import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from expander_sae.latents.labels import LabelFile
from expander_sae.latents.latent import Context, Latent, View
from expander_sae.latents.store import LatentStore
from expander_sae.records import ExpanderSaeError, write_atomically

BATCH = 128
"""Latents of a file, as Neuronpedia takes at once."""
_NAME = re.compile(r"[a-z0-9][a-z0-9._-]*")


@dataclass(frozen=True)
class Group:
    """Contexts that other tools show together."""

    low: float
    """Smallest activation of the group; -1 for the top one, as SAEDashboard says it."""
    high: float
    share: float
    """Of the latent's firings; -1 for the top one."""
    contexts: list[Context]


@dataclass(frozen=True)
class Exported:
    """A view of a store under the names that it has elsewhere.

    A source is called LAYER-SET there, and LAYER-SET__SUFFIX where a set has several of a layer.
    """

    store: LatentStore
    view: View
    labels: LabelFile
    model: str
    """The model's name there."""
    source_set: str
    suffix: str = ""

    def __post_init__(self) -> None:
        for name in (self.model, self.source_set, *([self.suffix] if self.suffix else [])):
            if not _NAME.fullmatch(name):
                raise ExpanderSaeError(
                    f"expected names of small letters, digits, dots, _ and - (a model, a set of sources); got {name!r}"
                )

    @property
    def layer(self) -> int:
        """The block after which the activations were taken.

        Raises:
            ExpanderSaeError: they are a module's, which those tools have no name for.
        """
        layer = self.store.meta.get("layer")
        if not isinstance(layer, int):
            raise ExpanderSaeError(f"expected latents of the stream after a block; got those of {layer!r}")
        return layer

    @property
    def source(self) -> str:
        """The name of the SAE there."""
        return f"{self.layer}-{self.source_set}" + (f"__{self.suffix}" if self.suffix else "")

    def batches(self, *, dead: bool) -> Iterator[list[Latent]]:
        """All latents, `BATCH` at a time; without those that never fired unless `dead`."""
        firings = self.store.whole(self.view, "firings", "<i8")
        chosen = iter(range(len(firings)) if dead else np.flatnonzero(firings).tolist())
        while numbers := list(islice(chosen, BATCH)):
            yield [self.store.latent(number, view=self.view) for number in numbers]

    def texts(self, latent: Latent) -> list[str]:
        """What is said of a latent: a person's label first, then a chat model's; a rule over words where there is
        neither."""
        person = self.labels.get(self.view.sha256, latent.index)
        said = [person.text] if person is not None and person.text.strip() else []
        machines = {
            one.method: one.text
            for one in self.labels.explanations(self.view.sha256, latent.index, reading=self.view.reading)
        }
        said += [machines[method] for method in ("chat",) if method in machines]
        return said or [text for method, text in machines.items() if method != "chat"][:1]


def groups(latent: Latent) -> list[Group]:
    """The top contexts, then each quarter of the firings from the highest to the lowest."""
    edges = quarter_edges(latent)
    found = [Group(-1.0, number(latent.max), -1.0, latent.contexts)]
    for quarter in (4, 3, 2, 1):
        contexts = latent.quantiles.get(quarter, [])
        found.append(Group(edges[quarter - 1], edges[quarter], 0.25, contexts))
    return [group for group in found if group.contexts]


def quarter_edges(latent: Latent) -> list[float]:
    """Activations between the quarters of the firings, five of them, interpolated in the histogram."""
    total = int(latent.histogram.sum())
    if total == 0:
        return [0.0] * 5
    shares = np.concatenate([[0.0], np.cumsum(latent.histogram) / total])
    highest = number(latent.max)
    inner = np.interp([0.25, 0.5, 0.75], shares, latent.edges).tolist()
    return [0.0, *(min(number(edge), highest) for edge in inner), highest]


def histogram(latent: Latent) -> tuple[list[float], list[int]]:
    """Middles of the bins, and firings in each."""
    middles = (latent.edges[:-1] + latent.edges[1:]) / 2
    return [number(middle) for middle in middles.tolist()], latent.histogram.tolist()


def number(value: float | None) -> float:
    """A finite number in few digits: what tools draw, not what they compute with."""
    return 0.0 if value is None or not np.isfinite(value) else float(f"{value:.6g}")


def texts(tokens: Sequence[str]) -> list[str]:
    """Tokens as PostgreSQL and JSON can hold them: no NUL, no half of a surrogate pair, none empty."""
    return [token if token.isprintable() and token else _kept(token) for token in tokens]


def _kept(token: str) -> str:
    return token.replace("\0", "\u2400").encode("utf-8", "replace").decode() or "\u2205"


def values(context: Context) -> list[float]:
    """Activations on the tokens of a context."""
    return [value and number(value) for value in context.values]


def write_compact(path: Path, *rows: Any) -> Path:
    """Write JSON without blanks, a line for each row; compressed where the name ends in .gz. The same rows are the same
    bytes."""
    lines = (json.dumps(row, ensure_ascii=False, allow_nan=False, separators=(",", ":")) + "\n" for row in rows)
    data = "".join(lines).encode()
    with write_atomically(path) as temporary:
        temporary.write_bytes(gzip.compress(data, 5, mtime=0) if path.suffix == ".gz" else data)
    return path


def settings(exported: Exported) -> dict[str, Any]:
    """How much text was read, as those tools count it: blocks of so many tokens, of such a dataset."""
    meta, tokens = exported.store.meta, exported.view.tokens
    context = meta.get("context") if isinstance(meta.get("context"), int) else 0
    return {
        "prompts": -(-tokens // context) if context else 0,
        "tokens": context,
        "dataset": str(meta.get("dataset") or ""),
    }
