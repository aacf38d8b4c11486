"""The Python of the guides on hooks, activations and the hub is run as it stands, on tiny models; that of
docs/guides/from-saelens.md, which needs other libraries, takes of ours only what there is."""

import ast
import re
from importlib import import_module
from pathlib import Path

import torch
from tiny_models import D_IN, make_documents, make_tiny_model, write_jsonl

from expander_sae import ExpanderSae, harvest
from expander_sae.interop import hub

DOCS = Path(__file__).parents[2] / "docs"
GUIDES = ("guides/hooks-and-vllm.md", "guides/your-own-activations.md", "guides/hub.md")
TINY = {
    "HuggingFaceTB/SmolLM2-135M": "model",
    "model.layers.14": "model.layers.1",
    "{1234: 40.0}": "{12: 40.0}",
    "encoder.layer.6": "{block}",
    "fullgraph=True)": 'fullgraph=True, backend="aot_eager")',
}
"""What the documents have, and what there is here."""


def blocks(name):
    return re.findall(r"^```python\n(.*?)^```", (DOCS / name).read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)


def test_the_python_of_hooks_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(hub, "push_to_hub", lambda sae, name, **card: hub.save_pretrained(sae, name, name=name, **card))
    text = write_jsonl(tmp_path / "text.jsonl", make_documents(20))
    store = harvest(make_tiny_model(tmp_path / "model"), text, tmp_path / "acts", context=32, progress=False)
    assert store.d_in == D_IN
    ExpanderSae(d_in=D_IN, n_latents=64, degree=4, k=4).save("SAE")
    (hooks, compiled, in_vllm), (fitted, items), (pushed,) = map(blocks, GUIDES)
    assert run(fitted)["sae"].n_latents == 512
    names = run(hooks)
    assert run(compiled)["held"].codes(5).indices.shape == (5, 4)
    compile(in_vllm, "hooks.md", "exec")  # there is no vLLM here
    assert names["seen"][0].indices.shape == (*names["input_ids"].shape, 4)
    found = run(items.replace('"acts"', '"patches"'))["store"]
    assert found.d_in == 96
    assert found.n_tokens("train") + found.n_tokens("heldout") == 128 * 16  # without the class token
    assert torch.equal(run(pushed)["sae"].values, names["sae"].values)


def run(block):
    from transformers import ViTConfig, ViTModel

    vit = ViTModel(ViTConfig(image_size=32, patch_size=8, hidden_size=96))
    module = next(name for name, _ in vit.named_modules() if re.fullmatch(r".*layers?\.6", name))
    for there, here in TINY.items():
        block = block.replace(there, here.replace("{block}", module))
    names = {}
    exec(compile(block, "a guide", "exec"), names)
    return names


def test_the_python_of_interop_takes_what_there_is():
    found = blocks("guides/from-saelens.md")
    assert len(found) == 3
    for block in found:
        for node in ast.walk(ast.parse(block)):
            if (
                isinstance(node, ast.ImportFrom)
                and node.module.startswith("expander_sae")
                and "saelens" not in node.module
            ):
                assert all(hasattr(import_module(node.module), alias.name) for alias in node.names)
