"""Who else is at runs of a suite is seen whenever it is asked, and finished runs are not looked into again and again."""

import subprocess
import sys

import pytest

from lora_bench.records import run_lock
from lora_bench.records.run_lock import others_at_work, try_lock

HOLD = (
    "import sys; from pathlib import Path; from lora_bench.records.run_lock import try_lock; "
    "c = try_lock(Path(sys.argv[1]))"
)


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


def test_another_process_is_seen_at_a_run_that_was_quiet_before(tmp_path, holds):
    assert others_at_work(tmp_path / "suite") == []
    folder = tmp_path / "suite" / "0123"
    with try_lock(folder):
        assert others_at_work(tmp_path / "suite") == []  # this process is none of the others
    first = holds(folder)
    assert others_at_work(tmp_path / "suite") == [first.pid]
    first.kill()
    first.wait()
    assert others_at_work(tmp_path / "suite") == []
    second = holds(folder)
    assert others_at_work(tmp_path / "suite") == [second.pid]


def test_the_claims_of_finished_runs_are_not_read_and_those_of_runs_that_are_made_again_are(tmp_path, monkeypatch):
    read, plain = [], run_lock.read_regular
    for name in ("a", "b", "c"):
        with try_lock(tmp_path / name):
            pass
    for name in ("a", "b"):
        (tmp_path / name / "record.json").write_text("{}")
    monkeypatch.setattr(run_lock, "read_regular", lambda path, *how: read.append(path.parent.name) or plain(path, *how))
    others_at_work(tmp_path)
    assert read == ["c"]
    (tmp_path / "b" / "record.json").unlink()
    others_at_work(tmp_path)
    assert sorted(read) == ["b", "c", "c"]


def test_what_is_no_folder_of_a_run_is_passed_by(tmp_path):
    (tmp_path / "report.md").write_text("")
    (tmp_path / "itself").symlink_to(tmp_path / "itself")
    assert others_at_work(tmp_path) == []
