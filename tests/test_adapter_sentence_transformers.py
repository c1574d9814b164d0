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


def test_losses_that_cannot_be_cut_are_refused_by_name():
    import torch
    from adapter_sentence_cases import WIDTH, MatryoshkaLoss, losses, small_model

    model = small_model()

    class Uncut(torch.nn.Module):
        uses_gradient_cache = True

    ranking = losses.MultipleNegativesRankingLoss(model)
    for inner, why in (
        (losses.AdaptiveLayerLoss(model, ranking), "goes around"),
        (losses.Matryoshka2dLoss(model, ranking, [16, 4]), "goes around"),
        (losses.MatryoshkaLoss(model, ranking, [16]), "nests already"),
        (MatryoshkaLoss(model, ranking, [16]), "nests already"),
        (losses.ContrastiveTensionLoss(model), "two models"),
        (losses.ContrastiveTensionLossInBatchNegatives(model), "two models"),
        (losses.SoftmaxLoss(model, WIDTH, 2), "whole embeddings"),
        (losses.EmbedDistillLoss(model, projection_dim=8), "leave out projection_dim"),
        (Uncut(), "calculate_loss"),
        (losses.CoSENTLoss(small_model(1)), "with another; make both of one model"),
    ):
        with pytest.raises(ValueError, match=f"loss: expected one .* got {type(inner).__name__}.*{why}"):
            MatryoshkaLoss(model, inner, [16, 4])
    with pytest.raises(TypeError, match="loss: expected a loss of sentence-transformers, got function"):
        MatryoshkaLoss(model, lambda features, labels: 0.0, [16])


def test_a_loss_that_embeds_by_other_means_is_found_out():
    import torch
    from adapter_sentence_cases import MatryoshkaLoss, batch, small_model

    model = small_model()

    class Hidden(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.models = (model,)

        def forward(self, features, labels):
            return self.models[0](features[0])["sentence_embedding"].sum()

    class Fickle(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.model, self.calls = model, 0

        def forward(self, features, labels):
            self.calls += 1
            return self.model(batch(model)[self.calls % 2])["sentence_embedding"].sum()

    with pytest.raises(RuntimeError, match="got Hidden, which never called it; let it hold the model"):
        MatryoshkaLoss(model, Hidden(), [16])(batch(model), None)
    with pytest.raises(RuntimeError, match="the same inputs at every granularity"):
        MatryoshkaLoss(model, Fickle(), [16, 4])(batch(model), None)


def test_what_is_asked_of_the_model_the_model_answers():
    import torch
    from adapter_sentence_cases import WIDTH, MatryoshkaLoss, batch, small_model

    model, seen = small_model(), []

    class Curious(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.model = model

        def forward(self, features, labels):
            m = self.model
            seen.append((m.get_embedding_dimension(), m[0], m.device, m.training, len(list(self.parameters()))))
            with pytest.raises(AttributeError):
                m.nothing  # noqa: B018
            return m.forward(features[0])["sentence_embedding"].sum()

    MatryoshkaLoss(model, Curious(), [16, 4])(batch(model), None)
    assert seen == [(WIDTH, model[0], model.device, False, len(list(model.parameters())))] * 2


@pytest.mark.parametrize("name", ["ranking", "cached", "cached-gist", "cosine"])
def test_a_dim_beyond_the_embeddings(name):
    from adapter_sentence_cases import SHARED, MatryoshkaLoss, batch, small_model

    make, columns, labels = SHARED[name]
    model = small_model()
    loss = MatryoshkaLoss(model, make(model), [4, 16])
    loss.matryoshka_dims = (32, 4)
    with pytest.raises(ValueError, match=r"Dimension 32 in matryoshka_dims cannot be greater than .* dimension: 16"):
        loss(batch(model, columns), labels)


@pytest.mark.parametrize("name", ["ranking", "cached"])
def test_too_few_columns_are_the_losss_to_refuse(name):
    from adapter_sentence_cases import SHARED, MatryoshkaLoss, batch, small_model

    model = small_model()
    with pytest.raises(ValueError, match="Expected at least 2"):
        MatryoshkaLoss(model, SHARED[name][0](model), [4, 16])(batch(model, 1), None)


def dims_used(loss, model, name, labels=None, steps=1):
    """The dims of each step, by what is left of the gradient of embeddings that are the parameters."""
    from adapter_sentence_cases import batch

    found = []
    for _ in range(steps):
        model.zero_grad()
        loss(batch(model), labels)
        found.append(tuple(loss.seen))
        loss.seen.clear()
    return found


@pytest.mark.parametrize("kind", ["cosine", "cached", "ranking"])
def test_the_draw_of_dims(kind):
    """It depends on the seed and the step; each dim has its share; what is evaluated has draws of its own."""
    from collections import Counter

    import torch
    from adapter_sentence_cases import SHARED, MatryoshkaLoss, small_model

    model = small_model()
    make, _, labels = SHARED[kind]

    class Watched(MatryoshkaLoss):
        def _levels(self):
            levels = super()._levels()
            self.seen.extend(dim for dim, _ in levels)
            return levels

    def made(seed=0):
        loss = Watched(model, make(model), [2, 4, 8, 16], n_dims_per_step=2, seed=seed)
        loss.seen = []
        return loss

    steps = 6
    first = dims_used(made(), model, kind, labels, steps)
    assert all(len(dims) == 2 and dims[0] > dims[1] for dims in first)
    other = made()
    with torch.no_grad():
        evaluated = dims_used(other, model, kind, labels, 2)
    assert dims_used(other, model, kind, labels, steps) == first and evaluated != first[:2]
    assert dims_used(made(seed=1), model, kind, labels, steps) != first
    later = made()
    later.step = 2
    assert dims_used(later, model, kind, labels, 2) == first[2:4]
    loss = made()
    for step in range(2000):
        loss.step = step
        loss._levels()
    shares = Counter(loss.seen)
    # Half of the steps each: 2000 draws are within 5 standard deviations, which are 22.
    assert sorted(shares) == [2, 4, 8, 16] and all(abs(n - 1000) < 112 for n in shares.values())


@pytest.mark.parametrize("name", ["ranking", "cached", "cosine", "cached-gist"])
def test_a_step_trains_the_dims_that_were_drawn(name):
    from adapter_sentence_cases import SHARED, MatryoshkaLoss, batch, gradients, small_model

    make, columns, labels = SHARED[name]
    model = small_model()
    loss = MatryoshkaLoss(model, make(model), [4, 9, 16], [2.0, 0.5, 1.0], n_dims_per_step=1)
    dims = set()
    for _ in range(4):
        ((dim, weight),) = loss._levels()
        dims.add(dim)
        found = []
        for each in (loss, MatryoshkaLoss(model, make(model), [dim], [weight])):
            model.zero_grad()
            value = each(batch(model, columns), labels)
            value.backward()
            found.append((value.detach(), gradients(model)))
        assert found[0][0].equal(found[1][0])
        assert all(gradient.equal(found[1][1][key]) for key, gradient in found[0][1].items())
    assert len(dims) > 1
    loss.n_dims_per_step = 7
    assert [dim for dim, _ in loss._levels()] == [16, 9, 4]


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
