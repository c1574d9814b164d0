"""``mrl.adapters.sentence_transformers``: a drop-in that leaves the model and the loss as they are."""

import copy
import logging

import pytest


@pytest.fixture(autouse=True)
def _torch(backend_torch):
    """All of this needs PyTorch."""


BAD = {
    "no-dims": ([], None),
    "zero": ([16, 0], None),
    "negative": ([16, -4], None),
    "weights": ([16, 4], [1.0]),
    "too-large": ([16, 17], None),
}


@pytest.mark.parametrize("bad", BAD)
def test_its_errors_are_theirs(bad):
    from adapter_sentence_cases import MatryoshkaLoss, losses, small_model

    model, said = small_model(), []
    for kind in (MatryoshkaLoss, losses.MatryoshkaLoss):
        with pytest.raises(ValueError, match=r"imension|weights") as error:
            kind(model, losses.CoSENTLoss(model), *BAD[bad])
        said.append(str(error.value))
    assert said[0] == said[1]


def test_its_warning_is_theirs(caplog):
    from adapter_sentence_cases import MatryoshkaLoss, losses, small_model

    model = small_model()
    with caplog.at_level(logging.WARNING):
        for kind in (MatryoshkaLoss, losses.MatryoshkaLoss):
            kind(model, losses.CoSENTLoss(model), [8, 4])
            kind(model, losses.CoSENTLoss(model), [8, 16])
    ours, theirs = (record.message for record in caplog.records)
    assert ours == theirs and "16 is not included" in ours


def test_its_attributes_config_and_citation_are_theirs():
    import inspect

    from adapter_sentence_cases import MatryoshkaLoss, losses, small_model

    model = small_model()
    arguments = losses.CoSENTLoss(model), [4, 16, 8], [1, 2, 3], 2
    ours, theirs = (kind(model, *arguments) for kind in (MatryoshkaLoss, losses.MatryoshkaLoss))
    assert ours.matryoshka_dims == theirs.matryoshka_dims == (16, 8, 4)
    assert ours.matryoshka_weights == theirs.matryoshka_weights == (2, 3, 1)
    assert ours.get_config_dict() == theirs.get_config_dict()
    assert ours.citation == theirs.citation and "2205.13147" in ours.citation
    assert list(ours.state_dict()) == list(theirs.state_dict())
    assert MatryoshkaLoss.__name__ == "MatryoshkaLoss" and isinstance(ours, losses.MatryoshkaLoss)
    signatures = [inspect.signature(kind).parameters for kind in (MatryoshkaLoss, losses.MatryoshkaLoss)]
    assert list(signatures[0])[: len(signatures[1])] == list(signatures[1])
    assert all(p.kind is p.KEYWORD_ONLY for p in list(signatures[0].values())[len(signatures[1]) :])


def test_a_model_of_no_known_dimension():
    import torch
    from adapter_sentence_cases import MatryoshkaLoss

    class Model:
        def get_embedding_dimension(self):
            return None

    class Loss(torch.nn.Module):
        def forward(self, *args):
            return torch.tensor(0.0)

    assert MatryoshkaLoss(Model(), Loss(), [2048, 512]).matryoshka_dims == (2048, 512)


def test_columns_are_embedded_once():
    from adapter_sentence_cases import SHARED, MatryoshkaLoss, batch, guide, losses, small_model

    for name in ("ranking", "ranking-all-ways", "cosine", "distill-columns", "batch-all"):
        make, columns, labels = SHARED[name]
        model, rows = small_model(), []
        model[0].register_forward_hook(lambda module, args, output, rows=rows: rows.append(len(args[0]["input_ids"])))
        MatryoshkaLoss(model, make(model), [4, 8, 16])(batch(model, columns), labels)
        assert sum(rows) == 5 * columns, name
    model, teacher, rows = small_model(), guide(), []
    for each in (model, teacher):
        each[0].register_forward_hook(lambda module, args, output: rows.append(len(args[0]["input_ids"])))
    MatryoshkaLoss(model, losses.GISTEmbedLoss(model, teacher), [4, 8, 16])(batch(model, 3), None)
    assert sum(rows) == 5 * 3 * 2


def states(module):
    """All that a module says of itself, without the values of tensors."""
    return {name: (dict(vars(part)), dict(part._modules)) for name, part in module.named_modules()}


def same(before, after):
    assert list(before) == list(after)
    for name, (attributes, children) in before.items():
        assert attributes.keys() == after[name][0].keys(), name
        assert all(value is after[name][0][key] for key, value in attributes.items()), name
        assert all(child is after[name][1][key] for key, child in children.items()), name


@pytest.mark.parametrize("name", ["ranking", "cached", "gist", "cached-gist", "mega-batch", "mega-batch-whole", "mse"])
def test_neither_the_model_nor_the_loss_is_touched(name):
    from adapter_sentence_cases import SHARED, MatryoshkaLoss, batch, small_model

    make, columns, labels = SHARED[name]
    model = small_model()
    inner = make(model)
    before = states(inner)
    loss = MatryoshkaLoss(model, inner, [4, 16])
    loss(batch(model, columns), labels).backward()
    same(before, states(inner))
    plain = inner(batch(model, columns), labels)
    assert plain.equal(inner(batch(model, columns), labels))
    assert not plain.equal(loss(batch(model, columns), labels))


def test_a_loss_that_raises_leaves_all_as_it_was():
    import torch
    from adapter_sentence_cases import MatryoshkaLoss, batch, losses, small_model

    class Breaks(losses.CoSENTLoss):
        def compute_loss_from_embeddings(self, embeddings, labels):
            if embeddings[0].shape[-1] == 4:
                raise OSError("broken")
            return super().compute_loss_from_embeddings(embeddings, labels)

    model = small_model()
    inner = Breaks(model)
    loss = MatryoshkaLoss(model, inner, [4, 16])
    before, config = states(loss), copy.deepcopy(model[0].auto_model.config.to_dict())
    with pytest.raises(OSError, match="broken"):
        loss(batch(model), torch.arange(5.0))
    same(before, states(loss))
    assert "forward" not in vars(model) and model[0].auto_model.config.to_dict() == config


def test_what_a_loss_remembers_it_still_remembers():
    import torch
    from adapter_sentence_cases import MatryoshkaLoss, batch, losses, small_model

    class Counts(losses.CoSENTLoss):
        def __init__(self, model):
            super().__init__(model)
            self.calls, self.layer = 0, None

        def forward(self, *args):
            self.calls += 1
            if self.layer is None:
                self.layer = torch.nn.Identity()
            return super().forward(*args)

    class Around(torch.nn.Module):
        def __init__(self, model):
            super().__init__()
            self.inner, self.seen = Counts(model), []

        def forward(self, *args):
            self.seen = [*self.seen, 1]
            return 2 * self.inner(*args)

    model = small_model()
    around, labels = Around(model), torch.arange(5.0)
    loss = MatryoshkaLoss(model, around, [4, 16])
    value = loss(batch(model), labels)
    assert around.inner.calls == 2 and len(around.seen) == 2 and isinstance(around.inner.layer, torch.nn.Identity)
    assert around.inner.model is model
    torch.testing.assert_close(value, 2 * MatryoshkaLoss(model, Counts(model), [4, 16])(batch(model), labels))


def test_parts_by_name_are_added_up_by_name():
    import torch
    from adapter_sentence_cases import MatryoshkaLoss, batch, losses, small_model

    model = small_model()
    regular = losses.GlobalOrthogonalRegularizationLoss(model)
    found = MatryoshkaLoss(model, regular, [4, 16], [2.0, 1.0])(batch(model), None)
    parts = [regular.compute_loss_from_embeddings(columns_of(model, dim)) for dim in (4, 16)]
    assert found.keys() == parts[0].keys()
    for name, value in found.items():
        torch.testing.assert_close(value, 2 * parts[0][name] + parts[1][name])


def columns_of(model, dim):
    from adapter_sentence_cases import batch

    import mrl

    return [mrl.truncate(model(column)["sentence_embedding"], dim) for column in batch(model)]


def test_a_loss_of_embeddings_alone():
    import torch
    from adapter_sentence_cases import MatryoshkaLoss, batch, small_model

    class Alone(torch.nn.Module):
        def compute_loss_from_embeddings(self, embeddings, labels):
            return (embeddings[0] * embeddings[1]).sum() * labels

    model = small_model()
    found = MatryoshkaLoss(model, Alone(), [4, 16], [2.0, 1.0])(batch(model), 3.0)
    small, whole = (3 * (x * y).sum() for x, y in (columns_of(model, dim) for dim in (4, 16)))
    torch.testing.assert_close(found, 2 * small + whole)


@pytest.mark.parametrize(
    ("options", "error", "text"),
    [
        ({"seed": 1.5}, TypeError, "seed: expected an integer"),
        ({"normalize_targets": 1}, TypeError, "normalize_targets: expected"),
    ],
)
def test_its_own_options_are_checked(options, error, text):
    from adapter_sentence_cases import MatryoshkaLoss, losses, small_model

    model = small_model()
    with pytest.raises(error, match=text):
        MatryoshkaLoss(model, losses.CoSENTLoss(model), [16], **options)


def test_without_gradients():
    import torch
    from adapter_sentence_cases import SHARED, MatryoshkaLoss, batch, losses, small_model

    model = small_model()
    for name in ("ranking", "cached", "cached-all-ways", "cosine"):
        make, columns, labels = SHARED[name]
        ours, theirs = (kind(model, make(model), [4, 16]) for kind in (MatryoshkaLoss, losses.MatryoshkaLoss))
        with torch.no_grad():
            value = ours(batch(model, columns), labels)
            assert not value.requires_grad
            torch.testing.assert_close(value, theirs(batch(model, columns), labels))


def test_it_is_copied_and_pickled():
    import pickle

    from adapter_sentence_cases import MatryoshkaLoss, batch, losses, small_model

    model = small_model()
    loss = MatryoshkaLoss(model, losses.MultipleNegativesRankingLoss(model), [4, 16], n_dims_per_step=1)
    loss(batch(model), None)
    for other in (copy.deepcopy(loss), pickle.loads(pickle.dumps(loss))):
        assert other.loss.model is other.model and other.step == 1
        assert other(batch(model), None).equal(copy.copy(loss)(batch(model), None))
