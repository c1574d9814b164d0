"""How sure a mean over queries is: a bootstrap that does not take what it has not seen for impossible."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Float = NDArray[np.float64]

RESAMPLES = 2000


class Resampled(NamedTuple):
    """Means of columns, and the ends of their intervals."""

    value: Float
    low: Float
    high: Float


class Bootstrap:
    """Intervals for means of figures that lie between two bounds.

    Each of 2000 resamplings weighs the ``n`` queries, and one more that nobody asked, evenly from the simplex
    (Dirichlet's distribution of all ones). For the low end the one more has the lowest figure that there can be, for
    the high end the highest; the ends are quantiles of the weighted means. So a figure of 1 for all of 40 queries gives
    an interval from 0.91 to 1 and not one without length; for shares the ends are those of Clopper and Pearson.

    All columns of the same queries have the same weights, so that differences are paired.

    Source: Rubin, Annals of Statistics 9 (1981), for the weights; Learned-Miller and Thomas, arXiv 1905.06208, for the
    one more.
    """

    def __init__(self, level: float, seed: int) -> None:
        self.level, self.seed = level, seed
        self.weights: dict[int, Float] = {}

    def of(self, values: Float, lowest: float, highest: float, *, episodes: int = 1) -> Resampled:
        """The means of ``(n, M)`` figures between ``lowest`` and ``highest``.

        With ``episodes`` the columns are ``M / E`` groups of one a draw of examples, over which a mean is taken, too;
        the draws are weighed in each resampling by themselves.
        """
        count = len(values)
        weights = self._weights(count)
        means = weights[:, :count] @ values
        value = values.mean(0)
        if episodes > 1:
            rng = np.random.default_rng([self.seed, episodes])
            drawn = rng.dirichlet(np.ones(episodes), RESAMPLES)
            means = np.einsum("rme,re->rm", means.reshape(RESAMPLES, -1, episodes), drawn)
            value = value.reshape(-1, episodes).mean(1)
        more = weights[:, count:]
        tail = (1 - self.level) / 2
        low = np.quantile(means + more * lowest, tail, axis=0)
        high = np.quantile(means + more * highest, 1 - tail, axis=0)
        return Resampled(value, np.minimum(low, value), np.maximum(high, value))

    def _weights(self, count: int) -> Float:
        if count not in self.weights:
            drawn = np.random.default_rng([self.seed, count, 1]).standard_exponential((RESAMPLES, count + 1))
            self.weights[count] = drawn / drawn.sum(1, keepdims=True)
        return self.weights[count]
