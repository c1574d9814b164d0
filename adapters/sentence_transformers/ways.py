"""The loss of every granularity of a step, of columns that are embedded once: one function for each kind of loss."""

from __future__ import annotations

import copy
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

import mrl

from .contrastive import fits, nested_ranking, nesting_of, options_of
from .levels import Levels, plus, prefix
from .views import Replay, View, models_in, unwrapped

Target = Callable[[Any, int], Any]


def cached(loss: Any, features: list[Any], labels: Any, levels: Levels) -> Tensor:
    """Of a loss that caches gradients: it embeds, and its ``calculate_loss`` is asked for every granularity."""
    options, nesting = options_of(loss), nesting_of(levels)

    def each(reps: list[list[Tensor]], *args: Any, with_backward: bool = False, **kw: Any) -> Any:
        total = None
        for dim, weight in levels:
            if with_backward:
                value = _caught(loss, reps, dim, weight, *args, **kw)
            else:
                value = loss.calculate_loss([[prefix(rep, dim) for rep in column] for column in reps], *args, **kw)
            total = plus(total, weight, value)
        return total

    way = each
    if options is not None and nesting is not None:
        way = partial(_at_once, each, nesting, options)
    view = View(loss, attributes={"calculate_loss": way})
    value = view.loss(features, labels)
    view.keep_state()
    return value


def _at_once(
    each: Callable[..., Any],
    nesting: mrl.Nesting,
    options: dict[str, Any],
    reps: list[list[Tensor]],
    *args: Any,
    with_backward: bool = False,
    **kw: Any,
) -> Any:
    columns = [torch.cat(column) for column in reps]
    if not fits(columns):
        return each(reps, *args, with_backward=with_backward, **kw)
    total = nested_ranking(columns, nesting, options)
    if not with_backward:
        return total
    total.backward()
    return total.detach()


def _caught(loss: Any, reps: list[list[Tensor]], dim: int, weight: float, *args: Any, **kw: Any) -> Any:
    """The loss of one granularity; ``weight`` times its gradient goes to ``reps``, a mini-batch at a time."""
    with torch.no_grad():
        cut = [[prefix(rep, dim).requires_grad_() for rep in column] for column in reps]
    value = loss.calculate_loss(cut, *args, with_backward=True, **kw)
    for column, prefixes in zip(reps, cut, strict=True):
        for rep, leaf in zip(column, prefixes, strict=True):
            if leaf.grad is not None:  # of a column that is not used the loss itself complains
                prefix(rep, dim).backward(weight * leaf.grad)
                leaf.grad = None
    return value


def ranking(loss: Any, features: list[Any], labels: Any, levels: Levels) -> Tensor | None:
    """Of a ranking loss that is an :func:`mrl.nested_contrastive`; ``None`` of every other."""
    options, nesting = options_of(loss), nesting_of(levels)
    if options is None or nesting is None:
        return None

    def at_once(embeddings: list[Tensor], labels: Any) -> Any:
        if fits(embeddings):
            return nested_ranking(embeddings, nesting, options)
        total = None
        for dim, weight in levels:
            value = loss.compute_loss_from_embeddings([prefix(x, dim) for x in embeddings], labels)
            total = plus(total, weight, value)
        return total

    view = View(loss, attributes={"compute_loss_from_embeddings": at_once})
    value: Tensor = view.loss(features, labels)
    view.keep_state()
    return value


def replayed(model: nn.Module, loss: Any, features: list[Any], labels: Any, levels: Levels, cut: Target) -> Any:
    """Of any loss that holds the model: it sees one whose outputs are kept and cut. A guide's are kept, too."""
    student = Replay(model, prefix)
    held = set(models_in(loss)) | {model}
    same = {m for m in held if unwrapped(m) is unwrapped(model)}
    guides = {m: Replay(m, None) for m in held - same}
    view = View(loss, {**guides, **dict.fromkeys(same, student)})
    # The first round gets the batch itself: who wraps this loss finds in it what the model left there. The others get
    # it as it came, because a batch in which something was left pads and merges otherwise.
    before = [copy.copy(column) for column in features]
    total = None
    for g, (dim, weight) in enumerate(levels):
        for stand_in in (student, *guides.values()):
            stand_in.begin(dim, recording=g == 0)
        batch = [copy.copy(column) for column in before] if g else features
        value = view.loss(batch, cut(labels, dim))
        if not student.calls:
            raise RuntimeError(
                f"loss: expected one that embeds by the model that it holds, got {type(loss).__name__}, which never "
                "called it; let it hold the model as self.model, or compute it in compute_loss_from_embeddings"
            )
        total = plus(total, weight, value)
    view.keep_state()
    return total


def from_embeddings(model: Any, loss: Any, features: list[Any], labels: Any, levels: Levels, cut: Target) -> Any:
    """Of a loss that knows nothing but embeddings."""
    columns = [model(column)["sentence_embedding"] for column in features]
    total = None
    for dim, weight in levels:
        value = loss.compute_loss_from_embeddings([prefix(x, dim) for x in columns], cut(labels, dim))
        total = plus(total, weight, value)
    return total
