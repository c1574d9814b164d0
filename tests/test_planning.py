"""Rows of a chunk: limits that no answer depends on, and so no other test."""

import pytest

from mrl.cascade import planning as cascade
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


@pytest.mark.parametrize(
    ("classes", "on_host", "rows"),
    [
        (10, True, 4096),
        (1000, True, 262),
        (10**6, True, 32),
        (10**6, False, 32),
        (1000, False, 16_777),
        (10, False, 10**5),
    ],
)
def test_rows_of_a_cascade(classes: int, on_host: bool, rows: int) -> None:
    """A mebibyte of logits on a host and 64 on an accelerator; 32 rows at least, and 4096 at most on a host."""
    plan = cascade.plan_chunk_rows(10**5, classes, 4, on_host=on_host, chunk_rows=None)
    assert plan == rows
    assert cascade.plan_chunk_rows(7, classes, 4, on_host=on_host, chunk_rows=None) == 7
    for kept, host in ((256 << 20, False), (16 << 20, True)):
        wave = cascade.plan_wave_rows(plan, classes, 4, on_host=host)
        assert wave % plan == 0 and wave * classes * 4 <= max(kept, plan * classes * 4) < (wave + plan) * classes * 4


@pytest.mark.parametrize(
    ("rows", "row_bytes", "plan"),
    [
        (512, 256 << 11, 512),  # all of 512 rows may take 256 MiB
        (512, (256 << 11) + 1, 171),  # a byte a row more, and they are three even chunks of what 128 MiB hold
        (513, HOST // 513, 513),  # all of more rows may take 16 MiB
        (514, HOST // 513, 257),  # halves, which divide them
        (0, 1 << 30, 1),
        (1, 1 << 30, 1),
        (1000, HOST // 400, 500),  # a chunk is 512 of them at most, and 500 divide them
        (1000, ENOUGH // 300, 250),  # 334 to 226 would do; 250 divide them, and so do 200, which is too few
        (1024, ENOUGH // 300, 256),
        (992, ENOUGH // 300, 248),
        (960, ENOUGH // 300, 240),
        (960, ENOUGH // 330, 320),  # of divisors one that is even by 32 comes first
        (4300, ENOUGH // 300, 288),  # no divisor: the largest even number that fills up with little
        (4099, ENOUGH // 300, 293),  # where all would waste more than one row in 32, as few chunks, evened out
        (601, ENOUGH // 300, 201),
    ],
)
def test_known_rows_are_divided(rows: int, row_bytes: int, plan: int) -> None:
    assert plan_chunk_rows(1, rows, row_bytes, 1, on_host=True) == plan


def test_what_is_alone_is_counted_by_its_own_arrays() -> None:
    """Two arrays where all rows are one chunk, eight where they are not."""
    assert plan_chunk_rows(8, 512, 256 << 10, 1, on_host=True, buffers_alone=2) == 512
    assert plan_chunk_rows(8, 512, (256 << 10) + 1, 1, on_host=True, buffers_alone=2) < 512
    assert plan_chunk_rows(8, 512, 256 << 10, 1, on_host=True) < 512
