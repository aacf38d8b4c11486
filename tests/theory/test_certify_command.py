"""The certify command, called as Typer would."""

from pathlib import Path
from typing import ClassVar

import pytest
import torch

from expander_sae.cli.certify import _cost, certify
from expander_sae.graphs import make_mask
from expander_sae.pursuit import Encoder
from expander_sae.records import ExpanderSaeError, read_json
from expander_sae.saes import ExpanderSae


def test_a_mask_by_name(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    certify("uniform:128:512:5:0", k=2, json=tmp_path / "c.json")
    text = capsys.readouterr().out
    assert text.startswith("Counting all overlaps takes 31")  # 262,144 counters and the squares of right degrees
    assert "certified" in text
    assert "unique_codes_any_values_random" in text
    written = read_json(tmp_path / "c.json")
    assert written["codes"] is None
    assert {"name", "value", "status", "assumptions", "formula", "source", "vacuous", "sentence"} <= set(
        written["certificates"][0]
    )


def test_a_trained_sae_and_its_codes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Store:
        d_in = 32
        manifest: ClassVar = {"settings": {"model_id": "made-up", "layer": 1}}

        @staticmethod
        def open(path: Path) -> "Store":
            return Store()

        def blocks(self, split: str, *, max_tokens: int | None = None):
            generator = torch.Generator().manual_seed(0)
            x = torch.cat([torch.randn(10, 32, generator=generator) for _ in range(3)])
            yield from x[:max_tokens].bfloat16().split(10)

    monkeypatch.setattr("expander_sae.activations.ActivationStore", Store)
    ExpanderSae(d_in=32, n_latents=96, degree=4, k=3, reading=Encoder()).save(tmp_path / "sae")
    certify(str(tmp_path / "sae"), acts=tmp_path, max_tokens=24, json=tmp_path / "c.json", quiet=True)
    written = read_json(tmp_path / "c.json")
    assert written["k"] == 3
    assert written["codes"]["tokens"] == 24
    assert all(0 <= share <= 1 for share in written["codes"]["share"].values())
    assert 0 < written["codes"]["encoder_margin_median"] < 0.5
    assert written["codes"]["coverage_floor_share"] <= written["codes"]["refit_error_share"] <= 1
    certify(str(tmp_path / "sae"), acts=tmp_path, inference="omp", json=tmp_path / "omp.json", quiet=True)
    everything = read_json(tmp_path / "omp.json")["codes"]
    assert everything["tokens"] == 30
    assert everything["inference"] == "omp"
    assert everything["refit_error_share"] < written["codes"]["refit_error_share"]
    Store.d_in = 31
    with pytest.raises(ExpanderSaeError, match="d_in 32"):
        certify(str(tmp_path / "sae"), acts=tmp_path, quiet=True)


def test_a_count_above_the_budget_is_announced(monkeypatch: pytest.MonkeyPatch) -> None:
    mask = make_mask("balanced", d_in=64, n_latents=128, degree=4, seed=0)
    assert _cost(mask) == "Counting all overlaps takes 20,480 steps, about 0.0 s on one core."
    monkeypatch.setattr("expander_sae.graphs.overlap.DEFAULT_BUDGET", 1000)
    assert "above the budget of 1,000, so columns are sampled" in _cost(mask)


def test_what_cannot_be_certified_says_why(tmp_path: Path) -> None:
    with pytest.raises(ExpanderSaeError, match="CONSTRUCTION"):
        certify("uniform:128:512:5")
    with pytest.raises(ExpanderSaeError, match="has no codes"):
        certify("uniform:128:512:5:0", acts=tmp_path)
