"""Text of a user's that is shown: never markup, an emoji, or a command to the terminal; and it can always be shown."""

import os
import subprocess
import sys

import pytest
from shop import call, shop_in
from typer.testing import CliRunner

from expander_sae.cli.console import errors, output, visible
from expander_sae.cli.main import _fail, app
from expander_sae.records import ExpanderSaeError

NAMES = ["a[/x]b", "[red]a[/]", ":smile:", "a\x1b[31mb\x07", "a\u202eb", os.fsdecode(b"a\xffb"), "[link=x]y", "a\rb"]
HARMFUL = ("\x1b", "\x07", "\u202e", "\r", "😄")


@pytest.fixture(scope="module")
def shop(tmp_path_factory):
    return shop_in(tmp_path_factory)


def shown_as_it_is(said, name):
    assert not any(part in said for part in HARMFUL)
    assert visible(name) in said.replace("\n", "")


QUICK = ("train", "convert", "export", "import", "push", "encode", "certify", "eval", "harvest", "amortise", "compress")


@pytest.mark.parametrize("verb", QUICK)
@pytest.mark.parametrize("name", ["a[/x]b:smile:\x1b[31mc\x07\u202ed\re", "[red]a[/][link=x]y"])
def test_a_place_to_write_to(verb, name, shop, tmp_path):
    said = call(shop.arguments(verb, tmp_path / name))
    assert (tmp_path / name).exists()
    assert not any(part in said for part in HARMFUL)
    if verb not in ("eval", "certify"):  # they do not repeat the name of --json
        shown_as_it_is("".join(said.split()).replace("│", "").replace("┃", ""), name)


def test_a_place_for_many_things(shop, tmp_path):
    shown_as_it_is(call(shop.arguments("frontier", tmp_path / "a[/x]b:smile:")), "a[/x]b:smile:")


@pytest.mark.parametrize(
    "arguments",
    [
        ("train", "{}", "--out", "o"), ("eval", "{}", "{}"), ("encode", "{}", "--acts", "{}", "--out", "o"),
        ("amortise", "{}", "a", "--out", "o"), ("compress", "{}", "--acts", "{}", "--out", "o", "--degree", "{}"),
        ("convert", "{}", "--out", "o"), ("export", "{}", "--out", "o"), ("import", "{}", "--out", "o"),
        ("push", "{}", "{}"), ("certify", "{}"), ("certify", "a:{}:1:2:3"), ("frontier", "{}", "--out", "o"),
        ("experiment", "{}", "--out", "o"), ("experiment", "geometry", "--out", "o", "--set", "{}"), ("report", "{}"),
        ("train", "a", "--out", "o", "--preset", "{}"),
    ],
    ids=" ".join,
)  # fmt: skip
@pytest.mark.parametrize("name", NAMES)
def test_an_error_names_what_was_given(arguments, name, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ExpanderSaeError) as caught:
        call([part.format(name) for part in arguments])
    with pytest.raises(SystemExit) as left:
        _fail(str(caught.value))
    said = capsys.readouterr().err
    assert left.value.code == 2
    assert said.startswith("error: ")
    assert not any(part in said for part in HARMFUL)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("arguments", [("train", "a", "--out", "o", "--{}"), ("{}",), ("train", "a", "--seed", "{}")])
def test_a_wrong_use_is_said_without_a_crash(arguments, name):
    done = CliRunner().invoke(app, [part.format(name) for part in arguments])
    assert done.exit_code == 2
    assert isinstance(done.exception, SystemExit)


@pytest.mark.parametrize("name", NAMES)
def test_what_is_printed_is_what_is_there(name, capsys):
    output(soft_wrap=True).print(f"{name}: done")
    errors().print(name)
    said = capsys.readouterr()
    assert (said.out, said.err) == (f"{visible(name)}: done\n", f"{visible(name)}\n")


def test_a_terminal_that_has_no_unicode_gets_what_it_can_show(tmp_path):
    done = subprocess.run(
        [sys.executable, "-m", "expander_sae.cli.main", "certify", os.fsdecode(b"\xc3\xa9\xff-\xe2\x80\x93")],
        env={**os.environ, "PYTHONIOENCODING": "ascii"}, capture_output=True, text=True, cwd=tmp_path,
    )  # fmt: skip
    assert done.returncode == 2, done.stderr
    assert done.stderr.startswith("error: expected a JSON file at ")
    assert "\\udcff" in done.stderr
