"""Embeddings of which it is known what a report has to say."""

import numpy as np

import mrl
from mrl.report.named import Figures

DIMS = (8, 16)


def decaying(count: int, width: int = 32, rate: float = 0.8, seed: int = 0) -> np.ndarray:
    """Nested by construction: each dimension weighs less than the one before."""
    rng = np.random.default_rng(seed)
    return (rng.normal(size=(count, width)) * rate ** np.arange(width)).astype(np.float32)


def even(count: int, width: int = 32, seed: int = 0) -> np.ndarray:
    """Every dimension weighs the same, so that none is to be cut."""
    return decaying(count, width, 1.0, seed)


def turned(x: np.ndarray, seed: int = 1) -> np.ndarray:
    """The same geometry with no dimension before another."""
    basis, _ = np.linalg.qr(np.random.default_rng(seed).normal(size=(x.shape[1], x.shape[1])))
    return (x @ basis).astype(np.float32)


@np.errstate(under="ignore")
def halved(x: np.ndarray) -> np.ndarray:
    """In float16, in which small numbers are nothing."""
    return x.astype(np.float16)


def labelled(count: int, classes: int = 5, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Classes that are told apart by the first dimensions."""
    rng = np.random.default_rng(seed)
    y = rng.integers(0, classes, count)
    centres = np.zeros((classes, 32))
    centres[:, :8] = 4 * rng.normal(size=(classes, 8))
    return (centres[y] + rng.normal(size=(count, 32)) * 0.9 ** np.arange(32)).astype(np.float32), y


def by_name(report: mrl.Report) -> dict:
    return {row[:3]: row for row in report.rows}


def figures_of(report: mrl.Report) -> Figures:
    return Figures(report.rows, report.differences, report.costs, report.sizes, report.k, report.data["queries"])
