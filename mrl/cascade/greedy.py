"""The paper's policy: every pair of neighbouring levels by itself, on a fixed grid."""

from __future__ import annotations

import numpy as np

from .outcomes import Outcomes

GRID = np.linspace(0.1, 1, 100)


def greedy_thresholds(outcomes: Outcomes) -> tuple[float, ...]:
    """For levels ``g`` and ``g + 1`` alone: the threshold with the most right answers, the smallest of equals.

    Source: arXiv 2205.13147, section 4.2.1, and the authors' notebook of cascades.
    """
    found = []
    for g in range(len(outcomes.confidence) - 1):
        here, after = outcomes.correct[g], outcomes.correct[g + 1]
        accepts = (outcomes.confidence[g] > GRID[:, None]) & (GRID[:, None] < 1)
        # Integers, so that equal means equal; argmax takes the first, and the grid ascends.
        right = np.where(accepts, here, after).sum(-1)
        found.append(float(GRID[right.argmax()]))
    return tuple(found)
