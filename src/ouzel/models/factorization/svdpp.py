"""SVD++: biased matrix factorisation that also learns from which items somebody rated at all.

    r_ui = mu + b_u + b_i + q_i . (p_u + |R_u|^-1/2 sum_{j in R_u} y_j)

with R_u the items that u rated. Here the sum is the mean that (p_u, b_u) is spread around, so that
biases have an implicit term too, and items have one as well, over the users who rated them (the
"flipped" form of Rendle, Zhang and Koren). All is drawn: `ouzel.models.rating` says how, and
`ouzel.models.gibbs` how y is, at once for all items, by a matrix whose inverse is made once.

Cost of a sweep: that of SVD and 2 min(U, N)^2 D multiply-adds; it takes min(U, N)^2 numbers of
memory, twice.

References:
    Koren, "Factorization Meets the Neighborhood: a Multifaceted Collaborative Filtering Model", KDD
    2008. Rendle, Zhang and Koren, "On the Difficulty of Evaluating Baselines", 2019.
"""

from __future__ import annotations

from dataclasses import dataclass

from ouzel.models.about import About
from ouzel.models.rating import RatingModel, check_draws


@dataclass(frozen=True, kw_only=True)
class SVDppConfig:
    """The shape of the model; every field changes what is computed."""

    dim: int = 16
    """Size D of user and item factors."""
    epochs: int = 80
    """Sweeps; no draw of the first fifth is kept."""
    samples: int = 20
    """Draws S that are averaged; a request costs S systems of size D + 1."""
    l2: float = 1.0
    """Ridge of what the items of a user, or the users of an item, add."""

    def __post_init__(self) -> None:
        check_draws(self)
        if not self.l2 > 0:
            raise ValueError(f"l2 is {self.l2}: give more than 0")


PRESETS = {"S": SVDppConfig()}


class SVDpp(RatingModel):
    """The model over users and catalogue rows; the module's docstring says how it works."""

    name = "svdpp"
    about = About(
        paper="Koren, KDD 2008",
        cost="as svd, and the square of users or items, whichever are fewer, in memory",
        use="ratings, to predict their values best, with up to 24,000 users or items",
    )
    presets = PRESETS
    config: SVDppConfig

    @property
    def biased(self) -> bool:
        """Return True: users and items have biases."""
        return True

    @property
    def implicit(self) -> float:
        """Return the weight of the ridge of the implicit term."""
        return self.config.l2
