"""Adaptive classification: on given values, and computing only what each row needs."""

from __future__ import annotations

import math
from typing import Any

import tensorflow as tf

from mrl.cascade.planning import plan_chunk_rows, plan_wave_rows
from mrl.cascade.policy import CascadePolicy, CascadeResult
from mrl.heads import Head, TiedHead

from .arrays import accumulation_dtype
from .cascade_walk import walk, walk_traced
from .confidence import confidence_of, first_largest, given_confidence


def cascade_exit(probabilities: Any, policy: CascadePolicy, *, logits: bool) -> CascadeResult:
    values = tf.stop_gradient(probabilities)
    values = values if values.dtype == tf.float64 else tf.cast(values, tf.float32)
    cuts = policy.cuts64 if values.dtype == tf.float64 else policy.cuts32
    last = len(policy) - 1
    confidence = given_confidence(values[last], policy, last, logits)
    labels = first_largest(values[last])
    labels = tf.where(tf.math.is_nan(confidence), -tf.ones_like(labels), labels)
    level = tf.fill(tf.shape(labels), tf.constant(last, tf.int64))
    for g in reversed(range(last)):
        found = given_confidence(values[g], policy, g, logits)
        exits = found > cuts[g]
        labels = tf.where(exits, first_largest(values[g]), labels)
        level = tf.where(exits, tf.constant(g, tf.int64), level)
        confidence = tf.where(exits, found, confidence)
    return CascadeResult(labels, level, confidence)
