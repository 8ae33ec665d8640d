"""`lora-bench work`: any number of workers on a prepared folder do each run once, and any may be killed or stopped."""

import json
import os
import shutil
import signal
import stat
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import psutil
import pytest

from lora_bench.cli import main
from lora_bench.execute.prepared_folder import prepare, read_prepared
from lora_bench.plan.make_plan import make_plan
from lora_bench.records.store import read_records
from lora_bench.suite.load_suite import load_suite
from tests.faults.forge import Forge
from tests.project import SUITE, write_data, write_project

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "examples" / "slurm.sh"
WORK = ("work", "runs/tickets")
FOUR = "[full, lora, bottleneck_adapter, prefix_tuning]"

# 2 methods, each with 2 learning rates tried with 20 seeds, and then 60 seeds with the better one: 2 x (2 x 20 + 60) runs.
METHODS, RATES, TRIED, REPORTED = 2, 2, 20, 60
TRIALS = (
    SUITE.replace(f" {FOUR}", "".join(f"\n  - {{method: {name}, learning_rate: [1e-3, 1e-2]}}" for name in ("lora", "bitfit")))
    .replace("seeds: [0]", f"seeds: {list(range(REPORTED))}\ntuning: {{seeds: {list(range(100, 100 + TRIED))}, extend: false}}")
    .replace("examples: 48", "examples: 16")
)  # fmt: skip
LONG = SUITE.replace(FOUR, "[lora]").replace("examples: 48", "examples: 1_600")


@pytest.fixture(autouse=True)
def _own_place(tmp_path, monkeypatch):
    monkeypatch.setenv("LORA_BENCH_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.chdir(tmp_path)


@pytest.fixture(scope="module")
def forge(tmp_path_factory):
    if sys.platform != "linux":
        pytest.skip("processes are looked for as Linux shows them")
    forge = Forge(tmp_path_factory.mktemp("forge"))
    yield forge
    left = forge.left_behind()
    forge.close()
    assert not left, f"these outlived the tests: {left}"


def prepared(forge, folder: Path, suite: str) -> Path:
    write_project(folder, suite)
    write_data(folder / "tickets.csv", rows=60)
    command = forge.start(folder, "plan", "tickets.yaml", "--prepare")
    assert command.wait() == 0, command.output
    assert sorted(path.name for path in (folder / "runs" / "tickets").iterdir()) == ["work.json"]
    return folder


def start(forge, folder, *options, **how):
    return forge.start(folder, *WORK, *options, hook="tests.faults.hooks:few_checkpoints", **how)


def began(*commands) -> Counter[str]:
    """How often each run was begun, by what the workers say of the first step that each took."""
    lines = [line for command in commands for line in command.output.splitlines()]
    return Counter(line.split()[1] for line in lines if line.startswith("began "))


def wait_until(fact, seconds=300.0):
    end = time.monotonic() + seconds
    while not (value := fact()):
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.05)
    return value


@pytest.mark.slow
def test_eight_workers_that_start_at_once_do_200_runs_exactly_once_trials_first(forge, tmp_path):
    """Each says of which runs it took a step; what is reported becomes known only when all have done the trials."""
    prepared(forge, tmp_path, TRIALS)
    workers = [start(forge, tmp_path) for _ in range(8)]
    assert [worker.wait() for worker in workers] == [0] * 8, [worker.output for worker in workers]
    records = read_records(tmp_path / "runs" / "tickets")
    assert len(records) == METHODS * (RATES * TRIED + REPORTED) == 200
    assert began(*workers) == {record.run_id: 1 for record in records}
    assert {(record.status, record.attempts, record.resumed) for record in records} == {("ok", 1, False)}
    assert all(began(worker) for worker in workers)
    assert not list(tmp_path.glob("runs/tickets/*/attempts/*"))
    assert not list(tmp_path.glob("runs/tickets/report*"))  # a report is for when all is done

    again = start(forge, tmp_path)
    assert again.wait() == 0 and not began(again)
    assert "nothing to do, 200 of 200 runs are done" in again.output
    assert "0 runs done here; 200 done in all" in again.output


@pytest.mark.slow
def test_a_worker_that_is_killed_costs_nothing_and_its_company_is_in_the_records(forge, tmp_path):
    prepared(forge, tmp_path, SUITE)
    # It stands still in the second step of its first run, as one that takes hours would.
    killed = start(forge, tmp_path, failpoint="run.step:hang@2")
    (hers,) = wait_until(lambda: began(killed))

    away = start(forge, tmp_path, "--no-wait")
    assert away.wait() == 0, away.output
    assert "3 runs done here; 3 done in all, 1 claimed by other processes" in away.output
    records = read_records(tmp_path / "runs" / "tickets")
    assert began(away) == {record.run_id: 1 for record in records} and hers not in began(away)
    assert [record.speed.exclusive for record in records] == [False] * 3

    other = start(forge, tmp_path)
    wait_until(lambda: "waiting for 1 runs of other processes" in other.output)
    killed.send(signal.SIGKILL)
    assert killed.wait() == -signal.SIGKILL
    assert other.wait() == 0, other.output
    assert began(other) == {hers: 1} and "1 runs done here; 4 done in all" in other.output
    assert {record.status for record in read_records(tmp_path / "runs" / "tickets")} == {"ok"}


@pytest.mark.slow
def test_sigterm_to_every_process_of_a_worker_leaves_a_checkpoint_and_the_same_command_goes_on(forge, tmp_path):
    """Slurm sends it to all processes of a step: the worker hears of it twice."""
    prepared(forge, tmp_path, LONG)
    worker = start(forge, tmp_path)
    wait_until(lambda: began(worker))
    for process in [*psutil.Process(worker.pid).children(recursive=True), psutil.Process(worker.pid)]:
        process.send_signal(signal.SIGTERM)
    assert worker.wait() == 143, worker.output
    assert "run the same command again to continue" in worker.output
    assert list(tmp_path.glob("runs/tickets/*/checkpoint/*/manifest.json"))
    assert not list(tmp_path.glob("runs/tickets/*/record.json"))

    again = start(forge, tmp_path)
    assert again.wait() == 0, again.output
    (record,) = read_records(tmp_path / "runs" / "tickets")
    assert (record.status, record.resumed, record.attempts) == ("ok", True, 2)


def test_what_failed_is_done_again_where_a_worker_is_told_to(tmp_path, capsys):
    suite = load_suite(write_project(tmp_path, SUITE.replace(FOUR, "[lora]")))
    folder = tmp_path / "runs" / "tickets"
    prepare(folder, suite, "tickets.yaml")
    (cell,) = make_plan(suite, folder).cells
    cell.job.folder.publish(cell.job.record("failed", "the disk was pulled out"))
    assert main(["work", "runs/tickets", "--workers", "0"]) == 3
    assert "0 runs done here; 1 done in all" in capsys.readouterr().out
    assert main(["work", "runs/tickets", "--workers", "0", "--retry"]) == 0
    (again,) = read_records(folder)
    assert (again.status, again.attempts, again.run_id) == ("ok", 2, cell.job.run_id)


def put(**changed):
    """A prepared folder's file with something changed; what is None is left out."""
    said = {"schema": 1, "file": "../../tickets.yaml", "sha256": "0" * 64, **changed}
    Path("runs/tickets").mkdir(parents=True, exist_ok=True)
    Path("runs/tickets/work.json").write_text(
        json.dumps({key: value for key, value in said.items() if value is not None})
    )


@pytest.mark.parametrize(
    ("said", "message"),
    [
        ({}, "the suite tickets.yaml has changed since runs/tickets was prepared; `lora-bench plan SUITE --prepare`"),
        ({"file": "../../absent.yaml"}, "names the suite ../../absent.yaml, and absent.yaml is not a file"),
        ({"file": "../../../../../../../../dev/zero"}, "dev/zero is not a file"),
        ({"file": None}, "give one of suite and file"),
        ({"suite": "quickstart"}, "give one of suite and file"),
        ({"file": None, "suite": "quikstart"}, "did you mean 'quickstart'"),
        ({"schema": 2}, "has schema 2, and this lora_bench reads up to 1; upgrade it"),
        ({"schema": True}, "schema: must be"),
        ({"schema": None}, "schema: is missing"),
        ({"sha256": "x"}, "sha256: string should match"),
        ({"series": "../../elsewhere"}, "series: a name must have letters"),
        ({"data_dir": ["a"]}, "data_dir: must be string, got a list"),
        ({"allow_pickle": ["base"]}, "allow_pickle: unknown key"),
        ({"file": "x" * 5_000}, "file: "),
        ({"file": "a\0b"}, "which is no text"),
        ({"series": [[[[[[[[[[[[[[[[[[[[[[[[]]]]]]]]]]]]]]]]]]]]]]]]}, "is nested deeper than 20 levels"),
        ({"series": "x" * 1_000_000}, "has more bytes than"),
    ],
)  # fmt: skip
def test_a_file_that_is_not_ours_is_refused_in_a_sentence_before_any_work(tmp_path, capsys, said, message):
    (tmp_path / "tickets.yaml").write_text(SUITE)
    put(**said)
    before = sorted(Path("runs").rglob("*"))
    assert main(["work", "runs/tickets"]) == 2
    shown = capsys.readouterr()
    assert message in shown.err and "Traceback" not in shown.err and not shown.out
    assert sorted(Path("runs").rglob("*")) == before


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"\xff\xfe", b"&a [*a]"])
def test_a_broken_file_is_refused_too(capsys, content):
    put()
    Path("runs/tickets/work.json").write_bytes(content)
    assert main(["work", "runs/tickets"]) == 2
    assert "runs/tickets/work.json" in capsys.readouterr().err


def test_a_folder_that_is_not_prepared_says_what_to_do(tmp_path, capsys):
    (tmp_path / "runs" / "tickets").mkdir(parents=True)
    assert main(["work", "runs/absent"]) == 2
    assert "runs/absent is not there; `lora-bench plan SUITE --prepare` makes" in capsys.readouterr().err
    assert main(["work", "runs/tickets"]) == 2
    assert "runs/tickets has no work.json, which names its suite; `lora-bench plan" in capsys.readouterr().err
    put()
    assert main(["work", "runs"]) == 2
    assert "did you mean `lora-bench work runs/tickets`?" in capsys.readouterr().err


def test_pickles_are_for_the_command_line(tmp_path, capsys):
    write_project(tmp_path)
    prepare(Path("runs/tickets"), load_suite("tickets.yaml"), "tickets.yaml")
    assert read_prepared(Path("runs/tickets")).suite.pickles == set()
    assert read_prepared(Path("runs/tickets"), ["base"]).suite.pickles == {"base"}
    assert main(["work", "runs/tickets", "--allow-pickle", "bsae"]) == 2
    assert "did you mean 'base'" in capsys.readouterr().err


def test_a_folder_is_found_to_be_the_same_suite_s_wherever_a_worker_starts(tmp_path, monkeypatch):
    """By a link, from another working folder, and when all of it lies elsewhere, as another machine may see it."""
    home, scratch = tmp_path / "home", tmp_path / "scratch"
    write_project(home / "suites")
    scratch.mkdir()
    (home / "runs").symlink_to(scratch)
    monkeypatch.chdir(home)
    suite = load_suite("suites/tickets.yaml")
    prepare(Path("runs/tickets/monday"), suite, "suites/tickets.yaml", series="monday", data_dir=Path("glue"))
    found = read_prepared(Path("runs/tickets/monday"))
    # A record's command is then the one of whoever prepared the folder.
    assert (found.suite.file, found.suite.command) == (suite.file, ("run", "suites/tickets.yaml"))
    assert (found.series, found.data_dir) == ("monday", Path("glue"))
    monkeypatch.chdir(tmp_path.parent)
    found = read_prepared(scratch / "tickets" / "monday")
    assert found.suite.file.samefile(suite.file if suite.file.is_absolute() else home / suite.file)
    moved = tmp_path.rename(tmp_path.parent / "elsewhere")
    assert read_prepared(moved / "scratch" / "tickets" / "monday").suite.content == suite.content
    moved.rename(tmp_path)


def test_a_suite_by_name_is_what_was_asked_for():
    prepare(Path("runs/quickstart"), load_suite("quickstart"), "quickstart")
    assert json.loads(Path("runs/quickstart/work.json").read_text())["suite"] == "quickstart"
    assert read_prepared(Path("runs/quickstart")).suite == load_suite("quickstart")


def tool(folder: Path, name: str, script: str) -> None:
    """A command in a folder of commands."""
    folder.mkdir(exist_ok=True)
    (folder / name).write_text(f"#!/bin/bash\n{script}\n")
    (folder / name).chmod(stat.S_IRWXU)


# srun starts as many processes as there are tasks, and gives the highest exit code.
SRUN = """\
while [[ $1 == --* ]]; do shift; done
for task in $(seq $SLURM_NTASKS); do "$@" & done
code=0
for task in $(jobs -p); do wait $task; ended=$?; ((ended > code)) && code=$ended; done
exit $code"""


def submit(tmp_path: Path, *arguments: str, tasks: int = 2):
    path = f"{tmp_path / 'bin'}:{os.environ['PATH']}"
    slurm = {"SLURM_NTASKS": str(tasks), "SLURM_CPUS_PER_TASK": "1", "SLURM_JOB_ID": "7", "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        ["bash", str(SCRIPT), *arguments], cwd=tmp_path, env={**os.environ, "PATH": path, "PYTHONPATH": str(ROOT), **slurm},
        capture_output=True, text=True, check=False, timeout=900,
    )  # fmt: skip


@pytest.mark.slow
def test_the_slurm_script_prepares_works_and_reports(tmp_path):
    write_project(tmp_path, SUITE.replace(FOUR, "[lora, bottleneck_adapter]"))
    tool(tmp_path / "bin", "srun", SRUN)
    tool(tmp_path / "bin", "lora-bench", f'exec "{sys.executable}" -m lora_bench.cli "$@"')
    done = submit(tmp_path, "tickets.yaml", "runs/tickets")
    assert done.returncode == 0, done.stdout + done.stderr
    records = read_records(tmp_path / "runs" / "tickets")
    lines = [line.split()[1] for line in done.stdout.splitlines() if line.startswith("began ")]
    assert sorted(lines) == [record.run_id for record in records] and len(records) == 2
    assert (tmp_path / "runs" / "tickets" / "report.md").is_file()


@pytest.mark.skipif(shutil.which("bash") is None, reason="it is a script for bash")
@pytest.mark.parametrize(
    ("code", "state", "then"),
    [
        (0, "RUNNING", ["lora-bench report runs/t"]),
        (3, "RUNNING", ["lora-bench report runs/t"]),
        (143, "RUNNING", ["scontrol requeue 7"]),
        (143, "COMPLETING", ["lora-bench report runs/t"]),  # somebody cancelled it
    ],
)
def test_the_slurm_script_queues_itself_again_when_its_time_is_up(tmp_path, code, state, then):
    tool(tmp_path / "bin", "squeue", f"echo {state}")
    tool(tmp_path / "bin", "srun", f'echo "srun $*" >> calls; exit {code}')
    for name in ("lora-bench", "scontrol"):
        tool(tmp_path / "bin", name, f'echo "{name} $*" >> calls')
    assert submit(tmp_path, "t.yaml", "runs/t", tasks=8).returncode == code
    srun = "srun --cpus-per-task=1 --kill-on-bad-exit=0 --wait=0 --label lora-bench work runs/t --among 8"
    calls = (tmp_path / "calls").read_text().splitlines()
    assert calls == ["lora-bench plan t.yaml --runs runs --prepare", srun, *then]
    assert submit(tmp_path, "t.yaml").returncode == 1
