"""What is differentiable once, in reverse, and says so when it is asked for more."""

from __future__ import annotations

from functools import partial
from typing import Any, NoReturn

import jax


@partial(jax.custom_jvp, nondiff_argnums=(0,))
def differentiable_once(function: str, gradients: Any) -> Any:
    return gradients


@differentiable_once.defjvp
def _(function: str, primals: Any, tangents: Any) -> NoReturn:
    refuse(function, "a second derivative", None)


def refuse(function: str, asked: str, cause: Exception | None) -> NoReturn:
    raise TypeError(
        f"{function}: the fused form is differentiable once, in reverse; got {asked}; "
        "pass fused=False for the composed form"
    ) from cause
