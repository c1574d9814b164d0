"""Damaged, foreign and hostile files are refused by name and reason: no number, no crash, nothing executed."""

import json
import pickle
import zipfile

import numpy as np
import pytest
from head_cases import HALF, NESTING, assert_same, head_of

import mrl

HEAD = head_of(HALF, False, True)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "head.safetensors"


def refused(path, reason: str = ": ", load=mrl.load_head) -> None:
    with pytest.raises(ValueError, match=reason) as caught:
        load(path)
    assert str(caught.value).startswith(f"path: {path}: ")


def test_every_truncation(path) -> None:
    mrl.save_head(path, HEAD, NESTING, metadata={"run": "7"})
    whole = path.read_bytes()
    for length in range(len(whole)):
        path.write_bytes(whole[:length])
        refused(path)
    path.write_bytes(whole + b"\0")
    refused(path, "cut short or added to")


def test_a_flipped_bit_anywhere(path) -> None:
    """Of the header, of the metadata and of the numbers, all of which the checksum covers."""
    mrl.save_head(path, HEAD, NESTING, metadata={"run": "7"})
    whole = path.read_bytes()
    for place in range(len(whole)):
        changed = bytearray(whole)
        changed[place] ^= 1 << (place + place // 8) % 8
        path.write_bytes(changed)
        refused(path)
    path.write_bytes(whole)
    assert_same(mrl.load_head(path).head, HEAD)


def test_random_bytes(path) -> None:
    rng = np.random.default_rng(0)
    mrl.save_head(path, HEAD, NESTING)
    whole = path.read_bytes()
    for _ in range(500):
        changed = bytearray(whole)
        for _ in range(rng.integers(1, 6)):
            start = rng.integers(len(whole))
            piece = rng.bytes(rng.integers(0, 9))
            changed[start : start + rng.integers(0, 9)] = piece
        if bytes(changed) != whole:
            path.write_bytes(changed)
            refused(path)


def file_of(header: object, data: bytes = b"", length: int | None = None) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return (len(text) if length is None else length).to_bytes(8, "little") + text + data


def tensor(dtype: object = "F32", shape: object = (1, 2), offsets: object = (0, 8)) -> dict:
    return {"dtype": dtype, "shape": shape, "data_offsets": offsets}


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "expected 8 bytes for the length"),
        (b"PK\3\4" + bytes(40), "expected a header within 44 bytes"),
        (file_of({}, length=2**63), "expected a header within"),
        (file_of(b"[1]"), "does not begin with a brace"),
        (file_of(b"{" * 10_000), "JSON"),
        (file_of(b'{"a":' * 100_000 + b"1" + b"}" * 100_000), "nested too deeply"),
        (file_of(b"{\xff}"), "expected a header of JSON"),
        (file_of(b'{"a": NaN}'), "NaN is not a number of JSON"),
        (file_of(b'{"__metadata__": {"a": "1", "a": "2"}}'), "a name occurs twice"),
        (file_of({"__metadata__": {"a": 1}}), "expected metadata of text"),
        (file_of({"__metadata__": [1]}), "expected metadata of text"),
        (file_of({"weight": [1]}), "expected dtype, shape and data_offsets"),
        (file_of({"weight": tensor("F31")}, bytes(8)), "expected a dtype of"),
        (file_of({"weight": tensor("F64")}, bytes(8)), "expected the bytes of F64"),
        (file_of({"weight": tensor(shape=(-1, -2))}, bytes(8)), "expected counts"),
        (file_of({"weight": tensor(shape=(True, 2))}, bytes(8)), "expected counts"),
        (file_of({"weight": tensor(shape=(1.0, 2))}, bytes(8)), "expected counts"),
        (file_of({"weight": tensor(shape=(2**62, 2**62))}, bytes(8)), "expected the bytes of F32"),
        (file_of({"weight": tensor(offsets=(8, 0))}, bytes(8)), "expected the bytes of F32"),
        (file_of({"weight": tensor(offsets=(8, 16))}, bytes(16)), "to begin at byte 0, got 8"),
        (file_of({"weight": tensor(), "bias": tensor()}, bytes(8)), "to begin at byte 8, got 0"),
        (file_of({"weight": tensor()}, bytes(4)), "cut short"),
        (file_of({"weight": tensor()}, bytes(8)), "expected the format 'mrl.head'.*read what others wrote with"),
    ],
)
def test_hostile_headers(path, content: bytes, reason: str) -> None:
    path.write_bytes(content)
    refused(path, reason)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"version": "2"}, "expected version '1', got '2'; read it with the mrl that wrote it"),
        ({"format": "pt"}, "expected the format 'mrl.head'"),
        ({"dims": "[2, 6]"}, r"expected shape \(3, 6\), got \(3, 5\)"),
        ({"dims": "[5, 2]"}, "expected a nesting in its metadata"),
        ({"dims": "{}"}, "expected 'dims' to be a list"),
        ({"weights": "[NaN, 1]"}, "expected a nesting"),
        ({"tied": "1"}, "expected 'tied' to be a bool"),
        ({"tied": "true"}, "expected the arrays"),
        ({"dtype": "float32"}, "expected arrays of 'float32'"),
        ({"same": '{"biases.0": "weights.0"}'}, "expected 'same' to name arrays"),
        ({"same": '{"biases.0": 1}'}, "expected 'same' to hold names"),
        ({"checksum": "00000000"}, "agree with its checksum"),
        ({"weights": "[0.1, 3.0]"}, "agree with its checksum"),
        ({"run": "8"}, "agree with its checksum"),
        ({"checksum": None}, "got none of"),
    ],
)
def test_metadata_that_contradicts(path, change: dict, reason: str) -> None:
    mrl.save_head(path, HEAD, NESTING, metadata={"run": "7"})
    whole = path.read_bytes()
    length = int.from_bytes(whole[:8], "little")
    header = json.loads(whole[8 : 8 + length])
    header["__metadata__"] = {k: v for k, v in (header["__metadata__"] | change).items() if v is not None}
    path.write_bytes(file_of(header, whole[8 + length :]))
    refused(path, reason)


class Evil:
    def __reduce__(self):
        return pytest.fail, ("something was executed",)


def read(path):
    return mrl.read_head(path, mrl.Nesting((1, 2)))


def test_nothing_is_unpickled(tmp_path, backend_torch: None) -> None:
    import torch

    objects = np.array([Evil(), Evil()], dtype=object)
    np.savez(tmp_path / "a.npz", weight=objects)
    refused(tmp_path / "a.npz", "objects", read)
    torch.save({"weight": torch.ones(1, 2), "other": Evil()}, tmp_path / "a.pt")
    refused(tmp_path / "a.pt", "weights_only=True", read)
    (tmp_path / "b.pt").write_bytes(pickle.dumps({"weight": Evil()}))
    refused(tmp_path / "b.pt", "weights_only=True", read)


@pytest.mark.parametrize("kind", ["npz", "pt", "safetensors", "weights.h5", "keras"])
def test_files_of_others_that_are_damaged(tmp_path, kind: str, backend_torch: None) -> None:
    path = tmp_path / f"a.{kind}"
    for content in (b"", b"PK", b"\x89HDF\r\n\x1a\n" + bytes(100), bytes(200), b"{}" * 50):
        path.write_bytes(content)
        refused(path, load=read)


def test_a_damaged_npz(tmp_path) -> None:
    path = tmp_path / "a.npz"
    np.savez(path, weight=np.ones((1, 2), np.float32))
    whole = path.read_bytes()
    for place in range(len(whole)):
        changed = bytearray(whole)
        changed[place] ^= 1 << place % 8
        path.write_bytes(changed)
        try:
            np.testing.assert_array_equal(read(path)[0].weight, 1)  # what flipped is of no account
        except ValueError:
            refused(path, load=read)
    for length in range(len(whole)):
        path.write_bytes(whole[:length])
        refused(path, load=read)


def test_an_npz_that_claims_more_than_it_has(tmp_path) -> None:
    path = tmp_path / "a.npz"
    with zipfile.ZipFile(path, "w") as archive:
        header = b"{'descr': '<f4', 'fortran_order': False, 'shape': (1, 1099511627776), }"
        archive.writestr("weight.npy", b"\x93NUMPY\1\0" + len(header).to_bytes(2, "little") + header)
    refused(path, "as many numbers as its shape", read)
