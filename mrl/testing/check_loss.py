"""Proves a nested loss that somebody else wrote, or finds a small problem on which it is wrong."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import product
from typing import Any

import numpy as np
from hypothesis import strategies as st

from ..checks import check_device, check_flag, check_integer, check_nesting
from ..dispatch import backend_named
from ..heads import NestedLoss
from ..losses import nested_logits
from ..nesting import Nesting
from .callables import CALLS, check_signature, dtype_named, framework_of, import_of, in_own_words, name_of
from .case import SMALL, Case, Source
from .contrastive.claims import OPTIONS as CONTRASTIVE_OPTIONS
from .contrastive.claims import contrastive_case
from .cross_entropy import bounds
from .cross_entropy.mistakes import cosine_diagnosis, cross_entropy_diagnosis
from .cross_entropy.problems import TRACED_LAYOUTS, WEIGHTED, drawn, layouts
from .drivers import driver_of
from .problems import Layout, Problem, head_from
from .runners import Row, prove

OPTIONS = ("label_smoothing", "ignore_index", "reduction", *WEIGHTED, "soft", "leading")

POOLED_OPTIONS: dict[str, tuple[Any, ...]] = {
    "label_smoothing": (0.0, 0.1, 0.5, 1.0),
    "ignore_index": (None, -100, 0, 1),
    "reduction": ("mean", "sum", "none"),
    "soft": (False, True),
}


def check_loss(
    loss: Callable[..., Any],
    *,
    backend: str | None = None,
    against: str = "nested_cross_entropy",
    nesting: Nesting | None = None,
    tied: bool | None = None,
    bias: bool | None = None,
    options: str | Sequence[str] = (),
    dtype: Any = "float32",
    gradients: bool | None = None,
    device: Any = None,
    examples: int = 100,
    random_seed: int | None = None,
) -> Row:
    """Prove your own implementation of a nested loss, values and gradients, or get a counter-example.

    The loss is anything that can be called: a function, a method, a ``functools.partial``, a PyTorch module, a
    compiled function. It is called like what it is held against, with arrays of its framework:

    * ``against="nested_cross_entropy"``: ``loss(z, head, labels, nesting)``, equation 1 of the paper, with
      ``z`` ``(N, D)``, ``labels`` ``(N,)`` and the keywords named in ``options``;
    * ``against="logits"``: ``loss(logits, labels)``, the same of a tuple with the logits ``(N, C)`` of every level,
      which :func:`mrl.nested_logits` made; every weight is 1, unless ``nesting`` says otherwise;
    * ``against="nested_cosine"``: ``loss(z, targets, nesting)``, which is
      ``sum_g w_g * mean_i (1 - cos(z[i, :m_g], targets[i, :m_g]))``, each prefix normalised by itself; none of them
      is zero;
    * ``against="nested_contrastive"``: ``loss(anchors, positives, nesting)``, :func:`mrl.nested_contrastive` of arrays
      ``(B, D)`` at a temperature of 0.05, of prefixes that are not zero, with the keywords named in ``options``.

    It returns the loss as a scalar array, or a :class:`mrl.NestedLoss`, whose ``per_level`` is then proved too.

    Args:
        loss: the implementation.
        backend: the framework it is written in; ``None`` reads it off its class, or the modules that its code uses.
        against: what it claims to compute.
        nesting: the only one to draw, for a loss that holds dims or weights itself; ``None`` for any.
        tied: only :class:`mrl.TiedHead` or only :class:`mrl.NestedHead` heads; ``None`` for both.
        bias: only heads with or only heads without biases; ``None`` for both.
        options: of ``"label_smoothing"``, ``"ignore_index"``, ``"reduction"`` (passed as keywords),
            ``"sample_weight"``, ``"class_weight"``, ``"level_weights"`` (keywords too, and left out where there are
            none), ``"soft"`` (labels that are probabilities) and ``"leading"`` (more than one leading axis, none, and
            empty batches); against ``"nested_contrastive"`` of ``"symmetric"``, ``"negatives"``, ``"exclude"``,
            ``"temperature"`` (a number, or an array whose gradient is proved too), ``"similarity"`` and
            ``"reduction"``. One name, or several.
        dtype: the dtype of the arrays, by name or in a framework's words. Of half precision, cast them up once, before
            the levels: a cast in each level has autograd add the levels' gradients in half precision, which is more
            than the bound allows.
        gradients: compare gradients too; ``None`` where the framework has them, which the row tells.
        device: where the arrays live, in the framework's words.
        examples: how many problems to draw.
        random_seed: draws the same problems again.

    Returns:
        What was proved: examples run, the worst error as a share of its bound, and whether gradients were compared.

    Raises:
        AssertionError: the loss is wrong, or no array of the right shape that carries a gradient; the message lists
            every wrong output, names the mistake if it is a known one, and ends in the smallest problem found, as
            code to run.
        ValueError: the framework cannot be told, no examples, or a name that is unknown or does not fit ``against``;
            gradients asked of a framework that has none.
        TypeError: ``loss`` cannot be called, or not like that; or an argument of a wrong kind.

    Example:
        >>> import mrl, mrl.testing
        >>> row = mrl.testing.check_loss(mrl.nested_cross_entropy, backend="numpy", examples=20)
        >>> row.worst <= 1, row.gradients
        (True, False)
    """
    if not callable(loss):
        raise TypeError(f"loss: expected a function, got {type(loss).__name__}; pass the implementation itself")
    options = (options,) if isinstance(options, str) else tuple(options)
    pairs = against == "nested_contrastive"
    known_options = CONTRASTIVE_OPTIONS if pairs else OPTIONS
    for argument, values, known in (("against", (against,), tuple(CALLS)), ("options", options, known_options)):
        for value in values:
            if value not in known:
                raise ValueError(f"{argument}: expected names of {known}, got {value!r}; choose from these")
    if against == "nested_cosine" and set(options) - {"leading"}:
        raise ValueError(
            f"options: expected only 'leading' against 'nested_cosine', got {options!r}; leave out the rest"
        )
    for argument, flag in (("tied", tied), ("bias", bias), ("gradients", gradients)):
        if flag is not None:
            check_flag(argument, flag)
    if nesting is not None:
        check_nesting(nesting)
    examples = check_integer("examples", examples, at_least=1)
    check_signature(loss, against, _keywords(options))
    driver, dtype = driver_of(backend or framework_of(loss)), dtype_named(dtype)
    if dtype not in driver.dtypes:
        raise ValueError(f"dtype: expected one of {driver.dtypes} for {driver.name}, got {dtype!r}; choose from these")
    if gradients and not driver.gradients:
        raise ValueError(
            f"gradients: expected a framework that the kit can differentiate, got {driver.name}, which has no driver "
            "that does; leave the argument out to prove values alone"
        )
    check_device("device", backend_named(driver.name), device)
    # Eager JAX compiles each operation for every new shape: its problems come from a small pool of layouts.
    pooled = driver.name == "jax"
    if pairs:
        name = name_of(loss)
        case = contrastive_case(
            loss,
            name,
            options,
            nesting,
            pooled=pooled,
            imported=import_of(loss),
            check=lambda result, shape: _check_result(name, result, shape),
        )
    else:
        case = _case(loss, against, nesting, tied, bias, options, pooled=pooled)
    case = replace(case, gradients=driver.gradients and gradients is not False)
    return prove(case, driver, "eager", dtype, device=device, examples=examples, random_seed=random_seed)


def _keywords(options: tuple[str, ...]) -> tuple[str, ...]:
    """The options that are passed by name: soft labels come in place of labels."""
    return tuple(option for option in options if option not in ("leading", "soft"))


def _case(
    loss: Callable[..., Any],
    against: str,
    nesting: Nesting | None,
    tied: bool | None,
    bias: bool | None,
    options: tuple[str, ...],
    pooled: bool,
) -> Case:
    keywords, name, cosine = _keywords(options), name_of(loss), against == "nested_cosine"

    def function(layout: Layout) -> Any:
        plain = {keyword: getattr(layout, keyword) for keyword in keywords if keyword not in WEIGHTED}

        def run(arrays: list[Any], constants: list[Any]) -> Sequence[Any]:
            z, *leaves = arrays
            arguments: tuple[Any, ...]
            given = plain | dict(zip(layout.weighted, constants[1:], strict=True))
            if cosine:
                arguments = (z, constants[0], layout.nesting)
            elif against == "logits":
                logits = nested_logits(z, head_from(layout, leaves), layout.nesting)
                arguments = (tuple(logits[g] for g in range(len(layout.nesting))), constants[0])
            else:
                arguments = (z, head_from(layout, leaves), constants[0], layout.nesting)
            try:
                result = loss(*arguments, **given)
            except Exception as error:
                advice = in_own_words(error, loss)
                if advice is None:
                    raise
                raise TypeError(advice) from error
            _check_result(name, result, layout.lead if layout.reduction == "none" else ())
            return list(result) if isinstance(result, NestedLoss) else [result]

        return run

    if cosine:
        tied, bias = True, False
    weights_are_one = against == "logits" and nesting is None

    def admits(problem: Problem) -> bool:
        layout = problem.layout
        kinds = tied in (None, layout.tied) and bias in (None, layout.bias) and nesting in (None, layout.nesting)
        weights = not weights_are_one or set(layout.nesting.weights) == {1.0}
        return kinds and weights and not (cosine and _zero_prefixes(problem).any())

    def suited(layout: Layout) -> Layout:
        if nesting is not None:
            return replace(layout, nesting=nesting, width=max(layout.width, nesting.width))
        return replace(layout, nesting=Nesting(layout.nesting.dims)) if weights_are_one else layout

    each, any_of = _pooled(tied, bias, options) if pooled else ([], [])
    shapes = st.sampled_from(any_of) if pooled else layouts(tied=tied, bias=bias, options=(*options, "large"))
    statement, expression = import_of(loss)
    telling: dict[str, Any] = {"nesting": nesting}
    if weights_are_one:
        telling["nesting"] = Nesting((2, 3, 5))
    return Case(
        name,
        function,
        bounds.nested_cosine if cosine else bounds.nested_cross_entropy,
        (),
        drawn(
            "loss",
            seen=_without_zero_prefixes if cosine else lambda problem: problem,
            of=shapes.map(suited),
            pool=tuple(map(suited, each)),
        ),
        head=not cosine,
        constants=lambda problem: [problem.targets if cosine else problem.labels, *_weights(problem, WEIGHTED[:1])],
        parameters=lambda problem: _weights(problem, WEIGHTED[1:]),
        outputs_checked=False,
        admits=admits,
        source=Source(_call(expression, against, keywords), ("targets",) if cosine else ("labels",), (statement,)),
        diagnosis=cosine_diagnosis(**telling)
        if cosine
        else cross_entropy_diagnosis(tied=tied, bias=bias, options=options, **telling),
    )


def _weights(problem: Problem, names: Sequence[str]) -> list[Any]:
    return [getattr(problem, name) for name in names if name in problem.layout.weighted]


def _call(expression: str, against: str, keywords: tuple[str, ...]) -> Callable[[Layout], str]:
    """The source of the call for a layout."""
    arguments = ", ".join(CALLS[against])
    if against == "logits":
        arguments = "tuple(mrl.nested_logits(z, head, nesting)[g] for g in range(len(nesting))), labels"

    def call(layout: Layout) -> str:
        given = "".join(
            f", {keyword}={keyword if keyword in WEIGHTED else repr(getattr(layout, keyword))}"
            for keyword in keywords
            if keyword not in WEIGHTED or keyword in layout.weighted
        )
        return f"{expression}({arguments}{given})"

    return call


def _pooled(tied: bool | None, bias: bool | None, options: tuple[str, ...]) -> tuple[list[Layout], list[Layout]]:
    """Every shape of the pool once, in turn with the options that are asked for; and all combinations of small ones."""
    plain = [
        Layout(
            layout.nesting,
            layout.lead if "leading" in options else (max(1, layout.rows),),
            layout.width,
            layout.classes,
            weighted=tuple(name for name in layout.weighted if name in options),
        )
        for layout in sorted(TRACED_LAYOUTS, key=lambda layout: layout.rows * layout.features * layout.classes)
    ]
    asked = {option: values for option, values in POOLED_OPTIONS.items() if option in options}
    asked["tied"] = (True, False) if tied is None else (tied,)
    asked["bias"] = (True, False) if bias is None else (bias,)
    chosen = [dict(zip(asked, values, strict=True)) for values in product(*asked.values())]
    if "soft" in options:
        chosen = [{**given, "ignore_index": None} if given["soft"] else given for given in chosen]
    each = [replace(layout, **chosen[5 * i % len(chosen)]) for i, layout in enumerate(plain)]
    small = [layout for layout in plain if layout.rows * layout.classes <= SMALL]
    return each, [replace(layout, **options) for layout in small for options in chosen]


def _zero_prefixes(problem: Problem) -> np.ndarray:
    """Where the smallest prefix is zero: its cosine is not defined, and a gradient is a matter of taste."""
    first = problem.layout.nesting.dims[0]
    assert problem.targets is not None
    return np.stack([~np.any(x[..., :first], -1) for x in (problem.z, problem.targets)])


def _without_zero_prefixes(problem: Problem) -> Problem:
    z, targets = np.array(problem.z), np.array(problem.targets)
    for x, zero in zip((z, targets), _zero_prefixes(problem), strict=True):
        x[..., 0] = np.where(zero, 0.125, x[..., 0])
    return replace(problem, z=z, targets=targets)


def _check_result(name: str, result: Any, shape: tuple[int, ...]) -> None:
    total = result.total if isinstance(result, NestedLoss) else result
    if not (hasattr(total, "shape") and hasattr(total, "dtype")):
        raise AssertionError(
            f"{name}: expected an array of shape {shape} or an mrl.NestedLoss, got {type(total).__name__}"
        )
    if tuple(total.shape) != shape:
        raise AssertionError(f"{name}: expected a loss of shape {shape}, got {tuple(total.shape)}")
