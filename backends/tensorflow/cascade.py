"""Adaptive classification: on given values, and computing only what each row needs."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import tensorflow as tf

from mrl.cascade.planning import level_columns, plan_chunk_rows, plan_wave_rows
from mrl.cascade.policy import CascadePolicy, CascadeResult
from mrl.heads import Head, TiedHead, head_classes
from mrl.nesting import Nesting

from .arrays import accumulation_dtype, in_xla, nan_where, on_host

MANY_ROWS = 1024


class Rule(NamedTuple):
    """What a walk needs of a policy: in a graph that policies share, ``cuts`` and ``temperatures`` are tensors."""

    dims: tuple[int, ...]
    confidence: str
    cuts: Any
    temperatures: Any  # None: all are 1

    def accepts(self, confidence: tf.Tensor, g: int) -> tf.Tensor:
        return confidence > self.cuts[g]

    def confidence_of(self, logits: tf.Tensor, g: int) -> tf.Tensor:
        return _confidence(logits, self.confidence, None if self.temperatures is None else self.temperatures[g])


def cascade_exit(probabilities: Any, policy: CascadePolicy, *, logits: bool) -> CascadeResult:
    values = tf.stop_gradient(probabilities)
    values = values if values.dtype == tf.float64 else tf.cast(values, tf.float32)
    cuts = policy.cuts64 if values.dtype == tf.float64 else policy.cuts32
    last = len(policy) - 1
    confidence = _given(values[last], policy, last, logits)
    labels = tf.argmax(values[last], -1)
    labels = tf.where(tf.math.is_nan(confidence), -tf.ones_like(labels), labels)
    level = tf.fill(tf.shape(labels), tf.constant(last, tf.int64))
    for g in reversed(range(last)):
        found = _given(values[g], policy, g, logits)
        exits = found > cuts[g]
        labels = tf.where(exits, tf.argmax(values[g], -1), labels)
        level = tf.where(exits, tf.constant(g, tf.int64), level)
        confidence = tf.where(exits, found, confidence)
    return CascadeResult(labels, level, confidence)


def cascade_predict(z: Any, head: Head, policy: CascadePolicy, *, chunk_rows: int | None) -> CascadeResult:
    z, head = tf.nest.map_structure(lambda x: None if x is None else tf.stop_gradient(x), (z, head))
    wide = accumulation_dtype(z, head)
    lead = tf.shape(z)[:-1]
    z = tf.reshape(z, [-1, z.shape[-1]])
    classes = head_classes(head)
    # Starting an operation costs more here than a cache that is too small, but for XLA, which joins them.
    chunk_rows = chunk_rows or (None if in_xla() else MANY_ROWS)
    chunk = plan_chunk_rows(z.shape[0], classes, wide.size, on_host=on_host(z), chunk_rows=chunk_rows)
    cuts = policy.cuts64 if wide == tf.float64 else policy.cuts32
    temperatures = [_normal(t) for t in policy.temperatures] if set(policy.temperatures) != {1.0} else None
    rule = Rule(policy.dims, policy.confidence, cuts, temperatures)
    if in_xla():
        fields = _walk_compiled(z, head, rule, chunk)
        return CascadeResult(*(tf.reshape(field, lead) for field in fields))
    if not tf.executing_eagerly():
        # The graph may be called where XLA compiles later, and its shapes would end the process there. XLA compiles no
        # strings, and says which it has met.
        with tf.control_dependencies(
            [tf.strings.as_string(lead, name="cascade_predict_was_traced_without_jit_compile")]
        ):
            z = tf.identity(z)
    if z.shape[0] is None:
        fields = _walk(z, head, rule, chunk)
    else:
        # Many chunks are worth a graph, which starts its operations faster and several at a time.
        walk = _walk_in_graph if tf.executing_eagerly() and z.shape[0] > chunk else _walk
        wave = plan_wave_rows(chunk, classes, wide.size)
        parts = [walk(z[i : i + wave], head, rule, chunk) for i in range(0, max(1, z.shape[0]), wave)]
        fields = [tf.concat(field, 0) for field in zip(*parts, strict=True)]
    return CascadeResult(*(tf.reshape(field, lead) for field in fields))


def _walk(z: tf.Tensor, head: Head, rule: Rule, chunk: int) -> list[tf.Tensor]:
    """All levels for the rows of ``z``; the rows still undecided, and their logits, close up after each."""
    wide, tied, last = accumulation_dtype(z, head), isinstance(head, TiedHead), len(rule.dims) - 1
    waiting, answers = tf.range(tf.shape(z)[0]), []
    store: Any = None
    for g, (weight, bias, (start, stop)) in enumerate(_levels(head, rule, wide)):
        x = tf.cast(_columns(z, waiting, start, stop) if g else z[:, start:stop], wide)
        if bias is not None and not (tied and g):
            # One more column costs less than one more pass over the logits.
            x, weight = tf.pad(x, [[0, 0], [0, 1]], constant_values=1), tf.concat([weight, bias[:, None]], 1)
        classes, chunks = weight.shape[0], tf.maximum(1, -(-tf.shape(waiting)[0] // chunk))
        kinds = [(tf.int32, [None]), (tf.int64, [None]), (wide, [None])]  # who is done, their labels and confidences
        if g < last:  # who is left, and their logits
            kinds += [(tf.int32, [None]), *([(wide, [None, classes])] if tied else [])]
        arrays = [tf.TensorArray(dtype, chunks, element_shape=shape, infer_shape=False) for dtype, shape in kinds]

        def step(i: tf.Tensor, *arrays: tf.TensorArray) -> tuple[Any, ...]:
            part = slice(i * chunk, (i + 1) * chunk)
            rows, logits = waiting[part], tf.matmul(x[part], weight, transpose_b=True)
            if tied and g:
                logits += store[part]
            confidence, left = rule.confidence_of(logits, g), []
            if g < last:
                exits = rule.accepts(confidence, g)
                stays, done = tf.where(~exits)[:, 0], tf.where(exits)[:, 0]
                left = [tf.gather(rows, stays), *([tf.gather(logits, stays)] if tied else [])]
                rows, logits, confidence = tf.gather(rows, done), tf.gather(logits, done), tf.gather(confidence, done)
            labels = tf.argmax(logits, -1)
            labels = tf.where(tf.math.is_nan(confidence), -tf.ones_like(labels), labels)
            found = (rows, labels, confidence, *left)
            return i + 1, *(array.write(i, value) for array, value in zip(arrays, found, strict=True))

        _, *arrays = tf.while_loop(
            lambda i, *_, chunks=chunks: i < chunks, step, [tf.constant(0, tf.int32), *arrays], parallel_iterations=4
        )
        rows, labels, confidence, *left = (array.concat() for array in arrays)
        answers.append((rows, labels, tf.fill(tf.shape(rows), tf.constant(g, tf.int64)), confidence))
        waiting, store = (*left, None, None)[:2]
    rows, *fields = (tf.concat(field, 0) for field in zip(*answers, strict=True))
    place = tf.math.invert_permutation(rows)
    return [tf.gather(field, place) for field in fields]


def _walk_in_graph(z: tf.Tensor, head: Head, rule: Rule, chunk: int) -> list[tf.Tensor]:
    shapes = [None if x is None else tuple(x.shape) for x in tf.nest.flatten((z, head))]
    # Thresholds and temperatures are arguments: policies that differ in nothing else share one graph.
    wide = accumulation_dtype(z, head)
    cuts, temperatures = (None if x is None else tf.constant(x, wide) for x in (rule.cuts, rule.temperatures))
    rule = rule._replace(cuts=cuts, temperatures=temperatures)
    return _trace(z, head, rule, chunk, ((None, z.shape[1]), *shapes[1:]))


@partial(tf.function, autograph=False, reduce_retracing=True)
def _trace(z: tf.Tensor, head: Head, rule: Rule, chunk: int, shapes: tuple[Any, ...]) -> list[tf.Tensor]:
    """One graph for any number of rows; all other lengths are its constants."""
    pairs = zip(tf.nest.flatten((z, head)), shapes, strict=True)
    known = [None if x is None else tf.ensure_shape(x, shape) for x, shape in pairs]
    z, head = tf.nest.pack_sequence_as((z, head), known)
    return _walk(z, head, rule, chunk)


def _columns(z: tf.Tensor, rows: tf.Tensor, start: int, stop: int) -> tf.Tensor:
    """``z[rows, start:stop]``, by whichever of its two copies is smaller."""
    cut = float(stop - start) * tf.cast(tf.shape(z)[0], tf.float64)
    taken = float(z.shape[1]) * tf.cast(tf.shape(rows)[0], tf.float64)
    return tf.cond(cut < taken, lambda: tf.gather(z[:, start:stop], rows), lambda: tf.gather(z, rows)[:, start:stop])


def _walk_compiled(z: tf.Tensor, head: Head, rule: Rule, chunk: int) -> list[tf.Tensor]:
    """The same for XLA, where shapes are fixed: chunks of one size, as many as are needed when it runs.

    What is beyond the last undecided row is computed and written to a place of its own, behind the last row.
    """
    wide, tied, last = accumulation_dtype(z, head), isinstance(head, TiedHead), len(rule.dims) - 1
    total, lanes = tf.shape(z)[0], tf.range(chunk)
    if not z.shape[0]:  # XLA cannot compile a gather from no rows: give it one to leave alone
        z = tf.pad(z, [[0, tf.cast(tf.equal(total, 0), tf.int32)], [0, 0]])
    levels = _levels(head, rule, wide)
    classes = levels[0][0].shape[0]
    fields = [tf.zeros([total + 1], dtype) for dtype in (tf.int64, tf.int64, wide)]
    waiting, count = tf.range(total + chunk), total
    # Loops carry it only where it is used: XLA cannot compile what constants go around in untouched.
    store = [tf.zeros([total + 1, classes], wide)] if tied and last else []
    for g, (weight, bias, (start, stop)) in enumerate(levels):
        pick = _picker(z, start, stop)

        def step(
            j: tf.Tensor, waiting: tf.Tensor, kept: tf.Tensor, fields: list[tf.Tensor], store: list[tf.Tensor]
        ) -> tuple[Any, ...]:
            places = j * chunk + lanes
            used = places < count
            here = tf.slice(waiting, [j * chunk], [chunk])
            x = tf.cast(pick(tf.minimum(here, total - 1)), wide)
            logits = tf.matmul(x, weight, transpose_b=True)
            if tied and g > 0:
                logits += tf.gather(store[0], tf.minimum(places, total))
            elif bias is not None:
                logits += bias
            confidence = rule.confidence_of(logits, g)
            exits = used & rule.accepts(confidence, g) if g < last else used
            labels = tf.argmax(logits, -1)
            labels = tf.where(tf.math.is_nan(confidence), -tf.ones_like(labels), labels)
            target = tf.where(exits, here, total)[:, None]
            found = (labels, tf.fill([chunk], tf.constant(g, tf.int64)), confidence)
            fields = [tf.tensor_scatter_nd_update(a, target, b) for a, b in zip(fields, found, strict=True)]
            if g < last:
                stays = used & ~exits
                place = kept + tf.cumsum(tf.cast(stays, tf.int32)) - 1
                place = tf.where(stays, place, total)[:, None]
                with tf.control_dependencies([here, logits]):  # read before it is overwritten
                    waiting = tf.tensor_scatter_nd_update(waiting, place, here)
                    store = [tf.tensor_scatter_nd_update(x, place, logits) for x in store]
                kept += tf.math.count_nonzero(stays, dtype=tf.int32)
            return j + 1, waiting, kept, fields, store

        chunks = (count + chunk - 1) // chunk
        zero = tf.constant(0, tf.int32)  # a kind of its own under NumPy's rules of promotion, unless stated
        state = (zero, waiting, zero, fields, store)
        _, waiting, count, fields, store = tf.while_loop(
            lambda j, *_, chunks=chunks: j < chunks, step, state, parallel_iterations=1
        )
    return [field[:total] for field in fields]


def _levels(head: Head, rule: Rule, wide: tf.DType) -> list[tuple[tf.Tensor, tf.Tensor | None, tuple[int, int]]]:
    """Each level's matrix, its bias, and the columns of ``z`` that it multiplies."""
    tied, count = isinstance(head, TiedHead), len(rule.dims)
    weights = (head.weight,) * count if tied else head.weights
    biases = ((head.bias,) * count if tied else head.biases) or (None,) * count
    columns = level_columns(Nesting(rule.dims), tied=tied)
    return [
        (tf.cast(weight[:, start:stop], wide), None if bias is None else tf.cast(bias, wide), (start, stop))
        for weight, bias, (start, stop) in zip(weights, biases, columns, strict=True)
    ]


def _picker(z: tf.Tensor, start: int, stop: int) -> Callable[[tf.Tensor], tf.Tensor]:
    """The columns of given rows. Both slices are copies: narrow columns are cut out of all rows once."""
    if 8 * (stop - start) <= z.shape[1]:
        columns = z[:, start:stop]
        return lambda rows: tf.gather(columns, rows)
    return lambda rows: tf.gather(z, rows)[:, start:stop]


def _given(values: tf.Tensor, policy: CascadePolicy, g: int, logits: bool) -> tf.Tensor:
    """The confidence of level ``g`` of given logits or probabilities."""
    temperature = None if policy.temperatures[g] == 1 else _normal(policy.temperatures[g])
    values = values if logits else tf.clip_by_value(values, 0, 1)
    if logits or temperature is not None:
        return _confidence(values if logits else tf.math.log(values), policy.confidence, temperature)
    return _reduce(values, values, policy.confidence, tf.reduce_any(tf.math.is_nan(values), -1))


def _normal(temperature: float) -> float:
    """What has a reciprocal that XLA, which multiplies by it, does not flush to zero."""
    return min(max(temperature, 2.0**-126), 2.0**126)


def _confidence(logits: tf.Tensor, kind: str, temperature: tf.Tensor | float | None) -> tf.Tensor:
    """``spec.confidence`` of logits in their own dtype."""
    scores = logits
    if temperature is not None:  # The largest comes off first: what is rounded in the division grows with the logits.
        scores = (logits - tf.reduce_max(logits, -1, keepdims=True)) / temperature
    p = tf.nn.softmax(scores)
    return _reduce(p, logits, kind, tf.math.is_nan(tf.reduce_sum(p, -1)))  # oneDNN's softmax keeps a NaN to itself


def _reduce(p: tf.Tensor, order: tf.Tensor, kind: str, unknown: tf.Tensor) -> tf.Tensor:
    """The confidence of probabilities whose largest is the largest of ``order``; NaN where it is ``unknown``."""
    classes, largest = p.shape[-1], tf.reduce_max(p, -1)
    if kind == "probability" or classes == 1:
        confidence = largest
    elif kind == "margin":
        first = tf.one_hot(tf.argmax(order, -1), classes, True, False, dtype=tf.bool)
        confidence = largest - tf.reduce_max(tf.where(first, tf.zeros_like(p), p), -1)
    else:
        confidence = 1 + tf.reduce_sum(tf.math.xlogy(p, p), -1) / math.log(classes)
    # TensorFlow's reductions to a maximum do not promise to keep a NaN.
    return confidence + nan_where(unknown, p.dtype)
