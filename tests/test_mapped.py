"""Arrays that stay in their file."""

import numpy as np
import pytest

import mrl


@pytest.fixture
def folder(tmp_path):
    rows = np.random.default_rng(0).normal(size=(300, 16)).astype(np.float32)
    np.save(tmp_path / "rows.npy", rows)
    np.savez(tmp_path / "several.npz", rows=rows, turned=np.asfortranarray(rows), labels=np.arange(300), none=rows[:0])
    np.savez(tmp_path / "one.npz", rows)
    np.savez_compressed(tmp_path / "packed.npz", rows=rows)
    np.savez(tmp_path / "objects.npz", rows=np.array([{}], object))
    (tmp_path / "cut.npy").write_bytes((tmp_path / "rows.npy").read_bytes()[:-5])
    (tmp_path / "text.npy").write_text("rows")
    return tmp_path


@pytest.mark.parametrize(
    ("file", "name"), [("rows.npy", None), ("one.npz", None), ("several.npz", "rows"), ("several.npz", "turned")]
)
def test_rows_are_mapped_and_searched(folder, file: str, name: str | None) -> None:
    rows, found = np.load(folder / "rows.npy"), mrl.map_array(folder / file, name)
    assert isinstance(found, np.memmap) and not found.flags.writeable
    np.testing.assert_array_equal(found, rows)
    np.testing.assert_array_equal(mrl.search(rows[:9], found, k=3).indices, mrl.search(rows[:9], rows, k=3).indices)


def test_other_dtypes_and_no_rows(folder) -> None:
    assert mrl.map_array(folder / "several.npz", "labels").tolist() == list(range(300))
    assert mrl.map_array(folder / "several.npz", "none").shape == (0, 16)


@pytest.mark.parametrize(
    ("file", "name", "message"),
    [
        ("several.npz", None, "expected the name of one of .*'labels', 'none', 'rows', 'turned'.*, got None"),
        ("several.npz", "row", "got 'row'"),
        ("packed.npz", "rows", "got it compressed; use np.savez"),
        ("objects.npz", "rows", "got objects"),
        ("cut.npy", None, "expected 19200 bytes for shape .*, got 19195; it was cut short"),
        ("text.npy", None, r"text\.npy"),
        ("rows.npy", "rows", "got another kind of file"),
    ],
)
def test_what_cannot_be_mapped(folder, file: str, name: str | None, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        mrl.map_array(folder / file, name)
    with pytest.raises(FileNotFoundError):
        mrl.map_array(folder / "missing.npz")
