"""Reports, curves and figures: every number against a plain loop, every interval against its definition."""

import json
import subprocess
import sys
import tempfile

import numpy as np
import pytest
from matplotlib.collections import PolyCollection
from scipy import optimize, stats

import mrl
from mrl.cascade.binomial import paired_difference
from mrl.cascade.report import resampled_mean
from mrl.dispatch import backend_named

RNG = np.random.default_rng(5)
LOGITS = RNG.normal(size=(3, 200, 4)) * 2
LABELS = RNG.integers(0, 4, 200)
LOGITS[-1, np.arange(200), LABELS] += 2
POLICY = mrl.CascadePolicy((0.7, 0.6), (8, 16, 64))


def probabilities():
    p = np.exp(LOGITS - LOGITS.max(-1, keepdims=True))
    return p / p.sum(-1, keepdims=True)


def test_every_number_by_a_plain_loop() -> None:
    report = mrl.cascade_report(probabilities(), LABELS, POLICY)
    result = mrl.cascade_exit(probabilities(), POLICY)
    dims = POLICY.dims
    assert report.examples == 200 and report.dims == dims
    assert report.accuracy.value == np.mean(result.labels == LABELS)
    assert report.expected_dim.value == pytest.approx(np.mean([dims[g] for g in result.level]), abs=1e-12)
    assert report.cumulative_dim.value == pytest.approx(np.mean([sum(dims[: g + 1]) for g in result.level]), abs=1e-12)
    assert report.flops.value == pytest.approx(2 * 4 * report.expected_dim.value, abs=1e-12)
    assert report.cumulative_flops.value == pytest.approx(2 * 4 * report.cumulative_dim.value, abs=1e-12)
    for g in range(3):
        assert report.exit_fractions[g].value == np.mean(result.level == g)
        assert report.level_accuracies[g].value == np.mean(LOGITS[g].argmax(-1) == LABELS)
    assert sum(x.value for x in report.exit_fractions) == pytest.approx(1)
    assert report.oracle_accuracy.value == np.mean((LOGITS.argmax(-1) == LABELS).any(0))
    assert report.oracle_accuracy.value >= max(report.accuracy.value, *(x.value for x in report.level_accuracies))
    gap = report.accuracy.value - report.level_accuracies[-1].value
    assert report.against_full.value == pytest.approx(gap, abs=1e-12)


def test_intervals_surround_their_values_and_are_exact_for_proportions() -> None:
    report = mrl.cascade_report(probabilities(), LABELS, POLICY, confidence_level=0.9)
    hits = round(200 * report.accuracy.value)
    exact = stats.binomtest(hits, 200).proportion_ci(0.9, method="exact")
    assert report.accuracy[1:] == pytest.approx((exact.low, exact.high), rel=1e-8)
    for interval in (
        report.accuracy,
        report.against_full,
        report.expected_dim,
        report.cumulative_dim,
        report.oracle_accuracy,
        *report.exit_fractions,
        *report.level_accuracies,
    ):
        assert interval.low <= interval.value <= interval.high
    wider = mrl.cascade_report(probabilities(), LABELS, POLICY, confidence_level=0.99)
    assert wider.expected_dim.low < report.expected_dim.low and wider.expected_dim.high > report.expected_dim.high


@pytest.mark.parametrize(("losses", "gains", "n"), [(0.01, 0.0, 200), (0.05, 0.02, 100), (0.3, 0.1, 30)])
def test_the_interval_of_a_difference_covers_it(losses, gains, n) -> None:
    """Also where so few examples differ that resampling them would find none."""
    drawn = np.random.default_rng(0).multinomial(n, (losses, 1 - losses - gains, gains), size=1500)
    found = [paired_difference(int(gained), int(lost), n, 0.95) for lost, _, gained in drawn]
    covered = np.mean([low <= gains - losses <= high for low, high in found])
    assert 0.92 < covered < 0.99


def test_the_interval_of_a_difference_at_its_ends() -> None:
    low, high = paired_difference(0, 0, 50, 0.95)
    assert -0.1 < low < 0 and low == pytest.approx(-high, abs=1e-12)
    assert paired_difference(5, 0, 5, 0.95)[1] == 1 and paired_difference(0, 5, 5, 0.95)[0] == -1
    turned = [-end for end in paired_difference(3, 7, 40, 0.9)[::-1]]
    assert paired_difference(7, 3, 40, 0.9) == pytest.approx(turned, abs=1e-12)


@pytest.mark.parametrize(
    ("gains", "losses", "n"),
    [(0, 0, 1), (0, 0, 7), (1, 0, 2), (0, 2, 3), (2, 1, 4), (0, 3, 50), (7, 3, 40), (90, 5, 100)],
)
def test_the_interval_of_a_difference_ends_where_it_is_rejected(gains: int, losses: int, n: int) -> None:
    """By the likeliest share of losses from a search, in place of the formula."""
    interval, z = paired_difference(gains, losses, n, 0.9), stats.norm.ppf(0.95)
    for end, sign in zip(interval, (1, -1), strict=True):
        assert -1 < end < 1

        def unlikely(share: float, end: float = end) -> float:
            chances = np.array([share + end, share, 1 - 2 * share - end])
            counts = np.array([gains, losses, n - gains - losses])
            return -float(np.log(np.maximum(chances, 1e-300)) @ counts)

        bounds = max(0.0, -end), (1 - end) / 2
        share = optimize.minimize_scalar(unlikely, bounds=bounds, method="bounded", options={"xatol": 1e-12}).x
        share = min((share, *bounds), key=unlikely)
        deviation = np.sqrt(n * (2 * share + end * (1 - end)))
        assert (gains - losses - n * end) / deviation == pytest.approx(sign * z, abs=1e-5)


def test_the_oracle_and_the_five_likeliest_by_a_plain_loop() -> None:
    rng = np.random.default_rng(6)
    logits, labels = np.round(rng.normal(size=(3, 120, 9)) * 2), rng.integers(0, 9, 120)  # with ties
    logits[0, 0] = np.nan
    report = mrl.cascade_report(logits, labels, POLICY, logits=True)
    level = mrl.cascade_exit(logits, POLICY, logits=True).level
    among, stops = 0, [0, 0, 0]
    for i, label in enumerate(labels):
        ordered = sorted(range(9), key=lambda c, i=i: (-logits[level[i], i, c], c))
        among += int(label) in ordered[:5]
        answers = [-1 if np.isnan(logits[g, i]).any() else int(logits[g, i].argmax()) for g in range(3)]
        stops[answers.index(label) if label in answers else 2] += 1
    assert report.top5_accuracy.value == among / 120 >= report.accuracy.value
    exact = stats.binomtest(among, 120).proportion_ci(0.95, method="exact")
    assert report.top5_accuracy[1:] == pytest.approx((exact.low, exact.high), rel=1e-8)
    assert [share.value for share in report.oracle_fractions] == [count / 120 for count in stops]
    assert report.oracle_dim.value == pytest.approx(np.dot(stops, POLICY.dims) / 120)
    assert report.oracle_dim.low < report.oracle_dim.value < report.oracle_dim.high
    assert "top-5 accuracy, %" in str(report) and "oracle dimension" in str(report)
    early = mrl.cascade_report(logits, labels, POLICY.capped(2), logits=True)
    assert early == mrl.cascade_report(logits[:2], labels, POLICY.capped(2), logits=True)
    few = mrl.cascade_report(LOGITS, LABELS, POLICY, logits=True)  # four classes
    assert few.top5_accuracy is None and "top-5" not in str(few)


def test_counts_resample_as_examples_do() -> None:
    values, counts = np.array([8.0, 16.0, 64.0]), np.array([90, 70, 40])
    interval = resampled_mean(counts, values, 0.95, 0)
    rows = np.repeat(values, counts)
    means = np.random.default_rng(1).choice(rows, (4000, 200)).mean(-1)
    low, high = np.quantile(means, [0.025, 0.975])
    assert interval.value == rows.mean()
    assert interval.low == pytest.approx(low, abs=0.5) and interval.high == pytest.approx(high, abs=0.5)
    for share in (np.mean(means < interval.low), np.mean(means > interval.high)):
        assert share == pytest.approx(0.025, abs=0.01)
    assert resampled_mean(counts, values, 0.95, 0) == interval != resampled_mean(counts, values, 0.95, 1)


def test_the_interval_holds_the_truth_as_often_as_it_says() -> None:
    rng, share, inside = np.random.default_rng(2), np.array([0.5, 0.3, 0.2]), 0
    values = np.array([8.0, 16.0, 64.0])
    for _ in range(300):
        interval = resampled_mean(rng.multinomial(300, share), values, 0.9, 0)
        inside += interval.low <= share @ values <= interval.high
    assert stats.binom.ppf(1e-4, 300, 0.88) <= inside <= stats.binom.ppf(1 - 1e-4, 300, 0.92)


def test_every_framework_logits_and_pairs_say_the_same(backend_name: str) -> None:
    make = backend_named(backend_name).from_numpy
    single = LOGITS.astype(np.float32)
    labels = make(LABELS.astype(np.int32), dtype=None, device=None)
    report = mrl.cascade_report(make(single, dtype=None, device=None), labels, POLICY, logits=True)
    assert report == mrl.cascade_report(single, LABELS, POLICY, logits=True)
    pair = probabilities().max(-1), LOGITS.argmax(-1) == LABELS
    of_pair, whole = mrl.cascade_report(pair, None, POLICY), mrl.cascade_report(probabilities(), LABELS, POLICY)
    assert of_pair.flops is None and of_pair.cumulative_flops is None
    assert of_pair.to_dict() == {**whole.to_dict(), "flops": None, "cumulative_flops": None}


def test_reports_are_json_and_text() -> None:
    report = mrl.cascade_report(probabilities(), LABELS, POLICY)
    content = json.loads(json.dumps(report.to_dict(), allow_nan=False))
    assert content["accuracy"]["value"] == report.accuracy.value and len(content["exit_fractions"]) == 3
    text = str(report)
    assert text == report.table()
    for word in ("200 examples", "expected dimension", "cumulative FLOPs", f"{report.expected_dim.value:.4g}"):
        assert word in text
    with pytest.raises(AttributeError):
        report.accuracy = None


def test_a_curve_is_the_reports_of_its_policies() -> None:
    warm = mrl.CascadePolicy((0.2,), (8, 16), confidence="margin", temperatures=(2.0, 1.0))
    policies = [POLICY, POLICY.capped(1), POLICY.capped(2), warm]
    points = mrl.cascade_curve(probabilities(), LABELS, policies)
    for policy, point in zip(policies, points, strict=True):
        report = mrl.cascade_report(probabilities()[: len(policy)], LABELS, policy)
        assert point == (policy, report.expected_dim, report.cumulative_dim, report.accuracy)


def test_a_policy_stopped_early_is_reported_on_all_levels(backend_name: str) -> None:
    make = backend_named(backend_name).from_numpy
    single, labels = LOGITS.astype(np.float32), make(LABELS.astype(np.int32), dtype=None, device=None)
    pair = probabilities().max(-1), LOGITS.argmax(-1) == LABELS
    for levels in (1, 2):
        early = POLICY.capped(levels)
        report = mrl.cascade_report(make(single, dtype=None, device=None), labels, early, logits=True)
        assert report == mrl.cascade_report(single[:levels], LABELS, early, logits=True)
        assert report.accuracy.value - report.against_full.value == pytest.approx(report.level_accuracies[-1].value)
        of_pair = mrl.cascade_report(pair, None, early)
        assert of_pair == mrl.cascade_report(tuple(x[:levels] for x in pair), None, early)
        assert mrl.cascade_curve(pair, None, [early]) == [(early, *numbers_of(of_pair))]
    with pytest.raises(ValueError, match=r"probabilities: expected .* with G at least 3 levels .*, got \(2, 200, 4\)"):
        mrl.cascade_report(probabilities()[:2], LABELS, POLICY)
    with pytest.raises(ValueError, match=r"confidence: expected .* with G at least 3 levels, .* got \(2, 200\)"):
        mrl.cascade_report(tuple(x[:2] for x in pair), None, POLICY)


def numbers_of(report: mrl.CascadeReport) -> tuple[mrl.Interval, ...]:
    return report.expected_dim, report.cumulative_dim, report.accuracy


def test_a_figure_shows_what_it_was_given(tmp_path) -> None:
    family = [mrl.CascadePolicy((t, t), POLICY.dims) for t in (0.3, 0.6, 0.9, 1.0)]
    path = tmp_path / "cascade.png"
    policies = {"one threshold": family, "by hand": POLICY}
    figure = mrl.plot_cascade(probabilities(), LABELS, policies, title="A title", path=path)
    assert path.read_bytes().startswith(b"\x89PNG") and len(path.read_bytes()) > 10_000
    (legend,) = figure.legends
    names = {text.get_text() for text in legend.get_texts()}
    assert {"one threshold", "by hand", "by hand, stopped early", "one granularity for all"} <= names
    points = mrl.cascade_curve(probabilities(), LABELS, family)
    for panel, measure in zip(figure.axes, ("expected_dim", "cumulative_dim"), strict=True):
        drawn = {line.get_label(): line.get_xydata() for line in panel.lines}
        wanted = sorted([getattr(point, measure).value, 100 * point.accuracy.value] for point in points)
        np.testing.assert_allclose(drawn["one threshold"], wanted)
        assert len(drawn["by hand, stopped early"]) == 3
        (band,) = (shape for shape in panel.collections if isinstance(shape, PolyCollection))
        edges = {tuple(np.round(vertex, 9)) for vertex in band.get_paths()[0].vertices}
        for point in points:
            for end in point.accuracy[1:]:
                assert tuple(np.round([getattr(point, measure).value, 100 * end], 9)) in edges
    assert "matplotlib.pyplot" not in sys.modules or not sys.modules["matplotlib.pyplot"].get_fignums()


def test_a_figure_takes_policies_stopped_early_as_a_curve_does() -> None:
    figure = mrl.plot_cascade(probabilities(), LABELS, {"early": POLICY.capped(2), "whole": POLICY})
    drawn = {line.get_label(): line.get_xydata() for line in figure.axes[0].lines}
    assert len(drawn["early, stopped early"]) == 2 and len(drawn["whole, stopped early"]) == 3
    falling = mrl.plot_cascade(probabilities(), LABELS, {"family": [POLICY, POLICY.capped(1)]})
    assert list(falling.axes[0].get_xticks()) == list(POLICY.dims)
    assert not any(len(panel.lines) for panel in mrl.plot_cascade(probabilities(), LABELS, {}).axes)


def test_the_figure_says_what_to_install() -> None:
    code = (
        "import sys; sys.modules['matplotlib'] = None\n"
        "import mrl, numpy as np\n"
        "mrl.plot_cascade((np.ones((1, 2)), np.ones((1, 2), bool)), None, {'a': mrl.CascadePolicy((), (4,))})"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=tempfile.gettempdir(), capture_output=True, text=True)
    assert "ImportError: the figure needs matplotlib" in done.stderr and "pip install 'mrl[plot]'" in done.stderr
