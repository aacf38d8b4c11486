"""The help of every verb is whole: brackets are no markup that vanishes, and a default that is a rule is said."""

import re

import pytest
from typer.main import get_command
from typer.testing import CliRunner

from expander_sae.cli import main

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


def _plain(text):
    return re.sub(r"[\s│]+", " ", text.replace("`", "")).strip()
