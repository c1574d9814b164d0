"""At a real vocabulary size the fused form never holds (G, B*T, V): peaks in processes of their own."""

import os
import subprocess
import sys
import tempfile

ROWS, VOCABULARY, WIDTH = (8, 128), 30_522, 64
LEVELS = 4
FULL = LEVELS * ROWS[0] * ROWS[1] * VOCABULARY * 4  # bytes of float32 logits of all levels: 500 MB

SCRIPT = f"""
import sys
import numpy as np
import mrl

backend = sys.argv[1]
nesting = mrl.Nesting.doubling(8, {WIDTH})
rng = np.random.default_rng(0)

def arrays(rows):
    z = rng.normal(size=(*rows, {WIDTH})).astype(np.float32)
    table = rng.normal(size=({VOCABULARY}, {WIDTH})).astype(np.float32)
    labels = np.where(rng.random(rows) < 0.15, rng.integers(0, {VOCABULARY}, rows), -100).astype(np.int32)
    return mrl.convert((z, mrl.TiedHead(table), labels), backend)

def step(z, head, labels, **kw):
    loss = lambda z, table: mrl.nested_cross_entropy(
        z, mrl.TiedHead(table), labels, nesting, ignore_index=-100, **kw).total
    if backend == "torch":
        z, table = z.requires_grad_(), head.weight.requires_grad_()
        loss(z, table).backward()
        return z.grad, table.grad
    if backend == "jax":
        import jax
        return jax.block_until_ready(jax.jit(jax.grad(loss, (0, 1)))(z, head.weight))
    import tensorflow as tf
    @tf.function(input_signature=[tf.TensorSpec([None, None, {WIDTH}]), tf.TensorSpec([{VOCABULARY}, {WIDTH}])])
    def run(z, table):
        with tf.GradientTape() as tape:
            tape.watch([z, table])
            total = loss(z, table)
        return tape.gradient(total, [z, table])
    return run(z, head.weight)

def peak():
    # Linux's ru_maxrss starts at what the parent held when it forked.
    return 1024 * next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("VmHWM"))

fused = sys.argv[2] == "fused"
inputs = arrays({ROWS})
step(*arrays((1, 2)), fused=fused)
before = peak()
gradients = step(*inputs, fused=fused)
assert all(np.isfinite(np.asarray(g)).all() for g in gradients)
print(peak() - before)
"""


def extra_bytes(backend: str, form: str) -> int:
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, backend, form],
        env=dict(os.environ),
        cwd=tempfile.gettempdir(),
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return int(done.stdout.split()[-1])


def test_fused_fits_where_all_logits_would_not_in_torch(backend_torch: None) -> None:
    assert extra_bytes("torch", "fused") < FULL / 2


def test_fused_fits_where_all_logits_would_not_in_jax(backend_jax: None) -> None:
    assert extra_bytes("jax", "fused") < FULL / 2


def test_fused_fits_where_all_logits_would_not_in_tensorflow(backend_tensorflow: None) -> None:
    assert extra_bytes("tensorflow", "fused") < FULL / 2


def test_the_measurement_sees_the_composed_form(backend_torch: None) -> None:
    assert extra_bytes("torch", "composed") > FULL
