"""How many small faults the tests notice: ``python benchmarks/mutation.py --count 40 mrl/cascade``.

Of all small changes to the given files a seeded sample is tried, one at a time, in a copy of the tree: a comparison
flipped, a sign turned, a constant moved by one, a condition negated, a statement left out. Tests are run once to learn
which functions each of them calls; a change is then shown to the tests that call its function, the quickest first,
until one fails. What all of them let live is printed with its line. Some of that changes no behaviour.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mutation_operators import Mutant, mutants_of

ROOT = Path(__file__).parent.parent
HERE = Path(__file__).parent
IMPORT_SECONDS = 60.0
"""What starting the tests may take on a busy machine, beside the tests themselves."""


class Copy:
    """A copy of the tree, and of the package as it is installed, which alone is changed."""

    def __init__(self, folder: Path) -> None:
        self.tree, self.site, self.plugins = folder / "tree", folder / "site", folder / "plugins"
        unwanted = shutil.ignore_patterns(".*", "__pycache__", "*.egg-info", "build", "dist")
        shutil.copytree(ROOT, self.tree, ignore=unwanted)
        for source, target in (("mrl", "mrl"), ("backends", "mrl/backends"), ("adapters", "mrl/adapters")):
            shutil.copytree(self.tree / source, self.site / target)
        self.plugins.mkdir()
        shutil.copy(HERE / "mutation_plugin.py", self.plugins)

    def place(self, file: str) -> Path:
        return self.site / (file if file.startswith("mrl/") else f"mrl/{file}")

    def test(self, plan: dict[str, Any], arguments: list[str], limit: float | None) -> tuple[int | None, str]:
        """The exit status of pytest, ``None`` past the limit, and what it said."""
        order = self.plugins / "plan.json"
        order.write_text(json.dumps({**plan, "site": str(self.site)}))
        env = {
            **os.environ,
            "PYTHONPATH": os.pathsep.join((str(self.site), str(self.plugins))),
            "PYTHONDONTWRITEBYTECODE": "1",  # a change within a second would be taken for what is cached
            "OMP_NUM_THREADS": "1",
            "TF_CPP_MIN_LOG_LEVEL": "3",
            "MRL_MUTATION_PLAN": str(order),
        }
        command = [sys.executable, "-P", "-m", "pytest", "-q", "-x", "-p", "mutation_plugin", "-p", "no:cacheprovider"]
        command += ["--hypothesis-seed=0", "--tb=line", *arguments]
        try:
            done = subprocess.run(command, cwd=self.tree, env=env, capture_output=True, text=True, timeout=limit)
        except subprocess.TimeoutExpired:
            return None, ""
        return done.returncode, done.stdout + done.stderr


def files_of(names: list[str]) -> list[str]:
    found = [
        path
        for name in names
        for path in (sorted((ROOT / name).rglob("*.py")) if (ROOT / name).is_dir() else [ROOT / name])
    ]
    return [path.relative_to(ROOT).as_posix() for path in found]


def learn(copy: Copy, files: list[str], tests: list[str], arguments: list[str]) -> dict[str, Any]:
    """Which test calls which function of ``files``, and how long it takes."""
    out = copy.plugins / "calls.json"
    places = {str(copy.place(file)): file for file in files}
    status, said = copy.test({"record": str(out), "files": places}, [*arguments, *tests], None)
    if status != 0:
        raise SystemExit(f"the tests must pass before anything is changed:\n{said[-4000:]}")
    return json.loads(out.read_text())


def chosen_tests(mutant: Mutant, calls: dict[str, Any], seconds: float) -> list[str]:
    """Those that call the function, or anything of the file for what is outside of functions; quickest first."""
    wanted = f"{mutant.file}:{mutant.function}"
    callers = [
        test
        for test, names in calls["calls"].items()
        if wanted in names or (not mutant.function and any(name.startswith(f"{mutant.file}:") for name in names))
    ]
    chosen, spent = [], 0.0
    for test in sorted(callers, key=calls["seconds"].__getitem__):
        spent += calls["seconds"][test]
        if chosen and spent > seconds:
            break
        chosen.append(test)
    return chosen


def judge(copy: Copy, mutant: Mutant, tests: list[str], calls: dict[str, Any], arguments: list[str]) -> str:
    if not tests:
        return "not run"
    place = copy.place(mutant.file)
    original = place.read_bytes()
    place.write_bytes(mutant.applied(original))
    limit = IMPORT_SECONDS + 10 * sum(calls["seconds"][test] for test in tests)
    try:
        paths = sorted({test.partition("::")[0] for test in tests})
        status, _ = copy.test({"select": tests}, [*arguments, *paths], limit)
    finally:
        place.write_bytes(original)
    return {None: "too slow", 0: "survived", 5: "not run"}.get(status, "killed")


def trials(copy: Copy, arguments: argparse.Namespace) -> Iterator[tuple[Mutant, str]]:
    files = files_of(arguments.files)
    everything = [mutant for file in files for mutant in mutants_of(file, (ROOT / file).read_bytes())]
    sample = random.Random(arguments.seed).sample(everything, min(arguments.count, len(everything)))
    options = [f"--backend={name}" for name in arguments.backend]
    started = time.perf_counter()
    calls = learn(copy, files, arguments.tests, [*options, *(["-k", arguments.k] if arguments.k else [])])
    print(
        f"{len(everything)} changes to {len(files)} files, {len(sample)} tried with seed {arguments.seed}", flush=True
    )
    print(f"{len(calls['calls'])} tests, learnt in {time.perf_counter() - started:.0f} s", flush=True)
    for mutant in sorted(sample):
        tests = chosen_tests(mutant, calls, arguments.seconds)
        yield mutant, judge(copy, mutant, tests, calls, options)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="*", default=["mrl", "backends"], help="files or folders to change")
    parser.add_argument("--count", type=int, default=100, help="changes to try")
    parser.add_argument("--seed", type=int, default=0, help="of the sample")
    parser.add_argument("--tests", nargs="+", default=["tests"], help="test files that may notice")
    parser.add_argument("--backend", nargs="+", default=["numpy"], help="backends that they test")
    parser.add_argument("-k", default="", help="as for pytest: which of the tests")
    parser.add_argument("--seconds", type=float, default=120, help="of tests shown to one change, as recorded")
    parser.add_argument("--output", type=Path, help="where to write the results as JSON")
    arguments = parser.parse_args()
    results = []
    with tempfile.TemporaryDirectory() as folder:
        for mutant, verdict in trials(Copy(Path(folder)), arguments):
            results.append({**mutant._asdict(), "verdict": verdict})
            print(f"{verdict:9} {mutant.file}:{mutant.line}  {mutant.before}  ->  {mutant.after}", flush=True)
    counts = Counter(result["verdict"] for result in results)
    caught = counts["killed"] + counts["too slow"]
    print(f"score {caught} of {len(results)}: " + ", ".join(f"{count} {name}" for name, count in counts.items()))
    if arguments.output:
        content = {"seed": arguments.seed, "files": arguments.files, "score": caught, "tried": len(results)}
        arguments.output.write_text(json.dumps({**content, "results": results}, indent=1) + "\n")


if __name__ == "__main__":
    main()
