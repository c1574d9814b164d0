"""What is said of a wrong loss: few round numbers, every wrong output, and code that runs and fails for that reason."""

import re

import numpy as np
import pytest

import mrl
import mrl.testing
from mrl.testing.cutting import axes, cut, flattened
from mrl.testing.minimize import smallest
from mrl.testing.problems import Layout, Problem, head_from, leaf_shapes


def problem_of(layout: Layout, upstream: tuple[int, ...] = (), seed: int = 0) -> Problem:
    rng = np.random.default_rng(seed)
    head = head_from(layout, [rng.normal(size=size) for size in leaf_shapes(layout)])
    labels = rng.integers(0, layout.classes, layout.lead)
    z, targets = rng.normal(size=(2, *layout.lead, layout.features))
    return Problem(layout, "float32", z, head, labels, rng.normal(size=upstream), targets)


LAYOUTS = [
    Layout(mrl.Nesting((2, 3, 7), (0.5, 1.0, 2.0)), (4,), 8, 5),
    Layout(mrl.Nesting((1, 4)), (2, 3), 0, 3, tied=False, label_smoothing=0.1, ignore_index=1),
    Layout(mrl.Nesting((2, 5)), (), 6, 2, tied=False, bias=False),
]


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("kind", ["levels", "rows", "classes", "features"])
def test_a_cut_problem_is_a_problem(layout: Layout, kind: str) -> None:
    """The specification takes it, and its arrays have the shapes that its layout says."""
    shapes = {"loss": (), "logits": (len(layout.nesting), *layout.lead, layout.classes)}
    for upstream in shapes.values():
        problem = problem_of(layout, upstream)
        for name, size in axes(problem, kind):
            for kept in ([size - 1], list(range(1, size)), list(range(size))):
                small = cut(problem, name, kept) if kept else None
                if small is None:
                    continue
                smaller = small.layout
                assert [np.shape(x) for x in mrl.heads.head_leaves(small.head)] == leaf_shapes(smaller)
                assert small.z.shape == small.targets.shape == (*smaller.lead, smaller.features)
                mrl.nested_cross_entropy(
                    small.z, small.head, small.labels, smaller.nesting, ignore_index=smaller.ignore_index
                )
                if upstream:
                    assert small.upstream.shape == (len(smaller.nesting), *smaller.lead, smaller.classes)


def test_rows_in_several_axes_become_one() -> None:
    problem = problem_of(LAYOUTS[1], (2, 2, 3, 3))
    flat = flattened(problem)
    assert flat.layout.lead == (6,) and flat.z.shape == (6, 4) and flat.upstream.shape == (2, 6, 3)
    np.testing.assert_array_equal(flat.z.reshape(problem.z.shape), problem.z)


def test_a_large_problem_becomes_small_in_few_trials() -> None:
    layout = Layout(mrl.Nesting((3, 40, 60), (0.5, 1.0, 2.0)), (50,), 64, 30, label_smoothing=0.1, ignore_index=3)
    trials = []

    def refuted(problem: Problem) -> bool:
        trials.append(problem)
        return len(problem.layout.nesting) > 1 and bool(np.any(problem.z[..., 0] > 0.5))

    problem = problem_of(layout)
    small = smallest(problem, refuted)
    assert len(trials) < 300
    shape = small.layout
    assert (len(shape.nesting), shape.lead, shape.features, shape.classes) == (2, (1,), 2, 1)
    assert shape.label_smoothing == 0 and shape.ignore_index is None and not shape.bias
    assert small.z.tolist() == [[1.0, 0.0]] and not np.any(small.head.weight) and small.upstream == 1


def test_what_compiles_is_tried_on_few_layouts() -> None:
    layouts = set()

    def refuted(problem: Problem) -> bool:
        layouts.add(problem.layout)
        return problem.layout.rows > 7  # of which nothing can be spared at the first tries

    smallest(problem_of(Layout(mrl.Nesting((2, 3, 7)), (11,), 9, 6)), refuted, compiled=True)
    assert len(layouts) <= 9


def right(z, head, labels, nesting, **options):
    """Written with what every framework's arrays have."""
    return mrl.nested_cross_entropy(z, head, labels, nesting, **options).total


def mean_for_sum(z, head, labels, nesting, **options):
    return right(z, head, labels, nesting, **options) / len(nesting)


def per_level_weighted(z, head, labels, nesting):
    total, per_level = mrl.nested_cross_entropy(z, head, labels, nesting)
    return mrl.NestedLoss(total, per_level * 2)


def bias_forgotten(z, head, labels, nesting, **options):
    return right(z, head._replace(**{head._fields[1]: None}), labels, nesting, **options)


def code_of(message: str) -> str:
    return message[message.index("import ") :]


def refuted_by(loss, backend: str, **options) -> str:
    with pytest.raises(AssertionError) as found:
        mrl.testing.check_loss(loss, backend=backend, random_seed=0, examples=40, **options)
    return str(found.value)


@pytest.mark.parametrize(("loss", "dtype"), [(mean_for_sum, "float32"), (bias_forgotten, "float16")])
def test_the_code_of_a_counter_example_fails_as_it_says(backend_name: str, loss, dtype: str) -> None:
    message = refuted_by(loss, backend_name, dtype=dtype, options="reduction", tied=False)
    code = code_of(message)
    with pytest.raises(AssertionError, match="Not equal to tolerance"):
        exec(code, {loss.__name__: loss})
    code = re.sub(r"^from .* import .*\n", "", code, flags=re.MULTILINE)
    exec(code, {loss.__name__: right})  # and what is right passes


def test_every_wrong_output_is_listed_the_total_first(framework_name: str) -> None:
    lines = refuted_by(mean_for_sum, framework_name, tied=True).splitlines()
    names = [re.search(r"(\S+) is \S+ times its error bound", line) for line in lines]
    names = [name.group(1) for name in names if name]
    assert names[0] == "total" and set(names) <= {"total", "dz", "dhead.weight", "dhead.bias"}


def test_a_wrong_output_beside_the_total_is_shown(backend_torch: None) -> None:
    message = refuted_by(per_level_weighted, "torch")
    assert "float32): per_level is" in message
    with pytest.raises(AssertionError, match="Not equal to tolerance"):
        exec(code_of(message), {"per_level_weighted": per_level_weighted})


def test_a_wrong_gradient_is_shown_with_its_code(framework_name: str) -> None:
    def no_gradient(z, head, labels, nesting):
        stopped = {"torch": lambda x: x.detach(), "jax": _jax_stop, "tensorflow": _tensorflow_stop}[framework_name](z)
        return right(stopped, head, labels, nesting)

    message = refuted_by(no_gradient, framework_name)
    assert "float32): dz is" in message and "no gradient for the embeddings" in message
    with pytest.raises(AssertionError, match="Not equal to tolerance"):
        exec(code_of(message), {"no_gradient": no_gradient})


def _jax_stop(x):
    import jax

    return jax.lax.stop_gradient(x)


def _tensorflow_stop(x):
    import tensorflow as tf

    return tf.stop_gradient(x)


def test_an_error_of_the_loss_comes_with_the_problem() -> None:
    def fragile(z, head, labels, nesting):
        if len(nesting) > 1 and head[0].shape[0] > 2:
            raise RuntimeError("more than two classes")
        return right(z, head, labels, nesting)

    with pytest.raises(RuntimeError, match="more than two classes") as found:
        mrl.testing.check_loss(fragile, backend="numpy", tied=True, random_seed=0)
    (note,) = found.value.__notes__
    assert "nesting = mrl.Nesting((1, 2))" in note and "weight = np.array([[0.0, 0.0], [0.0, 0.0], [0.0, 0.0]]" in note
    with pytest.raises(RuntimeError, match="more than two classes"):
        exec(code_of(note), {"fragile": fragile})


@pytest.mark.parametrize("seed", range(4))
def test_counter_examples_are_small(seed: int) -> None:
    for loss in (mean_for_sum, bias_forgotten):
        with pytest.raises(AssertionError) as found:
            mrl.testing.check_loss(loss, backend="numpy", random_seed=seed, bias=True, tied=True)
        numbers = re.findall(
            r"(?<![\w.])-?\d+\.\d+(?:e-?\d+)?", str(found.value).split("nesting = ")[0].split("import")[-1]
        )
        assert len(numbers) <= 10 and set(numbers) <= {"0.0", "1.0"}, found.value


WEIGHTED = ("sample_weight", "class_weight", "level_weights")


def test_code_with_weights_and_soft_labels_runs(backend_name: str) -> None:
    def twice_the_weights(z, head, labels, nesting, level_weights=None, **options):
        if level_weights is not None:
            level_weights = level_weights * level_weights
        return right(z, head, labels, nesting, level_weights=level_weights, **options)

    message = refuted_by(twice_the_weights, backend_name, options=(*WEIGHTED, "soft"), tied=True)
    code = code_of(message)
    assert "level_weights=level_weights" in code and "sample_weight" not in code and "class_weight" not in code
    with pytest.raises(AssertionError, match="Not equal to tolerance"):
        exec(code, {"twice_the_weights": twice_the_weights})
