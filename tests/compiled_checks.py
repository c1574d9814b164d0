"""Run by ``test_compiled_modules.py``, each check in a fresh process: what a first eager call leaves behind hides."""

import os
import sys
import traceback

import numpy as np
import torch
from torch._dynamo.testing import CompileCounter

import mrl

NESTING = mrl.Nesting((2, 4))
POLICY = mrl.CascadePolicy((0.5,), NESTING.dims)
CALLS = {
    "nested_cross_entropy": lambda z, head, labels: mrl.nested_cross_entropy(z, head, labels, NESTING).total,
    "composed": lambda z, head, labels: mrl.nested_cross_entropy(z, head, labels, NESTING, fused=False).total,
    "nested_logits": lambda z, head, labels: mrl.nested_logits(z, head, NESTING),
    "truncate": lambda z, head, labels: mrl.truncate(z, 2) @ mrl.truncate(head[0], 2).mT,
    "cascade_predict": lambda z, head, labels: tuple(mrl.cascade_predict(z, head, POLICY)),
}


class Model(torch.nn.Module):
    """A user's own: the head's arrays are parameters of layers."""

    def __init__(self, call, tied):
        super().__init__()
        self.call, self.tied = call, tied
        self.body = torch.nn.Linear(4, 4)
        self.layers = torch.nn.ModuleList(torch.nn.Linear(m, 3) for m in ((4,) if tied else NESTING.dims))

    def forward(self, x, labels):
        weights, biases = zip(*((layer.weight, layer.bias) for layer in self.layers), strict=True)
        if self.call == "truncate":
            head = weights
        else:
            head = mrl.TiedHead(weights[0], biases[0]) if self.tied else mrl.NestedHead(weights, biases)
        return CALLS[self.call](self.body(x), head, labels)


def problem(call, tied):
    torch.manual_seed(0)
    return Model(call, tied), torch.randn(5, 4), torch.tensor([0, 1, 2, 1, 0])


def see_arrays_of_every_kind(model, x):
    """What a memo of types or dtypes would remember."""
    mrl.nested_logits(torch.nn.Parameter(x), mrl.TiedHead(model.layers[-1].weight.detach()), NESTING)
    mrl.truncate(torch.nn.Buffer(x), 2)
    for dtype in (np.float16, np.float32, np.float64):
        mrl.nested_logits(np.ones((2, 4), dtype), mrl.TiedHead(np.ones((3, 4), dtype)), NESTING)


def same(found, expected):
    torch.testing.assert_close(found, expected)


def compiles_once(call, tied):
    model, x, labels = problem(call, tied)
    counter = CompileCounter()
    compiled = torch.compile(model, fullgraph=True, backend=counter)
    found = compiled(x, labels)
    same(found, model(x, labels))
    see_arrays_of_every_kind(model, x)
    same(compiled(x, labels), found)
    assert counter.frame_count == 1, counter.frame_count


def exports(call, tied):
    model, x, labels = problem(call, tied)
    programs = [torch.export.export(model, (x, labels), strict=strict) for strict in (True, False)]
    for program in programs:
        same(program.module()(x, labels), model(x, labels))


def save(path):
    model, x, labels = problem("nested_cross_entropy", True)
    torch.export.save(torch.export.export(model, (x, labels)), path)
    print(float(model(x, labels)))


def load(path):
    mrl.register("torch")
    _, x, labels = problem("nested_cross_entropy", True)
    print(float(torch.export.load(path).module()(x, labels)))


def values():
    return {
        "tied": mrl.TiedHead(torch.ones(3, 4), torch.nn.Parameter(torch.zeros(3))),
        "nested": mrl.NestedHead((torch.ones(3, 2), torch.ones(3, 4))),
        "loss": mrl.NestedLoss(torch.ones(()), torch.ones(2)),
        "nesting": mrl.Nesting((2, 4), weights=(1.0, 0.5)),
        "policy": mrl.CascadePolicy((0.5,), (2, 4), temperatures=(1.5, 1.0), fitted={"method": "by hand"}),
    }


def save_values(path):
    torch.save(values(), path)


def load_values(path):
    mrl.register("torch")
    found, expected = torch.load(path, weights_only=True), values()
    assert {name: type(value) for name, value in found.items()} == {name: type(x) for name, x in expected.items()}
    assert found["nesting"] == expected["nesting"] and found["policy"] == expected["policy"]
    for name in ("tied", "nested", "loss"):
        same(found[name], expected[name])


def load_unregistered(path):
    try:
        torch.load(path, weights_only=True)
    except Exception as error:
        print(type(error).__name__)


def each(check):
    """The check of every call, in a process of its own that has imported PyTorch and called nothing of mrl's."""
    assert "mrl.backends.torch" not in sys.modules
    failed = []
    for call in CALLS:
        for tied in (True, False):
            child = os.fork()
            if child == 0:
                try:
                    {"compiles_once": compiles_once, "exports": exports}[check](call, tied)
                    os._exit(0)
                except BaseException:
                    traceback.print_exc()
                    sys.stderr.flush()
                    os._exit(1)
            if os.waitpid(child, 0)[1]:
                failed.append((call, tied))
    assert not failed, failed


if __name__ == "__main__":
    check, *arguments = sys.argv[1:]
    globals()[check](*arguments)
