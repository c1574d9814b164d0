"""What the figures come to, in plain words: a function a sentence, which gives it where it is so."""

from __future__ import annotations

from collections.abc import Sequence

from ..cascade.curve import CurvePoint
from ..retrieval.plan import FunnelPlan
from .named import GAIN, SAFE, Figures, keeps
from .values import Finding, ReportDifference

NESTED = 0.05
"""What prefixes gain over other coordinates at some size, where they are trained to; one draw of them may be a bad one
by less."""

TELLING = 0.01
"""An interval that is longer leaves something untold."""

LABELLED = (("linear_accuracy", "linear accuracy"), ("nn_accuracy", "1-NN accuracy"), ("ndcg_at_k", "nDCG@{k}"))


def say_size(f: Figures) -> str | None:
    """The smallest size that keeps enough, or that none does."""
    if not f.smaller:
        return f"Only the full width of {f.width} dimensions was measured: give smaller dims to compare."
    if f.chosen:
        return f"{f.chosen[0]} of {f.width} dimensions keep {shown(f.recall(f.chosen[0]))} of recall@{f.k}."
    last = f.smaller[-1]
    if f.recall(last).high < SAFE:
        return f"No smaller size is safe: {last} of {f.width} dimensions keep {shown(f.recall(last))} of recall@{f.k}."
    return (
        f"No smaller size surely keeps {share(SAFE, 0)}: {last} of {f.width} dimensions keep "
        f"{shown(f.recall(last))} of recall@{f.k}."
    )


def say_pca(f: Figures) -> str | None:
    """Whether cutting gains anything over PCA of the same size."""
    if not f.smaller:
        return None
    m = f.compared
    pca, less = f.row(m, "pca"), f.less("pca", m)
    if pca is None or less is None:
        return None
    begin = f"PCA at {m} keeps {shown(pca)}"
    if less.low > GAIN:
        return f"{begin}, {points(less)} less than the first {m}: nesting gains here."
    if less.high < -GAIN:
        return (
            f"{begin}, {points(less, -1)} more than the first {m}, so nothing is gained by nesting here: rotate before "
            "you cut."
        )
    if less.high <= GAIN:
        return f"{begin}, so nothing is gained by nesting here."
    return f"{begin}; whether nesting gains a point over it the data cannot tell ({points(less)} difference)."


def say_unsafe(f: Figures) -> str | None:
    """Below which size it is not safe."""
    worst = f.unsafe
    if worst is None or worst == f.smaller[-1]:
        return None
    above = f.sizes[f.sizes.index(worst) + 1]
    return f"Below {above} dimensions it is not safe: {worst} keep {shown(f.recall(worst))} of recall@{f.k}."


def say_untold(f: Figures) -> str | None:
    """That there are too few queries to tell whether a size keeps enough."""
    goal = f.chosen[1] if f.chosen else SAFE
    untold = [m for m in f.smaller if f.recall(m).low < goal <= f.recall(m).high and not keeps(f.recall(m), goal)]
    untold = [m for m in untold if f.recall(m).high - f.recall(m).low > TELLING and (not f.chosen or m < f.chosen[0])]
    if not untold:
        return None
    m = untold[-1]
    return (
        f"With {f.queries:,} queries the data cannot tell whether {m} dimensions keep {share(goal, 0)} of "
        f"recall@{f.k}: {shown(f.recall(m))}."
    )


def say_not_nested(f: Figures) -> str | None:
    """That the first dimensions are no better than others: nowhere surely by five points, nowhere perhaps by ten."""
    found = []
    for m in f.smaller:
        others = [(f.less(name, m), f.row(m, name)) for name in ("random", "last")]
        known = [(less, row) for less, row in others if less is not None and row is not None]
        if len(known) < 2:
            return None
        less, row = min(known, key=lambda pair: pair[0].value)
        if less.low > NESTED or less.high > 2 * NESTED:
            return None
        found.append((m, row))
    if not found:
        return None
    m = min((m for m, _ in found), key=lambda size: abs(size - f.width / 2))
    last, random = f.recall(m, "last"), f.recall(m, "random")
    return (
        f"These embeddings are evidently not nested: the first {m} dimensions keep {shown(f.recall(m))} of "
        f"recall@{f.k}, the last {m} {shown(last)}, and {m} at random {shown(random)}."
    )


def say_normalize(f: Figures) -> str | None:
    """That prefixes have to be normalised again."""
    if not f.smaller:
        return None
    m = f.compared
    row, less = f.row(m, "unnormalized"), f.less("unnormalized", m)
    if row is None or less is None or less.low <= GAIN:
        return None
    return f"Normalise again after the cut: {m} dimensions that are not keep {shown(row)}, {points(less)} less."


def say_bytes(f: Figures) -> str | None:
    """The fewest bytes a vector that keep as much, where int8 or bits take fewer than floats."""
    goal = f.chosen[1] if f.chosen else SAFE
    enough = [
        (f.costs[name, m].bytes_per_vector, m, name)
        for name in ("prefix", "int8", "binary")
        for m in f.sizes
        if (name, m, "recall_at_k") in f.rows and keeps(f.recall(m, name), goal)
    ]
    if not enough:
        return None
    size, m, name = min(enough)
    if name == "prefix":
        return None
    whole = f.costs["prefix", f.width].bytes_per_vector
    said = "int8" if name == "int8" else "one bit each"
    return (
        f"In {said}, {m} dimensions keep {shown(f.recall(m, name))} of recall@{f.k} in {size:,.0f} bytes a vector in "
        f"place of {whole:,.0f}."
    )


def say_given(f: Figures, name: str) -> str | None:
    """What a rotation or an adaptor does at the size below which cutting is not safe, or the chosen one."""
    m = f.unsafe if f.unsafe is not None else f.compared if f.smaller else None
    if m is None:
        return None
    row, less = f.row(m, name), f.less(name, m)
    if row is None or less is None:
        return None
    begin = f"The {name} keeps {shown(row)} of recall@{f.k} at {m} dimensions"
    if less.high < 0:
        return f"{begin}, {points(less, -1)} more than the first {m}: it helps."
    if less.low > 0:
        return f"{begin}, {points(less)} less than the first {m}: it harms."
    return f"{begin}; whether that is more than the first {m} keep the data cannot tell."


def say_labelled(f: Figures, metric: str, name: str) -> str | None:
    """The smallest size that surely costs at most a point of what labels or relevance say."""
    name = name.format(k=f.k)
    full = f.row(f.width, metric=metric)
    if full is None or not f.smaller:
        return None
    for m in f.smaller:
        less, row = f.less("full", m, metric), f.row(m, metric=metric)
        if less is not None and row is not None and less.low >= -GAIN:
            return (
                f"{m} dimensions cost at most a point of {name}: {shown(row)}, beside {shown(full)} at the full width."
            )
    m = f.smaller[-1]
    less, row = f.less("full", m, metric), f.row(m, metric=metric)
    if less is None or row is None:
        return None
    begin = f"At {m} dimensions {name} is {shown(row)}, beside {shown(full)} at the full width"
    if less.high < -GAIN:
        return f"{begin}: every smaller size costs more than a point."
    return f"{begin}; whether that costs a point the data cannot tell."


def say_rare(f: Figures) -> str | None:
    """That rare classes lose more than a point where a linear head loses none."""
    full = f.row(f.width, metric="rare_accuracy")
    for m in f.smaller:
        less = f.less("full", m, "linear_accuracy")
        if less is None or less.low < -GAIN:
            continue
        rare, row = f.less("full", m, "rare_accuracy"), f.row(m, metric="rare_accuracy")
        if rare is None or row is None or full is None or rare.high >= -GAIN:
            return None
        return f"Rare classes pay for it: at {m} dimensions {shown(row)} of them are right beside {shown(full)}."
    return None


def say_funnel(plan: FunnelPlan | None) -> str | None:
    """What a search by stages keeps, and at which cost."""
    if plan is None or len(plan.dims) < 2:
        return None
    way, lengths = " → ".join(map(str, plan.dims)), " and ".join(map(str, plan.shortlists[:-1]))
    cost = plan.multiply_adds / plan.exact_multiply_adds
    return (
        f"With {way} and a shortlist of {lengths} you keep {shown(plan.recall)} of recall@{plan.k} at "
        f"{share(cost)} of the cost, in {plan.rows:,} rows."
    )


def say_cascade(points_: Sequence[CurvePoint]) -> str | None:
    """What a cascade of linear heads comes to: the cheapest that is no more than a point less accurate than all."""
    if not points_:
        return None
    *found, full = points_
    near = [point for point in found if point.accuracy.value >= full.accuracy.value - GAIN]
    if not near:
        return None
    best = min(near, key=lambda point: point.expected_dim.value)
    if best.expected_dim.value >= full.expected_dim.value:
        return None
    return (
        f"A cascade of linear heads uses {best.expected_dim.value:.1f} dimensions on average "
        f"({best.expected_dim.low:.1f} to {best.expected_dim.high:.1f}) and is right for {shown(best.accuracy)}, "
        f"beside {shown(full.accuracy)} with all {full.expected_dim.value:.0f}."
    )


def verdict_of(
    figures: Figures, findings: Sequence[Finding], funnel: FunnelPlan | None, cascade: Sequence[CurvePoint]
) -> tuple[str, ...]:
    """All sentences that are so; those about the data come last."""
    said = [
        say_size(figures),
        say_pca(figures),
        say_unsafe(figures),
        say_untold(figures),
        say_not_nested(figures),
        say_normalize(figures),
        say_bytes(figures),
        *(say_given(figures, name) for name in ("rotation", "adaptor")),
        *(say_labelled(figures, metric, name) for metric, name in LABELLED),
        say_rare(figures),
        say_funnel(funnel),
        say_cascade(cascade),
        *(finding.text for finding in findings),
    ]
    return tuple(sentence for sentence in said if sentence)


def share(value: float, digits: int = 1) -> str:
    return f"{100 * value:.{digits}f} %"


def shown(row: object) -> str:
    """``99.1 % (98.8 to 99.4)``."""
    value, low, high = (getattr(row, name) for name in ("value", "low", "high"))
    return f"{share(value)} ({100 * low:.1f} to {100 * high:.1f})"


def points(less: ReportDifference, sign: int = 1) -> str:
    """``1.2 points (0.8 to 1.6)``; with a sign of -1 the other way round."""
    ends = sorted((100 * sign * less.low, 100 * sign * less.high))
    return f"{100 * sign * less.value:.1f} points ({ends[0]:.1f} to {ends[1]:.1f})"
