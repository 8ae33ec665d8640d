"""Any number of harnesses on one runs folder do every run exactly once, and a dead one keeps nothing.

Real processes with real claims and a real store; what they do at a run takes milliseconds (see harness.py).
"""

import dataclasses
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest

from lora_bench.execute.executors.executor import Lost
from lora_bench.records import run_lock as claims
from lora_bench.records.run_lock import Watch, try_lock
from lora_bench.records.store import RunFolder, read_records
from lora_bench.util import process_identity as processes
from tests.faults.harness import ToyExecutor, ToyJob, jobs, no_locks, schedule

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="an owner is asked for in /proc")

ROOT = Path(__file__).parents[2]


@pytest.fixture(params=["disk", "memory"])
def folder(request, tmp_path):
    """A folder on this machine's disk, and one on a tmpfs where there is one."""
    if request.param == "disk":
        yield tmp_path
        return
    memory = Path("/dev/shm")
    if not os.access(memory, os.W_OK):
        pytest.skip("no tmpfs here")
    import tempfile

    with tempfile.TemporaryDirectory(dir=memory) as made:
        yield Path(made)


def start(runs, log, number, seed, *quirks):
    command = [sys.executable, "-m", "tests.faults.harness", str(runs), str(log), str(number), str(seed), *quirks]
    return subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, text=True)


def wait_until(fact, seconds=120.0):
    end = time.monotonic() + seconds
    while not (value := fact()):
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.01)
    return value


def said(log, word):
    """How often each run is in the log after a word."""
    lines = log.read_text().splitlines() if log.exists() else []
    return Counter(line.split()[1] for line in lines if line.startswith(word))


def finish(processes):
    for process in processes:
        _, errors = process.communicate(timeout=600)
        assert process.returncode == 0, errors


@pytest.mark.parametrize("harnesses", [2, pytest.param(8, marks=pytest.mark.slow)])
def test_harnesses_that_nobody_disturbs_do_each_run_exactly_once(folder, harnesses):
    runs, log = folder / "runs", folder / "log"
    finish([start(runs, log, 50, seed) for seed in range(harnesses)])
    once = dict.fromkeys((job.run_id for job in jobs(runs, 50)), 1)
    assert said(log, "begin") == said(log, "done") == once
    assert len(read_records(runs)) == 50
    for left in ({path.name for path in run.iterdir()} for run in runs.iterdir()):
        assert left - {"record.json", "lock"} <= {f"claim-{number}.json" for number in range(1, harnesses + 1)}
        assert len(left) == 3


@pytest.mark.slow
def test_without_locks_claims_alone_do_the_same(tmp_path):
    runs, log = tmp_path / "runs", tmp_path / "log"
    finish([start(runs, log, 50, seed, "lockless") for seed in range(8)])
    assert said(log, "begin") == said(log, "done") == dict.fromkeys((job.run_id for job in jobs(runs, 50)), 1)


@pytest.mark.slow
@pytest.mark.parametrize("quirks", [(), ("lockless",)])
def test_harnesses_that_are_killed_at_random_lose_nothing_and_do_nothing_twice(tmp_path, quirks):
    """SIGKILL to 24 harnesses at random moments; those that remain need no hand to go on."""
    runs, log, draw = tmp_path / "runs", tmp_path / "log", random.Random(7)
    number, kills = 50, 0
    alive = [start(runs, log, number, seed, *quirks) for seed in range(4)]
    acknowledged: dict[str, bytes] = {}
    while kills < 24 and len(said(log, "done")) < number - 5:
        before = len(said(log, "begin"))
        wait_until(lambda before=before: len(said(log, "begin")) > before or alive[0].poll() is not None)
        time.sleep(draw.random() * 0.03)
        victim = alive.pop(0)
        victim.kill()
        victim.communicate()
        kills += victim.returncode == -signal.SIGKILL
        for run_id in said(log, "done"):
            content = (runs / run_id / "record.json").read_bytes()
            assert acknowledged.setdefault(run_id, content) == content
        alive.append(start(runs, log, number, 100 + kills, *quirks))
    assert kills >= 10
    finish(alive)
    assert len(read_records(runs)) == number
    # A run that was begun and not acknowledged was its owner's who was killed there; nobody begins one that is done.
    begun, done = said(log, "begin"), said(log, "done")
    assert max(done.values()) == 1
    assert sum(begun.values()) - sum(done.values()) <= kills
    assert not list(runs.glob("*/.lora_bench-*")), "what the killed left half written is gone"


def test_a_claim_says_whose_it_is(tmp_path):
    with try_lock(tmp_path / "run"):
        found = json.loads((tmp_path / "run" / "claim-1.json").read_text())
        assert found["pid"] == os.getpid()
        assert found["boot_id"] == Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        assert set(found) == {"host", "boot_id", "pid_namespace", "pid", "start_ticks", "beats"}
        assert try_lock(tmp_path / "run") is None
        assert not Watch().is_free(tmp_path / "run")
    assert json.loads((tmp_path / "run" / "claim-1.json").read_text()) == {"free": True}
    with try_lock(tmp_path / "run") as claim:
        assert claim.number == 2


def test_a_number_given_again_is_another_process(tmp_path, monkeypatch):
    monkeypatch.setattr("fcntl.flock", no_locks)
    claim = try_lock(tmp_path / "run")
    path = tmp_path / "run" / "claim-1.json"
    content = path.read_text()
    assert try_lock(tmp_path / "run") is None
    # The same number, on the same machine since the same start, but begun at another time.
    path.write_text(re.sub(r'"start_ticks": \d+', '"start_ticks": 1', content))
    with try_lock(tmp_path / "run") as taken:
        assert taken.number == 2 and claim.lost and not taken.lost
    claim.release()
    assert json.loads((tmp_path / "run" / "claim-2.json").read_text()) == {"free": True}


def holder(tmp_path, *quirks):
    """A process that is at the run and stays there, and the folder of the run."""
    runs, log = tmp_path / "runs", tmp_path / "log"
    process = start(runs, log, 1, 0, "hold", *quirks)
    wait_until(lambda: said(log, "begin"))
    (job,) = jobs(runs, 1)
    return process, job.folder.path


def test_a_dead_owner_of_this_machine_is_known_at_once(tmp_path):
    process, folder = holder(tmp_path)
    watch = Watch()
    assert try_lock(folder) is None and not watch.is_free(folder)
    os.kill(process.pid, signal.SIGSTOP)  # stands still, and lives
    assert try_lock(folder) is None and not watch.is_free(folder)
    process.kill()
    process.communicate()
    assert watch.is_free(folder)
    with try_lock(folder) as claim:
        assert claim.number == 2


class OwnClock:
    """The clock of this process, which stands still but where a test moves it; all else is the module `time`."""

    def __init__(self, monkeypatch):
        self.now = 0.0
        monkeypatch.setattr(claims, "time", self)

    def monotonic(self):
        return self.now

    def __getattr__(self, name):
        return getattr(time, name)


def as_seen_from_another_machine(monkeypatch, *, locks):
    """Make this process one that sees nothing of an owner but its heartbeat. Return its clock."""
    monkeypatch.setattr(claims, "is_alive", lambda owner: None)
    monkeypatch.setattr(claims, "is_local", lambda folder: False)
    if not locks:
        monkeypatch.setattr("fcntl.flock", no_locks)
    return OwnClock(monkeypatch)


def is_free_after_silence(watch, folder, clock):
    """Whether the run is free once its owner has been silent for long enough, and no moment earlier."""
    assert not watch.is_free(folder)
    clock.now += 0.9 * SILENCE
    assert not watch.is_free(folder)
    clock.now += 0.2 * SILENCE
    return watch.is_free(folder)


SILENCE = claims.HEARTBEAT_SECONDS * claims.SILENT_BEATS


def test_an_owner_on_another_machine_lives_while_its_counter_moves(tmp_path, monkeypatch):
    process, folder = holder(tmp_path, "stranger", "lockless")
    clock = as_seen_from_another_machine(monkeypatch, locks=False)
    watch = Watch()
    for _ in range(4):
        assert not watch.is_free(folder) and try_lock(folder) is None
        seen = (folder / "claim-1.json").read_text()
        wait_until(lambda seen=seen: (folder / "claim-1.json").read_text() != seen)
        clock.now += 2 * SILENCE
    process.kill()
    process.communicate()
    assert is_free_after_silence(watch, folder, clock)
    with try_lock(folder) as claim:
        assert claim.number == 3  # the observer's word that 1 is dead is 2


def test_a_jump_of_the_clock_takes_no_run_from_anybody(tmp_path, monkeypatch):
    process, folder = holder(tmp_path, "stranger", "lockless")
    clock = as_seen_from_another_machine(monkeypatch, locks=False)
    watch, real = Watch(), time.time
    for jump in (-3600, 86_400):
        assert not watch.is_free(folder)
        monkeypatch.setattr(time, "time", lambda jump=jump: real() + jump)
        os.utime(folder / "claim-1.json", (real() + jump, real() + jump))
        clock.now += SILENCE / 4
        assert not watch.is_free(folder)
    process.kill()
    process.communicate()
    assert is_free_after_silence(Watch(), folder, clock)


def test_one_who_stood_still_and_was_taken_over_knows_it_and_writes_into_no_other_claim(tmp_path, monkeypatch):
    process, folder = holder(tmp_path, "stranger", "lockless")
    clock = as_seen_from_another_machine(monkeypatch, locks=False)
    os.kill(process.pid, signal.SIGSTOP)
    wait_until(lambda: psutil.Process(process.pid).status() == psutil.STATUS_STOPPED)
    with (folder / "claim-1.json").open("rb") as old:
        assert is_free_after_silence(Watch(), folder, clock)
        lock = try_lock(folder)
        seen = old.read()
        os.kill(process.pid, signal.SIGCONT)
        wait_until(lambda: (old.seek(0), old.read())[1] != seen)  # it goes on to beat in the file that it has open
    with lock as claim:
        mine = folder / f"claim-{claim.number}.json"
        assert json.loads(mine.read_text())["pid"] == os.getpid() and not claim.lost
        assert [path.name for path in folder.glob("claim-*")] == [mine.name]
    process.kill()
    process.communicate()


def test_a_run_whose_folder_was_removed_was_taken_over_by_nobody(tmp_path):
    lock = try_lock(tmp_path / "run")
    shutil.rmtree(tmp_path / "run")
    assert not lock.lost
    lock.release()


@pytest.mark.parametrize("status", ["failed", "interrupted", "diverged", "ok"])
def test_one_who_stood_still_and_was_taken_over_publishes_a_score_and_no_failure(tmp_path, monkeypatch, status):
    from lora_bench.training import run as running

    monkeypatch.setattr("fcntl.flock", no_locks)
    (job,) = jobs(tmp_path, 1)
    failure = {"status": status, "reason": "why", "scores": None}
    record = job.record if status == "ok" else job.record.model_copy(update=failure)

    def score(ready):
        descriptor = claims._put(job.folder.path, 2, b'{"free": true}\n')
        os.close(descriptor)
        return record

    # The job has no model and no data.
    monkeypatch.setattr(
        ToyJob, "spec", SimpleNamespace(training=SimpleNamespace(processes=1, arguments={})), raising=False
    )
    monkeypatch.setattr(running, "prepare", lambda job, facts, notify: job)
    monkeypatch.setattr(running, "train", lambda ready: None)
    monkeypatch.setattr(running, "score", score)
    found = running.run_job(job)
    if status == "ok":
        assert found == record == job.folder.record()
    else:
        assert found == claims.Elsewhere(job.run_id)
        assert job.folder.record() is None and job.folder.attempts() == 0
        # A process that waits takes the run again, and is not taken over this time.
        monkeypatch.setattr(running, "score", lambda ready: ready.record)
        assert running.run_job(job) == job.record == job.folder.record()


def test_a_lock_that_is_held_keeps_a_run_whatever_the_claim_says(tmp_path, monkeypatch):
    process, folder = holder(tmp_path, "stranger")
    clock = as_seen_from_another_machine(monkeypatch, locks=True)
    os.kill(process.pid, signal.SIGSTOP)
    watch = Watch()
    for _ in range(3):
        assert not watch.is_free(folder)
        clock.now += SILENCE
    process.kill()
    process.communicate()
    assert is_free_after_silence(watch, folder, clock)


def test_on_a_file_system_of_this_machine_an_owner_from_before_its_start_is_gone_at_once(tmp_path):
    process, folder = holder(tmp_path, "stranger")
    process.kill()
    process.communicate()
    with try_lock(folder) as claim:
        assert claim.number == 2


def claim_of(folder, **changes):
    """Put a claim of this process there, but for some facts of it; nobody has the lock."""
    owner = dataclasses.replace(claims.this_process(), **changes)
    folder.mkdir()
    (folder / "claim-1.json").write_bytes(claims._claim_of(owner))
    return owner


def test_a_disk_in_this_machine_says_nothing_of_the_owners_on_others(tmp_path, monkeypatch):
    """They reach it through a file server here: only their heartbeat tells, as it does of another container's."""
    clock = OwnClock(monkeypatch)
    monkeypatch.setattr(claims, "is_local", lambda folder: True)
    for number, owner in enumerate(({"host": "node7", "boot_id": "of node7"}, {"pid_namespace": "pid:[1]"})):
        folder = tmp_path / str(number)
        claim_of(folder, **owner)
        watch = Watch()
        assert try_lock(folder) is None
        assert is_free_after_silence(watch, folder, clock)
    claim_of(tmp_path / "before", boot_id="of an earlier start")
    with try_lock(tmp_path / "before") as claim:
        assert claim.number == 2


def test_where_the_system_says_nothing_of_an_owner_its_reaper_knows(tmp_path, monkeypatch):
    monkeypatch.setattr(claims, "is_local", lambda folder: False)
    owner = claim_of(tmp_path / "run", boot_id=None, pid_namespace=None, start_ticks=None, pid=4194305)
    assert try_lock(tmp_path / "run") is None
    assert try_lock(tmp_path / "run", reaped=owner.pid + 1) is None
    with try_lock(tmp_path / "run", reaped=owner.pid) as claim:
        assert claim.number == 2
    claim_of(tmp_path / "other", host="node7", boot_id=None, pid=4194305)
    assert try_lock(tmp_path / "other", reaped=4194305) is None


def lose(job, publish, **found):
    """What becomes of a job whose worker died, by a harness that has no other."""
    results = iter([[Lost(job, "signal SIGKILL", **found)]])
    return schedule([job], ToyExecutor(lambda jobs: (yield from next(results))), publish)


def test_the_record_of_a_worker_that_died_is_published_by_one_who_is_at_the_run(tmp_path):
    (job,) = jobs(tmp_path, 1)
    failed = job.record.model_copy(update={"status": "failed", "reason": "signal SIGKILL", "scores": None})

    def publish(lost):
        # Another harness looks in this moment: it cannot take the run, and so has no record that this one stands before.
        assert try_lock(job.folder.path) is None and not Watch().is_free(job.folder.path)
        return job.folder.publish(failed)

    assert lose(job, publish) == [failed] == [job.folder.record()]
    with try_lock(job.folder.path) as claim:
        assert claim.number == 2, "it was given back"


def test_the_record_of_one_who_took_the_run_over_stands_before_that_of_a_worker_that_died(tmp_path):
    (job,) = jobs(tmp_path, 1)
    job.folder.publish(job.record)
    assert lose(job, lambda lost: pytest.fail("nothing is to be published")) == [job.record]


def test_a_run_that_crashes_where_no_process_can_be_asked_for_is_not_done_for_ever(tmp_path, monkeypatch):
    monkeypatch.setattr(claims, "is_local", lambda folder: False)
    (job,) = jobs(tmp_path, 1)
    failed = job.record.model_copy(update={"status": "failed", "reason": "signal SIGSEGV", "scores": None})
    job.folder.path.parent.mkdir(exist_ok=True)
    owner = claim_of(job.folder.path, boot_id=None, pid_namespace=None, start_ticks=None, pid=4194305)
    assert lose(job, lambda lost: job.folder.publish(failed), pid=owner.pid) == [failed]


def test_without_proc_processes_are_told_by_psutil(monkeypatch):
    monkeypatch.setattr(processes, "_PROC", Path("/nowhere"))
    monkeypatch.setattr(sys, "platform", "darwin")
    here = processes.this_process()
    assert None not in dataclasses.astuple(here) and here == processes.this_process()
    other = subprocess.Popen([sys.executable, "-S", "-c", "input()"], stdin=subprocess.PIPE)
    found = dataclasses.replace(here, pid=other.pid, start_ticks=processes.start_ticks(other.pid))
    assert processes.is_alive(here) and processes.is_alive(found)
    # A minute before, the same number was another process's.
    assert processes.is_alive(dataclasses.replace(found, start_ticks=found.start_ticks - 6000)) is False
    other.kill()
    wait_until(lambda: processes.is_alive(found) is False)  # a zombie
    other.communicate()
    assert processes.is_alive(found) is False and processes.tag_is_gone(found.tag)
    assert not processes.tag_is_gone(here.tag)


def test_no_name_of_a_claim_is_removed_while_its_file_is_open(tmp_path, monkeypatch):
    """Windows refuses it; here the open files are looked up."""
    unlink = Path.unlink

    def refuse(path, missing_ok=False):
        names = [str(file.readlink()) for file in Path("/proc/self/fd").iterdir() if file.is_symlink()]
        assert str(path) not in names, f"{path.name} is removed and open"
        unlink(path, missing_ok)

    monkeypatch.setattr(Path, "unlink", refuse)
    for number in (1, 2):
        with try_lock(tmp_path) as claim:
            assert claim.number == number and json.loads((tmp_path / f"claim-{number}.json").read_text())["beats"] == 0
            assert (tmp_path / f"claim-{number}.json").stat().st_mode & 0o777 == 0o644


@pytest.mark.parametrize("content", [b"", b"{", b'{"pid": "x"}', b"\x00" * 250])
def test_half_a_claim_is_waited_for_as_one_that_does_not_move(tmp_path, monkeypatch, content):
    clock = OwnClock(monkeypatch)
    (tmp_path / "claim-4.json").write_bytes(content)
    assert try_lock(tmp_path) is None
    assert is_free_after_silence(Watch(), tmp_path, clock)
    with try_lock(tmp_path) as claim:
        assert claim.number == 6


def test_a_slow_process_cannot_take_a_number_below_one_that_counts(tmp_path):
    """It looked, was stopped, and goes on when the run was taken, done and given back several times."""
    for _ in range(3):
        with try_lock(tmp_path):
            pass
    assert claims._put(tmp_path, 2, claims._claim_of(claims.this_process())) is None
    assert [path.name for path in tmp_path.glob("claim-*")] == ["claim-3.json"]


def test_a_retry_of_what_another_process_did_again_puts_nothing_aside(tmp_path):
    (job,) = jobs(tmp_path, 1)
    failed = job.record.model_copy(update={"status": "failed", "reason": "why", "scores": None})
    folder = RunFolder(tmp_path / job.run_id)
    folder.publish(failed)
    folder.retry(failed)
    fresh = folder.publish(job.record)
    folder.retry(failed)
    assert folder.record() == fresh and folder.attempts() == 1
    with try_lock(folder.path):
        folder.retry(fresh)
    assert folder.record() == fresh
