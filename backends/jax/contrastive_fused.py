"""The nested contrastive loss whose gradient is computed along with it, a chunk of anchors at a time.

Computes what ``contrastive.nested_contrastive(fused=False)`` and its backward pass compute, without allocating
``(G, rows, M)`` for more anchors than a chunk's. With block g the columns ``m_{g-1}:m_g``, ``n`` the norms of prefixes,
``ds_g`` the gradient of the similarities of level g, and ``dK_g = ds_g / (n_a n_c temperature)`` that of its raw
products, all levels need one full-width product forward and two backward::

    K_g = K_{g-1} + A_g C_g^T        S_g = sum_{h >= g} dK_h        dA_g = S_g C_g        dC_g = S_g^T A_g

The gradient through a norm is a correction of rows: ``dA_g -= A_g sum_{h >= g} q_h / n_h^2`` with ``q_h`` the row sums
of ``ds_h * s_h``, which added up are ``-temperature`` times the gradient of the temperature too.
"""

from __future__ import annotations

import math
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from mrl.nesting import Nesting
from mrl.planning import plan_chunk_rows

from .arrays import on_host, row_shards, vary_together
from .contrastive_sweep import Plan, sweep
from .once import differentiable_once, refuse
from .targets import weighted_sum

NAME = "nested_contrastive"


def fused_contrastive(
    a: Array,
    c: Array,
    temperatures: Array,
    exclude: Array | None,
    own: Array,
    nesting: Nesting,
    cosine: bool,
    symmetric: bool,
    reduction: str,
    chunk_rows: int | None,
) -> tuple[Array, Array]:
    """``(total, per_level)`` of the losses of the anchors ``a`` among the candidates ``c``, ``own`` those of each."""
    count, candidates, wide = a.shape[0], c.shape[0], temperatures.dtype
    shards, chunk = 1, None
    if isinstance(count, int) and isinstance(candidates, int):  # and not exported for any number of rows
        shards = math.gcd(count, row_shards(a)) or 1
        chunk = plan_chunk_rows(
            len(nesting),
            count // shards,
            max(1, candidates),
            wide.itemsize,
            on_host=on_host(a),
            chunk_rows=chunk_rows,
        )
    plan = Plan(nesting, cosine, symmetric, reduction != "none", shards, on_host(a), chunk)
    rows = jnp.full((count,), 1, wide) / (max(1, count) if reduction == "mean" else 1)
    given = vary_together((a, c, temperatures, exclude, own, rows))
    try:
        return _fused(plan, *given)
    except TypeError as error:
        # The one place to say more than JAX does, whose message knows nothing of fused=False.
        if "custom_vjp" in str(error):
            refuse(NAME, "forward-mode differentiation", error)
        raise


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def _fused(plan: Plan, a: Array, c: Array, temperatures: Array, *fixed: Any) -> tuple[Array, Array]:
    losses, _ = sweep((a, c, temperatures), fixed, plan, (False,) * 3)
    return _total(losses, plan)


def _forward(plan: Plan, *given: Any) -> tuple[tuple[Array, Array], Any]:
    needs = tuple(x.perturbed for x in given[:3])
    arrays, fixed = tuple(x.value for x in given[:3]), tuple(None if x is None else x.value for x in given[3:])
    if not plan.summed:
        losses, _ = sweep(arrays, fixed, plan, (False,) * 3)
        return _total(losses, plan), (needs, arrays, fixed)
    # A scalar loss has its gradient computed here, up to the factor that comes back from above it.
    losses, gradients = sweep(arrays, fixed, plan, needs)
    dtypes = tuple(jnp.zeros((0,), x.dtype) for x in arrays)
    return _total(losses, plan), (differentiable_once(NAME, gradients), dtypes)


def _backward(plan: Plan, residuals: Any, upstream: tuple[Any, Any]) -> tuple[Any, ...]:
    total = upstream[0]
    total = jnp.zeros(total.shape, total.dtype) if isinstance(total, jax.custom_derivatives.SymbolicZero) else total
    if plan.summed:
        gradients, likes = residuals
        gradients = tuple(None if g is None else g * total for g in gradients)
    else:
        needs, likes, (exclude, own, rows) = residuals
        _, gradients = sweep(likes, (exclude, own, rows * total), plan, needs)
        gradients = differentiable_once(NAME, gradients)
    found = (None if g is None else g.astype(x.dtype) for g, x in zip(gradients, likes, strict=True))
    return *found, None, None, None


_fused.defvjp(_forward, _backward, symbolic_zeros=True)


def _total(losses: Array, plan: Plan) -> tuple[Array, Array]:
    per_level = losses.sum(1) if plan.summed else losses
    return weighted_sum(per_level, plan.nesting.weights), per_level
