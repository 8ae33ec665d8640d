"""Options of pytest for CI: `--shard 2/3` runs a part of the tests, and `--times FILE` keeps how long each folder took.

A file of tests is in one shard as a whole, since its tests share what is made once for all of them. Files are dealt out by
`SECONDS`, longest first, each to the shard with the least; so the parts are equal in time, and the same on every machine.
"""

from collections import Counter
from collections.abc import Iterable
from pathlib import Path

import pytest

# Roughly what the `slow` tests of a file take on one core; CI prints their times. A wrong number makes shards less equal,
# and nothing else.
SECONDS = {
    "tests/cli/test_try.py": 360,
    "tests/execute/test_prepared_folder.py": 110,
    "tests/execute/test_run_suite.py": 200,
    "tests/faults/test_ends.py": 220,
    "tests/faults/test_failpoints.py": 300,
    "tests/fleet/test_train_fleet.py": 40,
    "tests/gate/test_bisect_commits.py": 60,
    "tests/gate/test_gate.py": 180,
    "tests/gate/test_peft_mutants.py": 40,
    "tests/gate/test_pull_request.py": 120,
    "tests/pack/test_train.py": 110,
    "tests/plugin/test_benchmark_callback.py": 50,
    "tests/plugin/test_distributed.py": 60,
    "tests/probe/test_execute.py": 60,
    "tests/published/test_reproduce.py": 40,
    "tests/security/test_bad_inputs.py": 290,
    "tests/security/test_fuzz.py": 40,
    "tests/stats/test_collapse_simulation.py": 40,
    "tests/stats/test_gate.py": 40,
    "tests/tasks/test_train.py": 60,
    "tests/test_adding.py": 120,
    "tests/test_baselines.py": 400,
    "tests/test_decisions.py": 110,
    "tests/test_tutorials.py": 100,
    "tests/test_wheel.py": 60,
    "tests/training/test_answering.py": 60,
    "tests/training/test_ranks.py": 310,
    "tests/training/test_run.py": 80,
    "tests/training/test_tagging.py": 70,
}
OTHER = 5


def dealt(files: Iterable[str], shards: int) -> list[list[str]]:
    """Return the files of each shard."""
    parts: list[list[str]] = [[] for _ in range(shards)]
    seconds = [0] * shards
    for file in sorted(set(files), key=lambda file: (-SECONDS.get(file, OTHER), file)):
        least = seconds.index(min(seconds))
        parts[least].append(file)
        seconds[least] += SECONDS.get(file, OTHER)
    return parts


def pytest_addoption(parser):
    parser.addoption("--shard", metavar="I/N", help="run the Ith of N parts of the tests, of about equal time")
    parser.addoption("--times", metavar="FILE", help="keep the seconds of folders, files and the slowest tests in FILE")


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config, items):
    if not config.getoption("shard"):
        return
    shard, shards = map(int, config.getoption("shard").split("/"))
    if not 1 <= shard <= shards:
        raise pytest.UsageError(f"--shard {shard}/{shards}: the first number must be 1 to {shards}")
    file_of = {item: item.path.relative_to(config.rootpath).as_posix() for item in items}
    chosen = set(dealt(file_of.values(), shards)[shard - 1])
    config.hook.pytest_deselected(items=[item for item in items if file_of[item] not in chosen])
    items[:] = [item for item in items if file_of[item] in chosen]


def pytest_terminal_summary(terminalreporter, config):
    if config.getoption("times"):
        reports = [report for reports in terminalreporter.stats.values() for report in reports]
        seconds = Counter[str]()
        for report in reports:
            if hasattr(report, "duration"):
                seconds[report.nodeid] += report.duration
        kept = Path(config.getoption("times"))
        kept.parent.mkdir(parents=True, exist_ok=True)
        kept.write_text("\n".join(_times(seconds)) + "\n", encoding="utf-8")


def _times(seconds: Counter[str]) -> list[str]:
    folders, files = Counter[str](), Counter[str]()
    for test, duration in seconds.items():
        file = test.split("::")[0]
        folder = "/".join(file.split("/")[:2]) if file.count("/") > 1 else "tests"
        folders[folder] += duration
        files[file] += duration
    lines = [f"{sum(seconds.values()):8.1f} s in {len(seconds)} tests, set-up included"]
    for title, times in (("folder", folders), ("file", files), ("test", seconds)):
        lines += ["", f"seconds  {title}", *(f"{duration:7.1f}  {name}" for name, duration in times.most_common(50))]
    return lines
