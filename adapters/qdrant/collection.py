"""A collection of Qdrant as a funnel has it: where it is, what it says of itself, and the vectors of its points."""

from __future__ import annotations

import re
import zlib
from collections.abc import Mapping, Sequence
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
from qdrant_client import QdrantClient, models

import mrl
from mrl.retrieval.arguments import check_funnel, check_metric

FORMAT = "mrl.qdrant_funnel"
DISTANCES = {"cosine": models.Distance.COSINE, "dot": models.Distance.DOT, "l2": models.Distance.EUCLID}
PART = 65_536
"""Rows that are looked through at a time, before the first is sent."""
LOOKED_AT = 64
"""Rows by which the database of an upload that was cut short is known."""


def client_at(location: str | PathLike[str] | QdrantClient, *, new: bool = True) -> QdrantClient:
    """A client of what is there; of a folder that may be ``new``, or not."""
    if isinstance(location, QdrantClient):
        return location
    if not isinstance(location, (str, PathLike)):
        raise TypeError(
            f"location: expected ':memory:', a folder, a URL or a QdrantClient, got {type(location).__name__}; give one"
        )
    if location == ":memory:":
        if not new:
            raise ValueError(
                "location: expected a folder, a URL or a QdrantClient, got ':memory:', which is empty; "
                "pass the client of the funnel that was built, or build it with a folder"
            )
        return QdrantClient(":memory:")
    if isinstance(location, str) and "://" in location:
        return QdrantClient(url=location)
    if re.fullmatch(r"[\w.-]+:\d+", str(location)):
        raise ValueError(f"location: expected a URL with its scheme, got {location!r}; write 'http://{location}'")
    if not new and not Path(location).exists():
        raise FileNotFoundError(f"location: expected a folder that build has filled, got {str(location)!r}; build it")
    return QdrantClient(path=str(location))


def is_local(client: QdrantClient) -> bool:
    options = client.init_options
    return options["location"] == ":memory:" or options["path"] is not None


def begin(client: QdrantClient, collection: str, content: Mapping[str, Any], resume: bool) -> None:
    """A new collection, or one that was begun in the same way."""
    if not client.collection_exists(collection):
        client.create_collection(collection, vectors_config=_configured(content), metadata={"mrl": dict(content)})
        read(client, collection)
        return
    if not resume:
        count = client.count(collection, exact=True).count
        raise ValueError(
            f"collection: expected a name that is free, got {collection!r}, which holds {count} points; "
            "open it with mrl.adapters.qdrant.open, finish its upload with resume=True, or choose another name"
        )
    found = read(client, collection)
    for name, value in content.items():
        if found[name] != value:
            raise ValueError(
                f"collection: expected one that was begun with the same database and funnel, got {collection!r} with "
                f"{name} {found[name]!r} and not {value!r}; pass those that it was begun with, or choose another name"
            )


def read(client: QdrantClient, collection: str) -> dict[str, Any]:
    """What a collection says of itself, where its vectors are as it says."""
    if not client.collection_exists(collection):
        names = sorted(found.name for found in client.get_collections().collections)
        raise ValueError(f"collection: expected one of {names}, got {collection!r}; build it, or choose one")
    config = client.get_collection(collection).config
    try:
        content: dict[str, Any] = (config.metadata or {})["mrl"]
        if content["format"] != FORMAT:
            raise ValueError(f"its format is {str(content['format'])[:40]!r}")
        check_metric(content["metric"])
        check_funnel(content["dims"], content["shortlists"])
        expected = {name: (given.size, given.distance) for name, given in _configured(content).items()}
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise ValueError(
            f"collection: expected one that mrl.adapters.qdrant.build has made, got {collection!r} without its "
            f"metadata ({type(error).__name__}: {error}); choose another (a server before 1.16 keeps no metadata)"
        ) from error
    held = config.params.vectors
    vectors = {name: (x.size, x.distance) for name, x in held.items()} if isinstance(held, Mapping) else held
    if vectors != expected:
        raise ValueError(
            f"collection: expected vectors of sizes {_sizes(expected)}, got {collection!r} with {_sizes(vectors)}; "
            "build it anew under another name"
        )
    return content


def check_count(client: QdrantClient, collection: str, content: Mapping[str, Any]) -> None:
    count, expected = client.count(collection, exact=True).count, content["shape"][0]
    if count != expected:
        raise ValueError(
            f"collection: expected all {expected} rows in {collection!r}, got {count}, which stay there; "
            "finish the upload with build(..., resume=True) and the same database, or take what is there with "
            "open(..., partial=True)"
        )


def check_finite(rows: np.ndarray) -> None:
    for start in range(0, len(rows), PART):
        wrong = np.flatnonzero(~usable(rows[start : start + PART]))
        if len(wrong):
            raise ValueError(
                f"database: expected numbers that are finite in float32, got others in row {start + wrong[0]}; "
                "leave the row out, Qdrant takes none such"
            )


def check_payloads(payloads: Sequence[Mapping[str, Any]] | None, count: int) -> None:
    if payloads is None:
        return
    if not isinstance(payloads, Sequence) or isinstance(payloads, str):
        raise TypeError(f"payloads: expected a sequence of mappings, got {type(payloads).__name__}; write list(...)")
    if len(payloads) != count:
        raise ValueError(f"payloads: expected one a row ({count}), got {len(payloads)}; {{}} is none")
    for i, payload in enumerate(payloads):
        if not isinstance(payload, Mapping):
            raise TypeError(f"payloads[{i}]: expected a mapping, got {type(payload).__name__}; {{}} is none")


def usable(rows: np.ndarray) -> np.ndarray:
    """Which rows are finite in Qdrant's float32."""
    with np.errstate(over="ignore", invalid="ignore", under="ignore"):
        return np.asarray(np.isfinite(rows.astype(np.float32)).all(-1))


def vectors_of(rows: np.ndarray, sizes: Sequence[int], metric: str) -> dict[str, np.ndarray]:
    """The prefixes by name. Under ``"cosine"`` they are normalised here: Qdrant leaves those alone that are short."""
    wide = np.asarray(rows if rows.dtype == np.float64 else rows.astype(np.float32))
    with np.errstate(under="ignore"):
        cut = {m: mrl.truncate(wide, m) if metric == "cosine" else wide[:, :m] for m in sizes}
        return {str(m): np.ascontiguousarray(x, np.float32) for m, x in cut.items()}


def sizes_of(content: Mapping[str, Any]) -> list[int]:
    """The dimensions that a point has a vector of: those of the stages, and all."""
    return sorted({*content["dims"], content["shape"][1]})


def look(rows: np.ndarray) -> str:
    """CRC-32 of a few rows, evenly spread."""
    places = np.unique(np.linspace(0, max(0, len(rows) - 1), LOOKED_AT).astype(int))[: len(rows)]
    found = 0
    for place in places:
        with np.errstate(under="ignore"):
            found = zlib.crc32(np.ascontiguousarray(rows[place], np.float32).tobytes(), found)
    return f"{found:08x}"


def _configured(content: Mapping[str, Any]) -> dict[str, models.VectorParams]:
    # A graph for the first stage only: the others score what they are handed, which takes none.
    first, distance = content["dims"][0], DISTANCES[content["metric"]]
    none = models.HnswConfigDiff(m=0)
    return {
        str(m): models.VectorParams(size=m, distance=distance, hnsw_config=None if m == first else none)
        for m in sizes_of(content)
    }


def _sizes(vectors: Any) -> Any:
    return {name: size for name, (size, _) in vectors.items()} if isinstance(vectors, Mapping) else vectors
