"""Adaptive classification: by the specification on given values, and computing only what each row needs."""

from __future__ import annotations

import math

import numpy as np

from mrl import spec
from mrl.cascade.planning import SURELY, level_columns, plan_chunk_rows, plan_wave_rows
from mrl.cascade.policy import CascadePolicy, CascadeResult
from mrl.heads import Head, TiedHead, head_classes

from .arrays import accumulation_dtype


def cascade_exit(probabilities: np.ndarray, policy: CascadePolicy, *, logits: bool) -> CascadeResult:
    labels, level, confidence = spec.cascade_exit(probabilities, policy, logits=logits)
    double = probabilities.dtype == np.float64
    return CascadeResult(labels, level, confidence.astype(np.float64 if double else np.float32))


def cascade_predict(z: np.ndarray, head: Head, policy: CascadePolicy, *, chunk_rows: int | None) -> CascadeResult:
    wide = accumulation_dtype(z, head)
    lead, z = z.shape[:-1], z.reshape(math.prod(z.shape[:-1]), z.shape[-1])
    classes = head_classes(head)
    chunk = plan_chunk_rows(len(z), classes, wide.itemsize, on_host=True, chunk_rows=chunk_rows)
    wave = plan_wave_rows(chunk, classes, wide.itemsize, on_host=True)
    result = CascadeResult(np.empty(len(z), np.int64), np.empty(len(z), np.int64), np.empty(len(z), wide))
    with np.errstate(invalid="ignore", over="ignore", under="ignore"):
        for start in range(0, len(z), wave):
            rows = slice(start, start + wave)
            _walk(z[rows], head, policy, chunk, CascadeResult(*(field[rows] for field in result)))
    return CascadeResult(*(field.reshape(lead) for field in result))


def _walk(z: np.ndarray, head: Head, policy: CascadePolicy, chunk: int, result: CascadeResult) -> None:
    """All levels for the rows of ``z``; the rows still undecided, and their logits, close up after each."""
    wide, tied, last = result.confidence.dtype, isinstance(head, TiedHead), len(policy) - 1
    weights = (head.weight,) * (last + 1) if tied else head.weights
    biases = ((head.bias,) * (last + 1) if tied else head.biases) or (None,) * (last + 1)
    waiting = np.arange(len(z))
    scratch, work = np.empty((2, chunk, len(weights[0])), wide)
    store = np.empty((len(z) if tied and last else 0, len(weights[0])), wide)
    for g, (start, stop) in enumerate(level_columns(policy.nesting, tied=tied)):
        columns, weight = z[:, start:stop], np.ascontiguousarray(weights[g][:, start:stop].astype(wide, copy=False)).T
        kept = 0
        for i in range(0, len(waiting), chunk):
            rows = waiting[i : i + chunk]
            x = columns[i : i + chunk] if g == 0 else columns[rows]
            logits = np.matmul(x.astype(wide, copy=False), weight, out=scratch[: len(rows)])
            if tied and g > 0:
                logits += store[i : i + chunk][: len(rows)]
            elif biases[g] is not None:
                logits += biases[g]
            cut = -math.inf if g == last else (policy.cuts64 if wide == np.float64 else policy.cuts32)[g]
            largest = logits.max(-1, keepdims=True)
            maybe = _maybe(logits, largest, policy.confidence, policy.temperatures[g], cut)
            able, most = (logits, largest) if len(maybe) == len(rows) else (logits[maybe], largest[maybe])
            confidence = _confidence(able, most, policy.confidence, policy.temperatures[g], work[: len(able)])
            among = np.flatnonzero(confidence > cut) if g < last else np.arange(len(able))
            done, confidence = maybe[among], confidence[among]
            stays = np.delete(np.arange(len(rows)), done)
            result.labels[rows[done]] = np.where(np.isnan(confidence), -1, able[among].argmax(-1))
            result.level[rows[done]] = g
            result.confidence[rows[done]] = confidence
            waiting[kept : kept + len(stays)] = rows[stays]
            if tied and g < last:
                store[kept : kept + len(stays)] = logits[stays]
            kept += len(stays)
        waiting = waiting[:kept]


def _maybe(logits: np.ndarray, largest: np.ndarray, kind: str, temperature: float, cut: float) -> np.ndarray:
    """The rows whose confidence may be above ``cut``, in order: all of them where no cheap bound is known.

    By Jensen's inequality ``sum exp(s) >= C exp(mean s)``, so that no probability is above ``exp(max s - mean s) / C``,
    and no margin either. What is not a number stays among them.
    """
    classes = logits.shape[-1]
    if kind == "entropy" or cut <= 0:
        return np.arange(len(logits))
    temperature = min(max(temperature, 2.0**-126), 2.0**126)
    mean, largest = logits @ np.full(classes, 1 / classes, logits.dtype), largest[:, 0]
    # A mean of numbers of about that size is rounded once per class at most.
    slack = SURELY + classes * np.finfo(logits.dtype).eps * (np.abs(largest) / temperature + math.log(classes))
    below = (largest - mean) / temperature - math.log(classes) + slack < math.log(cut)
    return np.flatnonzero(~below)


def _confidence(logits: np.ndarray, largest: np.ndarray, kind: str, temperature: float, work: np.ndarray) -> np.ndarray:
    """``spec.confidence`` of logits in their own dtype; ``work`` is scratch of their shape."""
    np.subtract(logits, largest, out=work)
    if temperature != 1:
        work /= min(max(temperature, 2.0**-126), 2.0**126)  # float32 has no number for what is beyond
    classes = logits.shape[-1]
    if kind == "entropy" and classes > 1:
        # Where exp gives zero the product with its logarithm shall too, also for an infinite one.
        scores = np.maximum(work, -1000)
    np.exp(work, out=work)
    total = work @ np.ones(classes, work.dtype)
    if kind == "probability" or classes == 1:
        return 1 / total
    if kind == "margin":
        work[np.arange(len(work)), logits.argmax(-1)] = 0
        return (1 - work.max(-1)) / total
    return 1 + (np.einsum("ij,ij->i", work, scores) / total - np.log(total)) / math.log(classes)
