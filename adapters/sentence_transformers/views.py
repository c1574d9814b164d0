"""Another model in a loss, without touching either: copies of the modules on the way to it share all the rest."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping
from types import MethodType
from typing import Any

from sentence_transformers.base.model import BaseModel
from torch import nn


def unwrapped(model: Any) -> Any:
    """The model in what ``torch.compile``, DDP and their like make of it."""
    while not isinstance(model, BaseModel) and isinstance(model, nn.Module):
        children = model._modules
        if list(children) not in (["module"], ["_orig_mod"]):
            break
        (model,) = children.values()
    return model


def models_in(module: nn.Module) -> Iterator[nn.Module]:
    """The sentence-transformers models that a loss holds, as it holds them."""
    if isinstance(unwrapped(module), BaseModel):
        yield module
    else:
        for child in module.children():
            yield from models_in(child)


class Replay:
    """In a model's place: calls it in the first round, and in each later round gives the same outputs again.

    Whatever else is asked of it, the model answers.
    """

    def __init__(self, model: nn.Module, cut: Callable[[Any, int], Any] | None) -> None:
        self._model, self._cut, self._dim = model, cut, 0
        self._kept: list[tuple[Any, Any]] = []
        self._next, self._recording = 0, True

    def begin(self, dim: int, recording: bool) -> None:
        self._dim, self._next, self._recording = dim, 0, recording

    @property
    def calls(self) -> int:
        """How often it was called in this round."""
        return self._next

    def __call__(self, features: Any, *args: Any, **kw: Any) -> Any:
        shapes = {name: getattr(value, "shape", None) for name, value in features.items()}
        if self._recording:
            # A copy, because what the model returns is the batch itself, in which others write.
            self._kept.append((shapes, copy.copy(self._model(features, *args, **kw))))
        elif self._next >= len(self._kept) or self._kept[self._next][0] != shapes:
            raise RuntimeError(
                "loss: expected it to embed the same inputs at every granularity, got others; draw what is random "
                "in it from a generator of its own, or compute it from embeddings in compute_loss_from_embeddings"
            )
        output = copy.copy(self._kept[self._next][1])
        self._next += 1
        if self._cut is not None:
            output["sentence_embedding"] = self._cut(output["sentence_embedding"], self._dim)
        return output

    forward = __call__

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        model = self._model
        return getattr(model if hasattr(model, name) else unwrapped(model), name)

    def __getitem__(self, index: Any) -> Any:
        return unwrapped(self._model)[index]


class View:
    """A loss with others in the place of some of its modules, or of its attributes.

    The loss itself stays as it is, but for what it says of itself while the view runs: ``keep_state`` takes over the
    attributes that it has set and deleted.
    """

    def __init__(
        self,
        loss: nn.Module,
        stand_ins: Mapping[nn.Module, Any] | None = None,
        attributes: Mapping[str, Any] | None = None,
    ) -> None:
        self._made: dict[nn.Module, tuple[Any, dict[str, Any], dict[str, Any]]] = {}
        self._stand_ins = stand_ins or {}
        self.loss: Any = self._seen(loss, always=True)
        for name, value in (attributes or {}).items():
            self._made[loss][1][name] = self.loss.__dict__[name] = value

    def keep_state(self) -> None:
        for module, (view, attributes, children) in self._made.items():
            for own, now, before in (
                (module.__dict__, view.__dict__, attributes),
                (module._modules, view._modules, children),
            ):
                own.update({name: value for name, value in now.items() if before.get(name, self) is not value})
                for name in before.keys() - now.keys():
                    own.pop(name, None)

    def _seen(self, module: nn.Module, always: bool = False) -> Any:
        if module in self._stand_ins:
            return self._stand_ins[module]
        if module in self._made:
            return self._made[module][0]
        children = {name: child and self._seen(child) for name, child in module._modules.items()}
        if not always and all(child is module._modules[name] for name, child in children.items()):
            return module
        view = object.__new__(type(module))
        # A method that was bound into the instance would otherwise run on the original.
        own = {name: _bound_to(view, module, value) for name, value in module.__dict__.items()} | {"_modules": children}
        view.__dict__.update(own)
        self._made[module] = view, own, dict(children)
        return view


def _bound_to(view: Any, module: nn.Module, value: Any) -> Any:
    if isinstance(value, MethodType) and value.__self__ is module:
        return MethodType(value.__func__, view)
    return value
