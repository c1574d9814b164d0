"""Adaptive classification: on given values, and computing only what each row needs."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp
from jax import Array, lax

from mrl.cascade.planning import level_columns, plan_chunk_rows, plan_wave_rows
from mrl.cascade.policy import CascadePolicy, CascadeResult
from mrl.heads import Head, TiedHead, head_classes
from mrl.nesting import Nesting

from .arrays import accumulation_dtype, lift, on_host, product, row_sharding


def cascade_exit(probabilities: Array, policy: CascadePolicy, *, logits: bool) -> CascadeResult:
    values = lax.stop_gradient(probabilities)
    values = values.astype(jnp.float64 if values.dtype == jnp.float64 else jnp.float32)
    cuts = policy.cuts64 if values.dtype == jnp.float64 else policy.cuts32
    last = len(policy) - 1
    confidence = _given(values[last], policy, last, logits)
    labels = jnp.where(jnp.isnan(confidence), -1, values[last].argmax(-1))
    level = jnp.full_like(labels, last)
    for g in reversed(range(last)):
        found = _given(values[g], policy, g, logits)
        exits = found > cuts[g]
        labels = jnp.where(exits, values[g].argmax(-1), labels)
        level = jnp.where(exits, g, level)
        confidence = jnp.where(exits, found, confidence)
    return CascadeResult(labels, level, confidence)


def cascade_predict(z: Array, head: Head, policy: CascadePolicy, *, chunk_rows: int | None) -> CascadeResult:
    wide = accumulation_dtype(z, head)
    lead, rows = z.shape[:-1], math.prod(z.shape[:-1])
    known = isinstance(rows, int)  # or exported for any number of rows
    if known and rows == 0:
        return CascadeResult(jnp.zeros(lead, int), jnp.zeros(lead, int), jnp.zeros(lead, wide))
    classes = head_classes(head)
    chunk = plan_chunk_rows(rows if known else None, classes, wide.itemsize, on_host=on_host(z), chunk_rows=chunk_rows)
    wave = max(1, min(rows, plan_wave_rows(chunk, classes, wide.itemsize))) if known else rows
    # Thresholds and temperatures are arguments: policies that differ in nothing else share one compilation.
    cuts = jnp.asarray(policy.cuts64 if wide == jnp.float64 else policy.cuts32, wide)
    temperatures = jnp.asarray([_normal(t) for t in policy.temperatures], wide)
    z, head = lax.stop_gradient((z, head))
    walk = partial(_walk, nesting=policy.nesting, kind=policy.confidence, chunk=chunk)
    work = partial(_walk_in_waves, walk=walk, wave=wave)
    per_row = row_sharding(z, head)
    if per_row is not None:
        work = jax.sharding.auto_axes(work, out_sharding=CascadeResult(per_row, per_row, per_row))
    return work(z, head, cuts, temperatures)


def _walk_in_waves(
    z: Array, head: Head, cuts: Array, temperatures: Array, *, walk: Callable[..., CascadeResult], wave: int
) -> CascadeResult:
    lead, rows = z.shape[:-1], math.prod(z.shape[:-1])
    z = z.reshape(rows, z.shape[-1])
    waves = [z] if rows <= wave else [z[i : i + wave] for i in range(0, rows, wave)]
    parts = [walk(part, head, cuts, temperatures) for part in waves]
    return CascadeResult(*(jnp.concatenate(field).reshape(lead) for field in zip(*parts, strict=True)))


@partial(jax.jit, static_argnames=("nesting", "kind", "chunk"))
def _walk(
    z: Array, head: Head, cuts: Array, temperatures: Array, *, nesting: Nesting, kind: str, chunk: int
) -> CascadeResult:
    """All levels for the rows of ``z``; the rows still undecided, and their logits, close up after each.

    Every chunk has the same shape and how many there are is decided as it runs: what is beyond the last
    undecided row is computed and dropped.
    """
    rows, wide, tied, last = z.shape[0], accumulation_dtype(z, head), isinstance(head, TiedHead), len(nesting) - 1
    weights = (head.weight,) * (last + 1) if tied else head.weights
    biases = ((head.bias,) * (last + 1) if tied else head.biases) or (None,) * (last + 1)
    classes, kept_logits = weights[0].shape[0], tied and last > 0
    lanes = jnp.arange(chunk, dtype=jnp.int32)
    # Under shard_map a loop wants what it starts from to vary over the axes that its results vary over. A zero made of
    # all inputs does, in every version of JAX, and costs nothing: the compiler knows that it is one.
    zero = 0 * sum(jnp.isnan(x[(0,) * x.ndim]).astype(jnp.int32) for x in jax.tree.leaves((z, head)))
    result = CascadeResult(*(jnp.zeros(rows, dtype) + zero.astype(dtype) for dtype in (int, int, wide)))
    waiting = jnp.arange(rows + chunk, dtype=jnp.int32) + zero
    # A chunk is stored with what lies beyond its undecided rows, which the chunk after it overwrites.
    store = jnp.zeros((rows + chunk if kept_logits else 0, classes), wide) + zero.astype(wide)
    count = jnp.int32(rows) + zero
    for g, (start, stop) in enumerate(level_columns(nesting, tied=tied)):
        weight = weights[g][:, start:stop].T
        bias = None if biases[g] is None else lift(biases[g].astype(wide), 2)

        def step(j: Array, state: tuple[Array, ...]) -> tuple[Array, ...]:
            waiting, store, kept, labels, level, confidence = state
            used = lanes < count - j * chunk
            here = lax.dynamic_slice_in_dim(waiting, j * chunk, chunk)
            x = z[:, start:stop].at[here].get(mode="clip")
            logits = product(x, weight, wide)
            if tied and g > 0:
                logits += lax.dynamic_slice_in_dim(store, j * chunk, chunk)
            elif bias is not None:
                logits += bias
            found, answer = _confidence(logits, kind, temperatures[g]), _first_largest(logits)
            exits = used & (found > cuts[g]) if g < last else used
            target = jnp.where(exits, here, rows)
            labels = labels.at[target].set(jnp.where(jnp.isnan(found), -1, answer), mode="drop")
            level = level.at[target].set(g, mode="drop")
            confidence = confidence.at[target].set(found, mode="drop")
            if g < last:
                stays = used & ~exits
                lane = jnp.where(stays, jnp.cumsum(stays, dtype=jnp.int32) - 1, chunk)
                source = jnp.zeros_like(lanes).at[lane].set(lanes, mode="drop")
                waiting = lax.dynamic_update_slice_in_dim(waiting, here[source], kept, 0)
                if kept_logits:
                    store = lax.dynamic_update_slice_in_dim(store, logits[source], kept, 0)
                kept += stays.sum(dtype=jnp.int32)
            return waiting, store, kept, labels, level, confidence

        state = (waiting, store, zero, *result)
        waiting, store, count, *fields = lax.fori_loop(0, (count + chunk - 1) // chunk, step, state)
        result = CascadeResult(*fields)
    return result


def _given(values: Array, policy: CascadePolicy, g: int, logits: bool) -> Array:
    """The confidence of level ``g`` of given logits or probabilities."""
    values = values if logits else values.clip(0, 1)
    if logits or policy.temperatures[g] != 1:
        return _confidence(values if logits else jnp.log(values), policy.confidence, _normal(policy.temperatures[g]))
    # XLA's maximum on a CPU takes a number for larger than NaN in arrays that are not small.
    classes, largest = values.shape[-1], jnp.where(jnp.isnan(values).any(-1), jnp.nan, values.max(-1))
    if policy.confidence == "probability" or classes == 1:
        return largest
    if policy.confidence == "margin":
        return largest - _but_first_largest(values).max(-1)
    terms = jnp.where(values > 0, values * jnp.log(jnp.where(values > 0, values, 1)), values)
    return 1 + terms.sum(-1) / math.log(classes)


def _normal(temperature: float) -> float:
    """What has a reciprocal that XLA, which multiplies by it, does not flush to zero."""
    return min(max(temperature, 2.0**-126), 2.0**126)


def _confidence(logits: Array, kind: str, temperature: Array | float) -> Array:
    """``spec.confidence`` of logits in their own dtype."""
    scores = (logits - logits.max(-1, keepdims=True)) / temperature
    powers = jnp.exp(scores)
    classes, total = logits.shape[-1], powers.sum(-1)
    if kind == "probability" or classes == 1:
        return 1 / total
    if kind == "margin":
        return (1 - jnp.exp(_but_first_largest(scores, -jnp.inf).max(-1))) / total
    # Where exp gives zero the product with its logarithm shall too, also for an infinite one.
    surprise = (powers * jnp.maximum(scores, -1000)).sum(-1) / total
    return 1 + (surprise - jnp.log(total)) / math.log(classes)


def _first_largest(values: Array) -> Array:
    """``argmax``; on a CPU two plain reductions are several times as fast as XLA's joint one."""
    classes = lift(jnp.arange(values.shape[-1]), values.ndim)
    return jnp.where(values == values.max(-1, keepdims=True), classes, values.shape[-1]).min(-1)


def _but_first_largest(values: Array, instead: float = 0.0) -> Array:
    classes = lift(jnp.arange(values.shape[-1]), values.ndim)
    return jnp.where(classes == _first_largest(values)[..., None], instead, values)
