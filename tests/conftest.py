"""The backends under test, chosen on the command line, and Hypothesis' profiles."""

import os
import sys
from contextlib import suppress
from importlib import import_module

import numpy as np
import pytest
from hypothesis import HealthCheck, settings

from mrl.testing.drivers import driver_of

with suppress(ImportError):  # it comes with PyTorch for CUDA; imported after TensorFlow, it ends the process
    import triton  # noqa: F401

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

BACKENDS = ("numpy", "torch", "jax", "tensorflow")

CHECKS = list(HealthCheck)
settings.register_profile("ci", deadline=None, max_examples=25, database=None, suppress_health_check=CHECKS)
settings.register_profile("long", deadline=None, max_examples=500, database=None, suppress_health_check=CHECKS)


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("mrl")
    group.addoption(
        "--backend",
        action="append",
        choices=BACKENDS,
        help="test this backend only; repeat for more (default: all four)",
    )
    group.addoption("--x64", choices=("on", "off"), default="on", help="JAX with 64-bit numbers (default: on)")
    group.addoption(
        "--triton",
        action="store_true",
        help="test the Triton kernel too: it must be installed, and crashes where TensorFlow is loaded before it",
    )
    group.addoption(
        "--strict-settings",
        action="store_true",
        help="with NumPy set to raise on underflow and the like, and JAX where ranks differ, as careful users set them",
    )
    group.addoption(
        "--profile",
        choices=("ci", "long"),
        default="ci",
        help="Hypothesis' profile (default: ci, with the examples of --hypothesis-seed=0 where no other is given)",
    )


def chosen(config: pytest.Config) -> tuple[str, ...]:
    return tuple(config.getoption("--backend") or BACKENDS)


def frameworks(config: pytest.Config) -> tuple[str, ...]:
    """The backends that can train."""
    return tuple(name for name in chosen(config) if name != "numpy")


@pytest.hookimpl(tryfirst=True)  # before Hypothesis reads its seed
def pytest_configure(config: pytest.Config) -> None:
    settings.load_profile(config.getoption("--profile"))
    if config.getoption("--profile") == "ci" and config.getoption("--hypothesis-seed") is None:
        config.option.hypothesis_seed = "0"
    for name in chosen(config):
        try:
            import_module(name)
        except ImportError as error:  # a backend that was asked for and is missing fails, it is not skipped
            raise pytest.UsageError(
                f"--backend: {name} cannot be imported ({error}); install it, or name the ones to test"
            ) from error
    if "jax" in chosen(config):
        sys.modules["jax"].config.update("jax_enable_x64", config.getoption("--x64") == "on")
    if config.getoption("--strict-settings"):
        np.seterr(all="raise")
        if "jax" in chosen(config):
            sys.modules["jax"].config.update("jax_numpy_rank_promotion", "raise")
    if "tensorflow" in chosen(config):
        sys.modules["tensorflow"].get_logger().setLevel("ERROR")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "backend_name" in metafunc.fixturenames:
        metafunc.parametrize("backend_name", chosen(metafunc.config))
    if "framework_name" in metafunc.fixturenames:
        metafunc.parametrize("framework_name", frameworks(metafunc.config))


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out what needs a backend that was not asked for; pytest reports how many."""
    left_out = {f"backend_{name}" for name in BACKENDS if name not in chosen(config)}
    if not frameworks(config):
        left_out.add("framework_name")
    if not config.getoption("--triton"):
        left_out.add("triton_wheel")
    needed = {"backend_name", "framework_name", "backend_jax"} if config.getoption("--x64") == "off" else set()
    keep, drop = [], []
    for item in items:
        asked = set(getattr(item, "fixturenames", ()))
        # Without 64-bit numbers nothing is different but in JAX.
        (drop if left_out & asked or (needed and not needed & asked) else keep).append(item)
    config.hook.pytest_deselected(items=drop)
    items[:] = keep


def pytest_sessionfinish(session: pytest.Session) -> None:
    """``backends`` beside ``mrl.backends`` would be a second copy of every module."""
    for name in ("backends", "adapters"):
        if name in sys.modules:
            raise pytest.UsageError(f"{name} was imported as a top-level package; import mrl.{name}")


@pytest.fixture
def random_seed(request: pytest.FixtureRequest) -> int | None:
    """Of the problems of a proof, as ``--hypothesis-seed`` says."""
    given = request.config.getoption("--hypothesis-seed")
    return int(given) if given and given.isdecimal() else None


@pytest.fixture
def backend_torch() -> None:
    """For tests that need PyTorch."""


@pytest.fixture
def backend_jax() -> None:
    """For tests that need JAX."""


@pytest.fixture
def backend_tensorflow() -> None:
    """For tests that need TensorFlow."""


@pytest.fixture
def triton_wheel() -> None:
    """For tests that need Triton."""


@pytest.fixture
def widest_bits(backend_name: str) -> int:
    """Of the numbers that the backend takes as they are, and does not refuse."""
    return 64 if "float64" in driver_of(backend_name).dtypes else 32
