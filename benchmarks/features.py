"""Making a feature store: tokens a second, memory and bytes, and what they say of larger ones.

A random Expander SAE reads made-up activations of a made-up text: token ids are drawn by Zipf's law; an activation is
the SAE's own decoding of k latents, half of them the token's own and half drawn by Zipf's law, and noise of a third of
its length. Neither is a language model's: rates and bytes are those of the work, the latents mean nothing.

    python benchmarks/features.py                                  # a small form, a minute
    python benchmarks/features.py --tokens 1000000                 # n = 18,432; to benchmarks/results/features.json
    python benchmarks/features.py --reading encoder --latents 4608
"""

import argparse
import json
import resource
import shutil
import sys
import tempfile
import time
from collections import defaultdict
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from machine import cpu

from expander_sae.activations import ActivationStore, TokenBlocks
from expander_sae.activations.shards import FORMAT_VERSION, MANIFEST, tokens_name, write_shard
from expander_sae.activations.tokens import tokenizer_hash
from expander_sae.latents.building import Settings, build_store, finish, pairs, reading, sources
from expander_sae.latents.building.lens import LogitLens
from expander_sae.latents.writing import BINS
from expander_sae.ops import Codes
from expander_sae.pursuit import parse_reading
from expander_sae.records import write_json
from expander_sae.saes import ExpanderSae

RESULTS = Path(__file__).resolve().parent / "results"
CONTEXT, VOCABULARY = 256, 49_152
LARGE = {"latents": 1 << 20, "tokens": 10**8}


class MadeUpTokenizer:
    """Tokens that say their number."""

    backend_tokenizer = None

    def __len__(self):
        return VOCABULARY

    def get_vocab(self):
        return {"made up": 0}

    def convert_ids_to_tokens(self, token):
        return str(token)

    def decode(self, ids):
        return f" {ids[0]}"


def zipf(count: int, size: tuple[int, ...], draw: np.random.Generator) -> np.ndarray:
    """Numbers below `count`; the r-th in 1 / (r + 3)."""
    weight = 1 / (np.arange(count) + 3.0)
    return np.searchsorted(np.cumsum(weight / weight.sum()), draw.random(size)).clip(max=count - 1)


def write_activations(folder: Path, sae: ExpanderSae, tokens: int, seed: int = 0) -> ActivationStore:
    """A harvest of made-up activations, all of them held out."""
    draw = np.random.default_rng(seed)
    torch.manual_seed(seed)
    blocks = -(-tokens // (CONTEXT - 1))
    ids = torch.from_numpy(zipf(VOCABULARY, (blocks, CONTEXT), draw).astype(np.int32))
    special = torch.zeros(blocks, CONTEXT, dtype=torch.bool)
    special[:, 0] = True
    numbers = torch.arange(blocks, dtype=torch.int32)
    text = TokenBlocks(ids, torch.full((blocks,), CONTEXT, dtype=torch.int32), special, numbers // 8)
    empty = TokenBlocks(ids[:0], text.lengths[:0], special[:0], numbers[:0])
    own = torch.from_numpy(draw.integers(0, sae.n_latents, (VOCABULARY, sae.k // 2)))
    shards, settings = [], {
        "model_id": "made up", "model_revision": "unknown", "layer": 1, "d_in": sae.d_in, "context": CONTEXT,
        "tokenizer_sha256": tokenizer_hash(MadeUpTokenizer()),
    }  # fmt: skip
    for start in range(0, blocks, 256):
        part = ids[start : start + 256].reshape(-1).long()
        others = torch.from_numpy(zipf(sae.n_latents, (len(part), sae.k - sae.k // 2), draw))
        indices = torch.cat([own[part], others], 1)
        x = sae.decode(Codes(indices, 20 * torch.rand(indices.shape).square())).detach()
        x += torch.randn_like(x) * x.norm(dim=1, keepdim=True) / (3 * sae.d_in**0.5)
        place = torch.arange(len(part), dtype=torch.int32)
        columns = {"position": place % CONTEXT, "block": place // CONTEXT + start, "token_id": part.int()}
        columns["special"] = (columns["position"] == 0).to(torch.uint8)
        shards.append(write_shard(folder, len(shards), "heldout", {"x": x.half(), **columns}))
    told = {}
    for split, some in (("train", empty), ("heldout", text)):
        file = folder / tokens_name(split)
        told[split] = {
            "all": some.n_tokens, "ordinary": some.n_ordinary_tokens, "file": file.name, "sha256": some.save(file),
            "bytes": file.stat().st_size,
        }  # fmt: skip
    manifest = {"format_version": FORMAT_VERSION, "complete": True, "settings": settings, "dtype": "float16"}
    write_json(folder / MANIFEST, {**manifest, "text_source": "made up", "tokens": told, "shards": shards})
    return ActivationStore.open(folder)


@contextmanager
def timed(seconds: dict[str, float], *methods: tuple[object, str, str]):
    """Add up how long methods take."""
    before = [(place, name, getattr(place, name)) for place, name, _ in methods]

    def timing(function, piece):
        def run(*arguments, **options):
            started = time.perf_counter()
            try:
                return function(*arguments, **options)
            finally:
                seconds[piece] += time.perf_counter() - started

        return run

    for (place, name, piece), (_, _, function) in zip(methods, before, strict=True):
        setattr(place, name, timing(function, piece))
    try:
        yield
    finally:
        for place, name, function in before:
            setattr(place, name, function)


def peak() -> int:
    """Bytes of memory this process has had at most."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def per_latent(settings: Settings) -> int:
    """Bytes of the pass's arrays for one latent."""
    firings = settings.contexts + 4 * settings.per_quantile
    windows = firings * (8 + 4 * settings.window) + 2 * 8
    numbers = 8 + 8 + 8 + 4 + 4 * BINS + 2  # firings, two sums, the highest, the histogram, its exponent
    return windows + numbers


def measure(given: argparse.Namespace, folder: Path) -> dict:
    """One store, its times, memory and bytes."""
    torch.manual_seed(0)
    sae = ExpanderSae(d_in=given.d_in, n_latents=given.latents, degree=given.degree, k=given.k)
    sae = sae.read_by(parse_reading(given.reading))
    store = write_activations(folder / "acts", sae, given.tokens)
    settings = Settings()
    seconds: dict[str, float] = defaultdict(float)
    baseline, spilled = peak(), [0]
    written = pairs.Pairs._written

    def counted(self, parts):
        file = written(self, parts)
        here = sum((folder / path).stat().st_size for path in folder.rglob("*.pairs"))
        spilled[0] = max(spilled[0], here)
        return file

    pairs.Pairs._written = counted
    out = folder / "latents.db"
    with timed(
        seconds,
        (reading.Pass, "run", "pass"),
        (ExpanderSae, "encode", "encode"),
        (finish.Finish, "write", "finish"),
        (finish.Finish, "_alike", "nearest"),
        (finish.Finish, "_together", "together"),
    ):
        build_store(
            sources({"random": sae}), store, out, tokenizer=MadeUpTokenizer(), settings=settings, progress=False
        )
    memory = peak()
    tokens = store.n_tokens("heldout")
    lens = LogitLens(torch.randn(VOCABULARY, given.d_in), torch.ones(given.d_in), False, "")
    some = min(512, given.latents)
    started = time.perf_counter()
    logits = lens.logits(sae.dictionary().columns(torch.arange(some)).detach())
    for largest in (True, False):
        logits.topk(settings.tokens, largest=largest)
    lens_seconds = (time.perf_counter() - started) / some * given.latents
    return {
        "processor": cpu(), "threads": torch.get_num_threads(), "activations": "made up", "d_in": given.d_in,
        "latents": given.latents, "degree": given.degree, "k": given.k, "reading": given.reading, "tokens": tokens,
        "tokens_per_second": tokens / seconds["pass"], "encode_tokens_per_second": tokens / seconds["encode"],
        "seconds": {**seconds, "logit_lens": lens_seconds},
        "baseline_bytes": baseline, "peak_bytes": memory, "array_bytes_per_latent": per_latent(settings),
        "store_bytes": out.stat().st_size, "spilled_bytes": spilled[0],
    }  # fmt: skip


def extrapolated(found: dict) -> dict:
    """A store of 2^20 latents and 10^8 tokens, from the rates and bytes of this one."""
    wider = LARGE["latents"] / found["latents"]
    seconds, longer = found["seconds"], LARGE["tokens"] / found["tokens"]
    beside = seconds["pass"] - seconds["encode"]
    arrays = found["array_bytes_per_latent"]
    fixed = found["peak_bytes"] - arrays * found["latents"]
    work = {
        "encode": seconds["encode"] * longer * wider,
        "the rest of the pass": beside * longer,
        "nearest latents": seconds["nearest"] * wider**2,
        "logit lens": seconds["logit_lens"] * wider,
        "the rest of the finish": (seconds["finish"] - seconds["nearest"]) * wider,
    }
    return {
        **LARGE,
        "hours": {name: spent / 3600 for name, spent in work.items()} | {"all": sum(work.values()) / 3600},
        "peak_bytes": fixed + arrays * LARGE["latents"],
        "store_bytes": found["store_bytes"] * wider,
        "spilled_bytes": found["spilled_bytes"] * longer,
        "assumed": [
            "encoding takes time in proportion to tokens and latents, everything else of the pass to tokens alone: k "
            "codes a token, whatever n is",
            "nearest latents take time in proportion to the square of latents, the lens and the writing to latents",
            "memory beside the arrays of the pass does not grow: pairs and samples are bounded, pieces are of one size",
            "the store grows with latents: every latent has all its contexts, as here",
            "files of (latent, token) pairs grow with tokens: an upper bound, since pairs repeat",
        ],
    }


def main() -> None:
    """Measure, extrapolate, print and write."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--tokens", type=int, default=20_000)
    options.add_argument("--latents", type=int, default=18_432)
    options.add_argument("--d-in", type=int, default=576)
    options.add_argument("--degree", type=int, default=7)
    options.add_argument("--k", type=int, default=32)
    options.add_argument("--reading", default="stages:8+auto")
    options.add_argument(
        "--out", type=Path, help="also write this JSON; benchmarks/results/features.json from 10^6 tokens"
    )
    given = options.parse_args()
    folder = Path(tempfile.mkdtemp())
    try:
        (folder / "acts").mkdir()
        found = measure(given, folder)
    finally:
        shutil.rmtree(folder)
    told = {**found, "extrapolated": extrapolated(found)}
    out = given.out or (RESULTS / "features.json" if given.tokens >= 10**6 else None)
    if out is not None:
        write_json(out, told)
    print(json.dumps(told, indent=2))


if __name__ == "__main__":
    main()
