"""``mrl.adapters.flax`` split, mapped, trained, on eight devices, saved and restored."""

import copy
import os
import pickle
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from adapter_flax_cases import CLASSES, CLOSE, KINDS, LABELS, NESTING, TIED, Z, assert_same, embeddings, made

import mrl
from mrl import spec

WORKER = Path(__file__).with_name("adapter_flax_worker.py")
SECONDS = 540  # a hung process ends; a busy machine does not


@pytest.fixture(autouse=True)
def _jax(backend_jax):
    """All of this needs JAX."""


@KINDS
def test_split_merged_and_copied(tied, bias):
    import jax
    from flax import nnx

    head, (z, y) = made(tied, bias), embeddings()
    graph, state = nnx.split(head, nnx.Param)
    assert hash(graph) == hash(nnx.graphdef(made(tied, bias)))
    for other in (nnx.merge(graph, state), nnx.clone(head), copy.deepcopy(head), pickle.loads(pickle.dumps(head))):
        assert (other.nesting, other.tied, other.classes) == (NESTING, tied, CLASSES)
        np.testing.assert_array_equal(other(z, y).total, head(z, y).total)
    for run in (nnx.jit, jax.jit):
        np.testing.assert_allclose(run(lambda head: head(z))(head), head(z), **CLOSE)
    doubled = made(tied, bias)
    nnx.update(doubled, jax.tree.map(lambda x: 2 * x, state))
    np.testing.assert_allclose(doubled(z), 2 * head(z), **CLOSE)


@TIED
def test_an_ensemble(tied):
    import jax
    from flax import nnx
    from mrl.adapters.flax import MatryoshkaHead

    @nnx.split_rngs(splits=3)
    @nnx.vmap
    def ensemble(rngs):
        return MatryoshkaHead(NESTING, CLASSES, tied=tied, rngs=rngs)

    heads, (z, y) = ensemble(nnx.Rngs(0)), embeddings()
    losses = nnx.vmap(lambda head: head(z, y).total)(heads)
    graph, state = nnx.split(heads)
    for i, loss in enumerate(losses):
        alone = nnx.merge(graph, jax.tree.map(lambda x, i=i: x[i], state))
        np.testing.assert_allclose(loss, alone(z, y).total, rtol=1e-6)
    assert len(set(losses.tolist())) == 3


@TIED
def test_a_step_of_optax_is_that_of_the_specification(tied):
    import optax
    from flax import nnx

    head, (z, y) = made(tied), embeddings()
    before = mrl.convert(head.head, "numpy")
    optimizer = nnx.Optimizer(head, optax.sgd(0.5), wrt=nnx.Param)

    @nnx.jit
    def step(head, optimizer):
        loss, gradients = nnx.value_and_grad(lambda head: head(z, y).total)(head)
        optimizer.update(head, gradients)
        return loss

    losses = [step(head, optimizer)]
    _, gradients = spec.nested_cross_entropy_vjp(Z, before, LABELS, NESTING, 1.0)

    def stepped(group, slopes):
        if isinstance(group, tuple):
            return tuple(map(stepped, group, slopes))
        return group - 0.5 * slopes

    assert_same(head, type(before)(*map(stepped, before, gradients)))
    losses += [step(head, optimizer) for _ in range(20)]
    assert all(later < earlier for earlier, later in pairwise(losses))
    assert losses[-1] < 0.7 * losses[0]


def test_eight_devices_are_one_with_the_joint_batch(request):
    environment = {
        **os.environ,
        "XLA_FLAGS": f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count=8",
        "JAX_ENABLE_X64": str(request.config.getoption("--x64") == "on"),
        "JAX_PLATFORMS": "cpu",
    }
    command = [sys.executable, str(WORKER)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=SECONDS)
    assert done.returncode == 0, done.stderr[-3000:]


@KINDS
def test_saved_and_restored_by_orbax(tied, bias, tmp_path):
    import orbax.checkpoint as ocp
    from flax import nnx
    from mrl.adapters.flax import MatryoshkaHead

    head = made(tied, bias)
    shapes = nnx.eval_shape(lambda: MatryoshkaHead(NESTING, CLASSES, tied=tied, bias=bias, rngs=nnx.Rngs(0)))
    graph, state = nnx.split(shapes)
    with ocp.StandardCheckpointer() as checkpointer:
        checkpointer.save(tmp_path / "head", nnx.state(head))
        checkpointer.wait_until_finished()
        assert_same(nnx.merge(graph, checkpointer.restore(tmp_path / "head", state)), head, rtol=0)
        found, _ = mrl.read_head(checkpointer.restore(tmp_path / "head"), NESTING)
    assert_same(head, found, rtol=0)


@KINDS
def test_states_are_read_as_heads_and_back(tied, bias, tmp_path):
    from flax import nnx
    from mrl.adapters.flax import MatryoshkaHead

    class Model(nnx.Module):
        def __init__(self):
            self.encoder = nnx.Linear(7, NESTING.width, rngs=nnx.Rngs(0))
            self.head = made(tied, bias)

    head, model = made(tied, bias), nnx.state(Model())
    mrl.save_head(tmp_path / "head.safetensors", head.head, head.nesting)
    saved = mrl.load_head(tmp_path / "head.safetensors", backend="jax")
    assert saved.nesting == NESTING
    for found in (
        saved.head,
        mrl.read_head(nnx.state(head), NESTING, backend="jax")[0],
        mrl.read_head(nnx.to_pure_dict(nnx.state(head)), NESTING, layout="flax")[0],
        mrl.read_head(model, NESTING, prefix="head")[0],
    ):
        assert_same(MatryoshkaHead.from_head(found, NESTING), head, rtol=0)
    if not tied:  # whose names tell a head among all arrays of a model
        assert mrl.read_head(model)[1].dims == NESTING.dims
        return
    with pytest.raises(ValueError, match=r"prefix: expected one head, got what fits"):
        mrl.read_head(model, NESTING)  # one kernel might be any layer's
