"""SVD: biased matrix factorisation of ratings, as it is called since the Netflix prize.

    r_ui = mu + b_u + b_i + p_u . q_i

With `biased` false it is r_ui = mu + p_u . q_i, the factorisation of Funk. Neither is fitted by
gradient steps but drawn: `ouzel.models.rating` says how, and what a sweep costs. A rating that was
given counts by its value alone; that somebody rated an item at all is what `svdpp` adds.

References:
    Funk, "Netflix Update: Try This at Home", 2006. Koren, Bell and Volinsky, "Matrix Factorization
    Techniques for Recommender Systems", IEEE Computer 2009. Salakhutdinov and Mnih, ICML 2008.
"""

from __future__ import annotations

from dataclasses import dataclass

from ouzel.models.about import About
from ouzel.models.rating import RatingModel, check_draws


@dataclass(frozen=True, kw_only=True)
class SVDConfig:
    """The shape of the model; every field changes what is computed."""

    dim: int = 16
    """Size D of user and item factors."""
    epochs: int = 80
    """Sweeps; no draw of the first fifth is kept."""
    samples: int = 20
    """Draws S that are averaged; a request costs S systems of size D + 1."""
    biased: bool = True
    """Whether users and items have biases; without them it is FunkMF."""

    def __post_init__(self) -> None:
        check_draws(self)


PRESETS = {"S": SVDConfig()}


class SVD(RatingModel):
    """The model over users and catalogue rows; the module's docstring says how it works."""

    name = "svd"
    about = About(
        paper="Koren et al., IEEE Computer 2009",
        cost="80 sweeps of least squares; a request solves 20 small systems",
        use="ratings, to predict their values, not what comes next; biased=false: FunkMF",
    )
    presets = PRESETS
    config: SVDConfig

    @property
    def biased(self) -> bool:
        """Return whether users and items have biases."""
        return self.config.biased

    @property
    def implicit(self) -> float | None:
        """Return None: there is no implicit term."""
        return None
