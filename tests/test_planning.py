"""Rows of a chunk where the number of rows is not known: limits that no answer depends on, and so no other test."""

import pytest

from mrl.planning import plan_chunk_rows

HOST, ENOUGH = 16 << 20, 128 << 20


def planned(rows_that_fit: int, budget: int, **options) -> int:
    """Of a chunk whose rows take up the budget, so many of them and no more."""
    return plan_chunk_rows(1, None, budget // rows_that_fit, 1, on_host=True, **options)


@pytest.mark.parametrize(
    ("fit", "budget", "rows"),
    [
        (1000, HOST, 992),  # a multiple of 32 costs less than a hundredth
        (640, HOST, 640),
        (64, ENOUGH, 64),
        (40, ENOUGH, 32),  # a fifth, which is less than a quarter
        (42, ENOUGH, 32),
        (43, ENOUGH, 43),  # more than a quarter: it stays as it is
        (31, ENOUGH, 31),
        (1, ENOUGH, 1),
    ],
)
def test_unknown_rows_are_cut_to_even_chunks_where_that_is_cheap(fit: int, budget: int, rows: int) -> None:
    assert planned(fit, budget) == rows


def test_unknown_rows_fit_the_integers_of_a_graph() -> None:
    for wish in (1, 1 << 20, (1 << 20) + 1, 1 << 40):
        assert planned(1000, HOST, chunk_rows=wish) == min(wish, 1_048_576)
    # A last chunk that is padded adds as many at most: past 2 ** 31 int32 would turn negative.
    assert 2 * planned(1000, HOST, chunk_rows=1 << 40) < 2**31
