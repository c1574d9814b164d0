"""Plans of funnels: what they promise holds for fresh queries, and what they write down runs elsewhere."""

import json

import numpy as np
import pytest
from retrieval_cases import array, host

import mrl
from mrl import spec
from mrl.cascade.binomial import clopper_pearson
from mrl.retrieval.betting import mean_interval

WIDTH, COUNT = 64, 3000
SCALE = 0.93 ** np.arange(WIDTH)
RNG = np.random.default_rng(0)
ROWS = (RNG.normal(size=(COUNT, WIDTH)) * SCALE).astype(np.float32)


def drawn(count: int, seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    near = ROWS[rng.integers(0, COUNT, count)]
    return (near + 0.3 * rng.normal(size=near.shape) * SCALE).astype(np.float32)


QUERIES = drawn(300, 1)
PLAN = mrl.plan_funnel(QUERIES, ROWS, (4, 8, 16, 32, 64), k=10, recall=0.97)
EXPORTED = mrl.FunnelPlan(
    (8, 16, 64), (100, 40, 10), "cosine", COUNT, WIDTH, 0.9,
    mrl.Interval(0.95, 0.9, 0.98), mrl.Interval(0.8, 0.7, 0.9), 100, 10, 40, 100,
)  # fmt: skip


def test_fresh_queries_find_what_was_promised() -> None:
    fresh = drawn(400, 2)
    exact = spec.search(fresh, ROWS, k=10)
    found = PLAN.search(fresh, ROWS)
    recall = mrl.metrics.recall_at_k(found.indices, exact.indices, 10)
    assert recall >= 0.97 - 0.005
    assert PLAN.recall.low - 0.01 <= recall <= PLAN.recall.high + 0.01


@pytest.mark.parametrize("size", [8, 60])
@pytest.mark.parametrize(
    "values", [((0.0, 0.1), (1.0, 0.9)), ((0.5, 0.2), (1.0, 0.8)), ((0.0, 0.5), (1.0, 0.5)), ((0.9, 0.3), (1.0, 0.7))]
)
def test_the_interval_covers_whatever_the_recalls_are(values: tuple, size: int) -> None:
    """95 % of 1000 draws of queries, less four standard errors."""
    rng = np.random.default_rng(0)
    numbers, chances = np.array(values).T
    found = [mean_interval(rng.choice(numbers, size, p=chances), 0.95) for _ in range(1000)]
    covered = np.mean([interval.low <= numbers @ chances <= interval.high for interval in found])
    assert covered >= 0.95 - 4 * np.sqrt(0.05 * 0.95 / 1000)
    assert all(0 <= interval.low <= interval.value <= interval.high <= 1 for interval in found)
    assert np.mean([interval.high - interval.low for interval in found]) < 4.5 / np.sqrt(size)


def test_the_interval_counts_queries_not_neighbours() -> None:
    """All ten neighbours of a query stand and fall together: as long an interval as of one neighbour a query."""
    shares = np.repeat([1.0, 0.0], [95, 5])[np.random.default_rng(0).permutation(100)]
    low, high = clopper_pearson(95, 100, 0.95)
    together, apart = mean_interval(shares, 0.95), clopper_pearson(950, 1000, 0.95)
    assert (
        together.low <= low
        and together.high - together.low > 2 * (apart[1] - apart[0])
        and together.high >= high - 0.01
    )


def test_every_backend_plans_the_same(backend_name: str) -> None:
    queries, rows = array(backend_name, QUERIES), array(backend_name, ROWS)
    for database in (rows, mrl.prepare_database(rows, (4, 8, 16, 32))):
        plan = mrl.plan_funnel(queries, database, (4, 8, 16, 32, 64), k=10, recall=0.97)
        assert (plan.dims, plan.shortlists, plan.multiply_adds) == (PLAN.dims, PLAN.shortlists, PLAN.multiply_adds)
        assert plan.recall.value == pytest.approx(PLAN.recall.value, abs=2e-3)
    assert host(plan.search(queries, rows).indices).shape == (300, 10)


def test_cost_is_what_the_stages_multiply() -> None:
    dims, shortlists = PLAN.dims, PLAN.shortlists
    sizes = [COUNT, *shortlists[:-1]]
    assert PLAN.multiply_adds == sum(n * m for n, m in zip(sizes, dims, strict=True))
    assert PLAN.bytes == 4 * PLAN.multiply_adds
    assert PLAN.exact_multiply_adds == COUNT * WIDTH > PLAN.multiply_adds
    assert PLAN.k == shortlists[-1] == 10 and dims[-1] == 64


def test_the_frontier_is_one() -> None:
    costs = [choice.multiply_adds for choice in PLAN.frontier]
    recalls = [choice.recall for choice in PLAN.frontier]
    assert costs == sorted(costs) and recalls == sorted(set(recalls))
    assert (PLAN.dims, PLAN.shortlists) in [(choice.dims, choice.shortlists) for choice in PLAN.frontier]
    cheaper = [choice for choice in PLAN.frontier if choice.multiply_adds < PLAN.multiply_adds]
    assert cheaper and all(choice.recall < 1 for choice in cheaper)


def test_what_was_held_out_is_measured_by_running_it() -> None:
    order = np.random.default_rng(0).permutation(300)
    held_out = QUERIES[np.sort(order[150:])]
    exact = spec.search(held_out, ROWS, k=10)
    found = spec.funnel_search(held_out, ROWS, dims=PLAN.dims, shortlists=PLAN.shortlists)
    each = mrl.metrics.recall_at_k(found.indices, exact.indices, 10, reduction="none")
    assert PLAN.queries == 150
    assert PLAN.recall.value == pytest.approx(each.mean(), abs=2e-3)
    assert PLAN.complete.value == pytest.approx((each == 1).mean(), abs=0.015)
    assert PLAN.complete.low < PLAN.complete.value < PLAN.complete.high


@pytest.mark.parametrize("metric", ["dot", "l2"])
def test_other_metrics(metric: str) -> None:
    plan = mrl.plan_funnel(QUERIES, ROWS, (8, 32, 64), k=5, recall=0.9, metric=metric)
    assert plan.metric == metric and plan.recall.value > 0.85


def test_a_sample_a_seed_and_fewer_stages() -> None:
    plan = mrl.plan_funnel(QUERIES, ROWS, (4, 16, 64), k=3, recall=0.8, sample=100, seed=5, stages=2)
    assert plan.queries == 50 and len(plan.dims) <= 2
    assert plan == mrl.plan_funnel(QUERIES, ROWS, (4, 16, 64), k=3, recall=0.8, sample=100, seed=5, stages=2)
    alone = mrl.plan_funnel(QUERIES, ROWS, (4, 16, 64), k=3, recall=1.0, stages=1)
    assert (alone.dims, alone.shortlists, alone.recall.value) == ((64,), (3,), 1.0)


def test_measured_takes_the_fastest_that_reaches_the_goal(backend_name: str) -> None:
    queries, rows = array(backend_name, QUERIES[:40]), array(backend_name, ROWS[:500])
    plan = mrl.plan_funnel(queries, rows, (16, 64), k=3, recall=0.9, measured=True)
    timed = [choice for choice in plan.frontier if choice.seconds is not None]
    assert timed and plan.seconds == min(choice.seconds for choice in timed)
    assert "ms a query" in str(plan)


def test_a_goal_out_of_reach_names_the_best() -> None:
    with pytest.raises(ValueError, match=r"recall: .* a funnel of \(4, 8\) reaches, got 0\.99; the best, \(8,\) with"):
        mrl.plan_funnel(QUERIES, ROWS, (4, 8), k=10)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"recall": 0}, ValueError, r"recall: expected a number in \(0, 1\], got 0"),
        ({"recall": "1"}, TypeError, r"recall: expected a number in \(0, 1\], got str"),
        ({"k": 3001}, ValueError, r"k: expected an integer in \[1, 3000\]"),
        ({"dims": (4, 65)}, ValueError, r"dims: expected"),
        ({"sample": 1}, ValueError, r"sample: expected an integer of at least 2"),
        ({"stages": 0}, ValueError, r"stages: expected an integer of at least 1"),
        ({"seed": -1}, ValueError, r"seed: expected an integer of at least 0"),
        ({"measured": 1}, TypeError, r"measured: expected True or False"),
        ({"queries": QUERIES[:1]}, ValueError, r"queries: expected shape \(Q, D\) with at least 2 queries"),
    ],
)
def test_errors(options: dict, error, message) -> None:
    given = {"queries": QUERIES, "database": ROWS, "dims": (4, 64), "k": 5, **options}
    with pytest.raises(error, match=message):
        mrl.plan_funnel(given.pop("queries"), given.pop("database"), given.pop("dims"), **given)


def test_json_comes_back_exactly() -> None:
    assert mrl.FunnelPlan.from_json(PLAN.to_json()) == PLAN
    content = json.loads(PLAN.to_json())
    for change in ({"format": "other"}, {"version": 2}, {"dims": [8, 4]}, {"metric": "angle"}, {"more": 1}):
        with pytest.raises(ValueError, match=r"text: expected a plan as FunnelPlan\.to_json writes it, got another"):
            mrl.FunnelPlan.from_json(json.dumps({**content, **change}))
    for text in ("", "[]", "{}"):
        with pytest.raises(ValueError, match="text: expected a plan"):
            mrl.FunnelPlan.from_json(text)


def test_a_plan_is_a_table() -> None:
    lines = str(PLAN).splitlines()
    assert lines[0] == "funnel for 10 of 3000 rows of 64 dimensions, cosine"
    assert lines[1].endswith(" > 64: 10") and lines[2].startswith("recall@10")
    assert len(lines) < 20 and max(map(len, lines)) < 100


def test_a_plan_is_a_figure(tmp_path) -> None:
    figure = PLAN.plot(tmp_path / "plan.png")
    assert len(figure.axes) == 1 and (tmp_path / "plan.png").stat().st_size > 1000


PGVECTOR = """\
-- The index makes the first stage approximate, and fast; without it the funnel is exact.
CREATE INDEX ON items USING hnsw ((subvector(vector, 1, 8)::vector(8)) vector_cosine_ops);
SET hnsw.ef_search = 100;

SELECT id FROM (
  SELECT id, vector FROM (
    SELECT id, vector FROM items
    ORDER BY subvector(vector, 1, 8)::vector(8) <=> subvector($1::vector(64), 1, 8)::vector(8)
    LIMIT 100
  ) AS stage_1
  ORDER BY subvector(vector, 1, 16)::vector(16) <=> subvector($1::vector(64), 1, 16)::vector(16)
  LIMIT 40
) AS stage_2
ORDER BY vector <=> $1::vector(64)
LIMIT 10;
"""

VESPA = """\
# in the document: prefixes are fed beside the vector, each normalised by itself for cosine
field embedding_8 type tensor<float>(x[8]) {
    indexing: attribute | index
    attribute {
        distance-metric: angular
    }
}
field embedding_16 type tensor<float>(x[16]) {
    indexing: attribute
}
field embedding type tensor<float>(x[64]) {
    indexing: attribute
}

rank-profile funnel {
    inputs {
        query(q_8) tensor<float>(x[8])
        query(q_16) tensor<float>(x[16])
        query(q_64) tensor<float>(x[64])
    }
    first-phase {
        expression: cosine_similarity(query(q_8), attribute(embedding_8), x)
    }
    second-phase {
        rerank-count: 100
        expression: cosine_similarity(query(q_16), attribute(embedding_16), x)
    }
    global-phase {
        rerank-count: 40
        expression: cosine_similarity(query(q_64), attribute(embedding), x)
    }
}

# the query
# yql: select * from sources * where {targetHits: 100}nearestNeighbor(embedding_8, q_8)
# hits: 10
"""


def test_sql_and_vespa() -> None:
    assert EXPORTED.to_sql("items", column="vector") == PGVECTOR
    assert EXPORTED.to_vespa() == VESPA
    for bad in ("a; drop", "", "1a", "a b"):
        with pytest.raises(ValueError, match="table: expected letters, digits and underscores"):
            EXPORTED.to_sql(bad)
        with pytest.raises(ValueError, match="field: expected letters"):
            EXPORTED.to_vespa(field=bad)
    with pytest.raises(ValueError, match="dialect: expected 'pgvector' or 'sqlite-vec', got 'mysql'"):
        EXPORTED.to_sql("items", dialect="mysql")


@pytest.mark.parametrize("metric", ["cosine", "l2"])
def test_sqlite_vec_finds_what_the_funnel_finds(metric: str) -> None:
    sqlite_vec = pytest.importorskip("sqlite_vec")
    import sqlite3

    connection = sqlite3.connect(":memory:")
    if not hasattr(connection, "enable_load_extension"):
        pytest.skip("this Python's sqlite3 loads no extensions")
    connection.enable_load_extension(True)
    sqlite_vec.load(connection)
    connection.execute("CREATE TABLE items (id INTEGER PRIMARY KEY, embedding BLOB)")
    connection.executemany("INSERT INTO items VALUES (?, ?)", ((i, row.tobytes()) for i, row in enumerate(ROWS)))
    plan = mrl.FunnelPlan(**{**vars(EXPORTED), "metric": metric})
    text = plan.to_sql("items", parameter="?1", dialect="sqlite-vec")
    expected = plan.search(QUERIES[:10], ROWS).indices
    for query, indices in zip(QUERIES[:10], expected, strict=True):
        assert [row[0] for row in connection.execute(text, [query.tobytes()])] == indices.tolist()
    connection.close()


def test_sqlite_vec_has_no_dot_product() -> None:
    plan = mrl.FunnelPlan(**{**vars(EXPORTED), "metric": "dot"})
    assert "<#>" in plan.to_sql("items") and "sum(query" in plan.to_vespa()
    with pytest.raises(ValueError, match=r"metric: expected one of \('cosine', 'l2'\) for sqlite-vec, got 'dot'"):
        plan.to_sql("items", dialect="sqlite-vec")
