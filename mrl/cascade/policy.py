"""The policy of an adaptive classifier: when a level's answer is good enough."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from os import PathLike
from typing import Any, NamedTuple, TypeAlias

import numpy as np

from ..checks import check_integer
from ..files import write_atomically
from ..heads import Array
from ..nesting import Nesting, is_number, is_sequence, to_float
from . import storage

CONFIDENCES = ("probability", "margin", "entropy")
"""The largest probability; the two largest apart; ``1 - H(p) / log C``. All in [0, 1]."""

FIELDS = ("thresholds", "dims", "confidence", "temperatures", "fitted")
"""What a policy is made from, and kept as."""

Scalar: TypeAlias = str | int | float | bool | None


class CascadeResult(NamedTuple):
    """What a cascade answered, one entry an example.

    Attributes:
        labels: ``(...)`` integer, the class answered; -1 where the last level's confidence is NaN.
        level: ``(...)`` integer in ``[0, G)``, the level that answered.
        confidence: ``(...)`` float32 or wider, that level's confidence.

    Example:
        >>> import mrl
        >>> mrl.CascadeResult(labels=3, level=0, confidence=0.9).level
        0

    Source: arXiv 2205.13147, section 4.2.1.
    """

    labels: Array
    level: Array
    confidence: Array


@dataclass(frozen=True, init=False)  # with slots Python 3.11.2 would put a __setstate__ of its own, that checks nothing
class CascadePolicy:
    """Walk the levels from small to large; the first that is confident enough answers.

    Level ``g`` answers if ``confidence_g > thresholds[g]``, strictly; the last level always answers. With
    ``p = softmax(logits_g / temperatures[g])`` the confidence is ``max p`` (``"probability"``), the largest
    less the second largest (``"margin"``), or ``1 + sum p log p / log C`` (``"entropy"``). A threshold of 1
    never accepts, and neither does a NaN confidence. A policy holds no arrays: it is frozen, hashable and
    compares by value, so it can be a static argument of ``jax.jit``.

    Args:
        thresholds: ``(G - 1,)`` numbers in [0, 1].
        dims: ``(G,)`` strictly increasing positive integers, in dimensions.
        confidence: ``"probability"``, ``"margin"`` or ``"entropy"``.
        temperatures: ``(G,)`` positive numbers that divide the logits; ``None`` for 1 everywhere.
        fitted: how the thresholds came about, names to plain values; for the record, it changes nothing.

    Raises:
        TypeError: an argument holds something of a wrong kind.
        ValueError: a threshold outside [0, 1], a wrong count, bad dims, an unknown confidence.

    Example:
        >>> import mrl
        >>> policy = mrl.CascadePolicy((0.9, 0.8), (8, 16, 32))
        >>> mrl.CascadePolicy.from_json(policy.to_json()) == policy
        True

    Source: arXiv 2205.13147, section 4.2.1 and appendix D (adaptive classification).
    """

    thresholds: tuple[float, ...]
    dims: tuple[int, ...]
    confidence: str
    temperatures: tuple[float, ...]
    fitted: tuple[tuple[str, Scalar], ...]
    nesting: Nesting = field(init=False, repr=False, compare=False)
    # A float32 confidence is above a threshold exactly if it is above the threshold rounded down to float32.
    # That needs no float64 on the device. What never accepts is infinite.
    cuts32: tuple[float, ...] = field(init=False, repr=False, compare=False)
    cuts64: tuple[float, ...] = field(init=False, repr=False, compare=False)

    def __init__(
        self,
        thresholds: Iterable[float],
        dims: Iterable[int],
        *,
        confidence: str = "probability",
        temperatures: Iterable[float] | None = None,
        fitted: Mapping[str, Scalar] | Iterable[tuple[str, Scalar]] = (),
    ) -> None:
        nesting = Nesting(dims)
        levels = len(nesting)
        checked = _numbers("thresholds", thresholds, levels - 1, "one for each level but the last")
        for g, threshold in enumerate(checked):
            if not 0 <= threshold <= 1:
                raise ValueError(
                    f"thresholds[{g}]: expected a number in [0, 1], got {threshold}; above 0 is nearly everything, "
                    "above 1 nothing"
                )
        check_confidence(confidence)
        values = {
            "thresholds": checked,
            "dims": nesting.dims,
            "confidence": confidence,
            "temperatures": check_temperatures(temperatures, levels),
            "fitted": _record(fitted),
            "nesting": nesting,
            "cuts32": tuple(math.inf if t >= 1 else _round_down(t) for t in checked),
            "cuts64": tuple(math.inf if t >= 1 else t for t in checked),
        }
        for name, value in values.items():
            object.__setattr__(self, name, value)

    def __len__(self) -> int:
        """The number of levels ``G``."""
        return len(self.dims)

    # Pickles name this class and nothing else, and hold plain values: torch.load(weights_only=True) can allow them.

    def __getstate__(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in FIELDS}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(**state)  # type: ignore[misc]

    def capped(self, levels: int) -> CascadePolicy:
        """The same policy stopped early: no more than the first ``levels`` levels, the last of which always answers.

        What ``fitted`` says of the whole policy, an accuracy or a guarantee, is not this one's: it keeps the method and
        how many levels there were.

        Raises:
            TypeError: ``levels`` is no integer.
            ValueError: it is not in ``[1, G]``.

        Example:
            >>> import mrl
            >>> mrl.CascadePolicy((0.9, 0.8), (8, 16, 32)).capped(2).thresholds
            (0.9,)

        Source: arXiv 2205.13147, appendix D.1 (early stopping).
        """
        levels = check_integer("levels", levels)
        if not 1 <= levels <= len(self):
            raise ValueError(f"levels: expected an integer in [1, {len(self)}], got {levels}; choose one")
        if levels == len(self):
            return self
        method = [(name, value) for name, value in self.fitted if name == "method"]
        return CascadePolicy(
            self.thresholds[: levels - 1],
            self.dims[:levels],
            confidence=self.confidence,
            temperatures=self.temperatures[:levels],
            fitted=(*method, ("capped_from", len(self))),
        )

    def to_json(self) -> str:
        """The policy as JSON text; every number comes back exactly.

        Example:
            >>> import mrl
            >>> '"thresholds"' in mrl.CascadePolicy((0.9,), (8, 16)).to_json()
            True
        """
        return storage.dumps({name: getattr(self, name) for name in FIELDS} | {"fitted": dict(self.fitted)})

    @classmethod
    def from_json(cls, text: str) -> CascadePolicy:
        """A policy from the text that :meth:`to_json` gave.

        Raises:
            TypeError: ``text`` is not a string.
            ValueError: it is not JSON, not a policy, or holds values that no policy has.

        Example:
            >>> import mrl
            >>> mrl.CascadePolicy.from_json(mrl.CascadePolicy((0.1,), (8, 16)).to_json()).thresholds
            (0.1,)
        """
        content = storage.loads(text, FIELDS)
        try:
            return cls(**{name: content[name] for name in FIELDS})
        except (TypeError, ValueError) as error:
            raise ValueError(f"text: expected the JSON of a policy, got one in which {error}") from error

    def save(self, path: str | PathLike[str]) -> None:
        """Write :meth:`to_json` to ``path``: whole or not at all.

        A symbolic link stays, and its target is written; a file that is replaced keeps its mode.

        Raises:
            OSError: the file cannot be written; what was there before is there still.

        Example:
            >>> import mrl, tempfile, pathlib
            >>> policy, path = mrl.CascadePolicy((0.9,), (8, 16)), pathlib.Path(tempfile.mkdtemp()) / "policy.json"
            >>> policy.save(path)
            >>> mrl.CascadePolicy.load(path) == policy
            True
        """
        write_atomically(path, self.to_json())

    @classmethod
    def load(cls, path: str | PathLike[str]) -> CascadePolicy:
        """The policy that :meth:`save` wrote.

        Raises:
            OSError: the file cannot be read.
            ValueError: it does not hold a policy; the message names the file.
        """
        try:
            return cls.from_json(storage.read(path))
        except ValueError as error:
            raise ValueError(f"path: {path}: {error}") from error


def check_policy(policy: CascadePolicy) -> None:
    if not isinstance(policy, CascadePolicy):
        raise TypeError(
            f"policy: expected an mrl.CascadePolicy, got {type(policy).__name__}; "
            "fit one with mrl.fit_cascade, or write mrl.CascadePolicy(thresholds, dims)"
        )


def check_confidence(confidence: str) -> None:
    if confidence not in CONFIDENCES:
        raise ValueError(f"confidence: expected one of {CONFIDENCES}, got {confidence!r}; choose one")


def check_temperatures(temperatures: Any, levels: int) -> tuple[float, ...]:
    if temperatures is None:
        return (1.0,) * levels
    checked = _numbers("temperatures", temperatures, levels, "one per level")
    for g, temperature in enumerate(checked):
        if not 0 < temperature < math.inf:
            raise ValueError(
                f"temperatures[{g}]: expected a positive finite number, got {temperature}; 1.0 changes nothing"
            )
    return checked


def _round_down(threshold: float) -> float:
    with np.errstate(under="ignore"):
        rounded = np.float32(threshold)
        return float(np.nextafter(rounded, np.float32(-1)) if float(rounded) > threshold else rounded)


def _numbers(name: str, values: Any, count: int, meaning: str) -> tuple[float, ...]:
    if not is_sequence(values):
        raise TypeError(
            f"{name}: expected a sequence of numbers, {meaning}, got {type(values).__name__}; write a tuple"
        )
    checked = []
    for g, value in enumerate(values):
        if not is_number(value):
            raise TypeError(f"{name}[{g}]: expected a number, got {value!r}; write it as a float")
        checked.append(to_float(value))
    if len(checked) != count:
        raise ValueError(f"{name}: expected {count} numbers, {meaning}, got {len(checked)}; match dims")
    return tuple(checked)


def _record(fitted: Any) -> tuple[tuple[str, Scalar], ...]:
    try:
        pairs = tuple((name, value) for name, value in dict(fitted).items())
    except (TypeError, ValueError):
        raise TypeError(
            f"fitted: expected names to plain values, got {fitted!r}; write {{'method': 'by hand'}}"
        ) from None
    for name, value in pairs:
        if not isinstance(name, str) or not (value is None or isinstance(value, (str, bool, int, float))):
            raise TypeError(
                f"fitted: expected names to strings, numbers, bools or None, got {name!r}: {value!r}; leave it out"
            )
        if isinstance(value, float) and not math.isfinite(value):
            raise ValueError(f"fitted: expected finite numbers, got {name!r}: {value!r}; leave it out")
    return pairs
