"""The nested cross-entropy whose gradient is computed along with it, a chunk of rows at a time.

Computes what ``losses.nested_cross_entropy(fused=False)`` and its backward pass compute, without allocating
``(G, rows, C)`` for more rows than a chunk's. With block g the columns ``m_{g-1}:m_g``, ``R_g`` the gradient of
``logits_g`` and ``S_g = sum_{h >= g} R_h``, a tied head needs one full-width product forward and two backward::

    logits_g = logits_{g-1} + Z_g W_g^T        dZ_g = S_g W_g        dW_g = S_g^T Z_g        db = sum_rows S_1
"""

from __future__ import annotations

import math
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from mrl.heads import Head, TiedHead, head_leaves
from mrl.nesting import Nesting
from mrl.planning import plan_chunk_rows, plan_groups, plan_places

from .arrays import on_host, row_shards, vary_together
from .once import differentiable_once, refuse
from .sweep import Plan, sweep
from .targets import weighted_sum

NAME = "nested_cross_entropy"

MORE_PLACES = 3
"""Arrays of a chunk beyond those planned for its levels: what the compiler makes on the way to a gradient."""


def fused_cross_entropy(
    z: Array,
    head: Head,
    fixed: tuple[Array, Array, Array | None, Array | None],
    nesting: Nesting,
    label_smoothing: float,
    summed: bool,
    chunk_rows: int | None,
) -> tuple[Array, Array]:
    """``(total, per_level)`` of ``rows[i] * CE_g[i]``, summed over the examples or not.

    ``fixed`` has no gradient: labels, ``rows``, the weights of classes and those of levels.
    """
    rows = fixed[1]
    tied, leaves = isinstance(head, TiedHead), head_leaves(head)
    host, shards, chunk = on_host(z), 1, None
    if isinstance(rows.size, int):  # and not exported for any number of rows
        shards = math.gcd(rows.size, row_shards(z)) or 1
        share, classes, itemsize = rows.size // shards, leaves[0].shape[0], rows.dtype.itemsize
        places = plan_places(plan_groups(nesting.dims, share * classes * itemsize))
        chunk = plan_chunk_rows(
            min(places + MORE_PLACES, len(nesting)) if tied else len(nesting),
            share,
            classes,
            itemsize,
            on_host=host,
            chunk_rows=chunk_rows,
            buffers_alone=len(nesting),
        )
    plan = Plan(nesting, tied, label_smoothing, summed, shards, chunk, host)
    given = vary_together((z, leaves, *fixed))
    try:
        return _fused(plan, *given)
    except TypeError as error:
        # The one place to say more than JAX does, whose message knows nothing of fused=False.
        if "custom_vjp" in str(error):
            refuse(NAME, "forward-mode differentiation", error)
        raise


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def _fused(plan: Plan, z: Array, leaves: tuple[Array, ...], *fixed: Array | None) -> tuple[Array, Array]:
    losses, _ = sweep(z, leaves, fixed, plan, (False,) * (1 + len(leaves)))
    return _total(losses, fixed, plan)


def _forward(plan: Plan, z: Any, leaves: Any, *fixed: Any) -> tuple[tuple[Array, Array], Any]:
    needs = tuple(x.perturbed for x in (z, *leaves))
    z, leaves = z.value, tuple(leaf.value for leaf in leaves)
    fixed = tuple(None if x is None else x.value for x in fixed)
    if not plan.summed:
        losses, _ = sweep(z, leaves, fixed, plan, (False,) * len(needs))
        return _total(losses, fixed, plan), (needs, z, leaves, fixed)
    # A scalar loss has its gradient computed here, up to the factor that comes back from above it.
    losses, gradients = sweep(z, leaves, fixed, plan, needs)
    dtypes = tuple(jnp.zeros((0,), x.dtype) for x in (z, *leaves))
    return _total(losses, fixed, plan), (differentiable_once(NAME, gradients), dtypes)


def _backward(plan: Plan, residuals: Any, upstream: tuple[Any, Any]) -> tuple[Any, ...]:
    total = upstream[0]
    total = jnp.zeros(total.shape, total.dtype) if isinstance(total, jax.custom_derivatives.SymbolicZero) else total
    if plan.summed:
        gradients, likes = residuals
        gradients = tuple(None if g is None else g * total for g in gradients)
    else:
        needs, z, leaves, (labels, rows, *others) = residuals
        likes = (z, *leaves)
        _, gradients = sweep(z, leaves, (labels, rows * total, *others), plan, needs)
        gradients = differentiable_once(NAME, gradients)
    dz, *dleaves = (None if g is None else g.astype(x.dtype) for g, x in zip(gradients, likes, strict=True))
    return dz, tuple(dleaves), None, None, None, None


_fused.defvjp(_forward, _backward, symbolic_zeros=True)


def _total(losses: Array, fixed: tuple[Array | None, ...], plan: Plan) -> tuple[Array, Array]:
    per_level = losses.sum(range(1, losses.ndim)) if plan.summed else losses
    return weighted_sum(per_level, plan.nesting.weights if fixed[-1] is None else fixed[-1]), per_level
