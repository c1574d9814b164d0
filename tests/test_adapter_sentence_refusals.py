"""``mrl.adapters.sentence_transformers``: what it refuses, and what it says of it."""

import pytest


@pytest.fixture(autouse=True)
def _torch(backend_torch):
    """All of this needs PyTorch."""


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
