"""The whole way from a trained dense SAE to an Expander SAE of the same latents."""

import math
from collections.abc import Iterator
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from expander_sae.activations import ActivationStore
from expander_sae.graphs import mask_from_rows
from expander_sae.ops import Codes, Dictionary
from expander_sae.pursuit import DEFAULT_READING, Encoder, Reading, as_numbers
from expander_sae.records import ExpanderSaeError, Provenance, check_provenance, read_json
from expander_sae.saes import ExpanderSae, IrregularSae, load_sae, ordinary_tokens
from expander_sae.training import PRESETS, Anneal, OnePass, StoreBatches, TrainConfig, train
from expander_sae.training.checkpointing import remove_checkpoint_of
from expander_sae.training.finished import PASS

from .encoder import KeepFiring, regressed_encoder
from .supports import Support, choose_support

ENCODERS = {
    "pursuit": "tied; codes come from block pursuit: the best reconstruction, the least agreement of firing",
    "own": "a separate encoder on the same rows, trained to fire where the dense SAE fired",
    "both": "tied; trained as an encoder first and by pursuit beside it later, while columns give up entries little by "
    "little, those that fire least the most: keeps most of what latents tell",
}
"""How a compressed SAE finds its codes, in words."""
LEARNING_RATES = {"pursuit": 5e-3, "own": 2e-3, "both": 1e-2}
"""Those that docs/guides/compress.md was measured with."""
SETTLE = 0.3
"""Share of the training for which columns keep all the entries they start with, under the encoder "both"."""


class DenseSae(Protocol):
    """What is read of a dense SAE: a `DenseTopKSae`, or any with the same few members."""

    d_in: int
    n_latents: int
    k: int
    b_enc: Any
    metadata: dict[str, Any]

    @property
    def values(self) -> Tensor:
        """Dictionary columns [n_latents, d_in]."""
        ...

    def dictionary(self) -> Dictionary:
        """Its columns with encoder and biases."""
        ...

    def center(self) -> Tensor:
        """Decoder bias [d_in]."""
        ...

    def encode(self, x: Tensor) -> Codes:
        """Codes of x [batch, d_in]."""
        ...

    def decode(self, codes: Codes) -> Tensor:
        """x_hat [batch, d_in]."""
        ...


@dataclass(frozen=True)
class Recipe:
    """How to compress; saved with the SAE."""

    degree: int
    support: str = "error"
    """One of `RULES`; the encoder "both" gives up what matters least instead."""
    encoder: str | None = None
    """One of `ENCODERS`. None: "both"; with a support rule of its own or without tokens to train on "pursuit"."""
    reading: Reading | None = None
    """What the compressed SAE is trained and read by, but for the encoder "own". None: stages:8+8; with "both"
    stages:8, for by spare columns which latents fire hangs on noise."""
    regular: bool = False
    """Every column has `degree` entries under the encoder "both", too, as the certificates need."""
    row_cap: float = 4.0
    """For the rule "balanced"."""
    tokens: int = 400_000
    """Activations seen in fine-tuning; 0 leaves the chosen values as they are."""
    batch_size: int = 1024
    learning_rate: float | None = None
    """Peak of fine-tuning: high reconstructs better, low stays nearer to the original directions. None: the encoder's
    own of `LEARNING_RATES`."""
    sample_tokens: int = 32_768
    """Activations behind the support and the encoder's start."""
    k: int | None = None
    """Active latents per token; None: the dense SAE's, or as many as it has on average where it has no k."""
    seed: int = 0

    def __post_init__(self) -> None:
        trained = self.support == "error" and self.tokens != 0
        encoder = ("both" if trained else "pursuit") if self.encoder is None else self.encoder
        reading = self.reading or (PRESETS["meaning"].reading if encoder == "both" else DEFAULT_READING)
        object.__setattr__(self, "encoder", encoder)
        object.__setattr__(self, "reading", reading)
        if self.encoder not in ENCODERS:
            raise ExpanderSaeError(f"expected an encoder out of {', '.join(ENCODERS)}; got {self.encoder!r}")
        if self.encoder == "both" and (self.support != "error" or self.tokens == 0):
            raise ExpanderSaeError(
                "expected the encoder 'both' with tokens to train on and without a support rule of its own; got "
                f"{self.tokens} tokens and {self.support!r}"
            )
        if self.tokens < 0 or self.sample_tokens < 2 or self.batch_size < 1:
            raise ExpanderSaeError(
                "expected tokens >= 0, sample_tokens >= 2 and batch_size >= 1; got "
                f"{self.tokens}, {self.sample_tokens}, {self.batch_size}"
            )

    def to_dict(self) -> dict[str, Any]:
        """Plain numbers and strings, under the names of records: the reading as `expander_sae.pursuit.as_numbers`;
        `regular`, which came later, only where it means something."""
        found: dict[str, Any] = {}
        for field in fields(self):
            if field.name == "regular" and self.encoder != "both":
                continue
            value = getattr(self, field.name)
            found |= as_numbers(value, idle=None) if isinstance(value, Reading) else {field.name: value}
        return found


def compress(
    dense: DenseSae,
    store: ActivationStore,
    recipe: Recipe,
    *,
    folder: str | Path,
    source: str = "dense",
    progress: bool = True,
    overwrite: bool = False,
) -> ExpanderSae:
    """An Expander SAE whose latent j stands for latent j of a dense SAE, saved in `folder/expander-dDEGREE`.

    Chooses `degree` rows of every column, starts from the dense values on them, and fine-tunes on activations. With
    the encoder "own" it also learns, from the dense SAE's codes, to fire where that fired. If the folder holds the SAE
    of the same recipe and source already, that is read back; an interrupted fine-tuning goes on.

    Args:
        dense: its latents keep their numbers.
        store: activations of the model and module that it was trained on.
        recipe: the settings.
        folder: gets the SAE's folder and the training's `metrics.jsonl`.
        source: what to call the dense SAE on record.
        progress: show a progress bar.
        overwrite: compress anew whatever the folder holds.

    Raises:
        ExpanderSaeError: widths differ, the folder holds another SAE of this degree, or fine-tuning diverged.

    Example:
        >>> sae = compress(load_sae("dense"), store, Recipe(degree=16), folder="small")  # doctest: +SKIP
    """
    if dense.d_in != store.d_in:
        raise ExpanderSaeError(f"expected activations of d_in {dense.d_in}, that of the SAE; got {store.d_in}")
    mismatches = check_provenance(source, dense, Provenance.of_settings(store.manifest["settings"]))
    folder, name = Path(folder), f"expander-d{recipe.degree}"
    wanted = {**recipe.to_dict(), "source": source}
    if not overwrite and (folder / name / "config.json").is_file():
        return _already_there(folder / name, wanted)
    sample = store.sample("train", recipe.sample_tokens, recipe.seed)
    sae = starting_point(dense, sample[ordinary_tokens(sample)], recipe)
    sae.metadata = {"compression": wanted} | ({} if mismatches is None else {"mismatches": mismatches})
    if recipe.tokens == 0:
        sae.metadata["activations"] = dict(store.manifest["settings"])
        sae.eval().save(folder / name)
        return sae
    assert recipe.encoder is not None
    own, both = recipe.encoder == "own", recipe.encoder == "both"
    config = TrainConfig(
        tokens=recipe.tokens,
        batch_size=recipe.batch_size,
        learning_rate=LEARNING_RATES[recipe.encoder] if recipe.learning_rate is None else recipe.learning_rate,
        fine_tune=not both,
        move_supports=None,
        anneal=Anneal(since=SETTLE) if both else None,
        one_pass=OnePass() if both else None,
        seed=recipe.seed,
    )
    records = train(
        {name: sae},
        StoreBatches(store, config),
        config,
        folder=folder,
        progress=progress,
        extra_losses={name: KeepFiring(dense)} if own else None,
        wide={name: wide_columns(dense, sae, config)} if both else None,
        overwrite=overwrite,
    )
    if records[name].diverged:
        raise ExpanderSaeError("fine-tuning diverged and nothing was saved. Lower the learning rate.")
    return sae


def _already_there(folder: Path, wanted: dict[str, Any]) -> ExpanderSae:
    found = (read_json(folder / "config.json").get("metadata") or {}).get("compression")
    sae = load_sae(folder)
    if found != wanted or not isinstance(sae, ExpanderSae):
        raise ExpanderSaeError(
            f"expected no SAE in {folder}, or one compressed by the same recipe; got another. Choose another "
            "folder, or replace it with --overwrite (overwrite=True)."
        )
    # Of a process that was killed between saving this SAE and removing the checkpoint: it would bar other degrees.
    remove_checkpoint_of(folder.parent, sae.metadata.get(PASS), [folder.name])
    return sae


@torch.no_grad()
def starting_point(dense: DenseSae, x: Tensor, recipe: Recipe) -> ExpanderSae:
    """The compressed SAE before any fine-tuning, from ordinary activations x [tokens, d_in]."""
    columns = dense.values.detach().float()
    center = dense.center().detach().float()
    codes = dense.encode(x)
    k = _active(codes, dense, recipe.k)
    rule = "magnitude" if recipe.encoder == "both" else recipe.support
    support = choose_support(columns, recipe.degree, rule, x=x - center, codes=codes, row_cap=recipe.row_cap)
    own = recipe.encoder == "own"
    assert recipe.reading is not None
    if recipe.encoder == "both" and not recipe.regular:
        reading = recipe.reading.sized(k, dense.n_latents)
        sizes = {"d_in": dense.d_in, "n_latents": dense.n_latents, "k": k}
        uneven = IrregularSae.averaging(recipe.degree, **sizes, seed=recipe.seed, reading=reading)
        uneven.b_dec.copy_(center)
        return uneven
    sae = ExpanderSae(
        d_in=dense.d_in,
        n_latents=dense.n_latents,
        degree=recipe.degree,
        k=k,
        seed=recipe.seed,
        reading=Encoder() if own else recipe.reading.sized(k, dense.n_latents),
        latent_bias=own,
        tied=not own,
        mask=mask_from_rows(support.rows.numpy(), d_in=dense.d_in),
    )
    _take(sae, support)
    sae.b_dec.copy_(center)
    if own:
        encoder = dense.dictionary().encoder
        wide = columns if encoder is None else encoder.detach().float()
        bias = None if dense.b_enc is None else dense.b_enc.detach().float()
        start = regressed_encoder(wide, bias, center, support.rows, x)
        assert sae.encoder is not None
        assert sae.b_enc is not None
        sae.encoder.copy_(start.values)
        sae.b_enc.copy_(start.bias)
    return sae


@torch.no_grad()
def wide_columns(dense: DenseSae, sae: ExpanderSae, config: TrainConfig) -> ExpanderSae:
    """As many of the largest entries of dense columns as annealing begins with."""
    assert config.anneal is not None
    degree = config.anneal.first_degree(sae.d_in, sae.degree)  # of irregular ones their most: the whole width
    support = choose_support(dense.values.detach().float(), degree, "magnitude")
    mask = mask_from_rows(support.rows.numpy(), d_in=sae.d_in)
    wide = ExpanderSae(d_in=sae.d_in, n_latents=sae.n_latents, degree=degree, k=sae.k, reading=Encoder(), mask=mask)
    _take(wide, support)
    return wide


def _take(sae: ExpanderSae, support: Support) -> None:
    """Start an SAE on the mask of a support at its values."""
    # A column whose kept entries are all zero has no direction; any unit vector will do until training gives it one.
    empty = support.values.norm(dim=1) == 0
    sae.columns.raw.copy_(torch.where(empty[:, None], sae.columns.raw, support.values))


def _active(codes: Codes, dense: DenseSae, k: int | None) -> int:
    """k as asked for, the dense SAE's, or its mean number of active latents where that is not bounded by a k."""
    if k is not None:
        return k
    if dense.k < dense.n_latents:
        return dense.k
    return max(1, math.ceil(float((codes.values != 0).sum(1).double().mean())))


def ordinary_blocks(store: ActivationStore, split: str, max_tokens: int | None, batch: int = 512) -> Iterator[Tensor]:
    """x [at most batch, d_in] float32 of a split, tokens of giant norm left out."""
    left = max_tokens
    for block in store.blocks(split):
        x = block.float()
        x = x[ordinary_tokens(x)][:left]
        left = None if left is None else left - len(x)
        yield from x.split(batch)
        if left == 0:
            return
