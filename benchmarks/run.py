"""What nested training costs beside plain training: ``python benchmarks/run.py [--quick]``, or ``nox -s bench``.

Every time is a ratio to one full-width linear head with cross-entropy in the same framework, taken in one process, in
alternation. Memory is taken in fresh processes. Prints a table and writes ``bench.json`` and ``bench.png``.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from cases import MEMORY, MODES, QUICK_MEMORY
from figure import draw
from memory import extra_bytes

BACKENDS = ("numpy", "torch", "jax", "tensorflow")
HERE = Path(__file__).parent


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--backend", action="append", choices=BACKENDS, help="repeat for more (default: all installed)")
    parser.add_argument("--quick", action="store_true", help="small sizes, to see that everything runs")
    parser.add_argument("--repeats", type=int, help="runs of each step (default: 21, or 5 with --quick)")
    parser.add_argument("--device", help="measure steps there, at sizes that fill it: cuda, in the framework's words")
    parser.add_argument("--dtype", choices=("float32", "bfloat16", "float16"), help="of embeddings and heads")
    parser.add_argument("--out", type=Path, default=Path("mrl-bench"), help="folder for the numbers and the figure")
    arguments = parser.parse_args()
    repeats = arguments.repeats or (5 if arguments.quick else 21)
    backends = arguments.backend or [name for name in BACKENDS if find_spec(name)]
    result: dict[str, Any] = {
        "machine": machine(),
        "quick": arguments.quick,
        "device": arguments.device,
        "dtype": arguments.dtype,
        "backends": {},
        "memory": [],
    }
    print(f"{result['machine']}\nratios to one plain full-width head; median of {repeats}, quartiles in brackets")
    for backend in backends:
        found = measured(backend, arguments, repeats)
        result["backends"][backend] = found
        for row in found["table"]:
            print(f"\n{backend} {row['mode']}: {row['size']}")
            for name, step in row["steps"].items():
                spread = f"[{step['low_ms']:.1f}, {step['high_ms']:.1f}]"
                print(f"  {name:32}{step['ratio']:6.2f}   {step['median_ms']:9.2f} ms {spread}", flush=True)
        for row in found.get("contrastive", []):
            print(f"\n{backend} {row['mode']}: contrastive, {row['rows']} pairs, to the loss at full width alone")
            for name, step in row["steps"].items():
                print(f"  {name:32}{step['ratio']:6.2f}   {step['median_ms']:9.2f} ms", flush=True)
        for row in found.get("keras", []):
            print(f"\n{backend}, a step of Keras' fit: {row['size']}")
            for name, step in row["steps"].items():
                print(f"  {name:32}{step['ratio']:6.2f}   {step['median_ms']:9.2f} ms", flush=True)
        for name, microseconds in found.get("module_microseconds", {}).items():
            print(f"\n{backend}: MatryoshkaHead adds {microseconds:.1f} microseconds to a call ({name})", flush=True)
        for row in found["cascade"]:
            floors = row["floors"]
            print(
                f"\n{backend} {row['mode']}: cascade of {floors['expected_dim']:.0f} dimensions on average: "
                f"{row['speed_up']:.1f} times the throughput of full-width prediction "
                f"({floors['flops_ratio']:.0f} times fewer FLOPs, {1 / floors['logit_bytes_ratio']:.1f} times the "
                f"logits)",
                flush=True,
            )
        if backend != "numpy" and not arguments.device:
            result["memory"] += memory(backend, arguments.quick)
    arguments.out.mkdir(parents=True, exist_ok=True)
    (arguments.out / "bench.json").write_text(json.dumps(result, indent=1), encoding="utf-8")
    draw(result, arguments.out / "bench.png")
    print(f"\nwrote {arguments.out / 'bench.json'} and {arguments.out / 'bench.png'}")
    return 0


def measured(backend: str, arguments: argparse.Namespace, repeats: int) -> dict[str, Any]:
    """A process of its own for each framework, whose threads would be in the others' way."""
    command = [sys.executable, str(HERE / "measure.py"), backend, f"--repeats={repeats}"]
    command += [f"--{name}={getattr(arguments, name)}" for name in ("device", "dtype") if getattr(arguments, name)]
    command += ["--quick"] if arguments.quick else []
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"measuring {backend}: {done.stderr[-3000:]}")
    return json.loads(done.stdout.splitlines()[-1])


def memory(backend: str, quick: bool) -> list[dict[str, Any]]:
    rows = []
    for size in QUICK_MEMORY if quick else MEMORY:
        for mode in MODES[backend][:1] if quick else MODES[backend]:
            peaks = {step: extra_bytes(backend, mode, step, size) for step in ("plain", "fused")}
            ratio = peaks["fused"] / max(1, peaks["plain"])
            rows.append({"backend": backend, "mode": mode, "size": size.name, "bytes": peaks, "ratio": ratio})
            megabytes = ", ".join(f"{step} {found / 1e6:.1f} MB" for step, found in peaks.items())
            print(f"\n{backend} {mode}: peak extra memory, {size.name}: {megabytes}, ratio {ratio:.2f}", flush=True)
    return rows


def machine() -> str:
    model = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        names = [
            line.split(":")[1].strip() for line in cpuinfo.read_text().splitlines() if line.startswith("model name")
        ]
        model = names[0] if names else model
    return f"{model}, {os.cpu_count()} cores, Python {platform.python_version()}"


if __name__ == "__main__":
    raise SystemExit(main())
