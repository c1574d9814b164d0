"""A wrong loss is told which mistake it makes, that one alone; and of a mistake that is not known, none."""

import re

import numpy as np
import pytest

import mrl
import mrl.testing
from mrl.testing.bounds import nested_cosine, nested_cross_entropy
from mrl.testing.case import Case, Diagnosis
from mrl.testing.cross_entropy.mistakes import (
    COSINE,
    COSINE_MISTAKES,
    MISTAKES,
    Steps,
    cosine_diagnosis,
    cross_entropy_diagnosis,
)
from mrl.testing.diagnosis import gradient_of, mistakes_of, value_of
from mrl.testing.drivers import Result

ALL = ("label_smoothing", "ignore_index", "reduction")


def named(total, diagnosis: Diagnosis, *, head: bool, gradients: bool = True, dtype: str = "float32") -> list[str]:
    """The mistakes named for a loss that is a specification itself."""
    expected = nested_cross_entropy if head else nested_cosine
    case = Case("loss", list, expected, (), lambda *_: None, head=head, diagnosis=diagnosis)

    def run(problem):
        arrays = case.arrays(problem)
        found = [gradient_of(total, problem, arrays, place) for place in range(len(arrays))] if gradients else None
        return Result([value_of(total, problem, arrays)], found, [], [])

    return mistakes_of(case, dtype, run)


@pytest.mark.parametrize("name", MISTAKES)
def test_each_mistake_is_told_from_all_others(name: str) -> None:
    assert named(MISTAKES[name], cross_entropy_diagnosis(tied=None, bias=None, options=ALL), head=True) == [name]


@pytest.mark.parametrize("name", COSINE_MISTAKES)
def test_each_mistake_of_a_cosine_is_told_from_all_others(name: str) -> None:
    assert named(COSINE_MISTAKES[name], cosine_diagnosis(), head=False) == [name]


def test_what_is_right_is_no_mistake() -> None:
    diagnosis = cross_entropy_diagnosis(tied=True, bias=True, options=ALL)
    assert named(Steps(), diagnosis, head=True) == []
    assert named(COSINE, cosine_diagnosis(), head=False) == []


@pytest.mark.parametrize("factor", [1.001, 3.0])
def test_another_mistake_has_no_name(factor: float) -> None:
    diagnosis = cross_entropy_diagnosis(tied=None, bias=None, options=ALL)
    assert named(lambda problem, arrays: factor * Steps()(problem, arrays), diagnosis, head=True) == []


def test_steps_without_a_mistake_are_the_specification() -> None:
    for problem in cross_entropy_diagnosis(tied=None, bias=None, options=ALL).problems("float64"):
        arrays = [problem.z, *mrl.heads.head_leaves(problem.head)]
        bounded = list(nested_cross_entropy(problem).items())
        for (name, (value, bound)), place in zip([bounded[0], *bounded[2:]], [None, *range(len(arrays))], strict=True):
            found = (
                value_of(Steps(), problem, arrays) if place is None else gradient_of(Steps(), problem, arrays, place)
            )
            assert np.all(np.abs(found - value) <= bound), name


# Wrong losses as people write them: in PyTorch, level by level, each with one mistake.
def level(z, head, g, m):
    import torch.nn.functional as F

    if isinstance(head, mrl.TiedHead):
        return F.linear(z[:, :m], head.weight[:, :m], head.bias)
    return F.linear(z[:, :m], head.weights[g], head.biases[g] if head.biases else None)


def summed(of):
    """A loss from that of a level."""

    def loss(z, head, labels, nesting, **options):
        pairs = enumerate(zip(nesting.dims, nesting.weights, strict=True))
        return sum(w * of(z, head, labels, g, m, nesting, **options) for g, (m, w) in pairs)

    return loss


def entropy(logits, labels, **options):
    import torch.nn.functional as F

    return F.cross_entropy(logits, labels, **options)


def of_logits(change):
    """A loss with a mistake in the logits of a level."""
    return summed(lambda z, head, labels, g, m, nesting: entropy(change(z, head, g, m, nesting), labels))


def bias_of(head, g):
    biases = (head.bias,) if isinstance(head, mrl.TiedHead) else head.biases or (None,) * (g + 1)
    bias = biases[0] if isinstance(head, mrl.TiedHead) else biases[g]
    return 0.0 if bias is None else bias


def right(z, head, labels, nesting, **options):
    return summed(lambda z, head, labels, g, m, nesting: entropy(level(z, head, g, m), labels, **options))(
        z, head, labels, nesting
    )


def detached_narrow(z, head, labels, nesting):
    each = [entropy(level(z, head, g, m), labels) for g, m in enumerate(nesting.dims)]
    each = [loss.detach() for loss in each[:-1]] + each[-1:]
    return sum(w * loss for w, loss in zip(nesting.weights, each, strict=True))


def smoothing_over_others(z, head, labels, nesting, label_smoothing):
    import torch

    def of_level(z, head, labels, g, m, nesting):
        log_p = torch.log_softmax(level(z, head, g, m), -1)
        others = log_p.shape[-1] - 1
        target = torch.full_like(log_p, label_smoothing / max(others, 1))
        target.scatter_(1, labels[:, None], 1 - label_smoothing)
        return -(target * log_p).sum(-1).mean()

    return summed(of_level)(z, head, labels, nesting)


def ignored_counted(z, head, labels, nesting, ignore_index):
    ignore_index = -12345 if ignore_index is None else ignore_index
    return summed(
        lambda z, head, labels, g, m, nesting: (
            entropy(level(z, head, g, m), labels, ignore_index=ignore_index, reduction="sum") / len(labels)
        )
    )(z, head, labels, nesting)


WRITTEN = {
    "the mean over levels for their sum": lambda z, head, y, n: right(z, head, y, n) / len(n.dims),
    "the weights of the nesting ignored": lambda z, head, y, n: right(z, head, y, mrl.Nesting(n.dims)),
    "the weights of the nesting applied twice": lambda z, head, y, n: right(
        z, head, y, mrl.Nesting(n.dims, [w * w for w in n.weights])
    ),
    "the levels divided by the sum of their weights": lambda z, head, y, n: right(z, head, y, n) / sum(n.weights),
    "the sum over rows for their mean, or their mean for their sum": lambda z, head, y, n: right(
        z, head, y, n, reduction="sum"
    ),
    "labels off by one": lambda z, head, y, n: right(z, head, (y + 1) % mrl.heads.head_classes(head), n),
    "logarithms to base 2": lambda z, head, y, n: right(z, head, y, n) / np.log(2),
    "softmax taken twice": of_logits(lambda z, head, g, m, n: level(z, head, g, m).softmax(-1)),
    "the bias added once a block": of_logits(
        lambda z, head, g, m, n: level(z, head, g, m) + sum(bias_of(head, g) for _ in range(g))
    ),
    "the bias left out": of_logits(lambda z, head, g, m, n: level(z, head._replace(bias=None), g, m)),
    "blocks for prefixes": of_logits(
        lambda z, head, g, m, n: (
            z[:, n.blocks[g][0] : m] @ head.weight[:, n.blocks[g][0] : m].T + (0 if head.bias is None else head.bias)
        )
    ),
    "the first slice for all levels": of_logits(lambda z, head, g, m, n: level(z, head, 0, n.dims[0])),
    "slices that end one early": of_logits(
        lambda z, head, g, m, n: z[:, : m - 1] @ head.weight[:, : m - 1].T + bias_of(head, g)
    ),
    "prefixes normalised": of_logits(lambda z, head, g, m, n: level(mrl.truncate(z, m), head, g, m)),
    "logits divided by the square root of the dimensions": of_logits(
        lambda z, head, g, m, n: level(z, head, g, m) / m**0.5
    ),
    "the last level counted twice": lambda z, head, y, n: (
        right(z, head, y, n) + entropy(level(z, head, len(n) - 1, n.width), y)
    ),
    "no gradient from the narrower levels": detached_narrow,
    "no gradient for the head": lambda z, head, y, n: right(
        z,
        type(head)(
            *(x if x is None else tuple(y.detach() for y in x) if isinstance(x, tuple) else x.detach() for x in head)
        ),
        y,
        n,
    ),
    "label smoothing over the other classes alone": smoothing_over_others,
    "ignored rows counted in the mean": ignored_counted,
}

TIED = {"the bias left out", "blocks for prefixes", "the first slice for all levels", "slices that end one early"}


@pytest.mark.parametrize("name", WRITTEN)
def test_the_mistake_is_named_alone(backend_torch: None, name: str) -> None:
    options = {smoothing_over_others: "label_smoothing", ignored_counted: "ignore_index"}.get(WRITTEN[name], ())
    with pytest.raises(AssertionError) as refuted:
        mrl.testing.check_loss(
            WRITTEN[name], backend="torch", tied=True if name in TIED else None, options=options, random_seed=0
        )
    assert re.findall("computes what this mistake would: (.*)\\.\n", str(refuted.value)) == [name]


def test_mistakes_that_are_none_of_these_name_none(backend_torch: None) -> None:
    for loss in (
        lambda z, head, labels, nesting: right(z, head, labels, nesting) * 1.001,
        lambda z, head, labels, nesting: right(z, head, labels, nesting) + 0.1 * (z * z).mean(),
        lambda z, head, labels, nesting: right(z * (1 + 0.5 * (len(z) == 2)), head, labels, nesting),
    ):
        with pytest.raises(AssertionError) as refuted:
            mrl.testing.check_loss(loss, backend="torch", random_seed=0)
        assert "mistake" not in str(refuted.value)
