"""docs/guides/serving.md: its client runs, and it names what there is."""

import re
from pathlib import Path

from served import TEXTS, make_model, make_saes, start

from expander_sae.serving.app import PATHS
from expander_sae.serving.wire import KINDS

DOCUMENT = (Path(__file__).parents[2] / "docs" / "guides" / "serving.md").read_text(encoding="utf-8")


def test_the_client_of_the_document_runs(tmp_path):
    saes = make_saes(tmp_path)
    token = "0123456789abcdef"
    process, port = start([saes["stages"]], "--model", str(make_model(tmp_path)), EXPANDER_SAE_TOKEN=token)
    try:
        (code,) = re.findall(r"```python\n(.*?)```", DOCUMENT, re.S)
        names = {}
        exec(compile(code, "docs/guides/serving.md", "exec"), names)
        told = names["top_latents"](TEXTS, f"http://127.0.0.1:{port}", token, top=2)
    finally:
        process.kill()
        process.wait()
    assert [len(one) for one in told] == [2] * len(TEXTS)
    for text, found in zip(TEXTS, told, strict=True):
        assert all(name == "stages" and token in text for name, _, _, token in found)


def test_the_document_names_every_address_and_form():
    for name in (*PATHS, *KINDS):
        assert name in DOCUMENT
