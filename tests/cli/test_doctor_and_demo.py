"""`doctor` and `demo` as a user calls them."""

import sys

import pytest
from tiny_models import make_documents, make_tiny_model, write_jsonl
from typer.testing import CliRunner

from expander_sae.cli.main import app
from expander_sae.latents import LatentStore
from expander_sae.ops import selftest
from expander_sae.ops.backends import native_core
from expander_sae.records import ExpanderSaeError, read_json


@pytest.mark.skipif(native_core() is None, reason="the C++ core is not built")
def test_doctor_says_what_runs_and_checks_it(tmp_path, monkeypatch):
    monkeypatch.setattr(selftest, "timings", lambda: {"encode": 1.5})  # seconds at a large shape
    result = CliRunner().invoke(app, ["doctor", "--json", str(tmp_path / "doctor.json")], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    found = read_json(tmp_path / "doctor.json")
    assert "torch" in result.output
    assert found["facts"]["torch"].startswith("2.")
    assert found["checks"]
    assert all(check["passed"] for check in found["checks"])
    assert found["microseconds_per_token"] == {"encode": 1.5}


def test_doctor_fails_when_a_backend_disagrees(monkeypatch):
    bad = selftest.Check("encode_topk, native", False, "off by 3")
    monkeypatch.setattr(selftest, "run_checks", lambda: [bad])
    monkeypatch.setattr(selftest, "timings", dict)
    with pytest.raises(ExpanderSaeError, match="encode_topk, native failed; do not trust"):
        CliRunner().invoke(app, ["doctor", "--quiet"], catch_exceptions=False)


def test_demo_goes_from_text_to_report_and_picks_up_where_it_stopped(tmp_path, monkeypatch):
    def tiny(out, *, wheels):
        make_tiny_model(out / "model")
        write_jsonl(out / "text.jsonl", make_documents(40))

    # The package imports the function of the same name over its module.
    monkeypatch.setattr(sys.modules["expander_sae.cli.demo"], "offline", tiny)
    command = ["demo", "--out", str(tmp_path), "--degrees", "3", "--tokens", "4096", "--ce-tokens", "100"]
    result = CliRunner().invoke(app, command, catch_exceptions=False)
    assert result.exit_code == 0, result.output
    assert "expander-d3" in result.output
    told = read_json(tmp_path / "demo.json")
    assert list(told["seconds"]) == ["offline", "harvest", "frontier", "features", "total"]
    assert 0 < told["peak_memory_bytes"] < 2**34
    first = read_json(tmp_path / "frontier" / "frontier.json")
    assert {record["variant"] for record in first["records"]} >= {"expander-d3", "dense"}
    assert (tmp_path / "frontier" / "report.html").is_file()
    assert f"expander-sae browse {tmp_path}/latents.db --model {tmp_path}/base/model" in result.output.replace(
        "\n", " "
    )
    with LatentStore.open(tmp_path / "latents.db") as store:
        assert [view.sae for view in store.views] == ["expander-d3", "expander-d3"]
    again = CliRunner().invoke(app, command, catch_exceptions=False)
    assert "already trained" in again.output
    assert read_json(tmp_path / "frontier" / "frontier.json")["records"] == first["records"]
