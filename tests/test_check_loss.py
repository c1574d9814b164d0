"""Losses of users under proof: what is right passes, what is wrong is found, with an example that one can read."""

import numpy as np
import pytest

import mrl
import mrl.testing
from mrl.heads import head_leaves

OPTIONS = ("label_smoothing", "ignore_index", "reduction", "leading")


# Losses that people write, right and wrong, in NumPy; the pages of the documentation have them in PyTorch.
def cross_entropy(logits, labels):
    shifted = logits - logits.max(-1, keepdims=True)
    with np.errstate(under="ignore"):  # the sums of exponentials lose nothing, as strict as NumPy may be set
        lse = np.log(np.exp(shifted).sum(-1))
    return np.mean(lse - np.take_along_axis(shifted, labels[:, None].astype(int), -1)[:, 0])


def level(z, head, g, m):
    if isinstance(head, mrl.TiedHead):
        product, bias = z[:, :m] @ head.weight[:, :m].T, head.bias
    else:
        product, bias = z[:, :m] @ head.weights[g].T, head.biases[g] if head.biases else None
    return product if bias is None else product + bias


def right(z, head, labels, nesting):
    pairs = zip(nesting.dims, nesting.weights, strict=True)
    return sum(w * cross_entropy(level(z, head, g, m), labels) for g, (m, w) in enumerate(pairs))


def mean_for_sum(z, head, labels, nesting):
    return right(z, head, labels, nesting) / len(nesting)


def shared_slice(z, head, labels, nesting):
    return sum(w * cross_entropy(level(z, head, 0, nesting.dims[0]), labels) for w in nesting.weights)


def weight_twice(z, head, labels, nesting):
    return right(z, head, labels, mrl.Nesting(nesting.dims, [w * w for w in nesting.weights]))


def cosine(z, targets, nesting, *, each=True):
    total = 0.0
    for m, w in zip(nesting.dims, nesting.weights, strict=True):
        a, b = ((mrl.truncate(x, m) if each else mrl.truncate(x, x.shape[-1])[:, :m]) for x in (z, targets))
        total += w * np.mean(1 - (a * b).sum(-1))
    return total


def unnormalised_prefix(z, targets, nesting):
    return cosine(z, targets, nesting, each=False)


def test_check_loss_passes_what_is_right(random_seed: int | None) -> None:
    assert mrl.testing.check_loss(right, random_seed=random_seed).worst <= 1
    assert mrl.testing.check_loss(cosine, against="nested_cosine", random_seed=random_seed).worst <= 1


@pytest.mark.parametrize(
    ("loss", "options"),
    [
        (mean_for_sum, {}),
        (shared_slice, {"tied": True}),
        (weight_twice, {}),
        (unnormalised_prefix, {"against": "nested_cosine"}),
    ],
)
def test_check_loss_finds_the_classic_mistakes(loss, options) -> None:
    with pytest.raises(AssertionError, match=rf"{loss.__name__} on numpy .* times its error bound .*(\n|.)*nesting = "):
        mrl.testing.check_loss(loss, **options)


def test_of_two_mistakes_one_is_shown(backend_torch: None) -> None:
    def loss(z, head, labels, nesting):
        if head.weight.shape[0] == 1:
            raise RuntimeError("no classes to tell apart")
        return mrl.nested_cross_entropy(z, head, labels, mrl.Nesting(nesting.dims)).total

    with pytest.raises((AssertionError, RuntimeError)):  # and no group of both
        mrl.testing.check_loss(loss, tied=True, backend="torch", random_seed=0)


def test_check_loss_takes_every_option(backend_name: str, random_seed: int | None) -> None:
    row = mrl.testing.check_loss(
        mrl.nested_cross_entropy, backend=backend_name, options=OPTIONS, examples=30, random_seed=random_seed
    )
    assert row.worst <= 1 and row.examples >= 30


def wrong_when(condition):
    """A loss in JAX, whose problems come from a pool, that is twice too large where ``condition`` holds."""

    def loss(z, head, labels, nesting, **options):
        total = mrl.nested_cross_entropy(z, head, labels, nesting, **options).total
        return 2 * total if condition(z, head_leaves(head)[0].shape[0], nesting, options) else total

    return loss


@pytest.mark.parametrize(
    ("condition", "options"),
    [
        (lambda z, classes, nesting, options: len(z) > 3, ()),
        (lambda z, classes, nesting, options: classes > 4, ()),
        (lambda z, classes, nesting, options: z.shape[-1] > nesting.width, ()),
        (lambda z, classes, nesting, options: z.ndim != 2, ("leading",)),
        (lambda z, classes, nesting, options: options["label_smoothing"] >= 0.5, ("label_smoothing",)),
        (lambda z, classes, nesting, options: options["ignore_index"] == 0, ("ignore_index",)),
    ],
    ids=["rows", "classes", "width", "leading", "smoothing", "ignored"],
)
def test_the_pool_of_jax_finds_mistakes_in_corners(backend_jax: None, condition, options) -> None:
    with pytest.raises(AssertionError, match="times its error bound"):
        mrl.testing.check_loss(wrong_when(condition), backend="jax", options=options, random_seed=0)


def test_a_zero_prefix_is_no_matter_of_the_cosine(backend_torch: None) -> None:
    import torch

    def loss(z, targets, nesting):
        return sum(
            w * (1 - torch.nn.functional.cosine_similarity(z[:, :m], targets[:, :m])).mean()
            for m, w in zip(nesting.dims, nesting.weights, strict=True)
        )

    for seed in range(3):
        assert mrl.testing.check_loss(loss, against="nested_cosine", random_seed=seed).worst <= 1


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda total: (total, None), r"expected an array of shape \(\) or an mrl.NestedLoss, got tuple"),
        (lambda total: total.item(), r"expected an array of shape \(\) .*, got float"),
        (lambda total: None, "got NoneType"),
        (lambda total: total[None], r"expected a loss of shape \(\), got \(1,\)"),
        (lambda total: total.detach(), "expected a loss that carries a gradient"),
    ],
    ids=["tuple", "number", "nothing", "shape", "detached"],
)
def test_what_is_no_loss_is_told_so(backend_torch: None, change, message) -> None:
    def loss(z, head, labels, nesting):
        return change(mrl.nested_cross_entropy(z, head, labels, nesting).total)

    with pytest.raises(AssertionError, match=message):
        mrl.testing.check_loss(loss, backend="torch", examples=5)


def test_a_counter_example_names_the_entry_and_is_whole() -> None:
    def loss(z, head, labels, nesting):
        return right(z, head, labels, nesting) + 1.0 * (z.shape[-1] > 7)

    with pytest.raises(AssertionError, match=r"\(\S+ for \S+ within \S+\)") as found:
        mrl.testing.check_loss(loss, random_seed=0)
    assert "..." not in str(found.value)


def test_few_examples_are_enough_for_a_right_backend() -> None:
    assert mrl.testing.check_backend("numpy", ops=["nested_cross_entropy"], dtypes=["float32"], examples=3)


def test_check_loss_refuses() -> None:
    with pytest.raises(TypeError, match="loss: expected a function"):
        mrl.testing.check_loss(3)
    with pytest.raises(ValueError, match="against: expected names of"):
        mrl.testing.check_loss(right, against="triplet")
    with pytest.raises(ValueError, match="options: expected names of"):
        mrl.testing.check_loss(right, options=("temperature",))
    with pytest.raises(ValueError, match="backend: expected to read one framework off the code"):
        mrl.testing.check_loss(lambda z, head, labels, nesting: 0.0)
    with pytest.raises(ValueError, match="dtype: expected one of"):
        mrl.testing.check_loss(right, dtype="int8")
    with pytest.raises(ValueError, match="options: expected only 'leading'"):
        mrl.testing.check_loss(cosine, against="nested_cosine", options=("reduction",))
    with pytest.raises(TypeError, match="tied: expected True or False"):
        mrl.testing.check_loss(right, tied="yes")
    for check in (mrl.testing.check_loss, mrl.testing.check_backend):
        with pytest.raises(ValueError, match="examples: expected an integer of at least 1"):
            check(right if check is mrl.testing.check_loss else "numpy", examples=0)
