"""Every public function under every transform of JAX; and the clear errors where the fused form stops."""

import numpy as np
import pytest
from transform_cases import CLOSE, FUSED, GRADIENT, HEAD, LABELS, LOSS, NAMES, NESTING, REFUSAL, Z, functions

import mrl


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
    @pytest.mark.parametrize("reduction", ["mean", "none"])
    def test_export_for_any_number_of_rows(self, fused, reduction):
        def loss(z, labels):
            return mrl.nested_cross_entropy(z, self.head, labels, NESTING, fused=fused, reduction=reduction).total.sum()

        (rows,) = self.jax.export.symbolic_shape("rows")
        shapes = [
            self.jax.ShapeDtypeStruct(shape, dtype) for shape, dtype in (((rows, 6), "float32"), ((rows,), "int32"))
        ]
        exported = self.jax.export.export(self.jax.jit(self.jax.value_and_grad(loss)))(*shapes)
        value, gradient = exported.call(self.z, self.labels)
        scale = 1 if reduction == "mean" else len(Z)
        np.testing.assert_allclose(value, scale * LOSS.total, **CLOSE)
        np.testing.assert_allclose(gradient, scale * GRADIENT, **CLOSE)
        assert np.isfinite(exported.call(self.z[:1], self.labels[:1])[0])

    def test_strict_promotion_of_dtypes(self):
        jax, policy = self.jax, mrl.CascadePolicy((0.5, 0.5), NESTING.dims)
        options = {"label_smoothing": 0.1, "ignore_index": 2}

        def every(z, head):
            for fused in (True, False):

                def loss(z, fused=fused):
                    return mrl.nested_cross_entropy(z, head, self.labels, NESTING, fused=fused, **options).total

                yield jax.grad(loss)(z)
            yield jax.grad(lambda z: mrl.nested(lambda x: x.sum(), NESTING, normalize=True)(z))(z)
            yield mrl.cascade_exit(mrl.nested_logits(z, head, NESTING), policy, logits=True).confidence
            yield mrl.cascade_predict(z, head, policy).confidence

        for dtype in ("bfloat16", "float32", "float64")[: 3 if jax.config.jax_enable_x64 else 2]:
            z, head = jax.tree.map(lambda x, dtype=dtype: x.astype(dtype), (self.z, self.head))
            relaxed = list(every(z, head))
            with jax.numpy_dtype_promotion("strict"):
                for found, expected in zip(every(z, head), relaxed, strict=True):
                    np.testing.assert_array_equal(found, expected)

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
