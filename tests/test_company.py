"""Who else is at runs of a suite is seen whenever it is asked, and finished runs are not looked into again and again."""

import os
import subprocess
import sys

import pytest

from lora_bench import company
from lora_bench.claims import try_claim
from lora_bench.company import others_at_work

HOLD = "import sys; from pathlib import Path; from lora_bench.claims import try_claim; c = try_claim(Path(sys.argv[1]))"


@pytest.fixture
def holds():
    """Starts a process that is at the run of a folder until the test is over or kills it."""
    started = []

    def start(folder):
        command = [sys.executable, "-c", f"{HOLD}; print(c.number, flush=True); sys.stdin.read()", str(folder)]
        process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        started.append(process)
        assert process.stdout is not None and process.stdout.readline().strip().isdigit()
        return process

    yield start
    for process in started:
        process.kill()
        process.communicate()


def long_ago(folder):
    """Let a folder be as if nothing had been put into it for a while."""
    os.utime(folder, (1e9, 1e9))


def test_another_process_is_seen_at_a_run_that_was_quiet_before(tmp_path, holds):
    assert others_at_work(tmp_path / "suite") == []
    folder = tmp_path / "suite" / "0123"
    with try_claim(folder):
        long_ago(folder)
        assert others_at_work(tmp_path / "suite") == []  # this process is none of the others
    first = holds(folder)
    assert others_at_work(tmp_path / "suite") == [first.pid]
    first.kill()
    first.wait()
    long_ago(folder)
    assert others_at_work(tmp_path / "suite") == []
    second = holds(folder)
    assert others_at_work(tmp_path / "suite") == [second.pid]


def test_the_claims_of_finished_runs_are_read_once(tmp_path, monkeypatch):
    read = []
    owner = company._owner
    monkeypatch.setattr(company, "_owner", lambda path: read.append(path.parent.name) or owner(path))
    for name in ("a", "b", "c"):
        with try_claim(tmp_path / name):
            pass
        long_ago(tmp_path / name)
    others_at_work(tmp_path)
    assert sorted(read) == ["a", "b", "c"]
    with try_claim(tmp_path / "b"):
        others_at_work(tmp_path)
    assert sorted(read) == ["a", "b", "b", "c"]
