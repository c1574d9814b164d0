"""The safetensors format, read strictly and written without copies.

Eight bytes give the length of a JSON header, which gives dtype, shape and place of every array; their numbers follow.
That is all of it, so it is read here: bfloat16 needs no framework, an array is read when it is asked for and into its
own memory, and every claim of a header is checked before it is believed.

Source: the format's own description at https://github.com/huggingface/safetensors.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping
from functools import partial
from os import PathLike
from typing import Any, BinaryIO

from .stored import Array, Checkpoint, Stored, raw_parts, read_raw

LONGEST_HEADER = 100_000_000
FLOATING = {"F16": "float16", "BF16": "bfloat16", "F32": "float32", "F64": "float64"}
CODES = {name: code for code, name in FLOATING.items()}
BITS = (
    {"F4": 4, "F6_E2M3": 6, "F6_E3M2": 6, "BOOL": 8, "I8": 8, "U8": 8}
    | dict.fromkeys(("F8_E5M2", "F8_E4M3", "F8_E8M0", "F8_E4M3FNUZ", "F8_E5M2FNUZ"), 8)
    | {"I16": 16, "U16": 16, "F16": 16, "BF16": 16, "I32": 32, "U32": 32, "F32": 32}
    | {"I64": 64, "U64": 64, "F64": 64, "C64": 64}
)


def read_safetensors(path: str | PathLike[str]) -> Checkpoint:
    """The floating arrays of a file, unread; what else it holds is checked, and left out.

    Raises:
        OSError: the file cannot be read.
        ValueError: it is not of this format; the message gives the reason, and not the file.
    """
    with open(path, "rb") as stream:
        size = os.fstat(stream.fileno()).st_size
        start = stream.read(8)
        length = int.from_bytes(start, "little")
        if len(start) < 8:
            raise ValueError(f"expected 8 bytes for the length of a header, got {len(start)}; it was cut short")
        if length > min(LONGEST_HEADER, size - 8):
            raise ValueError(f"expected a header within {size} bytes, got the length {length}; it is no safetensors")
        text = stream.read(length)
    header = _header(text)
    metadata = header.pop("__metadata__", {})
    if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
        raise ValueError(f"expected metadata of text by name, got {str(metadata)[:80]}; it is no safetensors")
    places = sorted((_entry(name, value) for name, value in header.items()), key=lambda entry: entry[3:])
    end = 0
    for name, _, _, begin, until in places:
        if begin != end:
            raise ValueError(f"expected array {name!r} to begin at byte {end}, got {begin}; arrays overlap or lack")
        end = until
    if 8 + length + end != size:
        raise ValueError(f"expected {8 + length + end} bytes in all, got {size}; it was cut short or added to")
    arrays = {
        name: Stored(shape, FLOATING[code], partial(_read, path, 8 + length + begin, shape, FLOATING[code], size))
        for name, code, shape, begin, _ in places
        if code in FLOATING
    }
    return Checkpoint({name: arrays[name] for name in header if name in arrays}, metadata)


def write_safetensors(stream: BinaryIO, arrays: Mapping[str, Array], metadata: Mapping[str, str]) -> None:
    """Write arrays of ``float16``, ``bfloat16``, ``float32`` or ``float64``, the wider dtypes first."""
    header: dict[str, Any] = {"__metadata__": dict(metadata)} if metadata else {}
    order = sorted(arrays, key=lambda name: -arrays[name].dtype.itemsize)  # so that each lies at a multiple of its own
    end = 0
    for name in order:
        array, begin = arrays[name], end
        end += array.nbytes
        header[name] = {"dtype": CODES[array.dtype.name], "shape": list(array.shape), "data_offsets": [begin, end]}
    text = json.dumps(header, ensure_ascii=False, separators=(",", ":")).encode()
    text += b" " * (-(8 + len(text)) % 64)
    stream.write(len(text).to_bytes(8, "little") + text)
    for name in order:
        for part in raw_parts(arrays[name]):
            stream.write(part)


def _header(text: bytes) -> dict[str, Any]:
    try:
        if not text.startswith(b"{"):
            raise ValueError("it does not begin with a brace")
        header = json.loads(text.decode("utf-8"), object_pairs_hook=_object, parse_constant=_refuse)
    except RecursionError:
        raise ValueError("expected a header of JSON, got one nested too deeply; it is no safetensors") from None
    except ValueError as error:
        raise ValueError(f"expected a header of JSON, got {text[:20]!r}...: {error}; it is no safetensors") from None
    if not isinstance(header, dict):
        raise ValueError(f"expected a header that is one object, got {text[:20]!r}...; it is no safetensors")
    return header


def _entry(name: str, value: Any) -> tuple[str, str, tuple[int, ...], int, int]:
    """``(name, dtype, shape, begin, end)`` of an array, after checking that they agree."""
    if not isinstance(value, dict) or set(value) != {"dtype", "shape", "data_offsets"}:
        raise ValueError(f"array {name!r}: expected dtype, shape and data_offsets, got {str(value)[:80]}")
    code, shape, offsets = value["dtype"], value["shape"], value["data_offsets"]
    if not isinstance(code, str) or code not in BITS:
        raise ValueError(f"array {name!r}: expected a dtype of {tuple(BITS)}, got {str(code)[:40]!r}")
    if not _counts(shape) or not _counts(offsets) or len(offsets) != 2:
        raise ValueError(f"array {name!r}: expected counts, got shape {str(shape)[:80]} at {str(offsets)[:80]}")
    if math.prod(shape) * BITS[code] != 8 * (offsets[1] - offsets[0]):
        raise ValueError(
            f"array {name!r}: expected the bytes of {code} in shape {str(shape)[:80]}, "
            f"got {str(offsets[1] - offsets[0])[:40]}"
        )
    return name, code, tuple(shape), offsets[0], offsets[1]


def _counts(values: Any) -> bool:
    small = isinstance(values, list) and len(values) <= 64
    return small and all(type(value) is int and 0 <= value < 2**63 for value in values)


def _read(path: str | PathLike[str], offset: int, shape: tuple[int, ...], dtype: str, size: int) -> Array:
    with open(path, "rb") as stream:
        if os.fstat(stream.fileno()).st_size != size:
            raise ValueError("expected the file whose header was read, got another size; somebody writes to it")
        stream.seek(offset)
        return read_raw(stream, shape, dtype)


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    content = dict(pairs)
    if len(content) != len(pairs):
        raise ValueError(f"a name occurs twice among {str([name for name, _ in pairs])[:80]}")
    return content


def _refuse(name: str) -> Any:
    raise ValueError(f"{name} is not a number of JSON")
