"""The search over commits, from one end to the other: a user's package in a git repository, whose method stopped training."""

import inspect
import os
import subprocess
import sys
from pathlib import Path

import pytest

from lora_bench.records.store import read_records
from tests.gate.test_bisect import git, wheel
from tests.gate.test_gate import METHOD
from tests.project import SUITE, write_project

ROOT = Path(__file__).parents[2]
POINTS = "[lora_bench.methods]\ntinyshift = tinyshift\n"
PYPROJECT = '[build-system]\nrequires = []\nbuild-backend = "backend"\nbackend-path = ["."]\n'
# In the project itself, so that nothing has to be downloaded for a build. The version is the same at every commit.
BACKEND = f"""\
import zipfile
from pathlib import Path


{inspect.getsource(wheel)}

def build_wheel(folder, settings=None, metadata=None):
    return wheel(Path(folder), "1.0", source=Path("tinyshift.py").read_text(), entry_points={POINTS!r}).name
"""
# All that the method trains gets its gradients times a share; of none, the numbers of weights stay the same.
LEARNS = METHOD.replace("TRAINED", "True").replace(
    "        return model",
    "            parameter.register_hook(lambda gradient: gradient * SHARE)\n        return model",
)
NIGHTS = 8
GOOD, FIRST_BAD, NOT_TO_BE_INSTALLED, BAD = 0, 1, 2, 4

# In one process, which imports once.
ACCEPTED = f"""\
from lora_bench.cli import main

for number in range(1, {NIGHTS} + 1):
    assert main(["run", "tickets.yaml", "--series", f"n{{number}}", "--workers", "0", "--quiet"]) == 0
    assert main(["baseline", "accept", "runs/tickets", "--name", "gate", "--series", f"n{{number}}", "--reason", "ok"]) == 0
"""


def pip_install(project, target):
    """The project as it is now, for processes that have *target* in their path."""
    options = ("--no-deps", "--disable-pip-version-check", "--quiet", "--target", str(target))
    subprocess.run([sys.executable, "-m", "pip", "install", *options, str(project)], check=True)


def python(*arguments, installed):
    """A process in the working folder, in which the plug-in is installed that lies in *installed*."""
    path = os.pathsep.join([str(installed), str(ROOT)])
    # As for the script `lora-bench`, modules of the working folder are none: it has the plug-in as of the last commit.
    environment = {**os.environ, "PYTHONPATH": path, "PYTHONSAFEPATH": "1"}
    return subprocess.run([sys.executable, *arguments], env=environment, capture_output=True, text=True, check=False)


@pytest.fixture
def commits(tmp_path, monkeypatch):
    """Five commits of a user's package, which is the working folder; installed as of the first and the last."""
    project = tmp_path / "project"
    suite = SUITE.replace("[full, lora, bottleneck_adapter, prefix_tuning]", "[tinyshift]").replace("48", "1_600")
    write_project(project, suite)
    git(project, "init", "-q")
    made = []
    for number in range(BAD + 1):
        method = LEARNS.replace("SHARE", "1.0" if number < FIRST_BAD else "0.0")
        (project / "tinyshift.py").write_text(f"{method}\n\nREVISION = {number}\n")
        (project / "backend.py").write_text(BACKEND)
        broken = '"' if number == NOT_TO_BE_INSTALLED else ""
        (project / "pyproject.toml").write_text(f"{PYPROJECT}{broken}")
        git(project, "add", "tinyshift.py", "backend.py", "pyproject.toml")
        git(project, "commit", "-qm", f"revision {number}")
        made.append(git(project, "rev-parse", "HEAD"))
        if number in (GOOD, BAD):
            pip_install(project, tmp_path / str(number))
    monkeypatch.chdir(project)
    monkeypatch.setenv("LORA_BENCH_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    return made


@pytest.mark.slow
def test_the_commit_that_broke_a_cell_is_found_by_running_it(commits, tmp_path):
    nights = python("-c", ACCEPTED, installed=tmp_path / str(GOOD))
    assert nights.returncode == 0, nights.stdout + nights.stderr
    run = ("-m", "lora_bench.cli", "run", "tickets.yaml", "--series", "tonight", "--workers", "0", "--quiet")
    assert python(*run, installed=tmp_path / str(BAD)).returncode == 0
    (bad,) = read_records(Path("runs/tickets/tonight"))
    assert all(one.score > bad.score + 0.05 for one in read_records(Path("runs/tickets/n1")))
    assert bad.parameters == read_records(Path("runs/tickets/n1"))[0].parameters

    options = ("--suite", "tickets.yaml", "--workers", "0", "--bisect", f"{commits[GOOD]}..HEAD")
    check = ("-m", "lora_bench.cli", "check", "runs/tickets/tonight", "--baseline", "gate", *options)
    asked = python(*check, installed=tmp_path / str(BAD))
    assert asked.returncode == 0, asked.stdout + asked.stderr
    # Both ends, and log₂ 4 between them.
    assert "5 commits: at most 4 environments" in asked.stdout
    assert asked.stdout.splitlines()[-1] == "the same with --yes does it"
    assert not Path("runs/tickets/tonight-bisect").exists()

    done = python(*check, "--yes", installed=tmp_path / str(BAD))
    assert done.returncode == 0, done.stdout + done.stderr
    tried, ended = done.stdout.splitlines()[3:-2], done.stdout.splitlines()[-2:]
    said = [tuple(line.split(": ")[:2]) for line in tried]
    assert said == [
        (commits[BAD], "bad"),
        (commits[GOOD], "good"),
        (commits[NOT_TO_BE_INSTALLED], "not to be tried"),
        (commits[FIRST_BAD], "bad"),
    ]
    assert "it cannot be installed, see log.txt" in tried[2]
    assert ended == [f"last good: commit {commits[FIRST_BAD - 1]}", f"first bad: commit {commits[FIRST_BAD]}"]
    # Nothing is left of checkouts and environments, in the folder or in what git knows.
    assert sorted(path.name for path in Path("runs/tickets/tonight-bisect").glob("*/*")) == sorted(
        [*["log.txt"] * 4, *["runs"] * 3]
    )
    assert len(git(Path(), "worktree", "list").splitlines()) == 1 and git(Path(), "status", "-s", "-uno") == ""
