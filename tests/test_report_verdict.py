"""Each sentence is said of data for which it is so, and not of data for which it is not; its figures are the rows'."""

import re

import numpy as np
import pytest
from measured_cases import decaying, even, figures_of, halved, labelled, turned

import mrl
from mrl.report import verdict
from mrl.report.named import Figures
from mrl.report.values import ReportCost, ReportDifference, ReportRow


def say(name: str, rows: np.ndarray, **options) -> str | None:
    found = mrl.report(rows, **{"dims": (8, 16), "k": 5, "sample": 200} | options)
    function = getattr(verdict, name)
    sentence = (
        function(found.funnel)
        if name == "say_funnel"
        else function(found.cascade)
        if name == "say_cascade"
        else function(figures_of(found))
    )
    assert sentence is None or sentence in found.verdict
    return sentence


def figures(recalls: dict, others: dict | None = None, queries: int = 1000, metrics: dict | None = None) -> Figures:
    """Figures by hand: ``{size: (value, low, high)}`` of the prefix, and differences ``{(method, size): ...}``."""
    rows = [ReportRow("prefix", m, "recall_at_k", *ends) for m, ends in recalls.items()]
    differences = []
    for (method, m), (value, low, high) in (others or {}).items():
        base = recalls[m][0]
        rows.append(ReportRow(method, m, "recall_at_k", base - value, base - high, base - low))
        differences.append(ReportDifference(method, m, "recall_at_k", value, low, high))
    for (m, metric), (ends, less) in (metrics or {}).items():
        rows.append(ReportRow("prefix", m, metric, *ends))
        if less:
            differences.append(ReportDifference("full", m, metric, *less))
    costs = [ReportCost(row.method, row.dim, 4.0 * row.dim, 4e6 * row.dim, None, 1e6 * row.dim) for row in rows]
    return Figures(rows, differences, costs, sorted(recalls), 10, queries)


FULL = (1.0, 1.0, 1.0)
TYPICAL = {16: (0.6, 0.59, 0.61), 64: (0.92, 0.915, 0.925), 256: (0.991, 0.988, 0.994), 768: FULL}


def test_the_issue_in_its_own_words() -> None:
    f = figures(TYPICAL, {("pca", 256): (0.004, 0.001, 0.007)})
    assert verdict.say_size(f) == "256 of 768 dimensions keep 99.1 % (98.8 to 99.4) of recall@10."
    assert verdict.say_pca(f) == "PCA at 256 keeps 98.7 % (98.4 to 99.0), so nothing is gained by nesting here."
    assert verdict.say_unsafe(f) == "Below 64 dimensions it is not safe: 16 keep 60.0 % (59.0 to 61.0) of recall@10."


def test_the_size_that_keeps_enough() -> None:
    assert re.match(r"16 of 32 dimensions keep 100\.0 % \(9", say("say_size", decaying(400, rate=0.6)) or "")
    assert (say("say_size", even(400)) or "").startswith("No smaller size is safe: 16 of 32 dimensions keep")
    unsure = figures({64: (0.92, 0.85, 0.96), 128: FULL})
    assert (verdict.say_size(unsure) or "").startswith("No smaller size surely keeps 90 %")
    assert (say("say_size", even(100), dims=(32,)) or "").startswith("Only the full width")


def test_a_lucky_sample_keeps_nothing_surely() -> None:
    """Of five queries all neighbours: that may be less than nine in ten of many."""
    assert figures({64: (1.0, 0.48, 1.0), 128: FULL}).chosen is None


def test_pca_beside_nesting() -> None:
    rows = decaying(400, rate=0.75)
    assert "rotate before you cut" in (say("say_pca", turned(rows)) or "")
    assert "so nothing is gained by nesting" in (say("say_pca", rows, dims=(16,), sample=400) or "")
    gains = figures(TYPICAL, {("pca", 256): (0.1, 0.08, 0.12)})
    assert "10.0 points (8.0 to 12.0) less than the first 256: nesting gains here" in (verdict.say_pca(gains) or "")
    untold = figures(TYPICAL, {("pca", 256): (0.01, -0.02, 0.04)})
    assert "the data cannot tell" in (verdict.say_pca(untold) or "")
    # Data whose variance lies elsewhere than its classes' directions do not make PCA look bad by themselves.
    assert "nesting gains" not in (say("say_pca", even(400)) or "")


def test_below_which_size_it_is_not_safe() -> None:
    assert (say("say_unsafe", decaying(400, rate=0.6), dims=(2, 8, 16)) or "").startswith(
        "Below 8 dimensions it is not"
    )
    assert say("say_unsafe", decaying(400, rate=0.3), dims=(8, 16)) is None
    assert verdict.say_unsafe(figures({64: (0.89, 0.86, 0.92), 128: (0.99, 0.985, 1.0), 256: FULL})) is None


def test_what_the_data_cannot_tell() -> None:
    rows = decaying(400, rate=0.7)
    few, many = say("say_untold", rows, sample=12), figures(TYPICAL)
    assert re.match(r"With 12 queries the data cannot tell whether \d+ dimensions keep 9\d % of recall@5", few or "")
    assert verdict.say_untold(many) is None
    assert verdict.say_untold(figures({64: (0.94, 0.90, 0.97), 128: (0.96, 0.95, 0.97), 256: FULL}, queries=80))


def test_too_few_queries_are_said() -> None:
    rows = decaying(400)
    assert any("too few queries, 12" in line for line in mrl.report(rows, dims=(8,), k=5, sample=12).verdict)
    assert not any("too few queries" in line for line in mrl.report(rows, dims=(8,), k=5, sample=200).verdict)


@pytest.mark.parametrize("seed", range(3))
def test_not_nested(seed: int) -> None:
    for rows in (even(500, 64, seed), turned(decaying(500, 64, 0.9, seed), seed)):
        sentence = say("say_not_nested", rows, dims=(8, 16, 32), seed=seed, sample=400)
        assert (sentence or "").startswith("These embeddings are evidently not nested: the first 32 dimensions keep")
    assert say("say_not_nested", decaying(500, 64, 0.9, seed), dims=(8, 16, 32), seed=seed) is None


def test_few_queries_are_no_evidence_that_nothing_is_nested() -> None:
    assert say("say_not_nested", even(200, 64), dims=(8, 32), sample=5) is None


def test_normalise_again() -> None:
    rows = np.abs(even(400))  # of all rows the longest prefix has the largest products
    assert (say("say_normalize", rows) or "").startswith("Normalise again after the cut")
    assert say("say_normalize", decaying(400, rate=0.3)) is None  # all of the length is in front
    assert say("say_normalize", rows, metric="dot") is None


def test_bytes() -> None:
    sentence = say("say_bytes", even(400), sample=400)
    assert re.match(
        r"In int8, \d+ dimensions keep .* of recall@5 in \d+ bytes a vector in place of 128\.", sentence or ""
    )
    floats = figures(
        {64: (0.995, 0.99, 0.998), 128: FULL}, {("int8", 64): (0.3, 0.29, 0.31), ("int8", 128): (0.4, 0.39, 0.41)}
    )
    assert verdict.say_bytes(floats) is None


def test_a_rotation_that_helps_and_one_that_harms() -> None:
    rows = decaying(400, rate=0.8)
    basis, _ = np.linalg.qr(np.random.default_rng(1).normal(size=(32, 32)))
    back, away = (lambda x: (x @ basis.T).astype(np.float32)), (lambda x: (x @ basis).astype(np.float32))
    helped = mrl.report(turned(rows), dims=(8, 16), k=5, transforms={"rotation": back})
    assert "more than the first 16: it helps." in (verdict.say_given(figures_of(helped), "rotation") or "")
    harmed = mrl.report(rows, dims=(8, 16), k=5, transforms={"adaptor": away})
    assert "it harms." in (verdict.say_given(figures_of(harmed), "adaptor") or "")
    same = mrl.report(rows, dims=(8, 16), k=5, transforms={"rotation": lambda x: x})
    assert "the data cannot tell" in (verdict.say_given(figures_of(same), "rotation") or "")
    assert verdict.say_given(figures_of(same), "adaptor") is None


def test_what_labels_say() -> None:
    rows, y = labelled(1000)
    found = figures_of(mrl.report(rows, labels=y, dims=(8, 16)))
    sentence = verdict.say_labelled(found, "linear_accuracy", "linear accuracy")
    assert (sentence or "").startswith("8 dimensions cost at most a point of linear accuracy")
    back = figures_of(mrl.report(rows[:, ::-1].copy(), labels=y, dims=(8, 16)))  # what tells them apart comes last
    assert (verdict.say_labelled(back, "nn_accuracy", "1-NN accuracy") or "").endswith("costs more than a point.")
    assert verdict.say_labelled(figures(TYPICAL), "nn_accuracy", "1-NN accuracy") is None
    unsure = figures(
        TYPICAL,
        metrics={
            (768, "ndcg_at_k"): ((0.5, 0.4, 0.6), None),
            (256, "ndcg_at_k"): ((0.48, 0.4, 0.55), (-0.02, -0.1, 0.04)),
        },
    )
    assert "the data cannot tell" in (verdict.say_labelled(unsure, "ndcg_at_k", "nDCG@{k}") or "")


def test_rare_classes() -> None:
    linear = {(m, "linear_accuracy"): ((0.9, 0.89, 0.91), (0.0, -0.005, 0.005)) for m in (16, 64, 256)}
    whole = {(768, "linear_accuracy"): ((0.9, 0.89, 0.91), None), (768, "rare_accuracy"): ((0.8, 0.7, 0.9), None)}
    pay = {(16, "rare_accuracy"): ((0.5, 0.4, 0.6), (-0.3, -0.4, -0.2))}
    same = {(16, "rare_accuracy"): ((0.8, 0.7, 0.9), (0.0, -0.02, 0.02))}
    assert (verdict.say_rare(figures(TYPICAL, metrics=linear | whole | pay)) or "").startswith(
        "Rare classes pay for it: at 16"
    )
    assert verdict.say_rare(figures(TYPICAL, metrics=linear | whole | same)) is None
    assert (
        verdict.say_rare(figures(TYPICAL, metrics=linear | {(768, "linear_accuracy"): ((0.9, 0.89, 0.91), None)}))
        is None
    )


def test_the_funnel() -> None:
    sentence = say("say_funnel", decaying(3000, 64, 0.9), dims=(8, 16, 32))
    assert re.match(
        r"With \d+ → 64 and a shortlist of \d+ you keep [19]\d+\.\d % .* at \d+\.\d % of the cost, in", sentence or ""
    )
    assert say("say_funnel", even(60), sample=20) is None  # too few queries to plan with


def test_the_cascade() -> None:
    rows, y = labelled(1200)
    assert (say("say_cascade", rows, labels=y) or "").startswith("A cascade of linear heads uses")
    assert say("say_cascade", rows) is None
    noise = mrl.report(even(400), labels=np.arange(400) % 2, dims=(8, 16))
    assert noise.cascade and "FULL" not in str(noise)


FINDINGS = {
    "contain NaN or infinity": lambda x: x.__setitem__((3, 5), np.nan),
    "contain NaN": lambda x: x.__setitem__((slice(0, 9), 0), np.inf),
    "all zeros": lambda x: x.__setitem__(slice(0, 4), 0),
    "are duplicates": lambda x: x.__setitem__(slice(10, 20), x[30:40]),
    "are constant": lambda x: x.__setitem__((slice(None), slice(4, 6)), 0.25),
}


@pytest.mark.parametrize("words", FINDINGS)
def test_the_data_is_looked_at(words: str) -> None:
    rows = decaying(200)
    assert not any(words in line for line in mrl.report(rows, dims=(8,)).verdict)
    FINDINGS[words](rows)
    found = mrl.report(rows, dims=(8,))
    assert any(words in line for line in found.verdict)
    assert any(words in finding.text for finding in found.findings)
    assert all(np.isfinite(row[3:]).all() for row in found.rows)


def test_counts_of_findings() -> None:
    rows = decaying(200)
    rows[:3] = rows[100]
    rows[7, 0] = np.nan
    rows[8:10] = -0.0
    rows[10] = 0.0
    rows[:, 6] = np.where(np.isnan(rows[:, 6]), rows[:, 6], 1.5)
    rows[8:11, 6] = 1.5
    texts = {finding.name: finding.text for finding in mrl.report(rows, dims=(8,)).findings}
    assert texts["not_finite"].startswith("1 of 200 rows")
    assert texts["duplicates"].startswith("7 of 199 rows are equal to another: 5 are duplicates")
    assert texts["constant_dims"] == "1 of 32 dimensions is constant, the same in all rows: 6."


def test_lengths() -> None:
    unit = decaying(200)
    unit /= np.linalg.norm(unit, axis=1, keepdims=True)
    assert any("not normalised" in line for line in mrl.report(7 * unit, dims=(8,)).verdict)
    assert not any("not normalised" in line for line in mrl.report(unit, dims=(8,)).verdict)
    assert not any("not normalised" in line for line in mrl.report(halved(unit), dims=(8,)).verdict)


def test_rows_with_nan_are_left_out_of_everything() -> None:
    rows, y = labelled(300)
    holed = np.insert(rows, [0, 50, 50, 300], np.nan, axis=0)
    labels = np.insert(y, [0, 50, 50, 300], 99)
    found, clean = mrl.report(holed, labels=labels, dims=(8,)), mrl.report(rows, labels=y, dims=(8,))
    named = {row[:3]: row.value for row in clean.rows}
    assert found.data["rows_left_out"] == 4 and found.data["rows_searched"] == 300
    for row in found.rows:
        assert row.value == pytest.approx(named[row[:3]], abs=1e-9), row


def test_relevant_rows_keep_their_numbers_where_others_are_left_out() -> None:
    rows = decaying(100)
    queries, relevant = rows[:30] * 1.5, np.arange(30)[:, None]
    holed = rows.copy()
    holed = np.concatenate([np.full((2, 32), np.nan, np.float32), holed])
    found = mrl.report(holed, queries=queries, relevant=relevant + 2, dims=(8,), k=1)
    assert {row.value for row in found.rows if row[:3] == ("prefix", 32, "precision_at_k")} == {1.0}


def test_figures_in_sentences_are_those_of_rows() -> None:
    rows, y = labelled(800)
    found = mrl.report(rows, labels=y, dims=(4, 8, 16), k=5)
    shown = {verdict.shown(row) for row in (*found.rows, *[p.accuracy for p in found.cascade], found.funnel.recall)}
    triple = re.compile(r"\d+\.\d % \([\d.]+ to [\d.]+\)")
    said = [one for sentence in found.verdict for one in triple.findall(sentence)]
    assert len(said) >= 5 and set(said) <= shown
