"""A small map that makes frozen embeddings nested, trained with the nested contrastive loss."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from .. import checks
from ..dispatch import backend_named, unwrap
from ..heads import Array
from ..nesting import Nesting, is_number, to_float
from ..porting.convert import convert
from ..retrieval.arguments import tracker
from .gradients import Step, step_of
from .linear import beside, linear
from .pairs import Pairs, make_pairs

HELD_OUT = 0.1
"""Of the pairs: those that say which epoch was the best."""

BETAS, EPSILON = (0.9, 0.999), 1e-8


class Adaptor(NamedTuple):
    """A map with one hidden layer beside the identity: ``x + W_2 relu(W_1 x + b_1) + b_2``.

    Calling it works in any framework, and is differentiable: what was fitted may be NumPy's, and is carried over;
    ``mrl.convert(adaptor, "jax")`` does so once.

    Attributes:
        hidden_weight: ``W_1``, ``(H, D)``.
        hidden_bias: ``b_1``, ``(H,)``.
        weight: ``W_2``, ``(D, H)``.
        bias: ``b_2``, ``(D,)``.

    Example:
        >>> import mrl, numpy as np
        >>> nothing = mrl.Adaptor(np.ones((3, 4)), np.zeros(3), np.zeros((4, 3)), np.zeros(4))
        >>> nothing(np.eye(4)).tolist() == np.eye(4).tolist()
        True

    Source: arXiv 2407.20243, "Unsupervised Matryoshka-Adaptor": a map with a skip connection.
    """

    hidden_weight: Array
    hidden_bias: Array
    weight: Array
    bias: Array

    def __call__(self, x: Array) -> Array:
        """``(..., D)`` of the same width, in the dtype of float32 or float64 embeddings."""
        x, (first, first_bias, second, second_bias) = beside(x, "x", self, self.hidden_weight.shape[-1])
        if checks.dtype_name(x) not in ("float32", "float64"):
            raise TypeError(f"x: expected float32 or float64, got {checks.dtype_name(x)}; cast it first")
        hidden = linear(x, first, first_bias)
        return x + linear((abs(hidden) + hidden) / 2, second, second_bias)


def fit_adaptor(
    embeddings: Array,
    targets: Array | None,
    nesting: Nesting,
    *,
    backend: str = "numpy",
    hidden: int | None = None,
    epochs: int = 20,
    batch_size: int = 256,
    rate: float = 1e-3,
    temperature: float = 0.05,
    neighbours: int = 10,
    seed: int = 0,
    progress: bool = False,
) -> Adaptor:
    """Train a small residual map on frozen embeddings so that their prefixes are good embeddings.

    Minimises ``nested_contrastive(f(x_a), f(x_p), nesting, symmetric=True)`` over pairs ``(a, p)`` that belong
    together, with ``f`` an :class:`Adaptor`, by Adam. It begins at the identity, and what is returned is the epoch with
    the smallest loss on a tenth of the pairs that takes no part in the training, the beginning included: on these it
    is never worse than doing nothing. A pair of the batch that is known to belong together is no negative.

    What the pairs are, ``targets`` says:

    - ``(P, 2)`` integers, rows of ``embeddings`` that belong together: a query and its answer, say.
    - ``(N,)`` labels, of any type: rows of one class belong together, drawn anew in each epoch.
    - ``None``: a row and one of its ``neighbours`` nearest at full width, which prefixes then learn to keep.

    Where it helps: at few dimensions, for models that were not trained nested, most of all on what a rotation
    (:func:`fit_rotation`) has ordered, ``fit_adaptor(rotation(x), None, nesting)``; with pairs or labels it learns the
    task too. Where not: from some size on it keeps fewer of the model's own neighbours than a rotation alone, and some
    are lost at full width; with few pairs it learns these. ``docs/posthoc.md`` has figures, and
    ``mrl.report(x, transforms={"adaptor": adaptor})`` yours.

    Args:
        embeddings: ``(N, D)`` floating, of any framework; half precision is widened.
        targets: as above.
        nesting: whose largest granularity is at most ``D``.
        backend: who computes losses and gradients: ``"numpy"`` is the specification; ``"torch"``, ``"jax"`` and
            ``"tensorflow"`` are faster.
        hidden: ``H``, the width of the hidden layer; ``None`` is ``D``.
        epochs: passes over the pairs.
        batch_size: pairs of a step.
        rate: of Adam, relative to the root mean square of an entry of the embeddings.
        temperature: of the loss.
        neighbours: of a row, where there are no targets.
        seed: of weights, pairs and their order.
        progress: show a bar (needs tqdm).

    Returns:
        An :class:`Adaptor` in NumPy, float64 for float64 embeddings and float32 for others.

    Raises:
        TypeError: embeddings that are not floating, or targets of another kind.
        ValueError: shapes that do not fit, embeddings that are not finite or all zero, pairs out of range, labels of
            which no two are equal, fewer than 2 pairs, or an option out of range.
        RuntimeError: the loss became NaN or infinite.
        ImportError: the backend, or tqdm, is not installed.

    Example:
        >>> import mrl, numpy as np
        >>> rng = np.random.default_rng(0)
        >>> labels = rng.integers(0, 20, 400)
        >>> x = (rng.normal(size=(20, 32))[labels] + rng.normal(size=(400, 32))).astype(np.float32)
        >>> adaptor = mrl.fit_adaptor(x, labels, mrl.Nesting((8, 32)), epochs=20, batch_size=64)
        >>> def precision(z):
        ...     nearest = mrl.search(z, z, k=2, dim=8).indices[:, 1:]
        ...     return mrl.metrics.precision_at_k(nearest, (labels, labels), 1)
        >>> bool(precision(adaptor(x)) > precision(x) + 0.2)
        True

    Source: arXiv 2407.20243, "Unsupervised Matryoshka-Adaptor" and "Supervised Matryoshka-Adaptor", which add losses
    over pairs of similarities and rank; this one has the nested contrastive loss in their place.
    """
    checks.check_nesting(nesting)
    for name, value in (("epochs", epochs), ("neighbours", neighbours)):
        checks.check_integer(name, value, at_least=1)
    checks.check_integer("batch_size", batch_size, at_least=2)
    checks.check_integer("seed", seed, at_least=0)
    rate, temperature = (_positive(name, value) for name, value in (("rate", rate), ("temperature", temperature)))
    backend_named(backend)  # says which there are
    x = _rows(embeddings, nesting)
    scale = float(np.sqrt(np.mean(np.square(x, dtype=np.float64))))
    if not 0 < scale < np.inf:
        raise ValueError("embeddings: expected finite numbers that are not all zero, got others; leave such rows out")
    unit = x.dtype.type(scale)
    x = x / unit
    width = x.shape[1]
    hidden = width if hidden is None else checks.check_integer("hidden", hidden, at_least=1)
    rng = np.random.default_rng(seed)
    pairs, held_out = make_pairs(x, targets, neighbours, rng).parted(HELD_OUT, rng)
    parameters = [
        (rng.normal(size=(hidden, width)) / np.sqrt(width)).astype(x.dtype),
        np.zeros(hidden, x.dtype),
        np.zeros((width, hidden), x.dtype),
        np.zeros(width, x.dtype),
    ]
    step, size = step_of(backend, nesting, temperature, _embed), min(batch_size, len(pairs))
    best, least = [p.copy() for p in parameters], _loss(step, parameters, x, held_out, size)
    moments = [(np.zeros_like(p), np.zeros_like(p)) for p in parameters]
    count = 0
    for _ in tracker(progress, "adaptor")(range(epochs)):
        for batch in pairs.batches(size, rng):
            loss, gradients = step(parameters, *batch.of(x))
            if not np.isfinite(loss):
                raise RuntimeError(f"rate: the loss became {loss} at step {count + 1} with rate={rate}; lower it")
            count += 1
            _adam(parameters, gradients, moments, rate, count)
        loss = _loss(step, parameters, x, held_out, size)
        if loss < least:
            best, least = [p.copy() for p in parameters], loss
    first, first_bias, second, second_bias = best
    # It was trained on embeddings of unit size.
    return Adaptor(
        first / x.dtype.type(scale), first_bias, second * x.dtype.type(scale), second_bias * x.dtype.type(scale)
    )


def _embed(parameters: Sequence[Any], x: Array) -> Array:
    return Adaptor(*parameters)(x)


def _rows(embeddings: Any, nesting: Nesting) -> NDArray[Any]:
    x = unwrap(embeddings)
    checks.check_floating("embeddings", x)
    shape = checks.shape_of("embeddings", x)
    if len(shape) != 2:
        raise ValueError(f"embeddings: expected (N, D), got {shape}; flatten the leading axes")
    checks.check_embedding("embeddings", x, nesting.width)
    x = np.asarray(convert(x, "numpy"))
    x = x if x.dtype in (np.float32, np.float64) else x.astype(np.float32)
    if not np.isfinite(x).all():
        place = int(np.flatnonzero(~np.isfinite(x).all(1))[0])
        raise ValueError(f"embeddings: expected finite numbers, got others in row {place}; leave such rows out")
    return x


def _positive(name: str, value: Any) -> float:
    if not is_number(value):
        raise TypeError(f"{name}: expected a number above 0, got {type(value).__name__}; write it as a float")
    found = to_float(value)
    if not 0 < found < np.inf:
        raise ValueError(f"{name}: expected a number above 0, got {value!r}; choose another")
    return found


def _loss(step: Step, parameters: list[NDArray[Any]], x: NDArray[Any], pairs: Pairs, size: int) -> float:
    """Over batches of one size, in the order of the pairs, so that losses can be compared."""
    losses = [step(parameters, *batch.of(x))[0] for batch in pairs.batches(min(size, len(pairs)), None)]
    return float(np.mean(losses))


def _adam(
    parameters: list[NDArray[Any]],
    gradients: list[NDArray[Any]],
    moments: list[tuple[NDArray[Any], NDArray[Any]]],
    rate: float,
    count: int,
) -> None:
    """One step in place (Kingma and Ba, arXiv 1412.6980, algorithm 1)."""
    ahead, ahead_of_squares = (1 - beta**count for beta in BETAS)
    for parameter, gradient, (mean, square) in zip(parameters, gradients, moments, strict=True):
        mean += (1 - BETAS[0]) * (gradient - mean)
        square += (1 - BETAS[1]) * (gradient * gradient - square)
        parameter -= rate / ahead * mean / (np.sqrt(square / ahead_of_squares) + EPSILON)
