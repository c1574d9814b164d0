"""What the tests of ``mrl.adapters.torch`` share."""

import numpy as np
import pytest

import mrl

NESTING = mrl.Nesting((2, 3, 5), weights=(1.0, 0.5, 2.0))
CLASSES = 4
LABELS = np.array([0, 3, 1, 1, 2, 0])
CLOSE = {"rtol": 1e-5, "atol": 1e-6}
KINDS = pytest.mark.parametrize(
    ("tied", "bias"), [(False, True), (True, True), (False, False), (True, False)], ids=["mrl", "mrl-e", "mrl-", "e-"]
)
TIED = pytest.mark.parametrize("tied", [False, True])


def embeddings():
    import torch

    torch.manual_seed(0)
    return torch.randn(len(LABELS), NESTING.width), torch.from_numpy(LABELS)


def made(tied=False, bias=True, **kw):
    import torch
    from mrl.adapters.torch import MatryoshkaHead

    torch.manual_seed(1)
    return MatryoshkaHead(NESTING, CLASSES, tied=tied, bias=bias, **kw)


def gradients(head):
    return {name: parameter.grad for name, parameter in head.named_parameters()}
