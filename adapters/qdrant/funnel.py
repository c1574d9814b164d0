"""What searches: a funnel as one query of Qdrant, whose stages are nested in each other."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from qdrant_client import QdrantClient, models

import mrl
from mrl import checks
from mrl.dispatch import settle
from mrl.heads import Array
from mrl.retrieval.arguments import check_dim
from mrl.retrieval.prepared import Database

from .collection import is_local, usable, vectors_of

ASKED = 64
"""Queries of a request."""


class QdrantFunnel:
    """A collection of Qdrant with a named vector for every stage, and the query that goes through them.

    Made by :func:`build` and :func:`open`. The row of the database is the id of its point; the vector of ``m``
    dimensions is named ``"m"``. A ``with`` statement closes it.

    Attributes:
        client: the ``qdrant_client.QdrantClient``, for whatever else is asked of the collection: payloads, say.
        collection: its name.
        rows, width: the shape of the database that it is made for.
        dims, shortlists, metric: as :func:`mrl.funnel_search` takes them.
        exact: whether a cluster looks through all points in the first stage; what is in memory or a folder always does.

    Example:
        >>> import mrl.adapters.qdrant, numpy as np
        >>> rows = np.random.default_rng(0).normal(size=(500, 16)).astype(np.float32)
        >>> with mrl.adapters.qdrant.build(rows, dims=(8, 16), shortlists=(50, 3)) as funnel:
        ...     funnel.search(rows[:2]).indices[:, 0].tolist()
        [0, 1]

    Source: https://qdrant.tech/documentation/concepts/hybrid-queries/, "Multi-stage queries".
    """

    def __init__(
        self, client: QdrantClient, collection: str, content: Mapping[str, Any], exact: bool, owned: bool
    ) -> None:
        self.client, self.collection, self.exact, self._owned = client, collection, exact, owned
        self.rows, self.width = content["shape"]
        self.dims, self.shortlists = tuple(content["dims"]), tuple(content["shortlists"])
        self.metric: str = content["metric"]

    def __enter__(self) -> QdrantFunnel:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the client, and free its folder for others; one that was given stays open.

        Example:
            >>> import mrl.adapters.qdrant, numpy as np
            >>> mrl.adapters.qdrant.build(np.eye(4), dims=(2, 4), shortlists=(2, 1)).close()
        """
        if self._owned:
            self.client.close()

    def search(self, queries: Array, k: int | None = None, filter: models.Filter | None = None) -> mrl.SearchResult:
        """The best ``k`` rows for every query, of those that the filter lets through.

        One query of Qdrant is the whole funnel: each stage scores again what the one inside of it kept. The filter
        stands at the innermost, so that shortlists are filled with what passes.

        Args:
            queries: ``(..., D)`` floating, of any framework. One that is not finite finds nothing.
            k: at most the last of ``shortlists``, which is also the default.
            filter: on payloads, as ``qdrant_client.models`` has it.

        Returns:
            A :class:`mrl.SearchResult` of NumPy arrays, ``(..., k)``, by score and then by lowest index. The scores
            are Qdrant's, in float32, negative and squared under ``"l2"``. Places that nothing is left for have index
            -1 and score minus infinity.

        Raises:
            TypeError: queries that are no floating array, or another filter.
            ValueError: another width, or more rows than the funnel keeps.

        Example:
            >>> import mrl.adapters.qdrant, numpy as np
            >>> from qdrant_client import models
            >>> rows = np.random.default_rng(0).normal(size=(500, 16)).astype(np.float32)
            >>> even = [{"even": i % 2 == 0} for i in range(500)]
            >>> funnel = mrl.adapters.qdrant.build(rows, dims=(8, 16), shortlists=(50, 3), payloads=even)
            >>> only = models.FieldCondition(key="even", match=models.MatchValue(value=True))
            >>> found = funnel.search(rows[:2], k=2, filter=models.Filter(must=[only])).indices
            >>> int(found[0, 0]), (found % 2).sum()
            (0, np.int64(0))
        """
        backend, given = settle({"queries": queries})
        q = np.asarray(backend.to_numpy(given["queries"], blocking=True))
        check_dim("dim", None, q, Database(np.empty((0, self.width), np.float32)))
        most = self.shortlists[-1]
        k = most if k is None else checks.check_integer("k", k, at_least=1)
        if k > most:
            raise ValueError(f"k: expected an integer in [1, {most}], what the last stage keeps, got {k}; build anew")
        if filter is not None and not isinstance(filter, models.Filter):
            raise TypeError(
                f"filter: expected a qdrant_client.models.Filter, got {type(filter).__name__}; "
                "write models.Filter(must=[...])"
            )
        flat = q.reshape(-1, self.width)
        scores = np.full((len(flat), k), -np.inf, np.float32)
        indices = np.full((len(flat), k), -1, np.int64)
        finite = np.flatnonzero(usable(flat))
        for start in range(0, len(finite), ASKED):
            places = finite[start : start + ASKED]
            vectors = vectors_of(flat[places], self.dims, self.metric)
            requests = [self._request({m: x[i] for m, x in vectors.items()}, k, filter) for i in range(len(places))]
            answers = self.client.query_batch_points(self.collection, requests)
            for place, answer in zip(places, answers, strict=True):
                for i, point in enumerate(answer.points):
                    scores[place, i], indices[place, i] = point.score, point.id
        if self.metric == "l2":
            scores = np.where(indices < 0, -np.inf, -(scores**2)).astype(np.float32)
        order = np.lexsort((indices, -scores), axis=-1)
        scores, indices = (np.take_along_axis(x, order, -1).reshape(*q.shape[:-1], k) for x in (scores, indices))
        return mrl.SearchResult(scores, indices)

    def _request(self, vectors: Mapping[str, np.ndarray], k: int, filter: models.Filter | None) -> models.QueryRequest:
        *before, (dim, _) = zip(self.dims, self.shortlists, strict=True)
        inner: models.Prefetch | None = None
        for m, kept in before:
            inner = models.Prefetch(
                prefetch=inner,
                query=vectors[str(m)].tolist(),
                using=str(m),
                limit=kept,
                params=self._params(kept),
                filter=filter if inner is None else None,
            )
        return models.QueryRequest(
            prefetch=inner,
            query=vectors[str(dim)].tolist(),
            using=str(dim),
            limit=k,
            params=self._params(k),
            filter=filter if inner is None else None,
            with_payload=False,
        )

    def _params(self, kept: int) -> models.SearchParams | None:
        if is_local(self.client):  # exact whatever is asked, and warns of what has no effect
            return None
        # Fewer nodes than the shortlist would not fill it with the best that it could have.
        return models.SearchParams(exact=True) if self.exact else models.SearchParams(hnsw_ef=max(128, kept))
