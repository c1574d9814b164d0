"""Every public function under every transform of TensorFlow; and the clear errors where the fused form stops."""

import numpy as np
import pytest
from transform_cases import CLOSE, FUSED, GRADIENT, HEAD, LABELS, LOSS, NAMES, NESTING, REFUSAL, Z, functions

import mrl
from mrl import spec


class TestTensorFlow:
    @pytest.fixture(autouse=True)
    def _tensorflow(self, backend_tensorflow):
        import tensorflow as tf

        self.tf = tf
        self.z, self.head, self.labels = (mrl.convert(x, "tensorflow") for x in (Z, HEAD, LABELS))

    def gradient(self, function, z):
        with self.tf.GradientTape() as tape:
            tape.watch(z)
            value = function(z)
        return value, tape.gradient(value, z)

    @pytest.mark.parametrize("jit_compile", [False, True])
    @pytest.mark.parametrize("name", NAMES)
    def test_function_with_an_unknown_batch(self, name, jit_compile):
        function, expected = functions(lambda x: mrl.convert(x, "tensorflow"))[name]
        if name in ("fused", "composed"):  # labels of an unknown batch too

            def function(z, name=name):
                labels = self.labels[: self.tf.shape(z)[0]]
                return mrl.nested_cross_entropy(z, self.head, labels, NESTING, fused=name == "fused").total

        signature = [self.tf.TensorSpec([None, 6], self.tf.float32)]
        run = self.tf.function(lambda z: self.gradient(function, z), input_signature=signature, jit_compile=jit_compile)
        value, gradient = run(self.z)
        np.testing.assert_allclose(value, expected, **CLOSE)
        np.testing.assert_allclose(gradient, self.gradient(function, self.z)[1], **CLOSE)

    @FUSED
    @pytest.mark.parametrize("jit_compile", [False, True])
    def test_a_tape_outside_of_the_function(self, fused, jit_compile):
        run = self.tf.function(
            lambda z: mrl.nested_cross_entropy(z, self.head, self.labels, NESTING, fused=fused).total,
            jit_compile=jit_compile,
        )
        value, gradient = self.gradient(run, self.z)
        np.testing.assert_allclose(value, LOSS.total, **CLOSE)
        np.testing.assert_allclose(gradient, GRADIENT, **CLOSE)

    @FUSED
    @pytest.mark.parametrize("reduction", ["mean", "none"])
    def test_tapes_on_both_sides_of_the_function(self, fused, reduction):
        """What only the outer tape watches has its gradient too, whichever of the inputs the inner one watches."""
        tf, (weight, bias) = self.tf, self.head
        expected = spec.nested_cross_entropy_vjp(
            Z, HEAD, LABELS, NESTING, np.ones(() if reduction == "mean" else 4), reduction=reduction
        )
        for inner, outer, gradient in ((self.z, weight, expected[1].weight), (weight, self.z, expected[0])):

            @tf.function
            def run(z, weight, first=inner is self.z):
                head = mrl.TiedHead(weight, bias)
                with tf.GradientTape() as tape:
                    tape.watch(z if first else weight)
                    loss = mrl.nested_cross_entropy(z, head, self.labels, NESTING, fused=fused, reduction=reduction)
                return loss.total, tf.stop_gradient(tape.gradient(loss.total, z if first else weight))

            with tf.GradientTape() as tape:
                tape.watch(outer)
                loss, _ = run(self.z, weight)
            np.testing.assert_allclose(tape.gradient(loss, outer), gradient, **CLOSE)

    def test_variables_learn(self):
        head = mrl.TiedHead(*(self.tf.Variable(x) for x in self.head))
        with self.tf.GradientTape() as tape:
            value = mrl.nested_cross_entropy(self.z, head, self.labels, NESTING).total
        _, dhead = spec.nested_cross_entropy_vjp(Z, HEAD, LABELS, NESTING, np.ones(()))
        for gradient, expected in zip(tape.gradient(value, list(head)), dhead, strict=True):
            np.testing.assert_allclose(gradient, expected, **CLOSE)

    @pytest.mark.parametrize("reduction", ["mean", "none"])
    def test_orders(self, reduction):
        tf = self.tf

        def loss(z, fused):
            return tf.reduce_sum(
                mrl.nested_cross_entropy(z, self.head, self.labels, NESTING, fused=fused, reduction=reduction).total
            )

        def second(fused):
            with tf.GradientTape() as outer:
                outer.watch(self.z)
                with tf.GradientTape() as inner:
                    inner.watch(self.z)
                    value = loss(self.z, fused)
                norm = tf.norm(inner.gradient(value, self.z))
            return outer.gradient(norm, self.z)

        def forward(fused):
            with tf.autodiff.ForwardAccumulator(self.z, self.z) as accumulator:
                value = loss(self.z, fused)
            return accumulator.jvp(value)

        assert np.isfinite(second(False)).all() and np.isfinite(forward(False))
        for ask in (second, forward):
            with pytest.raises(TypeError, match=REFUSAL):
                ask(True)

    @FUSED
    def test_traced_labels_out_of_range_give_nan(self, fused):
        run = self.tf.function(lambda y: mrl.nested_cross_entropy(self.z, self.head, y, NESTING, fused=fused).total)
        for label in (-1, 3):
            assert np.isnan(run(self.tf.constant([0, 1, label, 1])))
        assert np.isfinite(run(self.labels))

    def test_a_tensor_of_unknown_rank_is_refused(self):
        run = self.tf.function(
            lambda z: mrl.truncate(z, 2), input_signature=[self.tf.TensorSpec(None, self.tf.float32)]
        )
        with pytest.raises(ValueError, match="z: expected a known rank"):
            run(self.z)
        run = self.tf.function(
            lambda z: mrl.truncate(z, 2), input_signature=[self.tf.TensorSpec([4, None], self.tf.float32)]
        )
        with pytest.raises(ValueError, match="z: expected a known last axis"):
            run(self.z)
