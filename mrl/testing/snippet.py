"""A counter-example as code: imports, arrays, the call, and what is expected, to be pasted and run."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..heads import TiedHead, head_leaves
from .case import Case
from .comparison import named_outputs, share_of
from .drivers import Driver, Result, Script
from .drivers.values import values_script
from .problems import Problem
from .rounding import Bounded

MOST_WRITTEN_OUT = 400
"""Entries of an array that are all the same; of more, it is written as that."""


def snippet(
    case: Case,
    driver: Driver,
    problem: Problem,
    expected: Bounded | None = None,
    result: Result | None = None,
    device: Any = None,
) -> str:
    """The code that shows a mistake: it ends in what is expected of every output that ``result`` has wrong.

    Of a case that cannot be written down, the fields of the problem.
    """
    if case.source is None:
        with np.printoptions(precision=17, threshold=MOST_WRITTEN_OUT):
            return "\n".join(f"  {name}: {value!r}" for name, value in vars(problem).items() if value is not None)
    script: Script = getattr(driver, "script", None) or values_script(driver.name)
    leaves = _leaf_names(problem) if case.head else []
    names = case.names(problem) if case.names else ["z", *leaves]
    written = []
    for name, x in zip(names, case.arrays(problem), strict=True):
        kind = problem.head_dtype if name in leaves else problem.dtype
        written.append(f"{name} = {script.array(_values(x, kind), kind, device)}")
    constants = [*case.constants(problem), *case.parameters(problem)]
    given_by_name = [name for name in case.source.constants if name != "exclude" or problem.layout.excluding]
    for name, x in zip([*given_by_name, *problem.layout.weighted], constants, strict=True):
        kind = problem.dtype if np.issubdtype(x.dtype, np.floating) else str(x.dtype)
        written.append(f"{name} = {script.array(_values(x, kind), kind, device)}")
    nesting = problem.layout.nesting
    whole = result is not None and len(result.outputs) > 1
    call = case.source.call(problem.layout)
    head = [f"    head = {_head(problem, leaves)}"] if case.head else []
    given = [name for place, name in enumerate(names) if place not in problem.layout.frozen]
    lines = [
        *sorted({"import mrl", "import numpy as np", *script.imports}, key=lambda line: line.split()[1]),
        *case.source.imports,
        "",
        *filter(None, [script.first]),
        *written,
        f"nesting = mrl.Nesting({nesting.dims}"
        + ("" if set(nesting.weights) == {1.0} else f", {nesting.weights}")
        + ")",
        "",
        "",
        f"def run({', '.join(given)}):",
        *head,
        f"    return {call}",
        "",
        "",
    ]
    found = {} if expected is None or result is None else named_outputs(expected, result)
    wrong = [name for name, x in found.items() if not share_of(x, *(expected or {})[name]) <= 1]
    gradients = result is not None and result.gradients is not None and any(name.startswith("d") for name in wrong)
    first = "run({}).total" if whole else "run({})"
    if gradients:
        upstream = None
        if problem.upstream.ndim or problem.upstream != 1:
            upstream = script.array(_values(problem.upstream, problem.dtype), problem.dtype, device)
        lines += script.gradients(first, given, upstream)
    else:
        lines.append(f"total = {first.format(', '.join(given))}")
    if "per_level" in wrong:
        lines.append(f"per_level = run({', '.join(given)}).per_level")
    if expected is not None:
        differentiated = [f"d{name}" for name in names]
        variables = dict(zip([name for name in expected if name.startswith("d")], differentiated, strict=True))
        for name in wrong:
            variable = variables.get(name, "per_level" if name == "per_level" else "total")
            lines.append(_expectation(script, variable, found[name], *expected[name]))
    return "\n".join(lines)


def _expectation(script: Script, variable: str, found: Any, value: Any, bound: Any) -> str:
    found, value = np.asarray(found), np.asarray(value)
    came = f"np.asarray({script.to_numpy.format(variable)}, np.float64)"
    if found.shape != value.shape:
        return f"assert {came}.shape == {value.shape}"
    bound = np.broadcast_to(bound, value.shape)
    largest = float(np.max(bound, initial=0.0))
    with np.errstate(invalid="ignore"):
        one_bound = not np.all(np.abs(found - value) <= largest)  # NaN and infinity too
    atol = f"{largest:.3g}" if one_bound else _values(bound, "float64")
    return f"np.testing.assert_allclose({came}, {_values(value, 'float64', digits=12)}, rtol=0, atol={atol})"


def _leaf_names(problem: Problem) -> list[str]:
    if isinstance(problem.head, TiedHead):
        return ["weight", "bias"][: len(head_leaves(problem.head))]
    levels = range(len(problem.layout.nesting))
    return [f"weight_{g}" for g in levels] + [f"bias_{g}" for g in levels if problem.head.biases]


def _head(problem: Problem, leaves: list[str]) -> str:
    if isinstance(problem.head, TiedHead):
        return f"mrl.TiedHead({', '.join(leaves)})"
    count = len(problem.layout.nesting)
    groups = [leaves[:count], leaves[count:]]
    return f"mrl.NestedHead({', '.join('(' + ', '.join(group) + ',)' for group in groups if group)})"


def _values(x: Any, dtype: str, digits: int = 17) -> str:
    """The numbers of an array, in as few digits as tell them apart in their dtype."""
    x = np.asarray(x)
    if x.size == 0 or (x.size > MOST_WRITTEN_OUT and np.all(x == x.flat[0])):
        fill = x.flat[0] if x.size else 0
        return f"np.full({x.shape}, {_number(fill, dtype, digits)})"
    if x.ndim == 0:
        return _number(x[()], dtype, digits)
    return "[" + ", ".join(_values(row, dtype, digits) for row in x) + "]"


def _number(x: Any, dtype: str, digits: int) -> str:
    if np.asarray(x).dtype == bool:
        return str(bool(x))
    if np.issubdtype(np.asarray(x).dtype, np.integer):
        return str(int(x))
    if not np.isfinite(x):
        return f"float('{float(x)}')"
    if dtype == "float64":
        return repr(float(f"{float(x):.{digits}g}"))
    return repr(float(str(np.float16(x) if dtype == "float16" else np.float32(x))))
