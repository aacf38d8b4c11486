"""Windows in which it is known which latents are silent."""

import numpy as np
from made_up import fires, make_store

from expander_sae.latents import LatentStore
from expander_sae.latents.pool import Pool
from expander_sae.latents.writing import StoreWriter


def codes(blocks=20, length=40, k=3, n_latents=50, seed=0):
    draw = np.random.default_rng(seed)
    block, position = np.divmod(np.arange(blocks * length), length)
    values = draw.random((len(block), k)) * (draw.random((len(block), k)) > 0.4)
    return block, position, draw.integers(0, n_latents, (len(block), k)), values


def test_windows_are_drawn_one_of_a_block_and_end_with_it():
    lengths = np.array([40, 0, 5, 40, 40, 1])
    pool = Pool(lengths, before=8, after=4, size=10)
    assert pool.block.tolist() == [0, 2, 3, 4, 5]
    assert (pool.first >= 0).all()
    assert (pool.length >= 1).all()
    assert (pool.length <= 13).all()
    assert (pool.first + pool.length <= lengths[pool.block]).all()


def test_the_latents_that_fire_in_a_window_are_those_of_its_tokens(tmp_path):
    block, position, indices, values = codes()
    pool = Pool(np.full(20, 40), size=12, seed=3)
    for start in range(0, len(block), 17):
        part = slice(start, start + 17)
        pool.see(0, block[part], position[part], indices[part], values[part])
    with StoreWriter(tmp_path / "s.db") as writer:
        writer.meta({})
        writer.vocabulary(range(50), [f" w{one}" for one in range(50)])
        writer.blocks(range(20), [0] * 20, [np.arange(40)] * 20)
        pool.write(writer, 2)
    from expander_sae.latents.connection import StoreFile
    from expander_sae.latents.pool import read_pool

    with StoreFile(tmp_path / "s.db") as file:
        found, other = read_pool(file, 0), read_pool(file, 1)
    assert len(found) == 12
    for window in found:
        inside = (block == window.block) & (position >= window.first)
        inside &= position < window.first + len(window.tokens)
        expected = set(indices[inside][values[inside] != 0].tolist())
        assert window.active.tolist() == sorted(expected)
        assert [window.silent(one) for one in range(50)] == [one not in expected for one in range(50)]
        assert window.tokens[0] == f" w{window.first}"
    assert [window.active.tolist() for window in other] == [[]] * 12


def test_a_pool_goes_on_from_its_state():
    block, position, indices, values = codes()
    whole, half = Pool(np.full(20, 40), seed=1), Pool(np.full(20, 40), seed=1)
    whole.see(1, block, position, indices, values)
    half.see(1, block[:400], position[:400], indices[:400], values[:400])
    other = Pool(np.full(20, 40), seed=1)
    other.restore(half.state())
    other.see(1, block[400:], position[400:], indices[400:], values[400:])
    assert list(other.state()) == ["1"]
    np.testing.assert_array_equal(other.state()["1"], whole.state()["1"])


def test_a_store_has_its_pool(tmp_path):
    with LatentStore.open(make_store(tmp_path / "latents.db")) as store:
        windows = store.pool()
        assert len(windows) == 30
        assert all(window.silent(3) for window in windows)
        alive = set(np.flatnonzero(fires(24)).tolist())
        assert set(np.concatenate([window.active for window in windows]).tolist()) <= alive
