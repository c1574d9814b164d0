"""What the checks of ``mrl.adapters.keras`` share; imported where Keras has its backend already."""

import os
import sys
from pathlib import Path

import keras
import numpy as np
from keras import ops
from mrl.adapters.keras import MatryoshkaModel

import mrl
from mrl import spec

FOLDER = Path(sys.argv[1]) if len(sys.argv) > 1 else Path()
BACKEND = os.environ.get("KERAS_BACKEND", "")
NESTING = mrl.Nesting((2, 3, 5), weights=(1.0, 0.5, 2.0))
ROWS, WIDTH, CLASSES = 10, 7, 4
CLOSE = {"rtol": 2e-5, "atol": 2e-6}  # float32, a few dozen roundings
# The quickest way to a few steps: JAX compiles one operation after the other otherwise.
EAGER = {"run_eagerly": BACKEND != "jax"}
RNG = np.random.default_rng(0)
X = RNG.normal(size=(ROWS, WIDTH)).astype("float32")
Z = RNG.normal(size=(ROWS, NESTING.width)).astype("float32")
LABELS = np.array([0, 3, 1, 1, 2, 0, 3, 3, 2, 1])
SAMPLES = np.linspace(0.25, 2.0, ROWS).astype("float32")
SOFT = RNG.dirichlet(np.ones(CLASSES), size=ROWS).astype("float32")


def array(x):
    return np.asarray(ops.convert_to_numpy(x))


def same(found, expected, **close):
    np.testing.assert_allclose(array(found), expected, **(close or CLOSE))


def encoder(**kw):
    return keras.Sequential([keras.Input((WIDTH,)), keras.layers.Dense(NESTING.width, activation="tanh", **kw)])


def made(tied=False, seed=3, **kw):
    keras.utils.set_random_seed(seed)
    model = MatryoshkaModel(encoder(), NESTING, CLASSES, tied=tied, **kw)
    model.build((None, WIDTH))
    return model


def host(layer):
    return mrl.convert(layer.head, "numpy")


def mean_of(model, x=X, labels=LABELS, sample_weight=None, **options):
    """Keras' mean, from the specification: the sum over the examples in use, divided by their number."""
    z, ignored = array(model.encoder(x)), options.get("ignore_index")
    used = len(labels) if ignored is None else int((labels != ignored).sum())
    if sample_weight is not None:
        options["sample_weight"] = sample_weight
    return spec.nested_cross_entropy(z, host(model.head), labels, NESTING, reduction="sum", **options).total / used


def logits_of(seed=0):
    return np.random.default_rng(seed).normal(size=(ROWS, len(NESTING), CLASSES)).astype("float32")
