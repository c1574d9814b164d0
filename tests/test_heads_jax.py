"""Heads in JAX: made from a key, under transforms, and in functions that are written to files."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import mrl

NESTING = mrl.Nesting((2, 4))


@pytest.fixture(autouse=True)
def _jax(backend_jax: None) -> None:
    pass


def make(key, tied=True, dtype="float32"):
    return mrl.init_head(NESTING, 50, tied=tied, backend="jax", key=key, dtype=dtype)


@pytest.mark.parametrize("tied", [True, False])
def test_a_key_makes_a_head_as_a_seed_does(tied: bool) -> None:
    import jax

    head, again, other = (make(jax.random.key(i), tied, "bfloat16") for i in (0, 0, 1))
    like = mrl.init_head(NESTING, 50, tied=tied, backend="jax", seed=0, dtype="bfloat16")
    drawn = jax.tree.leaves(head)
    assert jax.tree.structure(head) == jax.tree.structure(like)
    for a, b, c, d in zip(drawn, *map(jax.tree.leaves, (again, other, like)), strict=True):
        assert (a.shape, a.dtype) == (d.shape, d.dtype)
        np.testing.assert_array_equal(a, b)
        assert (a != c).any()
        bound = np.abs(np.asarray(a, float)).max() * (2**0.5 if a.shape[-1] == 2 or (not tied and a is drawn[2]) else 2)
        assert 0.8 < bound < 1.01
    assert len({np.asarray(x, float).flat[0] for x in drawn}) == len(drawn)


def test_every_member_of_an_ensemble_has_a_head_of_its_own() -> None:
    import jax

    heads = jax.jit(jax.vmap(make))(jax.random.split(jax.random.key(0), 3))
    assert heads.weight.shape == (3, 50, 4)
    assert len({float(x) for x in heads.weight[:, 0, 0]}) == 3


def test_a_seed_or_a_key() -> None:
    import jax

    key = jax.random.key(0)
    for arguments, message in (
        ({"backend": "jax", "seed": 0, "key": key}, "key: expected a seed or a key, got both"),
        ({"backend": "numpy", "key": key}, "key: expected None for numpy, .*pass seed=, or backend='jax'"),
        ({"backend": "jax"}, "seed: expected an integer"),
    ):
        with pytest.raises(TypeError, match=message):
            mrl.init_head(NESTING, 3, tied=True, **arguments)


WRITE = """
import sys, jax, mrl
nesting, policy = mrl.Nesting((2, 4)), mrl.CascadePolicy((0.5,), (2, 4))
head = mrl.init_head(nesting, 3, tied=sys.argv[2] == "tied", backend="jax", seed=0)
def run(z, head, labels):
    loss = mrl.nested_cross_entropy(z, head, labels, nesting)
    return head, loss, mrl.cascade_predict(z, head, policy)
given = jax.ShapeDtypeStruct((5, 4), "float32"), head, jax.ShapeDtypeStruct((5,), "int32")
open(sys.argv[1], "wb").write(jax.export.export(jax.jit(run))(*given).serialize())
"""

READ = """
import sys, jax, numpy as np, mrl, mrl.backends.jax
nesting, policy = mrl.Nesting((2, 4)), mrl.CascadePolicy((0.5,), (2, 4))
head = mrl.init_head(nesting, 3, tied=sys.argv[2] == "tied", backend="jax", seed=0)
z, labels = jax.numpy.ones((5, 4)), jax.numpy.zeros(5, "int32")
found = jax.export.deserialize(open(sys.argv[1], "rb").read()).call(z, head, labels)
expected = head, mrl.nested_cross_entropy(z, head, labels, nesting), mrl.cascade_predict(z, head, policy)
assert jax.tree.structure(found) == jax.tree.structure(expected)
jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6), found, expected)
"""


@pytest.mark.parametrize("kind", ["tied", "untied"])
def test_heads_and_results_are_in_files_of_jax(kind: str, tmp_path: Path) -> None:
    for script in (WRITE, READ):
        arguments = [sys.executable, "-c", script, str(tmp_path / "loss"), kind]
        done = subprocess.run(arguments, env=dict(os.environ), cwd=tmp_path, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr


def test_names_that_the_user_has_given_already_are_left_alone(tmp_path: Path) -> None:
    script = """
import jax, mrl
jax.export.register_namedtuple_serialization(mrl.TiedHead, serialized_name="mine")
import mrl.backends.jax
"""
    done = subprocess.run([sys.executable, "-c", script], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
