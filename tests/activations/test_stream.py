import itertools

import pytest
import torch
from tiny_models import D_IN, make_documents, make_tiny_model, write_jsonl

from expander_sae.activations import ActivationStore, ActivationStream, harvest
from expander_sae.records import ExpanderSaeError


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    folder = tmp_path_factory.mktemp("stream")
    text = write_jsonl(folder / "text.jsonl", make_documents(30))
    return harvest(
        make_tiny_model(folder / "m", "llama"),
        text,
        folder / "h",
        layer=1,
        context=32,
        shard_tokens=640,
        progress=False,
    )


def rows(x):
    return sorted(map(tuple, x.tolist()))


def everything(store, **settings):
    return torch.cat(list(store.blocks("train", **settings))).float()


BUFFERS = [None, 700, 64, 10**6]


@pytest.mark.parametrize("buffer_tokens", BUFFERS)
@pytest.mark.parametrize("keep_special_tokens", [False, True])
def test_an_epoch_shows_every_token_once(store, buffer_tokens, keep_special_tokens):
    stream = ActivationStream(
        store,
        batch_size=100,
        seed=1,
        epochs=2,
        buffer_tokens=buffer_tokens,
        keep_special_tokens=keep_special_tokens,
    )
    batches = list(stream)
    expected = everything(store, keep_special_tokens=keep_special_tokens)
    half = len(batches) // 2
    one, two = torch.cat(batches[:half]), torch.cat(batches[half:])
    assert rows(one) == rows(two) == rows(expected)
    assert not torch.equal(one, two)
    assert not torch.equal(one, expected)
    assert [len(x) for x in batches[: half - 1]] == [100] * (half - 1)
    assert batches[0].dtype == torch.float32
    assert batches[0].shape == (100, D_IN)


@pytest.mark.parametrize("buffer_tokens", BUFFERS)
def test_an_endless_stream_carries_the_rest_over(store, buffer_tokens):
    stream = ActivationStream(store, batch_size=150, seed=1, buffer_tokens=buffer_tokens)
    n = store.n_tokens("train")
    batches = list(itertools.islice(stream, 3 * n // 150))
    assert all(len(x) == 150 for x in batches)
    joined = torch.cat(batches)
    assert rows(joined[:n]) == rows(joined[n : 2 * n]) == rows(everything(store))
    assert stream.tokens_seen == len(joined)


@pytest.mark.parametrize("buffer_tokens", BUFFERS)
@pytest.mark.parametrize("after", [0, 1, 7, 23])
@pytest.mark.parametrize("epochs", [None, 3])
def test_a_resumed_stream_gives_the_same_batches(store, buffer_tokens, after, epochs):
    def new(opened):
        return ActivationStream(opened, batch_size=130, seed=4, epochs=epochs, buffer_tokens=buffer_tokens)

    stream = new(store)
    for _ in range(after):
        next(stream)
    state = stream.state_dict()
    wanted = list(itertools.islice(stream, 40))
    resumed = new(ActivationStore.open(store.path))
    resumed.load_state_dict(state)
    found = list(itertools.islice(resumed, 40))
    assert len(found) == len(wanted) > 0
    assert all(torch.equal(a, b) for a, b in zip(found, wanted, strict=True))
    assert resumed.state_dict() == stream.state_dict()


def test_the_seed_decides(store):
    first = [next(ActivationStream(store, batch_size=64, seed=seed)) for seed in (0, 0, 1)]
    assert torch.equal(first[0], first[1])
    assert not torch.equal(first[0], first[2])


def test_a_small_buffer_is_never_exceeded_and_mixes_shards(store):
    stream = ActivationStream(store, batch_size=64, seed=0, buffer_tokens=512, epochs=1)
    assert len(store.shards("train")) > 3
    for x in stream:
        assert stream._buffer.shape[0] == 512
        assert len({file for file, _, _ in stream._held}) > 1
        assert len(x)


def test_when_all_fits_the_disk_is_read_once(store, monkeypatch):
    stream = ActivationStream(store, batch_size=500, seed=0, epochs=3)
    next(stream)
    monkeypatch.setattr(ActivationStore, "read_rows", lambda *_, **__: pytest.fail("read again"))
    assert len(list(stream)) > 3


def test_a_batch_is_the_callers_own(store):
    stream = ActivationStream(store, batch_size=store.n_tokens("train"), seed=0)
    one = next(stream)
    one.zero_()
    assert next(stream).abs().sum() > 0


@pytest.mark.parametrize(
    "changed", [{"seed": 1}, {"batch_size": 5}, {"keep_special_tokens": True}, {"split": "heldout"}]
)
def test_a_state_of_other_settings_is_refused(store, changed):
    settings = {"batch_size": 4, "seed": 0}
    state = ActivationStream(store, **settings).state_dict()
    with pytest.raises(ExpanderSaeError, match=next(iter(changed))):
        ActivationStream(store, **{**settings, **changed}).load_state_dict(state)


def test_impossible_settings_are_refused(store):
    with pytest.raises(ExpanderSaeError, match="at least 1"):
        ActivationStream(store, batch_size=0, seed=0)
    with pytest.raises(ExpanderSaeError, match="split"):
        ActivationStream(store, split="test", batch_size=4, seed=0)
