"""``mrl verify``: the proof as a table."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from contextlib import suppress

from ..checks import FLOATING, check_device, check_integer
from ..dispatch import BUILTIN, backend_named, known_backends
from ..porting import available_backends
from .drivers import driver_of
from .runners import cases_of, check_backend


def verify(
    *,
    backends: Sequence[str] | None,
    device: str | None,
    dtypes: Sequence[str] | None,
    examples: int,
    seed: int | None,
) -> int:
    """Print op x dtype x mode -> examples, worst error as a share of its bound, mutants killed.

    Returns:
        0 where everything holds, 1 where a bound is broken or a mutant survives.

    Raises:
        ValueError: an unknown backend, dtype or device, or nothing to prove.
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
    if not any(plan.values()):
        raise ValueError(f"--dtype: expected one that {' or '.join(plan)} has, got {dtypes}; choose another")
    for name, chosen in plan.items():
        print(f"\n{name}" + (f" on {device}" if device else ""))
        print(f"{'operation':36}{'dtype':10}{'mode':9}{'examples':>9}{'worst error / bound':>21}  mutants killed")
        for op, dtype, mode in driver_rows(name, chosen):
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
            print(
                f"{op:36}{dtype:10}{mode:9}{row.examples:9}{row.worst:13.3f} {row.worst_output:>7}  {killed}",
                flush=True,
            )
    print("\nNot proved." if failed else "\nProved: every error is within its bound, and every mutant was found out.")
    return 1 if failed else 0


def driver_rows(name: str, dtypes: Sequence[str]) -> list[tuple[str, str, str]]:
    """The rows of one backend's table: ``(operation, dtype, mode)``."""
    driver = driver_of(name)
    return [(case.name, dtype, mode) for case in cases_of(name) for dtype in dtypes for mode in driver.modes]


def _prepare() -> None:
    # This is a process of our own: JAX may keep float64, and TensorFlow need not tell of itself.
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    os.environ.setdefault("JAX_ENABLE_X64", "1")
    if not sys.warnoptions:
        import warnings

        warnings.simplefilter("ignore")
    with suppress(ImportError):  # it comes with PyTorch for CUDA; imported after TensorFlow, it ends the process
        import triton  # noqa: F401
