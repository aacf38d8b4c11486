"""An SAE as SAEBench wants it: dense matrices beside `encode`, `decode` and a config; SAEBench itself is not needed."""

from dataclasses import asdict, dataclass, field
from typing import Any, Self

import torch
from torch import Tensor, nn

from expander_sae.records import ExpanderSaeError, Provenance, check_provenance
from expander_sae.records.fields import object_in
from expander_sae.saes import AbstractSae, ExpanderSae

from .saelens_codes import decode_dense, spread_codes
from .saelens_ours import folded


@dataclass
class SaeBenchConfig:
    """The fields that SAEBench 0.6 reads; it adds more to it (a `metadata` among them)."""

    model_name: str
    d_in: int
    d_sae: int
    hook_layer: int
    hook_name: str
    context_size: int | None = None
    hook_head_index: int | None = None
    architecture: str = "expander_sae"
    apply_b_dec_to_input: bool = True
    prepend_bos: bool = True
    normalize_activations: str = "none"
    dtype: str = "float32"
    device: str = "cpu"
    model_from_pretrained_kwargs: dict[str, Any] = field(default_factory=dict)
    seqpos_slice: tuple[int | None, ...] = (None,)
    training_tokens: int = -1

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for SAEBench's result files."""
        return asdict(self)


class SaeBenchAdapter(nn.Module):
    """Any SAE of this package in SAEBench: codes by its own inference, and `W_enc`, `W_dec` dense, made once.

    `W_enc` [d_in, d_sae], `W_dec` [d_sae, d_in] with rows of unit length, `b_enc`, `b_dec`, `encode` [..., d_in] ->
    [..., d_sae], `decode`, `forward`, `device`, `dtype`, `cfg`. The matrices cost `dense_bytes(sae)`; encoding and
    decoding do not read them.

    Args:
        sae: what to evaluate; a copy is taken only where its input scale has to be folded away.
        model_name: what SAEBench should load the language model by. [default: the one it was trained on]
        layer: block whose residual stream it explains. [default: the one it was trained on]
        context_size: tokens per block. [default: as in training]
        prepend_bos: whether texts start with a BOS token. [default: as in training]

    Raises:
        ExpanderSaeError: the model or the layer is not on record and not given.

    Example:
        >>> from expander_sae.saes import ExpanderSae
        >>> sae = ExpanderSae(d_in=64, n_latents=512, degree=4, k=8)
        >>> SaeBenchAdapter(sae, model_name="gpt2", layer=3).W_dec.shape
        torch.Size([512, 64])
    """

    def __init__(
        self,
        sae: AbstractSae,
        *,
        model_name: str | None = None,
        layer: int | None = None,
        context_size: int | None = None,
        prepend_bos: bool | None = None,
    ) -> None:
        super().__init__()
        source = object_in(sae.metadata, "activations")
        model_name = source.get("model_id") if model_name is None else model_name
        layer = source.get("layer") if layer is None else layer
        if model_name is None or layer is None:
            raise ExpanderSaeError(
                "expected the model and layer this SAE was trained on in its metadata; got neither or one. Give both."
            )
        check_provenance("that SAEBench is given", sae, Provenance(model=model_name, layer=layer))
        self.core = folded(sae).eval()
        w = self.core.dictionary().detached()
        bias = w.bias
        self.W_dec = nn.Parameter(w.dense().clone())
        self.W_enc = nn.Parameter(w.dense(w.encoder).T.contiguous())
        self.b_enc = nn.Parameter(
            torch.zeros(sae.n_latents, dtype=torch.float32, device="cpu") if bias is None else bias.detach().clone()
        )
        self.b_dec = nn.Parameter(self.core.center().detach().clone())
        self.requires_grad_(False)
        self.cfg = SaeBenchConfig(
            model_name=model_name,
            d_in=sae.d_in,
            d_sae=sae.n_latents,
            hook_layer=layer,
            hook_name=f"blocks.{layer}.hook_resid_post",
            context_size=source.get("context") if context_size is None else context_size,
            architecture=f"expander_sae {'expander' if isinstance(sae, ExpanderSae) else 'dense'}",
            prepend_bos=bool(source.get("bos", False)) if prepend_bos is None else prepend_bos,
        )

    @property
    def device(self) -> torch.device:
        """Where it is."""
        return self.b_dec.device

    @property
    def dtype(self) -> torch.dtype:
        """What it takes and gives."""
        return self.b_dec.dtype

    def _apply(self, fn: Any, recurse: bool = True) -> Self:
        """Move or cast; the SAE inside stays in float32, which the kernels read."""
        super()._apply(fn, recurse)
        for tensor in (*self.core.parameters(), self.core.input_scale):
            if tensor.is_floating_point() and tensor.dtype != torch.float32:
                tensor.data = tensor.data.float()
        self.cfg.dtype, self.cfg.device = str(self.dtype).removeprefix("torch."), str(self.device)
        return self

    @torch.no_grad()
    def encode(self, x: Tensor) -> Tensor:
        """Codes of x [..., d_in], spread out as [..., d_sae]."""
        acts = spread_codes(self.core, x.reshape(-1, x.shape[-1]).float())
        return acts.to(self.dtype).reshape(*x.shape[:-1], -1)

    @torch.no_grad()
    def decode(self, feature_acts: Tensor) -> Tensor:
        """x_hat [..., d_in] of any activations [..., d_sae]."""
        x_hat = decode_dense(self.core, feature_acts.reshape(-1, feature_acts.shape[-1]).float())
        return x_hat.to(self.dtype).reshape(*feature_acts.shape[:-1], -1)

    def forward(self, x: Tensor) -> Tensor:
        """x_hat [..., d_in]."""
        return self.decode(self.encode(x))
