"""Cascades under every transform of each framework."""

import warnings

import numpy as np
import pytest
from cascade_cases import DIMS, HEADS, POLICY, TIED, Z, same

import mrl
from mrl import spec
from mrl.testing.problems import round_to


def host_head(head):
    return mrl.convert(head, "numpy")


class TestTorch:
    @pytest.fixture(autouse=True)
    def _torch(self, backend_torch):
        import torch

        self.torch = torch

    @HEADS
    def test_compile_fullgraph_with_a_batch_of_any_size(self, head):
        self.torch.compiler.reset()
        head = mrl.convert(head, "torch")
        compiled = self.torch.compile(lambda z: mrl.cascade_predict(z, head, POLICY), fullgraph=True, dynamic=True)
        for rows in (23, 5, 8):
            same(
                compiled(self.torch.from_numpy(Z[:rows].copy())),
                spec.cascade_predict(Z[:rows], host_head(head), POLICY),
            )

    def test_one_graph_serves_batches_of_many_sizes(self):
        """Of a size that was made a constant the ninth would be refused."""
        self.torch.compiler.reset()
        head, z = mrl.convert(TIED, "torch"), self.torch.from_numpy(Z.copy())
        compiled = self.torch.compile(
            lambda z: mrl.cascade_predict(z, head, POLICY), fullgraph=True, backend="aot_eager"
        )
        for rows in range(2, 13):
            same(compiled(z[:rows]), spec.cascade_predict(Z[:rows], TIED, POLICY))

    @pytest.mark.parametrize("double", ["z", "weight", "bias"])
    def test_a_graph_knows_the_dtype_of_its_confidences(self, double):
        z, weight, bias = (self.torch.from_numpy(x.copy()) for x in (Z, *TIED))
        given = {"z": z, "weight": weight, "bias": bias}
        given[double] = given[double].double()
        rest = (POLICY.thresholds, DIMS, POLICY.confidence, POLICY.temperatures, True, None)
        mrl.cascade_predict(z, mrl.TiedHead(weight, bias), POLICY)  # loads the backend, which registers the operator
        operator = self.torch.ops.mrl.cascade_predict
        self.torch.library.opcheck(operator, (given["z"], [given["weight"]], [given["bias"]], *rest))

    @pytest.mark.parametrize("compiled", [False, True])
    def test_no_gradient_and_factors_as_autocast_has_them(self, compiled):
        z, head = self.torch.from_numpy(Z.copy()).requires_grad_(), mrl.convert(TIED, "torch")
        head.weight.requires_grad_()
        self.torch.compiler.reset()
        predict = mrl.cascade_predict
        if compiled:
            predict = self.torch.compile(lambda z: mrl.cascade_predict(z, head, POLICY), backend="aot_eager")
        with self.torch.autocast("cpu", dtype=self.torch.bfloat16):
            result = predict(z) if compiled else predict(z, head, POLICY)
        assert not any(x.requires_grad for x in result)
        rounded = mrl.TiedHead(round_to(TIED.weight, "bfloat16"), TIED.bias)
        same(result, spec.cascade_predict(round_to(Z, "bfloat16"), rounded, POLICY))
        exits = mrl.cascade_exit(mrl.nested_logits(z, head, POLICY.nesting), POLICY, logits=True)
        assert not any(x.requires_grad for x in exits)

    @pytest.mark.parametrize("compiled", [False, True])
    def test_what_learns_is_answered_for_too(self, compiled):
        """An ``nn.Linear`` as it is, outside of ``no_grad``, behind an encoder that learns."""
        layer, encoder = self.torch.nn.Linear(7, 5), self.torch.nn.Linear(7, 7)

        def predict(x):
            return mrl.cascade_predict(encoder(x), mrl.TiedHead(layer.weight, layer.bias), POLICY)

        self.torch.compiler.reset()
        run = self.torch.compile(predict, fullgraph=True, backend="aot_eager") if compiled else predict
        x = self.torch.from_numpy(Z.copy())
        result, learned = run(x), [layer.weight.detach().numpy(), layer.bias.detach().numpy()]
        assert not any(field.requires_grad for field in result)
        same(result, spec.cascade_predict(encoder(x).detach().numpy(), mrl.TiedHead(*learned), POLICY))


class TestJax:
    @pytest.fixture(autouse=True)
    def _jax(self, backend_jax):
        import jax

        self.jax = jax

    @HEADS
    def test_a_policy_is_a_static_argument(self, head):
        head, traces = mrl.convert(head, "jax"), []

        def predict(z, head, policy):
            traces.append(policy)
            return mrl.cascade_predict(z, head, policy)

        jitted = self.jax.jit(predict, static_argnums=2)
        for thresholds in ((0.7, 0.5), (0.7, 0.5), (0.2, 0.9)):
            policy = mrl.CascadePolicy(thresholds, DIMS)
            same(jitted(self.jax.numpy.asarray(Z), head, policy), spec.cascade_predict(Z, host_head(head), policy))
        assert len(traces) == 2

    def test_no_gradient(self):
        jnp = self.jax.numpy
        head = mrl.convert(TIED, "jax")
        for function in (
            lambda z: mrl.cascade_predict(z, head, POLICY).confidence.sum(),
            lambda z: mrl.cascade_exit(
                mrl.nested_logits(z, head, POLICY.nesting), POLICY, logits=True
            ).confidence.sum(),
        ):
            assert not np.any(self.jax.grad(function)(jnp.asarray(Z)))

    @HEADS
    def test_export_for_any_number_of_rows(self, head):
        head, (rows,) = mrl.convert(head, "jax"), self.jax.export.symbolic_shape("rows")
        exported = self.jax.export.export(self.jax.jit(lambda z: mrl.cascade_predict(z, head, POLICY)))
        run = exported(self.jax.ShapeDtypeStruct((rows, 7), np.float32))
        for count in (1, 23):
            same(run.call(Z[:count]), spec.cascade_predict(Z[:count], host_head(head), POLICY))

    def test_exit_under_vmap(self):
        values = spec.nested_logits(Z, TIED, POLICY.nesting).astype(np.float32)
        mapped = self.jax.vmap(lambda x: mrl.cascade_exit(x, POLICY, logits=True), in_axes=1)
        same(mapped(self.jax.numpy.asarray(values)), spec.cascade_exit(values, POLICY, logits=True))


class TestTensorFlow:
    @pytest.fixture(autouse=True)
    def _tensorflow(self, backend_tensorflow):
        import tensorflow as tf

        self.tf = tf

    @HEADS
    @pytest.mark.parametrize("jit_compile", [False, True])
    def test_function_with_a_batch_of_any_size(self, head, jit_compile):
        head = mrl.convert(head, "tensorflow")
        run = self.tf.function(
            lambda z: mrl.cascade_predict(z, head, POLICY, chunk_rows=4),
            input_signature=[self.tf.TensorSpec([None, 7])],
            jit_compile=jit_compile,
        )
        for rows in (23, 5, 0):
            same(run(Z[:rows]), spec.cascade_predict(Z[:rows], host_head(head), POLICY))

    @HEADS
    @pytest.mark.parametrize("jit_compile", [False, True])
    def test_function_of_no_rows(self, head, jit_compile):
        converted = mrl.convert(head, "tensorflow")
        run = self.tf.function(lambda z: mrl.cascade_predict(z, converted, POLICY), jit_compile=jit_compile)
        for lead in ((0,), (2, 0)):
            z = np.zeros((*lead, 7), np.float32)
            same(run(self.tf.constant(z)), spec.cascade_predict(z, head, POLICY))

    def test_no_gradient(self):
        head = self.tf.nest.map_structure(self.tf.Variable, mrl.convert(TIED, "tensorflow"))
        with self.tf.GradientTape() as tape:
            result = mrl.cascade_predict(self.tf.constant(Z), head, POLICY)
            total = self.tf.reduce_sum(result.confidence)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            assert tape.gradient(total, [*head]) == [None, None]
        same(result, spec.cascade_predict(Z, TIED, POLICY))

    def test_a_graph_traced_without_xla_is_refused_there(self):
        """Its shapes would end the process."""
        head, tf = mrl.convert(TIED, "tensorflow"), self.tf
        traced = tf.function(lambda z: mrl.cascade_predict(z, head, POLICY).labels)
        traced(tf.constant(Z))
        with pytest.raises(tf.errors.InvalidArgumentError, match="cascade_predict_was_traced_without_jit_compile"):
            tf.function(lambda z: traced(z), jit_compile=True)(tf.constant(Z))

    @pytest.mark.parametrize("jit_compile", [False, True])
    def test_a_chunk_of_more_rows_than_integers_count(self, jit_compile):
        head, tf = mrl.convert(TIED, "tensorflow"), self.tf
        run = tf.function(
            lambda z: mrl.cascade_predict(z, head, POLICY, chunk_rows=2**31 - 1),
            input_signature=[tf.TensorSpec([None, 7])],
            jit_compile=jit_compile,
        )
        same(run(tf.constant(Z)), spec.cascade_predict(Z, TIED, POLICY))

    @HEADS
    def test_policies_of_the_same_dims_share_one_graph(self, head):
        from mrl.backends.tensorflow.cascade import _trace

        head, before = mrl.convert(head, "tensorflow"), None
        for temperatures in (None, (0.4, 1.0, 1.0), (2.0, 0.5, 3.0)):
            counts = []
            for t in (0.1, 0.5, 0.9, 1.0):
                policy = mrl.CascadePolicy((t, 1 - t), DIMS, temperatures=temperatures, fitted={"note": t})
                for rows in (23, 9):
                    result = mrl.cascade_predict(self.tf.constant(Z[:rows]), head, policy, chunk_rows=4)
                    same(result, spec.cascade_predict(Z[:rows], host_head(head), policy))
                counts.append(_trace.experimental_get_tracing_count())
            assert counts[1:] == counts[:1] * 3
            assert temperatures != (2.0, 0.5, 3.0) or counts[0] == before
            before = counts[0]
