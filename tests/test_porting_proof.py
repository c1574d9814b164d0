"""The porting proof: heads travel bit for bit, and what is trained elsewhere is what is trained here."""

import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np
from head_cases import DTYPES, assert_same
from hypothesis import given, settings
from hypothesis import strategies as st

import mrl
from mrl import spec
from mrl.heads import Head, head_leaves
from mrl.porting.layouts import LAYOUTS
from mrl.testing.cross_entropy import bounds
from mrl.testing.cross_entropy.problems import layouts, problems
from mrl.testing.drawing import nestings
from mrl.testing.drivers import Call, driver_of
from mrl.testing.problems import Layout, Problem, head_from

STEPS, RATE = 10, 0.25


@st.composite
def heads(draw: st.DrawFn, dtype: str) -> tuple[Head, mrl.Nesting]:
    """Heads of any bits at all: NaN with its payload, infinities, subnormals, zeros of both signs."""
    nesting, classes = draw(nestings()), draw(st.integers(1, 5))
    head = mrl.init_head(nesting, classes, tied=draw(st.booleans()), backend="numpy", seed=0, dtype=dtype)
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))

    def any_bits(array):
        return np.frombuffer(rng.bytes(array.nbytes), np.uint8).view(array.dtype).reshape(array.shape).copy()

    weights, biases = head
    if isinstance(head, mrl.TiedHead):
        return mrl.TiedHead(any_bits(weights), any_bits(biases) if draw(st.booleans()) else None), nesting
    weights = tuple(any_bits(weight) for weight in weights)
    return mrl.NestedHead(weights, tuple(any_bits(b) for b in biases) if draw(st.booleans()) else None), nesting


@given(st.data())
def test_there_by_any_way_and_back(backend_name: str, data) -> None:
    """Head, framework, layout, file, framework, head."""
    dtype = data.draw(st.sampled_from([name for name in DTYPES if name in driver_of(backend_name).dtypes]))
    head, nesting = data.draw(heads(dtype))
    layout, prefix = data.draw(st.sampled_from(LAYOUTS)), data.draw(st.sampled_from(["", "module.fc."]))
    there = mrl.convert(head, backend_name)
    state = mrl.write_head(there, nesting, layout=layout, prefix=prefix)
    head_again, _ = mrl.read_head(state, nesting, backend=backend_name)
    assert_same(mrl.convert(head_again, "numpy"), head)
    with tempfile.TemporaryDirectory() as folder:
        mrl.save_head(Path(folder) / "head.safetensors", head_again, nesting)
        saved = mrl.load_head(Path(folder) / "head.safetensors", backend=backend_name)
        assert saved.nesting == nesting
        assert_same(mrl.convert(saved.head, "numpy"), head)
        if layout != "flax":
            np.savez(Path(folder) / "state.npz", **mrl.convert(state, "numpy"))
            assert_same(mrl.read_head(Path(folder) / "state.npz", nesting)[0], head)


def gradient_of(backend: str, problem: Problem) -> Head:
    """Of the loss for the head, in float64."""
    layout = problem.layout

    def loss(arrays, constants):
        return (mrl.nested_cross_entropy(constants[0], head_from(layout, arrays), constants[1], layout.nesting).total,)

    leaves, constants = list(head_leaves(problem.head)), [problem.z, problem.labels]
    result = driver_of(backend).run("eager", Call(loss, leaves, constants, np.asarray(1.0), "float64"))
    return head_from(layout, result.gradients)


def minus(head: Head, gradient: Head, rate: float) -> Head:
    leaves = [a - rate * b for a, b in zip(head_leaves(head), head_leaves(gradient), strict=True)]
    if isinstance(head, mrl.TiedHead):
        return mrl.TiedHead(*leaves)
    count = len(head.weights)
    return mrl.NestedHead(tuple(leaves[:count]), tuple(leaves[count:]) or None)


def norm(head: Head) -> float:
    return float(np.sqrt(sum(np.sum(np.square(leaf)) for leaf in head_leaves(head))))


def size_of_error(problem: Problem) -> float:
    bounded = bounds.nested_cross_entropy(problem)
    return float(np.sqrt(sum(np.sum(e**2) for name, (_, e) in bounded.items() if name.startswith("dhead"))))


def descend(framework: str, problem: Problem, rate: float) -> list[float]:
    """How far a framework's descent, at ``rate``, is from the specification's after each step, as shares of the bound.

    A step is ``h' = h - r g(h)``. Of two descents, ``g(h1) - g(h2)`` is at most ``L |h1 - h2|``, because the Hessian of
    a cross-entropy for its logits is at most 1/2, and these are linear in the head: with the embeddings held fixed,
    ``L = sum_g w_g mean_i (|z_i[:m_g]|^2 + 1) / 2``. Each side's gradient is off by what the bounds of the proof kit
    allow at its own head, together ``e``, and a step rounds twice on either side. So the distance grows from ``d`` to
    at most ``(1 + r L) d + r |e| + 4 u (|h'| + r |g|)``.
    """
    layout, z = problem.layout, problem.z.reshape(-1, problem.z.shape[-1])
    curvature = sum(
        w * np.mean(np.sum(z[:, :m] ** 2, axis=-1) + 1) / 2
        for m, w in zip(layout.nesting.dims, layout.nesting.weights, strict=True)
    )
    expected, found, distance, shares = problem, problem, 0.0, []
    for _ in range(STEPS):
        error = size_of_error(found) + size_of_error(expected)
        _, gradient = spec.nested_cross_entropy_vjp(expected.z, expected.head, expected.labels, layout.nesting, 1.0)
        expected = expected.with_head(minus(expected.head, gradient, RATE))
        found = found.with_head(minus(found.head, gradient_of(framework, found), rate))
        rounded = 4 * 2.0**-53 * (norm(expected.head) + norm(found.head) + RATE * norm(gradient))
        distance = (1 + RATE * curvature) * distance + RATE * error + rounded
        apart = norm(minus(found.head, expected.head, 1.0))
        shares.append(apart / distance if apart else 0.0)
    return shares


@settings(max_examples=10)
@given(st.data())
def test_ten_steps_of_descent(framework_name: str, data) -> None:
    if "float64" not in driver_of(framework_name).dtypes:
        return  # JAX without 64-bit numbers; the tests run with them too
    problem = data.draw(problems(layouts(options=("leading",)).filter(lambda x: x.rows > 0), "float64"))
    z = problem.z / max(1.0, float(np.abs(problem.z).max()))
    assert max(descend(framework_name, replace(problem, z=z, upstream=np.asarray(1.0)), RATE)) <= 1


def test_a_descent_that_is_off_is_seen(framework_name: str) -> None:
    """By a part in ten thousand million of its rate."""
    rng = np.random.default_rng(0)
    nesting = mrl.Nesting((2, 5), weights=(0.5, 1.0))
    head = mrl.init_head(nesting, 3, tied=True, backend="numpy", seed=0, dtype="float64")
    layout = Layout(nesting, (4,), classes=3)
    problem = Problem(layout, "float64", rng.normal(size=(4, 5)), head, rng.integers(0, 3, 4), np.asarray(1.0))
    if "float64" in driver_of(framework_name).dtypes:
        assert (
            max(descend(framework_name, problem, RATE)) <= 1 < min(descend(framework_name, problem, RATE * (1 + 1e-10)))
        )
