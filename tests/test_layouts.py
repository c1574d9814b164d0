"""Heads in other people's names: found where that is certain, and asked about where it is not."""

import numpy as np
import pytest
from head_cases import DTYPES, NESTING, assert_same, head_of
from hypothesis import given
from hypothesis import strategies as st

import mrl
from mrl.porting.layouts import LAYOUTS, find_head
from mrl.testing.strategies import nestings

PREFIXES = ("", "module.", "fc.", "model.head.", "params/head/")


@given(st.data())
def test_what_is_written_is_found(data) -> None:
    nesting = mrl.Nesting(data.draw(nestings()).dims)
    tied, bias = data.draw(st.booleans()), data.draw(st.booleans())
    dtype = data.draw(st.sampled_from(DTYPES))
    head = head_of(dtype, tied, bias, nesting, classes=data.draw(st.integers(1, 6)))
    layout, prefix = data.draw(st.sampled_from(LAYOUTS)), data.draw(st.sampled_from(PREFIXES))
    state = mrl.write_head(head, nesting, layout=layout, prefix=prefix)
    for wanted in (None, layout):
        found = find_head(state, nesting, layout=wanted)
        assert_same(found.head, head)
        assert found.prefix == prefix.replace("/", ".") and found.nesting == nesting
    assert_same(mrl.read_head(state, nesting, prefix=prefix)[0], head)
    if not tied and len(nesting) > 1:
        assert mrl.read_head(state)[1] == nesting


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("tied", [True, False])
def test_in_every_framework(backend_name: str, layout: str, tied: bool) -> None:
    head = head_of("float32", tied, True)
    state = mrl.write_head(mrl.convert(head, backend_name), NESTING, layout=layout, prefix="fc")
    there, _ = mrl.read_head(state, NESTING, backend=backend_name)
    assert type(there[0]) is type(mrl.convert(head, backend_name)[0])
    assert_same(mrl.convert(there, "numpy"), head)


def names(state: dict) -> dict:
    return {name: array.shape for name, array in state.items()}


def test_the_names_of_each_layout() -> None:
    untied, tied = head_of("float32", False, True), head_of("float32", True, True)
    write = {layout: names(mrl.write_head(untied, NESTING, layout=layout)) for layout in LAYOUTS if layout != "flax"}
    assert write["raivnlab"] == {
        "nesting_classifier_0.weight": (3, 2),
        "nesting_classifier_0.bias": (3,),
        "nesting_classifier_1.weight": (3, 5),
        "nesting_classifier_1.bias": (3,),
    }
    assert write["linear"] == {"0.weight": (3, 2), "0.bias": (3,), "1.weight": (3, 5), "1.bias": (3,)}
    assert write["dense"] == {
        "dense_0/kernel": (2, 3),
        "dense_0/bias": (3,),
        "dense_1/kernel": (5, 3),
        "dense_1/bias": (3,),
    }
    assert write["mrl"] == {"weights.0": (3, 2), "biases.0": (3,), "weights.1": (3, 5), "biases.1": (3,)}
    tree = mrl.write_head(untied, NESTING, layout="flax", prefix="params.")
    assert {scope: names(part) for scope, part in tree["params"].items()} == {
        "Dense_0": {"kernel": (2, 3), "bias": (3,)},
        "Dense_1": {"kernel": (5, 3), "bias": (3,)},
    }
    assert names(mrl.write_head(tied, NESTING, layout="raivnlab", prefix="module.")) == {
        "module.nesting_classifier_0.weight": (3, 5),
        "module.nesting_classifier_0.bias": (3,),
    }
    for layout in ("linear", "mrl"):
        assert names(mrl.write_head(tied, NESTING, layout=layout)) == {"weight": (3, 5), "bias": (3,)}
    for layout in ("dense", "flax"):
        assert names(mrl.write_head(tied, NESTING, layout=layout)) == {"kernel": (5, 3), "bias": (3,)}


ONES = {m: np.ones((3, m), np.float32) for m in (2, 3, 5, 8)}
BIAS = np.ones(3, np.float32)


@pytest.mark.parametrize("tied", [True, False])
def test_the_head_is_found_in_a_whole_model(tied: bool) -> None:
    model = {
        "module.conv1.weight": np.ones((4, 3, 7, 7), np.float32),
        "module.bn1.weight": BIAS,
        "module.bn1.num_batches_tracked": np.array(3),
        "module.proj.weight": ONES[8],
        "epoch": 90,
        "name": "resnet",
    }
    head = head_of("float32", tied, True)
    state = {"state_dict": model | mrl.write_head(head, NESTING, layout="raivnlab", prefix="module.fc")}
    found = find_head(state, NESTING)
    assert_same(found.head, head)
    assert (found.layout, found.prefix) == ("raivnlab", "state_dict.module.fc.")
    del model["module.proj.weight"]
    found = find_head(model | mrl.write_head(head, NESTING, layout="linear", prefix="module.fc"), NESTING)
    assert_same(found.head, head)
    assert (found.layout, found.prefix) == ("linear", "module.fc.")


def test_the_same_array_by_two_names_is_one_head(backend_name: str) -> None:
    table = mrl.convert(ONES[5], backend_name)
    found = find_head({"embed.weight": table, "lm_head.weight": table}, NESTING)
    assert found.prefix == "embed." and found.head.bias is None


def test_numbered_layers_have_an_order() -> None:
    twelve = {f"level_{g}.kernel": np.ones((g + 1, 2)) for g in range(12)}
    head, nesting = mrl.read_head(dict(sorted(twelve.items())))
    assert nesting.dims == tuple(range(1, 13)) and [w.shape[1] for w in head.weights] == list(range(1, 13))


def test_arrays_in_a_row() -> None:
    """What ``numpy.savez(path, *layer.get_weights())`` makes has no names; a bias tells which way round."""
    for array in (ONES[5], ONES[5].T):
        assert mrl.read_head({"arr_0": array, "arr_1": BIAS}, NESTING)[0].weight.shape == (3, 5)
    with pytest.raises(ValueError, match="layout 'linear' and layout 'dense'"):
        mrl.read_head({"arr_0": ONES[3], "arr_1": BIAS}, mrl.Nesting((2, 3)))
    square = np.arange(9.0).reshape(3, 3)
    for layout, weight in (("linear", square), ("dense", square.T)):
        found, _ = mrl.read_head({"arr_0": square, "arr_1": BIAS}, mrl.Nesting((2, 3)), layout=layout)
        np.testing.assert_array_equal(found.weight, weight)


@pytest.mark.parametrize(
    ("state", "nesting", "message"),
    [
        ({"weight": ONES[5], "kernel": ONES[5].T}, (2, 5), "layout 'linear' and layout 'dense'"),
        ({"nesting_classifier_0.weight": ONES[5], "weight": ONES[5] * 2}, (2, 5), "'linear' and layout 'raivnlab'"),
        ({"weights.0": ONES[2], "nesting_classifier_0.weight": ONES[2] * 2}, (2,), "'raivnlab' and layout 'mrl'"),
        ({"a.weight": ONES[5], "b.weight": ONES[8]}, (2, 5), "prefix: .* prefix 'a.' and .* prefix 'b.'"),
        ({"weight": ONES[5]}, None, r"nesting: expected the granularities of a tied head"),
        ({"nesting_classifier_0.weight": ONES[5]}, None, r"pass nesting=mrl\.Nesting"),
        ({"weight": ONES[5]}, (2, 8), "nesting: .* got .2, 8., but layout 'linear' has the width 5"),
        ({"0.weight": ONES[2], "1.weight": ONES[5]}, (2, 8), "got .2, 8., but layout 'linear' has the dims .2, 5."),
        ({"0.weight": ONES[2], "1.weight": ONES[5]}, (2, 4), "got .2, 4., but layout 'linear' has the dims .2, 5."),
        ({"nesting_classifier_1.weight": ONES[5]}, (5,), "state: expected the matrices of a head of a known layout"),
        (
            {"nesting_classifier_0.weight": ONES[2], "nesting_classifier_2.weight": ONES[5]},
            (2, 5),
            r"got nesting_classifier_0.weight \(3, 2\), nesting_classifier_2.weight",
        ),
        (
            {
                "nesting_classifier_0.weight": ONES[2],
                "nesting_classifier_1.weight": ONES[5],
                "nesting_classifier_1.bias": BIAS,
            },
            (2, 5),
            "all its classes' biases",
        ),
        ({"nesting_classifier_0.weight": ONES[2], "nesting_classifier_1.bias": BIAS}, (2,), "state: expected"),
        ({"weight": ONES[5].T, "bias": BIAS}, (2, 3), "state: expected the matrices"),
        ({"weights.0": ONES[2], "weights.2": ONES[5]}, (2, 5), "state: expected the matrices"),
        ({"weights.0": ONES[5], "weights.1": ONES[2]}, (2, 5), "state: expected the matrices"),
        ({"weight": np.ones((3, 5), int)}, (2, 5), "state: expected the matrices"),
        (
            {"a/weight": ONES[5], "a": {"weight": ONES[5]}},
            (2, 5),
            "differ in more than dots and slashes, got 'a.weight'",
        ),
        ({}, (2, 5), "got no arrays"),
    ],
)
def test_what_is_uncertain_is_asked(state: dict, nesting: tuple | None, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        mrl.read_head(state, None if nesting is None else mrl.Nesting(nesting))


def test_layout_and_prefix_decide() -> None:
    both = {"weight": ONES[5], "kernel": 2 * ONES[5].T, "other.weight": 3 * ONES[8]}
    for arguments, value in (
        ({"layout": "linear", "prefix": ""}, 1),
        ({"layout": "raivnlab", "prefix": ""}, 1),
        ({"layout": "dense"}, 2),
        ({"layout": "flax"}, 2),
        ({"prefix": "other"}, 3),
        ({"prefix": "other."}, 3),
    ):
        assert (mrl.read_head(both, NESTING, **arguments)[0].weight == value).all()
    with pytest.raises(ValueError, match=r"of layout 'mrl' at prefix 'none\.'"):
        mrl.read_head(both, NESTING, layout="mrl", prefix="none.")


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"layout": "keras"}, ValueError, "layout: expected one of .*, got 'keras'"),
        ({"prefix": 3}, TypeError, "prefix: expected text"),
        ({"nesting": (2, 5)}, TypeError, "nesting: expected"),
        ({"backend": "mxnet"}, ValueError, "backend: expected one of"),
        ({"state": ONES[5]}, TypeError, "state: expected a mapping of arrays or the path of a file, got ndarray"),
        ({"state": "weights.txt"}, ValueError, "path: weights.txt: expected a name that ends in one of"),
        ({"state": "none.npz"}, FileNotFoundError, "none.npz"),
    ],
)
def test_read_refuses(change: dict, error: type, message: str) -> None:
    arguments = {"state": {"weight": ONES[5]}, "nesting": NESTING, **change}
    with pytest.raises(error, match=message):
        mrl.read_head(arguments.pop("state"), arguments.pop("nesting"), **arguments)


def test_write_refuses() -> None:
    head = head_of("float32", True, True)
    with pytest.raises(ValueError, match="layout: expected one of"):
        mrl.write_head(head, NESTING, layout="keras")
    with pytest.raises(TypeError, match="prefix: expected text"):
        mrl.write_head(head, NESTING, layout="mrl", prefix=None)
    with pytest.raises(ValueError, match=r"head\.weight: expected shape"):
        mrl.write_head(head, mrl.Nesting((2, 8)), layout="mrl")


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("bias", [True, False])
def test_state_dicts_of_torch(tied: bool, bias: bool, backend_torch: None) -> None:
    """Of a module with the names of the paper's code, in both of its forms, and of plain layers."""
    from torch import nn

    class Classifier(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            widths = NESTING.dims[-1:] if tied else NESTING.dims
            for g, width in enumerate(widths):
                self.add_module(f"nesting_classifier_{g}", nn.Linear(width, 3, bias=bias))

    head = mrl.convert(head_of("float32", tied, bias), "torch")
    for module, layout in (
        (Classifier(), "raivnlab"),
        (nn.Linear(5, 3, bias) if tied else nn.ModuleList(nn.Linear(m, 3, bias) for m in NESTING.dims), "linear"),
    ):
        module.load_state_dict(mrl.write_head(head, NESTING, layout=layout))
        whole = nn.ModuleDict({"trunk": nn.Conv1d(2, 2, 3), "fc": module})
        assert_same(mrl.read_head(whole.state_dict(), NESTING)[0], mrl.convert(head, "numpy"))


def test_trees_of_linen_and_states_of_nnx(backend_jax: None) -> None:
    linen, nnx, jax = pytest.importorskip("flax.linen"), pytest.importorskip("flax.nnx"), pytest.importorskip("jax")
    z = jax.numpy.ones((2, 5))

    class Untied(linen.Module):
        @linen.compact
        def __call__(self, z):
            return [linen.Dense(3)(z[:, :m]) for m in NESTING.dims]

    for module, tied in ((linen.Dense(3), True), (Untied(), False)):
        parameters = module.init(jax.random.key(0), z)
        head, _ = mrl.read_head(parameters, NESTING if tied else None, backend="jax")
        logits = module.apply(parameters, z)
        expected = mrl.nested_logits(z, head, NESTING)
        np.testing.assert_allclose(expected[-1], logits if tied else logits[-1], rtol=1e-5, atol=1e-6)
        written = mrl.write_head(head, NESTING, layout="flax", prefix="params")
        assert jax.tree.map(np.shape, dict(parameters)) == jax.tree.map(np.shape, written)

    class Model(nnx.Module):
        def __init__(self, rngs) -> None:
            self.levels = nnx.List([nnx.Linear(m, 3, rngs=rngs) for m in NESTING.dims])

    state = nnx.state(Model(nnx.Rngs(0)))
    head, nesting = mrl.read_head(state)
    assert nesting.dims == NESTING.dims
    np.testing.assert_array_equal(head.weights[1], np.asarray(state["levels"][1]["kernel"].get_value()).T)
    assert_same(mrl.read_head(nnx.to_pure_dict(state))[0], head)


@pytest.mark.parametrize("shape", [(0, 4), (3, 0)])
def test_what_has_no_class_or_no_dimension_is_no_head(shape: tuple[int, int]) -> None:
    with pytest.raises(ValueError, match="expected"):
        mrl.read_head({"fc.weight": np.zeros(shape, np.float32)}, mrl.Nesting((4,)))
    with pytest.raises(ValueError, match="expected"):
        find_head({"fc.weight": np.zeros(shape, np.float32)})
