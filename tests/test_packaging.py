"""One distribution whose package list, files and stated versions agree with the tree."""

import inspect
import tomllib
from importlib import import_module, metadata
from pathlib import Path

import pytest

import mrl
from mrl.protocol import FURTHER_KERNELS, KERNELS, KEYED_KERNELS, SHARDING_KERNELS, Backend

ROOT = Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
FILES = ["arrays", "best", "cascade", "contrastive", "losses", "retrieval", "scores"]
FURTHER_FILES = [
    "across",
    "contrastive_fused",
    "contrastive_sides",
    "contrastive_sweep",
    "fused",
    "gradients",
    "once",
    "sweep",
    "targets",
]


def test_every_package_of_the_tree_is_listed() -> None:
    found = [path.parent.relative_to(ROOT).as_posix().replace("/", ".") for path in (ROOT / "mrl").rglob("__init__.py")]
    for folder in ("backends", "adapters"):
        for path in (ROOT / folder).rglob("__init__.py"):
            found.append("mrl." + path.parent.relative_to(ROOT).as_posix().replace("/", "."))
    assert sorted(PROJECT["tool"]["setuptools"]["packages"]) == sorted(found)


FRAMEWORKS = ("torch", "jax", "tensorflow")


def test_every_listed_package_is_installed() -> None:
    for name in PROJECT["tool"]["setuptools"]["packages"]:
        if name.rpartition(".")[2] not in (*FRAMEWORKS, "keras", "sentence_transformers", "testing"):
            import_module(name)


def test_versions_agree() -> None:
    assert mrl.__version__ == PROJECT["project"]["version"] == metadata.version("mrl")
    assert f"## {mrl.__version__}" in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")


def test_the_pinned_versions_are_in_the_stated_ranges() -> None:
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pins = dict(line.split("==") for line in lines if not line.startswith("#"))
    extras = PROJECT["project"]["optional-dependencies"]
    for requirement in [*extras["torch"], *extras["jax"], *extras["tensorflow"], *PROJECT["project"]["dependencies"]]:
        name, _, lowest = requirement.partition(">=")
        if name == "ml_dtypes":
            continue
        assert [int(part) for part in pins[name].split(".")] >= [int(part) for part in lowest.split(".")]


def test_types_are_published() -> None:
    assert (Path(mrl.__file__).parent / "py.typed").exists()


def test_backends_have_the_functions_and_signatures_of_the_protocol(backend_name: str) -> None:
    backend = import_module(f"mrl.backends.{backend_name}")
    kernels = {*KERNELS, *FURTHER_KERNELS, *(KEYED_KERNELS if backend_name == "jax" else ())}
    kernels |= set(SHARDING_KERNELS if backend_name == "torch" else ())
    if backend_name in ("numpy", "torch"):  # which take no arrays but their own
        kernels -= {"take_numpy"}
    if backend_name == "numpy":  # which differentiates nothing
        kernels -= {"value_and_gradients"}
    assert sorted(backend.__all__) == sorted(kernels)
    for kernel in kernels:
        wanted = list(inspect.signature(getattr(Backend, kernel)).parameters.values())[1:]
        found = list(inspect.signature(getattr(backend, kernel)).parameters.values())
        assert [(p.name, p.kind, p.default) for p in found] == [(p.name, p.kind, p.default) for p in wanted], kernel


@pytest.mark.parametrize("name", ["numpy", "torch", "jax", "tensorflow"])
def test_backends_have_the_same_files(name: str) -> None:
    """Read side by side. NumPy differentiates by its specification and needs none of the fused files."""
    further = [] if name == "numpy" else FURTHER_FILES
    if name == "torch":
        # XLA makes such kernels for the others, and multiplies halves into float32 with a derivative of its own.
        # What XLA shards by itself, PyTorch's loss does by hand.
        further = [*further, "products", "sharded", "triton_residuals"]
    if name == "jax":
        further = [*further, "exporting"]  # JAX wants to be told the names of types
    assert sorted(path.stem for path in (ROOT / "backends" / name).glob("[a-z]*.py")) == sorted([*FILES, *further])


WITHOUT_SOURCE = (
    "BackendInfo",
    "Interval",
    "SavedHead",
    "available_backends",
    "convert",
    "load_database",
    "load_head",
    "load_transform",
    "map_array",
    "register",
    "save_database",
    "save_head",
    "save_transform",
)  # nothing that anybody published
PUBLIC = [getattr(mrl, name) for name in mrl.__all__] + [getattr(mrl.spec, name) for name in mrl.spec.__all__]


@pytest.mark.parametrize("public", [x for x in PUBLIC if callable(x)], ids=lambda x: f"{x.__module__}.{x.__name__}")
def test_public_names_are_documented(public) -> None:
    text = inspect.getdoc(public)
    sections = ["Example:", ">>>"] + ["Source:"] * (public.__name__ not in WITHOUT_SOURCE)
    if inspect.isclass(public):
        assert "Args:" in text or "Attributes:" in text
    else:
        sections += ["Args:"] if inspect.signature(public).parameters else []
        sections += ["Returns:"] if public.__module__.startswith("mrl.spec") else ["Returns:", "Raises:"]
    assert not [section for section in sections if section not in text]
