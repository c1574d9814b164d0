"""Rows of a batch on several devices, in processes that have them: as one device gives it."""

import os
import socket
import subprocess
import sys
import tempfile

import pytest

PLACED = """
import jax, numpy as np, mrl
from jax.sharding import NamedSharding, PartitionSpec as P
assert len(jax.devices()) == 2
use_mesh = getattr(jax, "set_mesh", None) or jax.sharding.use_mesh  # as it is called before 0.8
rng = np.random.default_rng(0)
nesting = mrl.Nesting((2, 4))
z, w, y = rng.normal(size=(8, 4)).astype("float32"), rng.normal(size=(3, 4)).astype("float32"), rng.integers(0, 3, 8)
for kind in (jax.sharding.AxisType.Auto, jax.sharding.AxisType.Explicit):
    mesh = jax.make_mesh((2,), ("data",), axis_types=(kind,))
    rows, whole = NamedSharding(mesh, P("data")), NamedSharding(mesh, P())
    shared = jax.device_put(z, rows), jax.device_put(w, whole), jax.device_put(y, rows)
    for options in ({}, {"chunk_rows": 3}, {"fused": False}):
        f = lambda z, w, y: mrl.nested_cross_entropy(z, mrl.TiedHead(w), y, nesting, **options).total
        g = jax.value_and_grad(f, argnums=(0, 1))
        plain = g(*map(jax.numpy.asarray, (z, w, y)))
        with use_mesh(mesh):
            for run in (g, jax.jit(g)):
                for a, b in zip(jax.tree.leaves(plain), jax.tree.leaves(run(*shared))):
                    np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)
    columns = NamedSharding(mesh, P(None, "data"))
    tokens, marks = jax.device_put(z.reshape(2, 4, 4), columns), jax.device_put(y.reshape(2, 4), columns)
    with use_mesh(mesh):
        g = jax.grad(lambda z: mrl.nested_cross_entropy(z, mrl.TiedHead(shared[1]), marks, nesting).total)
        np.testing.assert_allclose(np.asarray(g(tokens)).reshape(8, 4), plain[1][0], rtol=1e-5, atol=1e-6)
    assert mrl.nested_logits(*shared[:1], mrl.TiedHead(shared[1]), nesting).shape == (2, 8, 3)
    assert mrl.truncate(shared[0], 2).sharding.is_equivalent_to(rows, 2)
"""

MAPPED = """
import jax, numpy as np, mrl
from jax.sharding import PartitionSpec as P
assert len(jax.devices()) == 2
rng = np.random.default_rng(0)
nesting = mrl.Nesting((2, 4))
z, w, y = rng.normal(size=(8, 4)).astype("float32"), rng.normal(size=(3, 4)).astype("float32"), rng.integers(0, 3, 8)
mesh = jax.make_mesh((2,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
for tied in (True, False):
    head = mrl.TiedHead(w) if tied else mrl.NestedHead((w[:, :2], w))
    for options in ({}, {"chunk_rows": 3}, {"reduction": "none"}, {"fused": False}):
        def loss(z, head, y):
            return mrl.nested_cross_entropy(z, head, y, nesting, **options).total.mean()
        def shared(z, head, y):
            rows = P("data")
            share = lambda z, head, y: jax.lax.pmean(loss(z, head, y), "data")
            return jax.shard_map(share, mesh=mesh, in_specs=(rows, P(), rows), out_specs=P())(z, head, y)
        expected = jax.value_and_grad(loss, argnums=(0, 1))(*jax.tree.map(jax.numpy.asarray, (z, head, y)))
        found = jax.jit(jax.value_and_grad(shared, argnums=(0, 1)))(*jax.tree.map(jax.numpy.asarray, (z, head, y)))
        for a, b in zip(jax.tree.leaves(expected), jax.tree.leaves(found)):
            np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)
"""

CASCADES = """
import jax, numpy as np, mrl
from jax.sharding import NamedSharding, PartitionSpec as P
from mrl import spec
from mrl.cascade import planning
assert len(jax.devices()) == 2
use_mesh = getattr(jax, "set_mesh", None) or jax.sharding.use_mesh  # as it is called before 0.8
rng = np.random.default_rng(0)
policy = mrl.CascadePolicy((0.5, 0.7), (2, 3, 4))
tied = mrl.TiedHead(*(rng.normal(size=size).astype("float32") for size in ((6, 4), 6)))
nested = mrl.NestedHead(tuple(rng.normal(size=(6, m)).astype("float32") for m in policy.dims))
for kind in (jax.sharding.AxisType.Auto, jax.sharding.AxisType.Explicit):
    mesh = jax.make_mesh((2,), ("data",), axis_types=(kind,))
    for shape, store, head, axis, chunk_rows in (
        ((16, 4), 1, tied, None, 3),  # a chunk a wave
        ((4, 3, 4), 1 << 20, tied, "data", None),
        ((16, 4), 1 << 20, nested, None, 3),
    ):
        planning.STORE_BYTES = store
        z = rng.normal(size=shape).astype("float32")
        whole = jax.device_put(z, NamedSharding(mesh, P("data")))
        shared = jax.device_put(head, NamedSharding(mesh, P(axis)))
        predict = lambda z, head: mrl.cascade_predict(z, head, policy, chunk_rows=chunk_rows)
        split = jax.shard_map(predict, mesh=mesh, in_specs=(P("data"), P()), out_specs=P("data"))
        with use_mesh(mesh):
            results = [run(whole, shared) for run in [predict, jax.jit(predict)] + ([] if axis else [split])]
        for result in [*results, predict(whole, shared)]:
            for found, wanted in zip(result, spec.cascade_predict(z, head, policy)):
                assert found.shape == shape[:-1]
                np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-6)
        if kind == jax.sharding.AxisType.Explicit:
            assert all(x.sharding.is_equivalent_to(whole.sharding, z.ndim - 1) for x in results[0])
"""


SEARCHES = """
import jax, jax.numpy as jnp, numpy as np, mrl
from jax.sharding import NamedSharding, PartitionSpec as P
from mrl import spec
assert len(jax.devices()) == 2
use_mesh = getattr(jax, "set_mesh", None) or jax.sharding.use_mesh  # as it is called before 0.8
rng = np.random.default_rng(0)
funnel = lambda q, x: mrl.funnel_search(q, x, dims=(4, 8), shortlists=(200, 5))
for count in (600, 20_000):  # tiles that keep their scores, and blocks
    queries, rows = (rng.normal(size=(n, 8)).astype("float32") for n in (6, count))
    rows[: count // 2] = rows[count // 2 :]  # all of the first half's scores are the second's
    expected = spec.funnel_search(queries, rows, dims=(4, 8), shortlists=(200, 5))
    def split(q, x):  # each device searches its rows, and the best of both are in order of device and index
        found = mrl.search(q, x, k=5)
        scores, indices = jax.lax.all_gather((found.scores, found.indices), "data", axis=1, tiled=True)
        indices = indices + jnp.repeat(jnp.arange(2), 5) * len(x)
        scores, order = jax.lax.top_k(scores, 5)
        return scores, jnp.take_along_axis(indices, order, 1)
    for kind in (jax.sharding.AxisType.Auto, jax.sharding.AxisType.Explicit):
        mesh = jax.make_mesh((2,), ("data",), axis_types=(kind,))
        some, whole = NamedSharding(mesh, P("data")), NamedSharding(mesh, P())
        q, x = jax.device_put(queries, some), jax.device_put(rows, whole)
        share = jax.shard_map(funnel, mesh=mesh, in_specs=(P("data"), P()), out_specs=P("data"))
        runs = [funnel, jax.jit(funnel), jax.jit(share)]
        if kind == jax.sharding.AxisType.Auto:  # where the compiler may move rows to where they are gathered
            runs.append(lambda q, x: jax.jit(funnel)(q, jax.device_put(x, some)))
        with use_mesh(mesh):
            for run in runs:
                np.testing.assert_array_equal(run(q, x).indices, expected.indices)
            parts = jax.shard_map(split, mesh=mesh, in_specs=(P(), P("data")), out_specs=P(), check_vma=False)
            found = parts(jax.device_put(queries, whole), jax.device_put(rows, some))
        np.testing.assert_array_equal(found[1], spec.search(queries, rows, k=5).indices)
"""


WORK = """
import re, jax, jax.numpy as jnp, numpy as np, mrl
from jax.sharding import NamedSharding, PartitionSpec as P
assert len(jax.devices()) == 8
use_mesh = getattr(jax, "set_mesh", None) or jax.sharding.use_mesh  # as it is called before 0.8
rng = np.random.default_rng(0)
nesting, rows, classes = mrl.Nesting.doubling(8, 64), 16384, 1000
z, w, b = (rng.normal(size=s).astype("float32") / 8 for s in ((rows, 64), (classes, 64), (classes,)))
y = rng.integers(0, classes, rows).astype("int32")

def loss(z, w, b, y):
    return mrl.nested_cross_entropy(z, mrl.TiedHead(w, b), y, nesting, ignore_index=0).total

def read(text):
    moved = re.findall(r"= (.*) (all-reduce|all-gather|all-to-all|collective-permute)(?:-start)?\\(", text)
    trips = [int(n) for n in re.findall(r'known_trip_count":\\{"n":"(\\d+)"', text)]
    return moved, trips

run = jax.jit(jax.value_and_grad(loss, argnums=(0, 1, 2)))
alone = run.lower(*map(jnp.asarray, (z, w, b, y))).compile()
expected, (moved, (trips,)) = alone(*map(jnp.asarray, (z, w, b, y))), read(alone.as_text())
assert not moved and trips > 8
for kind in (jax.sharding.AxisType.Auto, jax.sharding.AxisType.Explicit):
    mesh = jax.make_mesh((8,), ("data",), axis_types=(kind,))
    split, whole = NamedSharding(mesh, P("data")), NamedSharding(mesh, P())
    placed = [jax.device_put(x, s) for x, s in zip((z, w, b, y), (split, whole, whole, split))]
    with use_mesh(mesh) if kind == jax.sharding.AxisType.Explicit else jax.numpy_dtype_promotion("standard"):
        compiled = run.lower(*placed).compile()
    moved, shared_trips = read(compiled.as_text())
    assert {name for _, name in moved} == {"all-reduce"}, moved
    moved = " ".join(shapes for shapes, _ in moved)
    assert [moved.count(f"f32[{s}]") for s in ("1000,64", "1000", "16384")] == [1, 1, 0], moved
    assert shared_trips == [trips // 8], (shared_trips, trips)
    found = compiled(*placed)
    assert found[1][0].sharding.is_equivalent_to(split, 2)
    for a, e in zip(jax.tree.leaves(found), jax.tree.leaves(expected)):
        np.testing.assert_allclose(a, e, rtol=1e-5, atol=1e-6)
"""

CLASSES = """
import re, jax, mrl
from jax.sharding import NamedSharding, PartitionSpec as P
nesting = mrl.Nesting.doubling(8, 64)

def loss(z, w, y):
    return mrl.nested_cross_entropy(z, mrl.TiedHead(w), y, nesting).total

mesh = jax.make_mesh((2, 4), ("data", "classes"), axis_types=(jax.sharding.AxisType.Auto,) * 2)
for rows in (64, 32768):
    shapes = ((rows, 64), "float32", "data"), ((1024, 64), "float32", "classes"), ((rows,), "int32", "data")
    given = [jax.ShapeDtypeStruct(s, d, sharding=NamedSharding(mesh, P(axis))) for s, d, axis in shapes]
    compiled = jax.jit(jax.value_and_grad(loss, argnums=(0, 1))).lower(*given).compile()
    assert not re.findall("all-(?:gather|to-all).*|collective-permute.*", compiled.as_text())
    assert compiled.output_shardings[1][1].spec == P("classes")
"""


@pytest.mark.parametrize("script", [WORK, CLASSES], ids=["rows", "classes"])
def test_each_of_eight_devices_does_its_part_of_the_work(backend_jax: None, script: str) -> None:
    environment = {**os.environ, "XLA_FLAGS": "--xla_force_host_platform_device_count=8", "JAX_PLATFORMS": "cpu"}
    done = subprocess.run(
        [sys.executable, "-c", script], env=environment, cwd=tempfile.gettempdir(), capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    "script", [PLACED, MAPPED, CASCADES, SEARCHES], ids=["sharded arrays", "shard_map", "cascades", "searches"]
)
def test_rows_on_two_devices(backend_jax: None, script: str) -> None:
    environment = {**os.environ, "XLA_FLAGS": "--xla_force_host_platform_device_count=2", "JAX_PLATFORMS": "cpu"}
    done = subprocess.run(
        [sys.executable, "-c", script], env=environment, cwd=tempfile.gettempdir(), capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr


PROCESSES = """
import sys, jax, numpy as np, mrl
from jax.sharding import NamedSharding, PartitionSpec as P
jax.config.update("jax_cpu_collectives_implementation", "gloo")
jax.distributed.initialize(f"localhost:{sys.argv[2]}", 2, int(sys.argv[1]))
mesh, nesting = jax.make_mesh((2,), ("data",)), mrl.Nesting((2, 4))
rng = np.random.default_rng(0)
arrays = rng.normal(size=(8, 4)).astype("float32"), rng.normal(size=(3, 4)).astype("float32"), rng.integers(0, 3, 8)
def spread(x, spec):
    return jax.make_array_from_callback(x.shape, NamedSharding(mesh, spec), lambda index: x[index])
z, w, y = map(spread, arrays, (P("data"), P(), P("data")))
total = mrl.nested_cross_entropy(z, mrl.TiedHead(w), y, nesting).total
expected = mrl.nested_cross_entropy(arrays[0], mrl.TiedHead(arrays[1]), arrays[2], nesting).total
np.testing.assert_allclose(total, expected, rtol=1e-5)
p = spread(np.full((2, 8, 4), 0.25, "float32"), P(None, "data"))
assert mrl.cascade_exit(p, mrl.CascadePolicy((0.5,), (2, 4))).labels.shape == (8,)
"""


def test_labels_spread_over_processes_are_not_looked_at(backend_jax: None) -> None:
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = str(free.getsockname()[1])
    environment = {**os.environ, "XLA_FLAGS": "--xla_force_host_platform_device_count=1", "JAX_PLATFORMS": "cpu"}
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", PROCESSES, str(index), port],
            env=environment,
            cwd=tempfile.gettempdir(),
            stderr=subprocess.PIPE,
            text=True,
        )
        for index in range(2)
    ]
    try:
        for process in processes:
            _, printed = process.communicate(timeout=300)
            assert process.returncode == 0, printed
    finally:
        for process in processes:
            process.kill()
