"""Every number of a store against a plain computation over all codes."""

import math
from collections import Counter

import numpy as np
import pytest
import torch

from expander_sae.latents import LatentStore
from expander_sae.latents.building import Settings, build_store, sources
from expander_sae.latents.building.best import random_bits
from expander_sae.latents.identity import sae_sha256, token_texts
from expander_sae.pursuit import Encoder, parse_reading
from expander_sae.saes import IrregularSae, load_sae

SETTINGS = Settings(contexts=4, per_quantile=2, before=5, after=3, tokens=5, neighbours=4)


@pytest.fixture(scope="module")
def views(saes):
    sparse = sources({"sparse": saes["sparse"]}, [Encoder(), parse_reading("stages:3")])
    return [*sparse, *sources({"dense": saes["dense"]})]


@pytest.fixture(scope="module")
def path(views, activations, language_model, tmp_path_factory):
    out = tmp_path_factory.mktemp("built") / "latents.db"
    build_store(
        views, activations, out, tokenizer=language_model.tokenizer, model=language_model, settings=SETTINGS,
        progress=False,
    )  # fmt: skip
    return out


@pytest.fixture(scope="module")
def store(path):
    with LatentStore.open(path) as opened:
        yield opened


@pytest.fixture(scope="module")
def text(activations):
    return activations.tokens("heldout")


@pytest.fixture(scope="module")
def plain(views, activations, text):
    """Codes of every place of the text as a dense table, 0 where nothing is read: [view][block, position, latent]."""
    ordinary = (~text.special).nonzero()
    x = torch.cat(list(activations.blocks("heldout"))).float()
    assert len(x) == len(ordinary) < 2048
    tables = []
    for view in views:
        codes = view.sae.encode(x)
        flat = torch.zeros(len(x), view.sae.n_latents).scatter_(1, codes.indices, codes.values)
        table = torch.zeros(*text.input_ids.shape, view.sae.n_latents)
        table[ordinary[:, 0], ordinary[:, 1]] = flat
        tables.append(table.detach().numpy())
    return tables


def firings_of(table, j):
    """(|code|, block, position) of a latent in reading order."""
    return [(abs(float(table[b, p, j])), int(b), int(p)) for b, p in np.argwhere(table[:, :, j] != 0)]


def latents_to_look_at(table):
    counts = (table != 0).sum((0, 1))
    order = np.argsort(counts)
    return sorted({*order[:2], *order[-6:], *order[len(order) // 2 :: 9]})


@pytest.mark.parametrize("number", [0, 1, 2])
def test_counts_sums_and_histograms(store, plain, text, number):
    table = plain[number]
    tokens = int((~text.special).sum())
    squares = float(np.square(table.astype(np.float64)).sum())
    view = store.view(number)
    assert view.tokens == tokens
    assert view.dead == int(((table != 0).sum((0, 1)) == 0).sum())
    assert view.energy == pytest.approx(squares / tokens, rel=1e-6)
    for j in range(view.n_latents):
        sizes = [size for size, _, _ in firings_of(table, j)]
        latent = store.latent(j, view=number)
        assert latent.firings == len(sizes)
        assert latent.density == len(sizes) / tokens
        if not sizes:
            assert latent.dead
            assert latent.mean is latent.max is latent.token_entropy is None
            continue
        assert latent.mean == pytest.approx(np.mean(sizes), rel=1e-9)
        assert latent.max == max(sizes)
        assert latent.energy == pytest.approx(np.sum(np.square(sizes)) / squares, rel=1e-6)
        top = 2.0 ** math.ceil(math.log2(max(sizes)) + 1e-12)
        assert latent.edges[-1] == top
        assert latent.histogram.tolist() == np.histogram(sizes, np.linspace(0, top, 33))[0].tolist()
    assert sum(store.overview(number).density.counts) == view.n_latents - view.dead
    assert store.overview(number).firings == int((table != 0).sum())


def test_reconstruction(store, views, activations):
    x = torch.cat(list(activations.blocks("heldout"))).double()
    for view, source in zip(store.views, views, strict=True):
        error = (x - source.sae(x.float()).detach().double()).square().sum()
        assert view.fvu == pytest.approx(float(error / (x - x.mean(0)).square().sum()), rel=1e-5)


def window(table, text, words, j, block, position):
    first, last = max(0, position - 5), min(int(text.lengths[block]), position + 4)
    ids = text.input_ids[block, first:last].tolist()
    return [words[one] for one in ids], table[block, first:last, j].tolist(), position - first


@pytest.mark.parametrize("number", [0, 1, 2])
def test_contexts(store, plain, text, number, language_model):
    table = plain[number]
    vocabulary = range(len(language_model.tokenizer))
    words = dict(zip(vocabulary, token_texts(language_model.tokenizer, vocabulary), strict=True))
    length = text.input_ids.shape[1]
    documents = text.documents.tolist()
    for j in latents_to_look_at(table):
        j = int(j)
        fires = firings_of(table, j)
        best = {}
        for size, block, position in sorted(fires, key=lambda one: (-one[0], one[1], one[2])):
            best.setdefault(block, (size, block, position))
        top = sorted(best.values(), key=lambda one: (-one[0], one[1], one[2]))[: SETTINGS.contexts]
        number_of = {
            (b, p): int(random_bits(np.array([j]), np.array([b * length + p]), 0)[0]) for _, b, p in fires
        }  # fmt: skip
        drawn = sorted(fires, key=lambda one: -number_of[one[1:]])[: 4 * SETTINGS.per_quantile]
        drawn.sort(key=lambda one: (-one[0], one[1], one[2]))
        quarters = {part: [] for part in (1, 2, 3, 4)}
        for rank, one in enumerate(drawn):
            quarters[4 - 4 * rank // len(drawn)].append(one)
        latent = store.latent(j, view=number)
        for found, expected in ((latent.contexts, top), *((latent.quantiles[q], quarters[q]) for q in quarters)):
            assert [(one.activation, one.block, one.position) for one in found] == expected
            for one in found:
                assert (one.tokens, one.values, one.peak) == window(table, text, words, j, one.block, one.position)
                assert one.document == documents[one.block]


@pytest.mark.parametrize("number", [0, 2])
def test_tokens_entropy_and_how_specific(store, plain, text, number):
    table = plain[number]
    ids = text.input_ids.numpy()
    base = Counter(ids[(~text.special).numpy()].tolist())
    total = sum(base.values())
    for j in latents_to_look_at(table):
        j = int(j)
        fires = firings_of(table, j)
        counts = Counter(int(ids[b, p]) for _, b, p in fires)
        latent = store.latent(j, view=number)
        ranked = sorted(counts.items(), key=lambda one: (-one[1], one[0]))[: SETTINGS.tokens]
        assert [(one.id, one.firings) for one in latent.top_tokens] == ranked
        for one in latent.top_tokens:
            sizes = [size for size, b, p in fires if ids[b, p] == one.id]
            assert one.mean == pytest.approx(np.mean(sizes), rel=1e-9)
        gain = 0.0
        for _, block, position in fires:  # each is guessed from the others
            token = int(ids[block, position])
            chance = base[token] / total
            gain += math.log2((counts[token] - 1 + 8 * chance) / (len(fires) - 1 + 8) / chance) / len(fires)
        assert latent.specific == pytest.approx(max(0.0, gain), abs=1e-9)
        if fires:
            shares = [count / len(fires) for count in counts.values()]
            assert latent.token_entropy == pytest.approx(-sum(p * math.log2(p) for p in shares), abs=1e-12)


@pytest.mark.parametrize("number", [0, 2])
def test_alike_latents(store, views, plain, number):
    dictionary = views[number].sae.dictionary().detached()
    w = dictionary.dense().numpy().astype(np.float64)
    n = len(w)
    cosines = w @ w.T
    np.fill_diagonal(cosines, -np.inf)
    fired = (plain[number].reshape(-1, n) != 0).astype(np.float64)
    both = fired.T @ fired
    for j in range(n):
        latent = store.latent(j, view=number)
        near = latent.nearest
        assert [one.value for one in near] == pytest.approx(np.sort(cosines[j])[::-1][:4].tolist(), abs=1e-5)
        assert [one.value for one in near] == pytest.approx([cosines[j, one.latent] for one in near], abs=1e-5)
        values = {
            i: both[i, j] / math.sqrt(both[i, i] * both[j, j]) for i in range(n) if i != j and both[i, j] >= 2
        }  # fmt: skip
        expected = sorted(values.items(), key=lambda one: (-one[1], one[0]))[:4]
        assert [one.latent for one in latent.together] == [i for i, _ in expected]
        assert [one.value for one in latent.together] == pytest.approx([value for _, value in expected])
        if dictionary.rows is None:
            assert latent.row_neighbours == []
            assert latent.rows is None
            continue
        rows = dictionary.rows.numpy()
        assert latent.rows.tolist() == rows[j].tolist()
        assert latent.weights.tolist() == dictionary.decoder[j].tolist()
        shared = [len(set(rows[j]) & set(rows[i])) if i != j else 0 for i in range(n)]
        assert [one.value for one in latent.row_neighbours] == [x for x in sorted(shared, reverse=True)[:4] if x]
        assert all(shared[one.latent] == one.value for one in latent.row_neighbours)


def test_matches(store, views):
    sparse, dense = (views[i].sae.dictionary().detached().dense().numpy() for i in (0, 2))
    cosines = sparse @ dense.T
    for match in store.compare(0, 2):
        assert match.cosine == pytest.approx(cosines[match.latent].max(), abs=1e-5)
        assert match.cosine == pytest.approx(cosines[match.latent, match.other], abs=1e-5)
    assert {(match.latent, match.other, match.cosine) for match in store.compare(1, 0)} == {
        (j, j, 1.0) for j in range(len(sparse))
    }


def test_logit_lens(store, views, language_model):
    model = language_model.model
    scaled = views[2].sae.dictionary().detached().dense() * model.model.norm.weight
    logits = (scaled @ model.lm_head.weight.T)[:, : len(language_model.tokenizer)]
    words = token_texts(language_model.tokenizer, range(logits.shape[1]))
    for j in range(0, len(logits), 7):
        latent = store.latent(j, view=2)
        for found, sign in ((latent.promoted, 1), (latent.suppressed, -1)):
            expected = sign * (sign * logits[j]).sort(descending=True).values[:5]
            assert [one.value for one in found] == pytest.approx(expected.tolist(), abs=1e-5)
            assert all(one.token == words[one.id] for one in found)
            assert [float(logits[j, one.id]) for one in found] == pytest.approx(expected.tolist(), abs=1e-5)
    assert store.meta["logit_lens"] == "U (g * w), g the weight of model.norm"


def test_map_and_pool(store, plain):
    for number in (0, 2):
        places = store.places(number)
        assert places.x.min() == places.y.min() == -1
        assert places.x.max() == places.y.max() == 1
    for number, table in enumerate(plain):
        for window in store.pool(number):
            fired = (table[window.block, window.first : window.first + len(window.tokens)] != 0).any(0)
            assert window.active.tolist() == np.flatnonzero(fired).tolist()


def test_searches_find_what_latents_fire_on(store):
    latent = next(one for one in map(store.latent, range(96)) if one.firings > 5)
    token = latent.top_tokens[0]
    assert latent.index in [line.index for line in store.search(token=token.id, limit=200)]
    word = next(said.strip() for said in latent.contexts[0].tokens if said.strip().isalpha())
    assert latent.index in [line.index for line in store.search(word, limit=200)]


def test_what_is_on_record(store, activations):
    assert store.meta["hook"] == "residual stream after block 1"
    assert store.meta["dataset"] == "text.jsonl"
    assert store.meta["model_id"] == "model"
    assert store.meta["split"] == "heldout"
    assert [view.name for view in store.views] == ["sparse, encoder", "sparse, stages:3", "dense, encoder"]
    assert store.view(0).config["described"]["kind"] == "expander"
    assert store.view(0).degree == 4
    assert store.view(2).degree is None


def test_an_sae_is_the_same_before_it_is_saved_and_after(saes, folder, tmp_path):
    for name, sae in saes.items():
        again = load_sae(folder / "saes" / name)
        assert sae_sha256(sae) == sae_sha256(again)
        again.b_dec.data[0] += 1e-3
        assert sae_sha256(sae) != sae_sha256(again)


def test_columns_of_different_degrees(activations, language_model, tmp_path):
    sae = IrregularSae.averaging(3, d_in=activations.d_in, n_latents=40, k=4)
    sae.save(tmp_path / "sae")
    assert sae_sha256(load_sae(tmp_path / "sae")) == sae_sha256(sae)
    out = build_store(
        sources({"irregular": sae}), activations, tmp_path / "latents.db", tokenizer=language_model.tokenizer,
        settings=SETTINGS, progress=False,
    )  # fmt: skip
    w = sae.dictionary().detached().dense().numpy()
    with LatentStore.open(out) as store:
        assert store.view().degree == 3
        for j in range(40):
            latent = store.latent(j)
            column = np.zeros(len(w[j]), dtype=np.float32)
            column[latent.rows] = latent.weights
            assert len(latent.rows) == len(latent.weights) == np.count_nonzero(w[j])
            assert column.tolist() == w[j].tolist()
