"""Losses as their authors have them: functions, modules, partial and compiled ones; whose they are, what they take."""

from __future__ import annotations

import functools
import inspect
import sys
from collections.abc import Callable
from types import CodeType, FunctionType
from typing import Any

import numpy as np

from ..dispatch import ROOTS, known_backends

CALLS = {
    "nested_cross_entropy": ("z", "head", "labels", "nesting"),
    "nested_contrastive": ("anchors", "positives", "nesting"),
    "nested_cosine": ("z", "targets", "nesting"),
    "logits": ("logits", "labels"),
}
"""What a loss is called with, by what it is held against."""


def dtype_named(dtype: Any) -> Any:
    """The name of a dtype in any framework's words: ``torch.float32``, ``np.float32``, ``jnp.bfloat16``, a string."""
    if isinstance(dtype, str):
        return dtype
    named = getattr(dtype, "name", None)
    if isinstance(named, str):
        return named
    try:
        return np.dtype(dtype).name
    except TypeError:
        return str(dtype).rpartition(".")[2]


def name_of(loss: Callable[..., Any]) -> str:
    """What to call a loss in a message."""
    while isinstance(loss, functools.partial):
        loss = loss.func
    return getattr(loss, "__name__", None) or getattr(loss, "name", None) or type(loss).__name__


def import_of(loss: Callable[..., Any]) -> tuple[str, str]:
    """``(statement, expression)`` that bring a loss into a script; the statement may be a comment."""
    name = name_of(loss)
    plain = name if name.isidentifier() else "loss"
    module = getattr(loss, "__module__", None)
    if module in (None, "__main__", "builtins") or vars(sys.modules.get(module, object)).get(plain) is not loss:
        return f"# {plain} is the loss under proof", plain
    return f"from {module} import {plain}", plain


def check_signature(loss: Callable[..., Any], against: str, keywords: tuple[str, ...]) -> None:
    """That a loss takes what it will be called with, or what to do in its framework's words."""
    wanted = CALLS[against]
    called = f"{name_of(loss)}({', '.join(wanted)}{''.join(f', {key}=...' for key in keywords)})"
    try:
        signature = inspect.signature(getattr(loss, "forward", loss) if _is_a(loss, "torch") else loss)
    except (TypeError, ValueError):  # what is built in or compiled may not say
        return
    taken = list(signature.parameters)
    if _is_a(loss, "keras") or taken[:2] == ["y_true", "y_pred"]:
        raise TypeError(
            f"loss: expected {called}, got a Keras loss, which takes (y_true, y_pred); hand over a function that calls "
            "it: for against='logits', lambda logits, labels: sum(keras_loss(labels, level) for level in logits)"
        )
    if _is_a(loss, "sentence_transformers") or "sentence_features" in taken:
        raise TypeError(
            f"loss: expected {called}, got a loss of sentence-transformers, which runs its model on sentence_features; "
            "hand over what it computes of embeddings: for against='nested_cosine', "
            "lambda z, targets, nesting: ... of z[:, :m] and targets[:, :m] for m in nesting.dims"
        )
    try:
        signature.bind(*wanted, **dict.fromkeys(keywords))
    except TypeError as error:
        raise TypeError(
            f"loss: expected to call {called}, but it takes {signature} ({error}); hand over a function of "
            f"({', '.join(wanted)}) that calls it" + _other_calls(signature, against)
        ) from None


def in_own_words(error: Exception, loss: Callable[..., Any]) -> str | None:
    """The next step after an error whose cause is how the loss was compiled."""
    if _is_jitted(loss) and "Nesting" in str(error):
        return (
            "loss: expected a nesting to be static under jax.jit, got it traced; write "
            "jax.jit(loss, static_argnames='nesting'), or static_argnums"
        )
    return None


def framework_of(loss: Callable[..., Any]) -> str:
    """The one framework that a loss is of, or whose modules its code, or a function that it calls, names."""
    frameworks = _of_type(type(loss)) or _frameworks(loss, set())
    # A function that also calls NumPy is still written in the other framework.
    frameworks = frameworks - {"numpy"} or frameworks
    if len(frameworks) != 1:
        raise ValueError(
            f"backend: expected to read one framework off the code of {name_of(loss)!r}, got "
            f"{sorted(frameworks) or 'none'}; name it, for example backend='torch'"
        )
    return frameworks.pop()


def _of_type(kind: type) -> set[str]:
    """The framework that a module's or a compiled function's class comes from."""
    for base in kind.__mro__:
        root = base.__module__.partition(".")[0]
        if root in ROOTS:
            return {ROOTS[root]}
        if root == "keras":
            return {sys.modules["keras"].config.backend()}
    return set()


def _frameworks(function: Any, seen: set[int], owner: type = object) -> set[str]:
    """Of the code behind anything that can be called; ``owner`` is the class whose methods it may call."""
    if id(function) in seen:
        return set()
    seen.add(id(function))
    if isinstance(function, functools.partial):
        parts = [function.func, *function.args, *function.keywords.values()]
        return set().union(*(_frameworks(part, seen) for part in parts))
    owner = type(getattr(function, "__self__", None)) if inspect.ismethod(function) else owner
    function = inspect.unwrap(getattr(function, "__func__", function))
    if not isinstance(function, FunctionType):
        if isinstance(function, type) or not callable(function) or not hasattr(function, "__dict__"):
            return set()
        kind = type(function)
        parts = [kind.__call__, *vars(function).values()]
        return set().union(_of_type(kind), *(_frameworks(part, seen, kind) for part in parts))
    cells = zip(function.__code__.co_freevars, function.__closure__ or (), strict=True)
    variables = {**function.__globals__, **{name: cell.cell_contents for name, cell in cells}}
    found = set()
    for name in _names_in(function.__code__):
        value = variables.get(name, getattr(owner, name, None))
        module = value.__name__ if inspect.ismodule(value) else getattr(value, "__module__", None)
        root = str(module).partition(".")[0]
        known = ROOTS.get(root) or (root if root in known_backends() else None)
        found |= {known} if known else _frameworks(value, seen, owner)
    return found


def _names_in(code: CodeType) -> set[str]:
    inner = [_names_in(constant) for constant in code.co_consts if isinstance(constant, CodeType)]
    return {*code.co_names, *code.co_freevars}.union(*inner)


def _is_a(loss: Any, package: str) -> bool:
    return any(base.__module__.partition(".")[0] == package for base in type(loss).__mro__)


def _is_jitted(loss: Any) -> bool:
    return _is_a(loss, "jaxlib") or _is_a(loss, "jax")


def _other_calls(signature: inspect.Signature, against: str) -> str:
    """What else the loss might be held against: of as many arguments, and of these the most by name."""
    taken = [name for name, p in signature.parameters.items() if p.default is p.empty]
    fitting = {
        other: len(set(taken) & set(arguments))
        for other, arguments in CALLS.items()
        if other != against and len(arguments) == len(taken)
    }
    if not fitting:
        return ""
    other = max(fitting, key=lambda name: fitting[name])
    return f", or hold it against={other!r}, which calls it with ({', '.join(CALLS[other])})"
