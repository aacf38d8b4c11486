"""The table of families: every reader of it agrees with it, and no torch is needed to read it."""

import subprocess
import sys
from pathlib import Path

import pytest

from expander_sae.frontier import CONTROLS, FAMILIES, SaeOptions, plan
from expander_sae.frontier.families import FAMILY, controls_in_words, title_of
from expander_sae.pursuit import Stages
from expander_sae.saes import DenseTopKSae

SIZES = {"d_in": 32, "n_latents": 128, "k": 4}


def test_each_family_is_drawn_in_its_own_way():
    drawn = [(family.color, family.marker) for family in FAMILIES]
    assert len(set(drawn)) == len(drawn)
    sparse = {family.color for family in FAMILIES if family.sparse}
    dense = {family.color for family in FAMILIES if not family.sparse and family.training != "closed"}
    assert not sparse & dense


def test_every_control_is_planned_named_and_built_as_the_table_says():
    variants = plan([4, 8], CONTROLS, **SIZES, note=lambda text: None)
    assert {variant.family for variant in variants} == {"expander", "pca-topk", *CONTROLS}
    for variant in variants:
        family = FAMILY[variant.family]
        assert [one.name for one in FAMILIES if one.parts(variant.name) is not None] == [family.name]
        assert title_of(variant.name, variant.matched_degree) != variant.name
        if family.training == "closed":
            continue
        sae = variant.build(32, SaeOptions(reading=Stages(2, spare=None)))
        assert isinstance(sae, DenseTopKSae) == (not family.sparse), variant
        assert str(sae.reading).startswith("stages") == family.pursuit, variant
        if not family.sparse:
            assert sae.tied == (family.encoder == "tied"), variant
    order = [variant.family for variant in variants if variant.matched_degree in (4, None)]
    assert order == sorted(order, key=[family.name for family in FAMILIES].index)


def test_only_learned_supports_move():
    assert [family.name for family in FAMILIES if family.moves] == ["expander", "irregular"]


@pytest.mark.parametrize(
    ("variant", "degree", "said"),
    [
        ("expander-d7", None, "degree 7"),
        ("diversity0.25-d7", None, "degree 7, diversity 0.25"),
        ("dense-n56-omp, refit", None, "dense, n′ = 56, pursuit, refit"),
        ("pca-r128-k32", None, "best 32 of 128 directions"),
        ("dense-n64-untied", 16, "dense, own encoder, n′ = 64 (learned values of degree 16)"),
        ("dense-n64-untied", None, "dense-n64-untied"),
        ("2.5, 3", None, "2.5, 3"),
    ],
)
def test_documents_call_them_by_the_table(variant, degree, said):
    assert title_of(variant, degree) == said


def test_help_names_every_control_without_torch():
    assert all(name in controls_in_words() for name in CONTROLS)
    code = (
        "import sys; import expander_sae.frontier.families, expander_sae.records.metrics;"
        "assert not {'torch', 'matplotlib', 'transformers'} & set(sys.modules), 'loaded'"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(__file__).parent)
