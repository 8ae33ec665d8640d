"""Worker processes as their executor sees them: real forks, whose work is a toy."""

import importlib
import os
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

import pytest

from lora_bench.execute.executors.executor import patience_with
from lora_bench.training.attempt import Apart

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="workers are forked")

if sys.platform != "win32":
    from lora_bench.execute.executors import fork_server as server
    from lora_bench.execute.executors import local
    from tests.faults.forge import ForkedServer


@dataclass(frozen=True)
class Toy:
    """A job that is done when a file is there, and says then in which place it was done."""

    run_id: str
    until: Path
    status: str = "ok"
    steps: int | None = None
    alone_because: str | None = None


@dataclass(frozen=True)
class Said:
    """The record of a toy."""

    run_id: str
    status: str
    place: str


def _do(job, connection):
    while not job.until.exists():
        time.sleep(0.01)
    return Said(job.run_id, job.status, os.environ["PLACE"])


def test_a_worker_keeps_its_place_in_whatever_order_workers_report(tmp_path, monkeypatch):
    importlib.import_module("lora_bench.training.callbacks")  # before the forks, lest each imports it for itself
    work = server._work

    def late(*given):
        while os.environ["PLACE"] == "0" and not (tmp_path / "failed").exists():
            time.sleep(0.01)
        work(*given)

    monkeypatch.setattr(server, "import_everything", lambda: None)
    monkeypatch.setattr(server, "_work", late)
    monkeypatch.setattr(server, "_do", _do)
    monkeypatch.setattr(local, "subprocess", SimpleNamespace(Popen=ForkedServer, PIPE=-1))
    jobs = [Toy("first", tmp_path, "failed"), Toy("second", tmp_path / "end"), Toy("third", tmp_path)]
    pool = local.LocalWorkers(2, tmp_path / "workers.log", [{"PLACE": "0"}, {"PLACE": "1"}])
    said = {}
    pool.submit([[job] for job in jobs])
    for record in pool.results(lambda event: None):
        said[record.run_id] = record.place
        # The worker that was forked first reports when the run of the other has failed, which is to be replaced.
        (tmp_path / "failed").touch()
        if len(said) == 2:
            (tmp_path / "end").touch()
    assert said["first"] == "1" and sorted((said["second"], said["third"])) == ["0", "1"]


def test_of_a_pack_that_a_worker_dies_of_those_at_work_are_done_alone_and_those_that_wait_together(
    tmp_path, monkeypatch
):
    from lora_bench.training.job import Event, Note

    importlib.import_module("lora_bench.training.callbacks")
    units, because, notes = tmp_path / "units", tmp_path / "because", []

    def note(jobs):
        with units.open("a") as file:
            file.write(" ".join(job.run_id for job in jobs) + "\n")

    def alone(job, connection):
        note([job])
        because.write_text(str(job.alone_because))
        return Said(job.run_id, job.status, os.environ["PLACE"])

    def together(jobs, connection):
        note(jobs)
        if len(jobs) == 5:
            connection.send(Said(jobs[0].run_id, "ok", os.environ["PLACE"]))
            for job in jobs[1:3]:
                connection.send(Event(job.run_id, 0, None))
            os._exit(1)
        for job in jobs:
            connection.send(Said(job.run_id, "ok", os.environ["PLACE"]))

    monkeypatch.setattr(server, "import_everything", lambda: None)
    monkeypatch.setattr(server, "_do", alone)
    monkeypatch.setattr(server, "_do_together", together)
    monkeypatch.setattr(local, "subprocess", SimpleNamespace(Popen=ForkedServer, PIPE=-1))
    jobs = [Toy(name, tmp_path) for name in ("done", "first", "second", "third", "fourth")]
    pool = local.LocalWorkers(1, tmp_path / "workers.log", [{"PLACE": "0"}])
    pool.submit([jobs])
    found = [record.run_id for record in pool.results(notes.append)]
    failed = "a pack failed, so its runs are done one by one: its worker ended with exit code 1"
    assert [word for word in notes if isinstance(word, Note)] == [Note("first", failed)]
    assert because.read_text() == failed
    assert found == ["done", "first", "second", "third", "fourth"]
    assert units.read_text().splitlines() == ["done first second third fourth", "first", "second", "third fourth"]


def test_why_a_pack_failed_is_said_by_its_worker(tmp_path, monkeypatch):
    from lora_bench.execute.executors.executor import PackFailed
    from lora_bench.training.job import Event, Note

    importlib.import_module("lora_bench.training.callbacks")
    together, because, notes = importlib.import_module("lora_bench.pack.train"), tmp_path / "because", []

    def fails(jobs, tell):
        for job in jobs:
            tell(Event(job.run_id, 0, None))
        tell(Note(jobs[0].run_id, "the members are unlike"))
        raise Apart("RuntimeError: no rule for this")
        yield

    def alone(job, connection):
        with because.open("a") as file:
            file.write(f"{job.alone_because}\n")
        return Said(job.run_id, job.status, "")

    monkeypatch.setattr(server, "import_everything", lambda: None)
    monkeypatch.setattr(server, "_do", alone)
    monkeypatch.setattr(together, "take_together", fails)
    monkeypatch.setattr(local, "subprocess", SimpleNamespace(Popen=ForkedServer, PIPE=-1))
    pool = local.LocalWorkers(1, tmp_path / "workers.log", [{"PLACE": "0"}])
    pool.submit([[Toy("first", tmp_path), Toy("second", tmp_path)]])
    assert [record.run_id for record in pool.results(notes.append)] == ["first", "second"]
    failed = "a pack failed, so its runs are done one by one: RuntimeError: no rule for this"
    said = [word for word in notes if isinstance(word, Note)]
    assert said == [Note("first", "the members are unlike"), PackFailed("first", failed)]
    assert because.read_text().splitlines() == [failed] * 2


def test_a_process_that_the_kernel_ended_explains_no_later_end(tmp_path, monkeypatch):
    read, write = os.pipe()
    pool = local.LocalWorkers(1, tmp_path / "workers.log")
    pool._kills, pool._server = 4, SimpleNamespace(stdout=SimpleNamespace(fileno=lambda: read))
    short = []
    for kills, said in (
        (5, b"ended 11 9\n"),
        (5, b"ended 12 9\n"),
        (7, b"started 13\n"),
        (7, b"ended 14 9\nended 15 9\n"),
    ):
        monkeypatch.setattr(local, "memory_kills", lambda kills=kills: kills)
        os.write(write, said)
        short += ["of its control group ran out" in reason for reason in pool._ended(lambda word: None).values()]
    os.close(read)
    os.close(write)
    assert short == [True, False, True, True]


@pytest.mark.parametrize(
    ("each", "together"),
    [
        ([60.0], 60.0),
        ([None], None),
        ([60.0, None], None),
        # Steps of three take thrice the time of one's.
        ([60.0] * 3, 180.0),
        # But 64 with half an hour each do not have a day and a half, and a longer run keeps its own time.
        ([1800.0] * 64, 1800.0),
        ([60.0] * 64, 1800.0),
        ([1800.0, 7200.0], 7200.0),
    ],
)
def test_a_pack_is_silent_no_longer_than_its_members_and_half_an_hour(each, together):
    assert patience_with(each) == together


def test_what_a_worker_dies_of_is_told_without_secrets(monkeypatch, capfd):
    def fail(*given):
        raise OSError("cannot read https://me:open-sesame@example.org/data.csv")

    monkeypatch.setattr(server, "_work", fail)
    pid = server._fork("nowhere", {}, os.pipe())
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 1
    said = capfd.readouterr().err
    assert "OSError: cannot read https://***@example.org/data.csv" in said and "open-sesame" not in said
