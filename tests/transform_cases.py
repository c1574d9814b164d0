"""What the tests of each framework's transforms share: one small problem, and its answers by the specification."""

import numpy as np
import pytest

import mrl
from mrl import spec

NESTING = mrl.Nesting((2, 3, 5), weights=(1.0, 0.5, 2.0))
RNG = np.random.default_rng(7)
Z = RNG.normal(size=(4, 6)).astype(np.float32)
HEAD = mrl.TiedHead(RNG.normal(size=(3, 6)).astype(np.float32), RNG.normal(size=3).astype(np.float32))
LABELS = np.array([0, 2, 1, 1], np.int32)
LOSS = spec.nested_cross_entropy(Z, HEAD, LABELS, NESTING)
GRADIENT = spec.nested_cross_entropy_vjp(Z, HEAD, LABELS, NESTING, np.ones(()))[0]
CLOSE = {"rtol": 2e-5, "atol": 2e-6}  # the bounds are test_proof's; here only the transform is in question
FUSED = pytest.mark.parametrize("fused", [True, False])
REFUSAL = "differentiable once, in reverse; .* fused=False"


def energy(x):
    return x[..., 0] * x[..., -1]


def functions(convert):
    """Each public function as a function of ``z`` alone, and its value by the specification."""
    head, labels = convert(HEAD), convert(LABELS)
    nested = mrl.nested(energy, NESTING, normalize=True)
    return {
        "truncate": (lambda z: mrl.truncate(z, 3), spec.truncate(Z, 3)),
        "nested_logits": (lambda z: mrl.nested_logits(z, head, NESTING), spec.nested_logits(Z, HEAD, NESTING)),
        "fused": (lambda z: mrl.nested_cross_entropy(z, head, labels, NESTING).total, LOSS.total),
        "composed": (lambda z: mrl.nested_cross_entropy(z, head, labels, NESTING, fused=False).total, LOSS.total),
        "nested": (
            nested,
            sum(w * energy(spec.truncate(Z, m)) for m, w in zip(NESTING.dims, NESTING.weights, strict=True)),
        ),
    }


NAMES = ["truncate", "nested_logits", "fused", "composed", "nested"]
