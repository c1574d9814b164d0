"""Eight devices with a batch together, and one that has it; started by ``test_across_jax.py``."""

import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

import mrl

NESTING = mrl.Nesting((2, 4, 8), weights=(1.0, 0.5, 2.0))
ROWS, WIDTH, IGNORED = 16, 10, -100
use_mesh = getattr(jax, "set_mesh", None) or jax.sharding.use_mesh  # as it is called before 0.8


def batch(dtype="float32"):
    rng = np.random.default_rng(0)
    x, y, others = rng.normal(size=(3, ROWS, WIDTH)).astype(dtype)
    exclude = (rng.random((ROWS, 2 * ROWS)) < 0.2) & ~np.eye(ROWS, 2 * ROWS, dtype=bool)
    parameters = {"w": rng.normal(size=(WIDTH, 8)).astype(dtype), "scale": np.log([0.2, 0.5, 0.3]).astype(dtype)}
    return jax.tree.map(jnp.asarray, (parameters, x, y, others, exclude))


def close(found, expected):
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        assert np.any(np.asarray(b))
        np.testing.assert_allclose(a, b, rtol=2e-4, atol=2e-6)


def contrastive(parameters, x, y, others, exclude, across=None, **options):
    w, temperature = parameters["w"], jnp.exp(parameters["scale"])
    loss = mrl.nested_contrastive(
        x @ w, y @ w, NESTING, negatives=others @ w, exclude=exclude, temperature=temperature, across=across, **options
    )
    return loss.total


def mapped():
    """Inside of shard_map and pmap: losses and gradients, averaged as the engine does it."""
    mesh = jax.make_mesh((8,), ("data",), axis_types=(AxisType.Auto,))
    parameters, *rows = batch()
    both = {"symmetric": True, "fused": False}
    for options in ({}, {"symmetric": True}, {"fused": False}, both, {"reduction": "sum"}, {"chunk_rows": 1}):

        def loss(parameters, *rows, across=None, options=options):
            return contrastive(parameters, *rows, across=across, **options)

        def share(parameters, *rows):
            parameters = jax.tree.map(lambda x: jax.lax.pcast(x, "data", to="varying"), parameters)
            value, gradient = jax.value_and_grad(loss)(parameters, *rows, across="data")
            return jax.lax.pmean((value, gradient), "data")

        expected = jax.value_and_grad(loss)(parameters, *rows)
        run = jax.shard_map(share, mesh=mesh, in_specs=(P(), *[P("data")] * len(rows)), out_specs=P())
        close(jax.jit(run)(parameters, *rows), expected)

    def share(parameters, *rows):
        value, gradient = jax.value_and_grad(contrastive)(parameters, *rows, "data")
        return jax.lax.pmean((value, gradient), "data")

    cut = [x.reshape(8, ROWS // 8, *x.shape[1:]) for x in rows]
    found = jax.pmap(share, "data", in_axes=(None, *[0] * len(rows)))(parameters, *cut)
    close(jax.tree.map(lambda x: x[0], found), jax.value_and_grad(contrastive)(parameters, *rows))


def classified():
    """A joint mean, of uneven numbers of labels in use."""
    mesh = jax.make_mesh((8,), ("data",), axis_types=(AxisType.Auto,))
    rng = np.random.default_rng(1)
    z, head = jnp.asarray(rng.normal(size=(ROWS, 8)), "float32"), jnp.asarray(rng.normal(size=(5, 8)), "float32")
    labels = jnp.asarray(np.where(np.arange(ROWS) % 3 == 0, IGNORED, rng.integers(0, 5, ROWS)))
    weight = jnp.asarray(rng.random(ROWS) * 3, "float32")
    for options in ({}, {"reduction": "sum"}, {"weighted": True}, {"fused": False}):
        given = {name: value for name, value in options.items() if name != "weighted"}

        def loss(head, z, labels, weight, across=None, given=given, weighted="weighted" in options):
            further = {"sample_weight": weight} if weighted else {}
            kept = {"ignore_index": IGNORED, "across": across, **given, **further}
            return mrl.nested_cross_entropy(z, mrl.TiedHead(head), labels, NESTING, **kept).total

        def share(head, *rows):
            head = jax.lax.pcast(head, "data", to="varying")
            return jax.lax.pmean(jax.value_and_grad(loss)(head, *rows, across="data"), "data")

        run = jax.shard_map(share, mesh=mesh, in_specs=(P(), *[P("data")] * 3), out_specs=P())
        close(jax.jit(run)(head, z, labels, weight), jax.value_and_grad(loss)(head, z, labels, weight))


def placed():
    """Under jit, of arrays that lie on many devices: nobody says ``across``."""
    parameters, *rows = batch()
    for kind in (AxisType.Auto, AxisType.Explicit):
        mesh = jax.make_mesh((8,), ("data",), axis_types=(kind,))
        per_row, whole = NamedSharding(mesh, P("data")), NamedSharding(mesh, P())
        for options in ({}, {"symmetric": True, "chunk_rows": 1}, {"chunk_rows": 1}):
            step = jax.value_and_grad(lambda p, *rows, options=options: contrastive(p, *rows, **options))
            expected = step(parameters, *rows)
            with use_mesh(mesh):
                given = jax.device_put(parameters, whole), *(jax.device_put(x, per_row) for x in rows)
                close(jax.jit(step)(*given), expected)


def by_classes():
    """A head sharded by classes: no logits, and no head, are gathered."""
    mesh = jax.make_mesh((8,), ("model",), axis_types=(AxisType.Auto,))
    rng = np.random.default_rng(2)
    z, w = jnp.asarray(rng.normal(size=(32, 8)), "float32"), jnp.asarray(rng.normal(size=(64, 8)), "float32")
    labels = jnp.asarray(rng.integers(0, 64, 32))
    step = jax.jit(jax.value_and_grad(
        lambda z, w: mrl.nested_cross_entropy(z, mrl.TiedHead(w), labels, NESTING).total, argnums=(0, 1)
    ))  # fmt: skip
    expected = step(z, w)
    with use_mesh(mesh):
        shared = jax.device_put(z, NamedSharding(mesh, P())), jax.device_put(w, NamedSharding(mesh, P("model")))
        text = step.lower(*shared).compile().as_text()
        close(step(*shared), expected)
    assert "all-gather" not in text, [line for line in text.splitlines() if "all-gather" in line][:5]
    assert "all-reduce" in text


def refused():
    z = jnp.ones((2, 8))
    for across, message in (("nowhere", "an axis that is mapped here"), (True, "the name of a mapped axis")):
        with pytest.raises((ValueError, TypeError), match=message):
            mrl.nested_contrastive(z, z, NESTING, across=across)


if __name__ == "__main__":
    assert len(jax.devices()) == 8
    {name: globals()[name] for name in ("mapped", "classified", "placed", "by_classes", "refused")}[sys.argv[1]]()
