"""The README's example is run as it stands."""

import re
from pathlib import Path

import torch

README = Path(__file__).parents[1] / "README.md"


def test_the_python_examples_run(tmp_path, monkeypatch, capsys):
    """Each alone, as somebody pastes it."""
    text = README.read_text(encoding="utf-8")
    blocks = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    assert len(blocks) == 2
    assert len(text.splitlines()) <= 130
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    for block in blocks:
        assert len([line for line in block.splitlines() if line]) <= 12
        exec(compile(block, "README.md", "exec"), {})
    printed = capsys.readouterr().out
    assert "torch.Size([5, 512]) torch.Size([1024, 512])" in printed
    left = {line.split()[0]: float(line.split()[1]) for line in printed.splitlines() if line.count(" ") == 1}
    assert max(left["stages:8+8"], left["omp"]) < left["encoder"]
    assert float(re.findall(r"^(0\.\d+) \d{3,}\.\d", printed, re.MULTILINE)[0]) < 0.5  # fvu, tokens per second
    assert (tmp_path / "trained" / "sae.safetensors").exists()


def test_every_public_name_can_be_imported():
    import expander_sae

    for name in expander_sae.__all__:
        assert getattr(expander_sae, name) is not None
