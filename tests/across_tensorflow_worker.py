"""Two replicas with a batch together, and one device that has it; started by ``test_across_tensorflow.py``."""

import numpy as np
import pytest
import tensorflow as tf

import mrl

NESTING = mrl.Nesting((2, 4, 8), weights=(1.0, 0.5, 2.0))
ROWS, WIDTH, IGNORED = 8, 10, -100


def main():
    (cpu,) = tf.config.list_physical_devices("CPU")
    tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
    strategy = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
    rng = np.random.default_rng(0)
    x, y, others = rng.normal(size=(3, ROWS, WIDTH))
    exclude = (rng.random((ROWS, 2 * ROWS)) < 0.2) & ~np.eye(ROWS, 2 * ROWS, dtype=bool)
    labels = np.where(np.arange(ROWS) % 3 == 0, IGNORED, rng.integers(0, 5, ROWS))
    labels[: ROWS // 2] = np.where(np.arange(ROWS // 2) > 0, IGNORED, labels[: ROWS // 2])
    initial = [rng.normal(size=(WIDTH, 8)), np.log([0.2, 0.5, 0.3]), rng.normal(size=(5, 8))]
    with strategy.scope():
        variables = [tf.Variable(v) for v in initial]

    def contrastive(across, x, y, others, exclude, labels, **options):
        w, scale, _ = variables
        embed = lambda rows: tf.matmul(rows, w)  # noqa: E731
        return mrl.nested_contrastive(
            embed(x), embed(y), NESTING, negatives=embed(others), exclude=exclude, temperature=tf.exp(scale),
            across=across, **options,
        ).total  # fmt: skip

    def classified(across, x, y, others, exclude, labels, **options):
        w, _, head = variables
        return mrl.nested_cross_entropy(
            tf.matmul(x, w), mrl.TiedHead(head), labels, NESTING, ignore_index=IGNORED, across=across, **options
        ).total

    rows = [x, y, others, exclude, labels]
    for loss, options in (
        (contrastive, {}),
        (contrastive, {"symmetric": True}),
        (contrastive, {"symmetric": True, "fused": False}),
        (contrastive, {"reduction": "sum"}),
        (classified, {}),
        (classified, {"reduction": "sum"}),
        (classified, {"fused": False}),
    ):

        def step(across, *rows, loss=loss, options=options):
            with tf.GradientTape() as tape:
                total = loss(across, *rows, **options)
            found = tape.gradient(total, variables)
            return total, [tf.zeros_like(v) if g is None else g for g, v in zip(found, variables, strict=True)]

        expected = step(None, *map(tf.constant, rows))

        @tf.function
        def replicated(step=step):
            def own(*rows):
                return step(True, *rows)

            half = ROWS // 2
            parts = [
                strategy.experimental_distribute_values_from_function(
                    lambda context, x=x: tf.constant(x[context.replica_id_in_sync_group * half :][:half])
                )
                for x in rows
            ]
            total, gradients = strategy.run(own, parts)
            mean = tf.distribute.ReduceOp.MEAN
            return strategy.reduce(mean, total, axis=None), [strategy.reduce(mean, g, axis=None) for g in gradients]

        total, gradients = replicated()
        np.testing.assert_allclose(total, expected[0], rtol=1e-9)
        assert any(np.any(g) for g in expected[1])
        for ours, joint in zip(gradients, expected[1], strict=True):
            np.testing.assert_allclose(ours, joint, rtol=1e-7, atol=1e-10)
    with pytest.raises(TypeError, match="across: expected True or None"):
        contrastive("data", *map(tf.constant, rows))
    with strategy.scope(), pytest.raises(ValueError, match="across: expected to be called in a replica context"):
        contrastive(True, *map(tf.constant, rows))


if __name__ == "__main__":
    main()
