"""PyTorch: how it runs a function and takes its gradient."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np

from .base import Call, Result, Script, apart, dtype_of, result_of


def _array(numbers: str, dtype: str, device: Any) -> str:
    return f"torch.tensor({numbers}, dtype=torch.{dtype}{'' if device is None else f', device={device!r}'})"


def _gradients(call: str, names: Sequence[str], upstream: str | None) -> list[str]:
    inputs = ", ".join(names)
    given = "" if upstream is None else f"{upstream}.to(total.dtype), "
    return [
        f"inputs = [x.requires_grad_() for x in ({inputs},)]",
        f"total = {call.format('*inputs')}",
        f"gradients = torch.autograd.grad(total, inputs, {given}allow_unused=True, materialize_grads=True)",
        f"{', '.join(f'd{name}' for name in names)}, = gradients",
    ]


class TorchDriver:
    """PyTorch: ``eager``, and ``compile`` as one graph (captured and differentiated, without code generation)."""

    name = "torch"
    modes = ("eager", "compile")
    dtypes = ("float16", "bfloat16", "float32", "float64")
    gradients = True
    script = Script(("import torch",), _array, _gradients, "{}.detach().cpu().double().numpy()")

    def __init__(self) -> None:
        self._compiled: dict[Any, Any] = {}

    def run(self, mode: str, call: Call) -> Result:
        import torch

        def tensor(x: np.ndarray, kind: Any) -> Any:
            return torch.tensor(x, dtype=kind, device=call.device)

        def given(x: np.ndarray, dtype: str) -> Any:
            kind = getattr(torch, dtype)
            return tensor(apart(x), kind)[..., ::2] if call.strided and x.ndim else tensor(x, kind)

        differentiated, function = call.upstream is not None, call.function
        inputs = [given(x, dtype) for x, dtype in call.typed]
        wanted = [inputs[place].requires_grad_() for place in call.differentiated] if differentiated else []
        kinds = [dtype_of(x, call) for x in call.constants]
        constants = [tensor(x, kind and getattr(torch, kind)) for x, kind in zip(call.constants, kinds, strict=True)]
        if mode == "compile":
            if (call.key, call.dtype) not in self._compiled:
                compiled = torch.compile(function, fullgraph=True, backend="aot_eager", dynamic=False)
                self._compiled[call.key, call.dtype] = compiled
            function = self._compiled[call.key, call.dtype]
        # Layouts and dtypes share one code object, for which torch.compile keeps few graphs unless told otherwise.
        limits = torch._dynamo.config.patch(cache_size_limit=1024, accumulated_cache_size_limit=4096)
        with _full_products(), limits:
            outputs = function(inputs, constants)
            head, gradients = outputs[0], None
            if call.upstream is not None:
                if not head.requires_grad:
                    raise AssertionError("expected a loss that carries a gradient, got one that is detached")
                upstream = tensor(call.upstream, head.dtype)
                again, options = call.twice and mode == "eager", {"allow_unused": True, "materialize_grads": True}
                if again:
                    torch.autograd.grad(head, wanted, upstream, retain_graph=True, **options)
                gradients = call.placed(torch.autograd.grad(head, wanted, upstream, **options))
        return result_of(outputs, gradients, lambda x: x.detach().double().cpu().numpy())


@contextmanager
def _full_products() -> Iterator[None]:
    """No TF32, whatever the caller has set for float32 on a GPU."""
    import torch

    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)
