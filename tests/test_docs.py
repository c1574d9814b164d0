"""Every example runs: in the README, in docs/ and in the docstrings."""

import doctest
import importlib
import os
import pkgutil
import re
from pathlib import Path

import pytest

import mrl

ROOT = Path(__file__).parent.parent
BLOCK = re.compile(r"^```python\n(.*?)^```", re.MULTILINE | re.DOTALL)
FRAMEWORKS = ("torch", "jax", "tensorflow")
ADAPTERS = {"torch": "torch", "flax": "jax", "keras": "tensorflow", "sentence_transformers": "torch"}
"""Those that import a framework; Keras has TensorFlow's if it is not told otherwise."""


def needed(text: str) -> set[str]:
    roots = {"keras": "tensorflow"} | {name: name for name in FRAMEWORKS}
    return {name for root, name in roots.items() if re.search(rf"^(?:>>> )?import {root}\b", text, re.MULTILINE)}


def blocks() -> dict[str, str]:
    """The examples of the README, by the framework that each of them shows."""
    found = BLOCK.findall((ROOT / "README.md").read_text(encoding="utf-8"))
    return {"+".join(sorted(needed(code))) or f"numpy{i}": code for i, code in enumerate(found)}


def pages() -> dict[str, str]:
    return {path.name: path.read_text(encoding="utf-8") for path in sorted((ROOT / "docs").glob("*.md"))}


def modules(frameworks: set[str]) -> list[str]:
    names = {info.name for info in pkgutil.walk_packages(mrl.__path__, "mrl.", onerror=lambda name: None)}
    # An editable install has them elsewhere.
    (folder,) = importlib.import_module("mrl.adapters").__path__
    paths = [path.relative_to(folder).with_suffix("").parts for path in Path(folder).rglob("*.py")]
    names |= {".".join(("mrl.adapters", *parts)).removesuffix(".__init__") for parts in paths}
    left_out = {name for name, framework in ADAPTERS.items() if framework not in frameworks}
    names = {name for name in names if not (name.startswith("mrl.adapters.") and name.split(".")[2] in left_out)}
    names = {name for name in names if not name.startswith("mrl.backends.") and ".train_" not in name}
    return ["mrl", *sorted(names)]


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    chosen = set(metafunc.config.getoption("--backend") or FRAMEWORKS)
    for name, examples in (("block", blocks()), ("page", pages())):
        if name in metafunc.fixturenames:
            usable = {key: text for key, text in examples.items() if needed(text) <= chosen}
            metafunc.parametrize(name, usable.values(), ids=usable.keys())
    if "module" in metafunc.fixturenames:
        metafunc.parametrize("module", modules(chosen))


def test_the_readme_has_an_example_for_every_framework() -> None:
    assert set(FRAMEWORKS) < set(blocks())
    assert any(key.startswith("numpy") for key in blocks())


def test_readme(block: str) -> None:
    exec(compile(block, "README.md", "exec"), {"__name__": "readme"})


def test_docs(page: str) -> None:
    test = doctest.DocTestParser().get_doctest(page, {}, "docs", None, 0)
    runner = doctest.DocTestRunner()
    runner.run(test)
    assert runner.summarize(verbose=False).failed == 0


def test_docstrings(module: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    result = doctest.testmod(importlib.import_module(module))
    assert result.failed == 0


def test_links_lead_somewhere() -> None:
    for path in [ROOT / "README.md", *(ROOT / "docs").glob("*.md")]:
        for target in re.findall(r"\]\(([^)#]+)", path.read_text(encoding="utf-8")):
            assert target.startswith("https://") or (path.parent / target).exists(), (path, target)


def test_the_site_has_every_page() -> None:
    listed = re.findall(r"^ +- .*: (\S+\.md)$", (ROOT / "mkdocs.yml").read_text(encoding="utf-8"), re.MULTILINE)
    assert len(listed) == len(set(listed)) and set(pages()) <= set(listed)


def test_nox_sessions_of_the_readme_exist() -> None:
    sessions = set(re.findall(r"nox -s (\w+)", (ROOT / "README.md").read_text(encoding="utf-8")))
    defined = set(re.findall(r"^def (\w+)\(session", (ROOT / "noxfile.py").read_text(encoding="utf-8"), re.MULTILINE))
    assert sessions
    assert sessions <= defined
    assert os.access(ROOT / ".ci" / "run", os.X_OK)
