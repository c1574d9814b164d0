"""``mrl.adapters.torch`` compiled, exported, checkpointed and in mixed precision; all against the functions."""

import numpy as np
import pytest
from adapter_torch_cases import CLASSES, CLOSE, LABELS, NESTING, TIED, embeddings, gradients, made

import mrl


@pytest.fixture(autouse=True)
def _torch(backend_torch):
    """All of this needs PyTorch."""


def model(tied):
    """An encoder and a head, whose call is the loss."""
    import torch

    class Model(torch.nn.Module):
        def __init__(self):
            super().__init__()
            torch.manual_seed(2)
            self.encoder = torch.nn.Linear(NESTING.width, NESTING.width)
            self.head = made(tied)

        def forward(self, x, labels, **options):
            return self.head(self.encoder(x), labels, **options)

    return Model()


def stepped(loss_of, tied, **options):
    """The loss and the parameters after one step of ``loss_of(model)``."""
    import torch

    trained, (x, y) = model(tied), embeddings()
    optimizer = torch.optim.SGD(trained.parameters(), lr=0.5)
    loss = loss_of(trained)(x, y, **options)
    loss.total.backward()
    optimizer.step()
    return loss, dict(trained.named_parameters())


def assert_same(found, expected, **close):
    import torch

    (loss, parameters), (expected_loss, expected_parameters) = found, expected
    for a, b in zip(loss, expected_loss, strict=True):
        torch.testing.assert_close(a, b, **close)
    for (name, a), b in zip(parameters.items(), expected_parameters.values(), strict=True):
        torch.testing.assert_close(a, b, **close, msg=lambda text, name=name: f"{name}: {text}")


@pytest.mark.parametrize(
    ("tied", "options", "backend"),
    [
        (False, {"num_items": 4, "ignore_index": 1}, "inductor"),
        (False, {}, "aot_eager"),
        (True, {"num_items": 4, "ignore_index": 1}, "aot_eager"),
        (True, {}, "aot_eager"),
    ],
)
def test_a_compiled_step(tied, options, backend):
    import torch

    torch.compiler.reset()
    compiled = stepped(lambda m: torch.compile(m, fullgraph=True, backend=backend), tied, **options)
    assert_same(compiled, stepped(lambda m: m, tied, **options))


def test_one_graph_serves_every_count_of_items():
    import torch

    torch.compiler.reset()
    trained, (x, y) = model(False), embeddings()
    graphs = []

    def count(graph, inputs):
        graphs.append(graph)
        return graph

    compiled = torch.compile(trained, fullgraph=True, backend=count)
    for items in range(2, 9):
        total = compiled(x, y, num_items=torch.tensor(items)).total
        torch.testing.assert_close(total, trained(x, y, num_items=items).total)
    assert len(graphs) == 1
    for items in range(2, 9):
        torch.testing.assert_close(compiled(x, y, num_items=items).total, trained(x, y, num_items=items).total)
    assert len(graphs) <= 3, "for the tensor, for one number, for any"


@TIED
@pytest.mark.parametrize("reentrant", [False, True])
def test_activation_checkpointing(tied, reentrant):
    import torch
    from torch.utils.checkpoint import checkpoint

    def through(m):
        return lambda x, y: mrl.NestedLoss(*checkpoint(m, x.requires_grad_(), y, use_reentrant=reentrant))

    assert_same(stepped(through, tied), stepped(lambda m: m, tied))
    assert torch.is_grad_enabled()


@TIED
def test_mixed_precision_with_a_scaler(tied):
    import torch

    trained, (x, y) = model(tied), embeddings()
    optimizer, scaler = torch.optim.SGD(trained.parameters(), lr=0.5), torch.amp.GradScaler("cpu", init_scale=1024.0)
    with torch.autocast("cpu", dtype=torch.float16):
        loss = trained(x, y)
    assert loss.total.dtype == torch.float32
    scaler.scale(loss.total).backward()
    assert all(p.grad.dtype == torch.float32 for p in trained.parameters())
    scaler.step(optimizer)
    scaler.update()
    assert scaler.get_scale() == 1024.0, "no gradient overflowed"
    found = loss, dict(trained.named_parameters())
    # Factors of half precision, summed over five dimensions and six examples.
    assert_same(found, stepped(lambda m: m, tied), rtol=2**-6, atol=2**-7)
    optimizer.zero_grad()
    scaler.scale(trained(x, y).total * torch.inf).backward()
    before = [p.clone() for p in trained.parameters()]
    scaler.step(optimizer)
    scaler.update()
    assert scaler.get_scale() == 512.0 and all(a.equal(b) for a, b in zip(before, trained.parameters(), strict=True))


@TIED
def test_export_for_any_number_of_rows(tied):
    import torch

    head, (z, y) = made(tied), embeddings()
    rows = torch.export.Dim("rows", min=2)
    logits = torch.export.export(head, (z,), dynamic_shapes=({0: rows},)).module()
    loss = torch.export.export(head, (z, y), dynamic_shapes=({0: rows}, {0: rows})).module()
    for n in (6, 4):
        torch.testing.assert_close(logits(z[:n]), head(z[:n]))
        torch.testing.assert_close(loss(z[:n], y[:n]).total, head(z[:n], y[:n]).total)
    loss(z, y).total.backward()
    found = {name: p.grad for name, p in loss.named_parameters()}
    head(z, y).total.backward()
    for name, gradient in gradients(head).items():
        torch.testing.assert_close(found[name], gradient)


@pytest.mark.filterwarnings("ignore:.*LeafSpec.* is deprecated:FutureWarning")  # PyTorch's, of itself
@pytest.mark.parametrize(("tied", "dim"), [(False, 2), (False, 5), (True, 3)])
def test_onnx_of_one_granularity(tied, dim, tmp_path):
    import onnxruntime
    import torch

    class Predict(torch.nn.Module):
        def __init__(self, head):
            super().__init__()
            self.head = head

        def forward(self, z):
            return self.head.predict(z, dim)

    head, (z, _) = made(tied), embeddings()
    path = tmp_path / "predict.onnx"
    torch.onnx.export(Predict(head).eval(), (z,), path, dynamo=True, dynamic_shapes=({0: "rows"},), verbose=False)
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    for n in (6, 4):
        (labels,) = session.run(None, {session.get_inputs()[0].name: z[:n].numpy()})
        np.testing.assert_array_equal(labels, head.predict(z[:n], dim))
    layer = tmp_path / "layer.onnx"
    torch.onnx.export(head.at(dim), (z[:, :dim],), layer, dynamo=True, verbose=False)
    session = onnxruntime.InferenceSession(layer, providers=["CPUExecutionProvider"])
    (logits,) = session.run(None, {session.get_inputs()[0].name: z[:, :dim].numpy()})
    assert logits.shape == (len(LABELS), CLASSES)
    np.testing.assert_allclose(logits, head(z)[NESTING.dims.index(dim)].detach(), **CLOSE)
