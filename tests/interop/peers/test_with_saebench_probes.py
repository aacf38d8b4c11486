"""Our probes of labelled texts beside SAEBench's own functions, on the same token activations."""

import numpy as np
import pytest
import torch
from lens import D_IN, N_LATENTS, make_sae
from sae_bench.evals.sparse_probing import probe_training
from sae_bench.sae_bench_utils import activation_collection
from scipy import sparse

from expander_sae.evaluation.meaning import LabelledTexts, deal
from expander_sae.evaluation.meaning.features import Features, latent_features
from expander_sae.evaluation.meaning.labelled_probe import accuracy, largest_differences
from expander_sae.evaluation.meaning.means import averaging
from expander_sae.interop.saebench import SaeBenchAdapter

CLASSES, EACH, LENGTH = ("a", "b", "c"), 120, 7


@pytest.fixture(scope="module")
def dealt():
    labels = [name for name in CLASSES for _ in range(EACH)]
    return deal(LabelledTexts("made up", [f"{n}" for n in range(len(labels))], labels), train_size=160, test_size=80)


@pytest.fixture(scope="module")
def stream(dealt):
    """Activations [texts, LENGTH, D_IN] in which classes differ in direction, zero where SAEBench masks a token."""
    draw = torch.Generator().manual_seed(0)
    directions = dict(zip(CLASSES, torch.randn(3, D_IN, generator=draw), strict=True))
    x = torch.randn(len(dealt.texts), LENGTH, D_IN, generator=draw)
    x += 0.35 * torch.stack([directions[str(name)] for name in dealt.labels])[:, None]
    lengths = torch.randint(2, LENGTH + 1, (len(x), 1), generator=draw)
    return x * (torch.arange(LENGTH) < lengths)[..., None]


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
