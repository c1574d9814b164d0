"""Proves a nested loss that somebody else wrote, or finds the smallest problem on which it is wrong."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import product
from types import CodeType, FunctionType
from typing import Any

import numpy as np
from hypothesis import strategies as st

from ..checks import check_device, check_flag, check_integer
from ..dispatch import ROOTS, backend_named
from ..heads import NestedLoss
from .case import Case
from .cross_entropy import bounds
from .cross_entropy.problems import TRACED_LAYOUTS, drawn, layouts
from .drivers import driver_of
from .problems import Layout, Problem, head_from
from .runners import Row, prove

OPTIONS = ("label_smoothing", "ignore_index", "reduction", "leading")
AGAINST = ("nested_cross_entropy", "nested_cosine")

POOLED_OPTIONS: dict[str, tuple[Any, ...]] = {
    "label_smoothing": (0.0, 0.1, 0.5, 1.0),
    "ignore_index": (None, -100, 0, 1),
    "reduction": ("mean", "sum", "none"),
}


def check_loss(
    loss: Callable[..., Any],
    *,
    backend: str | None = None,
    against: str = "nested_cross_entropy",
    tied: bool | None = None,
    bias: bool | None = None,
    options: Sequence[str] = (),
    dtype: str = "float32",
    gradients: bool = True,
    device: Any = None,
    examples: int = 100,
    random_seed: int | None = None,
) -> Row:
    """Prove your own implementation of a nested loss, values and gradients, or get a counter-example.

    The loss is called like the one it is held against, with arrays of its framework:

    * ``against="nested_cross_entropy"``: ``loss(z, head, labels, nesting)``, equation 1 of the paper, with
      ``z`` ``(N, D)``, ``labels`` ``(N,)`` and the keywords named in ``options``;
    * ``against="nested_cosine"``: ``loss(z, targets, nesting)``, which is
      ``sum_g w_g * mean_i (1 - cos(z[i, :m_g], targets[i, :m_g]))``, each prefix normalised by itself; none of them
      is zero.

    It returns the loss as a scalar array, or a :class:`mrl.NestedLoss`, whose ``per_level`` is then proved too.

    Args:
        loss: the implementation.
        backend: the framework it is written in; ``None`` reads it off the modules that its code uses.
        against: what it claims to compute.
        tied: only :class:`mrl.TiedHead` or only :class:`mrl.NestedHead` heads; ``None`` for both.
        bias: only heads with or only heads without biases; ``None`` for both.
        options: of ``"label_smoothing"``, ``"ignore_index"``, ``"reduction"`` (passed as keywords) and
            ``"leading"`` (more than one leading axis, none, and empty batches).
        dtype: the dtype of the arrays. Of half precision, cast them up once, before the levels: a cast in each
            level has autograd add the levels' gradients in half precision, which is more than the bound allows.
        gradients: compare gradients too.
        device: where the arrays live, in the framework's words.
        examples: how many problems to draw.
        random_seed: draws the same problems again.

    Returns:
        What was proved: examples run and the worst error as a share of its bound.

    Raises:
        AssertionError: the loss is wrong, or no array of the right shape that carries a gradient; the message holds
            the smallest problem that was found.
        ValueError: the framework cannot be told, no examples, or a name that is unknown or does not fit ``against``.
        TypeError: ``loss`` is not callable, or an argument of a wrong kind.

    Example:
        >>> import mrl, mrl.testing
        >>> row = mrl.testing.check_loss(mrl.nested_cross_entropy, backend="numpy", examples=20)
        >>> row.worst <= 1
        True
    """
    if not callable(loss):
        raise TypeError(f"loss: expected a function, got {type(loss).__name__}; pass the implementation itself")
    for argument, values, known in (("against", (against,), AGAINST), ("options", options, OPTIONS)):
        for value in values:
            if value not in known:
                raise ValueError(f"{argument}: expected names of {known}, got {value!r}; choose from these")
    if against == "nested_cosine" and set(options) - {"leading"}:
        raise ValueError(
            f"options: expected only 'leading' against 'nested_cosine', got {options!r}; leave out the rest"
        )
    for argument, flag in (("tied", tied), ("bias", bias)):
        if flag is not None:
            check_flag(argument, flag)
    examples = check_integer("examples", examples, at_least=1)
    driver = driver_of(backend or _framework_of(loss))
    if dtype not in driver.dtypes:
        raise ValueError(f"dtype: expected one of {driver.dtypes} for {driver.name}, got {dtype!r}; choose from these")
    check_device("device", backend_named(driver.name), device)
    # Eager JAX compiles each operation for every new shape: its problems come from a small pool of layouts.
    case = _case(loss, against, tied, bias, tuple(options), pooled=driver.name == "jax")
    case = replace(case, gradients=gradients)
    return prove(case, driver, "eager", dtype, device=device, examples=examples, random_seed=random_seed)


def _case(
    loss: Callable[..., Any], against: str, tied: bool | None, bias: bool | None, options: tuple[str, ...], pooled: bool
) -> Case:
    keywords = tuple(option for option in options if option != "leading")
    name, cosine = getattr(loss, "__name__", "loss"), against == "nested_cosine"

    def function(layout: Layout) -> Any:
        def run(arrays: list[Any], constants: list[Any]) -> Sequence[Any]:
            if cosine:
                result = loss(arrays[0], constants[0], layout.nesting)
            else:
                z, *leaves = arrays
                given = {keyword: getattr(layout, keyword) for keyword in keywords}
                result = loss(z, head_from(layout, leaves), constants[0], layout.nesting, **given)
            _check_result(name, result, layout.lead if layout.reduction == "none" else ())
            return list(result) if isinstance(result, NestedLoss) else [result]

        return run

    if cosine:
        tied, bias = True, False
    shapes = _pooled(tied, bias, options) if pooled else layouts(tied=tied, bias=bias, options=options)
    return Case(
        name,
        function,
        bounds.nested_cosine if cosine else bounds.nested_cross_entropy,
        (),
        drawn("loss", seen=_without_zero_prefixes if cosine else lambda problem: problem, of=shapes),
        head=not cosine,
        constants=(lambda problem: [problem.targets]) if cosine else (lambda problem: [problem.labels]),
        outputs_checked=False,
    )


def _pooled(tied: bool | None, bias: bool | None, options: tuple[str, ...]) -> st.SearchStrategy[Layout]:
    """The shapes of the pool, the smallest first, and the options that are asked for."""
    plain = [
        Layout(
            layout.nesting,
            layout.lead if "leading" in options else (max(1, layout.rows),),
            layout.width,
            layout.classes,
            kind,
            with_bias,
        )
        for layout in sorted(TRACED_LAYOUTS, key=lambda layout: layout.rows * layout.features * layout.classes)
        for kind in ((True, False) if tied is None else (tied,))
        for with_bias in ((True, False) if bias is None else (bias,))
    ]
    asked = {option: values for option, values in POOLED_OPTIONS.items() if option in options}
    chosen = [dict(zip(asked, values, strict=True)) for values in product(*asked.values())]
    return st.sampled_from([replace(layout, **options) for layout in plain for options in chosen])


def _without_zero_prefixes(problem: Problem) -> Problem:
    """Of which the cosine is not defined, and a gradient is a matter of taste."""

    def mend(x: Any) -> Any:
        x = np.array(x)
        x[..., 0] = np.where(np.any(x[..., : problem.layout.nesting.dims[0]], -1), x[..., 0], 0.125)
        return x

    return replace(problem, z=mend(problem.z), targets=mend(problem.targets))


def _check_result(name: str, result: Any, shape: tuple[int, ...]) -> None:
    total = result.total if isinstance(result, NestedLoss) else result
    if not (hasattr(total, "shape") and hasattr(total, "dtype")):
        raise AssertionError(
            f"{name}: expected an array of shape {shape} or an mrl.NestedLoss, got {type(total).__name__}"
        )
    if tuple(total.shape) != shape:
        raise AssertionError(f"{name}: expected a loss of shape {shape}, got {tuple(total.shape)}")


def _framework_of(loss: Callable[..., Any]) -> str:
    """The one framework whose modules a function's code, or a function that it calls, names."""
    frameworks = _frameworks(inspect.unwrap(getattr(loss, "__func__", loss)), set())
    # A function that also calls NumPy is still written in the other framework.
    frameworks = frameworks - {"numpy"} or frameworks
    if len(frameworks) != 1:
        raise ValueError(
            f"backend: expected to read one framework off the code of {getattr(loss, '__name__', loss)!r}, got "
            f"{sorted(frameworks) or 'none'}; name it, for example backend='torch'"
        )
    return frameworks.pop()


def _frameworks(function: Any, seen: set[Any]) -> set[str]:
    if not isinstance(function, FunctionType) or function in seen:
        return set()
    seen.add(function)
    cells = zip(function.__code__.co_freevars, function.__closure__ or (), strict=True)
    variables = {**function.__globals__, **{name: cell.cell_contents for name, cell in cells}}
    found = set()
    for name in _names_in(function.__code__):
        value = variables.get(name)
        module = value.__name__ if inspect.ismodule(value) else getattr(value, "__module__", None)
        root = ROOTS.get(str(module).partition(".")[0])
        found |= {root} if root else _frameworks(value, seen)
    return found


def _names_in(code: CodeType) -> set[str]:
    inner = [_names_in(constant) for constant in code.co_consts if isinstance(constant, CodeType)]
    return {*code.co_names, *code.co_freevars}.union(*inner)
