"""What ``mrl.adapters.torch.MatryoshkaHead`` adds to a call of the function that it calls, in microseconds."""

from __future__ import annotations

from collections.abc import Callable
from time import perf_counter
from typing import Any
from unittest.mock import patch

CALLS = 200


def overheads(repeats: int) -> dict[str, float]:
    """The module's own part of a call, which does not depend on sizes: with nothing done by the function.

    Beside a loss of milliseconds a difference of microseconds would be lost in the spread of the loss.
    """
    import torch
    from mrl.adapters.torch import MatryoshkaHead

    import mrl

    found = {}
    for levels in (2, 9):
        nesting = mrl.Nesting.doubling(8, 8 << (levels - 1))
        z, labels = torch.randn(4, nesting.width), torch.zeros(4, dtype=torch.long)
        for tied in (False, True):
            module = MatryoshkaHead(nesting, 10, tied=tied)
            with patch.object(mrl, "nested_cross_entropy", lambda *args, **kw: None):
                head = module.head
                function = microseconds(lambda: mrl.nested_cross_entropy(z, head, labels, nesting), repeats)  # noqa: B023
                called = microseconds(lambda: module(z, labels), repeats)  # noqa: B023
            found[f"{levels} levels, {'tied' if tied else 'untied'}"] = called - function
    return found


def microseconds(call: Callable[[], Any], repeats: int) -> float:
    times = []
    for _ in range(repeats):
        start = perf_counter()
        for _ in range(CALLS):
            call()
        times.append((perf_counter() - start) / CALLS)
    return 1e6 * min(times)  # what others do on the machine only ever adds
