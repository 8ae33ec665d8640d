"""A pull request from end to end: two commits of a user's package, of which the second spoils training."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from lora_bench.records.store import read_records
from tests.gate.test_bisect import git
from tests.gate.test_bisect_commits import BACKEND, LEARNS, PYPROJECT, pip_install, python
from tests.gate.test_workflows import ACTION, MERGE_REQUEST, PULL_REQUEST
from tests.project import SUITE, write_project

ROOT = Path(__file__).parents[2]
SHARES = {"before": "1.0", "harmless": "1.0", "spoilt": "0.0"}


@pytest.fixture
def installed(tmp_path, monkeypatch):
    """Three commits of a package in the working folder, each installed in a folder of its own, by name."""
    project = tmp_path / "project"
    write_project(
        project,
        SUITE.replace("[full, lora, bottleneck_adapter, prefix_tuning]", "[tinyshift]")
        .replace("48", "1_600")
        .replace("seeds: [0]", "seeds: [0, 1, 2]\nanalysis: {reference: tinyshift, margin: 0.02}"),
    )
    git(project, "init", "-q")
    for name, share in SHARES.items():
        method = LEARNS.replace("SHARE", share)
        (project / "tinyshift.py").write_text(f"{method}\n\nREVISION = {name!r}\n")
        (project / "backend.py").write_text(BACKEND)
        (project / "pyproject.toml").write_text(PYPROJECT)
        git(project, "add", "tinyshift.py", "backend.py", "pyproject.toml")
        git(project, "commit", "-qm", name)
        git(project, "tag", name)
        pip_install(project, tmp_path / name)
    monkeypatch.chdir(project)
    monkeypatch.setenv("LORA_BENCH_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    return {name: tmp_path / name for name in SHARES}


@pytest.mark.slow
def test_a_change_that_spoils_training_is_seen_on_the_first_pull_request(installed):
    answers = {}
    for name in ("harmless", "spoilt"):
        run = ("-m", "lora_bench.cli", "run", "tickets.yaml", "--runs", name, "--workers", "0", "--quiet")
        assert python(*run, installed=installed[name]).returncode == 0
        check = ("check", f"{name}/tickets", "--against", "before", "--workers", "0", "--markdown", f"{name}.md")
        answers[name] = python("-m", "lora_bench.cli", *check, installed=installed[name])
    assert answers["harmless"].returncode == 0, answers["harmless"].stderr
    # The same weights, the same data in the same order: the same scores, run by run.
    scores = {
        folder: [one.score for one in read_records(Path(folder))]
        for folder in ("harmless/tickets", next(map(str, Path("harmless/tickets-against").glob("*/runs/tickets"))))
    }
    assert len(set(map(tuple, scores.values()))) == 1
    assert Path("harmless.md").read_text().startswith("## Pass: fine-tuning in tickets\n")

    assert answers["spoilt"].returncode == 1, answers["spoilt"].stderr
    assert "a loss is shown" in answers["spoilt"].stdout
    comment = Path("spoilt.md").read_text()
    assert comment.startswith("## Regression: fine-tuning in tickets\n") and "before at " in comment
    # Nothing is left of checkouts and environments; the runs are kept, and asked for again nothing is installed.
    (place,) = Path("spoilt/tickets-against").iterdir()
    assert sorted(path.name for path in place.iterdir()) == ["complete", "log.txt", "runs"]
    before = (place / "log.txt").read_bytes()
    again = python("-m", "lora_bench.cli", *check, installed=installed["spoilt"])
    assert again.returncode == 1 and (place / "log.txt").read_bytes() == before
    # A suite that changed has other runs at the same commit, so what is kept does not do.
    Path("tickets.yaml").write_text(Path("tickets.yaml").read_text().replace("seeds: [0, 1, 2]", "seeds: [0, 1, 2, 3]"))
    more = python("-m", "lora_bench.cli", *check, installed=installed["spoilt"])
    assert len(list(place.glob("runs/tickets/*/record.json"))) == 4, more.stderr


@pytest.mark.slow
def test_a_commit_that_cannot_be_installed_ends_with_3_and_names_its_log(installed):
    Path("pyproject.toml").write_text('"')
    git(Path(), "commit", "-qam", "broken")
    run = ("-m", "lora_bench.cli", "run", "tickets.yaml", "--workers", "0", "--quiet")
    assert python(*run, installed=installed["before"]).returncode == 0
    check = ("-m", "lora_bench.cli", "check", "runs/tickets", "--against", "HEAD")
    ended = python(*check, installed=installed["before"])
    assert ended.returncode == 3 and "cannot be installed: see " in ended.stderr


@pytest.mark.slow
def test_the_files_for_each_service_find_it_too(installed, tmp_path):
    """Their shell steps as they stand; only `pip` does nothing, as all is installed."""
    here = tmp_path / "bin"
    here.mkdir()
    (here / "lora-bench").write_text(f'#!/bin/sh\nexec {sys.executable} -m lora_bench.cli "$@"\n')
    (here / "pip").write_text("#!/bin/sh\n")
    for stand_in in here.iterdir():
        stand_in.chmod(0o755)
    environment = {
        **os.environ, "PATH": f"{here}{os.pathsep}{os.environ['PATH']}", "PYTHONSAFEPATH": "1",
        "PYTHONPATH": os.pathsep.join([str(installed["spoilt"]), str(ROOT)]), "GITHUB_ACTION_PATH": str(ROOT),
        "GITHUB_OUTPUT": str(tmp_path / "output"), "GITHUB_STEP_SUMMARY": str(tmp_path / "summary"),
        "MARGIN": "0.015", "AGAINST": "before", "BASE": "before", "CI_MERGE_REQUEST_DIFF_BASE_SHA": "before",
    }  # fmt: skip
    jobs = {
        "action.yml": ("tickets.yaml", [step["run"] for step in ACTION["runs"]["steps"] if "run" in step]),
        "pull-request.github.yml": (
            "tickets", [step["run"] for step in PULL_REQUEST["jobs"]["check"]["steps"] if "run" in step],
        ),
        "merge-request.gitlab-ci.yml": ("tickets", ["\n".join(MERGE_REQUEST["fine-tuning"]["script"])]),
    }  # fmt: skip
    for name, (suite, steps) in jobs.items():
        Path("gate/comment.md").unlink(missing_ok=True)
        ended = [
            subprocess.run(
                ["bash", "-eo", "pipefail", "-c", step], env={**environment, "SUITE": suite},
                capture_output=True, text=True, check=False,
            )
            for step in steps
        ]  # fmt: skip
        assert [one.returncode for one in ended] == [*[0] * (len(steps) - 1), 1], (name, [one.stderr for one in ended])
        assert Path("gate/comment.md").read_text().startswith("## Regression: fine-tuning in tickets\n")
    assert (tmp_path / "output").read_text() == "code=1\n"
