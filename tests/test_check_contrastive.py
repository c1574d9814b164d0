"""``check_loss(against="nested_contrastive")``: right losses pass, wrong ones get a small counter-example that runs."""

import numpy as np
import pytest

import mrl
import mrl.testing

ALL = ("symmetric", "negatives", "exclude", "temperature", "similarity", "reduction")


def test_our_own_passes_with_all_options(framework_name, random_seed):
    row = mrl.testing.check_loss(
        mrl.nested_contrastive,
        backend=framework_name,
        against="nested_contrastive",
        options=ALL,
        examples=30,
        random_seed=random_seed,
    )
    assert row.worst <= 1 and row.gradients and row.nonzero > 10


def a_loop(anchors, positives, nesting):
    import torch
    import torch.nn.functional as F

    total = 0
    for m, weight in zip(nesting.dims, nesting.weights, strict=True):
        s = F.normalize(anchors[:, :m], dim=1) @ F.normalize(positives[:, :m], dim=1).T / 0.05
        total = total + weight * F.cross_entropy(s, torch.arange(len(s)))
    return total


def normalised_before_cutting(anchors, positives, nesting):
    import torch
    import torch.nn.functional as F

    a, p = F.normalize(anchors, dim=1), F.normalize(positives, dim=1)
    losses = (F.cross_entropy(a[:, :m] @ p[:, :m].T / 0.05, torch.arange(len(a))) for m in nesting.dims)
    return sum(weight * loss for weight, loss in zip(nesting.weights, losses, strict=True))


def test_a_loop_over_levels_passes(backend_torch, random_seed):
    row = mrl.testing.check_loss(
        a_loop, backend="torch", against="nested_contrastive", examples=40, random_seed=random_seed
    )
    assert row.worst <= 1 and row.gradients


def test_a_wrong_one_gets_a_small_counter_example(backend_torch, random_seed):
    with pytest.raises(AssertionError) as found:
        mrl.testing.check_loss(
            normalised_before_cutting,
            backend="torch",
            against="nested_contrastive",
            examples=40,
            random_seed=random_seed,
        )
    text = str(found.value)
    assert "total is" in text and "nesting = mrl.Nesting((1,))" in text
    code = text.partition("to be run:")[2]
    code = "\n".join(line for line in code.splitlines() if "import normalised_before_cutting" not in line)
    with pytest.raises(AssertionError, match="Not equal to tolerance"):
        exec(compile(code, "counter-example", "exec"), {"normalised_before_cutting": normalised_before_cutting})


def test_options_of_another_loss_are_refused():
    with pytest.raises(ValueError, match=r"options: expected names of .*'symmetric'.*got 'label_smoothing'"):
        mrl.testing.check_loss(
            mrl.nested_contrastive, backend="numpy", against="nested_contrastive", options="label_smoothing"
        )


def test_values_alone_in_numpy():
    row = mrl.testing.check_loss(mrl.nested_contrastive, backend="numpy", against="nested_contrastive", examples=20)
    assert row.worst <= 1 and not row.gradients
    assert np.isfinite(row.worst)
