"""``mrl.adapters.sklearn``: estimators by scikit-learn's own checks, and what they fit by the specification."""

import os
import pickle
import subprocess
import sys
import tempfile

import numpy as np
import pytest
from mrl.adapters.sklearn import MatryoshkaClassifier, PrefixTransformer
from scipy.special import softmax
from sklearn.base import clone
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV, train_test_split
from sklearn.pipeline import make_pipeline

import mrl
from mrl import spec

DIMS = (2, 3, 6)
TIED = pytest.mark.parametrize("tied", [False, True])


def examples(count=300, classes=3, seed=0):
    """Overlapping clouds, whose later dimensions tell less; labels are words."""
    rng = np.random.default_rng(seed)
    y = rng.integers(0, classes, count)
    centers = rng.normal(size=(classes, DIMS[-1])) * np.linspace(1.5, 0.5, DIMS[-1])
    return centers[y] + rng.normal(size=(count, DIMS[-1])), np.array(["ant", "bee", "cow", "doe"])[y]


CHECK = """
import sys
from sklearn.utils.estimator_checks import check_estimator
from mrl.adapters.sklearn import MatryoshkaClassifier, PrefixTransformer
results = check_estimator(eval(sys.argv[1]), on_fail=None, on_skip=None)
assert len(results) > 40
# scikit-learn leaves out what needs a package that is not there.
allowed = ("pandas is not installed", "array-api-strict is not installed", "array_api_strict is not installed")
told = [(result["check_name"], result["status"], str(result["exception"])) for result in results]
bad = [x for x in told if x[1] != "passed" and not (x[1] == "skipped" and x[2].startswith(allowed))]
assert not bad, bad
"""


@pytest.mark.parametrize(
    "estimator",
    [
        "MatryoshkaClassifier()",
        "MatryoshkaClassifier(tied=True, C=0.1)",
        "PrefixTransformer()",
        "PrefixTransformer(2)",
        "PrefixTransformer(1, normalize=False)",
    ],
)
def test_check_estimator(estimator):
    """In a process of its own: SciPy reads once, when it is imported, whether arrays may be of other libraries."""
    done = subprocess.run(
        [sys.executable, "-c", CHECK, estimator],
        env={**os.environ, "SCIPY_ARRAY_API": "1"},
        cwd=tempfile.gettempdir(),  # at the root of the project half of the package would not be seen
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stderr[-3000:]


@pytest.mark.parametrize("weighted", [False, True])
def test_levels_of_their_own_are_logistic_regressions(weighted):
    X, y = examples()
    weights = np.random.default_rng(1).uniform(0.2, 2.0, len(y)) if weighted else None
    classes = {"ant": 2.0, "bee": 1.0, "cow": 0.5} if weighted else None
    model = MatryoshkaClassifier(DIMS, class_weight=classes, C=0.5, tol=1e-9).fit(X, y, weights)
    for dim in DIMS:
        plain = LogisticRegression(C=0.5, class_weight=classes, tol=1e-9, max_iter=1000)
        plain.fit(X[:, :dim], y, weights)
        np.testing.assert_allclose(model.predict_proba(X, dim=dim), plain.predict_proba(X[:, :dim]), atol=1e-6)
        np.testing.assert_array_equal(model.predict(X, dim=dim), plain.predict(X[:, :dim]))


@TIED
@pytest.mark.parametrize("fit_intercept", [False, True])
def test_what_is_fitted_is_the_minimum(tied, fit_intercept):
    """Where the gradient of the specification, with that of the penalty, is zero."""
    X, y = examples()
    model = MatryoshkaClassifier(DIMS, tied, weights=(1, 2, 0.5), C=2.0, fit_intercept=fit_intercept, tol=1e-8)
    head = model.fit(X, y).head_
    assert type(head) is (mrl.TiedHead if tied else mrl.NestedHead)
    labels = np.searchsorted(model.classes_, y)
    _, gradient = spec.nested_cross_entropy_vjp(X, head, labels, model.nesting_, 1.0)
    pairs = [(head[0], gradient[0])] if tied else zip(head[0], gradient[0], strict=True)
    for weight, slope in pairs:
        np.testing.assert_allclose(slope + weight / (2.0 * len(y)), 0.0, atol=1e-7)
        assert np.abs(slope).max() > 1e-5, "the penalty weighs something"
    assert (head[1] is not None) == fit_intercept
    if fit_intercept:
        np.testing.assert_allclose(np.asarray(gradient[1]), 0.0, atol=1e-7)


def test_every_backend_finds_the_same(framework_name, request):
    if framework_name == "jax" and request.config.getoption("--x64") == "off":
        with pytest.raises(ValueError, match="64"):
            MatryoshkaClassifier(DIMS, backend="jax").fit(*examples())
        return
    X, y = examples()
    for tied in (False, True):
        model = MatryoshkaClassifier(DIMS, tied, class_weight="balanced", tol=1e-9)
        expected = model.fit(X, y).predict_proba(X)
        found = clone(model).set_params(backend=framework_name).fit(X, y).predict_proba(X)
        np.testing.assert_allclose(found, expected, atol=1e-6)


@pytest.mark.parametrize(
    ("method", "options"),
    [
        ("greedy", None),
        ("budget", {"dim": 3.5}),
        ("accuracy", None),
        ("risk", None),
        ("risk", {"drop": 0.1, "delta": 0.2}),
    ],
)
@TIED
def test_a_cascade_is_fitted_on_what_the_head_did_not_see(method, options, tied):
    X, y = examples(600)
    model = MatryoshkaClassifier(DIMS, tied, method, cascade_options=options, random_state=3).fit(X, y)
    labels = np.searchsorted(model.classes_, y)
    seen, held_out = train_test_split(np.arange(600), test_size=0.2, random_state=3, stratify=labels)
    alone = MatryoshkaClassifier(DIMS, tied).fit(X[seen], y[seen])
    np.testing.assert_array_equal(model.predict_proba(X, dim=3), alone.predict_proba(X, dim=3))
    logits = mrl.nested_logits(X[held_out], alone.head_, model.nesting_)
    given = options or ({"drop": 0.01} if method in ("accuracy", "risk") else {})
    policy = mrl.fit_cascade(logits, labels[held_out], model.nesting_, method=method, logits=True, **given)
    assert model.policy_ == policy and model.expected_dim_ == dict(policy.fitted)["expected_dim"]
    assert (alone.policy_, alone.expected_dim_) == (None, 6.0)
    result = mrl.cascade_predict(X, model.head_, policy)
    np.testing.assert_array_equal(model.predict(X), model.classes_[result.labels])
    np.testing.assert_array_equal(model.classes_[model.predict_proba(X).argmax(-1)], model.predict(X))
    assert 2 <= model.expected_dim_ <= 6
    if method != "risk" or options:
        assert len(set(result.level.tolist())) > 1, "a cascade that stops at one level shows nothing"


def test_probabilities_of_a_cascade_are_those_of_the_level_that_answers():
    X, y = examples(600)
    options = {"temperatures": "fit", "drop": 0.02}
    model = MatryoshkaClassifier(DIMS, cascade="accuracy", cascade_options=options, random_state=0).fit(X, y)
    policy, logits = model.policy_, mrl.nested_logits(X, model.head_, model.nesting_)
    assert all(temperature != 1 for temperature in policy.temperatures)
    result = mrl.cascade_exit(logits, policy, logits=True)
    found = model.predict_proba(X)
    np.testing.assert_allclose(found.max(-1), result.confidence, rtol=1e-12)
    for i in (0, 1, 2):
        g = result.level[i]
        np.testing.assert_allclose(found[i], softmax(logits[g, i] / policy.temperatures[g]), rtol=1e-12)


@pytest.mark.parametrize(
    ("features", "dims"),
    [
        (1, (1,)),
        (15, (15,)),
        (16, (8, 16)),
        (64, (8, 16, 32, 64)),
        (100, (12, 25, 50, 100)),
        (768, (12, 24, 48, 96, 192, 384, 768)),
    ],
)
def test_dims_halve_the_number_of_features(features, dims):
    X = np.random.default_rng(0).normal(size=(6, features))
    assert MatryoshkaClassifier(max_iter=1000).fit(X, [0, 1] * 3).nesting_.dims == dims


def test_further_features_are_not_used():
    X, y = examples()
    model, wide = (MatryoshkaClassifier((2, 3), tied=True).fit(data, y) for data in (X[:, :3], X))
    np.testing.assert_array_equal(model.predict_proba(X[:, :3]), wide.predict_proba(X))
    X[:, 3:] = 0
    np.testing.assert_array_equal(model.predict(X[:, :3]), wide.predict(X))


def test_prefixes():
    X = np.random.default_rng(0).normal(size=(5, 6))
    X[2, :4] = 0
    np.testing.assert_array_equal(PrefixTransformer(4).fit_transform(X), mrl.truncate(X, 4))
    found = PrefixTransformer(4, normalize=False).fit(X)
    np.testing.assert_array_equal(found.transform(X), X[:, :4])
    assert found.transform(X.astype(np.float32)).dtype == np.float32
    assert found.get_feature_names_out().tolist() == ["x0", "x1", "x2", "x3"]
    assert PrefixTransformer().fit(X).get_feature_names_out().tolist() == [f"x{i}" for i in range(6)]
    np.testing.assert_array_equal(PrefixTransformer().fit_transform(X), mrl.truncate(X, 6))


def test_pipelines_searches_and_pickles():
    X, y = examples()
    pipeline = make_pipeline(PrefixTransformer(), MatryoshkaClassifier((2, 6)))
    search = GridSearchCV(pipeline, {"prefixtransformer__dim": [6], "matryoshkaclassifier__tied": [False, True]}, cv=2)
    search.fit(X, y)
    assert search.best_score_ > 0.6
    again = pickle.loads(pickle.dumps(search.best_estimator_))
    np.testing.assert_array_equal(again.predict(X), search.predict(X))


def test_it_says_when_it_stopped_early():
    X, y = examples()
    with pytest.warns(
        ConvergenceWarning, match="max_iter: the gradient is still .* after 2 iterations; raise max_iter"
    ):
        assert MatryoshkaClassifier(DIMS, max_iter=2).fit(X, y).n_iter_ == 2


def test_errors():
    X, y = examples()
    fitted = MatryoshkaClassifier(DIMS).fit(X, y)
    asked = {
        r"dims: expected granularities of at most n_features = 6, got \(2, 8\)": {"dims": (2, 8)},
        r"dims: expected strictly increasing": {"dims": (3, 2)},
        r"weights: expected positive numbers, got \(1\.0, 0\.0, 1\.0\)": {"dims": DIMS, "weights": (1, 0, 1)},
        r"tied: expected True or False, got 1": {"tied": 1},
        r"cascade: expected one of .* or None, got 'best'": {"cascade": "best"},
        r"dim: expected a number with method='budget', got None": {"cascade": "budget"},
        r"backend: expected one of \('numpy', 'torch', 'jax', 'tensorflow'\), got 'cupy'": {"backend": "cupy"},
        r"C: expected a positive number, got 0": {"C": 0},
        r"tol: expected a positive number, got -1": {"tol": -1},
        r"max_iter: expected an integer of at least 1, got 0": {"max_iter": 0},
    }
    for message, options in asked.items():
        with pytest.raises((TypeError, ValueError), match=message):
            MatryoshkaClassifier(**options).fit(X, y)
    for ask in (fitted.predict, fitted.predict_proba):
        with pytest.raises(ValueError, match=r"dim: expected one of \(2, 3, 6\), got 4"):
            ask(X, dim=4)
    for dim, message in (
        (7, r"at most n_features = 6, got 7"),
        (0, "at least 1, got 0"),
        (1.5, "an integer, got float"),
    ):
        with pytest.raises(
            (TypeError, ValueError), match=f"dim: expected {message}|dim: expected an integer of {message}"
        ):
            PrefixTransformer(dim).fit(X)
