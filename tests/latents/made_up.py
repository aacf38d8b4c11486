"""A made-up feature store of any size, written by the writer that `expander-sae features` uses; hostile tokens too."""

import json
from pathlib import Path

import numpy as np

from expander_sae.latents.pool import Pool
from expander_sae.latents.writing import BINS, StoreWriter

WORDS = [" the", " river", " stone", " bird", " captain", " winter", " 12", ".", "\n", " café", " Äpfel", " 河"]
HOSTILE = [
    "<script>alert(1)</script>",
    "\"onmouseover='alert(1)",
    "\u202egnirts\u202c",
    "\x1b[31mred\x07\x00",
    "x" * 10_000,
    "\ud800",
    "[bold]markup[/bold] :smile:",
    "&amp;",
    "'; DROP TABLE latents; --",
]
"""Tokens that markup, a terminal, the direction of writing, a page's width or a file's encoding must survive."""
BLOCKS, LENGTH, WINDOW = 40, 64, 33


def make_store(
    path: Path,
    *,
    n_latents: int = 24,
    views: tuple[str, ...] = ("expander-d4, encoder", "expander-d4, stages:8+auto", "dense, encoder"),
    d_in: int = 32,
    degree: int = 4,
    contexts: int = 8,
    per_quantile: int = 3,
    hostile: bool = True,
    seed: int = 0,
) -> Path:
    """Write a store. Latents 3, 7, 11, ... never fire; views named alike before the comma are one SAE."""
    draw = np.random.default_rng(seed)
    words = WORDS + (HOSTILE if hostile else [])
    blocks = draw.integers(0, len(words), (BLOCKS, LENGTH))
    saes = list(dict.fromkeys(name.split(",")[0] for name in views))
    pool = Pool(np.full(BLOCKS, LENGTH), size=30, seed=seed)
    with StoreWriter(path) as writer:
        writer.meta(_meta())
        writer.vocabulary(range(len(words)), words)
        writer.blocks(range(BLOCKS), [block // 4 for block in range(BLOCKS)], list(blocks))
        for number, name in enumerate(views):
            sae = name.split(",")[0]
            _view(writer, number, name, saes.index(sae), n_latents, d_in, None if sae == "dense" else degree, draw)
            _contexts(writer, number, n_latents, contexts, per_quantile, draw)
            _tokens(writer, number, n_latents, len(words), words, blocks, draw)
            _others(writer, number, n_latents, len(views), draw)
            _codes(pool, number, n_latents, seed)
        pool.write(writer, len(views))
    return path


def _meta() -> dict:
    return {
        "made_by": "expander-sae, made up", "model_id": "made-up", "revision": "none", "layer": 1,
        "hook": "residual stream after block 1", "dataset": "made-up", "split": "heldout", "tokens": BLOCKS * LENGTH,
        "documents": BLOCKS // 4, "context": LENGTH, "created": "2026-01-01T00:00:00+00:00", "logit_lens": "made up",
    }  # fmt: skip


def fires(n_latents: int) -> np.ndarray:
    """Which latents of a made-up store fire."""
    return np.arange(n_latents) % 4 != 3


def _view(writer, number, name, sae, n_latents, d_in, degree, draw):
    alive = fires(n_latents)
    firings = np.where(alive, draw.integers(60, 600, n_latents), 0)
    histogram = draw.multinomial(1, np.ones(BINS) / BINS, n_latents) * firings[:, None]
    highest = np.where(alive, draw.uniform(1, 4, n_latents), np.nan)
    energy = np.where(alive, draw.random(n_latents), 0.0)
    columns = {
        "firings": firings, "mean": highest / 2, "max": highest, "energy": energy / energy.sum(),
        "token_entropy": np.where(alive, draw.uniform(0, 6, n_latents), np.nan),
        "specific": np.where(alive, draw.uniform(0, 8, n_latents), 0.0), "top": np.where(alive, 4.0, np.nan),
    }  # fmt: skip
    edges = list(np.linspace(-4, 0, 9))
    counts = np.histogram(np.log10(np.maximum(firings[alive], 1) / (BLOCKS * LENGTH)), edges)[0].tolist()
    writer.view(
        number,
        {
            "name": name, "sae": name.split(",")[0], "folder": f"saes/{name}", "sha256": f"{sae:064x}",
            "reading": name.split(", ")[-1], "kind": "dense" if degree is None else "expander", "d_in": d_in,
            "n_latents": n_latents, "degree": degree, "k": 8, "tokens": BLOCKS * LENGTH, "fvu": 0.2 + 0.1 * number,
            "dead": int((~alive).sum()), "energy": 12.5, "config": {"seed": 0},
            "overview": {key: {"edges": edges, "counts": counts} for key in ("density", "energy")},
        },
    )  # fmt: skip
    writer.latents(number, columns, histogram)
    for name in ("x", "y"):
        writer.array(number, name, draw.uniform(-1, 1, n_latents), "<f4")
    if degree is not None:
        rows = np.sort(np.argsort(draw.random((n_latents, d_in)), 1)[:, :degree], 1)
        weights = draw.standard_normal((n_latents, degree))
        writer.supports(number, rows, weights / np.linalg.norm(weights, axis=1, keepdims=True))


def _contexts(writer, number, n_latents, contexts, per_quantile, draw):
    ranks = np.concatenate([np.arange(contexts), *[np.arange(per_quantile)] * 4])
    parts = np.concatenate([np.zeros(contexts, int), np.repeat([1, 2, 3, 4], per_quantile)])
    alive = np.flatnonzero(fires(n_latents))
    latent, rank, part = np.repeat(alive, len(ranks)), np.tile(ranks, len(alive)), np.tile(parts, len(alive))
    position = draw.integers(1, LENGTH, len(latent))
    first = np.maximum(position - 24, 0)
    length = np.minimum(position + 9, LENGTH) - first
    # The top contexts and the highest quarter are highest; each falls with its rank.
    activation = (0.25 * (np.where(part == 0, 4, part) + 1 / (1 + rank))).astype(np.float32)
    values = np.zeros((len(latent), WINDOW), dtype=np.float32)
    values[np.arange(len(latent)), position - first] = activation
    beside = np.minimum(position - first + 1, length - 1)
    values[np.arange(len(latent)), beside] = np.where(beside == position - first, activation, activation / 3)
    block = draw.integers(0, BLOCKS, len(latent))
    columns = {"latent": latent, "rank": rank, "activation": activation, "block": block, "position": position}
    writer.contexts(number, part, {**columns, "first": first, "length": length}, values)


def _tokens(writer, number, n_latents, n_words, words, blocks, draw):
    alive = np.flatnonzero(fires(n_latents))
    per = 6
    token = np.argsort(draw.random((len(alive), n_words)), 1)[:, :per]
    columns = {
        "latent": np.repeat(alive, per), "rank": np.tile(np.arange(per), len(alive)), "token": token.ravel(),
        "firings": np.tile(np.arange(30, 30 - 5 * per, -5), len(alive)), "mean": draw.uniform(0, 1, token.size),
    }  # fmt: skip
    writer.top_tokens(number, columns)
    every = np.arange(n_latents)
    for sign in (1, -1):
        chosen = np.argsort(draw.random((n_latents, n_words)), 1)[:, :per]
        writer.logits(number, every, sign, chosen, sign * np.sort(draw.random((n_latents, per)))[:, ::-1])
    said = [" ".join(words[one] for one in row) for row in token.tolist()]
    block = draw.integers(0, BLOCKS, len(alive))
    around = ["".join(words[one] for one in blocks[at].tolist()) for at in block.tolist()]
    writer.texts(number, alive.tolist(), said, around)


def _codes(pool, number, n_latents, seed):
    """On every token one of the latents that fire."""
    block, position = np.divmod(np.arange(BLOCKS * LENGTH), LENGTH)
    draw = np.random.default_rng((seed, number))
    latents = draw.choice(np.flatnonzero(fires(n_latents)), (len(block), 1))
    pool.see(number, block, position, latents, draw.random(latents.shape) + 0.1)


def _others(writer, number, n_latents, views, draw):
    every = np.arange(n_latents)
    near = (every[:, None] + np.arange(1, 6)) % n_latents
    falling = np.sort(draw.random((n_latents, 5)))[:, ::-1]
    for how, values in (("cosine", falling), ("together", falling), ("rows", np.floor(4 * falling))):
        writer.neighbours(number, how, every, near, values)
    for other in range(views):
        if other != number:
            writer.matches(number, other, draw.permutation(n_latents), draw.random(n_latents))


if __name__ == "__main__":
    import sys

    target = Path(sys.argv[1])
    target.unlink(missing_ok=True)
    print(json.dumps({"store": str(make_store(target, n_latents=int(sys.argv[2])))}))
