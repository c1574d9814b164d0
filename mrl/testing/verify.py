"""``mrl verify``: the proof as a table."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from contextlib import suppress
from importlib import import_module
from typing import Any

from ..checks import FLOATING, check_device, check_integer
from ..dispatch import BUILTIN, backend_named, known_backends
from ..porting import available_backends
from .check_loss import check_loss
from .drivers import driver_of
from .runners import cases_of, check_backend


def verify(
    *,
    backends: Sequence[str] | None,
    device: str | None,
    dtypes: Sequence[str] | None,
    modes: Sequence[str] | None,
    examples: int,
    seed: int | None,
) -> int:
    """Print op x dtype x mode -> examples, worst error as a share of its bound, mutants killed.

    Returns:
        0 where everything holds, 1 where a bound is broken or a mutant survives.

    Raises:
        ValueError: an unknown backend, dtype, mode or device, or nothing to prove.
        ImportError: a backend that was asked for is not installed.
    """
    for name in backends or ():
        if name not in known_backends():
            raise ValueError(f"--backend: expected one of {known_backends()}, got {name!r}; choose from these")
    check_integer("--examples", examples, at_least=1)
    _prepare()
    failed, plan = False, dict[str, list[str]]()
    for name in backends or [info.name for info in available_backends()]:
        known = driver_of(name).dtypes
        plan[name] = [dtype for dtype in dtypes or known if dtype in known]
        if len(plan[name]) < len(dtypes or known) and (backends or not set(dtypes or ()) <= set(FLOATING)):
            raise ValueError(f"--dtype: expected dtypes of {name}, {known}, got {dtypes}; leave out the others")
        check_device("--device", backend_named(name), device)
    for name in plan:
        if modes and not set(modes) & set(driver_of(name).modes):
            raise ValueError(
                f"--mode: expected one of {driver_of(name).modes}, those of {name}, got {modes}; choose one"
            )
    if not any(plan.values()):
        raise ValueError(f"--dtype: expected one that {' or '.join(plan)} has, got {dtypes}; choose another")
    for name, chosen in plan.items():
        print(f"\n{name}" + (f" on {device}" if device else ""))
        seen = f"{'examples':>9}{'layouts':>8}{'gradients':>10}"
        print(f"{'operation':36}{'dtype':10}{'mode':9}{seen}{'worst error / bound':>21}  mutants killed")
        for op, dtype, mode in driver_rows(name, chosen, modes):
            try:
                (row,) = check_backend(
                    name,
                    device=device,
                    dtypes=[dtype],
                    modes=[mode],
                    ops=[op],
                    specials=name in BUILTIN,
                    examples=examples,
                    random_seed=seed,
                )
            except Exception as error:  # whatever a backend raises on a right input is a failure of its proof
                failed = True
                print(f"{op:36}{dtype:10}{mode:9}FAILED\n{type(error).__name__}: {error}")
                continue
            killed = f"{len(row.killed)} of {len(row.killed) + len(row.survived)}"
            seen = f"{row.examples:9}{row.layouts:8}{row.nonzero if row.gradients else '-':>10}"
            print(
                f"{op:36}{dtype:10}{mode:9}{seen}{row.worst:13.3f} {row.worst_output:>7}  {killed}",
                flush=True,
            )
    print("\nNot proved." if failed else "\nProved: every error is within its bound, and every mutant was found out.")
    return 1 if failed else 0


def verify_loss(
    place: str,
    *,
    backends: Sequence[str] | None,
    against: str | None,
    options: Sequence[str] | None,
    head: str | None,
    device: str | None,
    dtypes: Sequence[str] | None,
    examples: int,
    seed: int | None,
) -> int:
    """Prove the loss at ``module:function``, and print a row a dtype, or a counter-example.

    Returns:
        0 where it is proved, 1 where it is not.

    Raises:
        ValueError, TypeError: what :func:`mrl.testing.check_loss` refuses; a place that names nothing; two backends.
        ImportError: the module cannot be imported.
    """
    _prepare()
    loss = _loss_at(place)
    if len(backends or ()) > 1:
        raise ValueError(f"--backend: expected one for --loss, got {backends}; prove it on one framework at a time")
    failed = False
    for dtype in dtypes or ["float32"]:
        try:
            row = check_loss(
                loss,
                backend=backends[0] if backends else None,
                against=against or "nested_cross_entropy",
                tied=None if head is None else head == "tied",
                options=options or (),
                dtype=dtype,
                device=device,
                examples=examples,
                random_seed=seed,
            )
        except AssertionError as error:
            failed = True
            print(error)
            continue
        what = "values and gradients" if row.gradients else "values alone"
        print(f"{row.op}  {dtype}  {row.examples} examples, {what}: worst error {row.worst:.3f} of its bound")
    print("Not proved." if failed else "Proved.")
    return 1 if failed else 0


def _loss_at(place: str) -> Any:
    """What ``module:function`` names, from the current folder too."""
    module, colon, path = place.partition(":")
    if not (module and colon and path):
        raise ValueError(f"--loss: expected module:function, got {place!r}; name the file without .py, then the loss")
    if "" not in sys.path and os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())
    loss: Any = import_module(module)
    for name in path.split("."):
        if not hasattr(loss, name):
            raise ValueError(f"--loss: expected {module} to have {path!r}, got none; choose one that it defines")
        loss = getattr(loss, name)
    return loss


def driver_rows(name: str, dtypes: Sequence[str], modes: Sequence[str] | None = None) -> list[tuple[str, str, str]]:
    """The rows of one backend's table: ``(operation, dtype, mode)``; of all modes, or of those named."""
    chosen = [mode for mode in driver_of(name).modes if not modes or mode in modes]
    return [(case.name, dtype, mode) for case in cases_of(name) for dtype in dtypes for mode in chosen]


def _prepare() -> None:
    # This is a process of our own: JAX may keep float64, and TensorFlow need not tell of itself.
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    os.environ.setdefault("JAX_ENABLE_X64", "1")
    if not sys.warnoptions:
        import warnings

        warnings.simplefilter("ignore")
    with suppress(ImportError):  # it comes with PyTorch for CUDA; imported after TensorFlow, it ends the process
        import triton  # noqa: F401
