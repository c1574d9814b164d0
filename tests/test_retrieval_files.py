"""Databases in files: memory-mapped, and prepared ones that are saved and loaded."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from retrieval_cases import array, same

import mrl
from mrl import pages, spec
from mrl.porting.safetensors import read_safetensors, write_safetensors
from mrl.retrieval.prepared import named_arrays

ROWS = np.random.default_rng(0).normal(size=(300, 24)).astype(np.float32)


@pytest.mark.parametrize("metric", ["cosine", "dot", "l2"])
@pytest.mark.parametrize("vectors", [True, False])
def test_what_is_saved_is_loaded(backend_name: str, metric: str, vectors: bool, tmp_path: Path) -> None:
    path = tmp_path / "database"
    database = mrl.prepare_database(array(backend_name, ROWS), (4, 8), metric=metric)
    mrl.save_database(path, database, vectors=vectors)
    loaded = mrl.load_database(path, vectors=None if vectors else array(backend_name, ROWS), backend=backend_name)
    assert (loaded.metric, loaded.dims) == (metric, (4, 8, 24))
    before, after = (named_arrays(mrl.convert(x, "numpy")) for x in (database, loaded))
    assert list(before) == list(after)
    for name, values in before.items():
        np.testing.assert_array_equal(after[name], values)
    found = mrl.search(array(backend_name, ROWS[:5]), loaded, k=3, dim=8, metric=metric)
    same(found, spec.search(ROWS[:5], ROWS, k=3, dim=8, metric=metric), rtol=1e-4, atol=1e-4)
    assert path.stat().st_size < (ROWS.nbytes if not vectors else 2 * ROWS.nbytes)


def test_halves_are_saved_as_they_are(backend_name: str, tmp_path: Path) -> None:
    rows = array(backend_name, ROWS, "float16")
    mrl.save_database(tmp_path / "d", mrl.prepare_database(rows, (4,)))
    loaded = mrl.load_database(tmp_path / "d")
    assert loaded.vectors.dtype == np.float16 and loaded.prefixes[0].dtype == np.float32


def test_vectors_that_are_others_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "d"
    mrl.save_database(path, mrl.prepare_database(ROWS, (4,)), vectors=False)
    with pytest.raises(ValueError, match=r"vectors: expected the vectors that .* was made of, .* got None; pass them"):
        mrl.load_database(path)
    with pytest.raises(ValueError, match=r"vectors: expected those that .*, got \[299, 24, \"float32\"\]; prepare"):
        mrl.load_database(path, vectors=ROWS[1:])
    with pytest.raises(ValueError, match=r"got \[300, 24, \"float32\"\] with other numbers; prepare these anew"):
        mrl.load_database(path, vectors=ROWS + 1)
    with pytest.raises(TypeError, match=r"database: expected an mrl\.Database, got ndarray"):
        mrl.save_database(path, ROWS)


@pytest.mark.parametrize(
    "change",
    [
        {"format": "mrl.head"},
        {"version": "2"},
        {"metric": "angle"},
        {"dims": "[4, 25]"},
        {"dims": "[8, 4, 24]"},
        {"dims": "4"},
        {"rows": "[299, 24, \"float32\"]"},
        {"rows": "[]"},
        {"metric": "l2"},
    ],
)  # fmt: skip
def test_a_file_that_contradicts_itself_is_refused(change: dict[str, str], tmp_path: Path) -> None:
    path = tmp_path / "d"
    mrl.save_database(path, mrl.prepare_database(ROWS, (4,)))
    checkpoint = read_safetensors(path)
    arrays = {name: stored.read() for name, stored in checkpoint.arrays.items()}
    with open(path, "wb") as stream:
        write_safetensors(stream, arrays, {**checkpoint.metadata, **change})
    with pytest.raises(ValueError, match=r"path: .*/d: expected .*; save it"):
        mrl.load_database(path)


@pytest.mark.parametrize("mode", ["r", "c"])
def test_a_memory_mapped_file(mode: str, tmp_path: Path) -> None:
    np.save(tmp_path / "rows.npy", ROWS)
    rows = np.load(tmp_path / "rows.npy", mmap_mode=mode)
    if mode == "c":
        rows[0] = 7  # which is nobody else's, and must not be lost
    database = mrl.prepare_database(rows, (4,))
    assert isinstance(database.vectors, np.memmap)
    expected = np.array(rows)
    assert mode == "r" or expected[0, 0] == 7
    same(mrl.search(ROWS[:4], database, k=5), spec.search(ROWS[:4], expected, k=5), rtol=1e-4)
    found = mrl.funnel_search(ROWS[:4], database, dims=(4, 24), shortlists=(20, 3))
    same(found, spec.funnel_search(ROWS[:4], expected, dims=(4, 24), shortlists=(20, 3)), rtol=1e-4)
    path = tmp_path / "d"
    mrl.save_database(path, database, vectors=False)
    again = mrl.load_database(path, vectors=rows)
    assert isinstance(again.vectors, np.memmap)


@pytest.mark.parametrize("written", [False, True])
def test_a_memory_mapped_file_in_torch(
    backend_torch: None, written: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch

    np.save(tmp_path / "rows.npy", ROWS)
    monkeypatch.setattr(pages, "WORTH_BYTES", 0)
    monkeypatch.setattr(pages, "HELD_BYTES", 0)
    mapped = np.load(tmp_path / "rows.npy", mmap_mode="c")
    expected = ROWS.copy()
    if written:
        mapped[0] = expected[0] = 7  # which the file has not, and must not be lost
    rows = torch.from_numpy(mapped)
    assert (pages.read_through(mapped.ctypes.data, mapped.nbytes) is None) == (written or sys.platform != "linux")
    database = mrl.prepare_database(rows, (4,))
    assert database.vectors is rows
    found = mrl.funnel_search(torch.from_numpy(ROWS[:4].copy()), database, dims=(4, 24), shortlists=(20, 3))
    same(found, spec.funnel_search(ROWS[:4], expected, dims=(4, 24), shortlists=(20, 3)), rtol=1e-4)
    for some in (rows, rows.T.contiguous().T, rows[1:], rows[:, 2:]):
        queries = ROWS[:4, : some.shape[1]].copy()
        same(mrl.search(torch.from_numpy(queries), some, k=3), spec.search(queries, some.numpy(), k=3), rtol=1e-4)
    assert (mapped == expected).all()


MEMORY = """
import json, resource, sys
import numpy as np, mrl
path, rows, width = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
file = np.lib.format.open_memmap(path, "w+", np.float32, (rows, width))
rng = np.random.default_rng(0)
for i in range(0, rows, 1000):
    file[i : i + 1000] = rng.standard_normal((min(1000, rows - i), width), np.float32)
del file
def peak():
    with open("/proc/self/status") as status:
        return int(next(line for line in status if line.startswith("VmHWM")).split()[1]) * 1024
if sys.argv[4] == "numpy":
    mapped = np.load(path, mmap_mode="r")
    queries = np.array(mapped[:: rows // 16][:16])
else:
    import torch
    mapped = torch.from_numpy(np.load(path, mmap_mode="c"))
    queries = mapped[:: rows // 16][:16].clone()
with open("/proc/self/clear_refs", "w") as file:
    file.write("5")  # the peak starts again from here
before = peak()
database = mrl.prepare_database(mapped, (16,))
found = mrl.funnel_search(queries, database, dims=(16, width), shortlists=(50, 1))
print(json.dumps([peak() - before, found.indices[:, 0].tolist()]))
"""


LINUX = pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="the peak of memory is Linux's to tell")


@LINUX
def test_a_file_is_searched_in_less_memory_than_it_has(tmp_path: Path) -> None:
    assert grown("numpy", tmp_path) < 250 << 20


@LINUX
def test_a_file_is_searched_in_less_memory_than_it_has_in_torch(backend_torch: None, tmp_path: Path) -> None:
    assert grown("torch", tmp_path) < 450 << 20


def grown(name: str, tmp_path: Path) -> int:
    """By how much the memory of a process grows that prepares and searches 800 MB of rows."""
    rows, width = 200_000, 1024
    run = [sys.executable, "-c", MEMORY, str(tmp_path / "rows.npy"), str(rows), str(width), name]
    done = subprocess.run(run, capture_output=True, text=True, cwd=tmp_path, check=False)
    assert done.returncode == 0, done.stderr
    found, indices = json.loads(done.stdout)
    assert indices == [i * (rows // 16) for i in range(16)]
    return found
