"""TPP and SCR where the answer is known, and ablation in the running model."""

import numpy as np
import pytest
import torch
from scipy import sparse
from tiny_models import D_IN, make_documents, make_tiny_model

from expander_sae import ExpanderSae
from expander_sae.activations import load_language_model, splice_after_block
from expander_sae.activations.models import residual_after_block
from expander_sae.evaluation.meaning import LabelledTexts, deal, text_means
from expander_sae.evaluation.meaning.features import Features
from expander_sae.evaluation.meaning.linear_probe import BATCH, L1, LEARNING_RATE, train_linear_probe
from expander_sae.evaluation.meaning.perturbation import Attack, ablated, columns_of, crossed, effects, strongest

CLASSES = ("a", "b", "c")


def made_up(codes, seed=0):
    """Texts whose stream is codes [texts, latents] times orthogonal columns, and noise in the other directions."""
    draw = np.random.default_rng(seed)
    columns = np.linalg.qr(draw.normal(size=(D_IN, D_IN)))[0]
    n_latents = codes.shape[1]
    noise = draw.normal(size=(len(codes), D_IN - n_latents)) @ columns[n_latents:]
    channels = Features("channels", sparse.csc_matrix(codes @ columns[:n_latents] + 0.3 * noise))
    return channels, Features("known", sparse.csc_matrix(codes)), lambda chosen: columns[chosen]


def test_a_probe_learns_what_there_is():
    x = np.random.default_rng(0).normal(size=(400, 8))
    labels = x[:, 3] > 0
    probe = train_linear_probe(x, labels)
    assert np.abs(probe.weight).argmax() == 3
    assert probe.accuracy(x, labels) > 0.95
    assert np.array_equal(train_linear_probe(x, labels).weight, probe.weight)


def test_a_probe_takes_the_steps_of_torchs_adamw():
    """On one batch of all texts, so that no order is drawn."""
    draw = np.random.default_rng(1)
    x, labels = draw.normal(size=(BATCH, 5)), draw.random(BATCH) < 0.5
    start = np.random.default_rng(7).uniform(-1, 1, 6) / np.sqrt(5)
    weight = torch.tensor(start[:5], requires_grad=True)
    bias = torch.tensor(start[5], requires_grad=True)
    optimizer = torch.optim.AdamW([weight, bias], lr=LEARNING_RATE)
    for _ in range(30):
        said = torch.from_numpy(x) @ weight + bias
        loss = torch.nn.functional.binary_cross_entropy_with_logits(said, torch.from_numpy(labels).double())
        optimizer.zero_grad()
        (loss + L1 * weight.abs().sum()).backward()
        optimizer.step()
    probe = train_linear_probe(x, labels, steps=30, seed=7)
    np.testing.assert_allclose(probe.weight, weight.detach().numpy(), rtol=1e-9)
    assert probe.bias == pytest.approx(float(bias.detach()), rel=1e-9)


def test_a_latent_of_each_class_is_all_that_its_probe_has():
    labelled = LabelledTexts("three", [str(n) for n in range(300)], list(CLASSES) * 100)
    dealt = deal(labelled, train_size=120, test_size=40)
    codes = np.zeros((len(dealt.texts), 9))
    for place, name in enumerate(CLASSES):
        codes[:, place] = 6.0 * (dealt.labels == name)
    codes[:, 3:] = np.random.default_rng(0).random((len(codes), 6))
    channels, latents, columns = made_up(codes)
    attack = Attack(channels, dealt)
    found = attack.measures(latents, columns, counts=(0, 1, 9))
    assert list(found) == ["tpp"]
    assert found["tpp"]["0"] == 0.0
    # Its own probe is at chance; the others still see their own latent.
    assert found["tpp"]["1"] > 0.3
    mixed = Features("mixed", sparse.csc_matrix(codes[:, np.random.default_rng(1).permutation(9)]))
    assert attack.measures(mixed, columns, counts=(1,))["tpp"]["1"] < found["tpp"]["1"]


def test_the_spurious_latents_are_found_and_the_rest_comes_back():
    texts = [str(n) for n in range(800)]
    labels, attributes = ["nurse", "professor"] * 400, (["f"] * 2 + ["m"] * 2) * 200
    dealt = deal(LabelledTexts("bios", texts, labels, None, attributes), train_size=400, test_size=100)
    assert crossed(dealt)
    codes = np.zeros((len(dealt.texts), 6))
    codes[:, 0] = 2.0 * (dealt.labels == "professor")
    codes[:, 1] = 2.0 * (dealt.labels == "nurse")
    codes[:, 2] = 6.0 * (dealt.attributes == "m")  # what the biased probe takes up first
    codes[:, 3] = 6.0 * (dealt.attributes == "f")
    codes[:, 4:] = np.random.default_rng(0).random((len(codes), 2))
    channels, latents, columns = made_up(codes)
    attack = Attack(channels, dealt)
    found = attack.measures(latents, columns, counts=(0, 2))
    assert found["scr"]["0"] == 0.0
    assert found["scr"]["2"] > 0.8
    codes[:, 2:4] = 0.0
    blind = attack.measures(Features("blind", sparse.csc_matrix(codes)), columns, counts=(2,))
    assert abs(blind["scr"]["2"]) < 0.2


def test_effects_are_those_of_the_definition():
    draw = np.random.default_rng(2)
    labels = ["a", "b"] * 60
    dealt = deal(LabelledTexts("two", [str(n) for n in range(120)], labels), train_size=80, test_size=20)
    size = (len(dealt.texts), 6)
    channels, latents, columns = made_up(draw.random(size) * (draw.random(size) < 0.5))
    task = dealt.tasks[0]
    probe = train_linear_probe(channels.values.toarray()[task.fit], task.fit_labels, steps=50)
    codes = latents.values.toarray()
    for latent, effect in enumerate(effects(latents, columns, task, probe)):
        mine = codes[task.fit, latent]
        difference = mine[task.fit_labels].mean() - mine[~task.fit_labels].mean()
        assert effect == pytest.approx(difference * float(columns(latent) @ probe.weight))
    assert strongest(np.array([0.5, 0.0, -2.0, 1.0]), 9).tolist() == [3, 0]


def test_ablation_of_means_is_ablation_in_the_running_model(tmp_path):
    lm = load_language_model(make_tiny_model(tmp_path / "model", "llama"), dtype="float32")
    sae = ExpanderSae(d_in=D_IN, n_latents=96, degree=4, k=6).eval()
    texts = make_documents(3)
    means = text_means(texts, lm, 1, {"one": sae}, context=24)
    chosen = np.argsort(-means.latents["one"].density())[:20]
    channels = means.channels.values.toarray()
    quick = torch.from_numpy(ablated(channels, means.latents["one"], columns_of(sae), chosen)).float()
    out = torch.zeros(96, dtype=torch.bool)
    out[torch.from_numpy(chosen)] = True

    def without(hidden):
        x = hidden.reshape(-1, D_IN)
        codes = sae.encode(x)
        kept = codes._replace(values=codes.values.masked_fill(out[codes.indices], 0.0))
        return (sae.decode(kept) + x - sae.decode(codes)).reshape(hidden.shape)

    for row, text in enumerate(texts):
        ids = torch.tensor([lm.tokenizer(text)["input_ids"][:24]])
        with splice_after_block(lm.model, 1, without):
            stream = residual_after_block(lm.model, ids, torch.ones_like(ids), 1)[0, 1:]
        torch.testing.assert_close(quick[row], stream.mean(0), atol=1e-5, rtol=1e-4)
        assert not np.allclose(stream.mean(0).numpy(), channels[row], atol=1e-3)


def test_scr_needs_all_four_kinds_of_texts():
    labels, attributes = ["a", "b"] * 60, ["x"] * 120
    assert not crossed(deal(LabelledTexts("one", labels, labels, None, attributes), train_size=80, test_size=20))
    assert not crossed(deal(LabelledTexts("none", labels, labels), train_size=80, test_size=20))
