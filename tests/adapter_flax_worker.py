"""A step on eight devices, mapped or sharded, beside the same step on one; run by ``test_adapter_flax.py``."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P
from mrl.adapters.flax import MatryoshkaHead

import mrl

NESTING = mrl.Nesting((2, 3, 5), weights=(1.0, 0.5, 2.0))
ROWS, WIDTH, CLASSES, IGNORED = 32, 7, 4, -100


class Model(nnx.Module):
    def __init__(self, tied):
        rngs = nnx.Rngs(0)
        self.encoder = nnx.Linear(WIDTH, NESTING.width, rngs=rngs)
        self.head = MatryoshkaHead(NESTING, CLASSES, tied=tied, rngs=rngs)

    def __call__(self, x, labels, **options):
        return self.head(self.encoder(x), labels, **options).total


def batch():
    """Shares of devices have different numbers of labels in use, and one has none."""
    rng = np.random.default_rng(0)
    labels = rng.integers(0, CLASSES, ROWS)
    labels[[0, 1, 4, 8, 20, 21, 22, 23]] = IGNORED
    return jnp.asarray(rng.normal(size=(ROWS, WIDTH)).astype(np.float32)), jnp.asarray(labels)


def loss_of(model, x, labels):
    return model(x, labels, ignore_index=IGNORED)


def share_of(model, x, labels):
    """One device's part of the joint loss: its sum over the count of all."""
    items = jax.lax.psum((labels != IGNORED).sum(), "data")
    return jax.lax.psum(model(x, labels, num_items=items, ignore_index=IGNORED), "data")


@nnx.jit
def predicted(model, x):
    return model.head.predict(model.encoder(x), 3)


def close(found, expected):
    assert jax.tree.structure(found) == jax.tree.structure(expected)
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        assert np.asarray(b).any()
        np.testing.assert_allclose(np.asarray(a), np.asarray(b), rtol=1e-5, atol=1e-6)


def mapped(tied, mesh, expected):
    """The gradient of what is mapped, and what maps a gradient: the sum over devices comes with both."""
    graph, state = nnx.split(Model(tied))
    over = partial(jax.shard_map, mesh=mesh, in_specs=(P(), P("data"), P("data")))

    def share(state, x, labels):
        return share_of(nnx.merge(graph, state), x, labels)

    for run in (jax.value_and_grad(over(share, out_specs=P())), over(jax.value_and_grad(share), out_specs=(P(), P()))):
        close(jax.jit(run)(state, *batch()), expected)
    whole = nnx.jit(nnx.shard_map(share_of, mesh=mesh, in_specs=(P(), P("data"), P("data")), out_specs=P()))
    close(whole(Model(tied), *batch()), expected[0])


def sharded(tied, mesh, expected):
    """Rows on eight devices; the compiler, or the types of arrays, say how the rest lies."""
    model, (x, labels) = Model(tied), jax.device_put(batch(), NamedSharding(mesh, P("data")))
    answers = predicted(model, batch()[0])
    with jax.set_mesh(mesh):
        close(nnx.jit(nnx.value_and_grad(loss_of))(model, x, labels), expected)
        np.testing.assert_array_equal(predicted(model, x), answers)


def trained(tied, mesh):
    """A step of an optimiser, of states that are mapped as they are."""
    graph, state = nnx.split((model := Model(tied), nnx.Optimizer(model, optax.sgd(0.5, momentum=0.9), wrt=nnx.Param)))

    @partial(jax.shard_map, mesh=mesh, in_specs=(P(), P("data"), P("data")), out_specs=P())
    def step(state, x, labels):
        model, optimizer = nnx.merge(graph, state)
        optimizer.update(model, nnx.grad(share_of)(model, x, labels))
        return nnx.state((model, optimizer))

    plain = Model(tied)
    optimizer = nnx.Optimizer(plain, optax.sgd(0.5, momentum=0.9), wrt=nnx.Param)
    optimizer.update(plain, nnx.jit(nnx.grad(loss_of))(plain, *batch()))
    close(nnx.to_pure_dict(jax.jit(step)(state, *batch())[0]), nnx.to_pure_dict(nnx.state(plain)))


if __name__ == "__main__":
    assert len(jax.devices()) == 8
    kinds = AxisType.Auto, AxisType.Explicit
    meshes = [jax.make_mesh((8,), ("data",), axis_types=(kind,)) for kind in kinds]
    for tied in (False, True):
        expected = nnx.jit(nnx.value_and_grad(loss_of))(Model(tied), *batch())
        mapped(tied, meshes[0], expected)
        trained(tied, meshes[0])
        for mesh in meshes:
            sharded(tied, mesh, expected)
