"""FAISS: a funnel whose first stage is an index of FAISS on a prefix, and whose others rerank whole rows."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Sequence
from os import PathLike
from pathlib import Path
from typing import Any

import faiss
import numpy as np

import mrl
from mrl import checks
from mrl.dispatch import settle
from mrl.files import write_atomically
from mrl.heads import Array
from mrl.porting.stored import dtype_named
from mrl.retrieval.arguments import check_dim, check_funnel, check_metric, check_rows
from mrl.retrieval.prepared import Database
from mrl.retrieval.storage import look

KINDS = ("flat", "hnsw", "ivf")
FORMAT = "mrl.faiss_funnel"
DESCRIPTION = "funnel.json"
OURS = re.compile(r"(index(-\d+)?\.faiss|vectors(-\d+)?\.npy)")
WRITER: Any = faiss.PyCallbackIOWriter
REMAP: Any = faiss.RemapDimensionsTransform  # its stubs know one of its two forms
PART = 65_536
"""Rows that are widened at a time on their way into an index."""


class FaissFunnel:
    """An index of FAISS on the first ``dims[0]`` dimensions, and the vectors for the stages after it.

    Made by :func:`build` and :func:`load`. ``index`` is FAISS's own and takes full-width vectors: the prefix, and under
    ``"cosine"`` its normalisation, are inside of it.

    Attributes:
        index: a ``faiss.IndexPreTransform``.
        vectors: ``(N, D)`` NumPy, memory-mapped if need be.
        dims, shortlists, metric: as :func:`mrl.funnel_search` takes them.

    Example:
        >>> import mrl.adapters.faiss, numpy as np
        >>> rows = np.random.default_rng(0).normal(size=(500, 16)).astype(np.float32)
        >>> funnel = mrl.adapters.faiss.build(rows, dims=(8, 16), shortlists=(50, 3))
        >>> funnel.search(rows[:2]).indices[:, 0].tolist()
        [0, 1]
    """

    def __init__(
        self, index: Any, vectors: np.ndarray, dims: tuple[int, ...], shortlists: tuple[int, ...], metric: str
    ) -> None:
        self.index, self.vectors, self.dims, self.shortlists, self.metric = index, vectors, dims, shortlists, metric

    def search(self, queries: Array, k: int | None = None) -> mrl.SearchResult:
        """The best ``k`` rows for every query.

        FAISS finds the shortlist; :func:`mrl.rerank` puts it in order, by score and then by lowest index, also where
        there is one stage. FAISS's -1, for a place without an answer, is a place of nothing here too.

        Args:
            queries: ``(..., D)`` floating, of any framework.
            k: at most the last of ``shortlists``, which is also the default.

        Returns:
            A :class:`mrl.SearchResult` of NumPy arrays, ``(..., k)``.

        Raises:
            TypeError: queries that are no floating array.
            ValueError: another width, or more rows than the funnel keeps.
        """
        backend, given = settle({"queries": queries})
        q = np.asarray(backend.to_numpy(given["queries"], blocking=True))
        check_dim("dim", None, q, Database(self.vectors))
        most = self.shortlists[-1]
        k = most if k is None else checks.check_integer("k", k, at_least=1)
        if k > most:
            raise ValueError(f"k: expected an integer in [1, {most}], what the last stage keeps, got {k}; build anew")
        wide = q if q.dtype == np.float64 else q.astype(np.float32)
        flat = np.ascontiguousarray(wide.reshape(-1, q.shape[-1]), np.float32)
        found = self.index.search(flat, self.shortlists[0])[1] if len(flat) else np.empty((0, 1), np.int64)
        candidates = found.reshape(*q.shape[:-1], found.shape[-1])
        result = None
        rest = [*zip(self.dims, self.shortlists, strict=True)][1:] or [(self.dims[0], most)]
        for place, (dim, kept) in enumerate(rest):
            kept = k if place == len(rest) - 1 else kept
            result = mrl.rerank(wide, self.vectors, candidates, k=kept, dim=dim, metric=self.metric)
            candidates = result.indices
        assert result is not None
        return result

    def save(self, folder: str | PathLike[str], *, vectors: bool = True) -> None:
        """Write the index, the funnel and, unless they stay where they are, the vectors to a folder.

        ``funnel.json`` names the other files, ``index.faiss`` and ``vectors.npy``, and is written last: one that was
        there before is whole until then, its files have other names, and a funnel may be saved where it was loaded.

        Args:
            folder: made if it is not there.
            vectors: write them too.

        Raises:
            OSError: it cannot be written; a funnel that was there before is there still.
        """
        place = Path(folder)
        place.mkdir(parents=True, exist_ok=True)
        try:
            before = _files(_description(place))
        except (OSError, ValueError):
            before = set()
        index, rows = _free(place, "index", "faiss"), _free(place, "vectors", "npy") if vectors else None
        content = {
            "format": FORMAT,
            "dims": self.dims,
            "shortlists": self.shortlists,
            "metric": self.metric,
            "shape": self.vectors.shape,
            "dtype": self.vectors.dtype.name,
            "looks": look(self.vectors),
            "index": index,
            "vectors": rows,
        }
        try:
            write_atomically(place / index, lambda stream: faiss.write_index(self.index, WRITER(stream.write)))
            if rows is not None:
                write_atomically(place / rows, lambda stream: np.save(stream, _bits(self.vectors)))
            write_atomically(place / DESCRIPTION, json.dumps(content))
        except BaseException:
            for name in _files(content):
                (place / name).unlink(missing_ok=True)
            raise
        for name in before:
            if vectors or name.endswith(".faiss"):  # vectors that stay where they are may be these
                (place / name).unlink(missing_ok=True)


def build(
    database: Array | Database,
    *,
    dims: Sequence[int],
    shortlists: Sequence[int],
    metric: str = "cosine",
    kind: str = "flat",
    neighbours: int = 32,
    cells: int | None = None,
    probes: int | None = None,
) -> FaissFunnel:
    """A funnel over a database, with FAISS for its first stage.

    With ``kind="flat"`` that stage is exact, and the neighbours are those of :func:`mrl.funnel_search`, but for ties at
    the edge of the shortlist. ``"hnsw"`` and ``"ivf"`` are approximate. HNSW looks at ``efSearch`` nodes, which is at
    least the shortlist: with fewer, a shortlist is not filled with the best that it could have.

    Args:
        database: ``(N, D)`` floating, of any framework; or a :class:`mrl.Database`, whose vectors count.
        dims, shortlists: as :func:`mrl.funnel_search` takes them; a :class:`mrl.FunnelPlan` has both.
        metric: ``"cosine"``, ``"dot"`` or ``"l2"``.
        kind: ``"flat"``, ``"hnsw"`` or ``"ivf"``.
        neighbours: of a node of HNSW.
        cells: of IVF; ``None``: four times the root of ``N``, with 39 rows each at least.
        probes: cells that a search looks at; ``None``: an eighth of them.

    Returns:
        A :class:`FaissFunnel`.

    Raises:
        TypeError, ValueError: as :func:`mrl.funnel_search`, or another kind of index.

    Example:
        >>> import mrl.adapters.faiss, numpy as np
        >>> rows = np.random.default_rng(0).normal(size=(500, 16)).astype(np.float32)
        >>> funnel = mrl.adapters.faiss.build(rows, dims=(8, 16), shortlists=(50, 3), kind="hnsw")
        >>> funnel.search(rows[:4]).scores.shape
        (4, 3)
    """
    check_metric(metric)
    if kind not in KINDS:
        raise ValueError(f"kind: expected one of {KINDS}, got {kind!r}; choose one")
    stages = check_funnel(dims, shortlists)
    rows = database.vectors if isinstance(database, Database) else database
    backend, given = settle({"database": rows})
    width = check_rows("database", given["database"])
    vectors = backend.to_numpy(given["database"], blocking=True)
    if stages[-1][0] > width:
        raise ValueError(f"dims: expected dimensions of at most {width}, those of the database, got {tuple(dims)}")
    inner = _inner(stages[0][0], metric, kind, checks.check_integer("neighbours", neighbours, at_least=2))
    if kind == "hnsw":
        inner.hnsw.efSearch = max(inner.hnsw.efSearch, stages[0][1])
    if kind == "ivf":
        inner = _cells(inner, stages[0][0], metric, cells, probes, len(vectors))
    index, remap = faiss.IndexPreTransform(inner), REMAP
    if metric == "cosine":
        index.prepend_transform(faiss.NormalizationTransform(stages[0][0], 2.0))
    if stages[0][0] < width:
        # Without its last argument it would spread the dimensions over the vector, and not take the first.
        index.prepend_transform(remap(width, stages[0][0], False))
    elif metric != "cosine":
        index.prepend_transform(remap(width, width, False))
    if not index.is_trained and len(vectors):
        index.train(np.ascontiguousarray(vectors[: 256 * inner.nlist], np.float32))
    for start in range(0, len(vectors), PART):
        index.add(np.ascontiguousarray(vectors[start : start + PART], np.float32))
    return FaissFunnel(index, vectors, tuple(m for m, _ in stages), tuple(kept for _, kept in stages), metric)


def load(folder: str | PathLike[str], *, vectors: np.ndarray | None = None) -> FaissFunnel:
    """The funnel that :meth:`FaissFunnel.save` wrote; vectors in the folder are memory-mapped.

    Args:
        folder: as it was saved.
        vectors: those that it was built of, where the folder has none.

    Returns:
        A :class:`FaissFunnel`.

    Raises:
        OSError: a file cannot be read.
        ValueError: it is no such folder, or the vectors are not those that it was built of.

    Example:
        >>> import mrl.adapters.faiss, numpy as np, tempfile
        >>> rows = np.random.default_rng(0).normal(size=(500, 16)).astype(np.float32)
        >>> folder = tempfile.mkdtemp()
        >>> mrl.adapters.faiss.build(rows, dims=(8, 16), shortlists=(50, 3)).save(folder)
        >>> mrl.adapters.faiss.load(folder).dims
        (8, 16)
    """
    place = Path(folder)
    try:
        content = _description(place)
        if content["format"] != FORMAT:
            raise ValueError(f"its format is {str(content['format'])[:40]!r}")
        stages = check_funnel(content["dims"], content["shortlists"])
        metric, shape, dtype = content["metric"], tuple(content["shape"]), content["dtype"]
        check_metric(metric)
        if _files(content) != {content["index"], content["vectors"]} - {None}:
            raise ValueError(f"its files are {content['index']!r} and {content['vectors']!r}")
    except (ValueError, TypeError, KeyError) as error:
        raise ValueError(f"folder: {folder}: expected what FaissFunnel.save writes, got other: {error}") from error
    if vectors is None:
        if content["vectors"] is None:
            raise ValueError(f"vectors: expected those that {folder} was built of, which it does not hold; pass them")
        vectors = np.load(place / content["vectors"], mmap_mode="r")
        vectors = vectors.view(dtype_named(dtype)) if dtype == "bfloat16" else vectors
    index = faiss.read_index(str(place / content["index"]))
    fits = (vectors.shape, vectors.dtype.name, index.ntotal) == (shape, dtype, shape[0])
    if not fits or look(vectors) != content["looks"]:
        raise ValueError(
            f"vectors: expected shape {shape} in {dtype} and as many in the index, got {vectors.shape} in "
            f"{vectors.dtype.name} and {index.ntotal}{' with other numbers' if fits else ''}; "
            "pass those that it was built of"
        )
    return FaissFunnel(index, vectors, tuple(m for m, _ in stages), tuple(kept for _, kept in stages), metric)


def _description(place: Path) -> Any:
    return json.loads((place / DESCRIPTION).read_text(encoding="utf-8"))


def _files(content: Any) -> set[str]:
    """The files that a description names; none where it is another's."""
    try:
        names = {content["index"], content["vectors"]} - {None}
    except (TypeError, KeyError):
        return set()
    return {name for name in names if isinstance(name, str) and OURS.fullmatch(name)}


def _free(place: Path, stem: str, suffix: str) -> str:
    """A name that no file in the folder has."""
    names = (f"{stem}.{suffix}", *(f"{stem}-{i}.{suffix}" for i in range(2, 1000)))
    return next(name for name in names if not (place / name).exists())


def _bits(vectors: np.ndarray) -> np.ndarray:
    """What NumPy's files have a dtype for."""
    return vectors.view(np.uint16) if vectors.dtype.name == "bfloat16" else vectors


def _inner(dim: int, metric: str, kind: str, neighbours: int) -> Any:
    measure = faiss.METRIC_L2 if metric == "l2" else faiss.METRIC_INNER_PRODUCT
    return faiss.IndexHNSWFlat(dim, neighbours, measure) if kind == "hnsw" else faiss.IndexFlat(dim, measure)


def _cells(quantizer: Any, dim: int, metric: str, cells: int | None, probes: int | None, count: int) -> Any:
    if cells is None:
        cells = max(1, min(round(4 * math.sqrt(count)), count // 39))
    cells = checks.check_integer("cells", cells, at_least=1)
    measure = faiss.METRIC_L2 if metric == "l2" else faiss.METRIC_INNER_PRODUCT
    index = faiss.IndexIVFFlat(quantizer, dim, cells, measure)
    quantizer.this.disown()  # the index keeps it, and frees it
    index.own_fields = True
    index.nprobe = checks.check_integer("probes", max(1, cells // 8) if probes is None else probes, at_least=1)
    return index
