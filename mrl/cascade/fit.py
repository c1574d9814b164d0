"""Fitting a cascade's thresholds on held-out examples: four aims, one function."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from .. import checks
from ..heads import Array
from ..nesting import Nesting, to_float
from .branch import prove
from .greedy import greedy_thresholds
from .joint import Choice, Found, Goal, Table, least_right, most_spent, search
from .outcomes import PAIR, Outcomes, accepted_level, host_examples, measure, right_at
from .policy import CascadePolicy, Scalar, check_temperatures
from .risk import controlled
from .temperature import temperatures_of

METHODS: dict[str, tuple[str, ...]] = {
    "greedy": (),
    "budget": ("dim",),
    "accuracy": ("target", "drop"),
    "risk": ("drop", "delta"),
}
"""Each method and the options that it takes: all of them, but for ``"accuracy"`` one of the two."""

DELTA, SPLIT = 0.05, 0.5


@np.errstate(all="ignore")
def fit_cascade(
    probabilities: Array | tuple[Array, Array],
    labels: Array | None,
    nesting: Nesting,
    *,
    method: str = "greedy",
    dim: float | None = None,
    target: float | None = None,
    drop: float | None = None,
    delta: float | None = None,
    split: float | None = SPLIT,
    seed: int = 0,
    confidence: str = "probability",
    temperatures: Sequence[float] | str | None = None,
    logits: bool = False,
) -> CascadePolicy:
    """A policy whose thresholds are fitted on held-out examples.

    With ``acc`` the accuracy of the whole cascade on these examples and ``E[m]`` its expected dimension, the mean of
    the accepted level's ``m``:

    * ``"greedy"``: the paper's. Each threshold maximises the accuracy of levels ``g`` and ``g + 1`` alone, over
      ``linspace(0.1, 1, 100)``, the smallest of equals.
    * ``"budget"``: ``max acc`` with ``E[m] <= dim``; the smallest ``E[m]`` of equals.
    * ``"accuracy"``: ``min E[m]`` with ``acc >= target``, or with ``acc`` at most ``drop`` below that of the last level
      alone on these examples, which some policy always has; the largest ``acc`` of equals.
    * ``"risk"``: the cheapest for which a test, at level ``delta``, still says that the cascade's *true* accuracy is at
      most ``drop`` below that of the last level alone. Over draws of the examples this holds with a probability of at
      least ``1 - delta``, whatever their distribution, if they are drawn independently from it. A share ``split`` of
      the examples finds a path of policies from careful to cheap, and the others test along it, up to the first that
      fails. With ``split=None`` all examples test one threshold shared by all levels, from 1 downwards. If nothing
      passes, the policy is the last level itself.

    ``"budget"`` and ``"accuracy"`` choose all thresholds together from 0, 1 and the middles between neighbouring
    confidences seen: exact steps in one threshold at a time from many starts, then branch and bound. ``fitted`` says
    ``exact: True`` where the bounds prove that no others of these are better; otherwise the search stopped at its
    limit, the result fulfils the constraint, and no change of a single threshold improves it.

    Confidences are measured in float64. Cascades of float32 run in float32, and find them up to
    ``r = 2^-24 max(64, C / 8)`` away: 3.8e-6 for up to 512 classes, and for a pair; 7.5e-6 for 1000. So that what is
    fitted holds there, ``"budget"`` and ``"accuracy"`` take no threshold but 1 within ``r`` of a confidence seen:
    examples closer than ``2 r`` are not separated. ``"risk"`` counts the worse of stopping and going on where a
    confidence is within ``r`` of a threshold. ``"greedy"`` keeps the paper's grid, whatever
    lies near it.

    Args:
        probabilities: ``(G, ..., C)`` floating, of any framework, the softmax of each level; or a pair
            ``(confidence, correct)`` of ``(G, N)`` numbers and bools, whose ``confidence`` keyword is their name.
        labels: ``(...)`` integer class indices in ``[0, C)``, of any framework, or a list; ``None`` with a pair.
        nesting: the ``G`` granularities; weights play no part.
        method: ``"greedy"``, ``"budget"``, ``"accuracy"`` or ``"risk"``.
        dim: for ``"budget"``, in dimensions.
        target: for ``"accuracy"``, a share in [0, 1]; or ``drop``.
        drop: for ``"accuracy"`` (in place of ``target``) and ``"risk"``, a share in [0, 1).
        delta: for ``"risk"``, a probability in (0, 1); ``None`` for 0.05.
        split: for ``"risk"``, the share of the examples that finds policies and tests none, in (0, 1); or ``None``.
        seed: for ``"risk"`` with a split, of the permutation that divides the examples; at least 0.
        confidence: ``"probability"``, ``"margin"`` or ``"entropy"``, as in :class:`CascadePolicy`.
        temperatures: ``(G,)`` numbers that divide the logits; ``"fit"`` for those of :func:`fit_temperatures` on
            the same examples; ``None`` for 1.
        logits: ``probabilities`` are logits.

    Returns:
        A :class:`CascadePolicy`; ``fitted`` holds the method and its options, the number of examples, and the
        accuracy and expected dimension on them. For ``"risk"`` these include the examples that policies were found
        on; ``tested`` counts the others, ``test`` names their test, and ``passed`` says how many policies did.

    Raises:
        TypeError: traced arrays, or an option of a wrong kind or of another method.
        ValueError: shapes that do not fit, labels out of range, no example, an option out of range, or a constraint
            that nothing fulfils, with the best value within reach.

    Example:
        >>> import mrl, numpy as np
        >>> confidence = np.array([[0.9, 0.6, 0.4], [0.9, 0.9, 0.9]])
        >>> correct = np.array([[True, True, False], [True, True, True]])
        >>> policy = mrl.fit_cascade((confidence, correct), None, mrl.Nesting((8, 16)), method="accuracy", target=1.0)
        >>> policy.thresholds, dict(policy.fitted)["expected_dim"]
        ((0.5,), 10.666666666666666)

        With a guarantee, on two thousand examples of which none is harmed by stopping early:

        >>> pair = np.full((2, 2000), 0.9), np.ones((2, 2000), bool)
        >>> safe = mrl.fit_cascade(pair, None, mrl.Nesting((8, 16)), method="risk", drop=0.01)
        >>> fitted = dict(safe.fitted)
        >>> fitted["expected_dim"], fitted["tested"], fitted["p_value"] < fitted["delta"]
        (8.0, 1000, True)

    Source: arXiv 2205.13147, section 4.2.1 and appendix D.1 (greedy); arXiv 2110.01052 (risk).
    """
    checks.check_nesting(nesting)
    options = _options(method, dim=dim, target=target, drop=drop, delta=delta)
    division = _division(method, split, seed)
    scales = _temperatures(probabilities, labels, nesting, method, temperatures, logits)
    outcomes = measure(probabilities, labels, len(nesting), confidence=confidence, temperatures=scales, logits=logits)
    thresholds, notes = _fit(outcomes, nesting, method, options, division)
    level = accepted_level(outcomes.confidence, thresholds)
    record: dict[str, Scalar] = {
        "method": method,
        **options,
        "examples": len(level),
        "accuracy": float(right_at(outcomes.correct, level).mean()),
        "expected_dim": float(np.asarray(nesting.dims)[level].mean()),
        "full_accuracy": float(outcomes.correct[-1].mean()),
        **notes,
    }
    return CascadePolicy(thresholds, nesting.dims, confidence=confidence, temperatures=scales, fitted=record)


def _fit(
    outcomes: Outcomes, nesting: Nesting, method: str, options: dict[str, float], division: dict[str, Any]
) -> tuple[tuple[float, ...], dict[str, Scalar]]:
    if method == "greedy":
        return greedy_thresholds(outcomes), {}
    if method == "risk":
        tested = controlled(outcomes, nesting.dims, options["drop"], options["delta"], **division)
        notes: dict[str, Scalar] = {**division, "test": tested.test, "tested": tested.examples}
        return tested.thresholds, {**notes, "passed": tested.passed, "p_value": tested.p_value}
    table = Table(outcomes, nesting.dims)
    starts = [table.nearest(greedy_thresholds(outcomes))]
    if method == "budget":
        found, exact = _within_budget(table, options["dim"], starts)
    else:
        found, exact = _accurate_enough(table, options, starts)
    return table.thresholds(found.choice), {"exact": exact}


def _within_budget(table: Table, dim: float, starts: list[Choice]) -> tuple[Found, bool]:
    # With the smallest thresholds every example stops where it first can: no others spend less on any of them.
    least = table.evaluate((0,) * table.last).spent
    if least / table.examples > dim:
        raise ValueError(
            f"dim: expected a budget that some policy keeps, got {dim}; the smallest expected dimension "
            f"within reach is {least / table.examples:.6g}"
        )
    goal = Goal(True, most_spent(min(dim, float(table.dims[-1])), table.examples), 0)
    return prove(table, goal, search(table, goal, starts))


def _accurate_enough(table: Table, options: dict[str, float], starts: list[Choice]) -> tuple[Found, bool]:
    if "drop" in options:
        lost = most_spent(options["drop"], table.examples)  # the largest count whose share is at most that
        least = max(0, int(table.correct[-1].sum()) - lost)
    else:
        least = least_right(options["target"], table.examples)
    goal = Goal(False, float("inf"), least)
    start = search(table, goal, starts)  # from the last level alone, too, which is within every drop
    if start.right < goal.least:
        most = Goal(True, float("inf"), 0)
        start, exact = prove(table, most, search(table, most, [*starts, start.choice]))
        if start.right < goal.least:
            best = f"the largest accuracy {'within reach' if exact else 'found'} is {start.right / table.examples:.6g}"
            raise ValueError(f"target: expected an accuracy that some policy has, got {options['target']}; {best}")
    return prove(table, goal, start)


def _options(method: str, **given: float | None) -> dict[str, float]:
    if not isinstance(method, str) or method not in METHODS:
        raise ValueError(f"method: expected one of {tuple(METHODS)}, got {method!r}; choose one")
    if method == "risk" and given["delta"] is None:
        given["delta"] = DELTA
    if method == "accuracy":
        if (given["target"] is None) == (given["drop"] is None):
            raise TypeError(
                "target: expected a number with method='accuracy', or drop, and not both, got "
                f"target={given['target']!r} and drop={given['drop']!r}; say how accurate, or how far below the last "
                "level alone"
            )
        del given["target" if given["target"] is None else "drop"]
    options = {}
    for name, value in given.items():
        if name not in METHODS[method]:
            if value is not None:
                owners = " or ".join(repr(key) for key, names in METHODS.items() if name in names)
                raise TypeError(
                    f"{name}: expected nothing with method={method!r}, got {value!r}; it belongs to method={owners}"
                )
            continue
        if value is None:
            raise TypeError(f"{name}: expected a number with method={method!r}, got None; say how much")
        if isinstance(value, bool) or not isinstance(value, (int, float, np.integer, np.floating)):
            raise TypeError(f"{name}: expected a number, got {value!r}; write it as a float")
        options[name] = to_float(value)
        allowed, wanted, advice = {
            "dim": (0 < options[name] < float("inf"), "a positive finite number of dimensions", "an average of m_g"),
            "target": (0 <= options[name] <= 1, "a share in [0, 1]", "0.76 is 76 percent"),
            "drop": (0 <= options[name] < 1, "a share in [0, 1)", "0.01 is one percent"),
            "delta": (0 < options[name] < 1, "a probability between 0 and 1", "0.05 is five percent"),
        }[name]
        if not allowed:
            raise ValueError(f"{name}: expected {wanted}, got {value}; {advice}")
    return options


def _division(method: str, split: float | None, seed: int) -> dict[str, Any]:
    """The checked ``split`` and ``seed``; those of other methods are what nobody gave."""
    seed = checks.check_integer("seed", seed, at_least=0)
    if method != "risk":
        for name, value, usual in (("split", split, (None, SPLIT)), ("seed", seed, (0,))):
            if value not in usual:
                raise TypeError(
                    f"{name}: expected nothing with method={method!r}, got {value!r}; it belongs to method='risk'"
                )
    if split is not None:
        if isinstance(split, bool) or not isinstance(split, (int, float, np.integer, np.floating)):
            raise TypeError(f"split: expected a number or None, got {split!r}; 0.5 is half of the examples")
        split = to_float(split)
        if not 0 < split < 1:
            raise ValueError(f"split: expected a share between 0 and 1, got {split}; None tests on all examples")
    return {"split": split, "seed": seed}


def _temperatures(
    probabilities: Any,
    labels: Array | None,
    nesting: Nesting,
    method: str,
    temperatures: Sequence[float] | str | None,
    logits: bool,
) -> tuple[float, ...] | None:
    """Checked temperatures; those to be fitted are."""
    if temperatures is None:
        return None
    if not isinstance(temperatures, str):
        return check_temperatures(temperatures, len(nesting))
    if temperatures != "fit":
        raise ValueError(f"temperatures: expected numbers, 'fit' or None, got {temperatures!r}; choose one of them")
    if method == "risk":
        raise ValueError(
            "temperatures: expected numbers or None with method='risk', got 'fit'; what is fitted on the tested "
            "examples voids the guarantee: give the result of mrl.fit_temperatures on other examples"
        )
    if isinstance(probabilities, (tuple, list)):
        raise ValueError(f"temperatures: expected None with a pair {PAIR}, got 'fit'; pass probabilities or logits")
    values, y = host_examples("probabilities", probabilities, labels, len(nesting))
    checks.check_flag("logits", logits)
    return temperatures_of("probabilities", values, y, logits=logits)
