"""Mapped memory read through a mapping of one's own: the same numbers, and no pages that a process goes on to hold."""

import sys
from pathlib import Path

import numpy as np
import pytest

from mrl.pages import HELD_BYTES, read_through

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
        return int(next(line for line in lines if line.startswith("VmRSS")).split()[1]) << 10


def through(array: np.ndarray):
    found = read_through(array.ctypes.data, array.nbytes)
    return found, None if found is None else np.frombuffer(found.memory, array.dtype, array.size, found.offset)


@pytest.mark.parametrize("mode", ["r", "r+", "c"])
def test_what_has_been_read_is_given_back(path, mode: str) -> None:
    rows = np.load(path, mmap_mode=mode)
    found, numbers = through(rows)
    before = resident()
    assert numbers.reshape(rows.shape)[:, 0].sum(dtype=np.float64) == ROWS * (ROWS - 1) / 2
    assert resident() - before > rows.nbytes // 2
    found.give_back(HELD_BYTES)
    assert resident() - before > rows.nbytes // 2
    found.give_back(1)
    assert resident() - before < rows.nbytes // 10
    np.testing.assert_array_equal(numbers.reshape(rows.shape)[::1000], rows[::1000])


def test_what_is_written_to_a_file_is_read(path) -> None:
    rows = np.load(path, mmap_mode="r+")
    rows[1000:1005] = -1
    _, numbers = through(rows)
    assert (numbers.reshape(rows.shape)[1000:1005] == -1).all()


def test_a_part_of_a_file(path) -> None:
    rows = np.load(path, mmap_mode="r")[5000:]
    _, numbers = through(rows)
    np.testing.assert_array_equal(numbers.reshape(rows.shape)[::999], rows[::999])


def test_what_is_not_in_the_file_is_read_where_it_is(path, tmp_path: Path) -> None:
    assert through(np.ones((ROWS, 1024), np.float32))[0] is None
    rows = np.load(path, mmap_mode="c")
    rows[7] = -1
    assert through(rows)[0] is None
    rows = np.load(path, mmap_mode="r")
    path.rename(tmp_path / "moved.npy")
    np.save(path, np.zeros((ROWS, 1024), np.float32))  # another file by that name
    assert (through(rows)[1].reshape(rows.shape)[7] == 7).all()
    (tmp_path / "moved.npy").unlink()
    assert through(rows)[0] is None
    assert through(np.load(path, mmap_mode="r")[:10])[0] is None  # little
