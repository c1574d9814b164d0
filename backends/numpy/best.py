"""The best of tiles of scores, by a running threshold."""

from __future__ import annotations

import numpy as np


class Found:
    """What has been found so far: a list of candidates, and for every query the score that a new one has to pass."""

    def __init__(self, queries: int, k: int, wide: np.dtype) -> None:
        self.k, self.queries = k, queries
        self.least = np.full(queries, -np.inf, wide)
        none = np.empty(0, np.int64)
        self.kept = none, none, np.empty(0, wide)
        self.waiting: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []
        self.count = 0

    def add(self, first: int, scores: np.ndarray, start: int) -> None:
        """Scores ``(queries, BLOCK, blocks)`` of rows from ``start``, none of which comes before a row seen."""
        queries, _, blocks = scores.shape
        least = self.least[first : first + queries]
        largest = scores.max(1)  # of every block; blocks are spread, because so a maximum is taken fastest
        if start == 0 and self.k < scores[0].size:
            # As many blocks have a score of at least the edge of their maxima.
            some = largest if blocks >= self.k else scores.reshape(queries, -1)
            edge = np.partition(np.where(np.isnan(some), -np.inf, some), -self.k, -1)[:, -self.k]
            least[:] = np.nextafter(edge, -np.inf)
        query, block = np.nonzero(~(largest <= least[:, None]))  # where it is NaN, the rest of its block may pass
        if not len(query):
            return
        values = scores[query, :, block]
        hit, place = np.nonzero(values > least[query, None])
        query, block = query[hit], block[hit]
        self.waiting.append((query + first, start + place * blocks + block, values[hit, place]))
        self.count += len(hit)
        if start and self.count > max(len(self.kept[0]), self.queries * self.k) // 2:
            self._merge()

    def _merge(self) -> tuple[np.ndarray, np.ndarray]:
        """Take up what waits, a row for every query; find the threshold anew, and drop what is below."""
        lists, self.waiting, self.count = [self.kept, *self.waiting], [], 0
        counts = [np.bincount(query, minlength=self.queries) for query, _, _ in lists]
        filled = np.zeros_like(counts[0])
        width = max(self.k, int(sum(counts, filled).max()))
        scores = np.full((self.queries, width), -np.inf, self.least.dtype)
        indices = np.full((self.queries, width), -1)
        for (query, index, score), count in zip(lists, counts, strict=True):  # each in order of the queries
            place = np.arange(len(query)) + (filled - np.cumsum(count) + count)[query]
            scores[query, place], indices[query, place] = score, index
            filled += count
        self.least = np.partition(scores, width - self.k, -1)[:, width - self.k]
        query, place = np.nonzero((scores >= self.least[:, None]) & (indices >= 0))
        self.kept = query, indices[query, place], scores[query, place]
        return scores, indices

    def best(self) -> tuple[np.ndarray, np.ndarray]:
        if not self.queries:
            return np.empty((0, self.k), self.least.dtype), np.empty((0, self.k), np.int64)
        scores, indices = self._merge()
        order = np.lexsort((indices, -scores), -1)[:, : self.k]
        return np.take_along_axis(scores, order, -1), np.take_along_axis(indices, order, -1)
