"""Policies as values: what they refuse, and the files that they are kept in."""

import copy
import io
import json
import math
import os
import pickle
import pickletools
from dataclasses import replace

import numpy as np
import pytest

import mrl

POLICY = mrl.CascadePolicy((0.5,), (2, 4))


@pytest.mark.parametrize(
    ("arguments", "options", "error", "message"),
    [
        (
            ((0.5, 0.5), (2, 4)),
            {},
            ValueError,
            r"thresholds: expected 1 numbers, .*, got 2",
        ),
        (((1.5,), (2, 4)), {}, ValueError, r"thresholds\[0\]: expected a number in \[0, 1\], got 1\.5"),
        (((-0.1,), (2, 4)), {}, ValueError, r"thresholds\[0\]: expected a number in \[0, 1\]"),
        (((math.nan,), (2, 4)), {}, ValueError, r"thresholds\[0\]: expected a number in \[0, 1\], got nan"),
        ((("0.5",), (2, 4)), {}, TypeError, r"thresholds\[0\]: expected a number, got '0\.5'"),
        (((True,), (2, 4)), {}, TypeError, r"thresholds\[0\]: expected a number, got True"),
        ((0.5, (2, 4)), {}, TypeError, r"thresholds: expected a sequence of numbers"),
        (((0.5,), (4, 2)), {}, ValueError, r"dims\[1\] = 2 after 4"),
        (
            ((0.5,), (2, 4)),
            {"confidence": "softmax"},
            ValueError,
            r"confidence: expected one of .*, got 'softmax'",
        ),
        (
            ((0.5,), (2, 4)),
            {"temperatures": (1.0,)},
            ValueError,
            r"temperatures: expected 2 numbers, .*, got 1",
        ),
        (((0.5,), (2, 4)), {"temperatures": (1.0, 0.0)}, ValueError, r"temperatures\[1\]: expected a positive finite"),
        (((0.5,), (2, 4)), {"temperatures": (1.0, math.inf)}, ValueError, r"temperatures\[1\]: expected a positive"),
        ((np.ones((1, 1)), (2, 4)), {}, TypeError, r"thresholds\[0\]: expected a number"),
        (({0.5, 0.7}, (2, 4, 8)), {}, TypeError, r"thresholds: expected a sequence of numbers"),
        (((0.5,), (2, 4)), {"fitted": 3}, TypeError, r"fitted: expected names to plain values"),
        (((0.5,), (2, 4)), {"fitted": {"a": [1]}}, TypeError, r"fitted: expected names to strings, numbers"),
        (((0.5,), (2, 4)), {"fitted": {"a": math.nan}}, ValueError, r"fitted: expected finite numbers"),
    ],
)
def test_policy_refuses(arguments, options, error, message) -> None:
    with pytest.raises(error, match=message):
        mrl.CascadePolicy(*arguments, **options)


@pytest.mark.parametrize("levels", [0, 3, np.int64(-1)])
def test_capped_refuses(levels) -> None:
    with pytest.raises(ValueError, match=rf"levels: expected an integer in \[1, 2\], got {levels}; choose one"):
        POLICY.capped(levels)


@pytest.mark.parametrize("levels", [True, 1.0, "2", None])
def test_capped_refuses_what_is_no_integer(levels) -> None:
    with pytest.raises(TypeError, match="levels: expected an integer, got"):
        POLICY.capped(levels)


@pytest.mark.parametrize("kind", [np.int64, np.uint8, np.array])
def test_capped_takes_integers_of_numpy(kind) -> None:
    assert POLICY.capped(kind(1)) == POLICY.capped(1) and POLICY.capped(kind(2)) == POLICY


def test_capped_claims_nothing_of_the_whole() -> None:
    whole = mrl.CascadePolicy((0.5, 0.5), (2, 4, 8), fitted={"method": "risk", "accuracy": 0.9, "delta": 0.05})
    assert dict(whole.capped(2).fitted) == {"method": "risk", "capped_from": 3} and whole.capped(3) is whole


def test_json_round_trip(tmp_path) -> None:
    policy = mrl.CascadePolicy(
        (0.1, 1 / 3),
        (2, 4, 8),
        confidence="entropy",
        temperatures=(0.7, 1e-3, 1.0),
        fitted={"method": "by hand", "examples": 3, "exact": True, "note": None},
    )
    path = tmp_path / "policy.json"
    policy.save(path)
    policy.save(path)  # over the old one
    assert mrl.CascadePolicy.load(path) == policy == mrl.CascadePolicy.from_json(policy.to_json())
    assert os.listdir(tmp_path) == ["policy.json"]


def test_a_failed_save_leaves_the_old_file(tmp_path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "policy.json"
    POLICY.save(path)

    def fail(*_):
        raise OSError("disk full")

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(OSError, match="disk full"):
        mrl.CascadePolicy((0.9,), (2, 4)).save(path)
    assert mrl.CascadePolicy.load(path) == POLICY
    assert os.listdir(tmp_path) == ["policy.json"]


def changed(**changes) -> str:
    content = {**json.loads(POLICY.to_json()), **changes}
    return json.dumps({key: value for key, value in content.items() if value != "gone"})


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", r"text: expected JSON"),
        ("{", r"text: expected JSON"),
        ("[1]", r"text: expected an object with 'format'"),
        ("[" * 100_000, r"text: expected the JSON of a policy, got one nested too deeply|text: expected JSON"),
        (changed(format="other"), r"text: expected an object with 'format'"),
        (changed(version=2), r"text: expected version 1, got 2"),
        (changed(version=True), r"text: expected version 1, got True"),
        (changed(dims="gone"), r"text: expected the keys .* got none of \['dims'\]"),
        (changed(more=1), r"text: expected the keys .* and \['more'\] too"),
        (changed(dims="8"), r"text: expected 'dims' to be a list"),
        (changed(dims=[4, 2]), r"text: .* in which dims"),
        (changed(thresholds=["0.5"]), r"text: .* in which thresholds\[0\]"),
        (changed(thresholds=[2]), r"text: .* in which thresholds\[0\]"),
        (changed(thresholds=[10**400]), r"text: .* in which thresholds\[0\]: expected a number in \[0, 1\], got inf"),
        (POLICY.to_json().replace("0.5", "NaN"), r"NaN is not a number of JSON"),
        (POLICY.to_json().replace('"version": 1', '"version": 1, "version": 1'), r"a key occurs twice"),
    ],
)
def test_corrupt_json_is_refused(tmp_path, text, message) -> None:
    with pytest.raises(ValueError, match=message):
        mrl.CascadePolicy.from_json(text)
    path = tmp_path / "policy.json"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(ValueError, match=r"path: .*policy\.json"):
        mrl.CascadePolicy.load(path)


def test_files_that_are_no_text_or_missing(tmp_path) -> None:
    (tmp_path / "bytes").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ValueError, match=r"path: .*bytes: expected UTF-8 text"):
        mrl.CascadePolicy.load(tmp_path / "bytes")
    with pytest.raises(FileNotFoundError):
        mrl.CascadePolicy.load(tmp_path / "none")
    with pytest.raises(TypeError, match="text: expected a string of JSON, got bytes"):
        mrl.CascadePolicy.from_json(b"{}")


def test_policies_are_values() -> None:
    dims, temperatures = (2, 3, 6), (1.0, 0.5, 1.0)
    policy = mrl.CascadePolicy((0.7, 0.5), dims, temperatures=temperatures)
    again = mrl.CascadePolicy([0.7, 0.5], list(dims), temperatures=np.array(temperatures))
    assert again == policy and hash(again) == hash(policy) and len({again, policy}) == 1
    for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
        copied = pickle.loads(pickle.dumps(policy, protocol))
        assert copied == policy and copied.nesting == policy.nesting and copied.cuts32 == policy.cuts32
    assert copy.copy(policy) == copy.deepcopy(policy) == policy
    assert len(policy) == 3 and policy.capped(3) == policy and policy.capped(1).thresholds == ()
    assert mrl.CascadePolicy((0.7, 0.5), dims) != policy
    assert replace(policy, thresholds=(0.1, 0.2)) == mrl.CascadePolicy((0.1, 0.2), dims, temperatures=temperatures)
    with pytest.raises(AttributeError):
        policy.dims = (1,)


def globals_of(pickled: bytes) -> set[str]:
    """What reading it would import."""
    return {argument for opcode, argument, _ in pickletools.genops(pickled) if opcode.name == "GLOBAL"}


def test_pickles_name_public_classes_only() -> None:
    policy = mrl.CascadePolicy((0.7,), (2, 3), fitted={"method": "by hand", "exact": True})
    public = {f"{kind.__module__} {kind.__name__}" for kind in (mrl.CascadePolicy, mrl.Nesting)}
    assert globals_of(pickle.dumps([policy, policy.nesting], protocol=2)) == public
    with pytest.raises(ValueError, match=r"thresholds\[0\]: expected a number in"):  # checked on the way in
        pickle.loads(pickle.dumps(policy, protocol=0).replace(b"F0.7", b"F1.7"))


def test_torch_loads_them_without_trusting_the_file(backend_torch: None) -> None:
    import torch

    policy, file = mrl.CascadePolicy((0.7,), (2, 3), fitted={"method": "by hand"}), io.BytesIO()
    torch.save({"policy": policy, "nesting": policy.nesting}, file)
    file.seek(0)
    with torch.serialization.safe_globals([mrl.CascadePolicy, mrl.Nesting]):
        assert torch.load(file, weights_only=True) == {"policy": policy, "nesting": policy.nesting}
