"""Logits beside the fused loss of the same embeddings: compiled together, what both multiply is multiplied once."""

import numpy as np

import mrl

NESTING = mrl.Nesting((4, 8, 16))
RNG = np.random.default_rng(0)
Z, LABELS = RNG.normal(size=(6, 16)).astype("float32"), RNG.integers(0, 5, 6)


def step(z, head, labels, with_logits):
    """The loss, which is differentiated, and something of each level's logits, so that they are of use."""
    loss = mrl.nested_cross_entropy(z, head, labels, NESTING).total
    if not with_logits:
        return loss, None
    logits = mrl.nested_logits(z, head, NESTING)
    return loss, [logits[g] > 0 for g in range(len(NESTING))]


def head_of(tied, backend):
    return mrl.init_head(NESTING, 5, tied=tied, backend=backend, seed=0)


def test_jax_multiplies_once(backend_jax):
    import jax

    for tied in (True, False):
        head, found = head_of(tied, "jax"), []
        for with_logits in (False, True):
            gradient = jax.value_and_grad(step, argnums=(0, 1), has_aux=True)
            compiled = jax.jit(gradient, static_argnums=3).lower(Z, head, LABELS, with_logits).compile()
            found.append(compiled.as_text().count(" dot("))
        assert found[0] == found[1] > 0


def test_tensorflow_multiplies_once(backend_tensorflow):
    import tensorflow as tf
    from tensorflow.python.eager import context

    def products(tied, with_logits):
        head, z = head_of(tied, "tensorflow"), tf.constant(Z)

        @tf.function
        def graph(z, head):
            with tf.GradientTape() as tape:
                tape.watch((z, head))
                loss, above = step(z, head, tf.constant(LABELS), with_logits)
            return above, tape.gradient(loss, (z, head))

        context.enable_run_metadata()
        try:
            graph(z, head)
            graphs = context.export_run_metadata().function_graphs
        finally:
            context.disable_run_metadata()
        return sum("MatMul" in node.op for g in graphs for node in g.post_optimization_graph.node)

    for tied in (True, False):
        assert products(tied, True) == products(tied, False) > 0
