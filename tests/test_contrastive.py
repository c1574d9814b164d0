"""The contrastive loss in use: what is refused, what is seen by nobody, shapes that are not known, and memory."""

import os
import subprocess
import sys
import tempfile

import numpy as np
import pytest

import mrl

NESTING = mrl.Nesting((2, 4, 6), weights=(1.0, 0.5, 2.0))
RNG = np.random.default_rng(0)
A, P, N = (RNG.normal(size=(rows, 6)).astype(np.float32) for rows in (5, 5, 3))
AWAY = tempfile.gettempdir()  # from the tree, mrl would be the one that is not installed


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"anchors": A[None]}, ValueError, r"anchors: expected shape \(B, D\).*got \(1, 5, 6\)"),
        ({"anchors": A[:, :5]}, ValueError, r"anchors: expected shape \(\.\.\., D\) with D at least 6"),
        (
            {"positives": P[:4]},
            ValueError,
            r"positives: expected shape \(5, 6\), one row for every anchor, got \(4, 6\)",
        ),
        ({"positives": P.astype(np.int32)}, TypeError, "positives: expected a dtype"),
        ({"negatives": np.ones((2, 7), np.float32)}, ValueError, r"negatives: expected shape \(\.\.\., 6\).*\(2, 7\)"),
        ({"temperature": 0.0}, ValueError, "temperature: expected a finite number above 0, got 0.0"),
        ({"temperature": float("nan")}, ValueError, "temperature: expected a finite number above 0, got nan"),
        ({"temperature": np.array([1.0, -1.0, 1.0], np.float32)}, ValueError, "temperature: expected finite numbers"),
        ({"temperature": np.ones(2, np.float32)}, ValueError, r"temperature: .*shape \(\) or \(3,\).*\(2,\)"),
        ({"temperature": np.ones((), np.int32)}, TypeError, "temperature: expected a dtype"),
        ({"exclude": np.zeros((5, 4), bool)}, ValueError, r"exclude: expected shape \(B, M\) = \(5, 5\).*\(5, 4\)"),
        ({"exclude": np.zeros((5, 5), np.float32)}, TypeError, "exclude: expected a bool array, got float32"),
        ({"exclude": np.eye(5, dtype=bool)}, ValueError, r"exclude: expected no anchor's own positive, .* \(0, 0\)"),
        ({"similarity": "l2"}, ValueError, r"similarity: expected one of \('cosine', 'dot'\), got 'l2'"),
        ({"reduction": "max"}, ValueError, "reduction: expected one of"),
        ({"symmetric": 1}, TypeError, "symmetric: expected True or False"),
        ({"fused": None}, TypeError, "fused: expected True or False"),
        ({"chunk_rows": 0}, ValueError, "chunk_rows: expected an integer of at least 1"),
        ({"nesting": (2, 4)}, TypeError, "nesting: expected an mrl.Nesting"),
    ],
)
def test_what_is_refused(backend_name, change, error, message):
    given = {"anchors": A, "positives": P, "nesting": NESTING} | change
    made = {name: mrl.convert(x, backend_name) if isinstance(x, np.ndarray) else x for name, x in given.items()}
    with pytest.raises(error, match=message):
        mrl.nested_contrastive(**made)


def test_arrays_of_two_frameworks(backend_torch):
    with pytest.raises(TypeError, match=r"anchors: torch\.Tensor, positives: numpy\.ndarray"):
        mrl.nested_contrastive(mrl.convert(A, "torch"), P, NESTING)


def test_numpy_stands_beside_jax(backend_jax):
    loss = mrl.nested_contrastive(mrl.convert(A, "jax"), P, NESTING, exclude=np.zeros((5, 5), bool))
    np.testing.assert_allclose(loss.total, mrl.nested_contrastive(A, P, NESTING).total, rtol=1e-5)


@pytest.mark.parametrize("fused", [True, False])
@pytest.mark.parametrize("symmetric", [True, False])
def test_a_level_of_weight_zero_is_left_out(backend_name, fused, symmetric):
    nesting = mrl.Nesting((2, 4, 6), weights=(1.0, 0.0, 2.0))
    a, p = (mrl.convert(x, backend_name) for x in (A, P))
    loss = mrl.nested_contrastive(a, p, nesting, fused=fused, symmetric=symmetric)
    whole = mrl.nested_contrastive(a, p, mrl.Nesting((2, 6), (1.0, 2.0)), fused=fused, symmetric=symmetric)
    np.testing.assert_allclose(mrl.convert(loss.total, "numpy"), mrl.convert(whole.total, "numpy"), rtol=1e-5)
    levels = np.asarray(mrl.convert(loss.per_level, "numpy"))
    assert np.isnan(levels).tolist() == [False, True, False]


@pytest.mark.parametrize("fused", [True, False])
def test_what_nobody_could_see_is_nan(backend_torch, fused):
    """An own positive that is excluded, or a temperature below zero, in traced code."""
    import torch

    a, p = torch.tensor(A), torch.tensor(P)
    step = torch.compile(mrl.nested_contrastive, fullgraph=True, backend="aot_eager")
    own = torch.zeros(5, 5, dtype=torch.bool)
    own[2, 2] = True
    found = step(a, p, NESTING, exclude=own, fused=fused, reduction="none").total
    assert found.isnan().tolist() == [False, False, True, False, False]
    assert step(a, p, NESTING, temperature=torch.tensor(-1.0), fused=fused).total.isnan()


def test_more_than_one_derivative_names_the_composed_form(backend_torch):
    import torch

    a, p = torch.tensor(A, requires_grad=True), torch.tensor(P)
    (gradient,) = torch.autograd.grad(mrl.nested_contrastive(a, p, NESTING).total, a, create_graph=True)
    with pytest.raises(RuntimeError, match=r"nested_contrastive: the fused form .* pass fused=False"):
        gradient.sum().backward()
    (gradient,) = torch.autograd.grad(mrl.nested_contrastive(a, p, NESTING, fused=False).total, a, create_graph=True)
    assert torch.autograd.grad(gradient.square().sum(), a)[0].any()
    with pytest.raises(RuntimeError, match=r"nested_contrastive: .* got vmap; pass fused=False"):
        torch.func.vmap(lambda x: mrl.nested_contrastive(x, p, NESTING).total)(torch.stack([a, a]))
    many = torch.func.vmap(lambda x: mrl.nested_contrastive(x, p, NESTING, fused=False).total)
    assert many(torch.stack([a, a])).shape == (2,)


def test_transforms_of_jax(backend_jax):
    import jax
    import jax.numpy as jnp

    a, p = jnp.asarray(A), jnp.asarray(P)

    def loss(a, fused=True):
        return mrl.nested_contrastive(a, p, NESTING, fused=fused).total

    with pytest.raises(TypeError, match=r"nested_contrastive: the fused form .* pass fused=False"):
        jax.jvp(loss, (a,), (a,))
    assert jax.hessian(lambda a: loss(a, False))(a).shape == (5, 6, 5, 6)
    many = jax.vmap(jax.grad(loss))(jnp.stack([a, 2 * a]))
    np.testing.assert_allclose(many[0], jax.grad(loss)(a), rtol=1e-5, atol=1e-6)


def test_rows_that_a_graph_does_not_know(backend_tensorflow):
    import tensorflow as tf

    rows = tf.TensorSpec([None, 6])
    for chunk, symmetric in ((None, False), (2, True)):

        @tf.function(input_signature=[rows, rows, tf.TensorSpec([None, None, 6]), tf.TensorSpec([None, None], tf.bool)])
        def step(a, p, n, exclude, chunk=chunk, symmetric=symmetric):
            with tf.GradientTape() as tape:
                tape.watch([a, p, n])
                total = mrl.nested_contrastive(
                    a, p, NESTING, negatives=n, exclude=exclude, chunk_rows=chunk, symmetric=symmetric
                ).total
            return total, tape.gradient(total, [a, p, n])

        for count in (5, 3):
            exclude = np.zeros((count, count + 3), bool)
            exclude[0, 1] = True
            total, gradients = step(A[:count], P[:count], N[None], exclude)
            options = {"negatives": N[None], "exclude": exclude, "symmetric": symmetric}
            expected = mrl.spec.nested_contrastive_vjp(A[:count], P[:count], NESTING, 1.0, **options)
            spec = mrl.spec.nested_contrastive(A[:count], P[:count], NESTING, **options)
            np.testing.assert_allclose(total, spec.total, rtol=1e-5)
            for x, y in zip(gradients, expected[:3], strict=True):
                np.testing.assert_allclose(x, y, rtol=1e-4, atol=1e-6)


def test_autocast_casts_factors(backend_torch):
    """As it does those of ``F.linear``: the similarities of what has been rounded, in float32."""
    import torch

    a, p = torch.tensor(A, requires_grad=True), torch.tensor(P)
    for fused in (True, False):
        with torch.autocast("cpu", torch.bfloat16):
            loss = mrl.nested_contrastive(a, p, NESTING, fused=fused)
        assert loss.total.dtype == torch.float32
        rounded = mrl.nested_contrastive(a.detach().bfloat16(), p.bfloat16(), NESTING, fused=fused)
        torch.testing.assert_close(loss.total, rounded.total)
        assert torch.autograd.grad(loss.total, a)[0].dtype == torch.float32


def test_a_compiled_step_is_one_graph(backend_torch):
    import torch

    graphs = []

    def keep(graph, inputs):
        graphs.append(graph)
        return graph

    @torch.compile(fullgraph=True, backend=keep, dynamic=True)
    def step(a, p, temperature):
        return mrl.nested_contrastive(a, p, NESTING, temperature=temperature, symmetric=True).total

    temperature = torch.tensor([0.1, 0.2, 0.3], requires_grad=True)
    for count in (5, 4, 3):
        rows = torch.tensor(A[:count], requires_grad=True), torch.tensor(P[:count])
        plain = mrl.nested_contrastive(*rows, NESTING, temperature=temperature, symmetric=True).total
        found = (torch.autograd.grad(loss, (rows[0], temperature)) for loss in (step(*rows, temperature), plain))
        for x, y in zip(*found, strict=True):
            torch.testing.assert_close(x, y)
    assert len(graphs) == 1


MEMORY = """
import sys
import numpy as np
import mrl

backend, rows, width = sys.argv[1], int(sys.argv[2]), 64
nesting = mrl.Nesting((16, 32, 48, 64))

def step(rows):
    a, p = mrl.convert(tuple(np.random.default_rng(0).normal(size=(2, rows, width)).astype(np.float32)), backend)
    loss = lambda a, p: mrl.nested_contrastive(a, p, nesting, symmetric=True).total
    if backend == "torch":
        a, p = a.requires_grad_(), p.requires_grad_()
        loss(a, p).backward()
        return a.grad, p.grad
    if backend == "jax":
        import jax
        return jax.block_until_ready(jax.jit(jax.grad(loss, (0, 1)))(a, p))
    import tensorflow as tf
    @tf.function
    def run(a, p):
        with tf.GradientTape() as tape:
            tape.watch([a, p])
            total = loss(a, p)
        return tape.gradient(total, [a, p])
    return run(a, p)

def peak():
    # Linux's ru_maxrss starts at what the parent held when it forked.
    return 1024 * next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("VmHWM"))

step(64)
before = peak()
assert all(np.isfinite(np.asarray(g)).all() for g in step(rows))
print(peak() - before)
"""


def test_a_large_batch_never_holds_all_similarities(framework_name):
    """Of all four levels they would be a gigabyte, and a loop over levels keeps them twice."""
    environment = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"}
    command = [sys.executable, "-c", MEMORY, framework_name, "8000"]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=AWAY)
    assert done.returncode == 0, done.stderr[-2000:]
    assert int(done.stdout.split()[-1]) < 512e6
