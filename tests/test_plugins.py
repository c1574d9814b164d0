"""Backends from other distributions: installed by pip, found, proved and used; and broken ones that say so."""

import os
import subprocess
import sys
import zipfile
from importlib.util import find_spec
from pathlib import Path

import pytest

PLUGINS = Path(__file__).parent / "plugins"
ARRAYS = (PLUGINS / "toyarrays.py").read_text(encoding="utf-8")
KERNELS = (PLUGINS / "toyarrays_mrl.py").read_text(encoding="utf-8")


COATS = {name: (PLUGINS / f"{name}.py").read_text(encoding="utf-8") for name in ("coats", "coats_mrl")}
MLX = (PLUGINS / "mlx_mrl.py").read_text(encoding="utf-8")


def install(folder: Path, modules: dict[str, str], entry: str = "toyarrays = toyarrays_mrl") -> Path:
    """What pip makes of a wheel of these modules with this entry point."""
    wheel, info = folder / "toyarrays-1.0-py3-none-any.whl", "toyarrays-1.0.dist-info"
    with zipfile.ZipFile(wheel, "w") as file:
        for name, code in modules.items():
            file.writestr(f"{name}.py", code)
        file.writestr(f"{info}/METADATA", "Metadata-Version: 2.1\nName: toyarrays\nVersion: 1.0\n")
        file.writestr(
            f"{info}/WHEEL", "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        file.writestr(f"{info}/entry_points.txt", f"[mrl.backends]\n{entry}\n")
        file.writestr(f"{info}/RECORD", "")
    site = folder / "site"
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index", "--target", str(site)]
    subprocess.run([*pip, str(wheel)], check=True, capture_output=True)
    return site


def run(site: Path, code: str) -> subprocess.CompletedProcess[str]:
    env = {**os.environ, "PYTHONPATH": str(site)}
    return subprocess.run([sys.executable, "-c", code], env=env, cwd=site, capture_output=True, text=True)


USE = """
import sys
import numpy as np, toyarrays, mrl
assert "toyarrays_mrl" not in sys.modules
z = toyarrays.ToyArray(np.array([[3.0, 4.0, 1.0]], np.float32))
out = mrl.truncate(z, 2)
assert type(out) is toyarrays.ToyArray and np.allclose(out.values, [[0.6, 0.8]])
head = mrl.init_head(mrl.Nesting((1, 3)), 2, tied=True, backend="toyarrays", seed=0)
loss = mrl.nested_cross_entropy(z, head, toyarrays.ToyArray([1]), mrl.Nesting((1, 3)))
back = mrl.convert((z, head), "numpy")
same = mrl.nested_cross_entropy(*back, np.array([1]), mrl.Nesting((1, 3)))
assert np.allclose(loss.total.values, same.total), (loss, same)
assert [b.name for b in mrl.available_backends()][-1] == "toyarrays"
for bad, text in (([2], "got 2 at position 0"), ([0, 1], "expected shape (1,)")):
    try:
        mrl.nested_cross_entropy(z, head, toyarrays.ToyArray(bad), mrl.Nesting((1, 3)))
    except ValueError as error:
        assert text in str(error), error
    else:
        raise AssertionError(text)
try:
    mrl.nested_logits(z, back[1], mrl.Nesting((1, 3)))
except TypeError as error:
    assert "z: toyarrays.ToyArray" in str(error) and "head.weight: numpy.ndarray" in str(error), error
else:
    raise AssertionError("two frameworks in one call")
"""


def test_a_plug_in_is_found_and_used(tmp_path: Path) -> None:
    site = install(tmp_path, {"toyarrays": ARRAYS, "toyarrays_mrl": KERNELS})
    done = run(site, USE)
    assert done.returncode == 0, done.stderr


VERIFY = """
from mrl.cli import main
raise SystemExit(main(["verify", "--backend=toyarrays", "--examples=25", "--seed=0"]))
"""


def test_a_right_plug_in_is_proved(tmp_path: Path) -> None:
    done = run(install(tmp_path, {"toyarrays": ARRAYS, "toyarrays_mrl": KERNELS}), VERIFY)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "every mutant was found out" in done.stdout


@pytest.mark.parametrize(
    ("right", "wrong"),
    [
        ("head.weight.values[:, :m]", "np.roll(head.weight.values, 1, -1)[:, :m]"),
        ("z.values[..., :m].astype(wide) @ weight", "z.values[..., :m].astype(np.float16).astype(wide) @ weight"),
        ("total + w * scale", "total + scale"),
        ("divisor = counted.sum()", "divisor = used.size"),
        ("norm <= 1e-12, 0", "norm <= 1e-6, 0"),
    ],
    ids=["another slice", "half precision", "no weights", "mean over ignored rows", "another smallest norm"],
)
def test_a_wrong_plug_in_is_found_out(tmp_path: Path, right: str, wrong: str) -> None:
    assert right in KERNELS
    site = install(tmp_path, {"toyarrays": ARRAYS, "toyarrays_mrl": KERNELS.replace(right, wrong)})
    done = run(site, VERIFY)
    assert done.returncode == 1, done.stdout + done.stderr
    assert "times its error bound away from the specification" in done.stdout


CALL = "import numpy as np, toyarrays, mrl; mrl.truncate(toyarrays.ToyArray(np.ones((1, 2))), 1)"


@pytest.mark.parametrize(
    ("modules", "message"),
    [
        ({}, "backend 'toyarrays' of the distribution 'toyarrays' (toyarrays_mrl) cannot be imported: ModuleNotFound"),
        ({"toyarrays_mrl": "1 / 0"}, "cannot be imported: ZeroDivisionError: division by zero; repair or uninstall"),
        ({"toyarrays_mrl": "def truncate(z): ..."}, "lacks nested_logits, nested_cross_entropy, from_numpy, to_numpy"),
    ],
    ids=["no module", "raises", "lacks kernels"],
)
def test_a_broken_plug_in_says_so(tmp_path: Path, modules: dict[str, str], message: str) -> None:
    site = install(tmp_path, {"toyarrays": ARRAYS, **modules})
    done = run(site, CALL)
    assert "ImportError" in done.stderr
    assert message in done.stderr
    # What does not touch its arrays is not harmed.
    assert run(site, "import numpy as np, mrl; mrl.truncate(np.ones((1, 2)), 1)").returncode == 0
    listed = run(site, "import mrl; mrl.available_backends()")
    assert "ImportError" in listed.stderr
    assert message in listed.stderr


def test_what_a_plug_in_lacks_is_named_when_it_is_asked_for(tmp_path: Path) -> None:
    site = install(tmp_path, {"toyarrays": ARRAYS, "toyarrays_mrl": KERNELS})
    code = CALL.replace("mrl.truncate(toyarrays.ToyArray(np.ones((1, 2))), 1)", "A = toyarrays.ToyArray; ") + (
        "mrl.cascade_predict(A(np.ones((1, 2))), mrl.TiedHead(A(np.ones((3, 2)))), mrl.CascadePolicy((0.5,), (1, 2)))"
    )
    done = run(site, code)
    assert "NotImplementedError: backend 'toyarrays' of the distribution 'toyarrays'" in done.stderr
    assert "lacks cascade_predict; convert the arrays" in done.stderr


PROVE = """
import mrl.testing
for op in ("nested_logits", "nested_cross_entropy"):
    for row in mrl.testing.check_backend("{name}", ops=[op], examples={examples}, random_seed=0):
        assert row.gradients, row
        print(row.op, row.dtype, row.worst <= 1)
"""


def test_a_plug_in_with_a_driver_has_its_gradients_proved(tmp_path: Path, backend_torch: None) -> None:
    site = install(tmp_path, COATS, "coats = coats_mrl")
    done = run(site, PROVE.format(name="coats", examples=12))
    assert done.returncode == 0, done.stdout + done.stderr
    assert "nested_cross_entropy bfloat16 True" in done.stdout and "float16 " not in done.stdout.replace("bfloat16", "")
    code = """
import mrl, mrl.testing, coats, functools
loss = functools.partial(mrl.nested_cross_entropy)
assert mrl.testing.check_loss(loss, backend="coats", gradients=True, examples=5).gradients
"""
    done = run(site, code)
    assert done.returncode == 0, done.stdout + done.stderr


def test_a_plug_in_with_wrong_gradients_is_found_out(tmp_path: Path, backend_torch: None) -> None:
    """Its values are right: without a driver nobody would see."""
    right = "nested_logits = coated(torch.nested_logits)"
    assert right in COATS["coats_mrl"]
    wrong = "nested_logits = lambda z, *others: coated(torch.nested_logits)(Coat(z.tensor.detach()), *others)"
    site = install(tmp_path, {**COATS, "coats_mrl": COATS["coats_mrl"].replace(right, wrong)}, "coats = coats_mrl")
    done = run(site, PROVE.format(name="coats", examples=12))
    assert done.returncode == 1 and "nested_logits on coats (eager, bfloat16): dz is" in done.stderr


def test_a_plug_in_without_a_driver_has_its_values_proved_and_says_so(tmp_path: Path) -> None:
    site = install(tmp_path, {"toyarrays": ARRAYS, "toyarrays_mrl": KERNELS})
    code = """
import mrl, mrl.testing
assert mrl.testing.drivers.driver_of("toyarrays").dtypes == ("float16", "float32", "float64")
row = mrl.testing.check_loss(mrl.nested_cross_entropy, backend="toyarrays", examples=5)
assert row.worst <= 1 and not row.gradients
mrl.testing.check_loss(mrl.nested_cross_entropy, backend="toyarrays", gradients=True)
"""
    done = run(site, code)
    assert "ValueError: gradients: expected a framework that the kit can differentiate, got toyarrays" in done.stderr


@pytest.mark.skipif(find_spec("mlx") is None, reason="MLX is not installed: nox -s plugins installs it")
def test_the_example_of_mlx_is_proved(tmp_path: Path) -> None:
    site = install(tmp_path, {"mlx_mrl": MLX}, "mlx = mlx_mrl")
    done = run(site, PROVE.format(name="mlx", examples=24))
    assert done.returncode == 0, done.stdout + done.stderr
    for dtype in ("float16", "bfloat16", "float32"):
        assert f"nested_cross_entropy {dtype} True" in done.stdout


def test_the_page_shows_the_example_of_mlx_whole() -> None:
    assert MLX in (PLUGINS.parent.parent / "docs" / "proof.md").read_text(encoding="utf-8")
