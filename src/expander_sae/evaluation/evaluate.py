"""All metrics of several SAEs on the same held-out tokens, in one pass over them."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from expander_sae.activations import ActivationStore, LanguageModel
from expander_sae.records import (
    EvaluationRecord,
    ExpanderSaeError,
    Provenance,
    check_provenance,
    warn_of_differences,
)
from expander_sae.records.progress import Bars
from expander_sae.records.remote import RemoteFolder, is_remote
from expander_sae.saes import AbstractSae
from expander_sae.saes.init import OUTLIER_MEDIANS, norm_limit, token_norms

from .cross_entropy import SPLICES, CrossEntropyMetrics, spliced_cross_entropy, spread_blocks
from .reconstruction import ReconstructionAccumulator

MEDIAN_SAMPLE = 32_768
"""The median norm is that of this many first tokens."""


class _Reconstruction(NamedTuple):
    accumulators: dict[str, ReconstructionAccumulator]
    encode_tokens_per_second: dict[str, float]
    giant_norm: float | None
    outlier_tokens: int


def evaluate(
    saes: Mapping[str, AbstractSae],
    store: ActivationStore,
    *,
    language_model: LanguageModel | None = None,
    split: str = "heldout",
    max_tokens: int | None = None,
    ce_tokens: int | None = 16_384,
    splice: str = "ordinary",
    batch_size: int = 2048,
    keep_special_tokens: bool = False,
    outlier_medians: float | None = OUTLIER_MEDIANS,
    progress: bool = True,
) -> dict[str, EvaluationRecord]:
    """Measure every SAE on the same tokens of `store`: the formulas are in `docs/reference/metrics.md`.

    Args:
        saes: by name; all of the store's d_in.
        store: harvested activations, with the text they came from.
        language_model: the model they came from; without it the cross-entropy part is left out.
        split: which side of the store's document split.
        max_tokens: use the first so many tokens of the split for reconstruction; None for all.
        ce_tokens: predicted tokens for the cross entropy, in blocks spread over the split; None for all.
        splice: "ordinary" keeps the model's own activation at every position that is left out of the
            reconstruction metrics; "everywhere" replaces all of them, as the paper does.
        batch_size: tokens encoded at once.
        keep_special_tokens: put first positions and special tokens into the reconstruction metrics.
        outlier_medians: leave out tokens whose norm is above this many medians of the first 32,768 tokens; with a
            few hundred times the usual power, a handful of them would decide the fvu. None keeps them.
        progress: draw a progress bar.

    Returns:
        One record for each SAE, by name.

    Raises:
        ExpanderSaeError: no SAE, an SAE of another d_in than the store's, no tokens, or an impossible setting.

    Example:
        >>> records = evaluate({"d7": load_sae("runs/d7")}, ActivationStore.open("acts"))  # doctest: +SKIP
        >>> records["d7"].fvu  # doctest: +SKIP
        0.31
    """
    _check(saes, store, splice, batch_size, max_tokens, outlier_medians)
    place = None if language_model is None else _place(store)
    activations = Provenance.of_settings(store.manifest["settings"])
    mismatches = {name: check_provenance(name, sae, activations) or [] for name, sae in saes.items()}
    of_model = [] if language_model is None else _other_model(activations, language_model)
    modes = {name: sae.training for name, sae in saes.items()}
    for sae in saes.values():
        sae.eval()
    try:
        with _bar(progress) as bar:
            tokens = store.blocks(split, keep_special_tokens=keep_special_tokens, max_tokens=max_tokens)
            reconstruction = _reconstruct(saes, tokens, batch_size, outlier_medians, bar)
            metrics = {name: sums.result() for name, sums in reconstruction.accumulators.items()}
            losses: dict[str, CrossEntropyMetrics] = {}
            if language_model is not None and place is not None:
                mean = next(iter(metrics.values())).mean
                blocks = spread_blocks(store.tokens(split), ce_tokens)
                losses = spliced_cross_entropy(
                    saes,
                    language_model,
                    blocks,
                    layer=place,
                    mean=mean,
                    splice=splice,
                    giant_norm=reconstruction.giant_norm,
                    progress=bar("cross entropy", len(blocks.lengths)),
                )
    finally:
        for name, sae in saes.items():
            sae.train(modes[name])
    records = {}
    harvested = store.manifest["settings"]
    for name, sae in saes.items():
        result = metrics[name]
        records[name] = EvaluationRecord(
            name=name,
            **describe_sae(sae),
            model_id=harvested["model_id"],
            model_revision=harvested["model_revision"],
            layer=harvested["layer"],
            module=harvested.get("module"),
            split=split,
            keep_special_tokens=keep_special_tokens,
            outlier_medians=outlier_medians,
            tokens=result.tokens,
            outlier_tokens=reconstruction.outlier_tokens,
            fvu=result.fvu,
            explained_variance=result.explained_variance,
            rel_err=result.rel_err,
            cosine=result.cosine,
            l0=result.l0,
            dead_fraction=result.dead_fraction,
            encode_tokens_per_second=reconstruction.encode_tokens_per_second[name],
            mismatches=[*mismatches[name], *of_model] or None,
            **(losses[name]._asdict() if name in losses else {}),
        )
    return records


def describe_sae(sae: AbstractSae) -> dict[str, Any]:
    """The fields of an `EvaluationRecord` that the SAE alone decides."""
    mask = getattr(sae, "mask", None)
    return {
        "kind": sae.kind,
        "d_in": sae.d_in,
        "n_latents": sae.n_latents,
        "degree": round(sae.decoder_values() / sae.n_latents),
        "k": sae.k,
        "signed": sae.signed,
        "construction": None if mask is None else mask.construction,
        "mask_seed": None if mask is None else mask.seed,
        "seed": getattr(sae, "seed", None),
        "learned_values": sae.learned_values(),
        "decoder_values": sae.decoder_values(),
        "inference": str(sae.reading),
        "bytes_on_disk": None if sae.folder is None else bytes_on_disk(sae.folder),
    }


def bytes_on_disk(folder: str | Path) -> int:
    """Size in bytes of the two files of a saved SAE."""
    if is_remote(folder):
        sizes = RemoteFolder(folder).sizes()
        return sum(sizes[name] for name in ("config.json", "sae.safetensors"))
    return sum((Path(folder) / name).stat().st_size for name in ("config.json", "sae.safetensors"))


def _check(
    saes: Mapping[str, AbstractSae],
    store: ActivationStore,
    splice: str,
    batch_size: int,
    max_tokens: int | None,
    outlier_medians: float | None,
) -> None:
    if not saes:
        raise ExpanderSaeError("expected at least one SAE to evaluate; got none")
    settings = store.manifest["settings"]
    for name, sae in saes.items():
        if sae.d_in != store.d_in:
            raise ExpanderSaeError(
                f"expected SAEs of d_in {store.d_in}, that of the activations "
                f"({settings['model_id']}, {settings.get('module') or settings['layer']}); "
                f"got {name} of {sae.d_in}. Was it trained on another model?"
            )
    if splice not in SPLICES:
        raise ExpanderSaeError(f"expected splice to be one of {', '.join(SPLICES)}; got {splice!r}")
    for what, number in (("batch size", batch_size), ("number of tokens", max_tokens)):
        if number is not None and number < 1:
            raise ExpanderSaeError(f"expected a positive {what}; got {number}")
    if outlier_medians is not None and outlier_medians <= 1:
        raise ExpanderSaeError(
            f"expected an outlier limit above 1 median; got {outlier_medians}: half of all tokens are above "
            "the median itself. Leave it unset to keep every token."
        )


def _place(store: ActivationStore) -> int | str:
    """The block or module to splice at."""
    settings = store.manifest["settings"]
    if settings.get("items", False):
        raise ExpanderSaeError(
            "expected activations of a language model's text for the cross entropy; got those of whole items. "
            "Leave it out with --no-ce."
        )
    return settings.get("module") or settings["layer"]


def _other_model(activations: Provenance, language_model: LanguageModel) -> list[str]:
    """Warn where the activations are known to come from another model than the cross entropy, and say so."""
    given = Provenance(model=language_model.model_id, revision=language_model.revision)
    found = activations.differences(given)
    warn_of_differences("the activations come from another model than the cross entropy", found, stacklevel=3)
    return [f"cross entropy: {difference}" for difference in found]


def _giant_norm(tokens: Iterator[Tensor], medians: float | None) -> tuple[float | None, Iterator[Tensor]]:
    """The norm above which a token is left out, and the tokens again from the first."""
    if medians is None:
        return None, tokens
    first: list[Tensor] = []
    norms: list[Tensor] = []
    while (seen := sum(map(len, norms))) < MEDIAN_SAMPLE and (x := next(tokens, None)) is not None:
        first.append(x)
        norms.append(token_norms(x.float(), "activations to evaluate on", seen))

    def again() -> Iterator[Tensor]:
        while first:
            yield first.pop(0)
        yield from tokens

    limit = norm_limit(torch.cat(norms)[:MEDIAN_SAMPLE], medians) if norms else None
    return limit, again()


@torch.no_grad()
def _reconstruct(
    saes: Mapping[str, AbstractSae],
    tokens: Iterator[Tensor],
    batch_size: int,
    outlier_medians: float | None,
    bar: Callable[[str, int | None], Callable[[int], None]],
) -> _Reconstruction:
    giant_norm, tokens = _giant_norm(tokens, outlier_medians)
    sums = {name: ReconstructionAccumulator(sae.d_in, sae.n_latents) for name, sae in saes.items()}
    timings: dict[str, list[tuple[int, float]]] = {name: [] for name in saes}
    outliers = seen = 0
    advance = bar("reconstruction", None)
    for block in tokens:
        for stored in block.split(batch_size):
            x = stored.float()
            norms = token_norms(x, "activations to evaluate on", seen)
            seen += len(x)
            if giant_norm is not None:
                ordinary = norms <= giant_norm
                outliers += int((~ordinary).sum())
                x = x[ordinary]
            if len(x) == 0:
                continue
            for name, sae in saes.items():
                there = x.to(next(sae.parameters()).device)
                codes, seconds = _timed(sae, there)
                timings[name].append((len(x), seconds))
                sums[name].update(there, sae.decode(codes), codes)
            advance(len(stored))
    speeds = {}
    for name, pairs in timings.items():
        # The first batch pays for caches and thread pools; with only one there is no choice.
        steady = pairs[1:] or pairs
        seconds = sum(pair[1] for pair in steady)
        speeds[name] = sum(pair[0] for pair in steady) / seconds if seconds > 0 else float("nan")
    return _Reconstruction(sums, speeds, giant_norm, outliers)


def _timed(sae: AbstractSae, x: Tensor) -> tuple[Any, float]:
    if x.is_cuda:
        torch.cuda.synchronize()
    start = time.perf_counter()
    codes = sae.encode(x)
    if x.is_cuda:
        torch.cuda.synchronize()
    return codes, time.perf_counter() - start


@contextmanager
def _bar(show: bool) -> Iterator[Callable[[str, int | None], Callable[[int], None]]]:
    """Give a function that begins a bar (text, total) and returns how to advance it."""
    with Bars(show=show) as drawn:

        def begin(text: str, total: int | None) -> Callable[[int], None]:
            bar = drawn.begin(text, total)
            return lambda step: drawn.advance(bar, step)

        yield begin
