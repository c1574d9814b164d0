"""mrl on Coat, with a driver: PyTorch's kernels and PyTorch's driver, in and out of the coat."""

from __future__ import annotations

from coats import Coat

import mrl.dispatch
from mrl.testing.drivers import TorchDriver

torch = mrl.dispatch.backend_named("torch")


def bare(x):
    if isinstance(x, (mrl.TiedHead, mrl.NestedHead)):
        return type(x)(*(tuple(map(bare, field)) if isinstance(field, tuple) else bare(field) for field in x))
    return x.tensor if isinstance(x, Coat) else x


def coated(kernel):
    def call(*arguments, **options):
        result = kernel(*map(bare, arguments), **{name: bare(x) for name, x in options.items()})
        return mrl.NestedLoss(*map(Coat, result)) if isinstance(result, mrl.NestedLoss) else Coat(result)

    return call


truncate = coated(torch.truncate)
nested_logits = coated(torch.nested_logits)
nested_cross_entropy = coated(torch.nested_cross_entropy)
from_numpy = coated(torch.from_numpy)


def to_numpy(array, *, blocking):
    return torch.to_numpy(array.tensor, blocking=blocking)


class CoatDriver(TorchDriver):
    name = "coats"
    modes = ("eager",)
    dtypes = ("bfloat16", "float32")

    def run(self, mode, call):
        def function(arrays, constants):
            return [x.tensor for x in call.function(list(map(Coat, arrays)), list(map(Coat, constants)))]

        return super().run(mode, call._replace(function=function))


def driver():
    return CoatDriver()
