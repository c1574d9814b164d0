"""The demo: its data, what it says of a table, and a short run in every framework."""

import gzip
import json
import struct
from dataclasses import replace

import numpy as np
import pytest

from mrl.cascade import CascadePolicy, Interval, cascade_report
from mrl.cli import main
from mrl.demo import cascade, data, port, report
from mrl.demo.encoder import embed_with_bound, init_encoder
from mrl.demo.evaluate import Model
from mrl.demo.run import run_demo
from mrl.demo.settings import DIMS, Settings
from mrl.heads import TiedHead
from mrl.nesting import Nesting


def idx(array: np.ndarray) -> bytes:
    return struct.pack(f">HBB{array.ndim}I", 0, 8, array.ndim, *array.shape) + array.astype(np.uint8).tobytes()


@pytest.fixture
def folder(tmp_path):
    """Images of 3 x 3 pixels that show their label, as the four files of Fashion-MNIST; two of them gzipped."""
    rng = np.random.default_rng(0)
    for part, count, pack in (("train", 400, gzip.compress), ("t10k", 50, bytes)):
        labels = np.arange(count) % 4
        images = rng.integers(0, 60, (count, 3, 3))
        images[np.arange(count), labels // 2, labels % 2] = 250
        suffix = ".gz" if pack is gzip.compress else ""
        (tmp_path / f"{part}-images-idx3-ubyte{suffix}").write_bytes(pack(idx(images)))
        (tmp_path / f"{part}-labels-idx1-ubyte{suffix}").write_bytes(pack(idx(labels)))
    return tmp_path


def test_idx_files_are_read(folder) -> None:
    found = data.load("fashion-mnist", folder, seed=0)
    assert found.classes == 4
    assert [len(part.labels) for part in (found.train, found.held_out, found.test)] == [360, 40, 50]
    assert found.train.images.shape == (360, 9) and found.train.images.dtype == np.float32
    brightest = found.test.images[:, [0, 1, 3, 4]].argmax(1)
    np.testing.assert_array_equal(brightest, found.test.labels)
    assert np.bincount(found.held_out.labels).tolist() == [10] * 4  # an equal share of each class


def test_parts_do_not_overlap() -> None:
    found = data.load("digits", None, seed=0)
    rows = np.concatenate([part.images for part in (found.train, found.held_out, found.test)])
    everything = data._digits().images
    assert len(rows) == len(everything)
    np.testing.assert_array_equal(np.sort(rows.sum(1)), np.sort(everything.sum(1)))
    assert data.load("digits", None, seed=1).test.images[:5].tolist() != found.test.images[:5].tolist()


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("train-labels-idx1-ubyte.gz", lambda b: gzip.compress(idx(np.zeros(3))), "as many train images as labels"),
        ("train-images-idx3-ubyte.gz", lambda b: b[:40], "expected a whole gzip file"),
        ("t10k-images-idx3-ubyte", lambda b: b[:-1], r"expected 450 bytes for shape \(50, 3, 3\), got 449"),
        ("t10k-images-idx3-ubyte", lambda b: b + b"\0", r"got 451"),
        ("t10k-images-idx3-ubyte", lambda b: b[:9], "expected a header of 16 bytes, got 9"),
        ("t10k-images-idx3-ubyte", lambda b: b"\0\0\x0d\x03" + b[4:], "starts with 00000803, got 00000d03"),
        ("t10k-labels-idx1-ubyte", lambda b: b"", "starts with 00000801, got"),
    ],
)
def test_broken_files_are_refused(folder, name, change, message) -> None:
    path = folder / name
    path.write_bytes(change(path.read_bytes()))
    with pytest.raises(ValueError, match=message):
        data.load("fashion-mnist", folder, seed=0)


def test_missing_files_and_wrong_options(folder, framework_name, capsys) -> None:
    (folder / "t10k-labels-idx1-ubyte").unlink()
    with pytest.raises(FileNotFoundError, match="t10k-labels-idx1-ubyte"):
        data.load("fashion-mnist", folder, seed=0)
    for arguments, message in (
        (["--backend", framework_name, "--data", "fashion-mnist"], "--data-dir: expected the folder"),
        (["--backend", framework_name, "--data-dir", str(folder)], "--data-dir: digits come with scikit-learn"),
        (["--backend", "numpy"], "--backend: expected one of"),
    ):
        assert main(["demo", *arguments]) == 2
        assert message in capsys.readouterr().err


def test_batches_cover_the_data_in_equal_parts() -> None:
    settings = Settings(epochs=3, batch=4, seed=1)
    batches = list(settings.batches(10))
    assert len(batches) == settings.steps(10) == 6
    assert {len(batch) for batch in batches} == {4}
    assert len(set(np.concatenate(batches[:2]))) == 8  # within an epoch no example comes twice
    assert batches[0].tolist() != batches[2].tolist()


def test_the_sentences_say_what_the_table_says() -> None:
    rng = np.random.default_rng(0)
    right = rng.random((len(DIMS), 400)) < 0.9
    worse, better = right & (rng.random(right.shape) < 0.5), right.copy()
    better[0] = True
    results = {"linear": {"FF": right, "MRL": worse, "MRL-E": better}}
    first, second = report.sentences(results)
    assert first.startswith("MRL, linear head: behind FF at 2 (-") and "ahead" not in first and "noise" not in first
    assert "MRL-E, linear head: ahead of FF at 2 (+" in second
    assert "within the noise at 4 (+0.0)" in second and "behind" not in second
    entry = report.accuracies(results)["linear"]["MRL"][0]
    assert entry["dim"] == 2 and entry["accuracy"] == worse[0].mean()


def test_the_encoder_bound_holds_and_is_not_idle() -> None:
    encoder = init_encoder((30, 50, 20), seed=0)
    images = np.random.default_rng(0).random((40, 30)).astype(np.float32)
    exact, bound = embed_with_bound(encoder, images)
    x = images
    for i, (weight, bias) in enumerate(zip(encoder.weights, encoder.biases, strict=True)):
        x = x @ weight.T + bias
        x = np.maximum(x, 0) if i == 0 else x
    assert x.dtype == np.float32
    assert (np.abs(x - exact) <= bound).all()
    assert (bound < 1e-4).all()


class TestRun:
    def test_a_short_run_writes_what_it_prints(self, framework_name: str, folder, tmp_path, capsys) -> None:
        out = tmp_path / "out"
        arguments = {"data": "fashion-mnist", "data_dir": folder, "seed": 3, "epochs": 20}
        content = run_demo(backend=framework_name, out=out, **arguments)
        assert json.loads((out / "demo.json").read_text()) == json.loads(json.dumps(content))
        assert (out / "demo.png").read_bytes().startswith(b"\x89PNG")
        assert content["dims"] == list(DIMS) and content["backend"] == framework_name
        for families in content["accuracy"].values():
            assert set(families) == {"FF", "MRL", "MRL-E"}
            for points in families.values():
                assert [point["dim"] for point in points] == list(DIMS)
                assert points[-1]["accuracy"] > 0.9  # a pixel gives the label away
        assert {p["backend"] for p in content["ports"]} >= {"numpy", framework_name}
        assert all(p["holds"] and 0 < p["share"] <= 1 for p in content["ports"])
        found = content["retrieval"]
        assert [point["dim"] for point in found["map"]["MRL"]] == list(DIMS)
        exact, stages, funnel = found["ways"]
        assert exact["recall"] == 1 and exact["map"] == found["map"]["MRL"][-1]["map"] > 0.9
        assert exact["multiply_adds"] == 360 * 64 and funnel["multiply_adds"] == 360 * 4 + 200 * 16 + 50 * 64
        assert stages["recall"] > 0.9 and set(found["agreement"]) >= {"numpy", framework_name}
        assert found["agreement"][framework_name] == 1 and min(found["agreement"].values()) > 0.9
        printed = capsys.readouterr().out
        assert all(sentence in printed for sentence in content["comparison"] + content["dimensions_needed"])
        written = json.loads((out / "report.json").read_text())
        assert written["sizes"] == list(DIMS) and all(sentence in printed for sentence in written["verdict"])
        assert "<svg" in (out / "report.html").read_text() and (out / "report.md").exists()
        assert (out / "cascade.png").read_bytes().startswith(b"\x89PNG")
        for by in content["cascades"].values():
            assert set(by) == {"greedy", "budget", "accuracy", "risk"}
            assert by["accuracy"]["fitted"]["accuracy"] >= by["accuracy"]["fitted"]["full_accuracy"]
            assert by["budget"]["fitted"]["expected_dim"] <= by["greedy"]["fitted"]["expected_dim"]
            assert all(entry["report"]["examples"] == content["examples"]["test"] for entry in by.values())

    def test_the_sentence_says_whether_the_accuracy_is_reached(self) -> None:
        for gap, low, high, words in (
            (-0.02, -0.03, -0.01, "so it does not reach it"),
            (0.02, 0.01, 0.03, "so it passes it"),
            (-0.01, -0.02, 0.01, "which is within the noise"),
        ):
            confidence, correct = np.full((2, 4), 0.5), np.ones((2, 4), bool)
            policy = CascadePolicy((0.4,), (2, 64))
            made = replace(cascade_report((confidence, correct), None, policy), against_full=Interval(gap, low, high))
            said = cascade.sentence("MRL", cascade.Cascade(policy, made))
            assert words in said and f"{100 * gap:+.2f} [{100 * low:+.2f}, {100 * high:+.2f}]" in said
            assert "needs 2.0 [2.0, 2.0] of 64 dimensions" in said

    def test_a_wrong_port_is_found_out(self, monkeypatch) -> None:
        rng = np.random.default_rng(0)
        nesting = Nesting((2, 4))
        head = TiedHead(rng.normal(size=(3, 4)).astype(np.float32), rng.normal(size=3).astype(np.float32))
        model = Model(init_encoder((9, 8, 4), seed=0), head, nesting)
        images = rng.random((20, 9)).astype(np.float32)
        assert all(found.share <= 1 for found in port.check_ports({"MRL-E": model}, images))
        right = port.logits_in
        monkeypatch.setattr(port, "logits_in", lambda *arguments: right(*arguments) * (1 + 1e-4))
        assert all(found.share > 1 for found in port.check_ports({"MRL-E": model}, images))
