"""What ``mutation.py`` asks of pytest: to record who calls what, or to run some tests in a given order."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import FrameType
from typing import Any

import pytest

PLAN = json.loads(Path(os.environ["MRL_MUTATION_PLAN"]).read_text())
CALLS: dict[str, list[str]] = {}
SECONDS: dict[str, float] = {}


def pytest_configure() -> None:
    import mrl

    if not str(mrl.__file__).startswith(PLAN["site"]):
        raise pytest.UsageError(f"the tests would see {mrl.__file__}, and not the copy in {PLAN['site']}")


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if "select" in PLAN:
        place = {name: i for i, name in enumerate(PLAN["select"])}
        items[:] = sorted((item for item in items if item.nodeid in place), key=lambda item: place[item.nodeid])


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Iterator[None]:
    if "record" not in PLAN:
        return (yield)
    files, seen = PLAN["files"], set()

    def called(frame: FrameType, event: str, argument: Any) -> None:
        file = files.get(frame.f_code.co_filename)
        if file is not None:
            seen.add(f"{file}:{frame.f_code.co_firstlineno}")

    started = time.perf_counter()
    sys.settrace(called)
    try:
        return (yield)
    finally:
        sys.settrace(None)
        SECONDS[item.nodeid] = time.perf_counter() - started
        CALLS[item.nodeid] = sorted(seen)


def pytest_sessionfinish() -> None:
    if "record" in PLAN:
        Path(PLAN["record"]).write_text(json.dumps({"calls": CALLS, "seconds": SECONDS}))
