"""Every public function under every transform of its framework; and the clear errors where the fused form stops."""

import math

import numpy as np
import pytest

import mrl
from mrl import spec

NESTING = mrl.Nesting((2, 3, 5), weights=(1.0, 0.5, 2.0))
RNG = np.random.default_rng(7)
Z = RNG.normal(size=(4, 6)).astype(np.float32)
HEAD = mrl.TiedHead(RNG.normal(size=(3, 5)).astype(np.float32), RNG.normal(size=3).astype(np.float32))
LABELS = np.array([0, 2, 1, 1], np.int32)
LOSS = spec.nested_cross_entropy(Z, HEAD, LABELS, NESTING)
GRADIENT = spec.nested_cross_entropy_vjp(Z, HEAD, LABELS, NESTING, np.ones(()))[0]
CLOSE = {"rtol": 2e-5, "atol": 2e-6}  # the bounds are test_proof's; here only the transform is in question
FUSED = pytest.mark.parametrize("fused", [True, False])
REFUSAL = "differentiable once, in reverse; .* fused=False"


def energy(x):
    return x[..., 0] * x[..., -1]


def functions(convert):
    """Each public function as a function of ``z`` alone, and its value by the specification."""
    head, labels = convert(HEAD), convert(LABELS)
    nested = mrl.nested(energy, NESTING, normalize=True)
    return {
        "truncate": (lambda z: mrl.truncate(z, 3), spec.truncate(Z, 3)),
        "nested_logits": (lambda z: mrl.nested_logits(z, head, NESTING), spec.nested_logits(Z, HEAD, NESTING)),
        "fused": (lambda z: mrl.nested_cross_entropy(z, head, labels, NESTING).total, LOSS.total),
        "composed": (lambda z: mrl.nested_cross_entropy(z, head, labels, NESTING, fused=False).total, LOSS.total),
        "nested": (
            nested,
            sum(w * energy(spec.truncate(Z, m)) for m, w in zip(NESTING.dims, NESTING.weights, strict=True)),
        ),
    }


NAMES = ["truncate", "nested_logits", "fused", "composed", "nested"]


class TestTorch:
    @pytest.fixture(autouse=True)
    def _torch(self, backend_torch):
        import torch

        self.torch = torch
        self.z, self.head, self.labels = (mrl.convert(x.copy() if x is Z else x, "torch") for x in (Z, HEAD, LABELS))

    def loss(self, z, fused=True, **kw):
        return mrl.nested_cross_entropy(z, self.head, self.labels, NESTING, fused=fused, **kw).total

    @pytest.mark.parametrize("name", NAMES)
    def test_compile_fullgraph(self, name):
        function, expected = functions(lambda x: mrl.convert(x, "torch"))[name]
        self.torch.compiler.reset()
        compiled = self.torch.compile(function, fullgraph=True)
        z = self.z.clone().requires_grad_()
        value = compiled(z)
        np.testing.assert_allclose(value.detach().numpy(), expected, **CLOSE)
        value.sum().backward()
        eager = self.z.clone().requires_grad_()
        function(eager).sum().backward()
        np.testing.assert_allclose(z.grad.numpy(), eager.grad.numpy(), **CLOSE)

    @pytest.mark.parametrize("chunk_rows", [None, 3])
    def test_compile_with_a_batch_of_any_size(self, chunk_rows):
        self.torch.compiler.reset()
        compiled = self.torch.compile(
            lambda z, labels: mrl.nested_cross_entropy(z, self.head, labels, NESTING, chunk_rows=chunk_rows).total,
            fullgraph=True,
            dynamic=True,
        )
        for rows in (4, 2, 3):
            expected = spec.nested_cross_entropy(Z[:rows], HEAD, LABELS[:rows], NESTING).total
            np.testing.assert_allclose(compiled(self.z[:rows], self.labels[:rows]), expected, **CLOSE)

    def test_compiled_code_gives_nan_for_a_label_out_of_range(self):
        self.torch.compiler.reset()
        bad = self.labels.clone()
        bad[1] = 3
        compiled = self.torch.compile(
            lambda y: mrl.nested_cross_entropy(self.z, self.head, y, NESTING).total, fullgraph=True
        )
        assert math.isnan(compiled(bad)) and math.isfinite(compiled(self.labels))

    @FUSED
    @pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
    def test_autocast_keeps_float32_products(self, fused, dtype):
        z = self.z.clone().requires_grad_()
        with self.torch.autocast("cpu", dtype=getattr(self.torch, dtype)):
            value = self.loss(z, fused)
        assert value.dtype == self.torch.float32
        np.testing.assert_allclose(value.detach(), LOSS.total, **CLOSE)
        expected = spec.nested_cross_entropy_vjp(self.z.numpy(), HEAD, LABELS, NESTING, np.ones(()))[0]
        np.testing.assert_allclose(*self.torch.autograd.grad(value, [z]), expected, **CLOSE)

    @pytest.mark.parametrize("name", ["nested_logits", "fused", "composed"])
    def test_autocast_keeps_float32_products_in_compiled_code(self, name):
        function, expected = functions(lambda x: mrl.convert(x, "torch"))[name]
        self.torch.compiler.reset()
        compiled = self.torch.compile(function, fullgraph=True, backend="aot_eager")
        gradients = []
        for run, dtype in ((function, None), (compiled, self.torch.bfloat16)):
            z = self.z.clone().requires_grad_()
            with self.torch.autocast("cpu", dtype=dtype, enabled=dtype is not None):
                value = run(z)
            np.testing.assert_allclose(value.detach(), expected, **CLOSE)
            gradients += self.torch.autograd.grad(value.sum(), [z])
        np.testing.assert_allclose(*gradients, **CLOSE)

    def test_half_embeddings_with_a_float32_head(self):
        z = self.z.bfloat16().requires_grad_()
        self.loss(z).backward()
        assert z.grad.dtype == self.torch.bfloat16
        expected = spec.nested_cross_entropy_vjp(z.detach().float().numpy(), HEAD, LABELS, NESTING, np.ones(()))[0]
        np.testing.assert_allclose(z.grad.float(), expected, rtol=2**-8, atol=1e-6)

    @FUSED
    def test_tensors_without_values(self, fused):
        """Labels that are fake, or traced with fakes, cannot be looked at; nothing else needs their values."""
        from torch._subclasses.fake_tensor import FakeTensorMode
        from torch.fx.experimental.proxy_tensor import make_fx

        def loss(z, weight, bias, labels):
            return mrl.nested_cross_entropy(z, mrl.TiedHead(weight, bias), labels, NESTING, fused=fused).total

        arrays = self.z, *self.head, self.labels
        traced = make_fx(self.torch.func.grad(loss), tracing_mode="fake")(*arrays)
        np.testing.assert_allclose(traced(*arrays), GRADIENT, **CLOSE)
        with FakeTensorMode():
            head, labels = mrl.TiedHead(self.torch.ones(3, 5)), self.torch.ones(4, dtype=self.torch.int64)
            z = self.torch.ones(4, 6, requires_grad=True)
            loss = mrl.nested_cross_entropy(z, head, labels, NESTING, fused=fused)
            (gradient,) = self.torch.autograd.grad(loss.total, z)
            assert gradient.shape == (4, 6)

    @FUSED
    def test_func_grad(self, fused):
        gradient = self.torch.func.grad(lambda z: self.loss(z, fused))(self.z)
        np.testing.assert_allclose(gradient, GRADIENT, **CLOSE)

    def test_composed_form_has_every_order_and_vmap(self):
        func = self.torch.func
        hessian = func.hessian(lambda z: self.loss(z, False))(self.z)
        forward_over_reverse = func.jacfwd(func.grad(lambda z: self.loss(z, False)))(self.z)
        np.testing.assert_allclose(hessian, forward_over_reverse, **CLOSE)
        rows = func.vmap(
            func.grad(lambda z, y: mrl.nested_cross_entropy(z[None], self.head, y[None], NESTING, fused=False).total)
        )(self.z, self.labels)
        np.testing.assert_allclose(rows / len(Z), GRADIENT, **CLOSE)

    @pytest.mark.parametrize("reduction", ["mean", "none"])
    def test_fused_form_refuses_more(self, reduction):
        func, torch = self.torch.func, self.torch

        def loss(z):
            return self.loss(z, reduction=reduction).sum()

        asked = {
            "jvp": lambda: func.jvp(loss, (self.z,), (self.z,)),
            "hessian": lambda: func.hessian(loss)(self.z),
            "grad of grad": lambda: func.grad(lambda z: func.grad(loss)(z).norm())(self.z),
            "vmap": lambda: func.vmap(
                lambda z, y: mrl.nested_cross_entropy(z[None], self.head, y[None], NESTING).total
            )(self.z, self.labels),
            "jacrev": lambda: func.jacrev(loss)(self.z),
        }
        for ask in asked.values():
            with pytest.raises(RuntimeError, match=REFUSAL):
                ask()
        z = self.z.clone().requires_grad_()
        (gradient,) = torch.autograd.grad(loss(z), z, create_graph=True)
        with pytest.raises(RuntimeError, match=REFUSAL):
            gradient.norm().backward()

    def test_per_level_carries_no_gradient(self):
        z = self.z.clone().requires_grad_()
        for fused in (True, False):
            assert not mrl.nested_cross_entropy(z, self.head, self.labels, NESTING, fused=fused).per_level.requires_grad

    def test_nothing_is_computed_for_what_is_frozen(self, monkeypatch):
        """With the head frozen only z's product runs backward, and with nothing to learn none does."""
        shapes = []
        product = self.torch.mm
        monkeypatch.setattr(
            self.torch, "mm", lambda a, b, **kw: (shapes.append((a.shape, b.shape)), product(a, b, **kw))[1]
        )
        self.loss(self.z)
        assert shapes == []
        self.loss(self.z.clone().requires_grad_()).backward()
        assert len(shapes) == len(NESTING)

    def test_gradcheck(self):
        z, head = self.z.double().requires_grad_(), mrl.TiedHead(*(x.double().requires_grad_() for x in self.head))
        for kw in ({}, {"reduction": "none", "label_smoothing": 0.1}, {"chunk_rows": 3, "ignore_index": 1}):
            assert self.torch.autograd.gradcheck(
                lambda z, w, b, kw=kw: (
                    mrl.nested_cross_entropy(z, mrl.TiedHead(w, b), self.labels, NESTING, **kw).total
                ),
                (z, *head),
            )


class TestJax:
    @pytest.fixture(autouse=True)
    def _jax(self, backend_jax):
        import jax

        self.jax = jax
        self.z, self.head, self.labels = (mrl.convert(x, "jax") for x in (Z, HEAD, LABELS))

    def loss(self, z, fused=True, **kw):
        return mrl.nested_cross_entropy(z, self.head, self.labels, NESTING, fused=fused, **kw).total

    @pytest.mark.parametrize("name", NAMES)
    def test_jit_and_grad(self, name):
        function, expected = functions(lambda x: mrl.convert(x, "jax"))[name]
        np.testing.assert_allclose(self.jax.jit(function)(self.z), expected, **CLOSE)
        eager = self.jax.grad(lambda z: function(z).sum())(self.z)
        jitted = self.jax.jit(self.jax.grad(lambda z: function(z).sum()))(self.z)
        np.testing.assert_allclose(jitted, eager, **CLOSE)

    def test_nesting_is_a_static_argument(self):
        loss = self.jax.jit(lambda z, nesting: mrl.truncate(z, nesting.dims[0]), static_argnums=1)
        assert loss(self.z, NESTING).shape == (4, 2)
        assert loss(self.z, mrl.Nesting((3,))).shape == (4, 3)

    @pytest.mark.parametrize("name", NAMES)
    def test_vmap(self, name):
        stacked = self.jax.numpy.stack([self.z, 2 * self.z])
        function, _ = functions(lambda x: mrl.convert(x, "jax"))[name]
        expected = self.jax.numpy.stack([function(self.z), function(2 * self.z)])
        np.testing.assert_allclose(self.jax.vmap(function)(stacked), expected, **CLOSE)

    @pytest.mark.parametrize("chunk_rows", [None, 3])
    def test_vmap_of_the_fused_gradient(self, chunk_rows):
        stacked = self.jax.numpy.stack([self.z, 2 * self.z])
        gradient = self.jax.grad(lambda z: self.loss(z, chunk_rows=chunk_rows))
        expected = self.jax.numpy.stack([gradient(self.z), gradient(2 * self.z)])
        np.testing.assert_allclose(self.jax.vmap(gradient)(stacked), expected, **CLOSE)

    def test_composed_form_has_every_order(self):
        def loss(z):
            return self.loss(z, False)

        np.testing.assert_allclose(
            self.jax.hessian(loss)(self.z), self.jax.jacrev(self.jax.grad(loss))(self.z), **CLOSE
        )
        _, tangent = self.jax.jvp(loss, (self.z,), (self.z,))
        np.testing.assert_allclose(tangent, np.sum(GRADIENT * Z), **CLOSE)

    @pytest.mark.parametrize("reduction", ["mean", "none"])
    def test_fused_form_refuses_more(self, reduction):
        def loss(z):
            return self.loss(z, reduction=reduction).sum()

        for ask in (
            lambda: self.jax.jvp(loss, (self.z,), (self.z,)),
            lambda: self.jax.jacfwd(loss)(self.z),
            lambda: self.jax.hessian(loss)(self.z),
            lambda: self.jax.grad(lambda z: self.jax.grad(loss)(z).sum())(self.z),
            lambda: self.jax.jit(self.jax.hessian(loss))(self.z),
        ):
            with pytest.raises(TypeError, match=REFUSAL):
                ask()

    @FUSED
    def test_traced_labels_out_of_range_give_nan(self, fused):
        run = self.jax.jit(lambda y: mrl.nested_cross_entropy(self.z, self.head, y, NESTING, fused=fused).total)
        for label in (-1, 3):
            assert np.isnan(run(self.labels.at[2].set(label)))
        assert np.isfinite(run(self.labels))

    @pytest.mark.parametrize("chunk_rows", [None, 2])
    def test_nothing_is_computed_for_what_is_frozen(self, chunk_rows):
        def loss(z):
            return mrl.nested_cross_entropy(z, self.head, self.labels, NESTING, chunk_rows=chunk_rows).total

        def products(function):
            return str(self.jax.make_jaxpr(function)(self.z)).count("dot_general")

        levels = len(NESTING)
        assert products(loss) == levels
        assert products(self.jax.grad(loss)) == 2 * levels


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
