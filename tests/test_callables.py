"""Losses as their authors have them: modules, methods, partial and compiled functions, of any framework."""

import functools

import numpy as np
import pytest

import mrl
import mrl.testing
from mrl.testing.callables import import_of

NESTING = mrl.Nesting((2, 3, 5), (0.5, 2.0, 1.0))


def proved(loss, **options):
    row = mrl.testing.check_loss(loss, examples=6, random_seed=0, **options)
    assert row.worst <= 1
    return row


class Called:
    """An object with ``__call__``, written in NumPy."""

    def __call__(self, z, head, labels, nesting):
        return self.method(z, head, labels, nesting)

    def method(self, z, head, labels, nesting):
        assert isinstance(z, np.ndarray)
        return mrl.nested_cross_entropy(z, head, labels, nesting)


def scaled(z, head, labels, nesting, *, factor):
    assert isinstance(z, np.ndarray)
    return factor * mrl.nested_cross_entropy(z, head, labels, nesting).total


def test_objects_methods_and_partial_functions() -> None:
    assert proved(Called()).op == "Called"
    assert proved(Called().method).op == "method"
    assert proved(functools.partial(scaled, factor=1.0)).op == "scaled"
    with pytest.raises(AssertionError, match=r"scaled on numpy"):
        mrl.testing.check_loss(functools.partial(scaled, factor=2.0), random_seed=0)


def torch_modules():
    """A module of one's own, and the reference code's loss on logits."""
    import torch

    class Mine(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = torch.nn.CrossEntropyLoss()

        def forward(self, z, head, labels, nesting):
            pairs = zip(nesting.dims, nesting.weights, strict=True)
            return sum(w * self.inner(z[:, :m] @ head.weight[:, :m].T + head.bias, labels) for m, w in pairs)

    class MatryoshkaCELoss(torch.nn.Module):
        def __init__(self, relative_importance=None):
            super().__init__()
            self.criterion = torch.nn.CrossEntropyLoss()
            self.relative_importance = relative_importance

        def forward(self, output, target):
            losses = torch.stack([self.criterion(logits, target) for logits in output])
            if self.relative_importance is None:
                return losses.sum()
            return (torch.tensor(self.relative_importance) * losses).sum()

    return Mine, MatryoshkaCELoss


def test_modules_of_pytorch(backend_torch: None) -> None:
    mine, reference = torch_modules()
    row = proved(mine(), tied=True, bias=True)
    assert row.op == "Mine" and row.gradients
    assert proved(reference(), against="logits").gradients
    weighted = reference(relative_importance=NESTING.weights)
    assert proved(weighted, against="logits", nesting=NESTING).gradients
    with pytest.raises(AssertionError, match="this mistake would: the weights of the nesting ignored"):
        mrl.testing.check_loss(reference(), against="logits", nesting=NESTING, random_seed=0)


def test_a_refuted_loss_on_logits_comes_with_code(backend_torch: None) -> None:
    import torch.nn.functional as F

    def averaged(logits, labels):
        return sum(F.cross_entropy(level, labels) for level in logits) / len(logits)

    with pytest.raises(AssertionError, match="this mistake would: the mean over levels for their sum") as found:
        mrl.testing.check_loss(averaged, against="logits", random_seed=0)
    code = str(found.value)[str(found.value).index("import ") :]
    assert "z = torch.tensor([[0.0, 0.0]]" in code and "nesting = mrl.Nesting((1, 2))" in code, "as small as any other"
    with pytest.raises(AssertionError, match="Not equal to tolerance"):
        exec(code, {"averaged": averaged})


def test_compiled_functions_of_jax(backend_jax: None) -> None:
    import jax

    def loss(z, head, labels, nesting):
        return mrl.nested_cross_entropy(z, head, labels, nesting).total

    assert proved(jax.jit(loss, static_argnames="nesting"), tied=True).gradients
    with pytest.raises(TypeError, match=r"write jax.jit\(loss, static_argnames='nesting'\)"):
        mrl.testing.check_loss(jax.jit(loss), tied=True, examples=5)


def test_functions_and_losses_of_tensorflow(backend_tensorflow: None) -> None:
    import keras
    import tensorflow as tf

    @tf.function
    def loss(z, head, labels, nesting):
        return mrl.nested_cross_entropy(z, head, labels, nesting).total

    assert proved(loss, tied=True).gradients
    keras_loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    with pytest.raises(TypeError, match=r"takes \(y_true, y_pred\); hand over a function that calls it"):
        mrl.testing.check_loss(keras_loss)

    def levels(logits, labels):
        return tf.add_n([tf.reduce_mean(keras_loss(labels, level)) for level in logits])

    assert proved(levels, against="logits", backend="tensorflow").gradients


class SentenceTransformersLike:
    def forward(self, sentence_features, labels): ...

    def __call__(self, sentence_features, labels): ...


@pytest.mark.parametrize(
    ("loss", "options", "message"),
    [
        (lambda logits, labels: 0, {}, r"loss: expected to call .*\(z, head, labels, nesting\), .* against='logits'"),
        (lambda z, targets, nesting: 0, {}, "or hold it against='nested_cosine'"),
        (lambda z, head, labels, nesting: 0, {"options": "reduction"}, "reduction=.*, but it takes"),
        (SentenceTransformersLike(), {}, "got a loss of sentence-transformers, which runs its model"),
        (lambda y_true, y_pred: 0, {"against": "logits"}, r"for against='logits', lambda logits, labels:"),
    ],
    ids=["logits", "cosine", "options", "sentences", "keras"],
)
def test_what_takes_something_else_is_told_what_to_do(loss, options, message) -> None:
    with pytest.raises(TypeError, match=message):
        mrl.testing.check_loss(loss, backend="numpy", **options)


def test_one_option_and_dtypes_in_any_words(backend_name: str) -> None:
    from importlib import import_module

    framework = import_module("jax.numpy" if backend_name == "jax" else backend_name)
    row = proved(mrl.nested_cross_entropy, backend=backend_name, dtype=framework.float16, options="reduction")
    assert row.dtype == "float16"
    assert proved(mrl.nested_cross_entropy, backend=backend_name, dtype=np.float32).dtype == "float32"


def test_gradients_are_proved_or_it_is_said_that_they_are_not(backend_name: str) -> None:
    assert proved(mrl.nested_cross_entropy, backend=backend_name).gradients == (backend_name != "numpy")
    assert not proved(mrl.nested_cross_entropy, backend=backend_name, gradients=False).gradients
    with pytest.raises(ValueError, match="gradients: expected a framework that the kit can differentiate, got numpy"):
        mrl.testing.check_loss(mrl.nested_cross_entropy, backend="numpy", gradients=True)


def test_every_weight_and_soft_labels_are_options(backend_name: str, random_seed: int | None) -> None:
    options = ("label_smoothing", "reduction", "sample_weight", "class_weight", "level_weights", "soft", "leading")
    row = mrl.testing.check_loss(
        mrl.nested_cross_entropy, backend=backend_name, options=options, examples=24, random_seed=random_seed
    )
    assert row.worst <= 1 and row.examples >= 12


def test_how_a_loss_is_brought_into_a_script() -> None:
    def within(z, head, labels, nesting):
        """No name that another file could import."""

    assert import_of(mrl.nested_cross_entropy) == (
        "from mrl.losses import nested_cross_entropy",
        "nested_cross_entropy",
    )
    for loss, name in ((within, "within"), (lambda: None, "loss"), (functools.partial(within), "within"), (len, "len")):
        assert import_of(loss) == (f"# {name} is the loss under proof", name)
