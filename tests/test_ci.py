"""The commands that try a change: which environments and shards there are, and that consecutive changes run them all."""

import configparser
import os
import re
import runpy
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from tests.shards import SECONDS, dealt

ROOT = Path(__file__).parents[1]
FULL = runpy.run_path(str(ROOT / ".ci" / "full.py"))
README = "python3 -m venv .venv && .venv/bin/pip install tox && .venv/bin/tox"
# Environments that are run by name only: they change files, need a card, or take a quarter of an hour.
BY_NAME = {"faults", "fix", "gpu"}


def environments() -> tuple[set[str], set[str]]:
    """Return the environments that `tox` alone runs, and all."""
    tox = configparser.ConfigParser(interpolation=None)
    tox.read(ROOT / "tox.ini", encoding="utf-8")
    named = {section.removeprefix("testenv:") for section in tox.sections() if section.startswith("testenv:")}
    return {name.strip() for name in tox["tox"]["env_list"].split(",")}, named | {"py"}


def test_an_environment_is_run_by_default_or_by_a_shard_of_full_or_by_name():
    default, everything = environments()
    shards = {name for names, *_ in FULL["SHARDS"] for name in names.split(",")}
    assert default == {"lint", "type", "py"}
    assert everything == default | shards | BY_NAME | {"full"}


def test_the_slow_tests_of_all_shards_are_all_slow_tests():
    slow = [options for options in FULL["SHARDS"] if "slow and not gpu" in options]
    assert {option for options in slow for option in options if "shard" in option} == {
        f"--shard={part}/{len(slow)}" for part in range(1, len(slow) + 1)
    }


def test_consecutive_numbers_run_every_shard_and_a_failure_is_told(tmp_path, monkeypatch, capfd):
    (tmp_path / "tox.py").write_text("import os, sys\nprint(*sys.argv[1:])\nsys.exit('reports' in sys.argv[-1])\n")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    shards = FULL["SHARDS"]
    codes = [FULL["main"]([str(commits)]) for commits in range(700, 700 + len(shards))]
    said = capfd.readouterr().out
    assert all(f"\nrun -e {' '.join(shard)}\n" in said for shard in shards)
    assert sorted(codes) == [*[0] * (len(shards) - 1), 1]
    assert FULL["main"]([]) == 1
    last = len(shards) - 1
    assert capfd.readouterr().out.endswith(f"full: shards {last} failed\n")


def test_shards_have_every_file_once_and_take_equally_long():
    files = [*SECONDS, *(f"tests/test_{number}.py" for number in range(20))]
    parts = dealt([*files, *files], 3)
    assert sorted(file for part in parts for file in part) == sorted(files)
    seconds = [sum(SECONDS.get(file, 5) for file in part) for part in parts]
    assert max(seconds) - min(seconds) <= max([*SECONDS.values(), 5])


def test_a_file_with_seconds_is_there():
    assert [file for file in SECONDS if not (ROOT / file).exists()] == []


def test_pytest_runs_every_test_in_one_shard_and_keeps_their_times(tmp_path):
    (tmp_path / "conftest.py").write_text('pytest_plugins = ["tests.shards"]\n')
    for name in "abcde":
        (tmp_path / f"test_{name}.py").write_text("def test_one():\n    pass\n\ndef test_two():\n    pass\n")
    ran = []
    for part in (1, 2, 3):
        options = ["-q", "-rA", "--rootdir=.", "-p", "no:cacheprovider", f"--shard={part}/3", "--times=kept/times.txt"]
        command = [sys.executable, "-m", "pytest", *options]
        done = subprocess.run(
            command,
            cwd=tmp_path,
            env=os.environ | {"PYTHONPATH": str(ROOT)},
            capture_output=True,
            text=True,
            check=True,
        )
        tests = re.findall(r"^PASSED (\S+)", done.stdout, re.MULTILINE)
        kept = (tmp_path / "kept" / "times.txt").read_text()
        assert f"in {len(tests)} tests" in kept and all(f"  {test}\n" in kept for test in tests)
        ran += tests
    assert sorted(ran) == [f"test_{name}.py::test_{test}" for name in "abcde" for test in ("one", "two")]


@pytest.fixture
def checkout(tmp_path):
    """A repository of three commits with our `.ci/run`, and stand-ins for what it starts, which say how they were called."""
    origin = tmp_path / "origin"
    (origin / ".ci").mkdir(parents=True)
    shutil.copy(ROOT / ".ci" / "run", origin / ".ci")
    git = ["git", "-c", "user.name=Test", "-c", "user.email=test@example.org", "-C", str(origin)]
    subprocess.run([*git, "init", "--quiet"], check=True)
    subprocess.run([*git, "add", "."], check=True)
    for number in range(3):
        subprocess.run([*git, "commit", "--quiet", "--allow-empty", "--message", f"{number}"], check=True)
    (tmp_path / "bin").mkdir()
    for name in ("java", "chromium"):
        (tmp_path / "bin" / name).write_text("#!/bin/sh\n")
    (tmp_path / "bin" / "python3").write_text(
        """#!/bin/sh
mkdir -p .venv/bin .tox
echo 'a folder and its seconds' > .tox/times-default.txt
printf '#!/bin/sh\\n' > .venv/bin/pip
printf '#!/bin/sh\\necho tox "$@"\\necho "FAILED tests/test_a.py"\\necho "$FILL"\\nexit $CODE\\n' > .venv/bin/tox
chmod +x .venv/bin/pip .venv/bin/tox
"""
    )
    for file in (tmp_path / "bin").iterdir():
        file.chmod(0o755)

    def run(*options, code=0):
        subprocess.run(["git", "clone", "--quiet", *options, origin.as_uri(), str(tmp_path / "clone")], check=True)
        variables = {"PATH": f"{tmp_path / 'bin'}{os.pathsep}{os.environ['PATH']}", "CODE": str(code), "FILL": "x"}
        command = [str(tmp_path / "clone" / ".ci" / "run")]
        done = subprocess.run(command, env=variables, capture_output=True, text=True, check=False)
        return done.returncode, done.stdout.splitlines()

    return run


def test_ci_runs_the_default_and_the_shard_of_the_number_of_commits_and_prints_the_times(checkout):
    code, lines = checkout()
    assert code == 0
    assert [line for line in lines if line.startswith(("tox", "a folder"))] == [
        "tox",
        "a folder and its seconds",
        "tox -e full -- 3",
    ]


def test_ci_says_that_a_shallow_clone_counts_no_commits_and_runs_the_first_shard(checkout):
    code, lines = checkout("--depth=1")
    assert code == 0
    assert "no full clone" in lines[0] and lines[-3] == "tox -e full -- 0"


def test_ci_repeats_at_the_end_what_failed(checkout):
    code, lines = checkout(code=1)
    assert (code, lines) == (1, ["tox", "FAILED tests/test_a.py", "x", "FAILED tests/test_a.py"])


def test_ci_and_the_workflow_run_the_command_of_the_readme():
    text = (ROOT / ".ci" / "run").read_text(encoding="utf-8")
    assert README in (ROOT / "README.md").read_text(encoding="utf-8")
    assert all(
        part in text for part in ("python3 -m venv .venv\n", ".venv/bin/pip install --quiet tox\n", ".venv/bin/tox &&")
    )
    workflow = yaml.safe_load((ROOT / ".github" / "workflows" / "tests.yml").read_text(encoding="utf-8"))
    (job,) = workflow["jobs"].values()
    assert README in [step.get("run") for step in job["steps"]]
    assert job["strategy"]["matrix"]["python"] == ["3.11", "3.13"]


def test_the_workflow_of_pull_requests_may_only_read_and_pins_its_actions():
    workflow = yaml.safe_load((ROOT / ".github" / "workflows" / "tests.yml").read_text(encoding="utf-8"))
    assert workflow[True] == {"pull_request": None}  # YAML reads the key `on` as true
    assert workflow["permissions"] == {}
    (job,) = workflow["jobs"].values()
    assert job["permissions"] == {"contents": "read"}
    assert all(re.search(r"@[0-9a-f]{40}$", step["uses"]) for step in job["steps"] if "uses" in step)
