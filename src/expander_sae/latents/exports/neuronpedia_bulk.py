"""Neuronpedia's bulk folder: what SAEDashboard's `neuronpedia_export.py` writes and Neuronpedia's importer reads."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from expander_sae.latents.latent import Context, Latent

from .exported import Exported, Group, groups, histogram, number, settings, texts, values, write_compact
from .neuronpedia import shortened

CREATOR = "clkht01d40000jv08hvalcvly"
"""Who made it, where nobody is named: the account that SAEDashboard falls back to."""


def write_neuronpedia_bulk(
    exported: Exported,
    out: Path,
    *,
    creator: str = CREATOR,
    creator_name: str = "",
    release: str = "",
    url: str = "",
    method_name: str | None = None,
    model_name: str | None = None,
) -> Iterator[Path]:
    """Write `MODEL/SOURCE/` into a folder.

    Args:
        exported: the latents.
        out: folder.
        creator: the account's id there.
        creator_name: shown.
        release: the release's name; the set's, if there is none.
        url: of the release.
        method_name: how they were explained, if Neuronpedia knows a name for it.
        model_name: by whom, likewise.

    Yields:
        Each file when it is written.
    """
    folder = out / exported.model / exported.source
    about = _About(exported, creator, method_name, model_name)
    for name, row in about.metadata(creator_name, release or exported.source_set, url).items():
        yield write_compact(folder / f"{name}.jsonl", row)
    for batch, latents in enumerate(exported.batches(dead=True)):
        rows = {
            "features": [about.feature(latent) for latent in latents],
            "activations": [row for latent in latents for row in about.activations(latent)],
            "explanations": [row for latent in latents for row in about.explanations(latent)],
        }
        for name, found in rows.items():
            if found:
                yield write_compact(folder / name / f"batch-{batch}.jsonl.gz", *found)


class _About:
    """The rows of one source. The importer takes the columns from the first row of a file: all rows have the same."""

    def __init__(self, exported: Exported, creator: str, method_name: str | None, model_name: str | None) -> None:
        self.exported, self.creator = exported, creator
        self.method_name, self.model_name = method_name, model_name
        written = datetime.fromtimestamp(exported.store.path.stat().st_mtime, UTC)
        self.created = written.isoformat(timespec="seconds")
        self.where = {"modelId": exported.model, "layer": exported.source}

    def metadata(self, creator_name: str, release: str, url: str) -> dict[str, Mapping[str, Any]]:
        """What the release, the model, the set and the source are."""
        exported = self.exported
        made = {"creatorId": self.creator, "createdAt": self.created}
        named = {"creatorName": creator_name, "visibility": "PUBLIC", "urls": [url] if url else []}
        text = settings(exported)
        title = f"Expander SAE: {exported.view.name}"
        return {
            "release": {"name": release, "description": title, "descriptionShort": title,
                        "creatorNameShort": creator_name, **named, **made},
            "model": {"id": exported.model, "displayName": exported.model, "displayNameShort": exported.model,
                      "instruct": False, "layers": 0, "neuronsPerLayer": 0, "owner": "", "visibility": "PUBLIC",
                      "inferenceEnabled": False, "updatedAt": self.created, **made},
            "sourceset": {"modelId": exported.model, "name": exported.source_set, "description": title, "type": "",
                          "releaseName": release, "hasDashboards": True, **named, **made},
            "source": {"id": exported.source, "modelId": exported.model, "setName": exported.source_set,
                       "hasDashboards": True, "inferenceEnabled": False, "visibility": "PUBLIC",
                       "num_prompts": text["prompts"], "num_tokens_in_prompt": text["tokens"],
                       "dataset": text["dataset"], "notes": f"n_latents {exported.view.n_latents}, k {exported.view.k}",
                       **made},
        }  # fmt: skip

    def feature(self, latent: Latent) -> dict[str, Any]:
        """A row of the table Neuron."""
        middles, heights = histogram(latent)
        return {
            **self.where, "index": str(latent.index), "creatorId": self.creator, "createdAt": self.created,
            "sourceSetName": self.exported.source_set, "maxActApprox": number(latent.max),
            "hasVector": False, "vector": [], "vectorLabel": None, "vectorDefaultSteerStrength": 10.0,
            "hookName": f"blocks.{self.exported.layer}.hook_resid_post",
            "topkCosSimIndices": [one.latent for one in latent.nearest],
            "topkCosSimValues": [number(one.value) for one in latent.nearest],
            **statistics(latent, middles, heights),
        }  # fmt: skip

    def activations(self, latent: Latent) -> Iterable[dict[str, Any]]:
        """Rows of the table Activation."""
        for place, (group, context) in enumerate((g, c) for g in groups(latent) for c in g.contexts):
            yield self._activation(latent, place, group, context)

    def _activation(self, latent: Latent, place: int, group: Group, context: Context) -> dict[str, Any]:
        strengths = values(context)
        highest = max(strengths)
        return {
            "id": self._id("activation", latent.index, place), **self.where, "index": str(latent.index),
            "creatorId": self.creator, "createdAt": self.created, "dataSource": settings(self.exported)["dataset"],
            "dataIndex": str(context.block), "tokens": texts(context.tokens), "values": strengths,
            "maxValue": highest, "maxValueTokenIndex": strengths.index(highest), "minValue": min(strengths),
            "binMin": group.low, "binMax": group.high, "binContains": group.share,
            "qualifyingTokenIndex": context.peak, "dfaValues": [], "dfaTargetIndex": None, "dfaMaxValue": None,
            "lossValues": [], "logitContributions": None,
        }  # fmt: skip

    def explanations(self, latent: Latent) -> Iterable[dict[str, Any]]:
        """Rows of the table Explanation."""
        for place, text in enumerate(self.exported.texts(latent)):
            yield {
                "id": self._id("explanation", latent.index, place), **self.where, "index": str(latent.index),
                "description": shortened(text), "authorId": self.creator, "typeName": self.method_name,
                "explanationModelName": self.model_name, "createdAt": self.created, "updatedAt": self.created,
            }  # fmt: skip

    def _id(self, *what: Any) -> str:
        """The same for the same row: who imports a folder twice has it once."""
        known = json.dumps([self.exported.view.sha256, self.exported.view.reading, *self.where.values(), *what])
        return "c" + hashlib.sha256(known.encode()).hexdigest()[:24]


def statistics(latent: Latent, middles: list[float], heights: list[int]) -> dict[str, Any]:
    """What SAEDashboard and Neuronpedia say of a feature under the same names.

    What a store does not know (correlations with neurons, the logits' histogram) is an empty list, as theirs where it
    is turned off.
    """
    rows, weights = ([], []) if latent.rows is None or latent.weights is None else (latent.rows, latent.weights)
    order = sorted(range(len(rows)), key=lambda place: -abs(weights[place]))[:3]
    length = float(sum(abs(weight) for weight in weights)) or 1.0
    return {
        "neuron_alignment_indices": [int(rows[place]) for place in order],
        "neuron_alignment_values": [number(weights[place]) for place in order],
        "neuron_alignment_l1": [number(abs(weights[place]) / length) for place in order],
        "correlated_neurons_indices": [], "correlated_neurons_pearson": [], "correlated_neurons_l1": [],
        "correlated_features_indices": [], "correlated_features_pearson": [], "correlated_features_l1": [],
        "neg_str": texts([word.token for word in latent.suppressed]),
        "neg_values": [number(word.value) for word in latent.suppressed],
        "pos_str": texts([word.token for word in latent.promoted]),
        "pos_values": [number(word.value) for word in latent.promoted],
        "frac_nonzero": number(latent.density),
        "freq_hist_data_bar_heights": heights, "freq_hist_data_bar_values": middles,
        "logits_hist_data_bar_heights": [], "logits_hist_data_bar_values": [], "decoder_weights_dist": [],
    }  # fmt: skip
