"""What a reconstruction costs the language model: next-token cross entropy with the stream replaced."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import NamedTuple

import torch
from torch import Tensor

from expander_sae.activations import LanguageModel, TokenBlocks
from expander_sae.activations.blocks import text_config
from expander_sae.activations.positions import check_context
from expander_sae.activations.running import input_device
from expander_sae.records import ExpanderSaeError, Provenance, check_provenance
from expander_sae.saes.init import token_norms

from .at_module import AtModule
from .second_half import SecondHalf

SPLICES = ("ordinary", "everywhere")
"""`ordinary` spares the first position, special tokens, padding and (if asked) giant tokens;
`everywhere` spares nothing, as the paper has it."""

_LOGITS_AT_ONCE = 3 << 24
"""Logits of one batch, at most (unless one sequence has more): 200 MB in float32, and up to three such are held."""
_LOGITS_PER_STEP = 1 << 22
"""Logits in one step of the log-softmax: 16 MB in float32."""

Reconstruct = Callable[[Tensor], Tensor]
"""x [tokens, d_in] float32 to x̂ of the same shape; an SAE is one."""


class CrossEntropyMetrics(NamedTuple):
    """The cross-entropy metrics of one SAE, in nats per predicted token."""

    splice: str
    ce_tokens: int
    ce_sequences: int
    ce_clean: float
    ce_recon: float
    ce_zero: float
    ce_mean: float
    delta_ce: float
    ce_recovered_zero: float
    ce_recovered_mean: float
    kl: float


def spread_blocks(blocks: TokenBlocks, predicted_tokens: int | None) -> TokenBlocks:
    """Choose blocks, evenly spaced over the text, with about `predicted_tokens` predictions in all.

    A block has length − 1 of them. Evenly, because the first few thousand tokens of a text are only a
    document or two. None takes all blocks.

    Raises:
        ExpanderSaeError: no block has two tokens, or `predicted_tokens` is not positive.
    """
    if predicted_tokens is not None and predicted_tokens < 1:
        raise ExpanderSaeError(f"expected at least one token for the cross entropy; got {predicted_tokens}")
    usable = torch.nonzero(blocks.lengths > 1).flatten()
    if len(usable) == 0:
        raise ExpanderSaeError("expected held-out text with at least two tokens in a sequence; got none")
    predictions = int((blocks.lengths[usable].long() - 1).sum())
    wanted = len(usable)
    if predicted_tokens is not None:
        wanted = min(wanted, -(-predicted_tokens * len(usable) // predictions))
    chosen = usable[torch.arange(wanted, device="cpu") * len(usable) // wanted]
    return TokenBlocks(blocks.input_ids[chosen], blocks.lengths[chosen], blocks.special[chosen])


def cross_entropy(
    reconstructions: Mapping[str, Reconstruct],
    language_model: LanguageModel,
    blocks: TokenBlocks,
    *,
    layer: int | str,
    mean: Tensor,
    splice: str = "ordinary",
    giant_norm: float | None = None,
    progress: Callable[[int], None] | None = None,
) -> dict[str, CrossEntropyMetrics]:
    """Measure every reconstruction on the same text, with the stream after block `layer` spliced.

    An SAE that is known to be of another model or place is warned about.

        ce        = Σ −log p(next token) / Σ (length − 1)     over blocks, natural log, float32 log-softmax
        delta_ce  = ce_recon − ce_clean
        recovered = (ce_ablated − ce_recon) / (ce_ablated − ce_clean)     ablated: by 0, or by `mean`
        kl        = Σ_positions KL(clean ‖ spliced) / Σ (length − 1)

    The clean, zero and mean runs are made once per batch and shared by all reconstructions; the same
    positions are replaced in every run.

    Args:
        reconstructions: by name, functions of x [tokens, d_in] float32.
        language_model: the model whose activations the SAEs were trained on.
        blocks: held-out text, `input_ids` [n_blocks, length].
        layer: block after which to splice, counted from 0, or the name of the module whose output to replace.
        mean: the mean activation [d_in] for `ce_mean`.
        splice: "ordinary" or "everywhere".
        giant_norm: with "ordinary", also spare tokens whose activation has a larger norm than this.
        progress: called after each batch with the number of blocks in it.

    Raises:
        ExpanderSaeError: an unknown `splice`, a layer out of range, a wrong width, or text of no predictions.
    """
    met = Provenance(
        model=language_model.model_id,
        revision=language_model.revision,
        layer=layer if isinstance(layer, int) else None,
        module=None if isinstance(layer, int) else layer,
        d_in=mean.numel(),
    )
    for name, reconstruct in reconstructions.items():
        if hasattr(reconstruct, "metadata"):
            check_provenance(name, reconstruct, met)
    return spliced_cross_entropy(
        reconstructions,
        language_model,
        blocks,
        layer=layer,
        mean=mean,
        splice=splice,
        giant_norm=giant_norm,
        progress=progress,
    )


def spliced_cross_entropy(
    reconstructions: Mapping[str, Reconstruct],
    language_model: LanguageModel,
    blocks: TokenBlocks,
    *,
    layer: int | str,
    mean: Tensor,
    splice: str,
    giant_norm: float | None,
    progress: Callable[[int], None] | None,
) -> dict[str, CrossEntropyMetrics]:
    """`cross_entropy` for SAEs whose provenance has been compared already."""
    if splice not in SPLICES:
        raise ExpanderSaeError(f"expected splice to be one of {', '.join(SPLICES)}; got {splice!r}")
    if len(blocks.lengths) == 0 or int(blocks.lengths.max()) < 2:
        raise ExpanderSaeError("expected text with at least two tokens in a sequence; got none")
    model = language_model.model
    check_context(model, int(blocks.lengths.max()))
    second_half = SecondHalf(model, layer) if isinstance(layer, int) else AtModule(model, layer)
    sums, device = _Sums(list(reconstructions)), input_device(model)
    step = max(1, _LOGITS_AT_ONCE // (blocks.input_ids.shape[1] * text_config(model).vocab_size))
    for first in range(0, len(blocks.lengths), step):
        batch = _on_device(blocks, first, first + step, device)
        # A model that is spread over devices may give them elsewhere.
        hidden, logits = (there.to(device) for there in second_half.run_clean(batch.input_ids, batch.attention_mask))
        if hidden.shape[-1] != mean.numel():
            raise ExpanderSaeError(
                f"expected a language model of d_in {mean.numel()} (that of the activations); "
                f"got {hidden.shape[-1]}. Was another model harvested?"
            )
        replaced = _replaced_positions(batch, hidden, splice, giant_norm)
        token_norms(hidden[_real(batch, hidden)].float(), "activations of the language model where it is spliced")
        clean = _log_probabilities(logits, batch.lengths)
        del logits
        sums.add_clean(clean, batch)
        x = hidden[replaced].float()
        sums.add("zero", second_half.logits_with(_spliced(hidden, replaced, torch.zeros_like(x))), None, batch)
        mean_rows = mean.to(x.device, x.dtype).expand_as(x)
        sums.add("mean", second_half.logits_with(_spliced(hidden, replaced, mean_rows)), None, batch)
        for name, reconstruct in reconstructions.items():
            x_hat = _reconstructed(name, reconstruct, x)
            sums.add(("recon", name), second_half.logits_with(_spliced(hidden, replaced, x_hat)), clean, batch)
        if progress is not None:
            progress(len(batch.lengths))
    return sums.metrics(splice, int((blocks.lengths > 1).sum()))


def _on_device(blocks: TokenBlocks, first: int, last: int, device: torch.device) -> TokenBlocks:
    """Some blocks, cut to the longest of them: the padding beyond costs time and changes nothing."""
    lengths = blocks.lengths[first:last]
    longest = int(lengths.max())
    return TokenBlocks(
        blocks.input_ids[first:last, :longest].to(device),
        lengths.to(device),
        blocks.special[first:last, :longest].to(device),
    )


def _replaced_positions(batch: TokenBlocks, hidden: Tensor, splice: str, giant_norm: float | None) -> Tensor:
    """Bool [batch, position], true where the stream is replaced."""
    real = _real(batch, hidden)
    if splice == "everywhere":
        return real
    replaced = real & ~batch.special
    replaced[:, 0] = False
    if giant_norm is not None:
        replaced &= hidden.float().norm(dim=-1) <= giant_norm
    return replaced


def _real(batch: TokenBlocks, hidden: Tensor) -> Tensor:
    """Bool [batch, position], true where there is a token."""
    return torch.arange(hidden.shape[1], device=hidden.device) < batch.lengths[:, None]


def _spliced(hidden: Tensor, replaced: Tensor, new: Tensor) -> Tensor:
    spliced = hidden.clone()
    spliced[replaced] = new.to(hidden.dtype)
    return spliced


@torch.no_grad()
def _reconstructed(name: str, reconstruct: Reconstruct, x: Tensor) -> Tensor:
    device = x.device
    if isinstance(reconstruct, torch.nn.Module):
        own = next(reconstruct.parameters(), None)
        device = x.device if own is None else own.device
    x_hat = reconstruct(x.to(device)).to(x.device)
    if x_hat.shape != x.shape:
        raise ExpanderSaeError(f"expected {name} to return shape {list(x.shape)}; got {list(x_hat.shape)}")
    return x_hat


def _steps(logits: Tensor, length: int) -> list[slice]:
    """The predicting positions 0 to length − 2 of one sequence, in pieces small enough for float32."""
    rows = max(1, _LOGITS_PER_STEP // logits.shape[-1])
    return [slice(start, min(start + rows, length - 1)) for start in range(0, length - 1, rows)]


def _log_probabilities(logits: Tensor, lengths: Tensor) -> list[Tensor]:
    """Per sequence, float32 [length − 1, vocabulary]."""
    out = []
    for sequence, length in zip(logits, lengths.tolist(), strict=True):
        held = torch.empty(max(length - 1, 0), logits.shape[-1], dtype=torch.float32, device=logits.device)
        for piece in _steps(logits, length):
            held[piece] = sequence[piece].float().log_softmax(-1)
        out.append(held)
    return out


class _Sums:
    """Float64 sums of negative log likelihoods and divergences, by run."""

    def __init__(self, names: list[str]) -> None:
        self.names = names
        self.predictions = 0
        self.loss: dict[str | tuple[str, str], float] = {}
        self.divergence: dict[str | tuple[str, str], float] = {}

    def add_clean(self, clean: list[Tensor], batch: TokenBlocks) -> None:
        """Add the clean run of a batch, and count its predictions."""
        total = 0.0
        for log_p, ids, length in zip(clean, batch.input_ids, batch.lengths.tolist(), strict=True):
            targets = ids[1:length].long()
            total -= float(log_p.gather(1, targets[:, None]).double().sum())
            self.predictions += len(targets)
        self.loss["clean"] = self.loss.get("clean", 0.0) + total

    def add(self, run: str | tuple[str, str], logits: Tensor, clean: list[Tensor] | None, batch: TokenBlocks) -> None:
        """Add a spliced run of a batch; its divergence from the clean one too, if that is given."""
        loss = divergence = 0.0
        logits = logits.to(batch.input_ids.device)
        for number, length in enumerate(batch.lengths.tolist()):
            targets = batch.input_ids[number, 1:length].long()
            for piece in _steps(logits, length):
                log_q = logits[number, piece].float().log_softmax(-1)
                loss -= float(log_q.gather(1, targets[piece, None]).double().sum())
                if clean is not None:
                    log_p = clean[number][piece]
                    p = log_p.exp()
                    # 0 log 0 is 0, also where a vocabulary entry is ruled out by a logit of −inf.
                    terms = torch.where(p > 0, p * (log_p - log_q), 0.0)
                    divergence += float(terms.sum(-1).double().sum())
        self.loss[run] = self.loss.get(run, 0.0) + loss
        self.divergence[run] = self.divergence.get(run, 0.0) + divergence

    def metrics(self, splice: str, sequences: int) -> dict[str, CrossEntropyMetrics]:
        """Divide by the predictions and take the ratios."""
        for run, loss in self.loss.items():
            if math.isnan(loss):
                raise ExpanderSaeError(
                    f"expected logits that are numbers; got NaN in the {run if isinstance(run, str) else run[1]} run. "
                    "Run the language model with --compute-dtype float32, or check its weights."
                )
        clean, zero, mean = (self.loss[run] / self.predictions for run in ("clean", "zero", "mean"))
        out = {}
        for name in self.names:
            recon = self.loss["recon", name] / self.predictions
            out[name] = CrossEntropyMetrics(
                splice=splice,
                ce_tokens=self.predictions,
                ce_sequences=sequences,
                ce_clean=clean,
                ce_recon=recon,
                ce_zero=zero,
                ce_mean=mean,
                delta_ce=recon - clean,
                ce_recovered_zero=_ratio(zero - recon, zero - clean),
                ce_recovered_mean=_ratio(mean - recon, mean - clean),
                kl=self.divergence["recon", name] / self.predictions,
            )
        return out


def _ratio(above: float, below: float) -> float:
    """NaN where ablation costs nothing: there is then nothing to recover."""
    return above / below if below != 0 else float("nan")
