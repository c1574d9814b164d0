"""Policies as JSON text: strict on the way in."""

from __future__ import annotations

import json
from os import PathLike
from pathlib import Path
from typing import Any

FORMAT = "mrl.cascade_policy"
VERSION = 1


def dumps(content: dict[str, Any]) -> str:
    return json.dumps({"format": FORMAT, "version": VERSION, **content}, allow_nan=False, indent=1)


def loads(text: str, keys: tuple[str, ...]) -> dict[str, Any]:
    """The content of ``text``: an object of this format with exactly these keys."""
    if not isinstance(text, str):
        raise TypeError(f"text: expected a string of JSON, got {type(text).__name__}; decode it first")
    try:
        content = json.loads(text, object_pairs_hook=_object, parse_constant=_refuse_constant)
    except RecursionError as error:
        raise ValueError("text: expected the JSON of a policy, got one nested too deeply; write it again") from error
    except ValueError as error:
        raise ValueError(f"text: expected JSON, got {text[:40]!r}...: {error}; write it with to_json") from error
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise ValueError(f"text: expected an object with 'format': {FORMAT!r}, got {text[:40]!r}...; is it a policy?")
    version = content.get("version")
    if isinstance(version, bool) or version != VERSION:
        raise ValueError(f"text: expected version {VERSION}, got {version!r}; read it with the mrl that wrote it")
    expected = {"format", "version", *keys}
    missing, unknown = sorted(expected - set(content)), sorted(set(content) - expected)
    if missing or unknown:
        raise ValueError(f"text: expected the keys {sorted(expected)}, got none of {missing}, and {unknown} too")
    for key in keys:
        wanted: type = {"confidence": str, "fitted": dict}.get(key, list)
        if not isinstance(content[key], wanted):
            raise ValueError(f"text: expected {key!r} to be a {wanted.__name__}, got {content[key]!r}; correct it")
    return content


def read(path: str | PathLike[str]) -> str:
    try:
        return Path(path).read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(f"expected UTF-8 text, got other bytes ({error.reason}); is it a policy?") from error


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    content = dict(pairs)
    if len(content) != len(pairs):
        raise ValueError(f"a key occurs twice among {[key for key, _ in pairs]}")
    return content


def _refuse_constant(name: str) -> Any:
    raise ValueError(f"{name} is not a number of JSON")
