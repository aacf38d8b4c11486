"""Kinds of SAEs by name: one list for checkpoints, SAELens folders and model cards."""

import pytest

from expander_sae.interop.model_card import _KINDS
from expander_sae.interop.saelens_ours import KINDS
from expander_sae.records import ExpanderSaeError
from expander_sae.saes import ExpanderSae
from expander_sae.saes.registry import CLASSES, class_of_kind


def test_every_format_takes_its_kinds_from_one_list():
    assert {kind: CLASSES[kind].kind for kind in CLASSES} == {kind: kind for kind in CLASSES}
    assert set(KINDS) < set(CLASSES) == set(_KINDS)
    assert class_of_kind("expander", KINDS) is ExpanderSae


@pytest.mark.parametrize("kind", ["irregular", "gated", 3, ["expander"], None])
def test_a_kind_that_a_format_does_not_have_is_one_error(kind):
    with pytest.raises(ExpanderSaeError, match=r"expected kind as one of expander, dense in cfg.json; got"):
        class_of_kind(kind, KINDS, "cfg.json")
