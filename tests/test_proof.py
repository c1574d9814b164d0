"""Every backend against the specification: every operation, dtype and mode, with mutants that must fail."""

import pytest

import mrl.testing
from mrl.testing.drivers import driver_of

OPS = [case.name for case in mrl.testing.CASES]


@pytest.mark.parametrize("op", OPS)
def test_backend_equals_the_specification(backend_name: str, op: str) -> None:
    rows = mrl.testing.check_backend(backend_name, ops=[op], examples=24)
    driver = driver_of(backend_name)
    assert {(row.dtype, row.mode) for row in rows} == {
        (dtype, mode) for dtype in driver.dtypes for mode in driver.modes
    }
    for row in rows:
        assert row.examples >= 12
        assert row.worst <= 1
        assert row.killed and not row.survived


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_bounds_leave_room_for_a_right_implementation_and_no_more(dtype: str) -> None:
    """In float64 the specification is compared with itself: exact. A bound must not be infinite or zero."""
    rows = mrl.testing.check_backend("numpy", dtypes=[dtype], examples=24)
    assert all(row.worst < 0.5 for row in rows)
