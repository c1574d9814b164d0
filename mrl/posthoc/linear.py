"""Products with what was fitted, in the framework of what they are applied to."""

from __future__ import annotations

from typing import Any

import numpy as np

from .. import checks
from ..dispatch import backend_of, device_of, unwrap
from ..heads import Array, TiedHead
from ..losses import nested_logits
from ..nesting import Nesting


def beside(x: Array, name: str, fitted: Any, width: int) -> tuple[Array, Any]:
    """``x``, opened and checked, and what was fitted as arrays of its framework, where ``x`` lies."""
    x = unwrap(x)
    backend = backend_of({name: x})
    checks.check_floating(name, x)
    if checks.shape_of(name, x)[-1:] not in ((width,), (None,)):
        raise ValueError(
            f"{name}: expected (..., {width}), the width that was fitted, got {checks.shape_of(name, x)}; "
            "pass embeddings of the same model, whole"
        )
    if all(isinstance(leaf, np.ndarray) for leaf in fitted) and not isinstance(x, np.ndarray):
        return x, tuple(backend.from_numpy(leaf, dtype=None, device=device_of(x)) for leaf in fitted)
    return x, tuple(fitted)


def linear(x: Array, weight: Array, bias: Array | None = None) -> Array:
    """``x @ weight.T + bias``, accumulated in float32 or wider: a head of one level in every framework."""
    width = int(weight.shape[-1])
    return nested_logits(x, TiedHead(weight, bias), Nesting((width,)))[0]
