"""How far a right contrastive loss may be from the specification.

With ``u`` the unit roundoff of the accumulation dtype, ``a``, ``c`` the prefixes that are compared, unit vectors as a
rule, and ``P = |a| |c|^T``, of every level:

* similarities: ``E_s = gamma(k) P / t``, with ``k`` the roundings of the product, of both norms (which are sums of
  squares over a prefix, or block by block) and of the temperature ``t``; what is excluded is so exactly;
* log-sum-exp, loss and softmax as for the cross-entropy (:mod:`~mrl.testing.cross_entropy.bounds`), of rows and, of the
  symmetric form, of columns; its sums may be rescaled once for each chunk of anchors;
* their gradient ``ds``, up to ``E_ds``, goes through products with the other side, as unit vectors:
  ``T = (E_ds + gamma(k) |ds|) |c| / t``; and through the norm, which takes off what points along ``a``:
  ``E_da = (T + |a| (|a| . T)) / ||a||``. The terms that this is the difference of bound its rounding, whether radial
  parts come from the products or as sums of ``ds * s``, of which ``|s| <= P / t``;
* the temperature's is ``sum ds * s / t``.

A gradient for products may be rounded once to the half-precision dtype of the embeddings: ``u_half |ds|``.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from ... import spec
from ..problems import SMALLEST, UNIT_ROUNDOFF, Float, Problem
from ..rounding import Bounded, finish, gamma


class _Level(NamedTuple):
    a: Float
    c: Float
    size: Float  # P / t
    s: Float
    e_s: Float
    temperature: float


class _Sums(NamedTuple):
    """Of rows, or of columns, along the axis that is summed over."""

    lse: Float
    e_lse: Float
    p: Float
    e_p: Float


@np.errstate(all="ignore")
def nested_contrastive(problem: Problem) -> Bounded:
    """Total, losses per level, and the gradients of ``sum(upstream * total)`` for what is differentiated."""
    layout, u = problem.layout, UNIT_ROUNDOFF[problem.accumulation]
    nesting, count = layout.nesting, layout.rows
    options = options_of(problem)
    loss = spec.nested_contrastive(problem.z, problem.positives, nesting, **options)
    gradients = spec.nested_contrastive_vjp(problem.z, problem.positives, nesting, problem.upstream, **options)
    divisor = max(1, count) if layout.reduction == "mean" else 1
    upstream = np.broadcast_to(np.abs(problem.upstream), (count,)) / divisor
    candidates = np.concatenate([problem.positives, *([] if problem.negatives is None else [problem.negatives])])
    e_losses, sizes = [], []
    e_a, e_c, e_t = np.zeros_like(problem.z), np.zeros_like(candidates), np.zeros(len(nesting))
    for g, (dim, weight) in enumerate(zip(nesting.dims, nesting.weights, strict=True)):
        level = _level(problem, candidates, g)
        own, inside = np.diagonal(level.s[:, :count]), np.abs(np.where(np.isinf(level.s), 0.0, level.s))
        ways = [_sums(level, 1, u)]
        if layout.symmetric:
            ways.append(_sums(level._replace(s=level.s[:, :count], e_s=level.e_s[:, :count]), 0, u))
        e_loss, size = np.zeros(count), np.zeros(count)
        e_ds, size_ds = np.zeros_like(level.s), np.zeros_like(level.s)
        factors = weight * upstream
        for axis, way in enumerate(ways):
            part = (way.e_lse + np.diagonal(level.e_s) + u * (6 * np.abs(way.lse) + 6 * np.abs(own))) / len(ways)
            e_loss, size = e_loss + part, size + (np.abs(way.lse) + np.abs(own)) / len(ways)
            along = factors if axis else factors[:, None]
            eye = np.eye(*way.p.shape)
            e_ds[:, : way.p.shape[1]] += along * (way.e_p + 8 * u * (way.p + eye)) / len(ways)
            size_ds[:, : way.p.shape[1]] += along * (way.p + eye) / len(ways)
        e_losses.append(e_loss)
        sizes.append(size)
        if not weight:
            continue
        rounded = UNIT_ROUNDOFF["bfloat16"] if problem.dtype == "bfloat16" else 0.0
        flushed = SMALLEST[problem.accumulation] * 2.0**40 * (factors.max(initial=0.0) > 0)
        q = e_ds + (gamma(_roundings(problem, dim), u) + rounded) * size_ds + flushed
        e_t[g] = np.sum((e_ds + gamma(_roundings(problem, dim), u) * size_ds) * np.maximum(inside, level.size))
        e_t[g] = e_t[g] / level.temperature
        e_a[:, :dim] += _through_the_norm(problem, problem.z[:, :dim], level.a, q @ np.abs(level.c) / level.temperature)
        e_c[:, :dim] += _through_the_norm(
            problem, candidates[:, :dim], level.c, q.T @ np.abs(level.a) / level.temperature
        )
    # Of a level, either term of the difference may be flushed to zero, and so may their sum.
    lost = 3 * len(nesting) * SMALLEST[problem.accumulation]
    e_a, e_c = e_a + lost, e_c + lost
    bounded: Bounded = {
        **_losses(problem, loss.total, loss.per_level, np.stack(e_losses), np.stack(sizes), u),
        "danchors": (gradients.anchors, e_a),
        "dpositives": (gradients.positives, e_c[:count]),
    }
    if gradients.negatives is not None:
        bounded["dnegatives"] = gradients.negatives, e_c[count:]
    if problem.temperature is not None:
        bounded["dtemperature"] = gradients.temperature, e_t if problem.temperature.ndim else e_t.sum(keepdims=True)[0]
    return finish(problem, bounded, rounded=("danchors", "dpositives", "dnegatives", "dtemperature"))


def options_of(problem: Problem) -> dict[str, Any]:
    """The keywords of the loss and of its gradient."""
    layout = problem.layout
    return {
        "negatives": problem.negatives,
        "temperature": layout.temperature if problem.temperature is None else problem.temperature,
        "symmetric": layout.symmetric,
        "exclude": problem.exclude,
        "similarity": layout.similarity,
        "reduction": layout.reduction,
    }


def _roundings(problem: Problem, dim: int) -> int:
    """Of a similarity's product, norms and temperature, and of sums over both sides and over levels."""
    layout = problem.layout
    return 4 * dim + 4 * len(layout.nesting) + layout.classes + layout.rows + 48


def _level(problem: Problem, candidates: Float, g: int) -> _Level:
    layout, u = problem.layout, UNIT_ROUNDOFF[problem.accumulation]
    dim, cosine = layout.nesting.dims[g], layout.similarity == "cosine"
    given = layout.temperature if problem.temperature is None else problem.temperature
    t = float(np.broadcast_to(given, (len(layout.nesting),))[g])
    a, c = (spec.truncate(x, dim, normalize=cosine) for x in (problem.z, candidates))
    size, s = np.abs(a) @ np.abs(c).T / t, a @ c.T / t
    roundings = (3 * dim + 24 if cosine else dim + 8) + 3 * len(layout.nesting)
    e_s = gamma(roundings, u) * size + (dim + 4) * SMALLEST[problem.accumulation] / min(t, 1.0)
    if problem.exclude is not None:
        s, e_s = np.where(problem.exclude, -np.inf, s), np.where(problem.exclude, 0.0, e_s)
    return _Level(a, c, size, s, e_s, t)


def _sums(level: _Level, axis: int, u: float) -> _Sums:
    terms = level.s.shape[axis]
    lse = np.logaddexp.reduce(level.s, axis=axis, keepdims=True, initial=-np.inf)
    p = np.exp(level.s - lse)
    below = np.where(np.isinf(level.s), 0.0, np.abs(level.s - lse))
    e_lse = np.log1p(np.sum(p * np.expm1(level.e_s), axis, keepdims=True))
    e_lse = e_lse + u * (4 * terms + np.log(max(1, terms)) + 6 + 4 * np.abs(lse))
    e_p = p * np.expm1(level.e_s + e_lse + u * (6 + below))
    return _Sums(np.squeeze(lse, axis), np.squeeze(e_lse, axis), p, e_p)


def _losses(problem: Problem, total: Float, per_level: Float, e: Float, size: Float, u: float) -> Bounded:
    """Of sums over the anchors and over the levels."""
    layout, weights = problem.layout, np.asarray(problem.layout.nesting.weights)
    weights = weights.reshape(-1, *(1,) * (per_level.ndim - 1))
    e = e + 4 * u * size
    if layout.reduction != "none":
        divisor = max(1, layout.rows) if layout.reduction == "mean" else 1
        e, size = (e + gamma(layout.rows + 6, u) * size).sum(-1) / divisor, size.sum(-1) / divisor
    e_total = np.sum(weights * (e + gamma(len(weights) + 6, u) * (size + e)), 0)
    return {"total": (np.asarray(total), e_total), "per_level": (per_level, np.broadcast_to(e, per_level.shape))}


def _through_the_norm(problem: Problem, x: Float, unit: Float, e: Float) -> Float:
    """The bound ``e`` of the gradient of a unit vector, as one of the vector ``x`` that it was made of."""
    if problem.layout.similarity != "cosine":
        return e
    norm = np.linalg.norm(x, axis=-1, keepdims=True)
    tiny = norm <= spec.SMALLEST_NORM
    whole = e + np.abs(unit) * np.sum(np.abs(unit) * e, -1, keepdims=True)
    return np.asarray(np.where(tiny, 0.0, whole / np.where(tiny, 1.0, norm)))
