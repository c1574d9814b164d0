"""``MatryoshkaLoss`` in the place of sentence-transformers' own."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import partial
from typing import Any

import torch
from sentence_transformers.base.losses import uses_gradient_cache
from sentence_transformers.sentence_transformer import losses
from torch import Tensor, nn

from mrl import checks

from .card import state_dims
from .levels import Levels, drawn, target
from .refusals import check_loss
from .views import models_in, unwrapped
from .ways import cached, from_embeddings, ranking, replayed


class MatryoshkaLoss(losses.MatryoshkaLoss):
    """Any loss of sentence-transformers, for every prefix of the embeddings: a training script changes one import.

    ``L = sum_g w_g * loss(prefixes of m_g dimensions)`` with ``m = matryoshka_dims`` and ``w = matryoshka_weights``;
    each prefix is divided by its own norm, as :func:`mrl.truncate` does it. The columns are embedded once. Neither the
    model nor the loss is touched. Ranking losses whose options allow it are an :func:`mrl.nested_contrastive`, of which
    all granularities together cost little more than one.

    Args:
        model: the :class:`~sentence_transformers.SentenceTransformer` that is trained.
        loss: what is computed of every prefix: a loss of the same model. One that caches gradients keeps doing so. One
            that returns its parts by name is added up by name.
        matryoshka_dims: the granularities, in any order, each at most the model's dimension, which should be one.
        matryoshka_weights: a number for each granularity, in the order of the dims; ``None`` gives each 1.
        n_dims_per_step: how many granularities, drawn anew, a step trains; anything below 1 trains all.
        seed: of the draw. It depends on this and on :attr:`step` alone, so that the processes of a run agree, and runs
            repeat.
        normalize_targets: divide the prefixes of targets that are embeddings by their norms, too. Else they are only
            sliced, as by sentence-transformers.

    Attributes:
        step: the number of losses with gradients so far. Set it to go on with an earlier run's draws.

    Raises:
        TypeError: ``loss`` is none, ``seed`` no integer, ``normalize_targets`` no bool.
        ValueError: no dims, dims that are not positive or larger than the model's; weights that are not one for each; a
            loss that cannot be computed of a prefix, or holds another model.

    Example:
        >>> import torch
        >>> from mrl.adapters.sentence_transformers import MatryoshkaLoss
        >>> from sentence_transformers import SentenceTransformer
        >>> from sentence_transformers.sentence_transformer.losses import CosineSimilarityLoss
        >>> from sentence_transformers.sentence_transformer.modules import BoW
        >>> model = SentenceTransformer(modules=[BoW(["cat", "dog", "sat", "ran"])], device="cpu")
        >>> loss = MatryoshkaLoss(model, CosineSimilarityLoss(model), [2, 4])
        >>> texts = ["cat sat", "dog sat"], ["cat ran", "dog ran"]
        >>> round(loss([model.preprocess(column) for column in texts], torch.tensor([1.0, 1.0])).item(), 4)
        0.25

    Source: arXiv 2205.13147, section 3; ``sentence_transformers.sentence_transformer.losses.MatryoshkaLoss``.
    """

    def __init__(
        self,
        model: Any,
        loss: nn.Module,
        matryoshka_dims: Sequence[int],
        matryoshka_weights: Sequence[float] | None = None,
        n_dims_per_step: int = -1,
        *,
        seed: int = 0,
        normalize_targets: bool = False,
    ) -> None:
        # Not the loss: into one that caches gradients it would put a function of its own, for good.
        super().__init__(model, nn.Module(), matryoshka_dims, matryoshka_weights, n_dims_per_step)
        check_loss(loss, model, self.matryoshka_dims)
        checks.check_flag("normalize_targets", normalize_targets)
        self.loss = loss
        self.uses_gradient_cache = uses_gradient_cache(loss)
        self.seed = checks.check_integer("seed", seed)
        self.normalize_targets = bool(normalize_targets)
        self.step = self._evaluated = 0
        self._stated = False

    def forward(self, sentence_features: Iterable[dict[str, Tensor]], labels: Tensor | None = None) -> Any:
        """The weighted sum of the losses of all granularities of this step.

        Args:
            sentence_features: a batch of tokens for each column.
            labels: as the loss takes them. Embeddings, ``(B, D)`` or ``(B, columns, D)``, are sliced.

        Returns:
            What the loss returns: a scalar, or its parts by name.

        Raises:
            ValueError: a dim is larger than the embeddings; or as the loss raises it.
            RuntimeError: the loss never called its model, or embeds other inputs at another granularity.
        """
        features, levels = list(sentence_features), self._levels()
        if self.uses_gradient_cache:
            value: Any = cached(self.loss, features, labels, levels)
        else:
            value = ranking(self.loss, features, labels, levels)
        if value is None:
            width = unwrapped(self.model).get_embedding_dimension()
            cut = partial(target, width=width, normalize=self.normalize_targets)
            knows_no_model = hasattr(self.loss, "compute_loss_from_embeddings") and not any(models_in(self.loss))
            way = from_embeddings if knows_no_model else replayed
            value = way(self.model, self.loss, features, labels, levels, cut)
        if torch.is_grad_enabled():
            self.step += 1
            if not self._stated:
                self._stated = True
                state_dims(self.model, self.matryoshka_dims)
        else:
            self._evaluated += 1
        return value

    def _levels(self) -> Levels:
        levels = list(zip(self.matryoshka_dims, self.matryoshka_weights, strict=True))
        training = torch.is_grad_enabled()
        stream, step = ("training", self.step) if training else ("evaluation", self._evaluated)
        return drawn(levels, self.n_dims_per_step, self.seed, stream, step)
