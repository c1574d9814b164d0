"""Matryoshka classifiers and prefixes as estimators of scikit-learn, on embeddings that are given."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize
from scipy.special import softmax
from sklearn.base import BaseEstimator, ClassifierMixin, OneToOneFeatureMixin, TransformerMixin
from sklearn.exceptions import ConvergenceWarning
from sklearn.model_selection import train_test_split
from sklearn.utils.class_weight import compute_class_weight
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import _check_sample_weight, check_is_fitted, validate_data

import mrl
from mrl import checks
from mrl.heads import Head, NestedHead, TiedHead
from mrl.nesting import Nesting

from .gradients import GRADIENTS

Float = NDArray[np.float64]

CASCADES: Mapping[str, Mapping[str, float]] = {
    "greedy": {},
    "budget": {},
    "accuracy": {"drop": 0.01},
    "risk": {"drop": 0.01},
}
"""The methods of :func:`mrl.fit_cascade`, with options for where none are given."""


class MatryoshkaClassifier(ClassifierMixin, BaseEstimator):
    """Nested linear classifiers of given embeddings, fitted jointly: one for every granularity.

    ``min  nested_cross_entropy(X, head, y, nesting).total + sum abs(W)^2 / (2 C s)`` over the head, by L-BFGS, with
    ``W`` its matrices (biases are not penalised) and ``s`` the sum of the sample weights times their class weights. It
    is convex, and begins at zero. Untied and with equal weights, level ``g`` is the ``LogisticRegression(C)`` of
    ``X[:, :m_g]``.

    Args:
        dims: the granularities, in dimensions; ``None`` halves the number of features for as long as 8 are left.
        tied: one matrix for all granularities (MRL-E), else one for each (MRL).
        cascade: a method of :func:`mrl.fit_cascade`: thresholds are fitted on a part of the data that the head does not
            see, and ``predict`` then answers at the first granularity that is confident enough. ``None`` answers at
            the largest.
        backend: who computes losses and gradients: ``"numpy"`` is the specification, ``"torch"``, ``"jax"`` (with
            64-bit numbers) and ``"tensorflow"`` are faster for many classes.
        weights: of the granularities, positive; ``None`` is 1 for each.
        C: the inverse of the penalty.
        fit_intercept: with biases.
        class_weight: class to weight, ``"balanced"``, or ``None``.
        max_iter, tol: L-BFGS stops after so many iterations, or where no entry of the gradient is larger than ``tol``.
        cascade_options: of :func:`mrl.fit_cascade`, for example ``{"drop": 0.005, "delta": 0.1}``; ``None`` is
            ``{"drop": 0.01}`` for ``"accuracy"`` and ``"risk"``.
        validation_fraction: the part of the data that a cascade is fitted on, where every example counts the same. The
            head is fitted on the others, and stays as it was when its cascade was tested.
        random_state: of the split, which is stratified.

    Attributes:
        classes_: ``(C,)`` the labels.
        nesting_: the :class:`mrl.Nesting`.
        head_: the :class:`mrl.TiedHead` or :class:`mrl.NestedHead`, in float64.
        policy_: the :class:`mrl.CascadePolicy`, or ``None``.
        expected_dim_: the mean dimension that answers on the data of the cascade's fit; without one the width.
        n_iter_: iterations taken.
        n_features_in_: the number of features.

    Example:
        >>> from sklearn.datasets import load_digits
        >>> from mrl.adapters.sklearn import MatryoshkaClassifier
        >>> X, y = load_digits(return_X_y=True)
        >>> model = MatryoshkaClassifier(dims=(16, 32, 64)).fit(X[:1000] / 16, y[:1000])
        >>> bool(model.score(X[1000:] / 16, y[1000:]) > 0.9), model.predict(X[:3] / 16, dim=16).shape
        (True, (3,))

    Source: arXiv 2205.13147, section 3 (linear classification on given embeddings) and section 4.2.1 (cascades).
    """

    def __init__(
        self,
        dims: Sequence[int] | None = None,
        tied: bool = False,
        cascade: str | None = None,
        backend: str = "numpy",
        *,
        weights: Sequence[float] | None = None,
        C: float = 1.0,
        fit_intercept: bool = True,
        class_weight: Mapping[Any, float] | str | None = None,
        max_iter: int = 1000,
        tol: float = 1e-6,
        cascade_options: Mapping[str, Any] | None = None,
        validation_fraction: float = 0.2,
        random_state: Any = None,
    ) -> None:
        self.dims = dims
        self.tied = tied
        self.cascade = cascade
        self.backend = backend
        self.weights = weights
        self.C = C
        self.fit_intercept = fit_intercept
        self.class_weight = class_weight
        self.max_iter = max_iter
        self.tol = tol
        self.cascade_options = cascade_options
        self.validation_fraction = validation_fraction
        self.random_state = random_state

    def fit(self, X: Any, y: Any, sample_weight: Any | None = None) -> MatryoshkaClassifier:
        """Fit the head to ``(N, D)`` embeddings and ``(N,)`` labels; with a cascade, on a part of them."""
        X, y = validate_data(self, X, y, dtype=np.float64)
        check_classification_targets(y)
        sample_weight = _check_sample_weight(sample_weight, X, dtype=np.float64, ensure_non_negative=True)
        self._check()
        self.classes_, labels = np.unique(y, return_inverse=True)
        self.nesting_ = Nesting(_halved(X.shape[1]) if self.dims is None else self.dims, self.weights)
        if self.nesting_.width > X.shape[1]:
            raise ValueError(
                f"dims: expected granularities of at most n_features = {X.shape[1]}, got {self.nesting_.dims}; "
                "leave out the larger ones"
            )
        if len(self.nesting_.levels_in_use) < len(self.nesting_):
            raise ValueError(
                f"weights: expected positive numbers, got {self.nesting_.weights}; leave granularities out of dims"
            )
        class_weight = compute_class_weight(self.class_weight, classes=self.classes_, y=y, sample_weight=sample_weight)
        seen, held_out = np.arange(len(y)), None
        if self.cascade is not None:
            seen, held_out = train_test_split(
                seen, test_size=self.validation_fraction, random_state=self.random_state, stratify=labels
            )
        self.head_, self.n_iter_ = self._fitted(X[seen], labels[seen], sample_weight[seen], class_weight)
        self.policy_: mrl.CascadePolicy | None = None
        self.expected_dim_: Any = float(self.nesting_.width)
        if self.cascade is not None:
            options = CASCADES[self.cascade] if self.cascade_options is None else self.cascade_options
            self.policy_ = mrl.fit_cascade(
                self._logits(X[held_out]), labels[held_out], self.nesting_, method=self.cascade, logits=True, **options
            )
            (self.expected_dim_,) = (value for name, value in self.policy_.fitted if name == "expected_dim")
        return self

    def predict(self, X: Any, *, dim: int | None = None) -> NDArray[Any]:
        """The label of each row: of the cascade, if one was fitted, else of the largest granularity; or of ``dim``."""
        X = self._checked(X)
        if dim is None and self.policy_ is not None:
            return self.classes_[mrl.cascade_predict(X, self.head_, self.policy_).labels]
        return self.classes_[self._level(X, dim).argmax(-1)]

    def predict_proba(self, X: Any, *, dim: int | None = None) -> Float:
        """``(N, C)`` probabilities, of the granularity that :meth:`predict` answers at."""
        X = self._checked(X)
        if dim is not None or self.policy_ is None:
            return softmax(self._level(X, dim), axis=-1)
        logits = self._logits(X)
        level = mrl.cascade_exit(logits, self.policy_, logits=True).level
        temperatures = np.asarray(self.policy_.temperatures)[level, None]
        return softmax(logits[level, np.arange(len(level))] / temperatures, axis=-1)

    def _check(self) -> None:
        checks.check_flag("tied", self.tied)
        checks.check_flag("fit_intercept", self.fit_intercept)
        checks.check_integer("max_iter", self.max_iter, at_least=1)
        if self.backend not in GRADIENTS:
            raise ValueError(f"backend: expected one of {tuple(GRADIENTS)}, got {self.backend!r}; choose one")
        if self.cascade is not None and self.cascade not in CASCADES:
            raise ValueError(f"cascade: expected one of {tuple(CASCADES)} or None, got {self.cascade!r}; choose one")
        for name in ("C", "tol"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, (int, float, np.number)) or not value > 0:
                raise ValueError(f"{name}: expected a positive number, got {value!r}; write a float")

    def _checked(self, X: Any) -> Float:
        check_is_fitted(self)
        checked: Float = validate_data(self, X, dtype=np.float64, reset=False)
        return checked[:, : self.nesting_.width]

    def _logits(self, X: Float) -> Float:
        return mrl.nested_logits(X[:, : self.nesting_.width], self.head_, self.nesting_)

    def _level(self, X: Float, dim: int | None) -> Float:
        """The logits of one granularity, ``None`` for the largest."""
        dims, head = self.nesting_.dims, self.head_
        dim = dims[-1] if dim is None else checks.check_integer("dim", dim)
        if dim not in dims:
            raise ValueError(f"dim: expected one of {dims}, got {dim}; choose a granularity that was fitted")
        g = dims.index(dim)
        if isinstance(head, TiedHead):
            alone = TiedHead(head.weight[:, :dim], head.bias)
        else:
            alone = TiedHead(head.weights[g], None if head.biases is None else head.biases[g])
        return mrl.nested_logits(X[:, :dim], alone, Nesting((dim,)))[0]

    def _fitted(self, X: Float, labels: NDArray[Any], sample_weight: Float, class_weight: Float) -> tuple[Head, int]:
        nesting, classes = self.nesting_, len(self.classes_)
        X = np.ascontiguousarray(X[:, : nesting.width])
        widths = [nesting.width] if self.tied else list(nesting.dims)
        shapes = [(classes, m) for m in widths] + [(classes,)] * (len(widths) * self.fit_intercept)
        cuts = np.cumsum([np.prod(shape) for shape in shapes])
        matrices = cuts[len(widths) - 1]
        whole = (sample_weight * class_weight[labels]).sum()
        penalty = 1 / (self.C * whole) if whole else 1.0
        options = {"sample_weight": sample_weight, "class_weight": class_weight}

        def head_of(theta: Float) -> Head:
            arrays = [part.reshape(shape) for part, shape in zip(np.split(theta, cuts[:-1]), shapes, strict=True)]
            w, b = arrays[: len(widths)], arrays[len(widths) :] or None
            return TiedHead(w[0], b and b[0]) if self.tied else NestedHead(tuple(w), b and tuple(b))

        def objective(theta: Float) -> tuple[float, Float]:
            value, gradients = GRADIENTS[self.backend](X, head_of(theta), labels, nesting, options)
            flat = np.concatenate([np.ravel(gradient) for gradient in gradients])
            flat[:matrices] += penalty * theta[:matrices]
            return value + penalty / 2 * float(theta[:matrices] @ theta[:matrices]), flat

        found = minimize(
            objective,
            np.zeros(cuts[-1]),
            jac=True,
            method="L-BFGS-B",
            # Nothing but the gradient says when to stop, or that no step is small enough to see a descent.
            options={"maxiter": self.max_iter, "maxfun": 20 * self.max_iter, "gtol": self.tol, "ftol": 0.0},
        )
        if found.status == 1:  # out of iterations
            warnings.warn(
                f"max_iter: the gradient is still {abs(found.jac).max():.2g} after {found.nit} iterations; "
                "raise max_iter or tol, or scale the embeddings",
                ConvergenceWarning,
                stacklevel=3,
            )
        return head_of(found.x), int(found.nit)


class PrefixTransformer(OneToOneFeatureMixin, TransformerMixin, BaseEstimator):
    """The first ``dim`` features of each row, L2-normalised: :func:`mrl.truncate`.

    Args:
        dim: how many to keep; ``None`` keeps all.
        normalize: divide each prefix by its norm; one of norm at most 1e-12 becomes zero.

    Attributes:
        n_features_in_: the number of features.

    Example:
        >>> from mrl.adapters.sklearn import PrefixTransformer
        >>> PrefixTransformer(2).fit_transform([[3.0, 4.0, 12.0]])
        array([[0.6, 0.8]])

    Source: arXiv 2205.13147, section 4.1.
    """

    def __init__(self, dim: int | None = None, normalize: bool = True) -> None:
        self.dim = dim
        self.normalize = normalize

    def fit(self, X: Any, y: Any = None) -> PrefixTransformer:
        """Look at the number of features; there is nothing else to learn."""
        X = validate_data(self, X, dtype=(np.float64, np.float32))
        checks.check_flag("normalize", self.normalize)
        if self.dim is not None and checks.check_integer("dim", self.dim, at_least=1) > X.shape[1]:
            raise ValueError(f"dim: expected at most n_features = {X.shape[1]}, got {self.dim}; choose less")
        return self

    def transform(self, X: Any) -> NDArray[Any]:
        """``(N, D)`` embeddings to ``(N, dim)``; float32 and float64 are kept."""
        check_is_fitted(self)
        X = validate_data(self, X, dtype=(np.float64, np.float32), reset=False)
        return mrl.truncate(X, self.n_features_in_ if self.dim is None else self.dim, normalize=self.normalize)

    def get_feature_names_out(self, input_features: Any | None = None) -> NDArray[Any]:
        """The names of the features that are kept."""
        return super().get_feature_names_out(input_features)[: self.dim]

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.transformer_tags.preserves_dtype = ["float64", "float32"]
        return tags


def _halved(features: int) -> tuple[int, ...]:
    """``features, features // 2, ...`` from 8 on, in increasing order."""
    dims = [features]
    while dims[-1] >= 16:
        dims.append(dims[-1] // 2)
    return tuple(reversed(dims))
