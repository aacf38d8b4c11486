"""The classes behind `expander_sae.interop.saelens`, for inference and training, registered with SAELens."""

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from expander_sae.ops import Codes, sparse_decode
from expander_sae.pursuit import Encoder
from expander_sae.records import ExpanderSaeError
from expander_sae.saes import AbstractSae, ExpanderSae

from .saelens_codes import decode_dense, spread_codes
from .saelens_config import ExpanderSAEConfig, ExpanderTrainingSAEConfig, core_config
from .saelens_ours import ARCHITECTURE, arrays, build, folded, set_stored_mask

from sae_lens import SAE  # pyright: ignore[reportMissingImports] # isort: skip
from sae_lens.registry import (  # pyright: ignore[reportMissingImports] # isort: skip
    SAE_CLASS_REGISTRY,
    register_sae_class,
    register_sae_training_class,
)
from sae_lens.saes.sae import (  # pyright: ignore[reportMissingImports] # isort: skip
    TrainingSAE,
    TrainStepInput,
    TrainStepOutput,
)
from sae_lens.saes.topk_sae import TopK  # pyright: ignore[reportMissingImports] # isort: skip
from sae_lens.util import str_to_dtype  # pyright: ignore[reportMissingImports] # isort: skip


class _CoreInside:
    """What both classes share: an SAE of this package behind SAELens's methods."""

    core: AbstractSae
    rows_known: bool
    """False while an SAE without a seed waits for the rows of its file."""
    cfg: Any
    dtype: torch.dtype
    device: torch.device

    def initialize_weights(self) -> None:
        """Build the core; on the CPU, whatever the device, and even while SAELens builds on the meta device."""
        config = core_config(self.cfg)
        self.rows_known = config["kind"] != ExpanderSae.kind or config["mask_seed"] is not None
        if not self.rows_known:
            config |= {"mask_construction": "uniform", "mask_seed": 0, "mask_sha256": None}
        self.core = build(config)
        if self.device.type not in ("cpu", "meta"):
            self.core.to(self.device)

    def _apply(self, *args: Any, **kwargs: Any) -> Any:
        """Round the learned numbers to a new type, but keep them in float32, which the kernels read."""
        moved = super()._apply(*args, **kwargs)  # pyright: ignore[reportAttributeAccessIssue]
        for tensor in (*self.core.parameters(), self.core.input_scale):
            if tensor.dtype in (torch.float16, torch.bfloat16):
                tensor.data = tensor.data.float()
        return moved

    def get_activation_fn(self) -> Any:
        """SAELens's own TopK: tools that rewrite `W_dec` leave SAEs with it alone."""
        return TopK(self.cfg.k)

    @property
    def W_dec(self) -> Tensor:
        """The decoder [d_sae, d_in], made at every access."""
        return (self._spread(0) / self.cfg.code_scale).to(self.dtype)

    @property
    def W_enc(self) -> Tensor:
        """The encoder [d_in, d_sae], made at every access; for a pursuit, its correlations."""
        return (self._spread(1) * self.cfg.code_scale).T.to(self.dtype)

    @property
    def b_dec(self) -> Tensor:
        """Decoder bias [d_in]."""
        return self.core.center()

    @property
    def b_enc(self) -> Tensor:
        """Latent bias [d_sae], zero where there is none."""
        bias = self.core.latent_bias()
        return self.core.b_dec.new_zeros(self.core.n_latents) if bias is None else bias * self.cfg.code_scale

    def __setattr__(self, name: str, value: Any) -> None:
        if name in ("W_dec", "W_enc", "b_dec", "b_enc"):
            raise ExpanderSaeError(
                f"expected {name} of a sparse dictionary to be read only, as it is computed; got a new value. Change a "
                "dense copy: to_saelens(sae, dense=True)"
            )
        super().__setattr__(name, value)

    def _spread(self, which: int) -> Tensor:
        """Decoder (0) or encoder (1) as a matrix [d_sae, d_in], differentiable."""
        w = self.core.dictionary()
        return w.dense(w.encoder if which == 1 else None)

    def _encode(self, x: Tensor) -> Tensor:
        if not self.rows_known:
            raise ExpanderSaeError(
                "expected the weights to be loaded before use, as this SAE's mask has no seed; got none"
            )
        sae: Any = self
        x = sae.run_time_activation_norm_fn_in(sae.hook_sae_input(sae.reshape_fn_in(x.to(self.dtype))))
        acts = spread_codes(self.core, x.reshape(-1, x.shape[-1]).float(), self.cfg.code_scale)
        return sae.hook_sae_acts_post(acts.to(self.dtype).reshape(*x.shape[:-1], -1))

    def decode(self, feature_acts: Tensor) -> Tensor:
        """x_hat [..., d_in] of any activations [..., d_sae], changed ones too."""
        sae: Any = self
        if feature_acts.is_sparse:
            feature_acts = feature_acts.to_dense()
        acts = feature_acts.reshape(-1, feature_acts.shape[-1]).float() / self.cfg.code_scale
        x_hat = decode_dense(self.core, acts).to(self.dtype).reshape(*feature_acts.shape[:-1], -1)
        x_hat = sae.run_time_activation_norm_fn_out(sae.hook_sae_recons(x_hat))
        return sae.reshape_fn_out(x_hat, sae.d_head)

    @torch.no_grad()
    def fold_activation_norm_scaling_factor(self, scaling_factor: float) -> None:
        """From an SAE of activations times a factor to one of the activations themselves, with the same codes."""
        self.core.b_dec.div_(scaling_factor)
        if self.core.b_enc is not None:
            self.core.b_enc.div_(scaling_factor)
        self.cfg.code_scale *= float(scaling_factor)
        self.cfg.normalize_activations = "none"

    def fold_activation_whitening(self, *args: Any, **kwargs: Any) -> None:
        """Refused: unwhitened columns are dense."""
        raise NotImplementedError(
            "a whitening would make the sparse dictionary dense; fold it into to_saelens(sae, dense=True)"
        )

    @torch.no_grad()
    def get_W_dec_norm(self) -> Tensor:
        """Lengths of the decoder's columns [d_sae]."""
        return self.core.b_dec.new_full((self.core.n_latents,), 1 / self.cfg.code_scale).to(self.dtype)

    @torch.no_grad()
    def fold_and_get_W_dec_norm(self) -> Tensor:
        """Move the columns' lengths into the codes; exact, since all are equal and no selection changes."""
        norms = self.get_W_dec_norm()
        self.cfg.code_scale = 1.0
        return norms

    def fold_W_dec_norm(self) -> None:
        """Columns of unit length, codes in the units of the activations."""
        self.fold_and_get_W_dec_norm()

    def process_state_dict_for_saving(self, state_dict: dict[str, Any]) -> None:
        """What is written: the learned numbers in the SAE's type, rows only where no seed can make them."""
        state_dict.clear()
        state_dict.update(arrays(folded(self.core), str_to_dtype(self.cfg.dtype)))

    def process_state_dict_for_loading(self, state_dict: dict[str, Any]) -> None:
        """The names inside the core; the mask's rows made again, and compared with their hash."""
        found = {name: state_dict.pop(name) for name in list(state_dict)}
        if isinstance(self.core, ExpanderSae):
            set_stored_mask(self.core, core_config(self.cfg), found.pop("mask_bytes", None))
        inside = {"directions": "columns.raw"}
        for name, value in found.items():
            state_dict[f"core.{inside.get(name, name)}"] = value.detach().float()
        device = self.core.b_dec.device
        state_dict["core.input_scale"] = torch.ones((), dtype=torch.float32, device=device)
        if isinstance(self.core, ExpanderSae):
            state_dict["core.rows"] = self.core.rows.to(device)
        self.rows_known = True


class ExpanderSAE(_CoreInside, SAE):
    """An SAE of this package for inference in SAELens."""

    def encode(self, x: Tensor) -> Tensor:
        """Our codes of x [..., d_in], spread out as [..., d_sae] in the SAE's type.

        Differentiable in x: through the selected pre-activations, or through the least squares on the support.
        """
        return self._encode(x)


class ExpanderTrainingSAE(_CoreInside, TrainingSAE):
    """An SAE of this package in SAELens's trainer: one step is our one-pass loss and gradient, and AuxK."""

    def encode_with_hidden_pre(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Activations [..., d_sae], twice: pre-activations of all latents are never made."""
        acts = self._encode(x)
        return acts, acts

    def get_coefficients(self) -> dict[str, float]:
        """No loss has a schedule."""
        return {}

    def calculate_aux_loss(self, *args: Any, **kwargs: Any) -> dict[str, Tensor]:
        """Made in `training_forward_pass`, from the residual."""
        return {}

    def training_forward_pass(self, step_input: Any) -> Any:
        """Sum of squared errors, mean over the batch, and the dead latents' loss on what is left."""
        step: TrainStepInput = step_input
        x = step.sae_in.float()
        result = self.core.reconstruction_loss(x, keep_residual=True)
        assert result.residual is not None
        mse = result.loss / len(x)
        aux = self._aux_loss(x, result.residual, step.dead_neuron_mask)
        codes = Codes(result.codes.indices, result.codes.values * self.cfg.code_scale)
        acts = x.new_zeros(len(x), self.core.n_latents).scatter_add_(1, codes.indices, codes.values)
        return TrainStepOutput(
            sae_in=step.sae_in,
            sae_out=x - result.residual,
            feature_acts=acts,
            hidden_pre=acts,
            loss=mse + aux,
            losses={"mse_loss": mse, "auxiliary_reconstruction_loss": aux},
        )

    def _aux_loss(self, x: Tensor, residual: Tensor, dead: Tensor | None) -> Tensor:
        """AuxK (Gao et al. 2024): the best d_in / 2 dead latents of each token explain its residual."""
        if dead is None or not bool(dead.any()):
            return x.new_zeros(())
        latents = torch.nonzero(dead)[:, 0]
        wanted = self.core.d_in // 2
        w = self.core.dictionary().part(latents)
        assert w.center is not None
        w = replace(w, center=w.center.detach(), signed=False)
        codes = Encoder().codes(w, x, min(wanted, len(latents)))
        error = residual - sparse_decode(codes, w.rows, w.decoder, w.d_in)
        share = min(len(latents) / wanted, 1.0)
        return self.cfg.aux_loss_coefficient * share * error.square().sum(1).mean()

    def log_histograms(self) -> dict[str, Any]:
        """Columns all have one length: nothing to log."""
        return {}


if ARCHITECTURE not in SAE_CLASS_REGISTRY:
    register_sae_class(ARCHITECTURE, ExpanderSAE, ExpanderSAEConfig)
    register_sae_training_class(ARCHITECTURE, ExpanderTrainingSAE, ExpanderTrainingSAEConfig)
