"""What one example of a proof is made of: a layout, and numbers that the dtype under test holds exactly."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ..cascade.policy import CascadePolicy
from ..heads import Head, NestedHead, TiedHead
from ..nesting import Nesting

Float = NDArray[np.float64]

UNIT_ROUNDOFF = {"float16": 2.0**-11, "bfloat16": 2.0**-8, "float32": 2.0**-24, "float64": 2.0**-53}
"""``u``: the largest relative error of rounding a number in range to the nearest one of the dtype."""

HALVES = ("float16", "bfloat16")

SMALLEST = {"float16": 2.0**-24, "bfloat16": 2.0**-126, "float32": 2.0**-126, "float64": 2.0**-1022}
"""What underflow may lose: the spacing of float16's subnormals; elsewhere they may be flushed to zero."""


@dataclass(frozen=True)
class Layout:
    """Everything about a problem but its numbers: what a traced function is traced for.

    Attributes:
        nesting: the granularities and their weights.
        lead: the leading axes of ``z``.
        width: ``D``; 0 stands for the nesting's width.
        classes: ``C``; of a search, the rows of the database.
        tied, bias: the kind of head, and whether it has biases.
        label_smoothing, ignore_index, reduction, chunk_rows: the options of :func:`mrl.nested_cross_entropy`.
        soft: labels are probabilities of the classes.
        weighted: which of ``"sample_weight"``, ``"class_weight"`` and ``"level_weights"`` are given.
        topk: of :func:`mrl.nested_accuracy`; of a search, how many rows each stage keeps.
        policy: of a cascade, with the dims of the nesting.
        symmetric, similarity: options of :func:`mrl.nested_contrastive`; there ``classes`` are its candidates.
        temperature: of such a loss, a number; or an array that is differentiated, ``()`` for 0 and ``(G,)`` for -1.
        excluding: candidates are taken out.
        given: what a cascade is given: ``"embeddings"``, or the ``"probabilities"`` or ``"logits"`` of all levels;
            or ``"pairs"`` of embeddings, which a contrastive loss is given.
        metric: of a search.
        prepared: whether a search is given a :class:`mrl.Database`.
        head_dtype: of the head, where it is not that of ``z``.
        frozen: places of arrays that are not differentiated: 0 is ``z``, then come those of the head.
        strided: arrays do not lie in memory in one piece, where a framework has such.
        twice: the backward pass is asked for twice, where that is no new trace.

    Example:
        >>> import mrl, mrl.testing
        >>> mrl.testing.Layout(mrl.Nesting((2, 5)), (3, 2)).rows
        6
    """

    nesting: Nesting
    lead: tuple[int, ...] = (3,)
    width: int = 0
    classes: int = 4
    tied: bool = True
    bias: bool = True
    label_smoothing: float = 0.0
    ignore_index: int | None = None
    reduction: str = "mean"
    chunk_rows: int | None = None
    soft: bool = False
    weighted: tuple[str, ...] = ()
    topk: tuple[int, ...] = ()
    policy: CascadePolicy | None = None
    symmetric: bool = False
    similarity: str = "cosine"
    temperature: float = 1.0
    excluding: bool = False
    given: str = "embeddings"
    metric: str = "cosine"
    prepared: bool = False
    head_dtype: str = ""
    frozen: tuple[int, ...] = ()
    strided: bool = False
    twice: bool = False

    @property
    def features(self) -> int:
        return self.width or self.nesting.width

    @property
    def rows(self) -> int:
        return math.prod(self.lead)


@dataclass(frozen=True)
class Problem:
    """A layout and its numbers, in float64 but exactly representable in ``dtype``, or those of a head in its own.

    Attributes:
        layout: all that is no number.
        dtype: of the arrays under test, but for a head with a dtype of its own.
        z: the embeddings ``(*lead, D)``, or what a cascade is given.
        head: a head of NumPy arrays.
        labels: ``lead`` integers, or probabilities ``(*lead, C)``; the candidates of a search.
        upstream: the gradient that comes back from above, of the shape of what is differentiated.
        targets: embeddings to be near to, for losses without a head; the database of a search.
        negatives: ``(..., D)``, embeddings to be far from.
        temperature: ``()`` or ``(G,)``, if it is differentiated.
        exclude: ``(B, M)``, which candidates are taken out.
        sample_weight, class_weight, level_weights: of rows ``lead``, classes ``(C,)`` and levels ``(G,)``.

    Example:
        >>> import mrl.testing
        >>> problem = mrl.testing.strategies.problems(mrl.testing.strategies.layouts(), "bfloat16")
        >>> problem  # a strategy of Hypothesis, which draws them
        problems(layout=layouts(), dtype='bfloat16')
    """

    layout: Layout
    dtype: str
    z: Float
    head: Head
    labels: NDArray[Any]
    upstream: Float
    targets: Float | None = None
    negatives: Float | None = None
    temperature: Float | None = None
    exclude: NDArray[np.bool_] | None = None
    sample_weight: Float | None = None
    class_weight: Float | None = None
    level_weights: Float | None = None

    @property
    def positives(self) -> Float:
        """The targets, which a contrastive loss always has."""
        assert self.targets is not None
        return self.targets

    @property
    def accumulation(self) -> str:
        return "float64" if "float64" in (self.dtype, self.head_dtype) else "float32"

    @property
    def head_dtype(self) -> str:
        return self.layout.head_dtype or self.dtype

    @property
    def factors(self) -> str:
        """The dtype in which ``z`` and the head are multiplied."""
        return self.dtype if self.dtype == self.head_dtype else self.accumulation

    def with_layout(self, **changes: Any) -> Problem:
        return replace(self, layout=replace(self.layout, **changes))

    def with_head(self, head: Head) -> Problem:
        return replace(self, head=head)


def round_to(values: ArrayLike, dtype: str) -> Float:
    """The nearest numbers of ``dtype``, as float64; to subnormal ones and zero too, as strict as NumPy may be set."""
    values = np.asarray(values, np.float64)
    with np.errstate(under="ignore"):
        if dtype != "bfloat16":
            return values.astype(dtype).astype(np.float64)
        bits = values.astype(np.float32).view(np.uint32).astype(np.uint64)
    bits += 0x7FFF + ((bits >> np.uint64(16)) & np.uint64(1))  # to nearest, ties to even
    return np.asarray((bits & np.uint64(0xFFFF0000)).astype(np.uint32).view(np.float32), np.float64)


def head_from(layout: Layout, leaves: list[Any]) -> Head:
    """The head that :func:`mrl.heads.head_leaves` took apart."""
    if layout.tied:
        return TiedHead(*leaves)
    count = len(layout.nesting)
    return NestedHead(tuple(leaves[:count]), tuple(leaves[count:]) or None)


def leaf_shapes(layout: Layout) -> list[tuple[int, ...]]:
    """The shapes of :func:`mrl.heads.head_leaves` for this layout."""
    if layout.tied:
        return [(layout.classes, layout.features)] + [(layout.classes,)] * layout.bias
    count = len(layout.nesting)
    return [(layout.classes, m) for m in layout.nesting.dims] + [(layout.classes,)] * (layout.bias * count)
