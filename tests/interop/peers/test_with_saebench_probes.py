"""Our probes of labelled texts beside SAEBench's own functions, on the same token activations."""

import numpy as np
import pytest
import torch
from lens import D_IN, N_LATENTS, make_sae
from sae_bench.evals.absorption.feature_absorption_calculator import FeatureAbsorptionCalculator
from sae_bench.evals.scr_and_tpp import main as scr_and_tpp
from sae_bench.evals.sparse_probing import probe_training
from sae_bench.sae_bench_utils import activation_collection, dataset_info
from scipy import sparse

from expander_sae.evaluation.meaning import LabelledTexts, deal
from expander_sae.evaluation.meaning.absorption import absorbed
from expander_sae.evaluation.meaning.accuracy import accuracy, largest_differences
from expander_sae.evaluation.meaning.features import Features, latent_features
from expander_sae.evaluation.meaning.labelled import Task
from expander_sae.evaluation.meaning.means import averaging
from expander_sae.evaluation.meaning.perturbation import Attack, columns_of, effects
from expander_sae.interop.saebench import SaeBenchAdapter

CLASSES, EACH, LENGTH = ("a", "b", "c"), 120, 7


@pytest.fixture(scope="module")
def dealt():
    labels = [name for name in CLASSES for _ in range(EACH)]
    return deal(LabelledTexts("made up", [f"{n}" for n in range(len(labels))], labels), train_size=160, test_size=80)


@pytest.fixture(scope="module")
def unpadded(dealt):
    """Activations [texts, LENGTH, D_IN] in which classes differ in direction."""
    draw = torch.Generator().manual_seed(0)
    directions = dict(zip(CLASSES, torch.randn(3, D_IN, generator=draw), strict=True))
    x = torch.randn(len(dealt.texts), LENGTH, D_IN, generator=draw)
    return x + 0.35 * torch.stack([directions[str(name)] for name in dealt.labels])[:, None]


@pytest.fixture(scope="module")
def stream(unpadded):
    """The same, zero where SAEBench masks a token."""
    lengths = torch.randint(2, LENGTH + 1, (len(unpadded), 1), generator=torch.Generator().manual_seed(1))
    return unpadded * (torch.arange(LENGTH) < lengths)[..., None]


def our_means(stream, features_of):
    real = (stream != 0).any(-1)
    text = real.nonzero()[:, 0].numpy()
    values = features_of(stream[real])
    return Features("ours", sparse.csc_matrix(averaging(text, len(stream)) @ values))


@pytest.mark.parametrize("kind", ["expander stages", "expander untied", "dense untied"])
def test_means_of_codes_are_theirs(stream, kind):
    sae = make_sae(kind)
    ours = our_means(stream, lambda x: latent_features("ours", sae, x).values)
    theirs = activation_collection.get_sae_meaned_activations({"all": stream}, SaeBenchAdapter(sae), 50)["all"]
    assert theirs.shape == (len(stream), N_LATENTS)
    np.testing.assert_allclose(ours.values.toarray(), theirs.numpy(), atol=1e-4)


def test_means_of_channels_are_theirs(stream):
    ours = our_means(stream, lambda x: x.double().numpy())
    theirs = activation_collection.create_meaned_model_activations({"all": stream})["all"]
    np.testing.assert_allclose(ours.values.toarray(), theirs.numpy(), atol=1e-5)


@pytest.mark.parametrize("kind", ["expander stages", "dense untied", None], ids=["expander", "dense", "channels"])
def test_the_same_latents_are_chosen_and_the_same_accuracies_come_out(dealt, stream, kind):
    if kind is None:
        ours = our_means(stream, lambda x: x.double().numpy())
        theirs = activation_collection.create_meaned_model_activations({"all": stream})["all"]
    else:
        sae = make_sae(kind)
        ours = our_means(stream, lambda x: latent_features("ours", sae, x).values)
        theirs = activation_collection.get_sae_meaned_activations({"all": stream}, SaeBenchAdapter(sae), 50)["all"]
    told = []
    for task in dealt.tasks:
        fit_labels, test_labels = (torch.from_numpy(labels).int() for labels in (task.fit_labels, task.test_labels))
        fit, test = theirs[task.fit].float(), theirs[task.test].float()
        order = largest_differences(ours, task)
        for k in (1, 2, 5):
            mask = probe_training.get_top_k_mean_diff_mask(fit, fit_labels, k)
            assert sorted((~mask).nonzero()[:, 0].tolist()) == sorted(order[:k].tolist())
            _, said = probe_training.train_sklearn_probe(
                probe_training.apply_topk_mask_reduce_dim(fit, mask), fit_labels,
                probe_training.apply_topk_mask_reduce_dim(test, mask), test_labels,
            )  # fmt: skip
            assert accuracy(ours, task, order[:k]) == pytest.approx(float(said), abs=5e-4)
        _, said = probe_training.train_sklearn_probe(fit, fit_labels, test, test_labels)
        told.append((accuracy(ours, task), float(said)))
    np.testing.assert_allclose(*zip(*told, strict=True), atol=5e-4)
    assert np.mean(told) > 0.6  # there is something to tell


def their_probe(ours):
    probe = probe_training.Probe(D_IN, torch.float32)
    probe.net.weight.data.copy_(torch.from_numpy(ours.weight)[None])
    probe.net.bias.data.fill_(ours.bias)
    return probe


def attacked(dealt, stream, kind):
    """An attack of ours, the means that it needs, and an SAE."""
    sae = make_sae(kind)
    channels = our_means(stream, lambda x: x.double().numpy())
    return Attack(channels, dealt, steps=400), our_means(stream, lambda x: latent_features("o", sae, x).values), sae


def undrawn(dealt):
    """Tasks whose negatives are the first of each other class: what SAEBench draws where every draw is in order."""
    tasks = []
    for task in dealt.tasks:
        sides = []
        for training in (True, False):
            rows = {name: np.flatnonzero((dealt.labels == name) & (dealt.training == training)) for name in CLASSES}
            others = [rows[name][: len(rows[task.name]) // 2] for name in CLASSES if name != task.name]
            sides += [np.concatenate([rows[task.name], *others]), np.arange(2 * len(rows[task.name])) < len(rows["a"])]
        tasks.append(Task(task.name, *sides))
    return dealt._replace(tasks=tasks)


def by_class(dealt, stream, training):
    return {
        task.name: stream[np.flatnonzero((dealt.labels == task.name) & (dealt.training == training))]
        for task in dealt.tasks
    }


@pytest.mark.parametrize("kind", ["expander stages", "dense untied"])
def test_targeted_probe_perturbation_is_theirs(dealt, unpadded, kind, monkeypatch):
    """Without padding: they also add what ablated latents say of it, which ours does not."""
    monkeypatch.setattr(torch, "randperm", torch.arange)
    dealt, stream = undrawn(dealt), unpadded
    attack, latents, sae = attacked(dealt, stream, kind)
    adapter, columns, counts = SaeBenchAdapter(sae), columns_of(sae), [2, 10, 20]
    probes = {name: their_probe(probe) for name, probe in attack.probes.items()}
    classes = list(probes)
    train, test = by_class(dealt, stream, True), by_class(dealt, stream, False)
    with torch.no_grad():
        effect = scr_and_tpp.get_all_node_effects_for_one_sae(adapter, probes, classes, False, train, 50)
        for task in dealt.tasks:
            ours = effects(latents, columns, task, attack.probes[task.name])
            theirs = effect[task.name].numpy()
            np.testing.assert_allclose(np.maximum(ours, 0)[theirs > 0], theirs[theirs > 0], atol=1e-4)
        clean = activation_collection.create_meaned_model_activations(test)
        accuracies = scr_and_tpp.get_probe_test_accuracy(probes, classes, clean, 500, False)
        after = scr_and_tpp.perform_feature_ablations(
            probes, adapter, 50, test, effect, counts, classes, 500, False
        )  # fmt: skip
    theirs, _ = scr_and_tpp.create_tpp_plotting_dict(after, accuracies)
    ours = attack.measures(latents, columns, counts)["tpp"]
    assert any(abs(value) > 0.02 for value in ours.values())
    for count in counts:
        # Where fewer latents have an effect they fill up with some that have none.
        assert count <= min(int((of > 0).sum()) for of in effect.values())
        assert ours[str(count)] == pytest.approx(theirs[f"tpp_threshold_{count}_total_metric"], abs=5e-4)


@pytest.mark.parametrize("kind", ["expander stages", "dense untied"])
def test_spurious_correlation_removal_is_theirs(kind):
    count = 480
    labels, attributes = ["nurse", "professor"] * (count // 2), ["female", "female", "male", "male"] * (count // 4)
    dealt = deal(
        LabelledTexts("bios", [f"{n}" for n in range(count)], labels, None, attributes), train_size=320, test_size=160
    )
    draw = torch.Generator().manual_seed(1)
    x = torch.randn(count, LENGTH, D_IN, generator=draw)
    for of, name, size in ((dealt.labels, "nurse", 0.4), (dealt.attributes, "female", 0.8)):
        direction = size * torch.randn(D_IN, generator=draw)
        x[: len(of)] += direction * torch.from_numpy(np.where(of == name, 1.0, -1.0)).float()[:, None, None]
    stream = x[: len(dealt.texts)]
    attack, latents, sae = attacked(dealt, stream, kind)
    names = {"label": "professor / nurse", "attribute": "male / female", "together": "male_professor / female_nurse"}
    probes = {names[name]: their_probe(attack.probes[name]) for name in names}
    sides = []
    for training in (True, False):
        acts = {}
        for task in attack.quadrants:
            rows, labels = (task.fit, task.fit_labels) if training else (task.test, task.test_labels)
            acts[names[task.name]] = stream[rows[labels]]
            acts[dataset_info.PAIRED_CLASS_KEYS[names[task.name]]] = stream[rows[~labels]]
        sides.append(acts)
    adapter, counts = SaeBenchAdapter(sae), [2, 10, 50]
    classes = list(dataset_info.PAIRED_CLASS_KEYS)
    with torch.no_grad():
        effect = scr_and_tpp.get_all_node_effects_for_one_sae(adapter, probes, classes, True, sides[0], 50)
        clean = activation_collection.create_meaned_model_activations(sides[1])
        accuracies = scr_and_tpp.get_probe_test_accuracy(probes, classes, clean, 500, True)
        after = scr_and_tpp.perform_feature_ablations(
            probes, adapter, 50, sides[1], effect, counts, classes, 500, True
        )  # fmt: skip
    theirs = scr_and_tpp.get_scr_plotting_dict(after, accuracies)
    ours = attack.measures(latents, columns_of(sae), counts)["scr"]
    assert any(abs(value) > 0.1 for value in ours.values())
    for count in counts:
        assert ours[str(count)] == pytest.approx(theirs[f"scr_metric_threshold_{count}"], abs=5e-4)


def test_absorption_of_words_is_theirs():
    """Their calculator on a stand-in for the model, whose stream at the words is given."""
    sae = make_sae("dense untied")
    adapter = SaeBenchAdapter(sae)
    words, count = [f"w{n}" for n in range(40)], 40
    stream = torch.randn(count, D_IN, generator=torch.Generator().manual_seed(2))
    direction = torch.randn(D_IN, generator=torch.Generator().manual_seed(3))
    # Words of which the stream has the direction; where it has none the share is of nothing.
    stream += (1.0 - stream @ direction / direction.norm()).clamp(min=0)[:, None] * direction / direction.norm()
    given = iter(stream.split(10))

    class Model:
        def to_tokens(self, text):
            return torch.zeros(1, 3)

        def run_with_cache(self, prompts, names_filter):
            x = next(given)
            return None, {names_filter[0]: x[:, None].expand(-1, 3, -1)}

    calculator = FeatureAbsorptionCalculator(Model(), icl_word_list=[f"e{n}" for n in range(20)], max_icl_examples=2)
    columns = sae.dictionary().columns(torch.arange(N_LATENTS)).detach()
    cosines = torch.nn.functional.cosine_similarity(direction, columns, dim=-1).double().numpy()
    main = np.argsort(-cosines)[:1].tolist()
    theirs = calculator.calculate_absorption(adapter, words, direction, main, 1, show_progress=False).word_results
    codes = adapter.encode(stream).double().numpy()
    projections = (stream @ (direction / direction.norm())).double().numpy()
    ours = [absorbed(float(p), row, cosines, main) for p, row in zip(projections, codes, strict=True)]
    assert 0 < sum(wholly for _, wholly in ours) < count
    assert len({round(share, 6) for share, _ in ours}) > 1
    for (share, wholly), word in zip(ours, theirs, strict=True):
        assert share == pytest.approx(word.absorption_fraction, abs=5e-4)
        assert wholly == word.is_full_absorption
