"""The README's examples run as they stand, and its table is that of the document on meaning."""

import re
from pathlib import Path

import torch

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "README.md").read_text(encoding="utf-8")


def test_it_is_short():
    assert len(TEXT.splitlines()) <= 120


def test_the_python_examples_run(demo, tmp_path, monkeypatch, capsys):
    """Each alone, as somebody pastes it."""
    blocks = re.findall(r"```python\n(.*?)```", TEXT, re.DOTALL)
    assert len(blocks) == 2
    (tmp_path / "demo-out").symlink_to(demo / "demo-out")
    monkeypatch.chdir(tmp_path)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        for block in blocks:
            assert len([line for line in block.splitlines() if line]) <= 10
            exec(compile(block, "README.md", "exec"), {})
    printed = capsys.readouterr().out
    assert len(re.findall(r"^\d+ \[.*'\]$", printed, re.MULTILINE)) == 3  # latents, with what they fire on
    assert float(re.findall(r"^(0\.\d+) \d{3,}\.\d", printed, re.MULTILINE)[0]) < 0.5  # fvu, tokens per second
    assert (tmp_path / "trained" / "sae.safetensors").exists()


def test_the_table_is_what_the_document_on_meaning_says():
    """Reading and values find the row there; variance, broad and narrow concepts are its."""
    document = (ROOT / "docs" / "concepts" / "meaning.md").read_text(encoding="utf-8")
    rows = {
        ("full dense", "encoder"): 0, ("degree 32, meaning", "stages:2"): 1, ("dense, n′ = 256", "encoder"): 2,
        ("degree 7, meaning", "stages:2"): 3, ("dense, n′ = 56", "encoder"): 4,
    }  # fmt: skip
    shown = re.findall(r"^\| .* \| (\S+) \| (\.\d+) \| (\.\d+) \| (\.\d+) \|$", TEXT, re.MULTILINE)
    assert len(shown) == len(rows)
    for (sae, reading), place in rows.items():
        line = next(
            line for line in document.splitlines() if line.replace("*", "").startswith(f"| {sae} | {reading} |")
        )
        _, _, _, values, fvu, broad, _, narrow, *_ = (cell.strip().split(" ")[0] for cell in line.split("|"))
        assert shown[place] == (values, fvu, broad, narrow)


def test_every_public_name_can_be_imported():
    import expander_sae

    for name in expander_sae.__all__:
        assert getattr(expander_sae, name) is not None
