"""The best of tiles of scores, by a running threshold."""

from __future__ import annotations

import math

import torch
from torch import Tensor


def top_of(scores: Tensor, indices: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """The best ``k`` of columns in order of their index."""
    order = scores.sort(dim=-1, descending=True, stable=True).indices[:, :k]
    scores, indices = scores.gather(1, order), indices.gather(1, order)
    missing = (0, k - scores.shape[1])
    indices = torch.nn.functional.pad(indices.masked_fill(scores == -math.inf, -1), missing, value=-1)
    return torch.nn.functional.pad(scores, missing, value=-math.inf), indices


class Found:
    """What has been found so far: a list of candidates, and for every query the score that a new one has to pass."""

    def __init__(self, q: Tensor, k: int) -> None:
        self.k, self.queries = k, len(q)
        self.least = q.new_full((len(q),), -math.inf)
        none = torch.empty(0, dtype=torch.int64, device=q.device)
        self.kept = (none, none, q.new_empty(0))
        self.waiting: list[tuple[Tensor, Tensor, Tensor]] = []
        self.count = 0

    def add(self, first: int, scores: Tensor, start: int) -> None:
        """Scores ``(queries, BLOCK, blocks)`` of rows from ``start``, none of which comes before a row seen."""
        queries, _, blocks = scores.shape
        least = self.least[first : first + queries]
        largest = scores.amax(1)  # of every block; blocks are spread, because so a maximum is taken fastest
        if start == 0 and self.k < scores[0].numel():
            # As many blocks have a score of at least the edge of their maxima.
            some = largest if blocks >= self.k else scores.reshape(queries, -1)
            edge = some.nan_to_num(-math.inf, math.inf, -math.inf).topk(self.k, sorted=False).values.amin(-1)
            least.copy_(edge.nextafter(edge.new_tensor(-math.inf)))
        # Where it is NaN, the rest of its block may pass.
        query, block = (largest <= least[:, None]).logical_not_().nonzero(as_tuple=True)
        if not len(query):
            return
        values = scores[query, :, block]
        hit, place = (values > least[query, None]).nonzero(as_tuple=True)
        self.waiting.append((query[hit] + first, start + place * blocks + block[hit], values[hit, place]))
        self.count += len(hit)
        if start and self.count > max(len(self.kept[0]), self.queries * self.k) // 2:
            self._table()

    def _table(self) -> tuple[Tensor, Tensor]:
        """Take up what waits, a row for every query; find the threshold anew, and drop what is below."""
        lists, self.waiting, self.count = [self.kept, *self.waiting], [], 0
        counts = [query.bincount(minlength=self.queries) for query, _, _ in lists]
        filled = torch.zeros_like(counts[0])
        width = max(self.k, int(sum(counts, filled).max()))
        scores = self.least.new_full((self.queries, width), -math.inf)
        indices = filled.new_full((self.queries, width), -1)
        for (query, index, score), count in zip(lists, counts, strict=True):  # each in order of the queries
            shift = filled - count.cumsum(0) + count
            place = torch.arange(len(query), device=query.device) + shift[query]
            scores[query, place], indices[query, place] = score, index
            filled += count
        self.least = scores.topk(self.k, sorted=False).values.amin(-1)
        query, place = ((scores >= self.least[:, None]) & (indices >= 0)).nonzero(as_tuple=True)
        self.kept = (query, indices[query, place], scores[query, place])
        return scores, indices

    def best(self) -> tuple[Tensor, Tensor]:
        if not self.queries:
            return self.least.new_empty((0, self.k)), self.kept[1].new_empty((0, self.k))
        scores, indices = self._table()
        order = indices.argsort(-1)
        return top_of(scores.gather(1, order), indices.gather(1, order), self.k)
