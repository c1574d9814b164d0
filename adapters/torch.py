"""Matryoshka heads as modules of PyTorch."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

import mrl
from mrl import checks
from mrl.heads import Head, NestedHead, NestedLoss, TiedHead
from mrl.nesting import Nesting

from .heads import check_call, level_of, sizes_of

RAIVNLAB = re.compile(r"(?P<prefix>(?:.*\.)?)nesting_classifier_(?P<level>\d+)\.(?P<name>weight|bias)")


class MatryoshkaHead(nn.Module):
    """A Matryoshka classifier that holds its parameters: ``head(z)`` are logits, ``head(z, labels)`` is the loss.

    What :func:`mrl.nested_logits` and :func:`mrl.nested_cross_entropy` do with a :class:`mrl.NestedHead`, or with a
    :class:`mrl.TiedHead` under ``tied=True``, whose matrices are ``nn.Parameter``\\ s here. The state dict is that of
    the layout ``mrl``: ``weights.0, weights.1, ..., biases.0, ...``, or ``weight`` and ``bias`` of a tied head, which
    shares an embedding table by ``head.weight = embedding.weight``.

    Args:
        nesting: the granularities and their weights.
        classes: ``C``, at least 1.
        tied: one matrix ``(C, m_G)`` for all granularities (MRL-E), else one ``(C, m_g)`` for each (MRL).
        bias: with biases ``(C,)``: one, or one for each granularity.
        device, dtype: of the parameters, as any module of PyTorch takes them.

    Raises:
        TypeError: an argument of a wrong kind.
        ValueError: no classes.

    Example:
        >>> import mrl, torch
        >>> from mrl.adapters.torch import MatryoshkaHead
        >>> head = MatryoshkaHead(mrl.Nesting((8, 16)), classes=10)
        >>> z, labels = torch.randn(4, 16), torch.tensor([3, 1, 4, 1])
        >>> head(z, labels).total.backward()
        >>> head(z).shape, head.predict(z, dim=8).shape
        (torch.Size([2, 4, 10]), torch.Size([4]))

    Source: arXiv 2205.13147, section 3; initialised as ``torch.nn.Linear`` is.
    """

    def __init__(
        self,
        nesting: Nesting,
        classes: int,
        *,
        tied: bool = False,
        bias: bool = True,
        device: Any = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        checks.check_nesting(nesting)
        checks.check_flag("tied", tied)
        checks.check_flag("bias", bias)
        self.nesting = nesting
        self.classes = checks.check_integer("classes", classes, at_least=1)
        self.tied = bool(tied)

        def parameter(*shape: int) -> nn.Parameter:
            return nn.Parameter(torch.empty(shape, device=device, dtype=dtype))

        if tied:
            self.weight = parameter(self.classes, nesting.width)
            self.register_parameter("bias", parameter(self.classes) if bias else None)
        else:
            self.weights = nn.ParameterList(parameter(self.classes, dim) for dim in nesting.dims)
            self.biases = nn.ParameterList(parameter(self.classes) for _ in nesting.dims) if bias else None
        self.reset_parameters()

    @classmethod
    def from_head(cls, head: Head, nesting: Nesting) -> MatryoshkaHead:
        """A module with copies of the arrays of ``head``, of whatever framework.

        Args:
            head: a :class:`mrl.TiedHead` or :class:`mrl.NestedHead`; its arrays keep their dtypes.
            nesting: its granularities.

        Raises:
            TypeError: it is no head.
            ValueError: it does not fit the nesting.

        Example:
            >>> import mrl
            >>> nesting = mrl.Nesting((8, 16))
            >>> head = mrl.init_head(nesting, 10, tied=True, backend="numpy", seed=0)
            >>> MatryoshkaHead.from_head(head, nesting)
            MatryoshkaHead(Nesting((8, 16)), classes=10, tied=True, bias=True)
        """
        (classes, _), tied = sizes_of(head, nesting), isinstance(head, TiedHead)
        given = mrl.convert(head, "torch")
        bias = (given.bias if tied else given.biases) is not None
        made = cls(nesting, classes, tied=tied, bias=bias, device="meta")
        if tied:
            made.weight = _copied(given.weight)
            made.bias = _copied(given.bias) if bias else None
        else:
            made.weights = nn.ParameterList(map(_copied, given.weights))
            made.biases = nn.ParameterList(map(_copied, given.biases)) if bias else None
        return made

    @property
    def head(self) -> Head:
        """The parameters as a head, for the functions of :mod:`mrl`; what is done to one is done to the other."""
        if self.tied:
            return TiedHead(self.weight, self.bias)
        biases = self.biases
        return NestedHead(_entries(self.weights), None if biases is None else _entries(biases))

    def forward(
        self, z: Tensor, labels: Tensor | None = None, *, num_items: int | Tensor | None = None, **options: Any
    ) -> Tensor | NestedLoss:
        """Logits, or with ``labels`` the loss: one way in, because the hooks of DDP and FSDP are here.

        Args:
            z: ``(..., D)`` floating embeddings.
            labels: as :func:`mrl.nested_cross_entropy` takes them; ``None`` for logits.
            num_items: divide the *sum* of the losses by this: the number of examples in all the batches whose
                gradients are accumulated. Where it is 0, so is the loss. Takes the place of ``reduction``. A tensor of
                a negative number makes the loss NaN.
            options: of :func:`mrl.nested_cross_entropy`.

        Returns:
            ``(G, ..., C)`` logits, or a :class:`mrl.NestedLoss`.

        Raises:
            TypeError: options without labels, ``reduction`` beside ``num_items``, or as the functions raise it.
            ValueError: a ``num_items`` below 0 or of more than one number, or as the functions raise it.
        """
        check_call(labels, num_items, options)
        if labels is None:
            return mrl.nested_logits(z, self.head, self.nesting)
        if num_items is None:
            return mrl.nested_cross_entropy(z, self.head, labels, self.nesting, **options)
        loss = mrl.nested_cross_entropy(z, self.head, labels, self.nesting, reduction="sum", **options)
        return NestedLoss(*(_share(x, num_items) for x in loss))

    def loss(self, z: Tensor, labels: Tensor, **options: Any) -> NestedLoss:
        """``self(z, labels, **options)``, by name: a :class:`mrl.NestedLoss`."""
        found: NestedLoss = self(z, labels, **options)
        return found

    def predict(self, z: Tensor, dim: int | None = None) -> Tensor:
        """The label of every example at one granularity, ``None`` for the largest.

        Args:
            z: ``(..., D)`` floating embeddings, of which the first ``dim`` dimensions are used.
            dim: one of the nesting's.

        Returns:
            ``(...)`` integers; of equal logits the lowest class.

        Raises:
            TypeError: ``dim`` is no integer, or ``z`` no floating tensor.
            ValueError: the nesting has no such granularity, or ``z`` is narrower.
        """
        dim, weight, bias = self._level(dim)
        prefix = mrl.truncate(z, dim, normalize=False)
        return mrl.nested_logits(prefix, TiedHead(weight, bias), Nesting((dim,)))[0].argmax(-1)

    def at(self, dim: int) -> nn.Linear:
        """The classifier of one granularity as a layer of its own, with copies of the parameters, for export.

        Args:
            dim: one of the nesting's; the layer takes the first ``dim`` dimensions of an embedding.

        Raises:
            TypeError, ValueError: as :meth:`predict`.
        """
        dim, weight, bias = self._level(dim)
        layer = nn.Linear(dim, self.classes, bias=bias is not None, device="meta")
        layer.weight = _copied(weight)
        layer.bias = None if bias is None else _copied(bias)
        return layer.train(self.training)

    def load_raivnlab_state_dict(self, state_dict: Mapping[str, Tensor], prefix: str | None = None) -> None:
        """Take over what the paper's reference code trained: ``nesting_classifier_{i}.weight`` and ``bias``.

        Args:
            state_dict: of its head, or of a model with the head in it: other entries are left alone.
            prefix: of the head's names, such as ``"module.fc."``; ``None`` finds it.

        Raises:
            ValueError: no such head is in it, or several.
            RuntimeError: it does not fit this one, with what is missing, too much or of another shape.
        """
        names = [match for match in map(RAIVNLAB.fullmatch, state_dict) if match]
        found = sorted({match["prefix"] for match in names})
        if prefix is None and len(found) > 1:
            raise ValueError(f"prefix: expected one head in the state dict, got those of {found}; name one")
        names = [match for match in names if match["prefix"] == (found[0] if prefix is None else prefix)]
        if not names:
            raise ValueError(
                f"state_dict: expected names such as {prefix or ''}nesting_classifier_0.weight, got "
                f"{list(state_dict)[:4]}; pass the state dict of the reference code's head"
            )

        def own(match: re.Match[str]) -> str:
            if self.tied and match["level"] == "0":
                return match["name"]
            return f"{'weights' if match['name'] == 'weight' else 'biases'}.{int(match['level'])}"

        self.load_state_dict({own(match): state_dict[match.string] for match in names})

    def reset_parameters(self) -> None:
        """Draw the parameters anew, each matrix and bias as ``torch.nn.Linear`` does."""
        weights, biases = self.head
        levels: Any = [(weights, biases)] if self.tied else zip(weights, biases or (None,) * len(weights), strict=True)
        for weight, bias in levels:
            nn.init.kaiming_uniform_(weight, a=math.sqrt(5))
            if bias is not None:
                bound = 1 / math.sqrt(weight.shape[1])
                nn.init.uniform_(bias, -bound, bound)

    def extra_repr(self) -> str:
        bias = (self.bias if self.tied else self.biases) is not None
        return f"{self.nesting}, classes={self.classes}, tied={self.tied}, bias={bias}"

    def _level(self, dim: int | None) -> tuple[int, Tensor, Tensor | None]:
        """``m_g``, its ``W_g`` and ``b_g``."""
        g = level_of(self.nesting, dim)
        dim = self.nesting.dims[g]
        if self.tied:
            return dim, self.weight[:, :dim], self.bias
        return dim, self.weights[g], None if self.biases is None else self.biases[g]


def _copied(tensor: Tensor) -> nn.Parameter:
    return nn.Parameter(tensor.detach().clone(memory_format=torch.contiguous_format))


def _entries(parameters: nn.ParameterList) -> tuple[Tensor, ...]:
    # Its own iterator looks every entry up by attribute: 20 microseconds for nine levels, at every call.
    return tuple(parameters._parameters.values())


def _share(total: Tensor, num_items: int | Tensor) -> Tensor:
    if isinstance(num_items, Tensor):
        if num_items.ndim:
            raise ValueError(f"num_items: expected one number, got shape {tuple(num_items.shape)}; sum the counts")
        count = num_items.to(total.device, total.dtype)
        # Not divided by 0, so that the gradient is 0, too; and a look at its sign would wait for a device.
        shared = total / torch.where(count > 0, count, torch.where(count == 0, 1.0, math.nan))
        return torch.where(count == 0, 0.0, shared)
    if isinstance(num_items, bool) or not isinstance(num_items, (int, float)):
        raise TypeError(f"num_items: expected a number of examples, got {num_items!r}; count the labels in use")
    if not num_items >= 0:
        raise ValueError(f"num_items: expected a number of examples of at least 0, got {num_items}; count again")
    return total / num_items if num_items else 0.0 * total
