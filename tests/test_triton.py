"""The Triton kernel, interpreted on the CPU and compiled for GPUs that need not be there; and when it is chosen."""

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

import mrl

ROOT = Path(__file__).parent.parent
KERNEL = ROOT / "backends" / "torch" / "triton_residuals.py"

MISTAKES = {
    "suffix sums are not accumulated": ("above + scale *", "scale *"),
    "the sum of the levels above is left out": ("(turn > 0) | ONTO", "(turn > 0)"),
    "maximum is not subtracted": ("0.0, largest)", "0.0, 0.0)"),
    "running sum is not rescaled": ("total * tl.exp(before - shift)", "total"),
    "running sum is rescaled from zero": ("before = largest", "before = shift"),
    "classes beyond the last count": ('classes, other=float("-inf")', "classes, other=0.0"),
    "one class too many": ("inside = columns < classes", "inside = columns <= classes"),
    "no tail mask": ("inside = columns < classes", "inside = columns < 2 * classes"),
    "the last block is left out": ("range(0, classes, BLOCK)", "range(0, tl.maximum(classes - BLOCK, 1), BLOCK)"),
    "weights are ignored": ("scale = tl.load(scale_at)", "scale = factor"),
    "losses are not scaled": ("loss * factor", "loss"),
    "levels in the wrong order": ("loss_at -= n", "loss_at += 0"),
    "the target is not subtracted": ("* inverse - target", "* inverse"),
    "smoothing is off the label only": ("KEEP + SPREAD", "KEEP"),
    "smoothing is not in the loss": ("tl.full((), SPREAD, dtype) * every))", "every * 0))"),
    "shares of nothing count": ("tl.where(u == 0, 0.0, u * (x - shift))", "u * (x - shift)"),
    "the sum of shares is taken to be one": ("loss = mass *", "loss ="),
    "the sum of shares does not scale the softmax": ("inverse = mass / total", "inverse = 1.0 / total"),
    "shares seen do not move with the maximum": ("seen * (beside - shift)", "0.0 * seen"),
    "one share too few is seen": ("seen += tl.sum(u, 0)", "seen += 0.5 * tl.sum(u, 0)"),
    "the shares of the first row are those of all": ("targets + row * target_stride", "targets"),
    "gradients are written when not asked for": ("if BACKWARD:", "if BLOCK:"),
}  # fmt: skip


def run(check: str, path: Path, *, interpret: bool) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, str(ROOT / "tests" / "triton_checks.py"), check, str(path)],
        env={**os.environ, "TRITON_INTERPRET": str(int(interpret))},
        cwd=tempfile.gettempdir(),
        capture_output=True,
        text=True,
    )


@pytest.mark.parametrize("check", ["kernel", "infinities", "proof"])
def test_the_interpreted_kernel(check: str, backend_torch: None, triton_wheel: None) -> None:
    done = run(check, KERNEL, interpret=True)
    assert done.returncode == 0, done.stderr


def test_the_kernel_compiles_for_gpus(backend_torch: None, triton_wheel: None) -> None:
    done = run("compiles", KERNEL, interpret=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_in_the_kernel_is_found(
    mistake: str, backend_torch: None, triton_wheel: None, tmp_path: Path
) -> None:
    right, wrong = MISTAKES[mistake]
    source = KERNEL.read_text(encoding="utf-8")
    assert right in source
    mutant = tmp_path / "mutant.py"
    mutant.write_text(source.replace(right, wrong), encoding="utf-8")
    done = run("mutant", mutant, interpret=True)
    assert done.stdout.split() == ["killed"], done.stderr


def test_a_cpu_loads_no_triton_and_no_compiler(backend_torch: None) -> None:
    code = """
import sys, torch, mrl
z = torch.ones(2, 4, requires_grad=True)
head = mrl.TiedHead(torch.ones(3, 4))
mrl.nested_cross_entropy(z, head, torch.zeros(2, dtype=torch.int64), mrl.Nesting((2, 4))).total.backward()
mrl.nested_contrastive(z, z, mrl.Nesting((2, 4))).total.backward()
mrl.search(z.detach(), z.detach(), k=1, dim=2)
assert not {"triton", "torch._dynamo"} & set(sys.modules)
"""
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tempfile.gettempdir(), capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


class TestChoice:
    @pytest.fixture(autouse=True)
    def _torch(self, backend_torch, monkeypatch):
        import torch
        from mrl.backends.torch import sweep

        self.torch, self.sweep, self.gpu = torch, sweep, torch.device("cuda", 0)
        self.capability = (9, 0)
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: self.capability)
        # Without what it remembers, and without leaving it anything to remember.
        monkeypatch.setattr(sweep, "triton_kernel", sweep.triton_kernel.__wrapped__)

    def test_a_gpu_gets_the_kernel(self, triton_wheel):
        assert self.sweep.triton_kernel(self.gpu).__name__ == "residuals_"

    @pytest.mark.parametrize("kind", ["cpu", "meta", "mps", "xpu"])
    def test_other_devices_get_the_plain_form(self, kind):
        assert self.sweep.triton_kernel(self.torch.device(kind)) is None

    def test_a_gpu_older_than_triton_knows_gets_the_plain_form(self, triton_wheel):
        self.capability = (6, 1)
        assert self.sweep.triton_kernel(self.gpu) is None

    def test_without_triton_a_gpu_gets_the_plain_form(self, monkeypatch):
        monkeypatch.setitem(sys.modules, "triton", None)
        assert self.sweep.triton_kernel(self.gpu) is None

    def test_errors_in_the_kernel_surface(self, monkeypatch):
        def broken(*arguments):
            raise RuntimeError("out of registers")

        monkeypatch.setattr(self.sweep, "triton_kernel", lambda device: broken)
        with pytest.raises(RuntimeError, match="out of registers"):
            self.step(self.torch.ones(2, 4, requires_grad=True))

    def test_tensors_without_values_get_the_plain_form(self, monkeypatch):
        from mrl.backends.torch.targets import Targets
        from torch._subclasses.fake_tensor import FakeTensorMode

        monkeypatch.setattr(self.sweep, "triton_kernel", lambda device: lambda *arguments: pytest.fail("no memory"))
        with FakeTensorMode():
            x = self.torch.ones(2, 3, 5)
            targets = Targets(self.torch.zeros(3).long())
            losses = self.sweep._residuals_(x, targets, x[0, :, 0], 0.0, (1.0, 1.0), True)
            assert losses.shape == (2, 3)

    def test_what_wraps_a_tensor_gets_the_plain_form(self, monkeypatch):
        """A second derivative meets such tensors, without memory, on its way to the error that names the remedy."""
        wrapped, called = self.torch._C._functorch.is_functorch_wrapped_tensor, []

        def kernel(levels, targets, rows, *_):
            called.append(any(wrapped(x) for x in (levels, targets.labels, rows)))
            return rows.new_zeros(levels.shape[:2])

        def loss(z):
            head, labels = mrl.TiedHead(self.torch.ones(5, 3)), self.torch.zeros(2).long()
            return mrl.nested_cross_entropy(z, head, labels, mrl.Nesting((3,)), reduction="none").total.sum()

        monkeypatch.setattr(self.sweep, "triton_kernel", lambda device: kernel)
        grad = self.torch.func.grad
        with pytest.raises(RuntimeError, match="second derivative; pass fused=False"):
            grad(lambda z: grad(loss)(z).norm())(self.torch.ones(2, 3))
        assert called and not any(called)

    @pytest.mark.parametrize("tied", [True, False])
    @pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
    def test_nothing_waits_for_a_device(self, tied, reduction):
        """A meta tensor has no values: looking at one is an error. Nor does anything come from the host."""
        from torch.utils._python_dispatch import TorchDispatchMode
        from torch.utils._pytree import tree_leaves

        torch, devices = self.torch, set()

        class Watch(TorchDispatchMode):
            def __torch_dispatch__(self, function, types, args=(), kwargs=None):
                out = function(*args, **(kwargs or {}))
                devices.update(x.device.type for x in tree_leaves((args, kwargs, out)) if isinstance(x, torch.Tensor))
                return out

        z = torch.empty(6, 8, device="meta", requires_grad=True)
        with Watch():
            self.step(z, tied=tied, reduction=reduction, label_smoothing=0.1, ignore_index=-100, chunk_rows=4)
        assert devices == {"meta"}
        assert z.grad.shape == z.shape

    def step(self, z, tied=True, **options):
        def array(*shape):
            return self.torch.ones(shape, device=z.device, requires_grad=True)

        dims = (2, 3)
        if tied:
            head = mrl.TiedHead(array(5, z.shape[-1]), array(5))
        else:
            head = mrl.NestedHead(tuple(array(5, m) for m in dims), tuple(array(5) for _ in dims))
        labels = self.torch.zeros(len(z), dtype=self.torch.int64, device=z.device)
        total = mrl.nested_cross_entropy(z, head, labels, mrl.Nesting(dims, (1.0, 0.5)), **options).total
        total.backward(self.torch.ones_like(total))
