"""All times of one backend, in one process: ``python measure.py BACKEND --repeats N [--quick]`` prints JSON.

With ``--device``, those of a step there, at sizes that fill it, and no cascades.
"""

from __future__ import annotations

import argparse
import json
import os
from dataclasses import replace
from importlib import import_module
from importlib.metadata import version
from typing import Any

import cascades
import contrastive
import modules
import steps_keras
from cases import BASE, GROWTH, MODES, ON_A_DEVICE, QUICK, QUICK_GROWTH, SIZES, Size
from timing import alternate, summary


def measure(backend: str, *, quick: bool, repeats: int, made: dict[str, str]) -> dict[str, Any]:
    found: dict[str, Any] = {"version": version(backend), "table": [], "growth": [], "cascade": []}
    if backend != "numpy":  # which is the specification, and does not train
        module = import_module(f"steps_{backend}")
        for size in QUICK if quick else ON_A_DEVICE if "device" in made else SIZES:
            for mode in MODES[backend]:
                steps = times(module, size, mode, repeats, made)
                found["table"].append({"mode": mode, "size": size.name, "steps": steps})
        mode = MODES[backend][0]
        for axis, values in (QUICK_GROWTH if quick else GROWTH).items():
            for value in values:
                steps = times(module, varied(QUICK[0] if quick else BASE, axis, value), mode, repeats, made)
                found["growth"].append({"axis": axis, "value": value, "mode": mode, "steps": steps})
    if not made:
        case = cascades.QUICK_CASCADE if quick else cascades.CASCADE
        if backend != "numpy":
            found["contrastive"] = [
                {"mode": mode, "rows": rows, "steps": pairs(backend, mode, rows, repeats)}
                for rows in ((64,) if quick else contrastive.ROWS)
                for mode in contrastive.MODES[backend]
            ]
            found["keras"] = [keras(backend, size, repeats) for size in (QUICK[:2] if quick else (SIZES[0], SIZES[3]))]
        if backend == "torch":
            found["module_microseconds"] = modules.overheads(repeats)
        shapes = (case,) if quick else (case, cascades.PAPER_CASCADE)
        found["cascade"] = [cascade(backend, mode, x, repeats) for x in shapes for mode in cascades.MODES[backend]]
    return found


def keras(backend: str, size: Size, repeats: int) -> dict[str, Any]:
    """As many steps as elsewhere, a few a call of ``fit``."""
    calls = -(-repeats // (steps_keras.BATCHES - 1))
    return {"size": size.name, "steps": summary(steps_keras.seconds(size, backend, calls))}


def pairs(backend: str, mode: str, rows: int, repeats: int) -> dict[str, dict[str, float]]:
    return summary(alternate(contrastive.STEPS[backend](rows, mode), contrastive.wait, repeats=repeats))


def cascade(backend: str, mode: str, case: cascades.Cascade, repeats: int) -> dict[str, Any]:
    steps, floors = cascades.steps(backend, mode, case)
    timed = summary(alternate(steps, cascades.wait, repeats=repeats), "full")
    return {"mode": mode, "steps": timed, "speed_up": 1 / timed["cascade"]["ratio"], "floors": floors}


def times(module: Any, size: Size, mode: str, repeats: int, made: dict[str, str]) -> dict[str, dict[str, float]]:
    return summary(alternate(module.steps(size, mode, **made), module.wait, repeats=repeats))


def varied(base: Size, axis: str, value: int) -> Size:
    """``base`` with another number of levels, classes or dimensions."""
    if axis == "levels":
        return replace(base, smallest=base.width >> (value - 1))
    if axis == "classes":
        return replace(base, classes=value)
    return replace(base, width=value)


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("backend")
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--repeats", type=int, required=True)
    parser.add_argument("--device")
    parser.add_argument("--dtype")
    arguments = parser.parse_args()
    if arguments.backend != "numpy":
        os.environ["KERAS_BACKEND"] = arguments.backend  # before anybody imports Keras
    made = {name: value for name in ("device", "dtype") if (value := getattr(arguments, name))}
    print(json.dumps(measure(arguments.backend, quick=arguments.quick, repeats=arguments.repeats, made=made)))
