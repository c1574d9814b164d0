"""How far a right implementation may be from the specification: forward error bounds, carried beside the values.

Each function gives ``{name: (value, bound)}``. The values are those of :mod:`mrl.spec` in float64; a bound holds
for any order of summation, hence for the naive and the block form alike. With ``u`` the unit roundoff of the
accumulation dtype and ``gamma(n) = n u / (1 - n u)``:

* logits:     ``E_s = gamma(m + G + 2) (|z| |W|^T + |b|)``
* log-sum-exp: ``E_lse = log sum_c p_c exp(E_s,c) + u (C + log C + 4 + 2 |lse|)``
* softmax gradient: ``E_q = p expm1(E_s + E_lse + u (6 + |s - lse|)) + 2 u (|q| + target)``

Absolute values are then pushed through the sums and products that follow. A float64 result is compared with a
specification that is itself rounded: its bounds are doubled.

Forward, the product of two halves is exact in float32, so that half precision changes nothing there. Backward, the
gradient of the logits may be rounded once to the dtype ``h`` of both factors before its products with ``z`` and ``W``,
as a framework rounds it for a head of its own; the bias sums it unrounded. A block's is ``S_g = sum_{l >= g} R_l``, and
``|S_g| <= sum_{l >= g} |R_l|``: so ``u_h |R_l|`` a level, pushed through the same products of absolute values, bounds
the rounding of one sum, and of its terms one by one, alike. What float16 loses below its range is at most half the
spacing of its subnormals, ``2^-25``, and never more than the number itself. The fused loss scales the gradient first by
``rho``, its largest row factor times weight, and the products afterwards: there it is ``2^-25 rho``.

Source: Higham, Accuracy and Stability of Numerical Algorithms, 2nd edition, sections 3.1 and 3.5 (sums and
products); Blanchard, Higham and Higham, IMA J. Numer. Anal. 41 (2021), sections 3 and 4 (log-sum-exp, softmax).
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from ... import spec
from ...checks import head_arrays
from ...heads import Head, head_leaves
from ...spec.logits import classifiers
from ..problems import HALVES, SMALLEST, UNIT_ROUNDOFF, Float, Problem
from ..rounding import Bounded, finish, gamma


def logits_bound(problem: Problem) -> Float:
    """``E_s`` of every granularity, ``(G, ..., C)``."""
    u, levels = UNIT_ROUNDOFF[problem.accumulation], len(problem.layout.nesting)
    bounds = []
    for m, weight, bias in classifiers(problem.head, problem.layout.nesting):
        size = np.abs(problem.z[..., :m]) @ np.abs(weight).T + (0 if bias is None else np.abs(bias))
        bounds.append(gamma(m + levels + 2, u) * size + m * SMALLEST[problem.accumulation])
    return np.stack(bounds)


def truncate(problem: Problem, dim: int, *, normalize: bool) -> Bounded:
    """The prefix of ``z``, and the gradient of ``sum(upstream[..., :dim] * prefix)``."""
    u, upstream = UNIT_ROUNDOFF[problem.accumulation], problem.upstream[..., :dim]
    y = spec.truncate(problem.z, dim, normalize=normalize)
    dz = spec.truncate_vjp(problem.z, dim, upstream, normalize=normalize)
    value_bound, size = np.zeros_like(y), np.zeros_like(dz)
    if normalize:
        value_bound = gamma(dim + 8, u) * np.abs(y)
        norm = np.linalg.norm(problem.z[..., :dim], axis=-1, keepdims=True)
        tiny = norm <= spec.SMALLEST_NORM
        radial = np.abs(y) * np.sum(np.abs(y * upstream), -1, keepdims=True)
        size[..., :dim] = np.where(tiny, 0.0, (np.abs(upstream) + radial) / np.where(tiny, 1.0, norm))
    # The gradient is a difference: its error is relative to its terms, not to itself.
    bounded = {"value": (y, value_bound), "dz": (dz, gamma(3 * dim + 24, u) * size)}
    return finish(problem, bounded, rounded=("value", "dz"))


def nested_ends(problem: Problem) -> Bounded:
    """``nested`` around ``x[0] * x[-1]`` of each normalised prefix, which comes in the dtype of ``z``, cast up."""
    nesting, narrow = problem.layout.nesting, UNIT_ROUNDOFF[problem.dtype]
    u, lost = UNIT_ROUNDOFF[problem.accumulation], SMALLEST[problem.dtype]
    shape, levels = problem.upstream.shape, len(nesting)
    value, e_value = np.zeros(shape), np.zeros(shape)
    dz, e_dz = np.zeros_like(problem.z), np.zeros_like(problem.z)
    for m, w in zip(nesting.dims, nesting.weights, strict=True):
        y = spec.truncate(problem.z, m)
        value += w * y[..., 0] * y[..., -1]
        e_value += (gamma(2, narrow) + gamma(2 * m + levels + 16, u)) * w * np.abs(y[..., 0] * y[..., -1])
        e_value += 3 * w * lost
        upstream = np.zeros_like(y)
        upstream[..., 0] += w * problem.upstream * y[..., -1]
        upstream[..., -1] += w * problem.upstream * y[..., 0]
        dz += spec.truncate_vjp(problem.z, m, upstream)
        norm = np.linalg.norm(problem.z[..., :m], axis=-1, keepdims=True)
        tiny = norm <= spec.SMALLEST_NORM
        size = np.abs(upstream) + np.abs(y) * np.sum(np.abs(y * upstream), -1, keepdims=True)
        # Rounded: the prefix, what comes back to it, the gradient of one level, and the sums of such gradients.
        relative = gamma(levels + 2, narrow) + gamma(3 * m + 24, u)
        error = relative * size + 3 * (1 + w * np.abs(problem.upstream[..., None])) * lost
        e_dz[..., :m] += np.where(tiny, 0.0, error / np.where(tiny, 1.0, norm)) + 2 * lost
    return finish(problem, {"total": (value, e_value), "dz": (dz, e_dz)})


def nested_logits(problem: Problem) -> Bounded:
    """Logits, and the gradients of ``sum(upstream * logits)``."""
    u, nesting = UNIT_ROUNDOFF[problem.accumulation], problem.layout.nesting
    value = spec.nested_logits(problem.z, problem.head, nesting)
    gradients = _gradients(problem, problem.upstream, np.zeros_like(problem.upstream), u, rho=1.0)
    return finish(problem, {"logits": (value, logits_bound(problem)), **gradients})


@np.errstate(all="ignore")  # infinite losses, and what is left out, are chosen around
def nested_cross_entropy(problem: Problem, *, scaled: bool = False) -> Bounded:
    """Total, losses per level, and the gradients of ``sum(upstream * total)``.

    ``scaled`` says that a gradient of logits is scaled before it is rounded, so that float16 loses less of it.
    """
    layout, u = problem.layout, UNIT_ROUNDOFF[problem.accumulation]
    targets, rows, used = _targets(problem)
    share = targets.sum(-1)
    problem = replace(problem, z=np.where(used[..., None], problem.z, 0.0))  # an ignored row may hold anything
    s, e_s = spec.nested_logits(problem.z, problem.head, layout.nesting), logits_bound(problem)
    lse = np.logaddexp.reduce(s, axis=-1, keepdims=True)
    p, below = np.exp(s - lse), np.abs(s - lse)
    # A class that a bias of -inf excludes is so exactly: it has no probability, and no part in any sum.
    excluded = np.isneginf(s)
    e_s, below, size = (np.where(excluded, 0.0, x) for x in (e_s, below, np.abs(s)))
    e_lse = np.log1p(np.sum(p * np.expm1(e_s), -1, keepdims=True))
    e_lse += u * (layout.classes + np.log(layout.classes) + 4 + 2 * np.abs(lse))

    # A target that is spread over the classes may be taken off term by term, or as one product with the logits.
    spread = 1.0 if layout.soft or "class_weight" in layout.weighted else layout.label_smoothing
    loss = np.sum(targets * np.where(excluded, 0.0, lse - s), -1)
    e_loss = share * e_lse[..., 0]
    e_loss += np.sum(targets * (e_s + gamma(layout.classes + 8, u) * (below + spread * (size + np.abs(lse)))), -1)
    e_loss += u * (4 * np.abs(loss) + 2 * share * np.abs(lse[..., 0]))
    loss = np.where((excluded & (targets > 0)).any(-1), np.inf, loss)  # which no rounding makes finite
    divided = gamma(layout.rows + 8 if layout.weighted else 4, u)
    losses = np.where(rows == 0, 0.0, rows * loss)
    e_losses = rows * (e_loss + divided * np.where(np.isinf(loss), 0.0, np.abs(loss)))
    weights = _level_weights(problem).reshape(-1, *(1,) * used.ndim)
    if layout.reduction != "none":
        losses, e_losses = losses.reshape(len(s), -1), e_losses.reshape(len(s), -1)
        level, e_level = losses.sum(-1), e_losses.sum(-1) + gamma(layout.rows + 4, u) * np.abs(losses).sum(-1)
    else:
        level, e_level = losses, e_losses
    level[np.asarray(layout.nesting.weights) == 0] = np.nan  # a level that is left out
    factors = weights.reshape(-1, *(1,) * (level.ndim - 1))
    total = np.where(factors == 0, 0.0, factors * level).sum(0)
    e_total = np.where(factors == 0, 0.0, factors * (e_level + gamma(len(s) + 4, u) * (np.abs(level) + e_level))).sum(0)

    scale = weights * (rows * problem.upstream)
    q = p * share[..., None] - targets
    e_q = p * share[..., None] * np.expm1(e_s + e_lse + u * (6 + below))
    e_q += 2 * u * (np.abs(q) + targets) + SMALLEST[problem.accumulation]
    if layout.soft or layout.weighted:  # sums of targets, and products with them
        e_q += gamma(layout.classes + 6, u) * (p * share[..., None] + targets)
    r, e_r = scale[..., None] * q, np.abs(scale[..., None]) * (e_q + (divided + 4 * u) * np.abs(q))
    # Any product of its factors may come out subnormal and be flushed to zero, and the other factors scale that.
    flushed = SMALLEST[problem.accumulation] * (1 + np.abs(problem.upstream) * (1 + weights)) * (1 + share)
    e_r += np.where(scale == 0, 0.0, flushed)[..., None]
    rho = float(np.max(np.abs(scale) * np.maximum(share, 1), initial=0.0)) if scaled else 1.0
    return finish(
        problem,
        {"total": (total, e_total), "per_level": (level, e_level), **_gradients(problem, r, e_r, u, rho=rho)},
    )


def _targets(problem: Problem) -> tuple[Float, Float, np.ndarray]:
    """Each row's shares of the classes, what its loss is multiplied by, and whether it is in use."""
    layout, labels, classes = problem.layout, problem.labels, problem.layout.classes
    class_weight = np.ones(classes) if problem.class_weight is None else problem.class_weight
    if layout.soft:
        used, targets, counted = np.ones(layout.lead, bool), labels, np.ones(layout.lead)
    else:
        used = np.ones(layout.lead, bool) if layout.ignore_index is None else labels != layout.ignore_index
        safe = np.where(used, labels, 0)
        targets, counted = np.eye(classes)[safe] * used[..., None], class_weight[safe]
    rows = np.where(used, 1.0 if problem.sample_weight is None else problem.sample_weight, 0.0)
    targets = class_weight * ((1 - layout.label_smoothing) * targets + layout.label_smoothing / classes)
    if layout.reduction == "mean":
        whole = np.sum(np.where(used, rows * counted, 0.0))
        rows = rows / whole if whole else np.zeros_like(rows)
    return targets, rows, used


def _level_weights(problem: Problem) -> Float:
    weights = np.asarray(problem.layout.nesting.weights)
    return weights if problem.level_weights is None else weights * problem.level_weights


def nested_cosine(problem: Problem) -> Bounded:
    """``sum_g w_g mean_i (1 - cos)`` of the prefixes of ``z`` and ``targets``, and its gradient for ``z``."""
    u, nesting = UNIT_ROUNDOFF[problem.accumulation], problem.layout.nesting
    assert problem.targets is not None
    count, levels = max(1, problem.layout.rows), len(nesting)
    total, e_total = np.zeros(()), np.zeros(())
    dz, e_dz = np.zeros_like(problem.z), np.zeros_like(problem.z)
    for m, w in zip(nesting.dims, nesting.weights, strict=True):
        a, b = spec.truncate(problem.z, m), spec.truncate(problem.targets, m)
        overlap = np.sum(np.abs(a * b), -1, keepdims=True)
        total = total + w / count * np.sum(1 - np.sum(a * b, -1))
        e_total = e_total + w / count * np.sum(gamma(3 * m + 24, u) * overlap + gamma(count + levels + 8, u) * 2)
        dz += spec.truncate_vjp(problem.z, m, -w / count * problem.upstream * b)
        norm = np.linalg.norm(problem.z[..., :m], axis=-1, keepdims=True)
        tiny = norm <= spec.SMALLEST_NORM
        size = np.abs(w / count * problem.upstream) * (np.abs(b) + np.abs(a) * overlap)
        e_dz[..., :m] += gamma(6 * m + levels + 40, u) * np.where(tiny, 0.0, size / np.where(tiny, 1.0, norm))
    return finish(problem, {"total": (total, e_total), "dz": (dz, e_dz)})


def _gradients(problem: Problem, r: Float, e_r: Float, u: float, *, rho: float) -> Bounded:
    """``z`` and head gradients of logits whose own gradients are ``r``, known up to ``e_r`` and scaled by ``rho``."""
    layout, z = problem.layout, problem.z
    dz, dhead = spec.nested_logits_vjp(z, problem.head, layout.nesting, r)
    levels = len(layout.nesting)
    # The same products of absolute values bound the errors, whichever way the sums are arranged.
    magnitude = type(problem.head)(*_absolute(problem.head))
    rounded = e_r + _rounded_once(problem.factors, np.abs(r) + e_r, rho)
    e_dz, _ = spec.nested_logits_vjp(
        z, magnitude, layout.nesting, rounded + gamma(layout.classes + levels + 6, u) * np.abs(r)
    )
    summed = gamma(layout.rows + levels + 6, u) * np.abs(r)
    _, e_products = spec.nested_logits_vjp(np.abs(z), magnitude, layout.nesting, rounded + summed)
    _, e_sums = spec.nested_logits_vjp(np.abs(z), magnitude, layout.nesting, e_r + summed)
    bounds = zip(head_leaves(dhead), head_leaves(e_products), head_leaves(e_sums), strict=True)
    names = head_arrays(problem.head, layout.nesting)
    return {
        "dz": (dz, e_dz),
        **{
            f"d{name}": (gradient, e_sum if "bias" in name else e_product)
            for name, (gradient, e_product, e_sum) in zip(names, bounds, strict=True)
        },
    }


def _rounded_once(dtype: str, size: Float, rho: float) -> Float | float:
    """What rounding a gradient of logits, no larger than ``size``, to a half-precision ``dtype`` may change."""
    if dtype not in HALVES:
        return 0.0
    lost = 2.0**-25 * rho if dtype == "float16" else SMALLEST[dtype]
    # Scaling and scaling back are four more roundings in float32.
    return (UNIT_ROUNDOFF[dtype] + gamma(4, UNIT_ROUNDOFF["float32"])) * size + np.minimum(lost, size)


def _absolute(head: Head) -> list[Any]:
    return [
        None if field is None else tuple(np.abs(x) for x in field) if isinstance(field, tuple) else np.abs(field)
        for field in head
    ]
