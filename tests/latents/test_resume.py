"""An interrupted pass goes on and ends with the same bytes; what is there is not replaced unasked."""

import os
import signal

import numpy as np
import pytest
import torch

from expander_sae.latents import LatentStore
from expander_sae.latents.building import Settings, build_store, pairs, reading, sources, work_folder
from expander_sae.latents.building.best import Best
from expander_sae.latents.building.fires import Fires
from expander_sae.pursuit import Encoder
from expander_sae.records import ExpanderSaeError

SETTINGS = Settings(contexts=3, per_quantile=2, chunk=64)


@pytest.fixture
def build(saes, activations, language_model, tmp_path, monkeypatch):
    """Build with little memory: pairs go to files, and these are joined."""
    plain = pairs.Pairs.__init__
    monkeypatch.setattr(pairs.Pairs, "__init__", lambda *args: plain(*args, limit=500, files=2))
    views = sources({"sparse": saes["sparse"]}, [Encoder()])

    def run(name="latents.db", settings=SETTINGS, **options):
        options = {"tokenizer": language_model.tokenizer, "progress": False, "every": 0.0, **options}
        return build_store(views, activations, tmp_path / name, settings=settings, **options)

    return run


def everything(path):
    with LatentStore.open(path) as store:
        return [store.latent(j).as_dict() for j in range(store.view().n_latents)], store.view().as_dict()


def test_pieces_do_not_matter(build):
    small, whole = build("small.db"), build("whole.db", Settings(contexts=3, per_quantile=2))
    (few, view), (many, other) = everything(small), everything(whole)
    for one, two in zip(few, many, strict=True):
        for name in ("energy", "mean", "token_entropy", "specific"):
            assert one.pop(name) == pytest.approx(two.pop(name), rel=1e-9)
        for token in (*one["top_tokens"], *two["top_tokens"]):
            token["mean"] = round(token["mean"], 9)
        assert one == two
    assert view["fvu"] == pytest.approx(other["fvu"], rel=1e-9)


class Killed(BaseException):
    """As SIGKILL: nothing is saved on the way out."""


@pytest.mark.parametrize("at", [1, 4, 9])
def test_a_killed_pass_ends_with_the_same_bytes(build, monkeypatch, at):
    whole = build("whole.db").read_bytes()
    assert build("again.db").read_bytes() == whole
    plain, pieces = reading.Pass._add, []

    def add(self, chunk):
        pieces.append(chunk)
        if len(pieces) == at:
            raise Killed
        plain(self, chunk)

    monkeypatch.setattr(reading.Pass, "_add", add)
    with pytest.raises(Killed):
        build(every=0.0 if at == 4 else 1e9 if at == 1 else 0.01)
    out = build()
    assert out.read_bytes() == whole
    assert not work_folder(out).exists()
    # What was read before the last state was not read again.
    assert len(pieces) < 2 * at + 60


def test_an_interrupt_keeps_the_piece_it_came_in(build, monkeypatch):
    whole = build("whole.db").read_bytes()
    plain, read = reading.Pass._add, []

    def add(self, chunk):
        plain(self, chunk)
        read.append(len(chunk.token))
        if len(read) == 3:
            os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr(reading.Pass, "_add", add)
    with pytest.raises(KeyboardInterrupt):
        build(every=1e9)
    tokens = sum(read)
    assert build(every=1e9).read_bytes() == whole
    with LatentStore.open(build()) as store:
        assert sum(read) == store.view().tokens > tokens


def test_a_kill_while_writing_leaves_no_half_store(build, monkeypatch):
    whole = build("whole.db").read_bytes()
    with monkeypatch.context() as patch:
        patch.setattr(
            "expander_sae.latents.building.finish.Finish._text", lambda self: os.kill(os.getpid(), signal.SIGINT)
        )
        with pytest.raises(KeyboardInterrupt):
            build()
    monkeypatch.setattr(reading.Pass, "_add", None)  # all was read: nothing is read again
    out = build()
    assert out.read_bytes() == whole
    assert sorted(path.name for path in out.parent.iterdir()) == ["latents.db", "whole.db"]


def test_a_process_that_is_killed(build, monkeypatch, tmp_path):
    whole = build("whole.db").read_bytes()
    plain, done = reading.Pass._add, []

    def add(self, chunk):
        done.append(chunk)
        if len(done) == 5:
            os.kill(os.getpid(), signal.SIGKILL)
        plain(self, chunk)

    for _ in range(2):  # the second goes on where the first was killed
        child = os.fork()
        if child == 0:
            try:
                reading.Pass._add = add
                build()
            finally:
                os._exit(1)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL
    assert not (tmp_path / "latents.db").exists()
    assert build().read_bytes() == whole


def test_what_is_there_is_found_done_or_not_replaced(build, monkeypatch):
    out = build()
    before = out.read_bytes(), out.stat().st_ino
    assert build() == out
    assert (out.read_bytes(), out.stat().st_ino) == before
    with pytest.raises(ExpanderSaeError, match="--overwrite"):
        build(settings=Settings(contexts=2))
    build(settings=Settings(contexts=2), overwrite=True)
    out.write_text("something else")
    with pytest.raises(ExpanderSaeError, match="is there already"):
        build()


def test_the_state_of_other_work_is_not_taken(build, monkeypatch):
    whole = build("whole.db").read_bytes()
    for settings in (Settings(contexts=5, chunk=64), SETTINGS):
        with monkeypatch.context() as patch:
            patch.setattr(reading.Pass, "fvu", lambda *_: 1 / 0)
            with pytest.raises(ZeroDivisionError):
                build(settings=settings)
    assert build().read_bytes() == whole


def test_a_damaged_state_is_one_error(build, tmp_path):
    folder = work_folder(tmp_path / "latents.db")
    folder.mkdir()
    (folder / reading.STATE).write_bytes(b"PK\x03\x04 no archive")
    with pytest.raises(ExpanderSaeError, match="damaged one"):
        build()


def test_a_limit_takes_whole_blocks(build, activations):
    text = activations.tokens("heldout")
    counts = (~text.special).sum(1)
    out = build(settings=Settings(max_tokens=int(counts[:3].sum()) + 1))
    with LatentStore.open(out) as store:
        assert store.view().tokens == int(counts[:3].sum())
        shown = {one.block for j in range(96) for one in store.latent(j).contexts}
        assert shown == {0, 1, 2}
    with pytest.raises(ExpanderSaeError, match="a block of text"):
        build("less.db", settings=Settings(max_tokens=int(counts[0]) - 1))


def test_what_does_not_go_together(build, saes, activations, language_model, tmp_path, monkeypatch):
    from tiny_models import make_tiny_tokenizer

    with pytest.raises(ExpanderSaeError, match="another one"):
        build(tokenizer=make_tiny_tokenizer(vocab_size=300))
    with pytest.raises(ExpanderSaeError, match=r"expected the language model .* got other"):
        build(model=language_model._replace(model_id="other", revision="abc"))
    with pytest.raises(ExpanderSaeError, match="a folder"):
        build(name=".")
    with pytest.raises(ExpanderSaeError, match="contexts as a whole number"):
        Settings(contexts=0)
    manifest = activations.manifest
    settings = {key: value for key, value in manifest["settings"].items() if key != "tokenizer_sha256"}
    monkeypatch.setattr(activations, "manifest", {**manifest, "settings": settings})
    with pytest.raises(ExpanderSaeError, match="activations of a text"):
        build()


def test_best_keeps_the_highest_whatever_comes_first():
    draw = np.random.default_rng(0)
    latent, key = draw.integers(0, 7, 2_000), draw.permutation(2_000).astype(np.uint64) + np.uint64(1)
    best = Best(7, 5, 1)
    for part in np.array_split(np.arange(2_000), 13):
        part = part[np.argsort(latent[part], kind="stable")]
        part = part[key[part] > best.lowest[latent[part]]]
        best.offer(latent[part], key[part], lambda chosen, part=part: key[part[chosen], None].astype(np.float32))
    for j in range(7):
        expected = sorted(key[latent == j].tolist())[-5:]
        assert sorted(best.keys[j].tolist()) == expected
        assert best.windows[j, :, 0].tolist() == best.keys[j].tolist()


def test_no_firing_at_all():
    from expander_sae.latents.building.chunks import Chunk
    from expander_sae.latents.building.numbers import Numbers

    ids = np.zeros(2, dtype=np.int64)
    fires = Fires(Chunk(torch.zeros(2, 3), ids, ids, ids), torch.zeros(2, 1, dtype=torch.int64), torch.zeros(2, 1), 8)
    numbers = Numbers(4)
    numbers.add(fires)
    assert numbers.firings.tolist() == [0, 0, 0, 0]
    assert np.isnan(numbers.top).all()


def test_histograms_widen_over_any_range():
    from expander_sae.latents.building.numbers import Numbers

    class Some:
        def __init__(self, *sizes):
            self.size = np.array(sizes, dtype=np.float32)
            self.latent = np.zeros(len(sizes), dtype=np.int64)
            self.groups = np.array([0]), np.array([0])

    sizes = [1e-30, 3.0, 0.5, 4.0, 3.99, 1e20, 7e19]
    together, apart = Numbers(1), Numbers(1)
    together.add(Some(*sizes))
    for size in sizes:
        apart.add(Some(size))
    assert apart.top[0] == together.top[0] == 2.0**67
    assert apart.histogram.tolist() == together.histogram.tolist()
    assert apart.histogram[0].sum() == len(sizes)


def test_giant_tokens_are_left_out(build, activations):
    x = torch.cat(list(activations.blocks("heldout"))).float()
    norms = x.norm(dim=1)
    kept = int((norms <= 1.1 * norms.median()).sum())
    assert 0 < kept < len(x)
    with LatentStore.open(build(settings=Settings(outlier_medians=1.1))) as store:
        assert (store.meta["tokens"], store.meta["outliers"]) == (kept, len(x) - kept)
        assert store.view().tokens == kept
    with pytest.raises(ExpanderSaeError, match="above 1 median"):
        Settings(outlier_medians=1.0)


def test_without_neighbours(build):
    with LatentStore.open(build(settings=Settings(neighbours=0))) as store:
        latent = store.latent(0)
        assert latent.nearest == latent.together == latent.row_neighbours == []
        assert store.places().x.max() == 1
