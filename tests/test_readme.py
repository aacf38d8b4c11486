"""The README's example is run as it stands."""

import re
from pathlib import Path

import torch

README = Path(__file__).parents[1] / "README.md"


def test_the_python_example_runs(tmp_path, monkeypatch, capsys):
    blocks = re.findall(r"```python\n(.*?)```", README.read_text(encoding="utf-8"), re.DOTALL)
    assert len(blocks) == 1
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    exec(compile(blocks[0], "README.md", "exec"), {})
    assert "torch.Size([1024, 32])" in capsys.readouterr().out
    assert (tmp_path / "my-sae" / "sae.safetensors").exists()


def test_every_public_name_can_be_imported():
    import expander_sae

    for name in expander_sae.__all__:
        assert getattr(expander_sae, name) is not None
