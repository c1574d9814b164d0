"""Every public function under every transform of TensorFlow; and the clear errors where the fused form stops."""

import math

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

    @FUSED
    @pytest.mark.parametrize("jit_compile", [False, True])
    @pytest.mark.parametrize(("rows", "labels"), [((2, 2), (2, 1)), ((1, 4), (4, 1)), ((4, 1), (1, 1))])
    def test_shapes_that_turn_out_not_to_fit(self, fused, jit_compile, rows, labels):
        """Unknown while the function was traced, they are refused when it runs, or give NaN; never a broadcast."""
        tf = self.tf
        run = tf.function(
            lambda z, y: mrl.nested_cross_entropy(z, self.head, y, NESTING, fused=fused, ignore_index=-1).total,
            input_signature=[tf.TensorSpec([None, None, 6]), tf.TensorSpec([None, None], tf.int32)],
            jit_compile=jit_compile,
        )
        z = tf.reshape(self.z[: math.prod(rows)], (*rows, 6))
        fitting = tf.zeros(rows, tf.int32)
        assert np.isfinite(run(z, fitting))
        message = ".*" if jit_compile else "labels: expected the leading shape of z"
        with pytest.raises((tf.errors.InvalidArgumentError, AssertionError), match=message):
            assert np.isfinite(run(z, tf.zeros(labels, tf.int32)))

    def test_a_head_of_unknown_shape_is_refused(self):
        tf = self.tf
        run = tf.function(
            lambda bias: mrl.nested_logits(self.z, mrl.TiedHead(self.head.weight, bias), NESTING),
            input_signature=[tf.TensorSpec([None])],
        )
        with pytest.raises(ValueError, match=r"head\.bias: expected a known shape \(3,\)"):
            run(tf.zeros(3))

    @FUSED
    def test_a_branch_of_the_graph_with_the_tape_outside(self, fused):
        tf, (weight, bias) = self.tf, self.head

        @tf.function
        def run(z, weight, bias):
            head = mrl.TiedHead(weight, bias)
            return tf.cond(
                tf.reduce_sum(z) < 1e9,
                lambda: mrl.nested_cross_entropy(z, head, self.labels, NESTING, fused=fused).total,
                lambda: 0.0,
            )

        with tf.GradientTape() as tape:
            tape.watch((self.z, weight, bias))
            value = run(self.z, weight, bias)
        gradient, *_ = tape.gradient(value, (self.z, weight, bias))
        np.testing.assert_allclose(gradient, GRADIENT, **CLOSE)

    def test_a_training_step_is_saved_and_goes_on(self, tmp_path):
        """Saving traces every gradient, that of the gradient among them."""
        tf, labels = self.tf, self.labels

        class Module(tf.Module):
            def __init__(self, head):
                super().__init__()
                self.head = tf.nest.map_structure(tf.Variable, head)

            @tf.function(input_signature=[tf.TensorSpec([None, 6])])
            def loss(self, z):
                return mrl.nested_cross_entropy(z, self.head, labels, NESTING).total

            @tf.function(input_signature=[tf.TensorSpec([None, 6])])
            def step(self, z):
                with tf.GradientTape() as tape:
                    loss = mrl.nested_cross_entropy(z, self.head, labels, NESTING).total
                for variable, gradient in zip(self.head, tape.gradient(loss, list(self.head)), strict=True):
                    variable.assign_sub(0.1 * gradient)
                return loss

        module = Module(self.head)
        tf.saved_model.save(module, str(tmp_path))
        loaded = tf.saved_model.load(str(tmp_path))
        value, gradient = self.gradient(loaded.loss, self.z)
        np.testing.assert_allclose(value, LOSS.total, **CLOSE)
        np.testing.assert_allclose(gradient, GRADIENT, **CLOSE)
        np.testing.assert_allclose(loaded.step(self.z), LOSS.total, **CLOSE)
        assert loaded.step(self.z) < LOSS.total
        # The wrapper that a module puts around its attributes is not what comes out of a conversion.
        assert type(mrl.convert(module.head, "numpy")) is mrl.TiedHead

    def test_nothing_looks_like_a_mistake_to_the_check_of_numerics(self):
        tf = self.tf
        tf.debugging.enable_check_numerics()
        try:
            policy = mrl.CascadePolicy((0.5, 0.5), NESTING.dims)
            for function in (
                lambda z: mrl.nested_cross_entropy(z, self.head, self.labels, NESTING).total,
                lambda z: mrl.nested_cross_entropy(z, self.head, self.labels, NESTING, fused=False).total,
                lambda z: mrl.cascade_predict(z, self.head, policy).confidence,
            ):
                assert np.isfinite(tf.function(function)(self.z)).all()
        finally:
            tf.debugging.disable_check_numerics()

    def test_nothing_is_computed_for_what_is_frozen(self, monkeypatch):
        """Eager, with the head frozen, only z's product runs backward, whatever the reduction."""
        tf, shapes = self.tf, []
        product = tf.matmul
        monkeypatch.setattr(tf, "matmul", lambda *a, **kw: (shapes.append(kw), product(*a, **kw))[1])
        for reduction, forward in (("mean", 3), ("none", 6)):
            shapes.clear()
            self.gradient(
                lambda z, reduction=reduction: tf.reduce_sum(
                    mrl.nested_cross_entropy(z, self.head, self.labels, NESTING, reduction=reduction).total
                ),
                self.z,
            )
            assert len(shapes) == forward + len(NESTING)

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

        def forward_beside_a_tape(fused):
            with tf.GradientTape() as tape:
                tape.watch(self.head.weight)
                return forward(fused)

        assert np.isfinite(second(False)).all() and np.isfinite(forward(False))
        for ask in (second, forward, forward_beside_a_tape):
            with pytest.raises(TypeError, match=REFUSAL):
                ask(True)

    def test_a_function_under_two_tapes(self):
        """Its backward pass has its own gradient traced, which nobody need ask for; who does gets NaN."""
        tf, head = self.tf, mrl.TiedHead(*(self.tf.Variable(x) for x in self.head))
        loss = tf.function(lambda z: mrl.nested_cross_entropy(z, head, self.labels, NESTING).total)
        with tf.GradientTape(persistent=True) as outer:
            with tf.GradientTape() as inner:
                inner.watch(self.z)
                value = loss(self.z)
            gradient = inner.gradient(value, self.z)
            norm = tf.norm(gradient)
        np.testing.assert_allclose(gradient, GRADIENT, **CLOSE)
        _, dhead = spec.nested_cross_entropy_vjp(Z, HEAD, LABELS, NESTING, np.ones(()))
        np.testing.assert_allclose(outer.gradient(value, head.weight), dhead.weight, **CLOSE)
        assert np.isnan(outer.gradient(norm, head.weight)).all()

    @FUSED
    @pytest.mark.parametrize("jit_compile", [None, False, True])
    def test_a_head_with_nan_has_a_gradient_of_nan(self, fused, jit_compile):
        """Whole, and not only where the softmax left it."""
        tf, weight = self.tf, self.tf.Variable(self.head.weight)
        weight[1, 0].assign(np.nan)

        def gradient():
            with tf.GradientTape() as tape:
                value = mrl.nested_cross_entropy(self.z, mrl.TiedHead(weight), self.labels, NESTING, fused=fused).total
            return tape.gradient(value, weight)

        run = gradient if jit_compile is None else tf.function(gradient, jit_compile=jit_compile)
        assert np.isnan(tf.convert_to_tensor(run())[:, : NESTING.width]).all()

    def test_a_graph_of_version_one(self):
        """Where ``==`` compares what tensors are, not what they hold."""
        tf = self.tf.compat.v1
        with tf.Graph().as_default(), tf.Session() as session:
            z, labels = tf.placeholder(tf.float32, [None, 6]), tf.placeholder(tf.int32, [None])
            head = mrl.TiedHead(*map(tf.constant, HEAD))
            total = mrl.nested_cross_entropy(z, head, labels, NESTING, ignore_index=-1).total
            found = session.run(total, {z: np.concatenate([Z, Z]), labels: np.concatenate([LABELS, 0 * LABELS - 1])})
        np.testing.assert_allclose(found, LOSS.total, **CLOSE)

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
