"""An option that is given stands above a preset, in every verb that takes one."""

from dataclasses import fields

import pytest
import torch
from typer.main import get_command
from typer.testing import CliRunner

from expander_sae import activations, training
from expander_sae.cli.main import app
from expander_sae.frontier import experiments
from expander_sae.pursuit import as_numbers
from expander_sae.records import ExpanderSaeError
from expander_sae.saes import IrregularSae
from expander_sae.training import PRESETS, Preset

OPTIONS = {
    "tokens": [("--tokens 777", 777)],
    "batch_size": [("--batch-size 33", 33)],
    "learning_rate": [("--learning-rate 0.5", 0.5)],
    "stages": [("--stages 0", 0), ("--stages 8", 8), ("--stages 3", 3)],
    "spare": [("--spare 0", 0), ("--spare 1", 1)],
    "irregular": [("--irregular", True), ("--regular", False)],
    "signed": [("--signed", True), ("--no-signed", False)],
    "latent_bias": [("--latent-bias", True), ("--no-latent-bias", False)],
    "construction": [("--construction balanced", "balanced"), ("--construction uniform", "uniform")],
    "keep_special_tokens": [("--keep-special-tokens", True), ("--no-keep-special-tokens", False)],
    "splice": [("--splice ordinary", "ordinary"), ("--splice everywhere", "everywhere")],
}
"""What a preset sets and a user may say, as it is said and as it is meant."""

VERBS = {name: verb for name, verb in get_command(app).commands.items() if any(p.name == "preset" for p in verb.params)}
CASES = [
    (verb, preset, option, said, meant)
    for verb in sorted(VERBS)
    for preset in PRESETS
    for option, ways in OPTIONS.items()
    if any(parameter.name == option for parameter in VERBS[verb].params)
    for said, meant in ways
    if (verb, preset, said) != ("train", "paper", "--irregular")  # by which no entry moves: refused
]


class Store:
    """As much of an activation store as a verb looks at before it trains."""

    d_in, layer = 16, 1

    def __init__(self):
        self.manifest = {"settings": {}}

    def sample(self, split, n, seed, **options):
        return torch.randn(10, 16, generator=torch.Generator().manual_seed(0))


class Reached(Exception):
    """The work itself is reached."""


@pytest.fixture
def asked(monkeypatch, tmp_path):
    """Of a command line: what its verb would build, train and measure, under the names of `OPTIONS`."""

    def stop(*given, **named):
        raise Reached(given, named)

    monkeypatch.setattr(activations.ActivationStore, "open", lambda _: Store())
    monkeypatch.setattr(training, "StoreBatches", lambda store, config, keep_special_tokens: keep_special_tokens)
    monkeypatch.setattr(training, "train", stop)
    monkeypatch.setattr(experiments, "Context", stop)
    monkeypatch.setattr(experiments, "run_experiment", stop)

    def ask(verb, *said):
        start = {
            "train": ["acts", "--degree", 4, "--k", 8],
            "frontier": ["acts", "--degrees", 4, "--k", 8, "--controls", "none", "--no-ce"],
            "experiment": ["geometry", "--acts", "acts", "--k", 8, "--no-ce"],
        }[verb]
        line = [verb, *map(str, start), "--n-latents", "64", "--out", str(tmp_path / "out"), *said]
        with pytest.raises(Reached) as reached:
            CliRunner().invoke(app, line, catch_exceptions=False)
        return read(verb, *reached.value.args)

    return ask


def read(verb, given, named):
    if verb == "train":
        (sae,), kept, config = given[0].values(), *given[1:3]
        found = {
            "reading": sae.reading,
            "signed": sae.signed,
            "latent_bias": sae.b_enc is not None,
            "irregular": isinstance(sae, IrregularSae),
            "construction": sae.mask.construction,
            "keep_special_tokens": kept,
        }
    else:
        settings = given[1] if verb == "frontier" else given[2]
        config, evaluation, found = settings.training(), settings.evaluation(), vars(settings.sae_options())
        found |= {"splice": evaluation.splice, "keep_special_tokens": evaluation.keep_special_tokens}
    trained = {name: getattr(config, name) for name in ("tokens", "batch_size", "learning_rate")}
    found |= as_numbers(found["reading"]) | trained
    return {name: value for name, value in found.items() if name in OPTIONS}


def test_the_verbs_with_a_preset_and_what_it_sets_are_these():
    assert sorted(VERBS) == ["experiment", "frontier", "train"]
    of_presets = {field.name for field in fields(Preset)} - {"training", "dense_draw", "reading"}
    assert of_presets | {"tokens", "batch_size", "learning_rate", "stages", "spare"} == set(OPTIONS)
    for verb in VERBS.values():
        for parameter in verb.params:
            # "Not given" must be told from any value that can be given.
            assert parameter.name not in OPTIONS or parameter.default is None, (verb.name, parameter.name)


@pytest.mark.parametrize(("verb", "preset", "option", "said", "meant"), CASES)
def test_what_is_said_is_obeyed_and_the_rest_is_the_presets(asked, verb, preset, option, said, meant):
    # With spare columns there must be stages that pick them.
    beside = ["--stages", "2"] if option == "spare" else []
    plain, changed = asked(verb, "--preset", preset, *beside), asked(verb, "--preset", preset, *beside, *said.split())
    assert changed[option] == meant
    follows = {"spare"} if option == "stages" else set()  # the usual number depends on it
    same = plain.keys() - {option} - follows
    assert {name: changed[name] for name in same} == {name: plain[name] for name in same}


@pytest.mark.parametrize("verb", sorted(VERBS))
def test_a_preset_without_options_is_itself(asked, verb):
    found = asked(verb, "--preset", "paper")
    paper = PRESETS["paper"]
    wanted = {name: getattr(paper, name) for name in found if hasattr(paper, name)}
    wanted |= {name: getattr(paper.training, name) for name in ("tokens", "batch_size", "learning_rate")}
    wanted |= as_numbers(paper.reading)
    assert found == wanted


@pytest.mark.parametrize("option", ["--row-cap 2", "--irregular"])
def test_what_a_preset_cannot_do_is_refused(asked, option, tmp_path):
    with pytest.raises(ExpanderSaeError, match=rf"expected no {option.split()[0]} beside --preset paper"):
        CliRunner().invoke(
            app,
            ["train", "acts", "--out", str(tmp_path), "--preset", "paper", *option.split()],
            catch_exceptions=False,
        )
