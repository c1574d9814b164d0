"""Any loss made Matryoshka: what is handed to a function that somebody else wrote."""

import numpy as np
import pytest

import mrl

NESTING = mrl.Nesting((2, 3))
Z = np.array([[1.0, 2.0, 3.0], [-1.0, 0.5, 4.0]])


@pytest.mark.parametrize("normalize", [False, True])
def test_a_function_that_works_in_place_in_torch(backend_torch: None, normalize: bool) -> None:
    import torch

    z, same = (torch.tensor(Z, requires_grad=True) for _ in range(2))
    total = mrl.nested(lambda x: x.mul_(2).sum(), NESTING, normalize=normalize)(z)
    expected = mrl.nested(lambda x: (2 * x).sum(), NESTING, normalize=normalize)(same)
    assert torch.equal(total, expected)
    torch.testing.assert_close(*torch.autograd.grad(total, z), *torch.autograd.grad(expected, same))
    assert np.array_equal(z.detach().numpy(), Z)
    assert normalize or total.item() == 2 * (Z[:, :2].sum() + Z.sum())


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("normalize", [False, True])
def test_a_function_that_works_in_place_in_numpy(dtype: str, normalize: bool) -> None:
    def double(x):
        x *= 2
        return float(x.sum())

    z = Z.astype(dtype)
    total = mrl.nested(double, NESTING, normalize=normalize)(z)
    assert np.array_equal(z, Z.astype(dtype))
    expected = mrl.nested(lambda x: float((2 * x).sum()), NESTING, normalize=normalize)(z)
    assert total == pytest.approx(expected)


@pytest.mark.parametrize("normalize", [False, True])
@pytest.mark.parametrize("dim", [2, 3])
def test_truncate_is_no_view_in_torch(backend_torch: None, dim: int, normalize: bool) -> None:
    import torch

    z = torch.tensor(Z)
    mrl.truncate(z, dim, normalize=normalize).fill_(7.0)
    assert np.array_equal(z.numpy(), Z)


@pytest.mark.parametrize("normalize", [False, True])
@pytest.mark.parametrize("dim", [2, 3])
def test_truncate_is_no_view_in_numpy(dim: int, normalize: bool) -> None:
    z = Z.copy()
    mrl.truncate(z, dim, normalize=normalize)[...] = 7.0
    assert np.array_equal(z, Z)


def test_levels_of_weight_zero_are_not_asked_for(backend_name: str) -> None:
    seen = []

    def loss(x):
        seen.append(x.shape[-1])
        return x[0, 0] * float("inf") if x.shape[-1] == 2 else x[0, 0]

    z = mrl.convert(Z.astype(np.float32), backend_name)
    total = mrl.nested(loss, mrl.Nesting((2, 3), weights=(0.0, 2.0)))(z)
    assert seen == [3] and float(total) == 2.0
