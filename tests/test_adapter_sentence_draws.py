"""``mrl.adapters.sentence_transformers``: which dims a step trains."""

import pytest


@pytest.fixture(autouse=True)
def _torch(backend_torch):
    """All of this needs PyTorch."""


def dims_used(loss, model, name, labels=None, steps=1):
    """The dims of each step."""
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
