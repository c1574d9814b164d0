"""``mrl.adapters.sentence_transformers``: the losses and gradients of sentence-transformers' own, by every loss."""

import pytest


@pytest.fixture(autouse=True)
def _torch(backend_torch):
    """All of this needs PyTorch."""


def pytest_generate_tests(metafunc):
    if "shared" in metafunc.fixturenames:
        names = []
        if "torch" in (metafunc.config.getoption("--backend") or ["torch"]):
            from adapter_sentence_cases import SHARED

            names = list(SHARED)
        metafunc.parametrize("shared", names)


def assert_same(found, expected):
    """To what rounding in float64 comes to behind two layers."""
    import torch

    (loss, gradients), (other, others) = found, expected
    torch.testing.assert_close(loss, other, rtol=1e-12, atol=1e-12)
    assert list(gradients) == list(others) and gradients
    largest = max(gradient.abs().max().item() for gradient in others.values())
    assert largest > 0
    for name, gradient in gradients.items():
        difference = (gradient - others[name]).abs().max().item()
        assert difference <= 1e-10 * largest, (name, difference, largest)


@pytest.mark.filterwarnings("ignore:The MultipleNegatives:DeprecationWarning")
def test_loss_and_gradients_are_theirs(shared):
    from adapter_sentence_cases import SHARED, both

    assert_same(*both(*SHARED[shared]))


@pytest.mark.filterwarnings("ignore:The .*MultipleNegativesSymmetricRankingLoss:DeprecationWarning")
@pytest.mark.parametrize(
    "name", ["MultipleNegativesSymmetricRankingLoss", "CachedMultipleNegativesSymmetricRankingLoss"]
)
def test_the_symmetric_losses_by_their_old_names(name):
    from adapter_sentence_cases import both, losses

    assert_same(*both(getattr(losses, name), 3))


@pytest.mark.parametrize("shared_by", ["ranking", "cached", "cosent"])
def test_the_order_of_the_dims_changes_nothing(shared_by):
    from adapter_sentence_cases import DIMS, SHARED, WEIGHTS, both

    as_they_come, _ = both(*SHARED[shared_by])
    sorted_by_dim = sorted(zip(DIMS, WEIGHTS, strict=True))
    other, _ = both(*SHARED[shared_by], *map(list, zip(*sorted_by_dim, strict=True)))
    assert_same(other, as_they_come)


@pytest.mark.parametrize("weights", [None, [0, 0, 0], [1, -1, 1], [3, 0, 1]])
@pytest.mark.parametrize("shared_by", ["ranking", "cached", "cosent"])
def test_weights_are_any_numbers(shared_by, weights):
    from adapter_sentence_cases import SHARED, both

    found, expected = both(*SHARED[shared_by], weights=weights)
    if weights == [0, 0, 0]:
        assert found[0] == expected[0] == 0
        assert all(not gradient.any() for gradient in found[1].values())
    else:
        assert_same(found, expected)


@pytest.mark.parametrize("shared_by", ["ranking", "cached", "cosent"])
def test_a_dim_may_stand_twice(shared_by):
    from adapter_sentence_cases import SHARED, both

    assert_same(*both(*SHARED[shared_by], dims=[16, 4, 4], weights=None))


def test_one_level_is_enough():
    from adapter_sentence_cases import SHARED, both

    assert_same(*both(*SHARED["ranking"], dims=[16], weights=None))


def test_a_layer_of_whole_embeddings_is_for_the_whole_alone():
    import torch
    from adapter_sentence_cases import CLASSES, WIDTH, both, losses

    def make(model):
        torch.manual_seed(5)
        return losses.SoftmaxLoss(model, WIDTH, 2)

    assert_same(*both(make, 2, CLASSES, dims=[WIDTH], weights=None))


def test_the_adaptive_layer_loss_goes_around_ours_as_around_theirs():
    import random

    from adapter_sentence_cases import SCORES, MatryoshkaLoss, batch, gradients, losses, small_model

    found = []
    for kind in (MatryoshkaLoss, losses.MatryoshkaLoss):
        for inner in (losses.MultipleNegativesRankingLoss, losses.CoSENTLoss):
            model = small_model().double()
            loss = losses.AdaptiveLayerLoss(model, kind(model, inner(model), [16, 4]))
            random.seed(0)
            value = loss(batch(model), SCORES.double())
            value.backward()
            found.append((value.detach(), gradients(model)))
    assert_same(found[0], found[2])
    assert_same(found[1], found[3])


def test_targets_are_sliced_and_on_request_normalised():
    import torch
    from adapter_sentence_cases import WIDTH, MatryoshkaLoss, batch, losses, random, small_model

    model = small_model()
    features, labels = batch(model, 1), random(5, WIDTH)
    with torch.no_grad():
        z = model(dict(features[0]))["sentence_embedding"]
    for normalize in (False, True):
        loss = MatryoshkaLoss(model, losses.MSELoss(model), [4, 16], normalize_targets=normalize)
        expected = 0
        for dim in (4, 16):
            target = labels[:, :dim] / (labels[:, :dim].norm(dim=-1, keepdim=True) if normalize else 1)
            expected += torch.nn.functional.mse_loss(torch.nn.functional.normalize(z[:, :dim]), target)
        torch.testing.assert_close(loss(features, labels).detach(), expected)
    # Neither scores nor classes, which are not as wide as the embeddings.
    kept = MatryoshkaLoss(model, losses.CoSENTLoss(model), [4, 16])
    assert kept(batch(model), torch.arange(5)).isfinite()


def test_a_prefix_of_zeros_has_no_gradient():
    import torch
    from adapter_sentence_cases import MatryoshkaLoss, losses
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import BoW

    model = SentenceTransformer(modules=[BoW(["a", "b", "c", "d"])], device="cpu")
    layer = torch.nn.Parameter(torch.eye(4))

    class Scaled(losses.CosineSimilarityLoss):
        def compute_loss_from_embeddings(self, embeddings, labels):
            return super().compute_loss_from_embeddings(
                [x @ layer[: x.shape[1], : x.shape[1]] for x in embeddings], labels
            )

    loss = MatryoshkaLoss(model, Scaled(model), [2, 4])
    value = loss([model.preprocess(["d", "a d"]), model.preprocess(["d c", "a c"])], torch.tensor([1.0, 0.0]))
    value.backward()
    assert value.isfinite() and layer.grad.isfinite().all()


@pytest.mark.parametrize("shared_by", ["ranking-negatives", "ranking-symmetric", "cached", "cosine"])
def test_bfloat16(shared_by):
    """A model in it, and autocast to it: no farther from float32 than theirs are, within a factor."""
    import torch
    from adapter_sentence_cases import DIMS, SHARED, MatryoshkaLoss, batch, losses, small_model

    make, columns, labels = SHARED[shared_by]
    errors = {}
    for kind in (MatryoshkaLoss, losses.MatryoshkaLoss):
        for how in ("float32", "autocast", "bfloat16"):
            model = small_model()
            if how == "bfloat16":
                model.bfloat16()
            loss = kind(model, make(model), DIMS)
            with torch.autocast("cpu", torch.bfloat16, enabled=how == "autocast"):
                value = loss(batch(model, columns), None if labels is None else labels.to(model.dtype))
            value.backward()
            gradient = torch.cat([p.grad.flatten().float() for p in model.parameters() if p.grad is not None])
            errors[kind, how] = torch.cat([value.detach().float()[None], gradient])
    exact = errors[losses.MatryoshkaLoss, "float32"]
    for how in ("autocast", "bfloat16"):
        ours, theirs = ((errors[kind, how] - exact).norm() for kind in (MatryoshkaLoss, losses.MatryoshkaLoss))
        assert ours <= 2 * theirs, (how, ours, theirs)
        assert ours <= 0.2 * exact.norm()


def test_compiled_models():
    import torch
    from adapter_sentence_cases import DIMS, SHARED, WEIGHTS, MatryoshkaLoss, batch, both, gradients, small_model

    model = small_model().double()
    compiled = torch.compile(model, backend="eager")
    for name in ("ranking", "cosine"):
        make, columns, labels = SHARED[name]
        labels = None if labels is None else labels.double()
        loss = MatryoshkaLoss(compiled, make(compiled), DIMS, WEIGHTS)
        model.zero_grad()
        value = loss(batch(model, columns), labels)
        value.backward()
        assert_same((value.detach(), gradients(model)), both(make, columns, labels)[0])
