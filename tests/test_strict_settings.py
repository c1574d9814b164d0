"""Under ``np.seterr(all="raise")`` what is harmless raises nothing: underflow, excluded classes, ends of the range."""

import numpy as np
import pytest
from transform_cases import HEAD, LABELS, NESTING, Z

import mrl
import mrl.testing
from mrl import spec

EXCLUDING = mrl.TiedHead(HEAD.weight, np.array([0.0, -np.inf, 1e-30], np.float32))
LARGE = 300 * Z  # whose softmax underflows


@pytest.fixture
def strict():
    with np.errstate(all="raise"):
        yield


@pytest.mark.parametrize("scale", [1e-40, 1e-30, 1e38])
def test_truncate(backend_name, strict, scale):
    z = mrl.convert(np.full((2, 3), scale, np.float32), backend_name)
    for normalize in (True, False):
        mrl.truncate(z, 2, normalize=normalize)


@pytest.mark.parametrize("fused", [True, False])
def test_losses(backend_name, strict, fused):
    z, head, labels = (mrl.convert(x, backend_name) for x in (LARGE, EXCLUDING, 0 * LABELS))
    for options in ({}, {"ignore_index": 2, "reduction": "none"}):
        assert np.isfinite(
            np.asarray(mrl.nested_cross_entropy(z, head, labels, NESTING, fused=fused, **options).total)
        ).all(), options
    mrl.nested_accuracy(mrl.nested_logits(z, head, NESTING), labels, (1, 2))


@pytest.mark.parametrize("confidence", ["probability", "margin", "entropy"])
@pytest.mark.parametrize("temperatures", [None, (1e-300, 1e300, 0.01)])
def test_cascades(backend_name, strict, confidence, temperatures):
    policy = mrl.CascadePolicy((1e-40, 0.5), NESTING.dims, confidence=confidence, temperatures=temperatures)
    z, head = (mrl.convert(x, backend_name) for x in (LARGE, HEAD))
    found = mrl.cascade_predict(z, head, policy)
    np.testing.assert_array_equal(np.asarray(found.labels), spec.cascade_predict(LARGE, HEAD, policy).labels)
    logits = mrl.nested_logits(z, head, NESTING)
    np.testing.assert_array_equal(np.asarray(mrl.cascade_exit(logits, policy, logits=True).labels), found.labels)


def test_proofs(strict):
    """What the kit draws is rounded to half precision, where the smallest numbers are subnormal or nothing."""
    mrl.testing.check_backend("numpy", ops=["truncate", "cascade_predict"], dtypes=["float16"], random_seed=0)
