"""Pages of mapped files, given back: no number is lost, and a process no longer holds them."""

import sys

import numpy as np
import pytest

from mrl.pages import HELD_BYTES, giver_back

ROWS = 40_000  # of 4 KiB: more than is held

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells where a mapping lies")


@pytest.fixture
def path(tmp_path):
    file = np.lib.format.open_memmap(tmp_path / "rows.npy", "w+", np.float32, (ROWS, 1024))
    file[:] = np.arange(ROWS, dtype=np.float32)[:, None]
    file.flush()
    return tmp_path / "rows.npy"


def resident() -> int:
    with open("/proc/self/status") as lines:
        return int(next(line for line in lines if line.startswith("RssFile")).split()[1]) << 10


def give_back(array: np.ndarray) -> None:
    giver_back(array.ctypes.data, array.nbytes)(HELD_BYTES + 1)


@pytest.mark.parametrize("mode", ["r", "r+", "c"])
def test_a_process_no_longer_holds_them(path, mode: str) -> None:
    before, rows = resident(), np.load(path, mmap_mode=mode)
    assert rows.sum(dtype=np.float64) == ROWS * (ROWS - 1) / 2 * 1024
    assert resident() - before > rows.nbytes // 2
    give_back(rows)
    assert resident() - before < rows.nbytes // 10
    assert rows[:, 0].sum(dtype=np.float64) == ROWS * (ROWS - 1) / 2


@pytest.mark.parametrize("mode", ["r+", "c"])
def test_what_was_written_stays(path, mode: str) -> None:
    rows = np.load(path, mmap_mode=mode)
    rows[1000:1005] = -1
    give_back(rows)
    assert (rows[1000:1005] == -1).all() and (rows[1005] == 1005).all()


def test_memory_is_no_file() -> None:
    rows = np.ones((ROWS, 1024), np.float32)
    give_back(rows)
    assert (rows == 1).all()


def test_little_is_kept(path) -> None:
    before, rows = resident(), np.load(path, mmap_mode="r")
    rows.sum()
    giver_back(rows.ctypes.data, rows.nbytes)(HELD_BYTES)
    assert resident() - before > rows.nbytes // 2
