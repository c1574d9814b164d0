"""The nested contrastive loss, by the specification."""

from __future__ import annotations

from typing import Any

import numpy as np

from mrl import spec
from mrl.heads import NestedLoss
from mrl.nesting import Nesting

from .arrays import wide_dtype


def nested_contrastive(
    anchors: np.ndarray,
    positives: np.ndarray,
    nesting: Nesting,
    *,
    negatives: np.ndarray | None,
    temperature: float | np.ndarray,
    exclude: np.ndarray | None,
    symmetric: bool,
    similarity: str,
    reduction: str,
    fused: bool,
    chunk_rows: int | None,
    across: Any,
) -> NestedLoss:
    if across is not None:
        raise ValueError(f"across: expected None for NumPy, which has one device, got {across!r}; leave it out")
    # There is no graph to keep small here: both forms are the specification, level by level.
    loss = spec.nested_contrastive(
        anchors,
        positives,
        nesting,
        negatives=negatives,
        temperature=temperature,
        symmetric=symmetric,
        exclude=exclude,
        similarity=similarity,
        reduction=reduction,
    )
    dtype = wide_dtype(*(x for x in (anchors, positives, negatives) if x is not None))
    return NestedLoss(np.asarray(loss.total).astype(dtype)[()], loss.per_level.astype(dtype))
