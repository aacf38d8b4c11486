"""`--json -`: standard output has the JSON and nothing else, for every verb that has the option."""

import json

import pytest
from safetensors.torch import load
from shop import shop_in
from typer.testing import CliRunner

from expander_sae.cli.main import app


@pytest.fixture(scope="module")
def shop(tmp_path_factory):
    return shop_in(tmp_path_factory)


VERBS = ("harvest", "train", "amortise", "compress", "convert", "export", "import", "encode", "eval", "certify")


@pytest.mark.parametrize(
    ("verb", "name"), [("frontier", "-"), *((verb, name) for verb in VERBS for name in ("-", "/dev/stdout"))]
)
def test_standard_output_is_json(verb, name, shop, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    arguments = shop.arguments(verb, tmp_path / "out")
    if verb in ("eval", "certify"):
        arguments = arguments[: arguments.index("--json")]
    done = CliRunner().invoke(app, [*arguments, "--json", name], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout)
    assert done.stderr  # what a verb says besides
    assert not (tmp_path / "-").exists()


def test_codes_and_a_file_of_another_library_go_through_a_pipe(shop, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    done = CliRunner().invoke(app, shop.arguments("encode", "-"), catch_exceptions=False)
    assert done.exit_code == 0
    assert set(load(done.stdout_bytes)) == {"indices", "values", "token_id", "block", "position"}
    assert "tokens: -" in done.stderr
    exported = [*shop.arguments("export", "-"), "--to", "openai", "--inference", "encoder"]
    done = CliRunner().invoke(app, exported, catch_exceptions=False)
    assert done.exit_code == 0, done.output
    assert done.stdout_bytes.startswith(b"PK")
