"""The encoder of an SAE that is read by pursuit, trained too."""

from dataclasses import dataclass

from expander_sae.records import ExpanderSaeError


@dataclass(frozen=True)
class OnePass:
    """Train an SAE that is read by pursuit by its encoder as well: by that alone at first, then by both.

        loss = ||x - W h_encoder||^2                                      until `alone` of the steps,
        loss = ||x - W h_pursuit||^2 + weight ||x - W h_encoder||^2       from there on

    A pursuit takes any columns that explain a token together; an encoder has to tell from one product whether its
    concept is there. Trained by both, a latent keeps its meaning, and the dictionary serves two readings: the encoder
    to say what is there, a few stages to rebuild it. SAEs that are read by their encoder are trained as ever.
    """

    weight: float = 0.5
    alone: float = 0.7
    """Share of the steps."""

    def __post_init__(self) -> None:
        if not self.weight >= 0 or not 0 <= self.alone <= 1:
            raise ExpanderSaeError(
                f"expected weight >= 0 and alone in [0, 1] in OnePass; got {self.weight} and {self.alone}. "
                "one_pass=None trains by the SAE's own reading alone."
            )
