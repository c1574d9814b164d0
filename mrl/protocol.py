"""What a backend provides. Checks, defaults and documentation live above it, once for all backends."""

from __future__ import annotations

from typing import Any, Protocol

from .heads import Array, Head, NestedLoss
from .nesting import Nesting

KERNELS = ("truncate", "nested_logits", "nested_cross_entropy", "from_numpy", "to_numpy")
"""The names that every backend exports."""

FURTHER_KERNELS = (
    "nested_contrastive",
    "nested_accuracy",
    "cascade_exit",
    "cascade_predict",
    "search",
    "rerank",
    "prepare_database",
    "devices",
    "take_numpy",
    "value_and_gradients",
)
"""The names that a third-party backend may leave out: who calls such a function is told."""


class Policy(Protocol):
    """What a kernel reads of a :class:`mrl.CascadePolicy`."""

    @property
    def nesting(self) -> Nesting: ...

    @property
    def dims(self) -> tuple[int, ...]: ...

    @property
    def confidence(self) -> str: ...

    @property
    def temperatures(self) -> tuple[float, ...]: ...

    @property
    def cuts32(self) -> tuple[float, ...]: ...

    @property
    def cuts64(self) -> tuple[float, ...]: ...

    def __len__(self) -> int: ...


SHARDING_KERNELS = ("classes_size",)
"""The names that a backend exports which takes a head whose classes lie on several devices."""

KEYED_KERNELS = ("uniform",)
"""The names that a backend exports whose framework draws random numbers from keys that can be traced."""


class Backend(Protocol):
    """A module (or any object) with these functions.

    A backend never validates, has no defaults and reads no globals: what reaches it has been checked, but
    for values that cannot be seen without waiting for a device. Products are as precise as the framework is set to
    make them, and accumulate in float32 or wider; logits and losses are float32 for half-precision inputs; gradients
    have the input's dtype, and nothing but ``z`` and the head has one. The values are those of :mod:`mrl.spec`, within
    the bounds of :mod:`mrl.testing.bounds`.
    """

    def truncate(self, z: Array, dim: int, *, normalize: bool) -> Array:
        """:func:`mrl.spec.truncate` in the dtype of ``z``, differentiable; never a view of ``z``."""

    def nested_logits(self, z: Array, head: Head, nesting: Nesting) -> Array:
        """:func:`mrl.spec.nested_logits`, differentiable any number of times."""

    def nested_cross_entropy(
        self,
        z: Array,
        head: Head,
        labels: Array,
        nesting: Nesting,
        *,
        label_smoothing: float,
        ignore_index: int | None,
        sample_weight: Array | None,
        class_weight: Array | None,
        level_weights: Array | None,
        reduction: str,
        fused: bool,
        chunk_rows: int | None,
        across: Any = None,
        classes_across: Any = None,
    ) -> NestedLoss:
        """:func:`mrl.spec.nested_cross_entropy`, over the devices that ``across`` names if any.

        The last two are handed over only where the caller gives them: a backend of one device needs neither.

        Labels out of range, and weights below zero, that nobody could see give NaN. ``fused=True`` may refuse a second
        derivative, with an error that names ``fused=False``; it must never give a wrong one.
        """

    def nested_contrastive(
        self,
        anchors: Array,
        positives: Array,
        nesting: Nesting,
        *,
        negatives: Array | None,
        temperature: float | Array,
        exclude: Array | None,
        symmetric: bool,
        similarity: str,
        reduction: str,
        fused: bool,
        chunk_rows: int | None,
        across: Any,
    ) -> NestedLoss:
        """:func:`mrl.spec.nested_contrastive`, over the devices that ``across`` names if any.

        What ``across`` may be is the framework's matter: it is checked here. Temperatures and exclusions that nobody
        could see give NaN where they are wrong. ``fused=True`` as for :meth:`nested_cross_entropy`.
        """

    def nested_accuracy(
        self, logits: Array, labels: Array, *, topk: tuple[int, ...], ignore_index: int | None
    ) -> Array:
        """:func:`mrl.spec.nested_accuracy` in float32 or wider.

        A label out of range that nobody could see gives NaN.
        """

    def cascade_exit(self, probabilities: Array, policy: Policy, *, logits: bool) -> Any:
        """The :class:`mrl.CascadeResult` of :func:`mrl.spec.cascade_exit`.

        The thresholds to compare with are ``policy.cuts32`` or ``cuts64``.
        """

    def cascade_predict(self, z: Array, head: Head, policy: Policy, *, chunk_rows: int | None) -> Any:
        """:func:`mrl.spec.cascade_predict`, without the levels that no row needs."""

    def classes_size(self, across: Any) -> int:
        """Over how many devices a head's classes are shared out, of what ``classes_across`` names."""

    def search(
        self,
        queries: Array,
        rows: Array,
        lengths: Array | None,
        *,
        k: int,
        dim: int,
        metric: str,
        normalized: bool,
        tile: int | None,
    ) -> Any:
        """The :class:`mrl.SearchResult` of :func:`mrl.spec.search` in ``rows``, whose first ``dim`` columns count.

        ``lengths`` are the norms of these under ``"cosine"``, their squares under ``"l2"``, or ``None`` where nobody
        has them. Under ``"cosine"`` rows that are ``normalized`` need none. ``k`` may be more than there are rows.
        """

    def rerank(
        self,
        queries: Array,
        rows: Array,
        lengths: Array | None,
        candidates: Array,
        *,
        k: int,
        dim: int,
        metric: str,
        normalized: bool,
    ) -> Any:
        """:func:`mrl.spec.rerank`, with rows as for :meth:`search`; a candidate that is no row is none."""

    def prepare_database(self, rows: Array, *, dims: tuple[int, ...], metric: str, track: Any) -> Any:
        """The :class:`mrl.Database` of rows; ``track`` goes around what the longest loop runs over."""

    def from_numpy(self, array: Any, *, dtype: str | None, device: Any) -> Array:
        """An array of this backend from a NumPy one, or from any that speaks DLPack, without a copy if it can."""

    def value_and_gradients(self, function: Any) -> Any:
        """Of a scalar ``function(leaves, *fixed)`` one that gives its value and the gradients of the leaves.

        It is compiled where the framework compiles, for each shape once.
        """

    def take_numpy(self, array: Any) -> Array:
        """An array of this backend for a NumPy one that stands beside some, as the framework's own functions take it.

        A backend without it wants its own arrays only.
        """

    def uniform(
        self, key: Any, shapes: tuple[tuple[int, ...], ...], *, bounds: tuple[float, ...], dtype: str, device: Any
    ) -> tuple[Array, ...]:
        """An array a shape, each drawn evenly between plus and minus its bound, from parts of ``key`` of their own."""

    def to_numpy(self, array: Array, *, blocking: bool) -> Any:
        """The values as NumPy, without a copy if it can.

        With ``blocking=False``, ``None`` where they cannot be seen at once: traced or on an accelerator.
        """

    def devices(self) -> tuple[str, ...]:
        """The devices this backend sees, by the names that ``device=`` takes."""
