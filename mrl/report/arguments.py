"""What is checked of the arguments of a report, and the messages."""

from __future__ import annotations

from collections.abc import Sequence
from numbers import Real
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from .. import checks
from ..dispatch import backend_named, backend_of, unwrap
from ..nesting import Nesting
from ..retrieval.prepared import METRICS
from .placing import Place
from .planning import plan_sizes

Array = NDArray[Any]


class Given(NamedTuple):
    """The arguments as arrays of NumPy; labels as codes of the classes, -1 where there is none."""

    embeddings: Array
    labels: NDArray[np.int64] | None
    classes: int
    queries: Array | None
    query_labels: NDArray[np.int64] | None
    relevant: NDArray[np.int64] | None
    place: Place


def take(
    embeddings: Any, labels: Any, queries: Any, query_labels: Any, relevant: Any, k: int, backend: str | None
) -> Given:
    """Bring arrays to the host, and see that they fit each other."""
    rows, found = vectors("embeddings", embeddings)
    if len(rows) < 2:
        raise ValueError(f"embeddings: expected at least 2 rows, got {len(rows)}; give more")
    device = embeddings.device if found == "torch" and backend in (None, found) else None
    place = Place(found if backend is None else backend, device)
    backend_named(place.backend)
    codes, names = None, np.empty(0)
    if labels is not None:
        codes, names = classes_of("labels", labels, len(rows), "embeddings")
        check_classes(len(names))
    asked = own = wanted = None
    if queries is not None:
        asked = vectors("queries", queries)[0]
        if asked.shape[1] != rows.shape[1] or not len(asked):
            raise ValueError(
                f"queries: expected shape (Q, {rows.shape[1]}), as wide as the embeddings, got {asked.shape}; "
                "encode both with one model"
            )
    if query_labels is not None:
        if asked is None or codes is None:
            raise ValueError("query_labels: expected queries and labels beside them, got none; give both")
        own = like(classes_of("query_labels", query_labels, len(asked), "queries"), names)
    if relevant is not None:
        if asked is None:
            raise ValueError("relevant: expected queries beside it, got none; give the queries that it speaks of")
        wanted = listed(relevant, len(asked), len(rows))
    if k > len(rows) - (asked is None):
        beside = " beside the query itself" if asked is None else ""
        raise ValueError(f"k: expected at most {len(rows) - (asked is None)}, the rows{beside}, got {k}; ask for fewer")
    return Given(rows, codes, len(names), asked, own, wanted, place)


def vectors(name: str, array: Any) -> tuple[Array, str]:
    """Rows ``(N, D)`` with a floating dtype, and the backend that they came from."""
    if isinstance(array, (list, tuple)):
        array = np.asarray(array)
    array = unwrap(array)
    backend = backend_of({name: array}, one_device=False)
    found = array if isinstance(array, np.memmap) else np.asarray(backend.to_numpy(array, blocking=True))
    if found.dtype.name not in checks.FLOATING:
        raise TypeError(f"{name}: expected a dtype of {checks.FLOATING}, got {found.dtype}; cast it first")
    if found.ndim != 2 or found.shape[1] == 0:
        raise ValueError(f"{name}: expected shape (N, D) with D at least 1, got {found.shape}; give a row per vector")
    home = str(getattr(backend, "__name__", ""))
    return found, home.rpartition(".")[2] if home.startswith("mrl.backends.") else "numpy"


def classes_of(name: str, labels: Any, count: int, beside: str) -> tuple[NDArray[np.int64], Array]:
    """The code of every label, and the names that the codes have."""
    if isinstance(labels, (list, tuple)):
        found = np.empty(len(labels), object)
        found[:] = labels
    else:
        found = np.asarray(host(name, labels))
    if found.dtype == object:
        kinds = {type(label) for label in found.reshape(-1).tolist()}
        words = {kind.__name__ for kind in kinds}
        if not kinds <= {str} and not all(issubclass(kind, (int, np.integer)) for kind in kinds):
            raise TypeError(f"{name}: expected integers or strings, got {sorted(words)}; give labels of one kind")
        found = found.astype(str if kinds <= {str} else np.int64)
    if found.ndim != 1 or len(found) != count:
        raise ValueError(
            f"{name}: expected shape ({count},), one label a row of {beside}, got {found.shape}; match them"
        )
    if found.dtype.kind == "f" and np.isfinite(found).all() and (found == np.rint(found)).all():
        found = found.astype(np.int64)
    if found.dtype.kind not in "iubUS":
        raise TypeError(f"{name}: expected integers or strings, got {found.dtype}; give classes, not measurements")
    names, codes = np.unique(found, return_inverse=True)
    return codes.reshape(-1).astype(np.int64), names


def check_classes(count: int) -> None:
    if count < 2:
        raise ValueError(f"labels: expected at least 2 classes, got {count}; give labels that differ, or none")


def host(name: str, array: Any) -> Array:
    """An array of any framework as NumPy's; strings and objects are NumPy's own."""
    array = unwrap(array)
    if isinstance(array, np.ndarray):
        return array
    return np.asarray(backend_of({name: array}, one_device=False).to_numpy(array, blocking=True))


def like(found: tuple[NDArray[np.int64], Array], names: Array) -> NDArray[np.int64]:
    """Codes by other names: those of the rows, and new ones for what no row has."""
    codes, own = found
    if (own.dtype.kind in "US") != (names.dtype.kind in "US"):
        raise TypeError(f"query_labels: expected labels like those of the rows, {names.dtype}, got {own.dtype}")
    place = np.minimum(np.searchsorted(names, own), len(names) - 1)
    turned = np.where(names[place] == own, place, len(names) + np.arange(len(own)))
    return turned[codes].astype(np.int64)


def listed(relevant: Any, queries: int, rows: int) -> NDArray[np.int64]:
    """The relevant rows ``(Q, R)`` of every query, filled up with -1."""
    found = np.asarray(relevant) if isinstance(relevant, (list, tuple)) else host("relevant", relevant)
    if found.dtype.kind not in "iu":
        raise TypeError(f"relevant: expected an integer dtype, got {found.dtype}; give rows, filled up with -1")
    if found.ndim == 1:
        found = found[:, None]
    if found.ndim != 2 or len(found) != queries or not found.shape[1]:
        raise ValueError(
            f"relevant: expected shape ({queries}, R), rows for every query, got {found.shape}; match them"
        )
    wrong = found[(found < -1) | (found >= rows)]
    if wrong.size:
        raise ValueError(f"relevant: expected rows in [-1, {rows}), got {wrong[0]}; count from 0, fill up with -1")
    if not (found >= 0).any():
        raise ValueError("relevant: expected a relevant row for some query, got none; leave it out")
    return found.astype(np.int64)


def check_sizes(dims: Any, width: int) -> tuple[int, ...]:
    """The sizes in growing order, of which the last is the width."""
    if dims is None:
        return plan_sizes(width)
    sizes = Nesting(dims).dims
    if sizes[-1] > width:
        raise ValueError(f"dims: expected at most {width}, the width of the embeddings, got {sizes[-1]}; leave it out")
    return sizes if sizes[-1] == width else (*sizes, width)


def check_metric(metric: str) -> str:
    if metric not in METRICS:
        raise ValueError(f"metric: expected one of {METRICS}, got {metric!r}; choose one")
    return metric


def check_number(name: str, value: Any, advice: str) -> float | None:
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, Real):
        raise TypeError(f"{name}: expected a number, got {value!r}; {advice}")
    if not 0 < float(value) < float("inf"):
        raise ValueError(f"{name}: expected a positive finite number, got {value}; {advice}")
    return float(value)


def check_dims_text(text: str | None) -> Sequence[int] | None:
    """Sizes as a command line has them."""
    if text is None:
        return None
    try:
        return [int(part) for part in text.split(",")]
    except ValueError:
        raise ValueError(f"--dims: expected growing positive integers such as 16,32,64, got {text!r}") from None
