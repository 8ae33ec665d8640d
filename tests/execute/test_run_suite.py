"""From a suite to its records, by real processes that are really killed."""

import dataclasses
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from lora_bench.errors import LoraBenchError
from lora_bench.execute.run_suite import Silent, run_suite
from lora_bench.plan.make_plan import make_plan
from lora_bench.records.store import read_records, record_files
from lora_bench.suite.load_suite import load_suite
from lora_bench.training.run import run_job
from lora_bench.util.process_identity import start_ticks, this_process
from tests.cards import pretend
from tests.project import SUITE, write_project

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="workers are forked")

LONG = SUITE.replace("train_examples: 48", "train_examples: 6_400").replace(
    "[full, lora, bottleneck_adapter, prefix_tuning]", "[lora, bottleneck_adapter]"
)


@pytest.fixture(autouse=True)
def _own_place(tmp_path, monkeypatch):
    monkeypatch.setenv("LORA_BENCH_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")


def start(project: Path, *options: str) -> subprocess.Popen:
    command = [sys.executable, "-m", "lora_bench.cli", "run", "tickets.yaml", *options]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    return subprocess.Popen(
        command, cwd=project, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )


def children(pid: int) -> list[int]:
    """Every process that descends from *pid*, itself left out."""
    tree: dict[int, list[int]] = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rsplit(")", 1)[1].split()
        except OSError:
            continue
        tree.setdefault(int(fields[1]), []).append(int(stat.parent.name))
    found, todo = [], [pid]
    while todo:
        todo += (more := tree.get(todo.pop(), []))
        found += more
    return found


def wait_until(fact, seconds=600.0):
    end = time.monotonic() + seconds
    while not (value := fact()):
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.05)
    return value


def begun(project: Path, count: int) -> bool:
    """Whether so many runs have been begun by workers."""
    return len(list((project / "runs" / "tickets").glob("*/claim-*.json"))) >= count


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


def scores(project: Path) -> dict[str, dict]:
    return {
        record.run_id: {**record.scores, "predictions": record.predictions.sha256}
        for record in read_records(project / "runs" / "tickets")
    }


def test_workers_do_what_one_process_does(tmp_path):
    path = write_project(tmp_path)
    inline = run_suite(path, runs=tmp_path / "inline", workers=0)
    forked = run_suite(path, runs=tmp_path / "forked", workers=2)
    assert len(inline.records) == len(forked.records) == 4
    for one, other in zip(inline.records, forked.records, strict=True):
        assert one.status == other.status == "ok"
        assert (one.run_id, one.scores, one.curve) == (other.run_id, other.scores, other.curve)
        assert one.speed.exclusive and not other.speed.exclusive


def test_the_same_command_again_trains_nothing(tmp_path):
    path = write_project(tmp_path)
    first = run_suite(path, runs=tmp_path / "runs", workers=0)
    before = {file: file.stat().st_mtime_ns for file in record_files(tmp_path / "runs" / "tickets")}
    again = run_suite(path, runs=tmp_path / "runs", workers=0)
    assert again.done == 0 and again.records == first.records
    assert {file: file.stat().st_mtime_ns for file in record_files(tmp_path / "runs" / "tickets")} == before


def test_only_the_named_runs_are_done(tmp_path):
    path = write_project(tmp_path)
    everything = run_suite(path, runs=tmp_path / "all", workers=0)
    wanted = everything.records[2].run_id
    assert [record.run_id for record in run_suite(path, runs=tmp_path / "one", workers=0, only=[wanted]).records] == [
        wanted
    ]


def test_a_series_has_runs_and_seeds_of_its_own(tmp_path):
    path = write_project(tmp_path, SUITE.replace("[full, lora, bottleneck_adapter, prefix_tuning]", "[lora]"))
    plain = run_suite(path, runs=tmp_path / "runs", workers=0).records[0]
    series = run_suite(path, runs=tmp_path / "runs", workers=0, series="monday").records[0]
    assert series.run_id != plain.run_id and series.curve != plain.curve
    assert (tmp_path / "runs" / "tickets" / "monday" / series.run_id / "record.json").is_file()


@pytest.mark.slow
def test_killed_at_any_moment_the_same_command_completes(tmp_path):
    """SIGKILL to the parent and to workers, again and again; the answer equals that of a run nobody disturbed."""
    whole = tmp_path / "whole"
    write_project(whole, LONG)
    assert start(whole, "--workers", "2").wait(timeout=600) == 0

    project = tmp_path / "killed"
    write_project(project, LONG)
    kept: dict[Path, bytes] = {}
    for round_number in range(4):
        process = start(project, "--workers", "2")
        wait_until(lambda process=process: len(children(process.pid)) >= 3 or process.poll() is not None)
        time.sleep(0.4 * round_number)
        family = children(process.pid)
        process.kill()
        process.wait()
        wait_until(lambda family=family: not any(map(alive, family)))  # no orphan goes on
        for file, content in kept.items():
            assert file.read_bytes() == content
        kept = {file: file.read_bytes() for file in record_files(project / "runs" / "tickets")}
    assert start(project, "--workers", "2").wait(timeout=600) == 0
    assert scores(project) == scores(whole)


@pytest.mark.slow
def test_a_worker_that_is_killed_costs_its_run_alone(tmp_path):
    write_project(tmp_path, LONG.replace("6_400", "3_200"))
    process = start(tmp_path, "--workers", "1")

    wait_until(lambda: begun(tmp_path, 1))
    # The fork server is a child, the worker its child.
    (worker,) = wait_until(lambda: [pid for child in children(process.pid) for pid in children(child)])
    os.kill(worker, signal.SIGKILL)
    output, _ = process.communicate(timeout=600)
    assert process.returncode == 3, output
    records = {record.status: record for record in read_records(tmp_path / "runs" / "tickets")}
    assert set(records) == {"ok", "failed"}
    assert "SIGKILL" in records["failed"].reason
    assert "SIGKILL" in (tmp_path / "runs" / "tickets" / "report.md").read_text()
    again = start(tmp_path, "--retry", "--workers", "1")
    assert again.wait(timeout=600) == 0
    assert {record.status for record in read_records(tmp_path / "runs" / "tickets")} == {"ok"}


@pytest.mark.slow
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_leaves_a_checkpoint_and_no_process(tmp_path, number, code):
    write_project(tmp_path, LONG)
    process = start(tmp_path, "--workers", "2")
    wait_until(lambda: begun(tmp_path, 2))
    family = children(process.pid)
    process.send_signal(number)
    output, _ = process.communicate(timeout=600)
    assert process.returncode == code, output
    assert "run the same command again to continue" in output and "Traceback" not in output
    assert not any(map(alive, family))
    runs = tmp_path / "runs" / "tickets"
    attempts = [json.loads(file.read_text()) for file in runs.glob("*/attempts/*.json")]
    assert {attempt["status"] for attempt in attempts} <= {"interrupted"}
    assert all(f"stopped by {number.name}" in attempt["reason"] for attempt in attempts)
    assert start(tmp_path, "--workers", "2").wait(timeout=600) == 0
    assert {record.status for record in read_records(runs)} == {"ok"}
    assert any(record.resumed for record in read_records(runs)) == bool(attempts)


def test_a_method_that_cannot_meet_the_budget_is_a_record_with_its_reason(tmp_path):
    suite = SUITE.replace("48}", "48, adapter_parameters: 1_280, tolerance: 0.01}")
    outcome = run_suite(write_project(tmp_path, suite), runs=tmp_path / "runs", workers=0)
    found = {record.spec.method.label: (record.status, record.reason) for record in outcome.records}
    assert found["lora"] == ("ok", None)
    assert found["bottleneck_adapter"][0] == "unsupported"
    assert "the nearest is size 4 with 1,168" in found["bottleneck_adapter"][1]


@pytest.mark.slow
def test_two_processes_on_one_folder_do_each_run_once(tmp_path):
    write_project(tmp_path, LONG.replace("6_400", "1_600"))
    both = [start(tmp_path, "--workers", "1") for _ in range(2)]
    for process in both:
        output, _ = process.communicate(timeout=600)
        assert process.returncode == 0, output
    records = read_records(tmp_path / "runs" / "tickets")
    assert [record.status for record in records] == ["ok", "ok"] and not any(record.attempts > 1 for record in records)


@pytest.mark.slow
def test_when_the_server_dies_no_run_is_called_failed(tmp_path):
    write_project(tmp_path, LONG)
    process = start(tmp_path, "--workers", "2")
    wait_until(lambda: begun(tmp_path, 2))
    family = children(process.pid)
    (server,) = [pid for pid in family if any(children(pid))]
    os.kill(server, signal.SIGKILL)
    output, _ = process.communicate(timeout=600)
    assert process.returncode == 3 and "Traceback" not in output, output
    wait_until(lambda: not any(map(alive, family)))
    assert not record_files(tmp_path / "runs" / "tickets")
    assert start(tmp_path, "--workers", "2").wait(timeout=600) == 0


def test_a_record_of_what_could_not_run_does_not_stand_in_the_way(tmp_path):
    tight = SUITE.replace("48}", "48, adapter_parameters: 1_280, tolerance: 0.01}")
    path = write_project(tmp_path, tight)
    first = run_suite(path, runs=tmp_path / "runs", workers=0)
    assert [record.status for record in first.records].count("unsupported") == 1
    path.write_text(SUITE)
    second = run_suite(path, runs=tmp_path / "runs", workers=0)
    assert [record.status for record in second.records] == ["ok"] * 4


def test_a_mistake_beside_retry_costs_no_record(tmp_path, monkeypatch):
    path = write_project(tmp_path)
    plan = make_plan(load_suite(path), tmp_path / "runs" / "tickets")
    failed = {cell.job.spec.method.label: cell.job for cell in plan.cells}["lora"]
    with monkeypatch.context() as broken:
        broken.setattr("lora_bench.methods.lora.Lora.apply", lambda *_, **__: 1 / 0)
        assert run_job(failed).status == "failed"
    before = failed.folder.record()
    with pytest.raises(LoraBenchError, match="has no run 'typo'"):
        run_suite(path, runs=tmp_path / "runs", workers=0, retry=True, only=[failed.spec.run_id, "typo"])
    assert failed.folder.record() == before
    outcome = run_suite(path, runs=tmp_path / "runs", workers=0, retry=True, only=[failed.spec.run_id])
    assert [record.status for record in outcome.records] == ["ok"]
    assert not (failed.folder.path / "traceback.txt").exists()


def test_a_refusal_beside_retry_costs_no_record(tmp_path, monkeypatch):
    path = write_project(tmp_path, SUITE + "training: {processes: 2}\n")
    plan = make_plan(load_suite(path), tmp_path / "runs" / "tickets")
    (first, *_) = (cell.job for cell in plan.cells)
    failed = first.folder.publish(first.record("failed", "nobody knows why"))
    pretend(monkeypatch, tmp_path, 4)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3")
    with pytest.raises(LoraBenchError, match="over 2 processes needs as many CUDA devices, and there is 1; give this"):
        run_suite(path, runs=tmp_path / "runs", workers=1, retry=True)
    assert [path.parent.name for path in (tmp_path / "runs").rglob("record.json")] == [first.run_id]
    assert first.folder.record() == failed


@pytest.mark.parametrize("series", ["../out", "", "a/b", "a b", "nul.1", "night."])
def test_a_series_cannot_leave_its_folder(tmp_path, series):
    path = write_project(tmp_path / "project")
    with pytest.raises(LoraBenchError, match="--series needs the name of a folder"):
        run_suite(path, runs=tmp_path / "runs", workers=0, series=series)
    assert not (tmp_path / "runs").exists()


def test_where_runs_are_done_in_this_process_none_can_be_ended(tmp_path, monkeypatch):
    path = write_project(tmp_path / "project")
    monkeypatch.setattr(sys, "platform", "win32")
    with pytest.raises(LoraBenchError, match="leave it out on Windows"):
        run_suite(path, runs=tmp_path / "runs", timeout=60)
    assert not (tmp_path / "runs").exists()


def claim_of(folder, pid):
    """A claim as the process of this number would have it, which is none of ours."""
    claim = dataclasses.asdict(dataclasses.replace(this_process(), pid=pid, start_ticks=start_ticks(pid)))
    folder.mkdir(parents=True)
    (folder / "claim-1.json").write_text(json.dumps(claim))


@pytest.mark.parametrize("meets", ["nobody", "a live process", "one that comes while it trains"])
def test_a_run_beside_another_harness_of_this_machine_is_not_exclusive(tmp_path, meets):
    path = write_project(tmp_path, SUITE.replace("[full, lora, bottleneck_adapter, prefix_tuning]", "[lora]"))
    (cell,) = make_plan(load_suite(path), tmp_path / "runs" / "tickets").cells
    other = tmp_path / "runs" / "tickets" / "another"
    if meets == "a live process":
        claim_of(other, os.getppid())
    elif meets == "nobody":
        with subprocess.Popen(["true"]) as ended:
            claim_of(other, ended.pid)
    record = run_job(
        cell.job, lambda step, *_: claim_of(other, os.getppid()) if step == 3 and meets[0] == "o" else None
    )
    assert record.speed.exclusive == record.memory.exclusive == (meets == "nobody")
    assert record.status == "ok" and record.warnings == ()


def test_runs_that_a_clock_ends_are_not_begun_beside_another_harness(tmp_path):
    suite = SUITE.replace("train_examples: 48", "train_examples: 48, caps: {train_seconds: 60}")
    path = write_project(tmp_path, suite.replace("[full, lora, bottleneck_adapter, prefix_tuning]", "[lora]"))
    other = tmp_path / "runs" / "tickets" / "another"
    claim_of(other, os.getppid())
    with pytest.raises(
        LoraBenchError, match=f"wait for process {os.getppid()}, which does runs in .* would use up their time"
    ):
        run_suite(path, runs=tmp_path / "runs", workers=0)
    (cell,) = make_plan(load_suite(path), tmp_path / "runs" / "tickets").cells
    # One that came later, or at the same moment, is told in the record.
    assert run_job(cell.job).warnings == ("another process ran on this machine and used up some of its train_seconds",)


@pytest.mark.slow
def test_a_reader_who_has_seen_enough_does_not_stop_the_work(tmp_path):
    write_project(tmp_path)
    process = start(tmp_path, "--workers", "0")
    process.stdout.readline()
    process.stdout.close()  # its standard error too goes to this pipe
    assert process.wait(timeout=600) == 0
    assert len(read_records(tmp_path / "runs" / "tickets")) == 4


def test_a_run_suite_that_is_out_of_time_keeps_what_is_done_and_the_same_suite_goes_on(tmp_path):
    suite = write_project(tmp_path / "project")
    stopped = run_suite(suite, runs=tmp_path / "runs", workers=0, minutes=1e-9)
    assert stopped.interrupted == "out_of_time" and len(stopped.records) < 4
    whole = run_suite(suite, runs=tmp_path / "runs", workers=0, minutes=60)
    assert whole.interrupted is None and [record.status for record in whole.records] == ["ok"] * 4


def test_where_time_may_end_the_work_every_method_has_a_run_of_a_seed_before_the_next(tmp_path):
    suite = write_project(tmp_path / "project", SUITE.replace("seeds: [0]", "seeds: [0, 1]"))
    ended = []

    class Ended(Silent):
        def finished(self, record):
            ended.append(record.spec.seed)

    run_suite(suite, runs=tmp_path / "runs", workers=0, pack=False, minutes=60, display=Ended())
    assert ended == [0] * 4 + [1] * 4
