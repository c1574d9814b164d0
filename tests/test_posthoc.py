"""Rotations and adaptors: what they are fitted to, in every framework, in files, and what they refuse."""

import numpy as np
import pytest
from sklearn.decomposition import PCA

import mrl
from mrl.posthoc.gradients import step_of
from mrl.posthoc.pairs import make_pairs
from mrl.testing.drivers import driver_of

NESTING = mrl.Nesting((2, 5, 8), weights=(1.0, 0.5, 2.0))


def rows(count: int = 400, width: int = 12, dtype: str = "float64") -> np.ndarray:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(count, width)) * 0.7 ** np.arange(width)
    return (x[:, rng.permutation(width)] + rng.normal(size=width)).astype(dtype)


class TestRotation:
    def test_it_is_the_pca_of_scikit_learn(self) -> None:
        x = rows()
        rotation, theirs = mrl.fit_rotation(x), PCA().fit(x)
        signs = np.sign((rotation.axes * theirs.components_).sum(1))
        np.testing.assert_allclose(rotation.axes, signs[:, None] * theirs.components_, atol=1e-9)
        np.testing.assert_allclose(rotation.variances, theirs.explained_variance_, rtol=1e-12)
        np.testing.assert_allclose(rotation.mean, theirs.mean_, rtol=1e-12)
        np.testing.assert_allclose(rotation(x - rotation.mean), signs * theirs.transform(x), atol=1e-9)
        assert (rotation.axes[np.arange(12), np.abs(rotation.axes).argmax(1)] > 0).all()

    def test_about_zero_it_keeps_the_most_of_inner_products(self) -> None:
        x = rows()
        rotation = mrl.fit_rotation(x, center=False)
        moments = rotation.axes @ (x.T @ x / len(x)) @ rotation.axes.T
        np.testing.assert_allclose(moments, np.diag(rotation.variances), atol=1e-12)
        assert not rotation.mean.any() and (np.diff(rotation.variances) <= 0).all()

    @pytest.mark.parametrize("center", [True, False])
    def test_a_large_mean_costs_no_digits(self, center: bool) -> None:
        x = rows()
        far = mrl.fit_rotation(x + 1e6, center=center)
        near = mrl.fit_rotation((x + 1e6) - 1e6, center=center)
        if center:  # the sums are of what is left of the mean, which is exact to 1e-10 here
            np.testing.assert_allclose(far.variances, near.variances, rtol=1e-8)
        else:
            np.testing.assert_allclose(far.variances[0], 12e12, rtol=1e-5)

    def test_batches_change_nothing(self, tmp_path) -> None:
        x = rows(dtype="float32")
        np.save(tmp_path / "x.npy", x)
        whole = mrl.fit_rotation(x, batch_rows=10**6)
        given = [np.load(tmp_path / "x.npy", mmap_mode="r"), x, (x[i : i + 33] for i in range(0, 400, 33))]
        for embeddings, size in zip(given, (64, 7, 4096), strict=True):
            found = mrl.fit_rotation(embeddings, batch_rows=size)
            # Float32 holds the axes to 6e-8; the sums are float64 in any order.
            assert found.axes.dtype == np.float32
            np.testing.assert_allclose(found.axes, whole.axes, atol=2e-7)
            np.testing.assert_allclose(found.variances, whole.variances, rtol=2e-7)

    def test_in_every_framework(self, backend_name: str) -> None:
        for dtype in sorted({"float32", "float64"} & set(driver_of(backend_name).dtypes)):
            x = rows(50, dtype=dtype)
            rotation = mrl.fit_rotation(mrl.convert(rows(dtype=dtype), backend_name))
            assert isinstance(rotation.axes, np.ndarray) and rotation.axes.dtype == dtype
            exact = x.astype(float) @ rotation.axes.astype(float).T
            there = mrl.convert(x.reshape(5, 10, 12), backend_name)
            # A product of 12 terms, and the sum of absolute values that its rounding is relative to.
            bound = 14 * np.finfo(dtype).eps * (abs(x) @ abs(rotation.axes).T)
            for fitted in (rotation, mrl.convert(rotation, backend_name)):
                z = fitted(there)
                assert type(z) is type(there)
                found = mrl.convert(z, "numpy").reshape(50, 12)
                assert (abs(found - exact) <= bound).all()
                back = mrl.convert(fitted.inverse(z), "numpy").reshape(50, 12)
                np.testing.assert_allclose(back, x, atol=50 * np.finfo(dtype).eps)

    def test_it_keeps_what_is_compared_at_full_width(self) -> None:
        x = rows()
        z = mrl.fit_rotation(x)(x)
        np.testing.assert_allclose(z @ z.T, x @ x.T, atol=1e-12)

    @pytest.mark.parametrize(
        ("embeddings", "error", "message"),
        [
            (np.ones((3, 4), int), TypeError, "embeddings: expected a dtype of"),
            (np.ones(4), ValueError, r"embeddings: expected \(N, D\), got \(4,\)"),
            (np.ones((1, 4)), ValueError, "expected at least 2 rows, got 1"),
            ([], ValueError, "expected at least 2 rows, got 0"),
            ([np.ones((3, 4)), np.ones((3, 5))], ValueError, r"embeddings\[1\]: expected 4 columns"),
            (np.vstack([np.ones((7, 4)), [[1, np.nan, 1, 1]]]), ValueError, "got others in row 7"),
        ],
    )
    def test_what_it_refuses(self, embeddings, error, message) -> None:
        with pytest.raises(error, match=message):
            mrl.fit_rotation(embeddings, batch_rows=3)
        with pytest.raises(ValueError, match=r"x: expected \(\.\.\., 12\), the width that was fitted, got \(2, 5\)"):
            mrl.fit_rotation(rows())(np.ones((2, 5)))


def batch(seed: int = 0) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Parameters with no unit at rest, and a batch with a pair that is no negative."""
    rng = np.random.default_rng(seed)
    shapes = (6, 8), (6,), (8, 6), (8,)
    exclude = np.zeros((5, 5), bool)
    exclude[1, 3] = True
    return [0.5 * rng.normal(size=shape) for shape in shapes], [*rng.normal(size=(2, 5, 8)), exclude]


def embed(parameters, x):
    return mrl.Adaptor(*parameters)(x)


class TestAdaptor:
    def test_the_gradients_of_the_specification_are_differences(self) -> None:
        parameters, given = batch()
        step = step_of("numpy", NESTING, 0.3, embed)
        _, gradients = step(parameters, *given)
        for parameter, gradient in zip(parameters, gradients, strict=True):
            for place in np.ndindex(parameter.shape):
                found = []
                for h in (1e-6, -1e-6):
                    kept = parameter[place]
                    parameter[place] += h
                    found.append(step(parameters, *given)[0])
                    parameter[place] = kept
                assert abs((found[0] - found[1]) / 2e-6 - gradient[place]) < 1e-7 * max(1, abs(gradient[place]))

    def test_every_framework_has_these_gradients(self, framework_name: str) -> None:
        parameters, given = batch(1)
        narrow = [p.astype(np.float32) for p in parameters], [g.astype(np.float32) for g in given[:2]] + given[2:]
        loss, gradients = step_of(framework_name, NESTING, 0.3, embed)(*[narrow[0]], *narrow[1])
        exact, expected = step_of("numpy", NESTING, 0.3, embed)([p.astype(float) for p in narrow[0]], *narrow[1])
        assert abs(loss - exact) < 1e-5 * exact
        for found, right in zip(gradients, expected, strict=True):
            np.testing.assert_allclose(found, right, atol=2e-5 * abs(right).max())

    def test_every_framework_fits_the_same(self, framework_name: str) -> None:
        x, labels = rows(64, 8, "float32"), np.arange(64) % 7
        options = {"epochs": 2, "batch_size": 16, "hidden": 5}
        found = mrl.fit_adaptor(mrl.convert(x, framework_name), labels, NESTING, backend=framework_name, **options)
        expected = mrl.fit_adaptor(x, labels, NESTING, **options)
        for one, other in zip(found, expected, strict=True):
            assert one.dtype == np.float32
            # Adam divides by the size of a gradient: where that is near 0, rounding can turn a step of the rate, 1e-3.
            assert np.mean(abs(one - other) > 1e-4) < 0.05 and abs(one - other).max() < 2e-2

    def test_it_is_applied_in_every_framework(self, backend_name: str) -> None:
        for dtype in sorted({"float32", "float64"} & set(driver_of(backend_name).dtypes)):
            rng = np.random.default_rng(2)
            w, b, v, c = (rng.normal(size=shape).astype(dtype) for shape in ((6, 8), (6,), (8, 6), (8,)))
            x = rng.normal(size=(3, 4, 8)).astype(dtype)
            wide = [array.astype(float) for array in (x, w, b, v, c)]
            exact = wide[0] + np.maximum(wide[0] @ wide[1].T + wide[2], 0) @ wide[3].T + wide[4]
            adaptor, there = mrl.Adaptor(w, b, v, c), mrl.convert(x, backend_name)
            for fitted in (adaptor, mrl.convert(adaptor, backend_name)):
                found = fitted(there)
                assert type(found) is type(there)
                np.testing.assert_allclose(mrl.convert(found, "numpy"), exact, atol=200 * np.finfo(dtype).eps)
            half = mrl.convert(x.astype(np.float16), backend_name)
            with pytest.raises(TypeError, match="x: expected float32 or float64, got float16; cast it first"):
                adaptor(half)

    def test_on_what_is_held_out_it_is_never_worse_than_nothing(self) -> None:
        """Of one path of parameters the best is returned: with more epochs the loss can only fall."""
        rng = np.random.default_rng(0)
        x, pairs = rng.normal(size=(240, 8)), rng.permutation(240).reshape(120, 2)
        x[pairs[:, 1]] = x[pairs[:, 0]] + 0.5 * rng.normal(size=(120, 8))
        draws = np.random.default_rng(5)
        _, held_out = make_pairs(x, pairs, 1, draws).parted(0.1, draws)
        (batch,) = held_out.batches(12, None)
        options = {"temperature": 0.05, "symmetric": True, "exclude": batch.exclude}

        def loss(f) -> float:
            return float(mrl.nested_contrastive(f(x[batch.anchors]), f(x[batch.positives]), NESTING, **options).total)

        losses = [loss(lambda x: x)]
        for epochs in (1, 2, 4, 8, 16, 32):
            losses.append(loss(mrl.fit_adaptor(x, pairs, NESTING, epochs=epochs, rate=0.01, batch_size=27, seed=5)))
        assert losses == sorted(losses, reverse=True)
        assert losses[1] < losses[0] and len(set(losses)) < len(losses)  # it helped, and some epoch was for the worse

    def test_units_do_not_matter(self) -> None:
        x, labels = rows(64, 8), np.arange(64) % 7
        small, large = (mrl.fit_adaptor(x * unit, labels, NESTING, epochs=3, batch_size=16) for unit in (2**-20, 2**20))
        np.testing.assert_allclose(small(x * 2**-20) * 2**40, large(x * 2**20), rtol=1e-12)
        assert abs(large(x * 2**20) - x * 2**20).max() > 2**10

    def test_a_seed_gives_the_same_map(self) -> None:
        x = rows(64, 8)
        first, again, other = (mrl.fit_adaptor(x, None, NESTING, epochs=1, seed=seed) for seed in (3, 3, 4))
        assert all((a == b).all() for a, b in zip(first, again, strict=True))
        assert (first.hidden_weight != other.hidden_weight).any()

    @pytest.mark.parametrize(
        ("embeddings", "targets", "options", "error", "message"),
        [
            (np.ones((4, 8), int), None, {}, TypeError, "embeddings: expected a dtype of"),
            (np.ones(8), None, {}, ValueError, r"embeddings: expected \(N, D\)"),
            (np.ones((40, 7)), None, {}, ValueError, "embeddings"),
            (np.zeros((40, 8)), None, {}, ValueError, "not all zero"),
            (np.full((40, 8), np.inf), None, {}, ValueError, "others in row 0"),
            (np.ones((5, 8)), None, {}, ValueError, "neighbours: expected at most 3 for 5 rows, got 10"),
            (np.ones((40, 8)), np.zeros((3, 3), int), {}, ValueError, r"targets: expected \(P, 2\) integers"),
            (np.ones((40, 8)), np.zeros((3, 2)), {}, ValueError, "targets"),
            (np.ones((40, 8)), [[0, 1], [2, 40]], {}, ValueError, r"got \[2, 40\] in pair 1"),
            (np.ones((40, 8)), [[0, 1]], {}, ValueError, "at least 2 pairs, got 1"),
            (np.ones((40, 8)), np.arange(40), {}, ValueError, "got 40 with at most 1"),
            (np.ones((40, 8)), np.zeros(40), {}, ValueError, "expected at least 2 classes"),
            (np.ones((40, 8)), None, {"backend": "theano"}, ValueError, "theano"),
            (np.ones((40, 8)), None, {"rate": 0}, ValueError, "rate: expected a number above 0"),
            (np.ones((40, 8)), None, {"temperature": "cold"}, TypeError, "temperature: expected a number"),
            (np.ones((40, 8)), None, {"epochs": 0}, ValueError, "epochs"),
        ],
    )
    def test_what_it_refuses(self, embeddings, targets, options, error, message) -> None:
        with pytest.raises(error, match=message):
            mrl.fit_adaptor(embeddings, targets, NESTING, **options)


class TestPairs:
    def test_partners_are_others_of_the_class(self) -> None:
        labels = np.array(["a", "b", "a", "c", "a", "b"])
        pairs = make_pairs(np.ones((6, 2)), labels, 1, np.random.default_rng(0))
        assert pairs.anchors.tolist() == [0, 1, 2, 4, 5]  # no other "c"
        rng, seen = np.random.default_rng(1), set()
        for _ in range(50):
            for drawn in pairs.batches(5, rng):
                assert (labels[drawn.anchors] == labels[drawn.positives]).all()
                assert (drawn.anchors != drawn.positives).all()
                same = labels[drawn.anchors][:, None] == labels[drawn.positives]
                np.testing.assert_array_equal(drawn.exclude, same & ~np.eye(5, dtype=bool))
                seen |= set(zip(drawn.anchors.tolist(), drawn.positives.tolist(), strict=True))
        assert seen == {(i, j) for i in range(6) for j in range(6) if i != j and labels[i] == labels[j]}

    def test_known_pairs_are_no_negatives(self) -> None:
        given = np.array([[0, 1], [0, 2], [3, 1], [4, 0], [5, 6]])
        pairs = make_pairs(np.ones((7, 2)), given, 1, np.random.default_rng(0))
        (whole,) = pairs.batches(5, None)
        expected = np.zeros((5, 5), bool)
        expected[0, [1, 2]] = True  # 0 belongs to 2; the third pair's positive is 1 again
        expected[1, [0, 2, 3]] = True  # 0 belongs to 1, and is the fourth pair's positive
        expected[0, 3] = True
        expected[2, 0] = True  # 3 belongs to 1
        np.testing.assert_array_equal(whole.exclude, expected)

    def test_neighbours_are_others_though_rows_are_equal(self) -> None:
        x = np.repeat(np.eye(3), 4, axis=0)
        pairs = make_pairs(x, None, 3, np.random.default_rng(0))
        assert pairs.positives is not None
        for i, near in enumerate(pairs.positives):
            assert sorted(near) == [j for j in range(i // 4 * 4, i // 4 * 4 + 4) if j != i]

    def test_what_is_held_out_takes_no_part(self) -> None:
        pairs = make_pairs(np.ones((100, 2)), np.arange(100).reshape(50, 2), 1, np.random.default_rng(0))
        rest, held_out = pairs.parted(0.1, np.random.default_rng(0))
        assert (len(rest), len(held_out)) == (45, 5)
        assert not set(rest.anchors) & set(held_out.anchors)


class TestFiles:
    @pytest.mark.parametrize("kind", ["rotation", "adaptor"])
    def test_what_is_saved_is_loaded(self, backend_name: str, kind: str, tmp_path) -> None:
        x = rows(64, 8, "float32")
        fitted = mrl.fit_rotation(x) if kind == "rotation" else mrl.fit_adaptor(x, None, NESTING, epochs=1)
        mrl.save_transform(tmp_path / "map", mrl.convert(fitted, backend_name))
        found = mrl.load_transform(tmp_path / "map", backend=backend_name)
        assert type(found) is type(fitted)
        for one, other in zip(mrl.convert(found, "numpy"), fitted, strict=True):
            np.testing.assert_array_equal(one, other)

    def test_other_files_are_refused(self, tmp_path) -> None:
        with pytest.raises(TypeError, match=r"transform: expected an mrl.Rotation or mrl.Adaptor, got Nesting"):
            mrl.save_transform(tmp_path / "map", NESTING)
        mrl.save_head(tmp_path / "head", mrl.TiedHead(np.ones((3, 8), np.float32)), NESTING)
        with pytest.raises(ValueError, match=r"expected the format 'mrl.transform'"):
            mrl.load_transform(tmp_path / "head")
        bad = mrl.fit_rotation(rows())._replace(mean=np.ones(3))
        mrl.save_transform(tmp_path / "map", bad)
        with pytest.raises(ValueError, match=r"expected the arrays .* of one width"):
            mrl.load_transform(tmp_path / "map")
