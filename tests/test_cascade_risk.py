"""The guarantee, by simulation: the true drop is known, and it is above what was asked for less often than delta."""

import math

import numpy as np
import pytest
from scipy import stats

import mrl
from mrl.cascade import risk
from mrl.cascade.binomial import binomial_cdf, clopper_pearson
from mrl.cascade.outcomes import Outcomes, accepted_level, right_at
from mrl.cascade.paired import _as_low, likely_shares, paired_p_value

DRAWS, EXAMPLES, DELTA = 120, 1000, 0.1
ALLOWED = stats.binom.ppf(0.999, DRAWS, DELTA)
"""More violations than this among the draws would be seen once in a thousand runs of a method at its limit."""


class World:
    """Confidence u is uniform; level 1 is right with a probability that rises with it, level 2 with a constant one.

    The drop of a threshold t is the integral of ``full - low(u)`` over u above t, in closed form for linear ``low``.
    """

    def __init__(self, low: float, high: float, full: float, *, paired: bool) -> None:
        self.low, self.high, self.full, self.paired = low, high, full, paired

    def draw(self, rng: np.random.Generator, examples: int) -> Outcomes:
        u = rng.random(examples)
        chance = self.low + (self.high - self.low) * u
        # Paired: the same luck at both levels, so that there is either harm or gain for a confidence, seldom both.
        luck = rng.random(examples)
        other = luck if self.paired else rng.random(examples)
        correct = np.stack([luck < chance, other < self.full])
        return Outcomes(np.stack([u, np.ones(examples)]), correct)

    def drop(self, threshold: float) -> float:
        width, middle = 1 - threshold, (1 + threshold) / 2
        return width * (self.full - self.low - (self.high - self.low) * middle)


def violations(world: World, drop: float, choose) -> tuple[int, float]:
    """How many of the draws lead to a threshold with a larger true drop, and the mean share that leaves early."""
    count, early = 0, 0.0
    for seed in range(DRAWS):
        outcomes = world.draw(np.random.default_rng(seed), EXAMPLES)
        threshold = choose(outcomes, drop)
        count += world.drop(threshold) > drop
        early += (1 - threshold) / DRAWS
    return count, early


def allowed_early(world: World, drop: float) -> float:
    """The share that leaves early at the lowest threshold that the true drop allows."""
    fine = np.array([world.drop(t) <= drop for t in risk.FAMILY])
    return 1 - risk.FAMILY[int(np.argmin(fine)) - 1]


def controlled(outcomes: Outcomes, drop: float) -> float:
    policy = mrl.fit_cascade(
        (outcomes.confidence, outcomes.correct),
        None,
        mrl.Nesting((8, 64)),
        method="risk",
        drop=drop,
        delta=DELTA,
        split=None,
    )
    return policy.thresholds[0]


def plug_in(outcomes: Outcomes, drop: float) -> float:
    """A mutant: the lowest threshold whose drop on the examples themselves is small enough."""
    best = 1.0
    for threshold in risk.FAMILY:
        right = right_at(outcomes.correct, accepted_level(outcomes.confidence, (threshold,)))
        if outcomes.correct[-1].mean() - right.mean() > drop:
            break
        best = threshold
    return best


WORLDS = {
    "harm only": World(0.3, 0.95, 0.95, paired=True),
    "harm and gains": World(0.3, 0.95, 0.9, paired=False),
    "gains at the top": World(0.2, 1.0, 0.9, paired=True),
}


@pytest.mark.parametrize("name", WORLDS)
def test_the_drop_is_larger_less_often_than_delta(name: str) -> None:
    count, early = violations(WORLDS[name], 0.02, controlled)
    assert count <= ALLOWED
    # Not vacuous: a good part of those whom the true drop allows leave at the first level.
    assert early > 0.4 * allowed_early(WORLDS[name], 0.02)
    # The draws lie close enough to the boundary for a method without a bound to be found out.
    mistaken, _ = violations(WORLDS[name], 0.02, plug_in)
    assert mistaken > ALLOWED


def test_a_first_level_that_is_good_enough_takes_most_examples() -> None:
    world = World(0.8, 1.0, 0.9, paired=False)  # at any threshold at least as accurate as the last level
    _, early = violations(world, 0.02, controlled)
    assert 8 * early + 64 * (1 - early) < 0.4 * 64


@pytest.mark.parametrize("n", [50, 500, 1500])
def test_a_test_at_the_boundary_is_wrong_about_delta_of_the_time(n: int) -> None:
    """p-values under the hypothesis itself, with the true drop at the limit: none is small too often."""
    rng = np.random.default_rng(0)
    kinds = set()
    for harm, gain in ((0.05, 0.0), (0.08, 0.03), (0.2, 0.15), (0.05001, 0.00001)):
        counts, times = np.unique(
            rng.multinomial(n, [harm, gain, 1 - harm - gain], size=1000)[:, :2], axis=0, return_counts=True
        )
        for delta in (0.01, 0.1):
            kinds.add(risk.which_test(n, 0.05, delta))
            p = np.array([risk.p_value(int(h), int(g), n, 0.05, delta) for h, g in counts])
            assert times[p <= delta].sum() <= stats.binom.ppf(0.9999, 1000, delta)
    assert kinds <= {"binomial", "paired"} and ("paired" in kinds) == (n > 50)


def test_all_of_delta_is_spent() -> None:
    """Where no harm is seen, as many examples certify as the binomial needs, and no more."""
    for drop, delta, needed in ((0.005, 0.05, 598), (0.01, 0.05, 299), (0.02, 0.1, 114)):
        assert needed == math.ceil(math.log(delta) / math.log(1 - drop))
        for split, count in ((None, needed), (0.5, 2 * needed)):
            for examples, passes in ((count, True), (count - 1 - (split is not None), False)):
                pair = np.full((2, examples), 0.9), np.ones((2, examples), bool)
                policy = mrl.fit_cascade(
                    pair, None, mrl.Nesting((8, 16)), method="risk", drop=drop, delta=delta, split=split
                )
                fitted = dict(policy.fitted)
                assert (fitted["expected_dim"] == 8) == passes == (fitted["passed"] > 0)
                assert fitted["test"] == "binomial"
                assert (policy.thresholds == (1.0,)) != passes


def test_the_test_is_chosen_by_the_number_of_examples_alone() -> None:
    for drop in (0.005, 0.02):
        kinds = [risk.which_test(n, drop, 0.05) for n in range(1, 3000)]
        first = kinds.index("paired")
        assert kinds == ["binomial"] * first + ["paired"] * (len(kinds) - first)
        assert first + 1 == math.ceil(2 * math.log(0.05) / math.log(1 - drop))
    assert risk.which_test(10, 0.0, 0.05) == "paired"  # of a binomial of chance 0 nothing is rare


def test_p_values_have_power() -> None:
    assert risk.p_value(0, 0, 1000, 0.005, 0.05) < 0.05
    assert risk.p_value(30, 30, 4000, 0.02, 0.05) < 0.01  # no drop at all
    # Harm alone is above the limit, and the gains make up for it: the binomial does not see that.
    assert binomial_cdf(120, 4000, 0.02) > 0.9 and risk.p_value(120, 130, 4000, 0.02, 0.05) < 0.002
    assert risk.p_value(20, 0, 1000, 0.02, 0.05) > 0.4
    # Near what the normal distribution says of so many: at a deviation of 2.33 and more it is rejected at 0.01.
    assert 0.01 < risk.p_value(1000, 990 - 2 * 44, 100_000, 0.002, 0.01) + 0.01 < 0.05


@np.errstate(under="ignore")  # in SciPy's probabilities, however NumPy is set
def exact_chance(statistic: float, n: int, drop: float, harm: float, gain: float) -> float:
    """``P(T <= statistic)`` by adding up every outcome."""
    h, g = np.meshgrid(np.arange(n + 1), np.arange(n + 1), indexing="ij")
    fits = h + g <= n
    t = np.where(fits, (h - g - n * drop) / np.sqrt(np.maximum(h + g, n * drop)), np.inf)
    low = fits & (t <= statistic + 1e-9)
    chances = stats.multinomial.pmf(
        np.stack([h[low], g[low], n - h[low] - g[low]], -1), n, [harm, gain, 1 - harm - gain]
    )
    return float(np.sum(chances))


@pytest.mark.parametrize(("n", "drop"), [(12, 0.05), (60, 0.02), (60, 0.2)])
def test_the_paired_test_bounds_every_share_of_changes(n: int, drop: float) -> None:
    """Against the sum of all outcomes: never smaller at any share within the interval, and not much larger."""
    for harm, gain in ((0, 1), (0, 4), (2, 6), (1, 1), (5, 20 if n > 12 else 7)):
        statistic = (harm - gain - n * drop) / math.sqrt(max(harm + gain, n * drop))
        p = paired_p_value(harm, gain, n, drop, 0.05)
        low, high = likely_shares(harm + gain, n, 0.001)
        exact = clopper_pearson(harm + gain, n, 1 - 0.001)
        assert low <= exact[0] and exact[1] <= high  # it leaves out no more
        if high <= drop:
            assert p == 0.001
            continue
        shares = np.linspace(max(low, drop + 1e-12), high, 15)
        chances = [exact_chance(statistic, n, drop, (q + drop) / 2, (q - drop) / 2) for q in shares]
        assert max(chances) + 0.001 <= p + 1e-9
        assert p <= 1.25 * max(chances) + 0.0011
    found = _as_low(-1.1, np.array([0.2]), np.array([0.12]), 40, 2.0)
    assert found[0] == pytest.approx(exact_chance(-1.1, 40, 0.05, 0.2, 0.12), rel=1e-9)


def test_the_paired_test_at_its_ends() -> None:
    assert paired_p_value(5, 0, 100, 0.05, 0.05) == 1.0 and paired_p_value(0, 0, 100, 0.0, 0.05) == 1.0
    assert paired_p_value(0, 100, 100, 0.0, 0.05) < 0.002 and paired_p_value(0, 1, 1, 0.5, 0.05) > 0.05
    # So few changes that no share of them as large as the drop is believed.
    assert paired_p_value(0, 0, 100_000, 0.01, 0.05) == pytest.approx(0.001)


def test_the_sequence_stops_at_the_first_failure() -> None:
    rng = np.random.default_rng(1)
    # Wrong where it is surest, right elsewhere: no threshold gets past the first that fails.
    confidence = np.stack([rng.random(2000), np.ones(2000)])
    correct = np.stack([confidence[0] < 0.9, np.ones(2000, bool)])
    policy = mrl.fit_cascade((confidence, correct), None, mrl.Nesting((1, 2)), method="risk", drop=0.01, split=None)
    assert policy.thresholds[0] > 0.98
    assert dict(policy.fitted)["passed"] < len(risk.FAMILY)


def test_too_few_examples_give_the_full_model() -> None:
    confidence, correct = np.array([[0.9] * 20, [0.9] * 20]), np.ones((2, 20), bool)
    policy = mrl.fit_cascade((confidence, correct), None, mrl.Nesting((1, 2)), method="risk", drop=0.005)
    assert policy.thresholds == (1.0,) and dict(policy.fitted)["passed"] == 0


def test_the_record_says_what_was_asked_and_tested() -> None:
    outcomes = WORLDS["harm only"].draw(np.random.default_rng(0), 3000)
    policy = mrl.fit_cascade(
        (outcomes.confidence, outcomes.correct), None, mrl.Nesting((1, 2)), method="risk", drop=0.02, split=None
    )
    fitted = dict(policy.fitted)
    assert fitted["method"] == "risk" and fitted["drop"] == 0.02 and fitted["delta"] == 0.05
    assert fitted["p_value"] <= 0.05 and policy.thresholds[0] == risk.FAMILY[fitted["passed"] - 1]
    assert fitted["accuracy"] > fitted["full_accuracy"] - 0.02


@pytest.mark.parametrize("n", [1, 7, 200, 10000])
def test_binomial_tails_are_exact(n: int) -> None:
    for k in sorted({0, 1, n // 3, n - 1, n}):
        for p in (1e-6, 0.005, 0.3, 0.999):
            assert binomial_cdf(k, n, p) == pytest.approx(stats.binom.cdf(k, n, p), rel=1e-9, abs=1e-300)
    assert binomial_cdf(-1, n, 0.5) == 0 and binomial_cdf(0, n, 0.0) == 1 and binomial_cdf(0, n, 1.0) == 0


@pytest.mark.parametrize(("k", "n"), [(0, 1), (1, 1), (0, 30), (3, 10), (9876, 10000), (10000, 10000)])
@pytest.mark.parametrize("level", [0.5, 0.95, 0.999])
def test_intervals_are_exact(k: int, n: int, level: float) -> None:
    interval = stats.binomtest(k, n).proportion_ci(level, method="exact")
    low, high = clopper_pearson(k, n, level)
    assert math.isclose(low, interval.low, rel_tol=1e-8, abs_tol=1e-15)
    assert math.isclose(high, interval.high, rel_tol=1e-8)
