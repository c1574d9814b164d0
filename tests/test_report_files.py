"""Files of embeddings, labels and relevant rows: read as they are, mapped, or refused in one line."""

import numpy as np
import pytest
from measured_cases import decaying, halved

import mrl
from mrl.porting.safetensors import write_safetensors
from mrl.report.reading import read_array, read_labels, read_texts


@pytest.fixture
def folder(tmp_path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def write_parquet(path, **columns) -> None:
    pyarrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    parquet.write_table(pyarrow.table(columns), path)


def test_npy_is_mapped(folder) -> None:
    rows = decaying(20)
    np.save("E.npy", rows)
    found = read_array("--embeddings", "E.npy")
    assert isinstance(found, np.memmap) and (found == rows).all()


@pytest.mark.parametrize("given", ["E.npz", "E.npz:E"])
def test_npz(folder, given: str) -> None:
    rows = decaying(20)
    np.savez("E.npz", E=rows)
    assert (read_array("--embeddings", given) == rows).all()


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
def test_safetensors(folder, dtype: str) -> None:
    rows = halved(decaying(20)) if dtype == "float16" else decaying(20).astype(dtype)
    with open("E.safetensors", "wb") as stream:
        write_safetensors(stream, {"E": rows, "other": rows[:2]}, {})
    found = read_array("--embeddings", "E.safetensors:E")
    assert found.dtype == dtype and (found == rows).all()
    with pytest.raises(ValueError, match="write the name after a colon"):
        read_array("--embeddings", "E.safetensors")


def test_parquet(folder) -> None:
    pyarrow = pytest.importorskip("pyarrow")
    rows = decaying(20)
    flat = pyarrow.array(rows.reshape(-1))
    lists = pyarrow.array(rows.tolist(), pyarrow.list_(pyarrow.float32()))
    fixed = pyarrow.FixedSizeListArray.from_arrays(flat, 32)
    for column in (lists, fixed, lists.cast(pyarrow.large_list(pyarrow.float32()))):
        write_parquet("E.parquet", vector=column, name=[f"row {i}" for i in range(20)])
        assert (read_array("--embeddings", "E.parquet") == rows).all()
        assert (read_array("--embeddings", "E.parquet:vector") == rows).all()
        assert read_array("--labels", "E.parquet:name")[3] == "row 3"


def test_parquet_in_batches(folder) -> None:
    rows = decaying(70_000, 2)
    write_parquet("E.parquet", vector=list(rows))
    assert (read_array("--embeddings", "E.parquet") == rows).all()


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ([[1.0, 2.0], [3.0]], "lists of one length"),
        ([[1.0, 2.0], [3.0], [4.0, 5.0, 6.0]], "lists of one length"),
        ([[1.0, 2.0], None], "a value in every row"),
        ([[1.0, None], [1.0, 2.0]], "a number in every place"),
    ],
)
def test_parquet_that_is_no_matrix(folder, values: list, words: str) -> None:
    write_parquet("E.parquet", vector=values)
    with pytest.raises(ValueError, match=words):
        read_array("--embeddings", "E.parquet")


def test_labels_of_all_kinds(folder) -> None:
    (folder / "y.txt").write_text("cat\ndog\n")
    np.save("y.npy", np.array(["cat", "dog"]))
    np.save("i.npy", np.array([3, 4], np.uint8))
    assert read_labels("--labels", "y.txt") == ["cat", "dog"]
    assert list(read_labels("--labels", "y.npy")) == ["cat", "dog"]
    assert list(read_labels("--labels", "i.npy")) == [3, 4]
    (folder / "t.txt").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ValueError, match="UTF-8"):
        read_texts("--texts", "t.txt")


def bad_files(folder) -> dict[str, str]:
    """Files that are not what their name says, and what is said of each."""
    np.save("whole.npy", decaying(20))
    whole = (folder / "whole.npy").read_bytes()
    np.savez("two.npz", a=decaying(3), b=decaying(4))
    archive = (folder / "two.npz").read_bytes()
    np.save("objects.npy", np.array([{}, []], object), allow_pickle=True)
    np.savez("objects.npz", a=np.array([{}, None], object))
    files = {
        "empty.npy": (b"", "expected an array as np.save writes it"),
        "text.npy": (b"hello world\n" * 9, "expected an array as np.save writes it"),
        "cut.npy": (whole[:-100], "expected an array as np.save writes it"),
        "header.npy": (whole[:40], "expected an array as np.save writes it"),
        "archive.npy": (archive, "call it .npz"),
        "array.npz": (whole, "or is a .npy"),
        "cut.npz": (archive[:-60], ""),
        "empty.npz": (b"", ""),
        "text.parquet": (b"PAR1 and no more", "expected a file of Parquet"),
        "empty.parquet": (b"", "expected a file of Parquet"),
        "text.safetensors": (b"hello world", "no safetensors"),
        "empty.safetensors": (b"", "cut short"),
        "rows.csv": (b"1,2\n", "expected a file that ends in one of"),
    }
    for name, (content, _) in files.items():
        (folder / name).write_bytes(content)
    words = {name: said for name, (_, said) in files.items()}
    return words | {
        "objects.npy": "expected an array as np.save writes it",
        "objects.npz": "",
        "two.npz": "write the name after a colon",
        "two.npz:c": "expected one of",
        "missing.npy": "does not exist",
        ".": "expected a file that ends",
        "whole.npy:a": "expected no name after a .npy file",
    }


def test_bad_files_are_refused_by_name(folder) -> None:
    pytest.importorskip("pyarrow")
    for name, words in bad_files(folder).items():
        with pytest.raises(ValueError, match=r"^--embeddings: ") as caught:
            read_array("--embeddings", name)
        assert words in str(caught.value) and "\n" not in str(caught.value), (name, str(caught.value))


GOOD = {"embeddings": decaying(40), "dims": (8,), "k": 3}
WRONG = {
    "no array": ({"embeddings": "E.npy"}, TypeError, "embeddings"),
    "integers": ({"embeddings": np.arange(40).reshape(10, 4)}, TypeError, "embeddings: expected a dtype of"),
    "objects": ({"embeddings": np.array([[None, 1.0]], object)}, TypeError, "embeddings"),
    "one axis": ({"embeddings": np.ones(40)}, ValueError, "embeddings: expected shape"),
    "no width": ({"embeddings": np.ones((40, 0))}, ValueError, "embeddings: expected shape"),
    "no row": ({"embeddings": np.ones((0, 4))}, ValueError, "embeddings: expected at least 2 rows"),
    "one row": ({"embeddings": np.ones((1, 4))}, ValueError, "embeddings: expected at least 2 rows"),
    "nothing finite": ({"embeddings": np.full((40, 32), np.nan)}, ValueError, "embeddings: expected finite numbers"),
    "k of 0": ({"k": 0}, ValueError, "k: expected"),
    "k of all rows": ({"k": 40}, ValueError, "k: expected at most 39, the rows beside the query itself, got 40"),
    "k of another kind": ({"k": 2.5}, TypeError, "k: expected"),
    "too wide": ({"dims": (8, 64)}, ValueError, "dims: expected at most 32"),
    "falling dims": ({"dims": (16, 8)}, ValueError, "dims"),
    "dims of 0": ({"dims": (0, 8)}, ValueError, "dims"),
    "few labels": ({"labels": [1, 2]}, ValueError, r"labels: expected shape \(40,\)"),
    "one class": ({"labels": ["a"] * 40}, ValueError, "labels: expected at least 2 classes"),
    "measurements": ({"labels": np.linspace(0, 1, 40)}, TypeError, "labels: expected integers or strings"),
    "labels of all kinds": ({"labels": [1, "a"] * 20 + []}, TypeError, None),
    "narrow queries": ({"queries": np.ones((3, 4))}, ValueError, "queries: expected shape"),
    "no queries": ({"queries": np.ones((0, 32))}, ValueError, "queries: expected shape"),
    "queries of NaN": ({"queries": np.full((3, 32), np.inf)}, ValueError, "queries: expected finite numbers"),
    "relevant alone": ({"relevant": [[1]]}, ValueError, "relevant: expected queries beside it"),
    "labels of no queries": ({"query_labels": [1]}, ValueError, "query_labels: expected queries and labels"),
    "relevant past the rows": (
        {"queries": np.ones((1, 32)), "relevant": [[40]]},
        ValueError,
        "relevant: expected rows in",
    ),
    "relevant of others": (
        {"queries": np.ones((1, 32)), "relevant": [[1], [2]]},
        ValueError,
        "relevant: expected shape",
    ),
    "relevant of shares": (
        {"queries": np.ones((1, 32)), "relevant": [[0.5]]},
        TypeError,
        "relevant: expected an integer",
    ),
    "relevant of none": (
        {"queries": np.ones((1, 32)), "relevant": [[-1]]},
        ValueError,
        "relevant: expected a relevant row",
    ),
    "metric": ({"metric": "angle"}, ValueError, "metric: expected one of"),
    "price": ({"price": -1.0}, ValueError, "price: expected a positive"),
    "sample": ({"sample": 0}, ValueError, "sample: expected"),
    "seed": ({"seed": -1}, ValueError, "seed: expected"),
    "level": ({"confidence_level": 1.0}, ValueError, "confidence_level: expected"),
    "backend": ({"backend": "abacus"}, ValueError, "backend: expected one of"),
    "a transform of another name": ({"transforms": {"mine": np.abs}}, ValueError, "transforms: expected names of"),
    "a transform that is none": ({"transforms": {"rotation": 3}}, TypeError, "transforms"),
    "a transform that loses rows": ({"transforms": {"rotation": lambda x: x[1:]}}, ValueError, "transforms"),
    "title": ({"title": 3}, TypeError, "title"),
}


@pytest.mark.parametrize("name", WRONG)
def test_wrong_arguments(name: str) -> None:
    changed, kind, words = WRONG[name]
    with pytest.raises(kind, match=words) as caught:
        mrl.report(**GOOD | changed)
    assert "\n" not in str(caught.value)


def test_few_finite_rows_are_too_few() -> None:
    rows = decaying(40)
    rows[3:] = np.nan
    with pytest.raises(ValueError, match="expected at least 4 finite rows for k=3, got 3"):
        mrl.report(rows, dims=(8,), k=3)
    assert mrl.report(rows, dims=(8,), k=2).data["rows_searched"] == 3


def test_labels_of_one_class_once_rows_are_left_out() -> None:
    rows, labels = decaying(40), np.zeros(40, int)
    rows[0], labels[0] = np.nan, 1
    with pytest.raises(ValueError, match="labels: expected at least 2 classes"):
        mrl.report(rows, labels=labels, dims=(8,))
