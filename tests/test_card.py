"""The Matryoshka card of a model folder: two keys are set, and nothing else changes by a byte."""

import json
import os

import pytest

import mrl

CONFIG = """{
  "architectures": ["BertModel"],
  "hidden_size": 384,\r
  "layer_norm_eps": 1e-12, "big": 123456789012345678901234567890, "precise": 0.1000000000000000055511151231257827,
  "name": "Größe \\u00fc 😀",
  "nested": {"matryoshka_dimensions": [1], "deep": [[], {}, null, true, -0.0]}
}
"""


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "config.json").write_bytes(CONFIG.encode())
    return tmp_path


def text(folder) -> str:
    return (folder / "config.json").read_bytes().decode()


def test_two_keys_are_added_and_nothing_else_changes(folder) -> None:
    assert mrl.read_matryoshka_card(folder) is None
    mrl.write_matryoshka_card(folder, mrl.Nesting((64, 128, 384), weights=(1, 2, 3)))
    added = ',\n  "is_matryoshka": true,\n  "matryoshka_dimensions": [64, 128, 384]\n}\n'
    assert text(folder) == CONFIG[: -len("\n}\n")] + added
    assert mrl.read_matryoshka_card(folder) == mrl.Nesting((64, 128, 384))
    once = text(folder)
    mrl.write_matryoshka_card(folder, mrl.Nesting((64, 128, 384)))
    assert text(folder) == once
    mrl.write_matryoshka_card(folder, mrl.Nesting((384,)))
    assert text(folder) == once.replace("[64, 128, 384]", "[384]")
    assert os.listdir(folder) == ["config.json"]


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("{}", '{"is_matryoshka": true, "matryoshka_dimensions": [2, 4]}'),
        ('{"a":1}', '{"a":1, "is_matryoshka": true, "matryoshka_dimensions": [2, 4]}'),
        (
            '{"matryoshka_dimensions" :[ 8 ] , "b": 2}',
            '{"matryoshka_dimensions" :[2, 4] , "b": 2, "is_matryoshka": true}',
        ),
        (
            '{"is_matryoshka": false, "matryoshka_dimensions": null}',
            '{"is_matryoshka": true, "matryoshka_dimensions": [2, 4]}',
        ),
    ],
)
def test_compact_files(folder, before: str, after: str) -> None:
    (folder / "config.json").write_text(before)
    mrl.write_matryoshka_card(folder, mrl.Nesting((2, 4)))
    assert text(folder) == after
    assert json.loads(after)["is_matryoshka"] is True
    assert mrl.read_matryoshka_card(folder).dims == (2, 4)


@pytest.mark.parametrize(
    ("config", "name"),
    [
        ({"hidden_size": 8}, "hidden_size"),
        ({"d_model": 8}, "d_model"),
        ({"n_embd": 8}, "n_embd"),
        ({"dim": 8, "hidden_dim": 32}, "dim"),
        ({"text_config": {"hidden_size": 8}}, "text_config.hidden_size"),
    ],
)
def test_dims_beyond_the_model_are_refused(folder, config: dict, name: str) -> None:
    (folder / "config.json").write_text(json.dumps(config))
    before = text(folder)
    with pytest.raises(ValueError, match=f"config.json: expected dims of at most 8, its {name}, got 16"):
        mrl.write_matryoshka_card(folder, mrl.Nesting((4, 16)))
    assert text(folder) == before and os.listdir(folder) == ["config.json"]
    mrl.write_matryoshka_card(folder, mrl.Nesting((4, 8)))
    (folder / "config.json").write_text(text(folder).replace("[4, 8]", "[4, 16]"))
    with pytest.raises(ValueError, match="expected dims of at most 8"):
        mrl.read_matryoshka_card(folder)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"[]",
        b"{",
        b'{"a": 1,}',
        b'{"a": 1} x',
        b'{"a": 1, "a": 2}',
        b'{"a" 1}',
        b"{\xff}",
        b"{1: 2}",
        b'{"a":' * 5000,
    ],
)
def test_what_is_no_config_is_refused_and_left(folder, content: bytes) -> None:
    (folder / "config.json").write_bytes(content)
    for call in (mrl.read_matryoshka_card, lambda f: mrl.write_matryoshka_card(f, mrl.Nesting((2,)))):
        with pytest.raises(ValueError, match=f"path: {folder / 'config.json'}: expected"):
            call(folder)
    assert (folder / "config.json").read_bytes() == content


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"is_matryoshka": True}, "expected a list 'matryoshka_dimensions', got none"),
        ({"is_matryoshka": "yes"}, "expected 'is_matryoshka' to be true or false"),
        ({"is_matryoshka": False, "matryoshka_dimensions": [2]}, "beside 'is_matryoshka': false"),
        ({"matryoshka_dimensions": 8}, "expected 'matryoshka_dimensions' to be a list"),
        ({"matryoshka_dimensions": ["8"]}, "matryoshka_dimensions: dims"),
        ({"matryoshka_dimensions": []}, "dims: expected"),
        ({"matryoshka_dimensions": [[1]]}, "matryoshka_dimensions: "),
    ],
)
def test_cards_that_say_nothing_are_refused(folder, config: dict, message: str) -> None:
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match=message):
        mrl.read_matryoshka_card(folder)


def test_arguments(folder) -> None:
    with pytest.raises(TypeError, match="nesting: expected"):
        mrl.write_matryoshka_card(folder, (2, 4))
    for call in (mrl.read_matryoshka_card, lambda f: mrl.write_matryoshka_card(f, mrl.Nesting((2,)))):
        with pytest.raises(FileNotFoundError):
            call(folder / "none")
