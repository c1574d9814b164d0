"""Tensors to and from NumPy, and the dtype in which they accumulate."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch._functorch.pyfunctorch import temporarily_clear_interpreter_stack

from mrl.heads import Head, NestedHead, TiedHead, head_leaves

# The kinds of devices that give products of half-precision factors as float32, which is how they sum them.
HALF_DEVICES = ("cuda",) if torch.version.hip is None and hasattr(torch.ops.aten.mm, "dtype") else ()


def from_numpy(array: Any, *, dtype: str | None, device: Any) -> Tensor:
    target = None if dtype is None else getattr(torch, dtype)
    if isinstance(array, np.ndarray):
        half = array.dtype.name == "bfloat16"
        array = array.view(np.uint16) if half else array
        # torch cannot share memory that it must not write to, or whose strides run backwards or between elements.
        steps = [stride >= 0 and stride % array.itemsize == 0 for stride in array.strides]
        tensor = torch.from_numpy(array if array.flags.writeable and all(steps) else array.copy())
        tensor = tensor.view(torch.bfloat16) if half else tensor
        device = device or torch.get_default_device()
    else:
        tensor = array.detach() if isinstance(array, Tensor) else torch.from_dlpack(array)
    return tensor.to(device=device, dtype=target)


def to_numpy(array: Tensor, *, blocking: bool) -> np.ndarray | None:
    hidden = torch.compiler.is_compiling() or not has_memory(array) or array.is_meta
    if hidden or (not blocking and (array.device.type != "cpu" or torch.jit.is_tracing())):  # which warns of a look
        if not blocking:
            return None
        if hidden:
            raise TypeError(
                f"array: expected a tensor with values, got a {type(array).__name__} without any of its own (traced, "
                "distributed, on 'meta'); convert outside of the transform, what is whole and filled"
            )
    # Inside torch.func transforms even a tensor that they do not wrap hides its memory.
    with temporarily_clear_interpreter_stack():
        host = array.detach().cpu().resolve_conj().resolve_neg()
        if host.dtype != torch.bfloat16:
            return host.numpy()
        host = host.view(torch.uint16).numpy()
    try:
        import ml_dtypes
    except ImportError as error:
        raise ImportError("NumPy has no bfloat16 of its own; run pip install ml_dtypes") from error
    return host.view(ml_dtypes.bfloat16)


def has_memory(array: Tensor) -> bool:
    """Whether its numbers can be looked at: not those of a tensor of another kind, such as one that is fake or
    distributed, nor of what wraps one in ``torch.func``."""
    plain = type(array).__torch_dispatch__ is Tensor.__torch_dispatch__
    return plain and not torch._C._functorch.is_functorch_wrapped_tensor(array)


def is_batched(array: Tensor) -> bool:
    """Whether it stands for many tensors, as under ``torch.func.vmap`` or autograd's ``is_grads_batched``."""
    functorch = torch._C._functorch
    while functorch.is_functorch_wrapped_tensor(array) and not functorch.is_batchedtensor(array):
        array = functorch.get_unwrapped(array)
    # The older kind of batched tensor, which is_grads_batched makes, has a key without a name in Python.
    return functorch.is_batchedtensor(array) or "Batched" in repr(torch._C._dispatch_keys(array))


def devices() -> tuple[str, ...]:
    if not torch.accelerator.is_available():
        return ("cpu",)
    kind = torch.accelerator.current_accelerator().type
    return ("cpu", *(f"{kind}:{i}" for i in range(torch.accelerator.device_count())))


def accumulation_dtype(z: Tensor, head: Head) -> torch.dtype:
    """float32, or float64 where ``z`` or the head has it."""
    return wide_dtype(z, *head_leaves(head))


def wide_dtype(*arrays: Tensor) -> torch.dtype:
    """float32, or float64 where one of them is."""
    return torch.float64 if any(x.dtype == torch.float64 for x in arrays) else torch.float32


def factor_dtype(z: Tensor, head: Head) -> torch.dtype:
    """In which ``z`` and the matrices are multiplied: promoted, or what autocast makes of them."""
    if accumulation_dtype(z, head) == torch.float64:  # of a bias, say
        return torch.float64
    return common_dtype(z, *((head.weight,) if isinstance(head, TiedHead) else head.weights))


def common_dtype(*factors: Tensor) -> torch.dtype:
    """In which arrays are multiplied: promoted, or what autocast makes of them, unless one is float64."""
    dtype = factors[0].dtype
    for x in factors[1:]:
        dtype = torch.promote_types(dtype, x.dtype)
    kind = factors[0].device.type
    if dtype != torch.float64 and torch.amp.is_autocast_available(kind) and torch.is_autocast_enabled(kind):
        return torch.get_autocast_dtype(kind)
    return dtype


def multiplies(dtype: torch.dtype, device: torch.device) -> bool:
    """Whether factors of a half-precision ``dtype`` have products in float32, in which they are summed."""
    return dtype in (torch.bfloat16, torch.float16) and device.type in HALF_DEVICES


def as_factors(z: Tensor, head: Head) -> tuple[Tensor, Head]:
    """Both rounded to the dtype of factors, and widened where the device has no products of halves; biases wide."""
    narrow, wide = factor_dtype(z, head), accumulation_dtype(z, head)
    last = narrow if multiplies(narrow, z.device) else wide

    def factor(x: Tensor) -> Tensor:
        return x.to(narrow).to(last)

    if isinstance(head, TiedHead):
        return factor(z), TiedHead(factor(head.weight), None if head.bias is None else head.bias.to(wide))
    biases = None if head.biases is None else tuple(bias.to(wide) for bias in head.biases)
    return factor(z), NestedHead(tuple(factor(weight) for weight in head.weights), biases)


def no_autocast(device: torch.device) -> AbstractContextManager[Any]:
    """Autocast turned off on ``device``; some, such as ``meta``, do not know it."""
    known = torch.amp.is_autocast_available(device.type)
    return torch.autocast(device.type, enabled=False) if known else nullcontext()
