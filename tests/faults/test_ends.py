"""However a run ends, it is a row with its reason, the other runs are done, and the same command knows what to do about it."""

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from lora_bench.records.outcomes import cause, is_attempt, is_disk_full, is_done_again, is_out_of_memory
from lora_bench.records.store import read_records
from lora_bench.training.attempt import Facts
from lora_bench.util.processes import memory_kills
from tests.faults.store import content_of, half_written
from tests.project import SUITE, write_project
from tests.sample_records import record

ROOT = Path(__file__).parents[2]
ONE = ("run", "tickets.yaml", "--workers", "1")
GOES_ON = "run the same command again to continue"
FULL = "the disk is full; make room, then run the same command again to continue"


def found(project: Path) -> dict[str, str]:
    """Status of each method's run."""
    return {one.spec.method.label: one.status for one in read_records(project / "runs" / "tickets")}


def ended_badly(project: Path):
    """The one record that is not `ok`."""
    (one,) = [one for one in read_records(project / "runs" / "tickets") if one.status != "ok"]
    return one


def attempts(project: Path) -> list[dict]:
    return [json.loads(path.read_bytes()) for path in sorted(project.glob("runs/tickets/*/attempts/*.json"))]


def completes(forge, project, undisturbed, *options: str) -> None:
    """The same command, with these options, comes to what an undisturbed one leaves."""
    command = forge.start(project, *ONE, *options)
    assert command.wait() == 0, command.output
    assert content_of(project) == undisturbed
    assert not half_written(project) and not forge.left_behind()


# No progress.


@pytest.mark.slow
def test_a_run_without_progress_is_ended_with_all_that_it_started(forge, project, undisturbed):
    command = forge.start(
        project,
        *ONE,
        "--timeout",
        "15",
        failpoint="run.step:hang@2",
        once=True,
        hook="tests.faults.hooks:stubborn_and_impatient",
    )
    assert command.wait() == 3, command.output
    # What the run had started is gone too, and so is what the other runs of LoRA started.
    assert not forge.left_behind()
    late = ended_badly(project)
    assert late.status == "timeout" and late.reason == "no progress for 15 s; workers.log has its stack"
    assert sorted(found(project).values()) == ["ok", "timeout"]
    log = (project / "runs" / "tickets" / "workers.log").read_text()
    assert f"no progress for 15 s in {late.run_id}" in log
    # The stack says where: in the failpoint, in a callback of ours, in the Trainer's loop.
    stack = log[log.index(late.run_id) :]
    assert "in _hang" in stack and "in on_step_begin" in stack and "in train" in stack

    command = forge.start(project, *ONE)
    assert command.wait() == 3 and ended_badly(project) == late
    completes(forge, project, undisturbed, "--retry")
    again = next(one for one in read_records(project / "runs" / "tickets") if one.run_id == late.run_id)
    assert again.resumed and again.attempts == 2


PACK = (
    SUITE.replace(
        "[full, lora, bottleneck_adapter, prefix_tuning]",
        "[{method: lora, label: still, learning_rate: 1e-2}, {method: lora, learning_rate: 1e-3}]",
    )
    + "training: {masks: keyed}\n"
)


@pytest.mark.slow
def test_a_pack_without_progress_costs_the_member_that_stands_still_alone(forge, tmp_path):
    """Told to end, both leave a checkpoint in time; then each is done by itself, and one of the two stands still again."""
    project = tmp_path / "project"
    write_project(project, PACK)
    command = forge.start(
        project, *ONE, "--timeout", "15", hook="tests.faults.hooks:stands_still_until_told_to_end"
    )  # fmt: skip
    assert command.wait() == 3, command.output
    log = (project / "runs" / "tickets" / "workers.log").read_text()
    # The two of the pack were given the time of two.
    assert [line.partition(" s in ")[0] for line in log.splitlines() if line.startswith("no progress")] == [
        "no progress for 30", "no progress for 15",
    ]  # fmt: skip
    assert found(project) == {"still": "timeout", "lora": "ok"}
    late = ended_badly(project)
    assert late.reason == "no progress for 15 s; workers.log has its stack"
    (done,) = [one for one in read_records(project / "runs" / "tickets") if one.status == "ok"]
    # Its checkpoint is of steps in company.
    assert done.resumed and done.packed_with == (late.run_id,) and done.attempts == 2
    assert not forge.left_behind()


@pytest.mark.slow
def test_a_slow_evaluation_is_no_hang(forge, project, undisturbed):
    """Each of its parts is a sign of life: with five pauses of 6 s a run is ended neither after 20 s nor at all."""
    command = forge.start(project, *ONE, "--timeout", "20", failpoint="run.forward:sleep:6")
    assert command.wait() == 0, command.output
    assert content_of(project) == undisturbed


def test_a_timeout_needs_a_process_to_end(forge, project):
    command = forge.start(project, "run", "tickets.yaml", "--workers", "0", "--timeout", "60")
    assert command.wait() == 2 and "--timeout needs worker processes; use --workers 1 or more" in command.output
    assert not (project / "runs").exists()


# A process that dies.


@pytest.mark.slow
def test_a_run_that_crashes_is_a_row_and_is_done_again_only_when_asked(forge, project, undisturbed):
    command = forge.start(project, *ONE, failpoint="run.step:abort@2", once=True)
    assert command.wait() == 3, command.output
    assert "Traceback" not in command.output and not forge.left_behind()
    crashed = ended_badly(project)
    assert crashed.status == "failed" and crashed.reason == "signal SIGABRT: it ended the worker"
    assert sorted(found(project).values()) == ["failed", "ok"]
    assert "SIGABRT" in (project / "runs" / "tickets" / "report.md").read_text()

    command = forge.start(project, *ONE)
    assert command.wait() == 3 and ended_badly(project) == crashed
    completes(forge, project, undisturbed, "--retry")


@pytest.mark.slow
def test_a_run_whose_process_was_killed_goes_on_with_the_same_command(forge, project, undisturbed):
    command = forge.start(project, *ONE, failpoint="run.step:kill@3", once=True)
    assert command.wait() == 3, command.output
    killed = ended_badly(project)
    assert killed.status == "failed" and killed.reason.startswith("signal SIGKILL: ")
    completes(forge, project, undisturbed)
    again = next(one for one in read_records(project / "runs" / "tickets") if one.run_id == killed.run_id)
    assert again.resumed and again.attempts == 2
    assert "1 run went on from a checkpoint after a stop" in (project / "runs" / "tickets" / "report.md").read_text()


@pytest.mark.slow
def test_a_worker_that_is_told_to_stop_alone_leaves_its_run_for_later(forge, project, undisturbed):
    command = forge.start(project, *ONE, failpoint="run.step:term@2", once=True)
    assert command.wait() == 3, command.output
    assert "1 run is not done; run the same command again to continue with them" in command.output
    assert [one["status"] for one in attempts(project)] == ["interrupted"] and list(found(project).values()) == ["ok"]
    completes(forge, project, undisturbed)


def test_a_cause_says_what_the_kernel_tells():
    assert cause(-6) == "signal SIGABRT: it ended the worker"
    assert cause(-11) == "signal SIGSEGV: it ended the worker"
    assert cause(-9) == "signal SIGKILL: it ended the worker (the kernel ends processes so when memory runs out)"
    assert "because the memory of its control group ran out" in cause(-9, out_of_memory=True)
    assert cause(3) == "its worker ended with exit code 3"


@pytest.mark.parametrize(
    ("membership", "file", "content"),
    [
        ("0::/jobs/one\n", "jobs/one/memory.events", "low 0\nmax 12\noom 3\noom_kill 2\n"),
        # In a container its own group is often the root of what is mounted.
        ("0::/system/container\n", "memory.events", "oom 3\noom_kill 2\n"),
        ("5:cpu,cpuacct:/x\n4:memory:/job\n", "memory/job/memory.oom_control", "oom_kill_disable 0\noom_kill 2\n"),
    ],
)
def test_the_kernel_s_count_of_processes_that_it_ended_is_read(tmp_path, membership, file, content):
    (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / file).write_text(content)
    assert memory_kills(membership, tmp_path) == 2
    assert memory_kills("0::/elsewhere\n", tmp_path / "nothing") is None


# Memory.


@pytest.mark.parametrize(
    ("number", "phase"),
    [
        pytest.param(1, "the first step", marks=pytest.mark.slow),
        (2, "step 2"),
        pytest.param(4, "the evaluation", marks=pytest.mark.slow),
    ],
)
def test_a_run_without_memory_says_where_and_with_what_batch(forge, project, undisturbed, number, phase):
    """Three steps of 16 examples, then the test examples in one batch."""
    command = forge.start(project, *ONE, failpoint=f"run.forward:out_of_memory@{number}", once=True)
    assert command.wait() == 3, command.output
    short = ended_badly(project)
    assert short.status == "out_of_memory"
    rows = 16 if number < 4 else short.data.examples["test"]
    assert short.reason.startswith(f"in {phase}, on a batch of {rows} rows of ")
    assert "Tried to allocate 20.00 MiB" in short.reason
    assert sorted(found(project).values()) == ["ok", "out_of_memory"]
    # Nothing was made smaller: the spec, which has the batch, is that of the undisturbed run.
    assert short.spec.training.batch_size == 16
    assert short.run_id in undisturbed
    completes(forge, project, undisturbed, "--retry")


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (MemoryError(), True),
        (
            RuntimeError("[enforce fail at alloc_cpu.cpp:131] DefaultCPUAllocator: can't allocate memory: you tried"),
            True,
        ),
        (RuntimeError("CUDA error: out of memory"), True),
        (RuntimeError("mat1 and mat2 shapes cannot be multiplied"), False),
        (ValueError("can't allocate memory"), False),
    ],
)
def test_what_libraries_say_when_memory_runs_out(error, expected):
    assert is_out_of_memory(error) is expected


def test_where_a_run_is_before_it_has_seen_a_batch():
    facts = Facts()
    facts.enter("loading the base model")
    assert facts.place == "in loading the base model"
    with pytest.raises(MemoryError), facts.within("the evaluation on the selection split"):
        raise MemoryError
    assert facts.place == "in the evaluation on the selection split"


# Numbers.


def test_a_run_whose_loss_is_no_number_is_kept_as_diverged(forge, project, undisturbed):
    command = forge.start(project, *ONE, failpoint="run.loss:nan@2", once=True)
    assert command.wait() == 3, command.output
    diverged = ended_badly(project)
    assert (diverged.status, diverged.reason) == ("diverged", "the training loss is nan at step 2")

    def refuse(name):
        raise AssertionError(f"{name} is no JSON")

    for path in (project / "runs").rglob("*.json"):
        json.loads(path.read_bytes(), parse_constant=refuse)
    report = (project / "runs" / "tickets" / "report.md").read_text()
    assert "the training loss is nan at step 2" in report
    # It is what the method does with this seed, so no command does it again.
    command = forge.start(project, *ONE, "--retry")
    assert command.wait() == 3 and ended_badly(project) == diverged


# A full disk.


@pytest.mark.slow
def test_a_quota_that_is_used_up_ends_the_suite_and_room_completes_it(forge, project, undisturbed):
    command = forge.start(project, *ONE, hook="tests.faults.hooks:small_files_only")
    assert command.wait() == 3, command.output
    assert FULL in command.output and "Traceback" not in command.output
    # The first run that finds no room ends the suite: the second is not begun and does not fail.
    assert command.output.count("disk_full") == 1 and not found_files(project)
    assert not forge.left_behind()
    completes(forge, project, undisturbed)


def found_files(project: Path) -> list[Path]:
    return list(project.glob("runs/tickets/*/record.json"))


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 8 MiB."""
    folder = tmp_path / "small"
    folder.mkdir()
    options = ["-t", "tmpfs", "-o", "size=8m", "tmpfs"]
    mounted = (
        subprocess.run(["mount", *options, str(folder)], capture_output=True, text=True, check=False)
        if (shutil.which("mount"))
        else None
    )
    if mounted is None or mounted.returncode:
        pytest.skip(f"no file system can be mounted here: {mounted.stderr.strip() if mounted else 'there is no mount'}")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


@pytest.mark.slow
def test_a_disk_that_is_full_ends_the_suite_and_room_completes_it(forge, project, undisturbed, small_disk):
    (project / "runs").symlink_to(small_disk)
    filler = small_disk / "filler"
    with filler.open("wb", buffering=0) as file, contextlib.suppress(OSError):
        while True:
            file.write(b"\0" * 4096)
    os.truncate(filler, filler.stat().st_size - 20 * 4096)
    command = forge.start(project, *ONE)
    assert command.wait() == 3, command.output
    assert FULL in command.output and "Traceback" not in command.output
    filler.unlink()
    completes(forge, project, undisturbed)


def test_a_library_that_writes_by_itself_says_in_its_own_way_that_the_disk_is_full():
    class SafetensorError(Exception):
        """As safetensors raises it."""

    assert is_disk_full(SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)"))
    assert is_disk_full(OSError(122, "Disk quota exceeded"))
    try:
        try:
            raise OSError(28, "No space left on device")
        except OSError as error:
            raise RuntimeError("could not save") from error
    except RuntimeError as error:
        assert is_disk_full(error)
    assert not is_disk_full(OSError(13, "Permission denied"))
    assert not is_disk_full(ValueError("28"))


def test_what_the_same_command_does_with_a_record():
    stopped = record(status="interrupted", reason="stopped by SIGTERM after step 3", score=None)
    full = record(status="failed", reason="disk_full", score=None)
    killed = record(status="failed", reason=cause(-9), score=None)
    crashed = record(status="failed", reason=cause(-11), score=None)
    raised = record(status="failed", reason="ValueError: signal SIGKILL", score=None)
    assert [is_attempt(one) for one in (stopped, full, killed, crashed, raised)] == [True, True, False, False, False]
    assert [is_done_again(one) for one in (stopped, full, killed, crashed, raised)] == [
        False,
        False,
        True,
        False,
        False,
    ]


# Signals.


@pytest.mark.parametrize(
    ("failpoint", "signals", "workers"),
    [
        ("suite.report:hang", [signal.SIGTERM], "0"),
        ("run.step:hang@2", [signal.SIGINT, signal.SIGINT], "1"),
        *(
            pytest.param(*case, marks=pytest.mark.slow)
            for case in [
                ("suite.plan:hang", [signal.SIGINT], "1"),
                ("server.import:hang", [signal.SIGTERM], "1"),
                ("worker.begin:hang", [signal.SIGINT], "1"),
                ("run.load:hang", [signal.SIGTERM, signal.SIGTERM], "1"),
                ("run.evaluation:hang", [signal.SIGTERM, signal.SIGINT], "1"),
                ("run.evaluation:hang", [signal.SIGINT, signal.SIGTERM], "0"),
                ("write.link:hang", [signal.SIGTERM, signal.SIGTERM], "1"),
            ]
        ),
    ],
)
def test_a_signal_ends_whatever_goes_on(forge, project, undisturbed, failpoint, signals, workers):
    """One signal where nothing is at work; a second where something is, and does not end."""
    command = forge.start(project, *ONE[:-1], workers, failpoint=failpoint, once=True)
    command.wait_until_reached()
    for number in signals:
        command.send(number)
        if len(signals) > 1:
            forge.left_behind(0.5)  # both are heard, and the first does not end it
    code = command.wait()
    assert code == 128 + signals[-1 if len(signals) > 1 else 0], command.output
    assert GOES_ON in command.output and "Traceback" not in command.output
    assert not forge.left_behind()
    assert all(one["status"] == "interrupted" for one in attempts(project))
    again = forge.start(project, *ONE)
    assert again.wait() == 0, again.output
    assert content_of(project) == undisturbed and not half_written(project)


@pytest.mark.slow
def test_a_stop_in_the_evaluation_loses_no_step(forge, project, undisturbed):
    command = forge.start(
        project, *ONE, failpoint="run.evaluation:sleep:2", once=True, hook="tests.faults.hooks:few_checkpoints"
    )
    command.wait_until_reached()
    command.send(signal.SIGTERM)
    assert command.wait() == 143, command.output
    assert GOES_ON in command.output
    (attempt,) = attempts(project)
    assert attempt["reason"] == "stopped by SIGTERM in the evaluation; the same command resumes from there"
    # All three steps are kept: going on needs none.
    again = forge.start(project, *ONE, failpoint="run.step:abort", once=True, hook="tests.faults.hooks:few_checkpoints")
    assert again.wait() == 3, again.output
    done = {one.run_id: one for one in read_records(project / "runs" / "tickets")}[attempt["run_id"]]
    assert done.status == "ok" and done.resumed
    assert content_of(project)[attempt["run_id"]] == undisturbed[attempt["run_id"]]


# Plug-ins.


@pytest.mark.slow
def test_a_plug_in_that_cannot_be_imported_is_a_warning(forge, project, undisturbed):
    command = forge.start(project, *ONE, hook="tests.faults.hooks:broken_plug_in")
    assert command.wait() == 0, command.output
    said = "warning: the plug-in shiny (shiny.method) cannot be imported, so its methods are missing: ImportError"
    assert said in " ".join(command.output.split())
    assert content_of(project) == undisturbed


@pytest.mark.slow
@pytest.mark.parametrize("fault", ["import glitter", "raise SystemExit(3)", "1 / 0"])
def test_a_method_of_a_plug_in_that_cannot_be_imported_is_said_to_be_one(tmp_path, fault):
    (tmp_path / "shiny.py").write_text(f"{fault}\n")
    metadata = tmp_path / "shiny-1.0.dist-info"
    metadata.mkdir()
    metadata.joinpath("METADATA").write_text("Metadata-Version: 2.1\nName: shiny\nVersion: 1.0\n")
    metadata.joinpath("entry_points.txt").write_text("[lora_bench.methods]\nshiny = shiny\n")
    code = (
        "from lora_bench.methods import known_methods, unknown_method\n"
        "print(*known_methods())\n"
        "print(unknown_method('shiny'))\n"
    )
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code],
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path), str(ROOT)])},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    known, said = done.stdout.strip().split("\n")
    assert {"full", "lora", "bottleneck_adapter", "prefix_tuning"} <= set(known.split())
    assert said.startswith("unknown method 'shiny'") and "the plug-in shiny (shiny) cannot be imported: " in said
