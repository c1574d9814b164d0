"""Which rows belong together: given, of one class, or near each other."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..dispatch import unwrap
from ..porting.convert import convert
from ..retrieval.search import search

Places = NDArray[np.int64]


@dataclass(frozen=True)
class Batch:
    """Pairs of rows, and which of them are no negatives of each other."""

    anchors: Places
    positives: Places
    exclude: NDArray[np.bool_]

    def of(self, x: NDArray[Any]) -> tuple[NDArray[Any], NDArray[Any], NDArray[np.bool_]]:
        """The embeddings of both sides."""
        return x[self.anchors], x[self.positives], self.exclude


@dataclass(frozen=True)
class Pairs:
    """Anchors, each with candidates of which an epoch draws one; and what is known to belong together."""

    anchors: Places
    rows: int
    positives: Places | None = None  # (P, candidates)
    # Rows in the order of their classes, the place of each row there; starts and counts of the classes.
    groups: tuple[Places, Places, Places, Places] | None = None
    labels: Places | None = None
    known: Places | None = None  # sorted: anchor * rows + positive

    def __len__(self) -> int:
        return len(self.anchors)

    def parted(self, share: float, rng: np.random.Generator) -> tuple[Pairs, Pairs]:
        """Those to train on, and a ``share`` of them to choose by, of which there is at least one batch of two."""
        order, count = rng.permutation(len(self)), max(2, round(share * len(self)))
        if len(self) < 2 * count:  # too few to spare any
            return self, self
        chosen, others = np.sort(order[:count]), np.sort(order[count:])
        return self._those(others), self._those(chosen)

    def batches(self, size: int, rng: np.random.Generator | None) -> Iterator[Batch]:
        """Of one size, in a new order with new partners; without ``rng`` the same each time."""
        order = np.arange(len(self)) if rng is None else rng.permutation(len(self))
        drawn = rng or np.random.default_rng(0)
        for start in range(0, len(order) - size + 1, size):
            places = order[start : start + size]
            anchors = self.anchors[places]
            positives = self._partners(places, drawn)
            yield Batch(anchors, positives, self._together(anchors, positives))

    def _those(self, places: Places) -> Pairs:
        positives = None if self.positives is None else self.positives[places]
        return replace(self, anchors=self.anchors[places], positives=positives)

    def _partners(self, places: Places, rng: np.random.Generator) -> Places:
        if self.positives is not None:
            return self.positives[places, rng.integers(0, self.positives.shape[1], len(places))]
        assert self.groups is not None and self.labels is not None
        order, own, starts, counts = self.groups
        anchors = self.anchors[places]
        classes = self.labels[anchors]
        # One of the others of the class: a step of 1 to count - 1 beyond the anchor's own place, around.
        ahead = 1 + (rng.random(len(places)) * (counts[classes] - 1)).astype(np.int64)
        return order[starts[classes] + (own[anchors] - starts[classes] + ahead) % counts[classes]]

    def _together(self, anchors: Places, positives: Places) -> NDArray[np.bool_]:
        found: NDArray[np.bool_] = (positives[None, :] == positives[:, None]) | (positives[None, :] == anchors[:, None])
        if self.labels is not None:
            found |= self.labels[positives][None, :] == self.labels[anchors][:, None]
        if self.known is not None:
            keys = anchors[:, None] * self.rows + positives[None, :]
            at = np.minimum(np.searchsorted(self.known, keys), len(self.known) - 1)
            found |= self.known[at] == keys
        np.fill_diagonal(found, False)
        return found


def make_pairs(x: NDArray[Any], targets: Any, neighbours: int, rng: np.random.Generator) -> Pairs:
    """What ``targets`` say of the rows of ``x``.

    Raises:
        TypeError: targets of another kind.
        ValueError: shapes that do not fit, rows out of range, or fewer than two pairs.
    """
    count = len(x)
    if targets is None:
        return _near(x, neighbours)
    given = unwrap(targets)
    array = np.asarray(given if isinstance(given, (list, tuple, np.ndarray)) else convert(given, "numpy"))
    if array.shape == (count,):
        return _of_classes(array)
    if array.ndim != 2 or array.shape[1] != 2 or array.dtype.kind not in "iu":
        raise ValueError(
            f"targets: expected (P, 2) integers, pairs of rows, or ({count},) labels, got {array.dtype} {array.shape}; "
            "pass None to keep neighbours"
        )
    pairs = array.astype(np.int64)
    if len(pairs) < 2:
        raise ValueError(f"targets: expected at least 2 pairs, got {len(pairs)}; a pair needs others to differ from")
    outside = (pairs < 0) | (pairs >= count)
    if outside.any():
        place = int(np.flatnonzero(outside.any(1))[0])
        raise ValueError(f"targets: expected rows from 0 to {count - 1}, got {array[place].tolist()} in pair {place}")
    return Pairs(pairs[:, 0], count, pairs[:, 1:], known=np.unique(pairs[:, 0] * count + pairs[:, 1]))


def _of_classes(labels: NDArray[Any]) -> Pairs:
    if labels.dtype.kind == "f" and not np.isfinite(labels).all():
        raise ValueError("targets: expected labels, got NaN among them; leave such rows out")
    classes, places, counts = np.unique(labels, return_inverse=True, return_counts=True)
    anchors = np.flatnonzero(counts[places] > 1)
    if len(classes) < 2 or len(anchors) < 2:
        raise ValueError(
            f"targets: expected at least 2 classes, one of them with 2 rows, got {len(classes)} with at most "
            f"{counts.max(initial=0)}; pass None to keep neighbours"
        )
    order = np.argsort(places, kind="stable")
    own = np.empty_like(order)
    own[order] = np.arange(len(order))
    starts = np.cumsum(counts) - counts
    return Pairs(anchors, len(labels), groups=(order, own, starts, counts), labels=places.astype(np.int64))


def _near(x: NDArray[Any], neighbours: int) -> Pairs:
    if len(x) < neighbours + 2:
        raise ValueError(f"neighbours: expected at most {max(1, len(x) - 2)} for {len(x)} rows, got {neighbours}")
    found = np.asarray(search(x, x, k=neighbours + 1).indices)
    own = np.arange(len(x))[:, None]
    # Itself out, wherever it stands: a duplicate of lower index comes before it.
    others = np.argsort(found == own, axis=1, kind="stable")[:, :neighbours]
    near = np.take_along_axis(found, others, 1)
    return Pairs(np.arange(len(x)), len(x), near, known=np.unique(own * len(x) + near))
