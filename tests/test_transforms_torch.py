"""Every public function under every transform of PyTorch; and the clear errors where the fused form stops."""

import math

import numpy as np
import pytest
from transform_cases import CLOSE, FUSED, GRADIENT, HEAD, LABELS, LOSS, NAMES, NESTING, REFUSAL, Z, functions

import mrl
from mrl import spec


class TestTorch:
    @pytest.fixture(autouse=True)
    def _torch(self, backend_torch):
        import torch

        self.torch = torch
        self.z, self.head, self.labels = (mrl.convert(x.copy() if x is Z else x, "torch") for x in (Z, HEAD, LABELS))

    def loss(self, z, fused=True, **kw):
        return mrl.nested_cross_entropy(z, self.head, self.labels, NESTING, fused=fused, **kw).total

    def module(self, reduction):
        loss = self.loss

        class Module(self.torch.nn.Module):
            def forward(self, z):
                return loss(z, reduction=reduction).sum()

        return Module()

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

    def test_one_graph_serves_batches_of_many_sizes(self):
        """Of a size that was made a constant the ninth would be refused."""
        self.torch.compiler.reset()
        compiled = self.torch.compile(
            lambda z, labels: mrl.nested_cross_entropy(z, self.head, labels, NESTING, reduction="none").total,
            fullgraph=True,
            backend="aot_eager",
        )
        for rows in range(2, 13):
            z, labels = self.z.repeat(3, 1)[:rows], self.labels.repeat(3)[:rows]
            found = compiled(z, labels)
            expected = spec.nested_cross_entropy(z.numpy(), HEAD, labels.numpy(), NESTING, reduction="none").total
            np.testing.assert_allclose(found, expected, **CLOSE)

    @pytest.mark.parametrize("reduction", ["mean", "none"])
    def test_a_second_derivative_of_a_captured_graph_is_refused(self, reduction):
        torch, module = self.torch, self.module(reduction)
        torch.compiler.reset()
        z = self.z.clone().requires_grad_()
        captured = torch.compile(module, fullgraph=True, backend="eager")
        for run in (captured, torch.export.export(module, (z,)).module()):
            (gradient,) = torch.autograd.grad(run(z), z, create_graph=True)
            scale = 1 if reduction == "mean" else len(Z)
            np.testing.assert_allclose(gradient.detach(), scale * GRADIENT, **CLOSE)
            with pytest.raises(RuntimeError, match=REFUSAL):
                torch.autograd.grad(gradient.square().sum(), z)

    @pytest.mark.parametrize("reduction", ["mean", "none"])
    def test_what_was_frozen_when_the_loss_was_exported_learns_later(self, reduction):
        torch, module = self.torch, self.module(reduction)
        with torch.no_grad():
            exported = torch.export.export(module, (self.z,)).module()
        z = self.z.clone().requires_grad_()
        (gradient,) = torch.autograd.grad(exported(z), z)
        scale = 1 if reduction == "mean" else len(Z)
        np.testing.assert_allclose(gradient, scale * GRADIENT, **CLOSE)
        with pytest.raises(RuntimeError, match=REFUSAL):
            torch.func.jvp(exported, (self.z,), (self.z,))

    def test_transforms_inside_compiled_code_are_refused(self):
        """The operator there would lose a tangent: a derivative of zero."""
        func, forward_ad = self.torch.func, self.torch.autograd.forward_ad
        asked = {
            "jvp": lambda z: func.jvp(self.loss, (z,), (z,))[1],
            "grad": func.grad(self.loss),
            "vmap": lambda z: func.vmap(self.loss)(z[None]),
        }
        for ask in asked.values():
            self.torch.compiler.reset()
            with pytest.raises(Exception, match=REFUSAL):
                self.torch.compile(ask, fullgraph=True, backend="aot_eager")(self.z)
        self.torch.compiler.reset()
        compiled = self.torch.compile(self.loss, fullgraph=True, backend="aot_eager")
        np.testing.assert_allclose(compiled(self.z), LOSS.total, **CLOSE)
        with forward_ad.dual_level(), pytest.raises(Exception, match=REFUSAL):
            compiled(forward_ad.make_dual(self.z, self.z))
        self.torch.compiler.reset()
        composed = self.torch.compile(
            lambda z: func.jvp(lambda z: self.loss(z, False), (z,), (z,))[1], fullgraph=True, backend="aot_eager"
        )
        np.testing.assert_allclose(composed(self.z), (GRADIENT * Z).sum(), **CLOSE)

    @FUSED
    def test_tensors_of_no_device(self, fused):
        z, head, labels = (mrl.convert(x, "torch", device="meta") for x in (self.z, self.head, self.labels))
        loss = mrl.nested_cross_entropy(z, head, labels, NESTING, fused=fused)
        assert loss.per_level.shape == (3,) and mrl.nested_logits(z, head, NESTING).shape == (3, 4, 3)

    def test_compiled_code_gives_nan_for_a_label_out_of_range(self):
        self.torch.compiler.reset()
        bad = self.labels.clone()
        bad[1] = 3
        compiled = self.torch.compile(
            lambda y: mrl.nested_cross_entropy(self.z, self.head, y, NESTING).total, fullgraph=True
        )
        assert math.isnan(compiled(bad)) and math.isfinite(compiled(self.labels))

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
            head, labels = mrl.TiedHead(self.torch.ones(3, 6)), self.torch.ones(4, dtype=self.torch.int64)
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
            "vmap over grad": lambda: func.vmap(lambda scale: func.grad(lambda z: scale * loss(z))(self.z))(self.z[0]),
            "jacrev": lambda: func.jacrev(loss)(self.z),
            "jacobian": lambda: torch.autograd.functional.jacobian(
                lambda z: self.loss(z, reduction="none"), self.z, vectorize=True
            ),
        }
        for ask in asked.values():
            with pytest.raises(RuntimeError, match=REFUSAL):
                ask()
        z = self.z.clone().requires_grad_()
        (gradient,) = torch.autograd.grad(loss(z), z, create_graph=True)
        with pytest.raises(RuntimeError, match=REFUSAL):
            gradient.norm().backward()

    @pytest.mark.filterwarnings("ignore:Converting a tensor to a Python boolean")  # of the shapes that are checked
    def test_what_cannot_be_recorded_says_so(self):
        torch, policy = self.torch, mrl.CascadePolicy((0.5, 0.5), NESTING.dims)

        def predict(z, weight):
            return tuple(mrl.cascade_predict(z, mrl.TiedHead(weight), policy))

        weight, stops = self.head.weight, r"cascade_predict: each row stops at a level of its own, which torch\."
        with pytest.raises(RuntimeError, match=r"which torch\.jit\.trace cannot record; .* pass fused=False"):
            torch.jit.trace(self.loss, (self.z,))
        with pytest.raises(RuntimeError, match=stops + r"jit\.trace cannot record; use torch\.export"):
            torch.jit.trace(lambda z: predict(z, weight), (self.z,))
        vmap = torch.func.vmap(predict, in_dims=(None, 0))
        torch.compiler.reset()
        for run in (vmap, torch.compile(vmap, fullgraph=True, backend="aot_eager")):
            with pytest.raises(Exception, match=stops + r"func\.vmap cannot do; call it on all rows at once"):
                run(self.z, weight[None])

    @FUSED
    def test_weights_that_change_from_step_to_step_compile_once(self, fused):
        from torch._dynamo.testing import CompileCounter

        self.torch.compiler.reset()
        counter = CompileCounter()
        compiled = self.torch.compile(
            lambda weights: self.loss(self.z, fused, level_weights=weights), fullgraph=True, backend=counter
        )
        for weights in ([1.0, 0.5, 0.0], [0.0, 2.0, 1.0], [3.0, 1.0, 1.0]):
            expected = spec.nested_cross_entropy(Z, HEAD, LABELS, NESTING, level_weights=weights).total
            np.testing.assert_allclose(compiled(self.torch.tensor(weights)), expected, **CLOSE)
        assert counter.frame_count == 1

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
