"""PyTorch multiplies factors in the dtype that they have, or that autocast gives them, and sums in float32.

The CPU has no products of halves in float32. A stand-in for the device's is registered while a test runs, so that what
a GPU is asked for can be read, and computed.
"""

import numpy as np
import pytest

import mrl
from mrl import spec

NESTING = mrl.Nesting((4, 8, 24), weights=(1.0, 0.5, 2.0))
HALVES = ["float16", "bfloat16"]
FORMS = pytest.mark.parametrize("fused", [True, False])


def stand_in(torch):
    """The products that CUDA has, on the CPU: of two factors in the same half precision, in float32."""
    library = torch.library.Library("aten", "IMPL")

    def wide(a, b, out_dtype):
        assert a.dtype == b.dtype and a.dtype in (torch.float16, torch.bfloat16) and out_dtype == torch.float32
        with torch.autocast("cpu", enabled=False):
            return a.float() @ b.float()

    def add(before, a, b, out_dtype, beta=1, alpha=1):
        assert before.dtype == torch.float32 and beta == alpha == 1
        return before + wide(a, b, out_dtype)

    library.impl("mm.dtype", wide, "CPU")
    library.impl("bmm.dtype", wide, "CPU")
    library.impl("mm.dtype_out", lambda a, b, kind, *, out: out.copy_(wide(a, b, kind)), "CPU")
    library.impl("addmm.dtype_out", lambda c, a, b, kind, *, beta=1, alpha=1, out: out.copy_(add(c, a, b, kind)), "CPU")
    return library


class TestHalves:
    @pytest.fixture(autouse=True)
    def _torch(self, backend_torch):
        import torch

        self.torch = torch

    @pytest.fixture
    def device(self, monkeypatch):
        """The CPU as a device that multiplies halves."""
        from mrl.backends.torch import arrays

        library = stand_in(self.torch)
        monkeypatch.setattr(arrays, "HALF_DEVICES", ("cpu",))
        yield
        library._destroy()

    def problem(self, dtype, *, tied=True, rows=32, classes=10, seed=0, master=None):
        torch = self.torch
        rng, kind = np.random.default_rng(seed), getattr(torch, dtype)
        width = NESTING.width

        def leaf(*shape):
            return torch.tensor(rng.normal(size=shape) / np.sqrt(shape[-1])).to(master or kind).requires_grad_()

        z = torch.tensor(rng.normal(size=(rows, width))).to(kind).requires_grad_()
        if tied:
            head = mrl.TiedHead(leaf(classes, width), leaf(classes))
        else:
            head = mrl.NestedHead(
                tuple(leaf(classes, m) for m in NESTING.dims), tuple(leaf(classes) for _ in NESTING.dims)
            )
        return z, head, torch.tensor(rng.integers(0, classes, rows))

    def gradients(self, z, head, labels, *, scale=1.0, **options):
        leaves = [z, *mrl.heads.head_leaves(head)]
        total = mrl.nested_cross_entropy(z, head, labels, NESTING, **options).total
        assert total.dtype == self.torch.float32
        upstream = self.torch.full_like(total, scale)
        return total.detach(), [x.double() / scale for x in self.torch.autograd.grad(total, leaves, upstream)]

    def exact(self, z, head, labels):
        arrays = mrl.convert(type(head)(*self.doubled(head)), "numpy")
        z, labels = z.detach().double().numpy(), labels.numpy()
        total = spec.nested_cross_entropy(z, arrays, labels, NESTING).total
        dz, dhead = spec.nested_cross_entropy_vjp(z, arrays, labels, NESTING, 1.0)
        return total, [self.torch.tensor(x) for x in (dz, *mrl.heads.head_leaves(dhead))]

    def doubled(self, head):
        return [
            None
            if x is None
            else tuple(y.detach().double() for y in x)
            if isinstance(x, tuple)
            else x.detach().double()
            for x in head
        ]

    def own(self, z, head, labels):
        """The nested loss as a user of the framework writes it in its dtype, level by level."""
        functional = self.torch.nn.functional
        total = 0.0
        for g, (m, weight) in enumerate(zip(NESTING.dims, NESTING.weights, strict=True)):
            if isinstance(head, mrl.TiedHead):
                logits = functional.linear(z[:, :m], head.weight[:, :m], head.bias)
            else:
                logits = functional.linear(z[:, :m], head.weights[g], head.biases[g])
            total = total + weight * functional.cross_entropy(logits.float(), labels)
        leaves = [z, *mrl.heads.head_leaves(head)]
        return [x.double() for x in self.torch.autograd.grad(total, leaves)]

    def log(self, function):
        """The operations of ``function`` on tensors with more than one axis: name, dtypes and shapes, result."""
        from torch.utils._python_dispatch import TorchDispatchMode

        seen = []

        class Log(TorchDispatchMode):
            def __torch_dispatch__(self, func, types, args=(), kwargs=None):
                result = func(*args, **(kwargs or {}))
                tensors = [x for x in args if hasattr(x, "shape") and x.dim() > 1]
                if tensors and hasattr(result, "dtype"):
                    name = str(func).removeprefix("aten.")
                    seen.append((name, [(x.dtype, tuple(x.shape)) for x in tensors], (result.dtype, result.shape)))
                return result

        with Log():
            function()
        return seen

    @FORMS
    @pytest.mark.parametrize("tied", [True, False])
    @pytest.mark.parametrize("dtype", HALVES)
    def test_products_are_of_halves_and_wide(self, dtype, tied, fused, device):
        """None of z or the head is copied to float32, and each gradient of logits is rounded once."""
        torch, kind = self.torch, getattr(self.torch, dtype)
        z, head, labels = self.problem(dtype, tied=tied)
        seen = self.log(lambda: self.gradients(z, head, labels, fused=fused))
        multiplied = [x for x in seen if x[0].startswith(("mm", "addmm", "bmm"))]
        assert len(multiplied) == 3 * len(NESTING)
        for _, factors, (result, _) in multiplied:
            assert [x for x, _ in factors[-2:]] == [kind, kind] and result == torch.float32
        copies = [x for x in seen if x[0].startswith("_to_copy") or x[0].startswith("mul.out")]
        whole = [tuple(x.shape) for x in (z, *mrl.heads.head_leaves(head)) if x.dim() > 1]
        for _, [(before, shape), *_], (after, _) in copies:
            assert not (before == kind and after == torch.float32 and shape in whole), shape
        rounded = [x for x in copies if x[1][0] == (torch.float32, (len(z), 10)) and x[2][0] == kind]
        assert len(rounded) == len(NESTING)

    @FORMS
    @pytest.mark.parametrize("tied", [True, False])
    @pytest.mark.parametrize("dtype", HALVES)
    @pytest.mark.parametrize("reduction", ["mean", "none"])
    def test_errors_are_no_larger_than_the_framework_s_own(self, dtype, tied, fused, reduction, device):
        ours, own = 0.0, 0.0
        for seed in range(4):
            z, head, labels = self.problem(dtype, tied=tied, rows=64, seed=seed)
            scale = 1.0 if reduction == "mean" else 1 / len(z)
            _, exact = self.exact(z, head, labels)
            _, found = self.gradients(z, head, labels, fused=fused, reduction=reduction, scale=scale)
            found = [x * scale for x in found]
            for a, b, c in zip(found, self.own(z, head, labels), exact, strict=True):
                ours, own = ours + (a - c).norm() / c.norm(), own + (b - c).norm() / c.norm()
        assert 0 < ours <= own

    @FORMS
    def test_upstreams_of_a_scaler_neither_vanish_nor_overflow(self, fused, device):
        """float16: gradients of logits far below its range, and an upstream that takes them past it."""
        z, head, labels = self.problem("float16", rows=4096)
        _, exact = self.exact(z, head, labels)
        _, found = self.gradients(z, head, labels, fused=fused, scale=65536.0 if not fused else 256.0)
        assert all((a - c).norm() <= 2e-3 * c.norm() for a, c in zip(found, exact, strict=True))
        if fused:  # scaled before it is rounded: without a scaler too
            _, found = self.gradients(z, head, labels)
            assert all((a - c).norm() <= 2e-3 * c.norm() for a, c in zip(found[1:], exact[1:], strict=True))

    @pytest.mark.parametrize("dtype", HALVES)
    def test_the_composed_form_has_every_order(self, dtype, device):
        torch, func = self.torch, self.torch.func
        z, head, labels = self.problem(dtype, rows=4)
        z, head = z.detach(), mrl.TiedHead(*(x.detach() for x in head))

        def loss(z):
            return mrl.nested_cross_entropy(z, head, labels, NESTING, fused=False).total

        wide = mrl.TiedHead(*(x.double() for x in head))

        def exact(z):
            return mrl.nested_cross_entropy(z, wide, labels, NESTING, fused=False).total

        close = {"rtol": 4e-2, "atol": 4e-3, "check_dtype": False}
        tangent = torch.ones_like(z)
        torch.testing.assert_close(
            func.jvp(loss, (z,), (tangent,))[1], func.jvp(exact, (z.double(),), (tangent.double(),))[1], **close
        )
        torch.testing.assert_close(func.hessian(loss)(z), func.hessian(exact)(z.double()), **close)
        jacobian = func.jacrev(lambda z: mrl.nested_logits(z, head, NESTING))(z)
        expected = func.jacrev(lambda z: mrl.nested_logits(z, wide, NESTING))(z.double())
        torch.testing.assert_close(jacobian, expected, **close)

    @FORMS
    @pytest.mark.parametrize("on_device", [True, False])
    @pytest.mark.parametrize("dtype", HALVES)
    def test_autocast_rounds_factors_as_a_linear_layer_does(self, dtype, on_device, fused, request):
        """Forward and backward, eager and compiled, float32 masters: half factors, and softmax and loss in float32."""
        torch, kind = self.torch, getattr(self.torch, dtype)
        if on_device:
            request.getfixturevalue("device")
        z, head, labels = self.problem("float32", rows=16)
        rounded = [x.detach().to(kind) for x in (z, head.weight)]
        near = mrl.TiedHead(rounded[1].float(), head.bias.detach())
        total, exact = self.exact(rounded[0], near, labels)

        def loss(z, head, labels):
            return mrl.nested_cross_entropy(z, head, labels, NESTING, fused=fused).total

        torch.compiler.reset()
        for run in (loss, torch.compile(loss, fullgraph=True, backend="aot_eager")):
            with torch.autocast("cpu", dtype=kind):
                value = run(z, head, labels)
            np.testing.assert_allclose(value.detach(), total, rtol=1e-5)
            found = torch.autograd.grad(value, [z, *head])
            for a, c in zip(found, exact, strict=True):
                assert a.dtype == torch.float32
                assert (a - c).norm() <= 1e-2 * c.norm()
        with torch.autocast("cpu", dtype=kind):
            logits = mrl.nested_logits(z, head, NESTING)
            np.testing.assert_allclose(
                logits.detach(), spec.nested_logits(rounded[0].double(), mrl.convert(near, "numpy"), NESTING), atol=1e-5
            )
            double = mrl.nested_logits(z.double(), mrl.TiedHead(*(x.double() for x in head)), NESTING)
        assert double.dtype == torch.float64

    @FORMS
    def test_masters_in_float32_beside_half_embeddings_are_promoted_to(self, fused, device):
        z, head, labels = self.problem("bfloat16", master=self.torch.float32)
        total, exact = self.exact(z, head, labels)
        found, gradients = self.gradients(z, head, labels, fused=fused)
        np.testing.assert_allclose(found, total, rtol=1e-5)
        for a, c in zip(gradients[1:], exact[1:], strict=True):
            assert (a - c).norm() <= 1e-5 * c.norm()

    def test_gpus_multiply_halves_and_cpus_do_not(self):
        from mrl.backends.torch.arrays import multiplies

        torch = self.torch
        assert all(multiplies(getattr(torch, dtype), torch.device("cuda", 0)) for dtype in HALVES)
        assert not multiplies(torch.float32, torch.device("cuda")) and not multiplies(
            torch.bfloat16, torch.device("cpu")
        )
