"""The principal axes of embeddings, in the order of their variance: the honest baseline of nesting."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from .. import checks
from ..dispatch import backend_of, unwrap
from ..heads import Array
from ..porting.convert import convert
from ..retrieval.arguments import tracker
from .linear import beside, linear

BATCH_ROWS = 4096


class Rotation(NamedTuple):
    """An orthogonal map that puts the directions in which embeddings vary most into the first dimensions.

    ``rotation(x) = x @ axes.T``. Lengths, inner products and cosines at full width stay what they are, so that
    nothing has to be measured anew there; what changes is what a prefix keeps. Calling it works in any framework: what
    was fitted may be NumPy's, and is carried over; ``mrl.convert(rotation, "torch")`` does so once.

    Attributes:
        axes: ``(D, D)``, orthonormal rows, most variance first, each with its largest entry positive: scikit-learn's
            ``PCA.components_``.
        variances: ``(D,)``, along the axes, falling: ``PCA.explained_variance_``; of ``center=False`` mean squares.
        mean: ``(D,)``, of the rows, or zeros. ``rotation(x - rotation.mean)`` is ``PCA.transform``, whose cosines at
            full width are others than those of ``x``.

    Example:
        >>> import mrl, numpy as np
        >>> x = np.random.default_rng(0).normal(size=(500, 8)) * np.arange(1, 9)
        >>> rotation = mrl.fit_rotation(x)
        >>> np.allclose(rotation.inverse(rotation(x)), x), bool((np.diff(rotation.variances) <= 0).all())
        (True, True)

    Source: arXiv 2205.13147, section 4.1 and appendix, which compare with PCA as singular values of embeddings.
    """

    axes: Array
    variances: Array
    mean: Array

    def __call__(self, x: Array) -> Array:
        """``(..., D)`` along the axes, in float32 or wider."""
        x, (axes,) = beside(x, "x", (self.axes,), self.axes.shape[-1])
        return linear(x, axes)

    def inverse(self, z: Array) -> Array:
        """The embeddings of ``z``, exact to rounding."""
        axes = self.axes if isinstance(self.axes, np.ndarray) else convert(self.axes, "numpy")
        z, (back,) = beside(z, "z", (np.ascontiguousarray(axes.T),), axes.shape[-1])
        return linear(z, back)


def fit_rotation(
    embeddings: Array | Iterable[Array], *, center: bool = True, batch_rows: int = BATCH_ROWS, progress: bool = False
) -> Rotation:
    """The principal axes of embeddings, which make a model's dimensions as nested as a rotation can.

    The eigenvectors of ``sum_i (x_i - mean)(x_i - mean)^T / (N - 1)``, largest eigenvalue first: of all orthogonal maps
    the one whose first ``m`` dimensions keep the most variance, for every ``m``. It takes one pass over the rows, which
    need not fit in memory, ``O(N D^2)`` multiply-adds in float64 and ``O(D^2)`` memory.

    Where it helps: for models that were not trained with a Matryoshka loss its prefixes keep far more of the
    neighbours than the model's own. Where not: a model that was trained nested is often better as it is, and where
    labels or pairs are at hand a trained map may be (:func:`fit_adaptor`); variance is not what tells classes apart.
    ``mrl.report(x, transforms={"rotation": rotation})`` shows both.

    Args:
        embeddings: ``(N, D)`` floating, of any framework, memory-mapped too; or an iterable of such batches.
        center: take axes about the mean, as PCA does; ``False`` takes them about zero, which keeps the most of inner
            products where embeddings have a large common part.
        batch_rows: rows in memory at a time.
        progress: show a bar (needs tqdm).

    Returns:
        A :class:`Rotation` in NumPy, float64 for float64 embeddings and float32 for others.

    Raises:
        TypeError: embeddings that are not floating.
        ValueError: fewer than 2 rows, another number of axes, batches of different widths, NaN or infinity.
        ImportError: ``progress`` without tqdm.

    Example:
        >>> import mrl, numpy as np
        >>> rng = np.random.default_rng(0)
        >>> x = (rng.normal(size=(2000, 32)) * 0.8 ** np.arange(32))[:, rng.permutation(32)]
        >>> exact = mrl.search(x[:50], x, k=10).indices
        >>> def recall(z):
        ...     return mrl.metrics.recall_at_k(mrl.search(z[:50], z, k=10, dim=8).indices, exact, 10)
        >>> recall(x) < 0.5 < 0.7 < recall(mrl.fit_rotation(x)(x))
        True

    Source: Pearson, Phil. Mag. 2 (1901) 559; as a baseline, arXiv 2205.13147, section 4.1, and arXiv 2407.20243.
    """
    checks.check_flag("center", center)
    checks.check_integer("batch_rows", batch_rows, at_least=1)
    count, shift, total, products, wide = 0, None, None, None, False
    for name, rows in _batches(embeddings, batch_rows, progress):
        if shift is None:
            width = rows.shape[1]
            # Near the mean, so that the mean's square is not most of what is added up.
            shift = rows.mean(0, dtype=np.float64) if center else np.zeros(width)
            total, products = np.zeros(width), np.zeros((width, width))
        if rows.shape[1] != len(shift):
            raise ValueError(f"{name}: expected {len(shift)} columns, as of the first batch, got {rows.shape[1]}")
        if not np.isfinite(rows).all():
            place = int(np.flatnonzero(~np.isfinite(rows).all(1))[0]) + count
            raise ValueError(f"embeddings: expected finite numbers, got others in row {place}; leave such rows out")
        x = rows.astype(np.float64) - shift
        total += x.sum(0)
        products += x.T @ x
        count, wide = count + len(rows), wide or rows.dtype == np.float64
    if count < 2 or shift is None or total is None or products is None:
        raise ValueError(f"embeddings: expected at least 2 rows, got {count}; a variance needs more")
    moments = (products - np.outer(total, total) / count) / (count - 1) if center else products / count
    variances, vectors = np.linalg.eigh(moments)
    axes = vectors.T[::-1]
    axes = axes * np.sign(axes[np.arange(len(axes)), np.abs(axes).argmax(1)])[:, None]
    mean = shift + total / count if center else shift
    dtype = np.float64 if wide else np.float32
    found = (axes, np.maximum(variances[::-1], 0), mean)
    return Rotation(*(np.ascontiguousarray(array, dtype) for array in found))


def _batches(embeddings: Any, batch_rows: int, progress: bool) -> Iterator[tuple[str, NDArray[Any]]]:
    """Rows on the host, with the name that an error calls them by."""
    whole = hasattr(unwrap(embeddings), "shape")
    parts, show = [embeddings] if whole else embeddings, tracker(progress, "rotation")
    for i, part in enumerate(parts):
        name, array = "embeddings" if whole else f"embeddings[{i}]", unwrap(part)
        backend_of({name: array})
        checks.check_floating(name, array)
        if len(array.shape) != 2:
            raise ValueError(f"{name}: expected (N, D), got {tuple(array.shape)}; flatten the leading axes")
        starts: Iterable[int] = range(0, array.shape[0], batch_rows)
        for start in show(starts):
            rows = np.asarray(convert(array[start : start + batch_rows], "numpy"))
            yield name, rows if rows.dtype in (np.float32, np.float64) else rows.astype(np.float32)
