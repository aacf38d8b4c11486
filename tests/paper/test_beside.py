"""The paper's numbers: grey or coloured, and which."""

import pytest

from expander_sae.paper import Paper, paper_diagnostics, paper_replication, paper_speeds
from expander_sae.recipes import load_recipe, recipe_names, recipe_of


def record(model_id, layer, k, preset="paper", n_latents=None):
    recipe = recipe_of(model_id)
    d_in = 32 if recipe is None else recipe.d_in
    settings = {"k": k, "preset": preset, "n_latents": n_latents, "expansion": 8}
    return {"settings": settings, "activations": [{"settings": {"model_id": model_id, "layer": layer, "d_in": d_in}}]}


def test_a_model_of_the_paper_is_known_by_its_id_or_its_folder():
    for name in recipe_names():
        recipe = load_recipe(name)
        if recipe.model is not None:
            assert recipe_of(recipe.model) == recipe
            assert recipe_of("/models/" + recipe.model.partition("/")[2]) == recipe
    assert recipe_of("somebody/pythia") is None
    assert recipe_of("model") is None


@pytest.mark.parametrize(
    ("model", "layer", "k", "shown", "matches"),
    [
        ("EleutherAI/pythia-70m-deduped", 3, 64, ("pythia-70m", 3, 64), True),
        ("EleutherAI/pythia-70m-deduped", 3, 32, ("pythia-70m", 3, 32), True),
        ("Qwen/Qwen2.5-3B", 12, 64, ("qwen2.5-3b", 12, 64), True),
        ("Qwen/Qwen2.5-3B", 12, 32, ("pythia-70m", 3, 32), False),
        ("Qwen/Qwen2.5-3B", 13, 64, ("pythia-70m", 3, 64), False),
        ("model", 14, 32, ("pythia-70m", 3, 32), False),
        ("model", 14, 5, ("pythia-70m", 3, 64), False),
    ],
)
def test_its_own_conditions_are_drawn_in_colour_and_others_grey(model, layer, k, shown, matches):
    paper = Paper(record(model, layer, k))
    assert (paper.model, paper.layer, paper.k, paper.matches) == (*shown, matches)
    assert paper.note().startswith("Dashed" if matches else "Grey")
    drawn = [line for line in paper.lines("rel_err", lambda result: result.degree) if line.points]
    assert drawn
    for line in drawn:
        assert line.same == matches
        assert line.name.startswith(f"paper, {shown[0]} layer {shown[1]}, k = {shown[2]}: ")


@pytest.mark.parametrize(
    ("preset", "n_latents", "said"),
    [
        ("default", None, "another trainer."),
        ("paper", 2048, "2,048 latents instead of 4,096."),
        ("default", 8192, "another trainer, 8,192 latents instead of 4,096."),
    ],
)
def test_another_trainer_or_size_is_grey_on_the_same_model_too(preset, n_latents, said):
    paper = Paper(record("pythia-70m-deduped", 3, 64, preset, n_latents))
    assert (paper.model, paper.layer, paper.k, paper.matches) == ("pythia-70m", 3, 64, False)
    assert paper.note().startswith("Grey: the paper's own numbers for the same model, layer and k (pythia-70m")
    assert paper.note().endswith(said)
    assert all(not line.same for line in paper.lines("rel_err", lambda result: result.degree))


def test_numbers_of_one_model_alone_are_grey_beside_any_other():
    same, qwen = Paper(record("pythia-70m-deduped", 3, 64)), Paper(record("Qwen2.5-3B", 12, 64))
    for paper, reference in ((same, False), (qwen, True)):
        (collisions,) = paper.diagnostics("active_support", "deficit_median")
        assert dict((degree, value.mean) for degree, value in collisions.points)[7] == pytest.approx(0.35565)
        data = paper.along_data("rel_err", [("expander_tied", 7), ("dense_tied", 512)])
        assert [sorted({tokens for tokens, _ in line.points}) for line in data] == [
            [5_000, 10_000, 20_000, 50_000, 100_000, 200_000]
        ] * 2
        curves = paper.learning_curves()
        assert max(tokens for tokens, _ in curves[0].points) == 5_000 * 256
        assert {line.same for line in (collisions, *data, *curves)} == {not reference}
    assert {line.same for line in same.speeds()} == {False}  # another machine, whatever the model


def test_layers_are_those_of_the_model_it_stands_beside():
    by_layer = {
        line.name: [layer for layer, _ in line.points] for line in Paper(record("x", 1, 64)).along_layers("rel_err")
    }
    assert {layer for layers in by_layer.values() for layer in layers} == {1, 3, 5}
    qwen = Paper(record("Qwen2.5-3B", 24, 64)).along_layers("ce_recovered_zero")
    assert {layer for line in qwen for layer, _ in line.points} == {12, 24}


def test_the_paper_stands_beside_every_k():
    same, other = Paper(record("pythia-70m-deduped", 3, 32)), Paper(record("model", 14, 32))
    for paper, reference in ((same, False), (other, True)):
        drawn = {line.name.rpartition(": ")[2]: line for line in paper.along_k("rel_err") if line.points}
        sparse = [f"Expander, degree {degree}" for degree in (7, 50, 200)]
        assert list(drawn) == [*sparse, "dense tied", "dense, encoder of its own"]
        for line in drawn.values():
            assert [k for k, _ in line.points] == [16, 32, 64, 128]
            values = [value.mean for _, value in line.points]
            assert values == sorted(values, reverse=True)  # more latents leave less
            assert line.same != reference
        assert dict(drawn["Expander, degree 7"].points)[64].mean == pytest.approx(0.532, abs=5e-4)
    assert any(line.points for line in other.along_k("dead_fraction"))


def test_the_replication_stands_beside_steps_and_layers():
    other, qwen = Paper(record("model", 14, 32)), Paper(record("Qwen2.5-3B", 12, 64))
    for paper, reference in ((other, True), (qwen, False)):
        sparse, dense = paper.replication("ce_recovered_zero", "steps")
        assert [(tokens, value.mean) for tokens, value in sparse.points] == [(1_280_000, 0.8270), (3_840_000, 0.8998)]
        assert [value.mean for _, value in dense.points] == [0.9810, 0.9936]
        assert sparse.points[0][1].interval == pytest.approx(0.0260 * 2.042 / 31**0.5, rel=1e-3)
        sparse, _ = paper.replication("rel_err", "layer")
        assert [(layer, value.mean) for layer, value in sparse.points] == [(12, 0.7711), (24, 0.7077)]
        assert {line.same for line in paper.replication("rel_err", "steps")} == {not reference}
    deeper = Paper(record("Qwen2.5-3B", 24, 64))
    assert {line.same for line in deeper.replication("rel_err", "layer")} == {True}
    assert {line.same for line in deeper.replication("rel_err", "steps")} == {False}


def test_the_shipped_tables_are_whole():
    assert len(paper_replication()) == 6
    assert len(paper_diagnostics()) > 1_000
    assert {speed.device for speed in paper_speeds()} == {"cpu-1thread", "A10G"}
    assert all(speed.tokens_per_second > 0 for speed in paper_speeds())
