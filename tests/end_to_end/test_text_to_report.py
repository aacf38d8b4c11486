"""Text to report with the installed command line, on tiny random models of the families the paper used."""

import subprocess
import sys
from pathlib import Path

import pytest
from safetensors.torch import load_file
from tiny_models import D_IN, FAMILIES, make_documents, make_tiny_model, write_jsonl

from expander_sae.records import read_json

COMMAND = Path(sys.executable).with_name("expander-sae")


def run(*arguments: object, folder: Path, code: int = 0) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        [str(COMMAND), *map(str, arguments)], cwd=folder, capture_output=True, text=True, timeout=240, check=False
    )
    assert done.returncode == code, done.stdout + done.stderr
    return done


# One family in every run; which families are read rightly is what tests/activations/test_families.py holds.
@pytest.mark.parametrize(
    "family", [FAMILIES[0], *(pytest.param(family, marks=pytest.mark.slow) for family in FAMILIES[1:])]
)
def test_text_to_report(family, tmp_path):
    model = make_tiny_model(tmp_path / "model", family)
    text = write_jsonl(tmp_path / "text.jsonl", make_documents(40))
    harvest = ("harvest", "--model", model, "--text", text, "--out", "acts", "--context", 64, "--json", "h.json")
    run(*harvest, folder=tmp_path)
    assert read_json(tmp_path / "h.json")["tokens"]["heldout"]["ordinary"] > 0
    shards = {path.name: path.read_bytes() for path in (tmp_path / "acts").glob("shard-*")}
    run(*harvest, folder=tmp_path)  # a second time: nothing changes
    assert shards == {path.name: path.read_bytes() for path in (tmp_path / "acts").glob("shard-*")}

    shared = ("--k", 4, "--tokens", 6000, "--batch-size", 256)
    options = ("--degrees", "3,8", "--controls", "dense,matched", "--model", model, "--json", "f.json")
    out = run("frontier", "acts", "--out", "frontier", *options, *shared, folder=tmp_path).stdout
    assert "report.html" in out
    records = {record["variant"]: record["evaluation"] for record in read_json(tmp_path / "f.json")["records"]}
    assert set(records) == {"expander-d3", "expander-d8", "dense-n24", "dense-n64", "dense"}
    for name, record in records.items():
        assert record["d_in"] == D_IN
        assert 0 < record["fvu"] < 1.5, name
        assert record["delta_ce"] == pytest.approx(record["ce_recon"] - record["ce_clean"])
    page = (tmp_path / "frontier" / "report.html").read_text(encoding="utf-8")
    assert "expander-d3" in page
    assert "http" not in page.replace("http://www.w3.org", "").replace("https://arxiv.org", "")

    if family != FAMILIES[0]:
        return
    run("train", "acts", "--out", "saes", "--degree", "3", "--dense", "--json", "t.json", *shared, folder=tmp_path)
    assert [record["name"] for record in read_json(tmp_path / "t.json")] == ["expander-d3", "dense"]
    run("eval", "acts", "saes/expander-d3", "--model", model, "--json", "e.json", folder=tmp_path)
    found = read_json(tmp_path / "e.json")["expander-d3"]
    assert (found["degree"], found["decoder_values"]) == (3, 3 * 8 * D_IN)
    run("encode", "saes/expander-d3", "--acts", "acts", "--out", "codes.safetensors", folder=tmp_path)
    assert load_file(tmp_path / "codes.safetensors")["indices"].shape[1] == 4
    irregular = read_json(tmp_path / "saes" / "expander-d3" / "config.json")
    assert (irregular["kind"], irregular["entries"], irregular["degree"]) == ("irregular", 3 * 8 * D_IN, 32)
    paper = ("--preset", "paper", "--degree", 3, "--k", 4, "--tokens", 2560)
    run("train", "acts", "--out", "paper", *paper, folder=tmp_path)
    assert read_json(tmp_path / "paper" / "expander-d3" / "config.json")["signed"] is True


def test_a_mistake_is_one_line_and_exit_code_2(tmp_path):
    done = run("train", "nowhere", "--out", "saes", folder=tmp_path, code=2)
    assert done.stderr.startswith("error: ")
    assert "Traceback" not in done.stderr
    done = run("harvest", "--model", "nowhere", "--text", "none.txt", "--out", "acts", folder=tmp_path, code=2)
    assert "Traceback" not in done.stderr
