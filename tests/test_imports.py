"""Who imports whom: the core imports no framework, and nobody imports the top-level folders."""

import ast
import os
import subprocess
import sys
import tempfile
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
AWAY = tempfile.gettempdir()  # at the root Python would find ./mrl before the installed package
HEAVY = ("torch", "jax", "jaxlib", "tensorflow", "keras", "hypothesis", "sklearn", "matplotlib", "tqdm", "scipy")


def run(code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", code], env=dict(os.environ), cwd=AWAY, capture_output=True, text=True)


def imports_of(module: str, path: Path, modules: dict[str, Path]) -> set[str]:
    """The modules of mrl that a module imports, wherever in it, for its types alone too."""
    package = module.split(".") if path.name == "__init__.py" else module.split(".")[:-1]
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.level:
            base = ".".join(package[: len(package) - node.level + 1] + (node.module or "").split("."))
            base = base.rstrip(".")
            found |= {name if (name := f"{base}.{alias.name}") in modules else base for alias in node.names}
    return found & set(modules) - {module}


def modules_of(folder: Path, package: str) -> dict[str, Path]:
    paths = [path.relative_to(folder).with_suffix("") for path in folder.rglob("*.py")]
    return {".".join((package, *path.parts)).removesuffix(".__init__"): folder / f"{path}.py" for path in paths}


@pytest.mark.parametrize("folder", ["mrl", "backends", "adapters"])
def test_no_circle_of_imports(folder: str) -> None:
    modules = modules_of(ROOT / folder, folder)
    assert modules
    TopologicalSorter({name: imports_of(name, path, modules) for name, path in modules.items()}).prepare()


def test_a_circle_is_found(tmp_path: Path) -> None:
    (tmp_path / "a.py").write_text("def f():\n    from .b import g\n")
    (tmp_path / "b.py").write_text("from . import a\n")
    modules = modules_of(tmp_path, "mine")
    with pytest.raises(CycleError):
        TopologicalSorter({name: imports_of(name, path, modules) for name, path in modules.items()}).prepare()


LOOK = f"""
import sys
loaded = [name for name in {HEAVY!r} if name in sys.modules]
assert not loaded, f"heavy: {{loaded}}"
"""


def test_import_mrl_is_light() -> None:
    use = "import mrl; mrl.Nesting((8, 16)); mrl.TiedHead; mrl.spec.truncate; import mrl.cli;"
    done = run(use + LOOK)
    assert done.returncode == 0, done.stderr


def test_numpy_alone_loads_no_framework() -> None:
    done = run("import mrl, numpy as np; mrl.truncate(np.ones((1, 2)), 1); mrl.convert(np.ones(2), 'numpy')" + LOOK)
    assert done.returncode == 0, done.stderr


def test_the_look_can_fail() -> None:
    done = run("import hypothesis, mrl" + LOOK)
    assert done.returncode == 1
    assert "heavy: ['hypothesis']" in done.stderr


def test_import_takes_a_fifth_of_a_second_beyond_numpy() -> None:
    """By the import system's own account; the quietest of five, so that a busy machine does not decide."""
    found = []
    for _ in range(5):
        done = subprocess.run(
            [sys.executable, "-X", "importtime", "-c", "import numpy, mrl"],
            cwd=AWAY,
            capture_output=True,
            text=True,
            check=True,
        )
        (line,) = [line for line in done.stderr.splitlines() if line.split("|")[-1] == " mrl"]
        found.append(int(line.split("|")[1]))  # microseconds, with everything it imports
    assert min(found) < 200_000


def modules(folder: str) -> list[Path]:
    return sorted((ROOT / folder).rglob("*.py"))


def imported(path: Path) -> set[str]:
    """The root packages that a file imports by an absolute name."""
    roots = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            roots |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            roots.add((node.module or "").partition(".")[0])
    return roots


@pytest.mark.parametrize("folder", ["mrl", "backends", "adapters", "tests", "benchmarks"])
def test_nobody_imports_the_top_level_folders(folder: str) -> None:
    assert modules(folder)
    for path in modules(folder):
        assert not imported(path) & {"backends", "adapters"}, path


@pytest.mark.parametrize("name", ["numpy", "torch", "jax", "tensorflow"])
def test_a_backend_knows_one_framework_and_mrl(name: str) -> None:
    for path in modules(f"backends/{name}"):
        known = {name, "mrl", "numpy", "ml_dtypes"} | ({"triton"} if name == "torch" else set())
        foreign = imported(path) - set(sys.stdlib_module_names) - known
        assert not foreign, (path, foreign)


ADAPTERS = {
    "torch": {"torch"},
    "flax": {"flax", "jax"},
    "keras": {"keras", "tensorflow"},  # which it asks for the replicas of tf.distribute
    "sklearn": {"sklearn", "scipy"},
    "faiss": {"faiss"},
    "qdrant": {"qdrant_client"},
    "heads": set(),
    "gradients": {"torch", "jax", "tensorflow"},
}


@pytest.mark.parametrize("name", ADAPTERS)
def test_an_adapter_knows_its_ecosystem_and_mrl(name: str) -> None:
    paths = modules(f"adapters/{name}") or [ROOT / "adapters" / f"{name}.py"]
    foreign = set[str]().union(*map(imported, paths)) - set(sys.stdlib_module_names) - {"mrl", "numpy"}
    assert foreign == ADAPTERS[name]


def test_a_classifier_of_scikit_learn_needs_no_framework() -> None:
    look = LOOK.replace(repr(HEAVY), repr(HEAVY[:5]))
    done = run("from mrl.adapters.sklearn import MatryoshkaClassifier as M; M().fit([[1], [2]], [0, 1])" + look)
    assert done.returncode == 0, done.stderr


def test_the_core_imports_no_framework_but_through_dispatch() -> None:
    for path in modules("mrl"):
        if path.relative_to(ROOT / "mrl").parts[0] not in ("testing", "demo"):
            assert not imported(path) & {"torch", "jax", "tensorflow", "keras"}, path


def test_an_uninstalled_tree_explains_itself(tmp_path: Path) -> None:
    """mrl without mrl.backends is what a source tree looks like to Python."""
    tree = tmp_path / "tree"
    tree.mkdir()
    (tree / "mrl").symlink_to(ROOT / "mrl")
    code = f"""
import sys
sys.meta_path[:] = [f for f in sys.meta_path if "editable" not in getattr(f, "__module__", "") + str(f)]
sys.path.insert(0, {str(tree)!r})
import numpy as np, mrl
assert mrl.__file__.startswith({str(tree)!r})
mrl.truncate(np.ones((1, 2)), 1)
"""
    done = run(code)
    assert "ImportError: mrl.backends cannot be found: mrl is imported from a source tree" in done.stderr
    assert "pip install -e ." in done.stderr
