"""Adaptive classification: on given values, and computing only what each row needs."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from mrl.cascade.planning import SURELY, level_columns, plan_chunk_rows, plan_wave_rows
from mrl.cascade.policy import CascadePolicy, CascadeResult
from mrl.heads import Head, NestedHead, TiedHead

from .arrays import accumulation_dtype, factor_dtype, is_batched, multiplies, no_autocast
from .sweep import add_product


def cascade_exit(probabilities: Tensor, policy: CascadePolicy, *, logits: bool) -> CascadeResult:
    values = probabilities.detach()
    values = values if values.dtype == torch.float64 else values.float()
    cuts = policy.cuts64 if values.dtype == torch.float64 else policy.cuts32
    last = len(policy) - 1
    confidence = _given(values[last], policy, last, logits)
    labels = torch.where(confidence.isnan(), -1, values[last].argmax(-1))
    level = torch.full_like(labels, last)
    for g in reversed(range(last)):
        found = _given(values[g], policy, g, logits)
        exits = found > cuts[g]
        labels = torch.where(exits, values[g].argmax(-1), labels)
        level = torch.where(exits, g, level)
        confidence = torch.where(exits, found, confidence)
    return CascadeResult(labels, level, confidence)


def cascade_predict(z: Tensor, head: Head, policy: CascadePolicy, *, chunk_rows: int | None) -> CascadeResult:
    if isinstance(head, TiedHead):
        weights, biases = [head.weight], [] if head.bias is None else [head.bias]
    else:
        weights, biases = list(head.weights), list(head.biases or ())
    compiling = torch.compiler.is_compiling()
    if not compiling:
        if torch.jit.is_tracing():  # and would keep how many rows this input left to each level
            raise RuntimeError(
                "cascade_predict: each row stops at a level of its own, which torch.jit.trace cannot record; "
                "use torch.export"
            )
        if any(is_batched(x) for x in (z, *weights, *biases)):
            raise _batched()
    run = _opaque_run if compiling else _run
    # Nothing is differentiable here, and the operator of a compiled graph has no gradient to be asked for.
    narrow = factor_dtype(z, head)  # here, because the operator runs where autocast may not be known any more
    fields = run(
        z.detach().reshape(-1, z.shape[-1]).to(narrow),
        [weight.detach().to(narrow) for weight in weights],
        [bias.detach() for bias in biases],
        policy.thresholds,
        policy.dims,
        policy.confidence,
        policy.temperatures,
        isinstance(head, TiedHead),
        chunk_rows,
    )
    return CascadeResult(*(field.reshape(z.shape[:-1]) for field in fields))


def _run(
    z: Tensor,
    weights: Sequence[Tensor],
    biases: Sequence[Tensor],
    thresholds: Sequence[float],
    dims: Sequence[int],
    confidence: str,
    temperatures: Sequence[float],
    tied: bool,
    chunk_rows: int | None,
) -> tuple[Tensor, Tensor, Tensor]:
    policy = CascadePolicy(thresholds, dims, confidence=confidence, temperatures=temperatures)
    bias = biases[0] if biases else None
    head = TiedHead(weights[0], bias) if tied else NestedHead(tuple(weights), tuple(biases) or None)
    wide = accumulation_dtype(z, head)
    result = CascadeResult(*_empty(z, wide))
    with torch.no_grad(), no_autocast(z.device):
        on_host = z.device.type == "cpu"
        chunk = plan_chunk_rows(len(z), len(weights[0]), wide.itemsize, on_host=on_host, chunk_rows=chunk_rows)
        wave = plan_wave_rows(chunk, len(weights[0]), wide.itemsize, on_host=on_host)
        for start in range(0, len(z), wave):
            rows = slice(start, start + wave)
            _walk(z[rows], head, policy, chunk, CascadeResult(*(field[rows] for field in result)))
    return tuple(result)


@torch.library.custom_op("mrl::cascade_predict", mutates_args=())
def _opaque_run(
    z: Tensor,
    weights: Sequence[Tensor],
    biases: Sequence[Tensor],
    thresholds: Sequence[float],
    dims: Sequence[int],
    confidence: str,
    temperatures: Sequence[float],
    tied: bool,
    chunk_rows: int | None,
) -> tuple[Tensor, Tensor, Tensor]:
    """One node of a compiled graph: how many rows are left is not known before it runs."""
    return _run(z, weights, biases, thresholds, dims, confidence, temperatures, tied, chunk_rows)


@_opaque_run.register_fake
def _(
    z: Tensor,
    weights: Sequence[Tensor],
    biases: Sequence[Tensor],
    thresholds: Sequence[float],
    dims: Sequence[int],
    confidence: str,
    temperatures: Sequence[float],
    tied: bool,
    chunk_rows: int | None,
) -> tuple[Tensor, Tensor, Tensor]:
    double = any(x.dtype == torch.float64 for x in (z, *weights, *biases))
    return _empty(z, torch.float64 if double else torch.float32)


@_opaque_run.register_vmap
def _(info: Any, in_dims: Any, *arguments: Any) -> Any:
    raise _batched()


def _batched() -> RuntimeError:
    return RuntimeError(
        "cascade_predict: each row stops at a level of its own, which torch.func.vmap cannot do; "
        "call it on all rows at once, z of any leading shape (..., D), or in a loop over heads"
    )


def _empty(z: Tensor, wide: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
    return (  # of z.shape[0]: len(z) would make a traced graph one for this many rows
        z.new_empty(z.shape[0], dtype=torch.int64),
        z.new_empty(z.shape[0], dtype=torch.int64),
        z.new_empty(z.shape[0], dtype=wide),
    )


def _walk(z: Tensor, head: Head, policy: CascadePolicy, chunk: int, result: CascadeResult) -> None:
    """All levels for the rows of ``z``; the rows still undecided, and their logits, close up after each."""
    wide, tied, last = result.confidence.dtype, isinstance(head, TiedHead), len(policy) - 1
    weights = (head.weight,) * (last + 1) if tied else head.weights
    biases = ((head.bias,) * (last + 1) if tied else head.biases) or (None,) * (last + 1)
    cuts = policy.cuts64 if wide == torch.float64 else policy.cuts32
    waiting = torch.arange(len(z), device=z.device)
    scratch, work = z.new_empty((2, chunk, len(weights[0])), dtype=wide)
    # Logits are added to where they lie and close up into the other half, which the next level adds to.
    store, spare = z.new_empty((2, len(z) if tied and last else 0, len(weights[0])), dtype=wide)
    factor = z.dtype if multiplies(z.dtype, z.device) else wide
    for g, (start, stop) in enumerate(level_columns(policy.nesting, tied=tied)):
        columns, weight = z[:, start:stop], weights[g][:, start:stop].to(factor).contiguous().mT  # read by every chunk
        before = z.new_zeros((), dtype=wide) if biases[g] is None else biases[g].to(wide)
        kept = 0
        for i in range(0, len(waiting), chunk):
            rows = waiting[i : i + chunk]
            x = columns[i : i + chunk] if g == 0 else columns.index_select(0, rows)
            base, out = (store[i : i + len(rows)],) * 2 if tied and g else (before, scratch[: len(rows)])
            logits = add_product(base, x.to(factor), weight, out=out if factor == wide else scratch[: len(rows)])
            able = logits
            if g < last:
                maybe = _maybe(logits, policy.confidence, policy.temperatures[g], cuts[g])
                able = logits if maybe is None else logits.index_select(0, maybe)
            confidence = _confidence(able, policy.confidence, policy.temperatures[g], work[: len(able)])
            if g < last:
                exits = confidence > cuts[g]
                among = exits.nonzero().squeeze(1)
                done = among if maybe is None else maybe.index_select(0, among)
                stays = waiting.new_ones(len(rows), dtype=torch.bool).index_fill_(0, done, False).nonzero().squeeze(1)
                left, rows = rows.index_select(0, stays), rows.index_select(0, done)
                waiting[kept : kept + len(left)] = left
                if tied:
                    torch.index_select(logits, 0, stays, out=spare[kept : kept + len(left)])
                kept += len(left)
                able, confidence = able.index_select(0, among), confidence.index_select(0, among)
            # The first of equals, as argmax, which takes almost three times as long.
            result.labels[rows] = torch.where(confidence.isnan(), -1, able.max(-1).indices)
            result.level[rows] = g
            result.confidence[rows] = confidence
        store, spare = spare, store
        waiting = waiting[:kept]


def _given(values: Tensor, policy: CascadePolicy, g: int, logits: bool) -> Tensor:
    """The confidence of level ``g`` of given logits or probabilities."""
    if logits:
        return _confidence(values, policy.confidence, policy.temperatures[g], None)
    values = values.clamp(0, 1)
    if policy.temperatures[g] != 1:
        return _confidence(values.log(), policy.confidence, policy.temperatures[g], None)
    return _reduce(values, values, policy.confidence)


def _confidence(logits: Tensor, kind: str, temperature: float, work: Tensor | None) -> Tensor:
    """``spec.confidence`` of logits in their own dtype; ``work`` is scratch of their shape."""
    temperature = min(max(temperature, 2.0**-126), 2.0**126)  # float32 has no number for what is beyond
    # The largest comes off first: what is rounded in the division grows with the logits.
    scaled = logits if temperature == 1 else (logits - logits.amax(-1, keepdim=True)) / temperature
    p = scaled.softmax(-1) if work is None else torch.softmax(scaled, -1, out=work)
    return _reduce(p, logits, kind)


def _maybe(logits: Tensor, kind: str, temperature: float, cut: float) -> Tensor | None:
    """The rows whose confidence may be above ``cut``, in order; ``None`` for all, and where no cheap bound is known.

    By Jensen's inequality ``sum exp(s) >= C exp(mean s)``, so that no probability is above ``exp(max s - mean s) / C``,
    and no margin either. What is not a number stays among them.
    """
    classes = logits.shape[-1]
    if kind == "entropy" or cut <= 0:
        return None
    temperature = min(max(temperature, 2.0**-126), 2.0**126)
    largest = logits.amax(-1)
    # A mean of numbers of about that size is rounded once per class at most.
    slack = SURELY + classes * torch.finfo(logits.dtype).eps * (largest.abs() / temperature + math.log(classes))
    below = (largest - logits.mean(-1)) / temperature - math.log(classes) + slack < math.log(cut)
    maybe = below.logical_not_().nonzero().squeeze(1)
    return None if len(maybe) == len(logits) else maybe


def _reduce(p: Tensor, order: Tensor, kind: str) -> Tensor:
    """The confidence of probabilities whose largest is the largest of ``order``."""
    classes = p.shape[-1]
    if kind == "entropy":
        return p.sum(-1) if classes == 1 else 1 - torch.special.entr(p).sum(-1) / math.log(classes)
    largest = p.amax(-1)
    if kind == "probability":
        return largest
    # Clearing the largest and looking again costs less than a sort, or than the two largest.
    return largest - p.scatter(-1, order.argmax(-1, keepdim=True), 0.0).amax(-1)
