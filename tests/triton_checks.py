"""What test_triton.py runs in processes of its own: ``python triton_checks.py NAME [FILE OF THE KERNEL]``.

Triton decides when it is imported whether to interpret its kernels, which it can do without a GPU, or to compile them.
"""

import importlib.util
import sys
from dataclasses import replace
from types import ModuleType

import numpy as np
import torch
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from mrl.backends.torch import sweep
from mrl.backends.torch.targets import Targets

import mrl
import mrl.testing
from mrl import planning
from mrl.testing.bounds import gamma
from mrl.testing.cases import CASES
from mrl.testing.cross_entropy.problems import LARGE_ROWS, TRACED_LAYOUTS, WEIGHTED, drawn
from mrl.testing.drivers import driver_of
from mrl.testing.problems import SMALLEST, UNIT_ROUNDOFF, Layout
from mrl.testing.runners import prove


def load(path: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location("mrl.backends.torch.kernel_under_test", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@st.composite
def cases(draw):
    dtype = draw(st.sampled_from(("float32", "float64")))
    count, n, classes = draw(st.integers(1, 3)), draw(st.integers(0, 3)), draw(st.integers(1, 20))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    # Far from zero, a softmax that forgets to subtract the maximum overflows or vanishes.
    logits = rng.normal(size=(count, n, classes)) * draw(st.sampled_from((1.0, 30.0)))
    logits += draw(st.sampled_from((0.0, 1000.0, -1000.0)))
    excluded = rng.random(logits.shape) < draw(st.sampled_from((0.0, 0.5)))
    labels = rng.integers(0, classes, n)
    smoothing = 0.0 if excluded.any() else draw(st.sampled_from((0.0, 0.1, 1.0)))
    excluded[:, np.arange(n), labels] = False
    # Shares of every class, some of them nothing; of a class that is excluded nothing too.
    dense = rng.random((n, classes)) * rng.choice([0.0, 1.0, 3.0], (n, classes))
    dense = np.where(excluded.any(0), 0.0, dense) if draw(st.booleans()) else None
    backward = draw(st.booleans())
    above = torch.tensor(rng.normal(size=(n, classes)), dtype=getattr(torch, dtype))
    return {
        "logits": torch.tensor(np.where(excluded, -np.inf, logits), dtype=getattr(torch, dtype)),
        "labels": torch.tensor(labels),
        "rows": torch.tensor(rng.choice([1.0, 0.3, 0.0, np.nan], n), dtype=getattr(torch, dtype)),
        "weights": tuple(draw(st.lists(st.sampled_from((1.0, 0.5, 2.0, 0.0)), min_size=count, max_size=count))),
        "smoothing": smoothing,
        "dense": None if dense is None else torch.tensor(dense, dtype=getattr(torch, dtype)),
        "backward": backward,
        "above": above if backward and draw(st.booleans()) else None,
        "block": draw(st.sampled_from((2, 4, 16, None))),
    }


def targets_of(case):
    if case["dense"] is not None:
        return case["dense"].double().numpy()
    classes, smoothing = case["logits"].shape[-1], case["smoothing"]
    return smoothing / classes + (1 - smoothing) * (case["labels"].numpy()[:, None] == np.arange(classes))


def expected(case):
    """Losses and suffix sums in float64, and their bounds: those of ``mrl.testing.bounds`` for exact logits."""
    s, rows = case["logits"].double().numpy(), case["rows"].double().numpy()
    classes, dtype = s.shape[-1], str(case["rows"].dtype).removeprefix("torch.")
    u, tiny = UNIT_ROUNDOFF[dtype], SMALLEST[dtype]
    lse = np.logaddexp.reduce(s, axis=-1, keepdims=True)
    below, p = np.where(s == -np.inf, 0.0, np.abs(s - lse)), np.exp(s - lse)
    target = targets_of(case)
    mass = target.sum(-1)
    e_lse = u * (classes + np.log(classes) + 4 + 2 * np.abs(lse))
    terms = np.where(target > 0, target * below, 0.0)
    loss = terms.sum(-1)
    size = np.where(target > 0, target * np.abs(np.where(s == -np.inf, 0.0, s)), 0.0).sum(-1)
    e_loss = mass * e_lse[..., 0] + gamma(classes + 12, u) * (loss + size + mass * np.abs(lse[..., 0]))
    q = p * mass[:, None] - target
    e_q = (
        p * mass[:, None] * np.expm1(e_lse + u * (6 + below) + gamma(classes, u)) + 2 * u * (np.abs(q) + target) + tiny
    )
    scales = (np.reshape(case["weights"], (-1, 1)) * rows)[..., None]
    r, e_r = scales * q, np.abs(scales) * (e_q + 6 * u * np.abs(q))
    suffix, magnitude, e_suffix = (np.cumsum(x[::-1], 0)[::-1] for x in (r, np.abs(r), e_r))
    if case["above"] is not None:
        above = case["above"].double().numpy()
        suffix, magnitude = suffix + above, magnitude + np.abs(above)
    factor = 2 if dtype == "float64" else 1  # the specification is rounded too
    return (
        (rows * loss, factor * (np.abs(rows) * (e_loss + gamma(4, u) * loss) + tiny)),
        (suffix, factor * (e_suffix + gamma(len(s) + 2, u) * magnitude + tiny)),
    )


def chosen(case):
    dense = case["dense"]
    return Targets(case["labels"]) if dense is None else Targets(None, dense, dense.sum(-1))


def check(residuals_, examples=150):
    """Raise ``AssertionError`` where the kernel leaves its bounds, or touches what is not its own."""

    def example(case):
        logits, above = case["logits"], case["above"]
        count, n, classes = logits.shape
        # Rows of a larger array, as a chunk's are: what follows them must stay as it is.
        levels = torch.full((count + (above is not None), n + 1, classes), 7.0, dtype=logits.dtype)
        levels[:count, :-1] = logits
        if above is not None:
            levels[count, :-1] = above
        arguments = chosen(case), case["rows"], case["weights"], case["smoothing"], case["backward"]
        losses = residuals_(levels[:, :-1], *arguments, block=case["block"])
        assert losses.dtype == logits.dtype and bool((levels[:, -1] == 7).all())
        (loss, e_loss), (suffix, e_suffix) = expected(case)
        within(losses, loss, e_loss)
        if case["backward"]:
            within(levels[:count, :-1], suffix, e_suffix)
        else:
            assert torch.equal(levels[:, :-1], logits)
        assert above is None or torch.equal(levels[count, :-1], above)

    draw = given(cases())
    configure = settings(
        max_examples=examples, deadline=None, database=None, derandomize=True, phases=[Phase.generate],
        suppress_health_check=list(HealthCheck), print_blob=False,
    )  # fmt: skip
    configure(draw(example))()


def within(found, value, bound):
    found = found.double().numpy()
    assert found.shape == value.shape
    agree = (np.isnan(found) & np.isnan(value)) | (np.abs(found - value) <= bound)
    assert agree.all(), (found, value, bound)


def kernel(path):
    check(load(path).residuals_)


def mutant(path):
    """Print what the check says of a kernel with a mistake in it."""
    try:
        check(load(path).residuals_)
    except AssertionError:
        print("killed")


def infinities(path):
    """NaN, infinity and rows without any class give what the plain form gives."""
    residuals_ = load(path).residuals_
    inf, nan = np.inf, np.nan
    logits = [
        [1, nan, 2, 0, 1],
        [1, inf, 0, 1, 0],
        [-inf] * 5,
        [-inf, -inf, -inf, -inf, 3],
        [nan] * 5,
        [-inf, 0, 0, 0, 0],
    ]
    levels = torch.tensor([logits, logits[::-1]], dtype=torch.float32)
    rows, weights = torch.ones(6), (1.0, 0.5)
    shares = torch.tensor([0.0, 0.5, 0.0, 0.2, 0.3]).roll(1).repeat(6, 1)
    labels, dense = Targets(torch.zeros(6, dtype=torch.int64)), Targets(None, shares, shares.sum(-1))
    for targets, smoothing in ((labels, 0.0), (labels, 0.1), (labels, 1.0), (dense, 0.0)):
        for block in (2, 8):
            plain, ours = levels.clone(), levels.clone()
            losses = sweep._residuals_(plain, targets, rows, smoothing, weights, True)
            found = residuals_(ours, targets, rows, weights, smoothing, True, block=block)
            torch.testing.assert_close(found, losses, equal_nan=True)
            torch.testing.assert_close(ours, plain, equal_nan=True)


def proof(path):
    """The proof of the fused loss, eager and compiled, with the kernel in the place it has on a GPU."""
    residuals_, calls = load(path).residuals_, []

    def counted(*arguments):
        calls.append(arguments)
        return residuals_(*arguments, block=4)

    sweep.triton_kernel = lambda device: counted
    (case,) = (case for case in CASES if case.name == "nested_cross_entropy")
    # Interpreted, a row of a kernel takes milliseconds: all problems but the large ones.
    options = ("label_smoothing", "ignore_index", "reduction", "leading", "chunk_rows", "soft", *WEIGHTED, "frozen")
    small = tuple(layout for layout in TRACED_LAYOUTS if layout.rows < LARGE_ROWS)
    case, driver = replace(case, drawn=drawn("loss", options, pool=small), specials=True), driver_of("torch")
    for dtype in driver.dtypes:
        for mode in driver.modes:
            row = prove(case, driver, mode, dtype, examples=24, random_seed=0)
            assert row.examples >= 12 and row.worst <= 1 and row.killed and not row.survived
    assert len(calls) > 100
    # More levels than are in memory at once: the sums of those above are handed on.
    planning.SMALL_BYTES = 0
    nesting = mrl.Nesting.doubling(2, 256, (1.0, 0.5, 2.0, 1.0, 0.25, 1.0, 3.7, 0.5))
    many = (
        Layout(nesting, (3,), 256, 3, ignore_index=0, label_smoothing=0.1, weighted=WEIGHTED),
        Layout(nesting, (3,), 256, 3, ignore_index=0, weighted=WEIGHTED),
        Layout(nesting, (3,), 256, 3, soft=True, weighted=WEIGHTED),
    )
    row = prove(
        replace(case, drawn=drawn("loss", of=st.sampled_from(many))),
        driver,
        "eager",
        "float32",
        examples=12,
        random_seed=0,
    )
    assert row.worst <= 1 and row.killed
    assert any(len(levels) > len(weights) for levels, _, _, weights, *_ in calls)


def compiles(path):
    """To machine code for GPUs of several generations, which needs none of them."""
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    module = load(path)
    names = module._kernel.arg_names
    for dtype, size in (("fp32", 4), ("fp64", 8)):
        for classes, spread, dense, backward in (
            (10, 0.0, False, True),
            (1000, 1e-4, False, True),
            (1000, 0.0, True, True),
            (32_768, 0.0, False, False),
        ):
            block = module.plan_block(classes, size)
            constants = {"KEEP": 1 - spread, "SPREAD": spread, "DENSE": dense}
            constants |= {"BACKWARD": backward, "ONTO": backward, "BLOCK": block}
            kinds = dict.fromkeys(names, "i32") | dict.fromkeys(constants, "constexpr")
            kinds |= dict.fromkeys(("levels", "masses", "rows", "scales", "losses"), f"*{dtype}")
            kinds |= {"targets": f"*{dtype}" if dense else "*i64", "level_stride": "i64", "target_stride": "i64"}
            source = ASTSource(module._kernel, kinds, {(names.index(name),): x for name, x in constants.items()})
            for architecture in (75, 80, 90):
                built = triton.compile(
                    source,
                    target=GPUTarget("cuda", architecture, 32),
                    options={"num_warps": module.plan_warps(block, size)},
                )
                assert built.asm["cubin"]


if __name__ == "__main__":
    name, path = sys.argv[1:]
    {x.__name__: x for x in (kernel, mutant, infinities, proof, compiles)}[name](path)
