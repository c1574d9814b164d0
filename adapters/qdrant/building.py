"""What makes a collection for a funnel, goes on with one that was begun, and opens it again."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from os import PathLike
from typing import Any

import numpy as np
from qdrant_client import QdrantClient

from mrl import checks
from mrl.dispatch import settle
from mrl.heads import Array
from mrl.retrieval.arguments import check_funnel, check_metric, check_rows, tracker
from mrl.retrieval.prepared import Database

from .collection import (
    FORMAT,
    begin,
    check_count,
    check_finite,
    check_payloads,
    client_at,
    look,
    read,
    sizes_of,
    vectors_of,
)
from .funnel import QdrantFunnel


def build(
    database: Array | Database,
    *,
    dims: Sequence[int],
    shortlists: Sequence[int],
    metric: str = "cosine",
    location: str | PathLike[str] | QdrantClient = ":memory:",
    collection: str = "mrl",
    payloads: Sequence[Mapping[str, Any]] | None = None,
    exact: bool = False,
    resume: bool = False,
    batch_size: int = 256,
    progress: bool = False,
) -> QdrantFunnel:
    """A funnel over a database, in a collection of Qdrant.

    The collection has one named vector a stage, and the full one: the first ``m`` dimensions, under ``"cosine"``
    normalised by themselves. Only that of the first stage is indexed, the others are read where it leads. In memory, in
    a folder and with ``exact=True`` the neighbours are those of :func:`mrl.funnel_search`, but for ties at the edge of
    a shortlist. An upload that was cut short loses nothing: ``resume=True`` sends what is missing.

    Args:
        database: ``(N, D)`` floating and finite, of any framework, memory-mapped if need be; or a
            :class:`mrl.Database`, whose vectors count. Qdrant keeps float32.
        dims, shortlists: as :func:`mrl.funnel_search` takes them; a :class:`mrl.FunnelPlan` has both.
        metric: ``"cosine"``, ``"dot"`` or ``"l2"``.
        location: ``":memory:"``, a folder, the URL of a cluster (1.16 or later), or a ``QdrantClient``, which may have
            an API key, or longer than its five seconds for a request.
        collection: its name, which is free, or with ``resume`` that of one that was begun.
        payloads: a mapping a row, which filters look at.
        exact: have a cluster look through all points in every search.
        resume: go on with a collection that was begun with the same database.
        batch_size: rows of a request.
        progress: show a bar, with tqdm.

    Returns:
        A :class:`QdrantFunnel`.

    Raises:
        TypeError, ValueError: as :func:`mrl.funnel_search`; numbers that are not finite; a collection that is there
            already, or that another database began.
        ImportError: ``progress`` without tqdm; the message says what to install.

    Example:
        >>> import mrl.adapters.qdrant, numpy as np
        >>> rows = np.random.default_rng(0).normal(size=(500, 16)).astype(np.float32)
        >>> funnel = mrl.adapters.qdrant.build(rows, dims=(8, 16), shortlists=(50, 3))
        >>> funnel.search(rows[:4]).scores.shape
        (4, 3)

    Source: https://qdrant.tech/documentation/concepts/hybrid-queries/, "Multi-stage queries".
    """
    check_metric(metric)
    for name, flag in (("exact", exact), ("resume", resume), ("progress", progress)):
        checks.check_flag(name, flag)
    batch_size = checks.check_integer("batch_size", batch_size, at_least=1)
    stages = check_funnel(dims, shortlists)
    rows = database.vectors if isinstance(database, Database) else database
    backend, given = settle({"database": rows})
    width = check_rows("database", given["database"])
    vectors = backend.to_numpy(given["database"], blocking=True)
    if stages[-1][0] > width:
        raise ValueError(f"dims: expected dimensions of at most {width}, those of the database, got {tuple(dims)}")
    check_finite(vectors)
    check_payloads(payloads, len(vectors))
    content = {
        "format": FORMAT,
        "dims": [m for m, _ in stages],
        "shortlists": [kept for _, kept in stages],
        "metric": metric,
        "shape": [len(vectors), width],
        "looks": look(vectors),
    }
    track = tracker(progress, "upload")
    client, begun = client_at(location), False
    try:
        begin(client, collection, content, resume)
        begun = True
        for start in track(range(0, len(vectors), batch_size)):
            places = np.arange(start, min(start + batch_size, len(vectors)))
            if resume:
                there = client.retrieve(collection, places.tolist(), with_payload=False, with_vectors=False)
                places = np.setdiff1d(places, [point.id for point in there])
            if len(places):
                client.upload_collection(
                    collection,
                    vectors=vectors_of(vectors[places], sizes_of(content), metric),
                    payload=None if payloads is None else [dict(payloads[i]) for i in places],
                    ids=places.tolist(),
                    batch_size=batch_size,
                    wait=True,
                )
        check_count(client, collection, content)
    except BaseException as error:
        if begun:
            error.add_note(f"what is in the collection {collection!r} stays there: go on with build(..., resume=True)")
        if client is not location:
            client.close()
        raise
    return QdrantFunnel(client, collection, content, exact, owned=client is not location)


def open(
    location: str | PathLike[str] | QdrantClient, *, collection: str = "mrl", exact: bool = False, partial: bool = False
) -> QdrantFunnel:
    """The funnel that :func:`build` made, in a folder or a cluster.

    Args:
        location: as :func:`build` was given it; for a collection in memory, the client that holds it.
        collection: its name.
        exact: as for :func:`build`.
        partial: take a collection that has other than all rows, as one whose upload was cut short, or of which points
            were deleted.

    Returns:
        A :class:`QdrantFunnel`.

    Raises:
        FileNotFoundError: there is no such folder.
        ValueError: there is no such collection, it is another's, or it has other than all rows.

    Example:
        >>> import mrl.adapters.qdrant, numpy as np, tempfile
        >>> rows = np.random.default_rng(0).normal(size=(40, 16)).astype(np.float32)
        >>> folder = tempfile.mkdtemp()
        >>> mrl.adapters.qdrant.build(rows, dims=(8, 16), shortlists=(20, 3), location=folder).close()
        >>> mrl.adapters.qdrant.open(folder).dims
        (8, 16)
    """
    checks.check_flag("exact", exact)
    checks.check_flag("partial", partial)
    client = client_at(location, new=False)
    try:
        content = read(client, collection)
        if not partial:
            check_count(client, collection, content)
    except BaseException:
        if client is not location:
            client.close()
        raise
    return QdrantFunnel(client, collection, content, exact, owned=client is not location)
