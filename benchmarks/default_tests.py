"""What the default tests reach of what all tests reach, and how long both take, from one run of all.

    pip install pytest-cov
    pytest -n 2 --dist worksteal -m "not gpu" --junitxml all.xml --cov lora_bench --cov-branch --cov-context test
    python -m benchmarks.default_tests all.xml .coverage

Coverage is that of the process of the tests, and a line belongs to the test that ran it first: a fixture of a file to the first
of the file's tests. So the default tests reach at least what is printed for them.
"""

import argparse
import io
import json
import sqlite3
import subprocess
import sys
import tempfile
from collections.abc import Collection, Iterable, Mapping
from contextlib import closing, redirect_stdout
from pathlib import Path
from xml.etree import ElementTree

from coverage import Coverage, CoverageData

Arc = tuple[str, int, int]


def seconds_of(junit: Path) -> dict[str, float]:
    """Return the seconds of each test, set-up included, by its id."""
    found = {}
    for case in ElementTree.parse(junit).iter("testcase"):
        file = case.get("classname", "").replace(".", "/") + ".py"
        found[f"{file}::{case.get('name')}"] = float(case.get("time", 0))
    return found


def slow_tests() -> set[str]:
    """Return the ids of the tests that are marked `slow` now."""
    command = [sys.executable, "-m", "pytest", "--collect-only", "-q", "-m", "slow and not gpu"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return {line for line in done.stdout.splitlines() if "::" in line}


def reached(data: Path) -> dict[str, set[Arc]]:
    """Return what each test reached; under "" stands what no test did, such as imports."""
    with closing(sqlite3.connect(data)) as opened:
        files = dict(opened.execute("select id, path from file"))
        contexts = dict(opened.execute("select id, context from context"))
        found: dict[str, set[Arc]] = {}
        for file, context, start, end in opened.execute("select file_id, context_id, fromno, tono from arc"):
            found.setdefault(contexts[context].rpartition("|")[0], set()).add((files[file], start, end))
    return found


def share(reached: Mapping[str, set[Arc]], tests: Collection[str]) -> tuple[float, float]:
    """Return the percentage of lines and of branches that these tests reach, and of all files of the run."""
    arcs: dict[str, set[tuple[int, int]]] = {file: set() for found in reached.values() for file, _, _ in found}
    for test in tests:
        for file, start, end in reached.get(test, ()):
            arcs[file].add((start, end))
    with tempfile.TemporaryDirectory() as folder:
        data = CoverageData(str(Path(folder) / "data"))
        data.add_arcs(arcs)
        data.write()
        report = Coverage(data_file=str(Path(folder) / "data"), config_file=False, branch=True)
        report.load()
        with redirect_stdout(io.StringIO()):
            report.json_report(outfile=str(Path(folder) / "report.json"))
        totals = json.loads((Path(folder) / "report.json").read_bytes())["totals"]
    return (
        100 * totals["covered_lines"] / totals["num_statements"],
        100 * totals["covered_branches"] / totals["num_branches"],
    )


def costs(seconds: Mapping[str, float], reached: Mapping[str, set[Arc]], slow: set[str]) -> Iterable[str]:
    """Yield what is worth another look: default tests that cost much, and slow ones that alone reach something."""
    count: dict[Arc, int] = {}
    for test, found in reached.items():
        if test not in slow:
            for arc in found:
                count[arc] = count.get(arc, 0) + 1
    yield "\nseconds  steps that no other default test takes  default test"
    for test in sorted(seconds.keys() - slow, key=lambda test: -seconds[test])[:200]:
        alone = sum(count[arc] == 1 for arc in reached.get(test, ()))
        yield f"{seconds[test]:7.1f}  {alone:5}  {test}"
    yield "\nseconds  steps that no default test takes  slow test"
    missed = {test: sum(arc not in count for arc in reached.get(test, ())) for test in slow}
    for test in sorted(slow, key=lambda test: -missed[test])[:100]:
        yield f"{seconds.get(test, 0):7.1f}  {missed[test]:5}  {test}"


def main(arguments: list[str] | None = None) -> None:
    """Print times and coverage of both sets of tests."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("junit", type=Path, help="times of a run of all tests")
    parser.add_argument("coverage", type=Path, help="coverage of the same run, with a context for each test")
    given = parser.parse_args(arguments)
    seconds, found, slow = seconds_of(given.junit), reached(given.coverage), slow_tests()
    for name, tests in (("all", found.keys()), ("default", found.keys() - slow), ("slow", slow | {""})):
        lines, branches = share(found, tests)
        took = sum(seconds.get(test, 0.0) for test in tests)
        print(f"{name:8}{len(tests):6} tests{took:8.0f} s   lines {lines:.2f} %   branches {branches:.2f} %")
    print("\n".join(costs(seconds, found, slow)))


if __name__ == "__main__":
    main()
