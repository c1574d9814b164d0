"""``mrl.adapters.torch``: a module that holds a head, and is one for all that PyTorch does with modules."""

import copy
import io
import pickle

import numpy as np
import pytest
from adapter_torch_cases import CLASSES, CLOSE, KINDS, LABELS, NESTING, TIED, embeddings, gradients, made

import mrl
from mrl import spec


@pytest.fixture(autouse=True)
def _torch(backend_torch):
    """All of this needs PyTorch."""


@KINDS
def test_it_computes_what_the_functions_compute(tied, bias):
    head, (z, y) = made(tied, bias), embeddings()
    z.requires_grad_()
    host = mrl.convert(head.head, "numpy")
    assert type(host) is (mrl.TiedHead if tied else mrl.NestedHead)
    np.testing.assert_allclose(head(z).detach(), spec.nested_logits(z.detach().numpy(), host, NESTING), **CLOSE)
    options = {"label_smoothing": 0.1, "ignore_index": 1}
    loss = head(z, y, **options)
    assert isinstance(loss, mrl.NestedLoss)
    expected = spec.nested_cross_entropy(z.detach().numpy(), host, LABELS, NESTING, **options)
    np.testing.assert_allclose(loss.total.detach(), expected.total, **CLOSE)
    np.testing.assert_allclose(loss.per_level, expected.per_level, **CLOSE)
    loss.total.backward()
    dz, dhead = spec.nested_cross_entropy_vjp(z.detach().numpy(), host, LABELS, NESTING, 1.0, **options)
    np.testing.assert_allclose(z.grad, dz, **CLOSE)
    fields = {"weight": dhead.weight, "bias": dhead.bias} if tied else {}
    for field in () if tied else ("weights", "biases"):
        fields |= {f"{field}.{g}": array for g, array in enumerate(getattr(dhead, field) or ())}
    found = gradients(head)
    assert list(found) == [name for name, array in fields.items() if array is not None]
    for name, gradient in found.items():
        np.testing.assert_allclose(gradient, fields[name], **CLOSE)


def test_loss_is_the_call_by_name_so_that_hooks_run():
    head, (z, y) = made(), embeddings()
    seen = []
    head.register_forward_hook(lambda module, inputs, output: seen.append(output))
    loss = head.loss(z, y, reduction="none")
    assert loss is seen[0] and loss.total.shape == y.shape


@TIED
def test_every_option_of_the_loss_goes_through(tied):
    import inspect

    import torch

    head, (z, y) = made(tied), embeddings()
    options = {
        "label_smoothing": 0.1,
        "ignore_index": 1,
        "sample_weight": torch.linspace(0.5, 2.0, len(y)),
        "class_weight": torch.tensor([1.0, 2.0, 0.5, 3.0]),
        "level_weights": torch.tensor([1.0, 0.0, 2.0]),
        "reduction": "none",
        "fused": False,
        "chunk_rows": 2,
    }
    devices = ["across", "classes_across"]  # of which there is one here
    assert list(inspect.signature(mrl.nested_cross_entropy).parameters)[4:] == [*options, *devices]
    for name, value in options.items():
        found, expected = (
            call(*arguments, **{name: value})
            for call, arguments in ((head, (z, y)), (mrl.nested_cross_entropy, (z, head.head, y, NESTING)))
        )
        assert found.total.equal(expected.total) and found.per_level.equal(expected.per_level), name
    shares = torch.nn.functional.one_hot(y, CLASSES).float()
    torch.testing.assert_close(head(z, shares).total, head(z, y).total)


def test_num_items_divides_the_sum():
    import torch

    head, (z, y) = made(), embeddings()
    whole = head(z, y, ignore_index=1)
    whole.total.backward()
    expected = gradients(head)
    head.zero_grad()
    items = 4  # of the labels, two are ignored
    losses = [head(z[i : i + 2], y[i : i + 2], num_items=n, ignore_index=1) for i, n in enumerate_pairs(items)]
    total = sum(loss.total for loss in losses)
    torch.testing.assert_close(total, whole.total)
    torch.testing.assert_close(sum(loss.per_level for loss in losses), whole.per_level)
    total.backward()
    for name, gradient in gradients(head).items():
        torch.testing.assert_close(gradient, expected[name])


def enumerate_pairs(items):
    import torch

    return zip((0, 2, 4), (items, torch.tensor(items), float(items)), strict=True)


def test_of_no_items_the_loss_is_zero():
    import torch

    head, (z, y) = made(), embeddings()
    for none in (0, torch.tensor(0)):
        head.zero_grad()
        loss = head(z, torch.full_like(y, 1), num_items=none, ignore_index=1)
        assert loss.total == 0 and not loss.per_level.any()
        loss.total.backward()
        assert not any(gradient.any() for gradient in gradients(head).values())
    assert head(z, y, num_items=torch.tensor(-2)).total.isnan()  # nobody looks at it: that would wait for a device


@TIED
def test_initialised_as_linear_layers_are(tied):
    """Drawn in their order: the same numbers from the same seed."""
    import torch

    head = made(tied)
    again = copy.deepcopy(head)
    with torch.no_grad():
        for parameter in again.parameters():
            parameter.zero_()
    torch.manual_seed(1)
    again.reset_parameters()
    torch.manual_seed(1)
    layers = [torch.nn.Linear(dim, CLASSES) for dim in (NESTING.dims[-1:] if tied else NESTING.dims)]
    for module in (head, again):
        pairs = [module.head] if tied else zip(*module.head, strict=True)
        for layer, (weight, bias) in zip(layers, pairs, strict=True):
            assert layer.weight.equal(weight) and layer.bias.equal(bias)


@TIED
def test_the_classifier_of_one_granularity(tied):
    import torch

    head, (z, _) = made(tied), embeddings()
    state = torch.random.get_rng_state()
    logits = head(z)
    for g, dim in enumerate(NESTING.dims):
        layer = head.at(dim)
        assert type(layer) is torch.nn.Linear and layer.in_features == dim and layer.weight.is_contiguous()
        torch.testing.assert_close(layer(z[:, :dim]), logits[g])
        assert head.predict(z, dim).equal(logits[g].argmax(-1))
        with torch.no_grad():
            layer.weight.zero_()
    assert head(z).equal(logits), "a copy, of which the head knows nothing"
    assert head.predict(z).equal(logits[-1].argmax(-1))
    assert torch.random.get_rng_state().equal(state)


@KINDS
def test_from_head_copies_arrays_of_any_framework(tied, bias):
    from mrl.adapters.torch import MatryoshkaHead

    head = mrl.init_head(NESTING, CLASSES, tied=tied, backend="numpy", seed=0, dtype="float64")
    head = head if bias else head._replace(**{"bias" if tied else "biases": None})
    module = MatryoshkaHead.from_head(head, NESTING)
    z, _ = embeddings()
    before = module(z.double()).detach().numpy()
    np.testing.assert_array_equal(before, mrl.nested_logits(z.double(), mrl.convert(head, "torch"), NESTING).numpy())
    for array in (head.weight,) if tied else head.weights:
        array[:] = 0
    np.testing.assert_array_equal(module(z.double()).detach(), before)
    assert all(parameter.requires_grad for parameter in module.parameters())
    assert made(tied, bias).double().load_state_dict(module.state_dict()).missing_keys == []


def test_a_tied_head_may_be_wider_than_its_nesting():
    import torch
    from mrl.adapters.torch import MatryoshkaHead

    head = mrl.TiedHead(torch.randn(CLASSES, 9))
    module, z = MatryoshkaHead.from_head(head, NESTING), torch.randn(2, 9)
    assert module(z).equal(mrl.nested_logits(z, head, NESTING))
    assert module.predict(z).equal(module(z)[-1].argmax(-1)) and module.at(5).in_features == 5


def test_an_embedding_table_is_shared():
    import torch
    from mrl.adapters.torch import MatryoshkaHead

    table, head = torch.nn.Embedding(CLASSES, NESTING.width), MatryoshkaHead(NESTING, CLASSES, tied=True, bias=False)
    head.weight = table.weight
    z, y = embeddings()
    head(z, y).total.backward()
    assert table.weight.grad.any()


class Reference:
    """The reference code's head, as its repository has it: ``MRL_Linear_Layer(nesting, classes, efficient)``."""

    @staticmethod
    def of(efficient):
        import torch

        class MRL_Linear_Layer(torch.nn.Module):
            def __init__(self):
                super().__init__()
                for i, dim in enumerate(NESTING.dims[-1:] if efficient else NESTING.dims):
                    setattr(self, f"nesting_classifier_{i}", torch.nn.Linear(dim, CLASSES))

            def forward(self, x):
                if not efficient:
                    return [getattr(self, f"nesting_classifier_{i}")(x[:, :d]) for i, d in enumerate(NESTING.dims)]
                weight, bias = self.nesting_classifier_0.weight, self.nesting_classifier_0.bias
                return [torch.matmul(x[:, :d], weight[:, :d].t()) + bias for d in NESTING.dims]

        return MRL_Linear_Layer()


@TIED
@pytest.mark.parametrize("wrapped", [False, True])
def test_state_dicts_of_the_reference_code(tied, wrapped):
    import torch

    reference, head, (z, _) = Reference.of(efficient=tied), made(tied), embeddings()
    state = reference.state_dict()
    if wrapped:
        model = torch.nn.ModuleDict({"conv": torch.nn.Linear(2, 2), "fc": reference})
        state = {f"module.{name}": tensor for name, tensor in model.state_dict().items()}
    head.load_raivnlab_state_dict(state)
    torch.testing.assert_close(head(z), torch.stack(reference(z)))


def test_state_dicts_that_hold_no_head_or_two():
    import torch

    one = Reference.of(efficient=False).state_dict()
    two = {f"{p}.{name}": tensor for p in "ab" for name, tensor in one.items()}
    with pytest.raises(ValueError, match=r"prefix: expected one head in the state dict, got those of \['a\.', 'b\.'\]"):
        made().load_raivnlab_state_dict(two)
    made().load_raivnlab_state_dict(two, prefix="b.")
    for state, prefix in (({"fc.weight": torch.ones(2)}, None), (two, "c.")):
        with pytest.raises(ValueError, match=r"state_dict: expected names such as (c\.)?nesting_classifier_0\.weight"):
            made().load_raivnlab_state_dict(state, prefix)
    with pytest.raises(RuntimeError, match=r'Unexpected key\(s\) in state_dict: "weights.1"'):
        made(tied=True).load_raivnlab_state_dict(one)
    with pytest.raises(RuntimeError, match=r'Missing key\(s\) in state_dict: "weights.1"'):
        made().load_raivnlab_state_dict(Reference.of(efficient=True).state_dict())


@KINDS
def test_copies_pickles_and_saved_states(tied, bias):
    import torch

    head, (z, _) = made(tied, bias), embeddings()
    buffer = io.BytesIO()
    torch.save(head.state_dict(), buffer)
    buffer.seek(0)
    empty = made(tied, bias, device="meta").to_empty(device="cpu")
    empty.load_state_dict(torch.load(buffer, weights_only=True))
    for other in (copy.deepcopy(head), pickle.loads(pickle.dumps(head)), empty):
        assert other.nesting == NESTING and other(z).equal(head(z))
        assert not {p.data_ptr() for p in head.parameters()} & {p.data_ptr() for p in other.parameters()}


@TIED
def test_moves_as_modules_move(tied):
    import torch

    head, (z, y) = made(tied), embeddings()
    assert head.to(torch.float64)(z.double()).dtype == torch.float64
    assert made(tied, dtype=torch.bfloat16)(z.bfloat16(), y).total.dtype == torch.float32
    assert made(tied).to("meta")(z.to("meta")).shape == (3, len(LABELS), CLASSES)


def test_what_it_says_of_itself():
    text = repr(made(True))
    assert text == f"MatryoshkaHead({NESTING}, classes=4, tied=True, bias=True)"
    assert f"{NESTING}, classes=4, tied=False, bias=False" in repr(made(bias=False))


def test_errors():
    import torch
    from mrl.adapters.torch import MatryoshkaHead

    head, (z, y) = made(), embeddings()
    asked = {
        r"nesting: expected an mrl\.Nesting": lambda: MatryoshkaHead((2, 3), 4),
        r"classes: expected an integer of at least 1, got 0": lambda: MatryoshkaHead(NESTING, 0),
        r"tied: expected True or False, got 'yes'": lambda: MatryoshkaHead(NESTING, 4, tied="yes"),
        r"dim: expected one of \(2, 3, 5\), got 4": lambda: head.at(4),
        r"dim: expected an integer, got float": lambda: head.predict(z, 2.0),
        r"labels: expected .* beside ignore_index, num_items, got None": lambda: head(z, ignore_index=1, num_items=3),
        r"reduction: expected nothing beside num_items, got 'mean'": lambda: head(z, y, num_items=3, reduction="mean"),
        r"num_items: expected a number of examples, got True": lambda: head(z, y, num_items=True),
        r"num_items: expected .* of at least 0, got -1": lambda: head(z, y, num_items=-1),
        r"num_items: expected one number, got shape \(2,\)": lambda: head(z, y, num_items=torch.tensor([2, 2])),
        r"labels: expected values in \[0, 4\), got 9 at position 2": lambda: head(z[:3], torch.tensor([0, 1, 9])),
        r"head\.weight: expected shape \(\.\.\., D\) with D at least 5": lambda: MatryoshkaHead.from_head(
            mrl.TiedHead(torch.ones(4, 3)), NESTING
        ),
    }
    for message, ask in asked.items():
        with pytest.raises((TypeError, ValueError), match=message):
            ask()
