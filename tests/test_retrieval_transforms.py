"""Searches under the transforms of each framework."""

import numpy as np
import pytest
from retrieval_cases import same, single

import mrl
from mrl import spec

QUERIES, ROWS = single(23, 8, 0), single(500, 8, 1)
EXPECTED = spec.funnel_search(QUERIES, ROWS, dims=(4, 8), shortlists=(40, 7))


def funnel(queries, database):
    return mrl.funnel_search(queries, database, dims=(4, 8), shortlists=(40, 7))


class TestTorch:
    @pytest.fixture(autouse=True)
    def _torch(self, backend_torch):
        import torch

        self.torch = torch

    @pytest.mark.parametrize("prepared", [False, True])
    def test_compile_fullgraph_with_any_number_of_queries(self, prepared):
        self.torch.compiler.reset()
        database = self.torch.from_numpy(ROWS.copy())
        database = mrl.prepare_database(database, (4,)) if prepared else database
        compiled = self.torch.compile(funnel, fullgraph=True, backend="aot_eager", dynamic=True)
        for count in (23, 5, 8):
            found = compiled(self.torch.from_numpy(QUERIES[:count].copy()), database)
            same(found, mrl.SearchResult(*(field[:count] for field in EXPECTED)))

    @pytest.mark.parametrize("metric", ["cosine", "dot", "l2"])
    def test_a_database_is_prepared_under_transforms(self, metric):
        self.torch.compiler.reset()
        rows = self.torch.from_numpy(np.concatenate([ROWS, 0 * ROWS[:1], 1e25 * ROWS[:3]]))
        prepare = lambda rows: mrl.prepare_database(rows, (4,), metric=metric)  # noqa: E731
        expected = prepare(rows)
        compiled = self.torch.compile(prepare, fullgraph=True, backend="aot_eager")(rows)
        mapped = self.torch.func.vmap(lambda rows: prepare(rows).prefixes[0])(rows[None])
        self.torch.testing.assert_close(mapped[0], expected.prefixes[0])
        for found, wanted in zip(compiled, expected, strict=True):
            self.torch.testing.assert_close(found, wanted)

    def test_the_operators_are_sound(self):
        queries, rows = self.torch.from_numpy(QUERIES.copy()), self.torch.from_numpy(ROWS.copy())
        mrl.search(queries, rows, k=1)  # loads the backend, which registers them
        given = self.torch.zeros((23, 3), dtype=self.torch.int64)
        check, operators = self.torch.library.opcheck, self.torch.ops.mrl
        check(operators.search, (queries, rows, None, 5, 8, "cosine", False, None))
        check(operators.rerank, (queries, rows.double(), None, given, 5, 8, "l2", False))

    def test_autocast_and_gradients_change_nothing(self):
        queries = self.torch.from_numpy(QUERIES.copy()).requires_grad_()
        with self.torch.autocast("cpu", dtype=self.torch.bfloat16):
            found = funnel(queries, self.torch.from_numpy(ROWS.copy()))
        assert not found.scores.requires_grad
        same(found, EXPECTED)

    def test_vmap_is_refused(self):
        rows = self.torch.from_numpy(ROWS.copy())
        with pytest.raises(RuntimeError, match=r"which torch\.func\.vmap cannot do; call it on all queries at once"):
            self.torch.func.vmap(lambda q: mrl.search(q, rows, k=2).scores)(self.torch.from_numpy(QUERIES.copy()))


class TestJax:
    @pytest.fixture(autouse=True)
    def _jax(self, backend_jax):
        import jax

        self.jax = jax

    @pytest.mark.parametrize("prepared", [False, True])
    def test_jit(self, prepared):
        jnp = self.jax.numpy
        database = mrl.prepare_database(jnp.asarray(ROWS), (4,)) if prepared else jnp.asarray(ROWS)
        same(self.jax.jit(funnel)(jnp.asarray(QUERIES), database), EXPECTED)

    def test_a_static_length(self):
        search = self.jax.jit(mrl.search, static_argnames=("k", "dim", "metric", "tile"))
        for k in (1, 30):
            found = search(self.jax.numpy.asarray(QUERIES), self.jax.numpy.asarray(ROWS), k=k, dim=3, metric="cosine")
            same(found, spec.search(QUERIES, ROWS, k=k, dim=3))

    def test_vmap_over_queries_and_over_databases(self):
        jnp = self.jax.numpy
        same(self.jax.vmap(lambda q: funnel(q, jnp.asarray(ROWS)))(jnp.asarray(QUERIES)), EXPECTED)
        found = self.jax.vmap(lambda rows: mrl.search(jnp.asarray(QUERIES), rows, k=3))(
            jnp.asarray(ROWS.reshape(5, 100, 8))
        )
        for i in range(5):
            one = mrl.SearchResult(*(field[i] for field in found))
            same(one, spec.search(QUERIES, ROWS[i * 100 : (i + 1) * 100], k=3))

    def test_nothing_is_differentiated(self):
        rows = self.jax.numpy.asarray(ROWS)
        gradient = self.jax.grad(lambda q: mrl.search(q, rows, k=3).scores.sum())(self.jax.numpy.asarray(QUERIES))
        assert not np.any(gradient)

    def test_many_tiles_in_a_loop(self):
        queries, rows = single(4, 40, 0), single(5000, 40, 1)
        for k in (2, 400):  # by the maxima of blocks, and by the scores of tiles
            found = mrl.search(self.jax.numpy.asarray(queries), self.jax.numpy.asarray(rows), k=k, tile=256)
            same(found, spec.search(queries, rows, k=k))


class TestTensorFlow:
    @pytest.fixture(autouse=True)
    def _tensorflow(self, backend_tensorflow):
        import tensorflow as tf

        self.tf = tf

    @pytest.mark.parametrize("jit_compile", [False, True])
    def test_function_of_any_number_of_queries_and_rows(self, jit_compile):
        tf = self.tf
        run = tf.function(funnel, input_signature=[tf.TensorSpec([None, 8])] * 2, jit_compile=jit_compile)
        for count, rows in ((23, 500), (5, 20), (3, 0), (0, 20), (1, 1)):
            expected = spec.funnel_search(QUERIES[:count], ROWS[:rows], dims=(4, 8), shortlists=(40, 7))
            same(run(QUERIES[:count], ROWS[:rows]), expected)

    @pytest.mark.parametrize("jit_compile", [False, True])
    def test_function_of_a_prepared_database(self, jit_compile):
        database = mrl.prepare_database(self.tf.constant(ROWS), (4,))
        run = self.tf.function(lambda queries: funnel(queries, database), jit_compile=jit_compile)
        same(run(self.tf.constant(QUERIES)), EXPECTED)

    def test_variables(self):
        same(funnel(self.tf.Variable(QUERIES), self.tf.Variable(ROWS)), EXPECTED)

    def test_nothing_is_differentiated(self):
        queries = self.tf.Variable(QUERIES)
        with self.tf.GradientTape() as tape:
            total = self.tf.reduce_sum(mrl.search(queries, self.tf.constant(ROWS), k=2).scores)
        assert tape.gradient(total, queries) is None
