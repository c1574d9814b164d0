"""The peak of extra memory of one step, in a process of its own: ``python memory.py BACKEND STEP SIZE`` prints bytes.

The peak is the high-water mark of the resident set, less what was resident after everything was imported, built and,
on a tiny problem of the same kind, run once.
"""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace
from importlib import import_module
from pathlib import Path

from cases import MEMORY, Size


def extra_bytes(backend: str, mode: str, step: str, size: Size) -> int:
    """Run :func:`main` in a fresh process."""
    done = subprocess.run(
        [sys.executable, str(Path(__file__)), backend, mode, step, size.name],
        env={
            **os.environ,
            "TF_CPP_MIN_LOG_LEVEL": "3",
            "MALLOC_TRIM_THRESHOLD_": "0",
            "MALLOC_MMAP_THRESHOLD_": "65536",
        },
        capture_output=True,
        text=True,
    )
    if done.returncode:
        raise RuntimeError(f"memory of {backend} {step}: {done.stderr[-2000:]}")
    return int(done.stdout.split()[-1])


def main(backend: str, mode: str, step: str, name: str) -> None:
    size = next(size for size in MEMORY if size.name == name)
    module = import_module(f"steps_{backend}")
    tiny = replace(size, rows=2, classes=3)
    module.wait(module.steps(tiny, mode)[step]())
    run = module.steps(size, mode)[step]
    Path("/proc/self/clear_refs").write_text("5")  # the high-water mark starts again from here
    before = resident("VmRSS")
    module.wait(run())
    print(resident("VmHWM") - before)


def resident(field: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith(field))


if __name__ == "__main__":
    main(*sys.argv[1:])
