"""The help of every verb is whole: brackets are no markup that vanishes, and a default that is a rule is said."""

import re

import pytest
from typer.main import get_command
from typer.testing import CliRunner

from expander_sae.cli import main
from expander_sae.records import ExpanderSaeError

VERBS = get_command(main.app).commands


@pytest.mark.parametrize("verb", sorted(VERBS))
def test_help_says_all_of_every_text_and_every_default(verb):
    found = CliRunner().invoke(main.app, [verb, "--help"], env={"COLUMNS": "250", "TERM": "dumb"})
    assert found.exit_code == 0
    shown = _plain(found.output)
    assert _plain(VERBS[verb].help) in shown
    for option in VERBS[verb].params:
        assert _plain(option.help or "") in shown
        if isinstance(option.show_default, str):
            assert f"[default: ({option.show_default})]" in shown


def test_an_option_is_not_taken_for_the_value_of_the_one_before_it():
    runner = CliRunner()
    with pytest.raises(ExpanderSaeError, match="a value after --json; got the option --quiet"):
        runner.invoke(main.app, ["eval", "sae", "--json", "--quiet"], catch_exceptions=False)
    with pytest.raises(ExpanderSaeError, match="a value after --out; got the option --dense"):
        runner.invoke(main.app, ["train", "acts", "--out", "--dense"], catch_exceptions=False)
    # A flag before an option, and anything after `--`, are as they were.
    with pytest.raises(ExpanderSaeError, match="expected a harvest in acts"):
        runner.invoke(main.app, ["train", "--dense", "--out", "x", "--", "acts"], catch_exceptions=False)


def _plain(text):
    return re.sub(r"[\s│]+", " ", text.replace("`", "")).strip()
