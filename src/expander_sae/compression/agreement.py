"""Does a compressed latent still mean what it meant: its direction, and the tokens it fires on."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor

from expander_sae.ops import Codes
from expander_sae.records import ExpanderSaeError

Encode = Callable[[Tensor], Codes]
"""x [tokens, d_in] to codes."""


class Agreement(NamedTuple):
    """On which tokens each latent fired, before and after; int64 [n_latents]."""

    before: Tensor
    after: Tensor
    both: Tensor
    tokens: int

    @property
    def f1(self) -> Tensor:
        """2 both / (before + after) per latent [n_latents]; NaN where the dense latent never fired."""
        return _ratio(2 * self.both, self.before + self.after, self.before > 0)

    @property
    def jaccard(self) -> Tensor:
        """both / either per latent [n_latents]; NaN where the dense latent never fired."""
        return _ratio(self.both, self.before + self.after - self.both, self.before > 0)


class LatentFates(NamedTuple):
    """Per latent [n_latents]: what is left of it."""

    cosine: Tensor
    """Of its dictionary column to the original one."""
    agreement: Agreement


def _ratio(above: Tensor, below: Tensor, there: Tensor) -> Tensor:
    return torch.where(there, above.double() / below.clamp_min(1), torch.nan)


@torch.no_grad()
def firing_agreement(
    before: Encode, after: Mapping[str, Encode], tokens: Iterable[Tensor], n_latents: int
) -> dict[str, Agreement]:
    """Count, over x [tokens, d_in] batch by batch, where latents fire before and after, for every way of reading.

    Raises:
        ExpanderSaeError: there are no tokens.
    """
    counts = {name: torch.zeros(3, n_latents, dtype=torch.int64, device="cpu") for name in after}
    seen = 0
    for x in tokens:
        there = _fired(before(x), n_latents)
        for name, encode in after.items():
            now = _fired(encode(x), n_latents)
            counts[name] += torch.stack([there.sum(0), now.sum(0), (there & now).sum(0)])
        seen += len(x)
    if not seen:
        raise ExpanderSaeError("expected at least one token to compare firing on; got none")
    return {name: Agreement(found[0], found[1], found[2], seen) for name, found in counts.items()}


def _fired(codes: Codes, n_latents: int) -> Tensor:
    """bool [tokens, n_latents]; callers keep batches small."""
    fired = torch.zeros(len(codes.indices), n_latents, dtype=torch.bool, device="cpu")
    # "or", because an unused slot may hold the index of a latent that fired in another one: never seen, but allowed.
    latents, tokens = codes.indices, torch.arange(len(codes.indices), device="cpu")[:, None].expand_as(codes.indices)
    used = codes.values != 0
    fired[tokens[used], latents[used]] = True
    return fired


def cosines(columns: Tensor, rows: Tensor, values: Tensor) -> Tensor:
    """Cosine of each compressed column (rows, values [n_latents, degree]) to the dense one [n_latents, d_in]."""
    inner = (columns.gather(1, rows.long()) * values).sum(1)
    return inner / (columns.norm(dim=1) * values.norm(dim=1)).clamp_min(1e-30)


def summarise(fates: LatentFates) -> dict[str, Any]:
    """Medians and tenths over latents that fired before, and the same weighted by firings ("micro")."""
    agreement = fates.agreement
    fired = agreement.before > 0
    both = float(agreement.both.sum())
    return {
        "tokens": agreement.tokens,
        "latents": len(fired),
        "latents_firing_before": int(fired.sum()),
        "latents_firing_after": int((agreement.after > 0).sum()),
        "cosine": _spread(fates.cosine),
        "f1": _spread(agreement.f1[fired]),
        "jaccard": _spread(agreement.jaccard[fired]),
        "f1_micro": 2 * both / max(float(agreement.before.sum() + agreement.after.sum()), 1.0),
        "share_f1_above_half": float((agreement.f1[fired] > 0.5).double().mean()),
    }


def _spread(values: Tensor) -> dict[str, float]:
    if not len(values):
        return dict.fromkeys(("p10", "median", "p90", "mean"), float("nan"))
    tenths = torch.quantile(values.double(), torch.tensor([0.1, 0.5, 0.9], dtype=torch.float64, device="cpu")).tolist()
    return {"p10": tenths[0], "median": tenths[1], "p90": tenths[2], "mean": float(values.double().mean())}
