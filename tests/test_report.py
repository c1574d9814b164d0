"""Every figure of a report, computed again from its definition; and how often intervals hold the truth."""

import json
import math

import numpy as np
import pytest
from measured_cases import DIMS, by_name, decaying, even, halved, labelled, turned

import mrl
from mrl.cascade.binomial import clopper_pearson
from mrl.report.classes import draw_shots, fit_head, nearest_mean
from mrl.report.neighbours import pools, signs_of_pairs, tau_b, without_own
from mrl.report.planning import plan_parts, plan_sample, plan_sizes
from mrl.report.resampling import Bootstrap
from mrl.report.source import Rows, scan
from mrl.report.values import METHODS

ROUNDING = 1e-9
"""Means of the same counts, added up in another order."""


def unit(x: np.ndarray) -> np.ndarray:
    return x / np.maximum(np.linalg.norm(x, axis=1, keepdims=True), 1e-30)


def best(q: np.ndarray, x: np.ndarray, k: int, own: np.ndarray | None = None) -> np.ndarray:
    """By score and then by lowest index, in float64."""
    scores = q @ x.T
    if own is not None:
        scores[np.arange(len(q)), own] = -np.inf
    return np.argsort(-scores, 1, kind="stable")[:, :k]


def shared(found: np.ndarray, truth: np.ndarray) -> float:
    return float(np.mean([len(set(a) & set(b)) / len(b) for a, b in zip(found, truth, strict=True)]))


@pytest.fixture(scope="module")
def rows() -> np.ndarray:
    return turned(decaying(400))[:, :24]


@pytest.fixture(scope="module")
def found(rows) -> mrl.Report:
    return mrl.report(rows, dims=DIMS, k=5, sample=150)


def ways(x: np.ndarray) -> dict:
    """Each method from its definition: a map of rows, and whether what comes is normalised."""
    wide = x.astype(np.float64)
    order = np.random.default_rng(0).permutation(x.shape[1])
    _, axes = np.linalg.eigh(unit(wide).T @ unit(wide))
    step = np.abs(unit(wide)).max(0) / 127
    return {
        "prefix": (lambda z, m: z[:, :m], True),
        "pca": (lambda z, m: z @ axes[:, ::-1][:, :m], True),
        "random": (lambda z, m: z[:, order[:m]], True),
        "unnormalized": (lambda z, m: unit(z)[:, :m], False),
        "last": (lambda z, m: z[:, -m:], True),
        "int8": (lambda z, m: (np.clip(np.rint(unit(z) / step), -127, 127) * step)[:, :m], True),
        "binary": (lambda z, m: np.where(z > 0, 1.0, -1.0)[:, :m], False),
    }


def test_recall_is_that_of_its_definition(rows, found) -> None:
    own = np.array(found.data["query_rows"])
    assert len(own) == 150 == found.data["queries"]
    wide = rows.astype(np.float64)
    truth = best(unit(wide)[own], unit(wide), 5, own)
    named = by_name(found)
    for name, (turn, again) in ways(rows).items():
        for m in (*DIMS, 24):
            x = turn(wide, m)
            x = unit(x) if again else x
            expected = shared(best(x[own], x, 5, own), truth)
            # A float32 score may fall on the other side of a neighbour's: one place in a thousand, of 750.
            assert named[name, m, "recall_at_k"].value == pytest.approx(expected, abs=1e-3), (name, m)


def test_the_full_width_is_certain(found) -> None:
    named = by_name(found)
    for name in ("prefix", "pca", "random", "unnormalized", "last"):
        assert named[name, 24, "recall_at_k"][3:] == (1.0, 1.0, 1.0)
    assert named["int8", 24, "recall_at_k"].high - named["int8", 24, "recall_at_k"].low > 0.001


def test_every_size_has_every_method(found) -> None:
    assert found.sizes == (8, 16, 24)
    for metric in ("recall_at_k", "rank_correlation"):
        assert {row[:2] for row in found.rows if row.metric == metric} == {
            (n, m) for n in METHODS[:7] for m in found.sizes
        }
    assert all(row.low <= row.value <= row.high for row in (*found.rows, *found.differences))
    assert {row.metric for row in found.rows} == {"recall_at_k", "rank_correlation"}


def test_differences_are_those_of_the_rows(found) -> None:
    named = by_name(found)
    for row in found.differences:
        other = ("prefix", 24) if row.method == "full" else (row.method, row.dim)
        expected = named["prefix", row.dim, row.metric].value - named[*other, row.metric].value
        assert row.value == pytest.approx(expected, abs=ROUNDING)
    # Paired: the same queries on both sides say more than two intervals do.
    row = next(row for row in found.differences if row[:3] == ("int8", 16, "recall_at_k"))
    one, two = named["prefix", 16, "recall_at_k"], named["int8", 16, "recall_at_k"]
    assert row.high - row.low < ((one.high - one.low) ** 2 + (two.high - two.low) ** 2) ** 0.5


def test_the_correlation_is_kendalls(rows, found) -> None:
    stats = pytest.importorskip("scipy.stats")
    own, wide = np.array(found.data["query_rows"]), rows.astype(np.float64)
    full, cut = unit(wide), unit(wide[:, :8])
    expected = []
    for i, pool in zip(own, pools(400, own, 64, 0), strict=True):
        assert i not in pool and len(set(pool)) == 64
        expected.append(stats.kendalltau(full[pool] @ full[i], cut[pool] @ cut[i]).statistic)
    value = by_name(found)["prefix", 8, "rank_correlation"].value
    assert value == pytest.approx(np.mean(expected), abs=1e-4)  # a pair in 2016 of one query in a hundred


def test_tau_counts_ties() -> None:
    stats = pytest.importorskip("scipy.stats")
    rng = np.random.default_rng(0)
    a, b = rng.integers(0, 4, (20, 30)).astype(np.float32), rng.integers(0, 3, (20, 30)).astype(np.float32)
    expected = [stats.kendalltau(*pair).statistic for pair in zip(a, b, strict=True)]
    np.testing.assert_allclose(tau_b(signs_of_pairs(a), signs_of_pairs(b)), expected, atol=1e-12)
    assert math.isnan(tau_b(signs_of_pairs(np.ones((1, 5))), signs_of_pairs(a[:1, :5]))[0])


def test_labels_are_told_by_neighbours() -> None:
    rows, y = labelled(300)
    names = np.array(["a", "bee", "c", "d", "e"])[y]
    found = mrl.report(rows, labels=names, dims=(8,), k=4, sample=100)
    own, wide = np.array(found.data["query_rows"]), rows.astype(np.float64)
    named = by_name(found)
    for m in (8, 32):
        x = unit(wide[:, :m])
        order = best(x[own], x, 4, own)
        hits = (y[order] == y[own][:, None]).astype(float)
        precision = np.cumsum(hits, 1) / np.arange(1, 5)
        discount = 1 / np.log2(np.arange(2, 6))
        for metric, expected in (
            ("nn_accuracy", hits[:, 0].mean()),
            ("precision_at_k", hits.mean()),
            ("map_at_k", (hits * precision).sum(1).mean() / 4),
            ("ndcg_at_k", (hits @ discount / discount.sum()).mean()),
        ):
            assert named["prefix", m, metric].value == pytest.approx(expected, abs=ROUNDING), metric
    integers = mrl.report(rows, labels=y, dims=(8,), k=4, sample=100)
    assert integers.rows == found.rows
    assert found.data["classes"] == 5


def test_relevant_rows_are_what_counts() -> None:
    rows = decaying(200)
    queries = rows[:40] + 0.05 * even(40)
    relevant = np.stack([np.arange(40), np.where(np.arange(40) % 2, (np.arange(40) + 1) % 40, -1)], 1)
    found = mrl.report(rows, queries=queries, relevant=relevant, dims=(4,), k=3)
    x, q = rows.astype(np.float64), queries.astype(np.float64)
    for m in (4, 32):
        order = best(unit(q[:, :m]), unit(x[:, :m]), 3)
        hits = np.array(
            [[row in wanted and row >= 0 for row in line] for line, wanted in zip(order, relevant, strict=True)]
        )
        assert by_name(found)["prefix", m, "precision_at_k"].value == pytest.approx(hits.mean(), abs=ROUNDING)
        discount = 1 / np.log2([2, 3, 4])
        ideal = np.array([discount[: (line >= 0).sum()].sum() for line in relevant])
        expected = (hits @ discount / ideal).mean()
        assert by_name(found)["prefix", m, "ndcg_at_k"].value == pytest.approx(expected, abs=ROUNDING)
    assert found.data["query_rows"] is None and found.data["queries"] == 40
    assert not any(row.metric in ("nn_accuracy", "linear_accuracy") for row in found.rows)


def test_queries_may_have_labels_or_rows_have_theirs() -> None:
    rows, y = labelled(300)
    with_own = mrl.report(rows[60:], labels=y[60:], queries=rows[:60], query_labels=y[:60], dims=(8,), k=3)
    assert with_own.data["labelled_queries"] == 60 == with_own.data["queries"]
    x = unit(rows.astype(np.float64))
    expected = (y[60:][best(x[:60], x[60:], 1)[:, 0]] == y[:60]).mean()
    assert by_name(with_own)["prefix", 32, "nn_accuracy"].value == pytest.approx(expected, abs=ROUNDING)
    without = mrl.report(rows[60:], labels=y[60:], queries=rows[:60], dims=(8,), k=3)
    assert without.data["labelled_queries"] == 60 and without.data["queries"] == 60
    recall = ("prefix", 8, "recall_at_k")
    assert by_name(without)[recall].value == pytest.approx(by_name(with_own)[recall].value, abs=ROUNDING)


def test_the_linear_head_is_discriminant_analysis() -> None:
    analysis = pytest.importorskip("sklearn.discriminant_analysis")
    rows, y = labelled(400)
    order = np.argsort(y, kind="stable")
    head = fit_head(rows[order], y[order], 5)
    theirs = analysis.LinearDiscriminantAnalysis(solver="lsqr", shrinkage=0.1).fit(rows, y)
    np.testing.assert_allclose(head.weight, theirs.coef_, rtol=1e-3, atol=1e-3)  # ours sums float32 rows
    assert (head.logits(rows).argmax(1) == theirs.predict(rows)).mean() > 0.999


def test_a_class_without_a_fitted_row_is_never_told() -> None:
    rows, y = labelled(200)
    keep = y != 2
    order = np.argsort(y[keep], kind="stable")
    head = fit_head(rows[keep][order], y[keep][order], 5)
    assert not (head.logits(rows).argmax(1) == 2).any()


def test_held_out_rows_are_not_fitted_on() -> None:
    """Labels at random: no head is better than chance on rows that it has not seen."""
    rng = np.random.default_rng(0)
    y = rng.integers(0, 2, 300)
    found = by_name(mrl.report(even(300, 64), labels=y, dims=(32,)))
    for metric in ("linear_accuracy", "fewshot_accuracy_10"):
        assert abs(found["prefix", 64, metric].value - 0.5) < 0.12  # four standard errors of 150
    counts = plan_parts(300)
    assert counts == (150, 150)


def test_few_shots_are_drawn_from_each_class() -> None:
    y = np.repeat([0, 1, 4], [3, 20, 7])
    for name, places in draw_shots(y, 5, 10, 0):
        assert (y[places] == name).all()
        assert places.shape == (10, 3 if name == 0 else 5)
        assert all(len(set(line)) == len(line) for line in places)


@pytest.mark.parametrize("metric", ["cosine", "dot", "l2"])
def test_the_nearest_mean_is_by_the_metric(metric: str) -> None:
    x, means = even(30, 6), even(4, 6, seed=1) * np.array([[1], [2], [0.5], [3]], np.float32)
    by = {
        "cosine": unit(means) @ x.T,
        "dot": means @ x.T,
        "l2": -np.square(means[:, None] - x[None]).sum(-1),
    }
    assert (nearest_mean(x, means, metric) == by[metric].argmax(0)).all()


def test_rare_classes_have_a_figure() -> None:
    rows, y = labelled(600)
    keep = (y != 3) | (np.arange(600) % 5 == 0)
    found = by_name(mrl.report(rows[keep], labels=y[keep], dims=(8,)))
    assert found["prefix", 32, "rare_accuracy"].value > 0.5
    assert not any(key[2] == "rare_accuracy" for key in by_name(mrl.report(rows, labels=y, dims=(8,))))


@pytest.mark.parametrize("metric", ["dot", "l2"])
def test_other_metrics_cut_without_normalising(metric: str) -> None:
    rows = decaying(200)
    found = mrl.report(rows, dims=(8,), k=3, metric=metric, sample=60)
    own, x = np.array(found.data["query_rows"]), rows.astype(np.float64)

    def nearest(z: np.ndarray) -> np.ndarray:
        scores = z[own] @ z.T if metric == "dot" else -np.square(z[own][:, None] - z[None]).sum(-1)
        scores[np.arange(len(own)), own] = -np.inf
        return np.argsort(-scores, 1, kind="stable")[:, :3]

    expected = shared(nearest(x[:, :8]), nearest(x))
    assert by_name(found)["prefix", 8, "recall_at_k"].value == pytest.approx(expected, abs=6e-3)  # one place of 180
    assert {row.method for row in found.rows} == set(METHODS[:7]) - {"unnormalized"}


def test_other_backends_find_the_same(backend_name: str) -> None:
    rows, y = labelled(200)
    plain = mrl.report(rows, labels=y, dims=(8,), k=3, sample=50)
    other = mrl.report(mrl.convert(rows, backend_name), labels=y, dims=(8,), k=3, sample=50)
    named = mrl.report(rows, labels=y, dims=(8,), k=3, sample=50, backend=backend_name)
    assert other.data["backend"] == named.data["backend"] == backend_name
    for row, a, b in zip(plain.rows, other.rows, named.rows, strict=True):
        assert a.value == b.value == pytest.approx(row.value, abs=0.014), row  # two places of 150


def test_transforms_are_compared_at_each_size() -> None:
    rows = turned(decaying(300))
    basis, _ = np.linalg.qr(np.random.default_rng(1).normal(size=(32, 32)))
    found = mrl.report(rows, dims=DIMS, transforms={"rotation": lambda x: (x @ basis.T).astype(np.float32)})
    straight = mrl.report(decaying(300), dims=DIMS)
    for m in DIMS:
        mine, theirs = by_name(found)["rotation", m, "recall_at_k"], by_name(straight)["prefix", m, "recall_at_k"]
        assert mine.value == pytest.approx(theirs.value, abs=2e-3)  # rounded twice
        assert ("rotation", m) in {row[:2] for row in found.costs}
    narrow = mrl.report(rows, dims=DIMS, transforms={"adaptor": lambda x: x[:, :20]})
    assert {row.dim for row in narrow.rows if row.method == "adaptor"} == set(DIMS)


def test_the_seed_is_all_there_is() -> None:
    rows, y = labelled(300)
    one, two = (mrl.report(rows, labels=y, dims=(8,), sample=60, seed=3) for _ in range(2))
    assert one == two
    assert mrl.report(rows, labels=y, dims=(8,), sample=60, seed=4).rows != one.rows


def test_json_and_back() -> None:
    rows, y = labelled(300)
    found = mrl.report(rows, labels=y, dims=(8,), price=2.5, title="mine")
    text = found.to_json()
    assert mrl.Report.from_json(text) == found
    content = json.loads(text)
    assert (content["format"], content["version"], content["k"]) == ("mrl.report", 1, 10)
    assert set(content["rows"][0]) == {"method", "dim", "metric", "value", "low", "high"}
    assert content["verdict"] == list(found.verdict) and content["funnel"]["format"] == "mrl.funnel_plan"
    assert len(content["cascade"]) >= 2
    with pytest.raises(ValueError, match="expected a report"):
        mrl.Report.from_json(text.replace('"version": 1', '"version": 2', 1))
    for sentence in found.verdict:
        assert sentence.split()[0] in str(found)


def test_costs_are_counted() -> None:
    found = mrl.report(decaying(100), dims=(8,), price=2.5)
    costs = {row[:2]: row for row in found.costs}
    assert costs["prefix", 32].bytes_per_vector == 128 and costs["int8", 32].bytes_per_vector == 32
    assert costs["binary", 8].bytes_per_vector == 1
    assert costs["pca", 8].price_per_million == pytest.approx(2.5 * 32e6 / 1e9)
    assert costs["prefix", 8].multiply_adds == 8e6
    assert mrl.report(decaying(100), dims=(8,)).costs[0].price_per_million is None
    assert {row[:2]: row for row in mrl.report(halved(decaying(100)), dims=(8,)).costs}[
        "prefix", 32
    ].bytes_per_vector == 64


def test_duplicates_do_not_hide_a_query() -> None:
    """A row of which there are more copies than neighbours is still no neighbour of its own."""
    indices = np.array([[0, 1, 2, 3], [5, 1, 7, 8]])
    assert without_own(indices, np.array([9, 1]), 3).tolist() == [[0, 1, 2], [5, 7, 8]]


def test_a_mapped_file_is_read_in_chunks(tmp_path, monkeypatch: pytest.MonkeyPatch) -> None:
    from mrl.report import planning

    rows = decaying(500)
    whole = mrl.report(rows, dims=DIMS, sample=50)
    np.save(tmp_path / "rows.npy", rows)
    monkeypatch.setattr(planning, "CHUNK_BYTES", 4 * 32 * 70)
    mapped = np.load(tmp_path / "rows.npy", mmap_mode="r")
    assert len(list(Rows(mapped).chunks())) == 8
    again = mrl.report(mapped, dims=DIMS, sample=50)
    for a, b in zip(whole.rows, again.rows, strict=True):
        assert a.value == pytest.approx(b.value, abs=4.1e-3), a  # two places of 500
    assert scan(mapped).repeated == 0


def test_few_rows_are_read_in_order_and_given_in_mine() -> None:
    rows = decaying(50)
    assert (Rows(rows).take(np.array([7, 3, 7, 49])) == rows[[7, 3, 7, 49]]).all()
    assert (Rows(rows, np.arange(10, 50)).take(np.array([5, 0])) == rows[[15, 10]]).all()


def test_plans_grow_no_more_than_the_work() -> None:
    sizes = plan_sizes(768)
    for rows in (10**3, 10**5, 10**6, 10**7, 10**9):
        plan = plan_sample(rows, rows, sizes, METHODS[:7], None)
        assert 200 <= plan.queries <= 1000 and plan.rows <= rows
        assert plan.queries * plan.rows <= 7e8
    assert plan_sample(50, 10**4, sizes, METHODS[:7], None).queries == 50
    assert plan_sample(10**5, 10**4, sizes, METHODS[:7], 3000).queries == 3000


def test_sampled_rows_are_said(monkeypatch: pytest.MonkeyPatch) -> None:
    from mrl.report import planning

    monkeypatch.setattr(planning, "WORK", 200 * 300 * 1652)
    found = mrl.report(decaying(800), dims=(8,))
    assert found.data["rows"] == 800 and found.data["rows_searched"] < 800
    assert any("were searched" in sentence for sentence in found.verdict)
    assert max(found.data["query_rows"]) < 800
    rows = decaying(800)
    asked = mrl.report(rows, queries=rows[:250], relevant=np.arange(250)[:, None], dims=(8,), k=1)
    assert 250 <= asked.data["rows_searched"] < 800
    assert by_name(asked)["prefix", 32, "precision_at_k"].value == 1.0


# Intervals


def test_shares_have_the_exact_interval() -> None:
    bootstrap = Bootstrap(0.95, 0)
    for hits, count in ((0, 10), (10, 10), (39, 40), (17, 50)):
        values = np.zeros((count, 1))
        values[:hits] = 1
        found = bootstrap.of(values, 0.0, 1.0)
        # Quantiles of 2000 draws: three standard errors.
        np.testing.assert_allclose((found.low[0], found.high[0]), clopper_pearson(hits, count, 0.95), atol=0.03)


KINDS = {
    "recall, most of them whole": (lambda rng, n: rng.binomial(10, rng.beta(40, 0.6, (n, 1500))) / 10),
    "nine in ten right": (lambda rng, n: (rng.random((n, 1500)) < 0.9).astype(float)),
    "one in a hundred wrong": (lambda rng, n: (rng.random((n, 1500)) < 0.99).astype(float)),
    "rarely nothing": (lambda rng, n: np.where(rng.random((n, 1500)) < 0.03, 0.0, 1.0 - 0.05 * rng.random((n, 1500)))),
    "anything": (lambda rng, n: rng.random((n, 1500))),
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("count", [15, 60, 300])
def test_intervals_hold_the_truth(kind: str, count: int) -> None:
    """At 95 % by simulation, at whatever count, at the ends too."""
    rng = np.random.default_rng(count)
    truth = KINDS[kind](np.random.default_rng(1), 4000).mean()
    values = KINDS[kind](rng, count)
    found = Bootstrap(0.95, 0).of(values, 0.0, 1.0)
    held = ((found.low <= truth) & (truth <= found.high)).mean()
    assert held >= 0.94, held  # 0.95 less two standard errors of 1500


def test_intervals_are_no_longer_than_need_be() -> None:
    rng = np.random.default_rng(0)
    values = rng.binomial(10, 0.9, (1000, 50)) / 10
    found = Bootstrap(0.95, 0).of(values, 0.0, 1.0)
    normal = 2 * 1.96 * values.std(0) / 1000**0.5
    assert 0.95 < ((found.high - found.low) / normal).mean() < 1.25


def test_intervals_of_a_report_hold_the_recall_of_all_rows() -> None:
    rows = turned(decaying(1200, 16, 0.9))
    truth = by_name(mrl.report(rows, dims=(8,), k=5, sample=1200))
    held = []
    for seed in range(40):
        found = by_name(mrl.report(rows, dims=(8,), k=5, sample=40, seed=seed))
        held += [
            found[name, 8, metric].low <= truth[name, 8, metric].value <= found[name, 8, metric].high
            for name in ("prefix", "pca", "int8", "unnormalized")
            for metric in ("recall_at_k", "rank_correlation")
        ]
    assert np.mean(held) >= 0.93  # eight figures of 40 draws, of one another not independent


def test_few_shot_intervals_count_the_draws_of_the_shots() -> None:
    rng = np.random.default_rng(0)
    draws = rng.normal(0.7, 0.1, 20)
    values = (rng.random((200, 20)) < draws).astype(float)
    alone = Bootstrap(0.95, 0).of(values.mean(1, keepdims=True), 0.0, 1.0)
    both = Bootstrap(0.95, 0).of(values, 0.0, 1.0, episodes=20)
    assert both.value[0] == pytest.approx(values.mean())
    assert (both.high - both.low)[0] > 1.5 * (alone.high - alone.low)[0]
