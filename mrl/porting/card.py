"""The Matryoshka card: what a model's ``config.json`` says of the dimensions that its embeddings may be cut to."""

from __future__ import annotations

import json
from os import PathLike
from pathlib import Path
from typing import Any

from .. import checks
from ..files import write_atomically
from ..nesting import Nesting

FILE = "config.json"
FLAG, DIMS = "is_matryoshka", "matryoshka_dimensions"
WIDTHS = ("hidden_size", "d_model", "n_embd", "dim")
"""What configurations call the model's hidden size."""
NESTED = ("text_config", "llm_config", "language_config", "encoder")
WHITESPACE = " \t\r\n"


def write_matryoshka_card(folder: str | PathLike[str], nesting: Nesting) -> None:
    """Say in a model folder's ``config.json`` which dimensions its embeddings may be cut to.

    Sets ``is_matryoshka`` and ``matryoshka_dimensions``, the keys that vLLM reads. The rest of the file stays as it is,
    to the byte, and the file is written whole or not at all.

    Args:
        folder: of the model; it has a ``config.json``.
        nesting: its dims. Weights are of training, and not written.

    Returns:
        Nothing.

    Raises:
        TypeError: ``nesting`` is none.
        ValueError: ``config.json`` is no JSON object, or a dim is larger than the hidden size that it states.
        OSError: the file cannot be read or written; what was there before is there still.

    Example:
        >>> import mrl, pathlib, tempfile
        >>> folder = pathlib.Path(tempfile.mkdtemp())
        >>> _ = (folder / "config.json").write_text('{"hidden_size": 384, "layer_norm_eps": 1e-12}')
        >>> mrl.write_matryoshka_card(folder, mrl.Nesting((64, 128, 384)))
        >>> print((folder / "config.json").read_text())
        {"hidden_size": 384, "layer_norm_eps": 1e-12, "is_matryoshka": true, "matryoshka_dimensions": [64, 128, 384]}
        >>> mrl.read_matryoshka_card(folder).dims
        (64, 128, 384)

    Source: the configuration of pooling models in https://docs.vllm.ai.
    """
    checks.check_nesting(nesting)
    path = Path(folder) / FILE
    text = _text(path)
    try:
        members, end = _members(text)
        config = {key: value for key, value, _, _ in members}
        for width, name in _widths(config):
            if nesting.width > width:
                raise ValueError(
                    f"expected dims of at most {width}, its {name}, got {nesting.width}; leave out the larger ones"
                )
    except ValueError as error:
        raise ValueError(f"path: {path}: {error}") from error
    # Between two members stands what stands between the others, or before the first.
    first = members[0][2] if members else end
    opening = text[text.index("{") + 1 : first] if members else ""
    for key, value in ((FLAG, "true"), (DIMS, json.dumps(nesting.dims))):
        known = {name: (begin, until) for name, _, begin, until in members}
        if key in known:
            begin = _value_start(text, known[key][0])
            text = text[:begin] + value + text[known[key][1] :]
        else:
            last = members[-1][3] if members else text.index("{") + 1
            gap = ("," + (opening or " ")) if members else ""
            text = text[:last] + f'{gap}"{key}": {value}' + text[last:]
        members, end = _members(text)
    write_atomically(path, text.encode())


def read_matryoshka_card(folder: str | PathLike[str]) -> Nesting | None:
    """The dimensions to which a model's embeddings may be cut, as its ``config.json`` states them.

    Args:
        folder: of the model.

    Returns:
        A nesting of these dims, each of weight 1; ``None`` where the file does not say that the model is one.

    Raises:
        ValueError: ``config.json`` is no JSON object; it lists dims that are none, or larger than its hidden size; or
            it says that the model is one, and lists none, which is to say that every dimension will do.
        OSError: the file cannot be read.

    Example:
        >>> import mrl, pathlib, tempfile
        >>> folder = pathlib.Path(tempfile.mkdtemp())
        >>> _ = (folder / "config.json").write_text('{"matryoshka_dimensions": [64, 384]}')
        >>> mrl.read_matryoshka_card(folder)
        Nesting((64, 384))

    Source: the configuration of pooling models in https://docs.vllm.ai.
    """
    path = Path(folder) / FILE
    text = _text(path)
    try:
        config = {key: value for key, value, _, _ in _members(text)[0]}
        flag, dims = config.get(FLAG), config.get(DIMS)
        if flag is not None and not isinstance(flag, bool):
            raise ValueError(f"expected {FLAG!r} to be true or false, got {flag!r}; correct it")
        if dims is None and not flag:
            return None
        if flag is False:
            raise ValueError(
                f"expected {DIMS!r} of a model that has them, got {dims} beside {FLAG!r}: false; correct one"
            )
        if dims is None:
            raise ValueError(f"expected a list {DIMS!r}, got none, so that every dimension will do; write one")
        if not isinstance(dims, list):
            raise ValueError(f"expected {DIMS!r} to be a list, got {dims!r}; correct it")
        try:
            nesting = Nesting(sorted(set(dims)))
        except TypeError as error:
            raise ValueError(f"{DIMS}: {error}") from error
        for width, name in _widths(config):
            if nesting.width > width:
                raise ValueError(f"expected dims of at most {width}, its {name}, got {nesting.width}; correct one")
    except ValueError as error:
        raise ValueError(f"path: {path}: {error}") from error
    return nesting


def _text(path: Path) -> str:
    try:
        return path.read_bytes().decode("utf-8")  # line ends as they are
    except UnicodeDecodeError as error:
        raise ValueError(f"path: {path}: expected UTF-8 text, got other bytes ({error.reason}); repair it") from error


def _widths(config: dict[str, Any]) -> list[tuple[int, str]]:
    """The hidden size and its name: the configuration's own, or that of the text model in it."""
    for prefix, part in (("", config), *((f"{name}.", config.get(name)) for name in NESTED)):
        if isinstance(part, dict):
            for name in WIDTHS:
                width = part.get(name)
                if isinstance(width, int) and not isinstance(width, bool):
                    return [(width, prefix + name)]
    return []


def _members(text: str) -> tuple[list[tuple[str, Any, int, int]], int]:
    """``(key, value, begin, end)`` of every member of the object that ``text`` is, and where its brace closes."""
    decoder = json.JSONDecoder(object_pairs_hook=_object)
    members: list[tuple[str, Any, int, int]] = []
    try:
        place = _skip(text, 0, "{")
        while text[place : place + 1] != "}":
            if members:
                place = _skip(text, place, ",")
            begin = place
            if text[begin : begin + 1] != '"':
                raise ValueError(f"a name was expected at character {begin}")
            key, place = decoder.raw_decode(text, begin)
            value, place = decoder.raw_decode(text, _skip(text, place, ":"))
            members.append((key, value, begin, place))
            place = _spaces(text, place)
        if text[place + 1 :].strip(WHITESPACE):
            raise ValueError(f"something follows the object at character {place + 1}")
        _object([(key, value) for key, value, _, _ in members])
    except (ValueError, RecursionError) as error:
        raise ValueError(f"expected a JSON object, got {text[:40]!r}...: {error}; repair it") from error
    return members, place


def _value_start(text: str, begin: int) -> int:
    return _skip(text, json.JSONDecoder().raw_decode(text, begin)[1], ":")


def _skip(text: str, place: int, mark: str) -> int:
    """Past ``mark``, which must come next, and the white space around it."""
    place = _spaces(text, place)
    if text[place : place + 1] != mark:
        raise ValueError(f"{mark!r} was expected at character {place}")
    return _spaces(text, place + 1)


def _spaces(text: str, place: int) -> int:
    while text[place : place + 1] and text[place] in WHITESPACE:
        place += 1
    return place


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    content = dict(pairs)
    if len(content) != len(pairs):
        raise ValueError(f"a name occurs twice among {str([key for key, _ in pairs])[:80]}")
    return content
