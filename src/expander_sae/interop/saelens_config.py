"""What SAELens has to know to build an SAE of this package."""

from dataclasses import dataclass, fields
from typing import Any

from expander_sae.records import ExpanderSaeError
from expander_sae.saes import ExpanderSae

from .saelens_ours import ARCHITECTURE

try:
    from sae_lens import SAEConfig  # pyright: ignore[reportMissingImports]
    from sae_lens.saes.sae import TrainingSAEConfig  # pyright: ignore[reportMissingImports]
except ImportError as error:
    raise ExpanderSaeError(
        f"expected SAELens 6 to be installed; got {error}. pip install 'expander-sae[saelens]'"
    ) from error


@dataclass
class _Fields:
    """What SAELens's config lacks to build an SAE of this package."""

    kind: str = ExpanderSae.kind
    """"expander" or "dense"."""
    degree: int = 7
    k: int = 32
    tied: bool = True
    signed: bool = False
    latent_bias: bool = False
    reading: str | None = None
    """How codes are read, as `expander_sae.pursuit.parse_reading` takes it; None: by the encoder."""
    stages: int = 0
    """Of folders of earlier releases, which have no `reading`; so are `spare` and `inference`."""
    spare: int = 0
    inference: str | None = None
    seed: int = 0
    mask_construction: str | None = "balanced"
    mask_seed: int | None = 0
    """None: the rows are in the file."""
    mask_sha256: str | None = None
    code_scale: float = 1.0
    """Codes are this many times ours; `fold_activation_norm_scaling_factor` sets it, `fold_W_dec_norm` resets it."""

    def check(self) -> None:
        """Refuse what the class would ignore."""
        cfg: Any = self
        if not cfg.apply_b_dec_to_input:
            raise ExpanderSaeError(
                "expected apply_b_dec_to_input True, since b_dec is subtracted before encoding; got False"
            )
        if cfg.normalize_activations not in ("none", "expected_average_only_in"):
            raise ExpanderSaeError(
                "expected normalize_activations 'none' or 'expected_average_only_in', which can be folded into the "
                f"biases; got {cfg.normalize_activations!r}"
            )


@dataclass
class ExpanderSAEConfig(_Fields, SAEConfig):
    """Config of an inference SAE."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.check()

    @classmethod
    def architecture(cls) -> str:
        """Name in SAELens's registry."""
        return ARCHITECTURE


@dataclass(kw_only=True)
class ExpanderTrainingSAEConfig(_Fields, TrainingSAEConfig):
    """Config of an SAE that SAELens's trainer trains."""

    decoder_init_norm: float | None = 1.0
    """Columns have unit length by parametrisation."""
    aux_loss_coefficient: float = 1 / 32
    """Weight of the loss with which dead latents explain the residual."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.check()
        if self.decoder_init_norm != 1.0:
            raise ExpanderSaeError(f"expected decoder_init_norm 1.0 for unit columns; got {self.decoder_init_norm}")

    @classmethod
    def architecture(cls) -> str:
        """Name in SAELens's registry."""
        return ARCHITECTURE


def core_config(cfg: Any) -> dict[str, Any]:
    """The fields that `build` reads."""
    names = {field.name for field in fields(_Fields)} | {"d_in", "d_sae"}
    return {name: getattr(cfg, name) for name in names}
