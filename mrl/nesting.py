"""The nesting: which prefixes of an embedding are trained, and how much each counts."""

from __future__ import annotations

import math
import operator
from collections.abc import Iterable, Mapping, Set
from dataclasses import dataclass
from hashlib import sha256
from itertools import pairwise
from typing import Any


@dataclass(frozen=True, slots=True, init=False)
class Nesting:
    """The granularities of a Matryoshka embedding and their relative importance.

    A nesting is the paper's set ``M = {m_1 < ... < m_G}`` (``dims``, in dimensions) with the relative
    importance ``c_m`` of each (``weights``). It holds no arrays: it is frozen, hashable and compares by
    value, so it can be a static argument of ``jax.jit`` and a constant inside ``torch.compile`` and
    ``tf.function``.

    Args:
        dims: strictly increasing positive integers, in dimensions.
        weights: one finite non-negative number per granularity; ``None`` gives every granularity 1.0. A granularity
            of weight 0 is left out of losses: of their total, of its gradient and of the work.

    Raises:
        TypeError: ``dims`` or ``weights`` hold something that is not a number of the right kind.
        ValueError: ``dims`` are empty, not positive or not strictly increasing; ``weights`` are negative,
            not finite, not one per granularity, or all zero.

    Example:
        >>> import mrl
        >>> nesting = mrl.Nesting((8, 16, 32), weights=(1.0, 1.0, 2.0))
        >>> nesting.width, len(nesting), nesting.blocks
        (32, 3, ((0, 8), (8, 16), (16, 32)))

    Source: Kusupati et al., NeurIPS 2022, arXiv 2205.13147, section 3.
    """

    dims: tuple[int, ...]
    weights: tuple[float, ...]

    def __init__(self, dims: Iterable[int], weights: Iterable[float] | None = None) -> None:
        checked = _dims(dims)
        object.__setattr__(self, "dims", checked)
        object.__setattr__(self, "weights", _weights(weights, len(checked)))

    @classmethod
    def doubling(cls, smallest: int, largest: int, weights: Iterable[float] | None = None) -> Nesting:
        """The nesting ``smallest, 2 smallest, 4 smallest, ..., largest``, as in the paper.

        Args:
            smallest: the first granularity, in dimensions.
            largest: the last; it must be ``smallest`` times a power of two.
            weights: as in :class:`Nesting`.

        Raises:
            TypeError: an argument is not an integer.
            ValueError: doubling ``smallest`` never meets ``largest``.

        Example:
            >>> import mrl
            >>> mrl.Nesting.doubling(8, 64).dims
            (8, 16, 32, 64)

        Source: arXiv 2205.13147, section 3 (consistent halving of the representation size).
        """
        first, last = _dim(smallest, "smallest"), _dim(largest, "largest")
        dims = [first]
        while dims[-1] < last:
            dims.append(2 * dims[-1])
        if dims[-1] != last:
            raise ValueError(
                f"largest: expected {first} times a power of two, got {last}; "
                "give the granularities one by one with Nesting(dims)"
            )
        return cls(dims, weights)

    @property
    def width(self) -> int:
        """The largest granularity ``m_G``, in dimensions."""
        return self.dims[-1]

    @property
    def blocks(self) -> tuple[tuple[int, int], ...]:
        """The half-open column ranges ``(m_{g-1}, m_g)`` that each granularity adds to the one before."""
        return tuple(zip((0, *self.dims[:-1]), self.dims, strict=True))

    @property
    def levels_in_use(self) -> tuple[int, ...]:
        """The indices of the granularities whose weight is not zero: the others are left out of a loss.

        Example:
            >>> import mrl
            >>> mrl.Nesting((8, 16, 32), weights=(1.0, 0.0, 2.0)).levels_in_use
            (0, 2)
        """
        return tuple(g for g, weight in enumerate(self.weights) if weight)

    def sample(
        self, count: int, *, step: int, seed: int = 0, keep_largest: bool = True, unbiased: bool = False
    ) -> Nesting:
        """Some of the granularities, drawn for one step of training: cheaper, and over many steps all are trained.

        Which they are follows from ``seed`` and ``step`` alone, so that every device and every framework draws the
        same, and a run repeats. Granularities of weight 0 are never drawn. Without replacement, all being equally
        likely: of ``n`` with a weight, each is drawn with probability ``p = count / n``; under ``keep_largest`` the
        largest always is, and the others with ``p = (count - 1) / (n - 1)``.

        Args:
            count: how many, at most as many as have a weight.
            step: the number of the step.
            seed: of the run.
            keep_largest: always have the largest with a weight.
            unbiased: divide weights by ``p``: over steps, the mean of the loss and of its gradient is that of the whole
                nesting. Otherwise the weights are as they were.

        Returns:
            A :class:`Nesting` of the drawn granularities, in order. Under a compiler each different one is a graph of
            its own; where that is too many, weights of zero in ``level_weights`` of
            :func:`mrl.nested_cross_entropy` compile once, and save no work.

        Raises:
            TypeError: an argument is not of its kind.
            ValueError: ``count`` is out of range; or ``unbiased`` where some could never be drawn.

        Example:
            >>> import mrl
            >>> nesting = mrl.Nesting.doubling(8, 64)
            >>> [nesting.sample(2, step=step).dims for step in range(3)]
            [(8, 64), (16, 64), (32, 64)]

        Source: the sampling of dimensions of sentence-transformers' ``MatryoshkaLoss(n_dims_per_step=...)``; weights
        over probabilities as in Horvitz and Thompson, JASA 47 (1952), section 3.
        """
        count, step, seed = (_whole(name, x) for name, x in (("count", count), ("step", step), ("seed", seed)))
        for name, flag in (("keep_largest", keep_largest), ("unbiased", unbiased)):
            if not isinstance(flag, bool):
                raise TypeError(f"{name}: expected True or False, got {flag!r}; write a bool")
        used = self.levels_in_use
        if not 1 <= count <= len(used):
            raise ValueError(
                f"count: expected an integer in [1, {len(used)}], the granularities with a weight, got {count}"
            )
        kept, free = (used[-1:], used[:-1]) if keep_largest else ((), used)
        drawn = count - len(kept)
        if unbiased and free and not drawn:
            raise ValueError(
                "unbiased: expected every granularity to have a chance, got count=1 with keep_largest=True; "
                "draw two, or pass keep_largest=False"
            )
        # The order of digests is the same on every machine, and independent of how random numbers are made.
        order = sorted(free, key=lambda g: sha256(f"{seed} {step} {g}".encode()).digest())
        chosen = sorted((*order[:drawn], *kept))
        chance = {g: drawn / len(free) for g in free} if unbiased else {}
        return Nesting([self.dims[g] for g in chosen], [self.weights[g] / chance.get(g, 1.0) for g in chosen])

    def __len__(self) -> int:
        """The number of granularities ``G``."""
        return len(self.dims)

    def __repr__(self) -> str:
        if all(weight == 1.0 for weight in self.weights):
            return f"Nesting({self.dims})"
        return f"Nesting({self.dims}, weights={self.weights})"

    def __reduce__(self) -> tuple[Any, ...]:
        return (Nesting, (self.dims, self.weights))


def _whole(name: str, value: Any) -> int:
    if isinstance(value, bool):
        raise TypeError(f"{name}: expected an integer, got {value!r}; write the number")
    try:
        return operator.index(value)
    except TypeError:
        raise TypeError(f"{name}: expected an integer, got {value!r}; write it as an int") from None


def _dim(value: Any, name: str) -> int:
    if isinstance(value, bool):
        raise TypeError(f"{name}: expected an integer number of dimensions, got {value!r}; write the number")
    try:
        dim = operator.index(value)
    except TypeError:
        raise TypeError(
            f"{name}: expected an integer number of dimensions, got {value!r} of type "
            f"{type(value).__name__}; write it as an int"
        ) from None
    if dim < 1:
        raise ValueError(f"{name}: expected a positive number of dimensions, got {dim}; remove it")
    return dim


def _dims(dims: Iterable[int]) -> tuple[int, ...]:
    if not is_sequence(dims):
        raise TypeError(
            f"dims: expected a sequence of integers, got {dims!r} of type {type(dims).__name__}; "
            "write Nesting((8, 16, 32))"
        )
    checked = tuple(_dim(value, f"dims[{g}]") for g, value in enumerate(dims))
    if not checked:
        raise ValueError("dims: expected at least one granularity, got none; write Nesting((64,)) for a plain head")
    for g, (smaller, larger) in enumerate(pairwise(checked), start=1):
        if larger <= smaller:
            raise ValueError(
                f"dims: expected strictly increasing granularities, got dims[{g}] = {larger} after {smaller}; "
                "sort them and remove repeats"
            )
    return checked


def _weights(weights: Iterable[float] | None, count: int) -> tuple[float, ...]:
    if weights is None:
        return (1.0,) * count
    if not is_sequence(weights):
        raise TypeError(
            f"weights: expected one number per granularity, got {weights!r} of type {type(weights).__name__}; "
            f"give a sequence of {count} numbers or None"
        )
    checked = tuple(_weight(value, g) for g, value in enumerate(weights))
    if len(checked) != count:
        raise ValueError(f"weights: expected one per granularity ({count}), got {len(checked)}; match dims")
    if not any(checked):
        raise ValueError("weights: expected at least one above zero, got none; of such a nesting no loss is left")
    return checked


def is_sequence(values: Any) -> bool:
    """Whether it gives its items in order; a mapping would give its keys, and text its letters."""
    return isinstance(values, Iterable) and not isinstance(values, (str, bytes, Mapping, Set))


def is_number(value: Any) -> bool:
    """Whether :func:`to_float` takes it for one number: those of NumPy and the frameworks too, but no bool."""
    return hasattr(value, "__float__") and not isinstance(value, bool) and getattr(value, "ndim", 0) == 0


def to_float(value: Any) -> float:
    """``float(value)``, infinite for an integer past any float."""
    try:
        return float(value)
    except OverflowError:
        return math.inf


def _weight(value: Any, g: int) -> float:
    if not is_number(value):
        raise TypeError(
            f"weights[{g}]: expected a number, got {value!r} of type {type(value).__name__}; write it as a float"
        )
    weight = to_float(value)
    if not math.isfinite(weight) or weight < 0:
        raise ValueError(
            f"weights[{g}]: expected a finite non-negative number, got {weight}; use 0.0 to leave a granularity out"
        )
    return weight
