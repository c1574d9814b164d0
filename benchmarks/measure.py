"""All measurements of one backend in one process: ``python measure.py BACKEND [--quick]`` prints JSON."""

from __future__ import annotations

import argparse
import json
from dataclasses import replace
from importlib import import_module
from typing import Any

from cases import BASE, GROWTH, QUICK, QUICK_GROWTH, SIZES, Size
from timing import alternate, summary

import mrl


def measure(backend: str, *, quick: bool, repeats: int) -> dict[str, Any]:
    module = import_module(f"steps_{backend}")
    sizes = QUICK if quick else SIZES
    table = [
        {"mode": mode, "size": size.name, "steps": times(module, size, mode, repeats)}
        for size in sizes
        for mode in module.MODES
    ]
    mode, growth = module.MODES[0], []
    for axis, values in (QUICK_GROWTH if quick else GROWTH).items():
        for value in values:
            size = varied(replace(QUICK[0]) if quick else BASE, axis, value)
            growth.append({"axis": axis, "value": value, "mode": mode, "steps": times(module, size, mode, repeats)})
    versions = {info.name: info.version for info in mrl.available_backends() if info.name == backend}
    return {"versions": versions, "table": table, "growth": growth}


def times(module: Any, size: Size, mode: str, repeats: int) -> dict[str, dict[str, float]]:
    return summary(alternate(module.steps(size, mode), module.wait, repeats=repeats))


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
    arguments = parser.parse_args()
    print(json.dumps(measure(arguments.backend, quick=arguments.quick, repeats=arguments.repeats)))
