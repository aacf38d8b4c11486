"""What the peers' newest sources read, as lists of fields: where each list is from, in our own words.

neuronpedia: hijohnnylin/neuronpedia, apps/webapp/prisma/schema.prisma (tables), apps/webapp/lib/db/import.ts and
apps/webapp/app/api/admin/import/route.ts (what is read, and how); apps/webapp/app/api/feature/upload-batch/route.tsx
(the schema that a body must satisfy; read in mitre/neuronpedia, which has the form with logits).
SAEDashboard: jbloomAus/SAEDashboard, sae_dashboard/neuronpedia/neuronpedia_export.py (what is read of a batch) and
neuronpedia_dashboard.py (the objects that a batch becomes).
delphi: EleutherAI/delphi, delphi/latents/loader.py and cache.py.
"""

import json
import math
from itertools import pairwise

# ---- Neuronpedia, bodies of the upload ------------------------------------------------------------------------------


def check_upload_body(body):
    """What the route's schema and its checks after it ask for."""
    assert set(body) == {"modelId", "source", "features"}
    assert body["modelId"] == body["modelId"].lower() != ""
    assert body["source"] == body["source"].lower() != ""
    assert 1 <= len(body["features"]) <= 128
    assert len({feature["index"] for feature in body["features"]}) == len(body["features"])
    for feature in body["features"]:
        assert set(feature) <= {"index", "density", "topLogits", "bottomLogits", "explanations", "activations"}
        assert type(feature["index"]) is int
        assert 0 <= feature["index"] <= 10_000_000
        assert 0 <= feature["density"] <= 1
        for name in ("topLogits", "bottomLogits"):
            assert len(feature[name]) <= 20
            for logit in feature[name]:
                _check_text(logit["token"])
                _check_number(logit["value"])
        for explanation in feature.get("explanations", []):
            assert set(explanation) <= {"text", "methodName", "modelName"}
            assert 1 <= len(explanation["text"]) <= 512
        assert feature["activations"]
        for activation in feature["activations"]:
            assert set(activation) <= {"tokens", "values", "quantileMin", "quantileMax", "quantileFraction"}
            assert 1 <= len(activation["tokens"]) == len(activation["values"]) <= 1024
            for token, value in zip(activation["tokens"], activation["values"], strict=True):
                _check_text(token)
                _check_number(value)
            if "quantileFraction" in activation:
                assert 0 <= activation["quantileFraction"] <= 1
                assert activation["quantileMin"] <= activation["quantileMax"] <= 99_999_999


def _check_text(text):
    """`string().required()` takes no empty one, PostgreSQL no NUL, UTF-8 no half of a pair."""
    assert isinstance(text, str)
    assert text
    assert "\0" not in text
    text.encode()


def _check_number(value):
    assert isinstance(value, int | float)
    assert math.isfinite(value)


# ---- Neuronpedia, the bulk folder -----------------------------------------------------------------------------------

TABLES = {
    "release": (
        "name description creatorName creatorId",
        "visibility isNewUi featured descriptionShort urls creatorEmail creatorNameShort defaultSourceSetName "
        "defaultSourceId defaultUmapSourceIds createdAt",
    ),
    "model": (
        "id creatorId layers neuronsPerLayer owner",
        "displayNameShort displayName tlensId openRouterId dimension thinking visibility defaultSourceSetName "
        "defaultSourceId defaultGraphSourceSetName inferenceEnabled instruct createdAt updatedAt website",
    ),
    "sourceset": (
        "modelId name description creatorName creatorId",
        "hasDashboards allowInferenceSearch visibility type urls creatorEmail releaseName hasGraphs graphEnabled "
        "similarityMatrixEnabled defaultOfModelId defaultGraphModelId defaultRange defaultShowBreaks showDfa "
        "showCorrelated showHeadAttribution showUmap createdAt",
    ),
    "source": (
        "id modelId setName creatorId",
        "hasDashboards inferenceEnabled saelensConfig saelensRelease saelensSaeId hfRepoId hfFolderId visibility "
        "defaultOfModelId hasUmap hasUmapLogSparsity hasUmapClusters num_prompts num_tokens_in_prompt dataset notes "
        "cosSimMatchModelId cosSimMatchSourceId createdAt",
    ),
    "features": (
        "modelId layer index",
        "sourceSetName creatorId createdAt maxActApprox hasVector vector vectorLabel vectorDefaultSteerStrength "
        "hookName topkCosSimIndices topkCosSimValues neuron_alignment_indices neuron_alignment_values "
        "neuron_alignment_l1 correlated_neurons_indices correlated_neurons_pearson correlated_neurons_l1 "
        "correlated_features_indices correlated_features_pearson correlated_features_l1 neg_str neg_values pos_str "
        "pos_values frac_nonzero "
        "freq_hist_data_bar_heights freq_hist_data_bar_values logits_hist_data_bar_heights "
        "logits_hist_data_bar_values decoder_weights_dist umap_cluster umap_log_feature_sparsity umap_x umap_y",
    ),
    "activations": (
        "id index layer modelId maxValue maxValueTokenIndex minValue creatorId",
        "tokens values dataIndex dataSource dfaValues dfaTargetIndex dfaMaxValue zQIndices zKIndices zValues createdAt "
        "lossValues logitContributions binMin binMax binContains qualifyingTokenIndex",
    ),
    "explanations": (
        "id modelId layer index description authorId",
        "embedding triggeredByUserId notes scoreV1 scoreV2 umap_x umap_y umap_cluster umap_log_feature_sparsity "
        "typeName explanationModelName createdAt updatedAt",
    ),
}
"""Columns of each table that a row must have, and those that it may have; a row of the first four with another field is
refused, in the others the importer passes it over."""
_NULLABLE = (
    "descriptionShort creatorEmail creatorNameShort tlensId openRouterId dimension website releaseName "
    "saelensConfig num_prompts num_tokens_in_prompt dataset notes sourceSetName vectorLabel hookName dataIndex "
    "dataSource dfaTargetIndex dfaMaxValue logitContributions binMin binMax binContains qualifyingTokenIndex "
    "typeName explanationModelName scoreV2"
)
NULLABLE = set(_NULLABLE.split())


def check_row(table, row):
    """One row of one of the tables."""
    needed, possible = (set(names.split()) for names in TABLES[table])
    assert needed <= set(row), needed - set(row)
    assert set(row) <= needed | possible, set(row) - needed - possible
    for name, value in row.items():
        assert value is not None or name in NULLABLE, name
    text = json.dumps(row, allow_nan=False, ensure_ascii=False)
    text.encode()
    assert "\\u0000" not in json.dumps(row)
    for names in (("tokens", "values"), ("pos_str", "pos_values"), ("neg_str", "neg_values")):
        if names[0] in row:
            assert len(row[names[0]]) == len(row[names[1]])


# ---- SAEDashboard ---------------------------------------------------------------------------------------------------

_BATCH = "model_id layer sae_set features"
BATCH = set(_BATCH.split())
_FEATURE = (
    "feature_index neuron_alignment_indices neuron_alignment_values neuron_alignment_l1 "
    "correlated_neurons_indices correlated_neurons_l1 correlated_neurons_pearson correlated_features_indices "
    "correlated_features_l1 correlated_features_pearson neg_str neg_values pos_str pos_values frac_nonzero "
    "freq_hist_data_bar_values freq_hist_data_bar_heights logits_hist_data_bar_heights "
    "logits_hist_data_bar_values n_prompts_total n_tokens_in_prompt dataset decoder_weights_dist activations"
)
FEATURE = set(_FEATURE.split())
"""Of the newest object: a field more would be refused by its constructor (`vector` is read where it is there)."""
_ACTIVATION = "bin_min bin_max bin_contains tokens values qualifying_token_index"
ACTIVATION = set(_ACTIVATION.split())


def check_dashboard_batch(batch):
    """What its objects are made from, and what its export to Neuronpedia reads."""
    assert set(batch) - {"sae_id_suffix"} == BATCH
    assert type(batch["layer"]) is int
    for feature in batch["features"]:
        assert set(feature) == FEATURE
        assert len(feature["pos_str"]) == len(feature["pos_values"])
        assert len(feature["freq_hist_data_bar_values"]) == len(feature["freq_hist_data_bar_heights"])
        for activation in feature["activations"]:
            assert set(activation) == ACTIVATION
            assert len(activation["tokens"]) == len(activation["values"]) > 0
            assert 0 <= activation["qualifying_token_index"] < len(activation["tokens"])
            assert (activation["bin_min"] == -1) == (activation["bin_contains"] == -1)


# ---- delphi ---------------------------------------------------------------------------------------------------------


def read_as_delphi(folder, module, latents=None):
    """(latent -> (locations [firings, 3], activations)), tokens and config, by the steps of delphi's loader: a split's
    latents count from the number before the _ of its name, firings are put together by latent in their order."""
    import numpy as np
    from safetensors.numpy import load_file

    config = json.loads((folder / module / "config.json").read_text())
    assert isinstance(config["model_name"], str)
    found, tokens = {}, None
    spans = sorted(tuple(map(int, path.stem.split("_"))) for path in (folder / module).glob("*.safetensors"))
    assert all(last + 1 == first for (_, last), (first, _) in pairwise(spans))
    for start, end in spans:
        data = load_file(folder / module / f"{start}_{end}.safetensors")
        assert set(data) == {"locations", "activations", "tokens"}
        assert data["locations"].dtype in (np.uint16, np.uint32)
        assert data["activations"].dtype == np.float16
        locations = data["locations"].astype(np.int64)
        locations[:, 2] += start
        tokens = data["tokens"] if tokens is None else tokens
        for latent in np.unique(locations[:, 2]):
            mine = locations[:, 2] == latent
            found[int(latent)] = (locations[mine], data["activations"][mine])
            flat = locations[mine][:, 0] * tokens.shape[1] + locations[mine][:, 1]
            assert (np.diff(flat) > 0).all()  # its windows are counted by runs
    return found, tokens, config, spans
