"""The command `lora-bench probe`, by real processes that are really killed and stopped."""

import contextlib
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from lora_bench.cli import main
from lora_bench.records.probe_store import read_probes
from tests.probe.suites import SUITE, write_suite

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="workers are forked")

ROOT = Path(__file__).parents[2]
BUSY = """\
import hashlib, threading
def hash_for_ever():
    block = bytes(2**26)
    while True:
        hashlib.sha256(block)
for _ in range(16):
    threading.Thread(target=hash_for_ever).start()
"""
SDPA = SUITE.replace("[base]", "[base, other]").replace("seconds: 0.1", "seconds: 0.1, attention: sdpa")


def start(project: Path, *options: str) -> subprocess.Popen:
    environment = {
        **os.environ,
        "PYTHONPATH": str(ROOT),
        "LORA_BENCH_CACHE": str(project / "cache"),
        "HF_HUB_OFFLINE": "1",
        "CUDA_VISIBLE_DEVICES": "",
    }
    return subprocess.Popen(
        [sys.executable, "-m", "lora_bench.cli", "probe", "costs.yaml", "--processes", "1", *options],
        cwd=project, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


def next_worker(probing: subprocess.Popen, known: list[int]) -> psutil.Process:
    """The worker that measures, once there is one that is not *known*: a child of the server, which is a child of ours."""
    end = time.monotonic() + 600
    while time.monotonic() < end and probing.poll() is None:
        with contextlib.suppress(psutil.NoSuchProcess):  # it ended while it was looked at
            for worker in psutil.Process(probing.pid).children(recursive=True):
                # One that has not computed yet may not have taken its work.
                is_worker = worker.ppid() != probing.pid and worker.pid not in known
                if is_worker and sum(worker.cpu_times()[:2]) > 0.1:
                    return worker
        time.sleep(0.01)
    raise AssertionError(f"no worker came: {probing.communicate(timeout=10)}")


@pytest.fixture(scope="module")
def story(tmp_path_factory):
    """A suite whose first worker is killed, which is stopped at its third, and goes on; what was seen on the way."""
    project = tmp_path_factory.mktemp("project")
    write_suite(project, SDPA, other="deberta-v2")
    seen: dict[str, object] = {"project": project}

    probing = start(project, "--share")
    workers = [next_worker(probing, [])]
    workers[0].kill()
    lines = []
    for line in probing.stdout:
        lines.append(line)
        if line.startswith("[1/6]"):
            workers.append(next_worker(probing, [workers[0].pid]))
        if line.startswith("[2/6]"):
            workers.append(next_worker(probing, [worker.pid for worker in workers]))
            break
    probing.send_signal(signal.SIGINT)
    rest, errors = probing.communicate(timeout=600)
    seen["stopped"] = (probing.returncode, "".join(lines) + rest, errors)
    seen["workers"] = [worker.pid for worker in workers]
    seen["after the stop"] = read_probes(project / "runs" / "costs")

    probing = start(project, "--share", "--retry")
    out, errors = probing.communicate(timeout=600)
    seen["went on"] = (probing.returncode, out, errors)
    seen["records"] = read_probes(project / "runs" / "costs")
    return seen


def by_cell(records) -> dict[str, str]:
    return {
        f"{record.spec.model.name} {record.spec.method.label}{'*' if record.twin else ''}": record.status
        for record in records
    }


@pytest.mark.slow
def test_a_worker_that_is_killed_is_a_failed_record_and_the_next_cell_is_measured(story):
    out = story["stopped"][1]
    assert "6 of 6 processes to do" in out
    assert re.search(r"\[1/6\] base · full · process 0: failed: signal SIGKILL: it ended the worker", out)
    assert re.search(r"\[2/6\] base · lora · process 0: [\d.,]+ ms a step", out)
    first, second = story["after the stop"]
    assert {first.status, second.status} == {"failed", "ok"}


@pytest.mark.slow
def test_every_process_is_a_fresh_one(story):
    assert len(set(story["workers"])) == 3


@pytest.mark.slow
def test_a_stop_ends_what_is_measured_at_once_and_leaves_no_record_of_it(story):
    code, out, errors = story["stopped"]
    assert code == 130
    assert "stopped; run the same command again to continue" in out and "Traceback" not in errors
    assert by_cell(story["after the stop"]) == {"base full": "failed", "base lora": "ok"}


@pytest.mark.slow
def test_the_same_command_goes_on_and_retries_what_failed(story):
    code, out, _ = story["went on"]
    assert code == 0
    assert "5 of 6 processes to do" in out
    assert by_cell(story["records"]) == {
        "base full": "ok", "base lora": "ok", "base full*": "ok",
        "other full": "unsupported", "other lora": "unsupported", "other full*": "unsupported",
    }  # fmt: skip
    kept = next(record for record in story["after the stop"] if record.status == "ok")
    assert kept in story["records"]  # to the byte: it was not measured again


@pytest.mark.slow
def test_a_kernel_path_that_a_model_has_not_is_a_row_and_the_others_are_measured(story):
    page = (story["project"] / "runs" / "costs" / "report.md").read_text()
    assert "- `full`: **unsupported**: " in page and "does not support an attention implementation" in page
    assert "### base, classification into 2, 2 × 8 tokens, float32, 1 thread, sdpa attention" in page
    assert re.search(r"\| `lora` \| 3,170 \|", page)
    assert "Every cell was measured in 1 fresh process on" in page
    assert "Noise floor: not known" in page and "Measured a second time unchanged, the step differed by" in page


@pytest.mark.slow
def test_a_second_call_measures_nothing_again(story, monkeypatch, capsys):
    monkeypatch.chdir(story["project"])
    monkeypatch.setenv("LORA_BENCH_CACHE", str(story["project"] / "cache"))
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    files = {path: path.stat().st_mtime_ns for path in (story["project"] / "runs" / "costs" / "probes").iterdir()}
    # Without --share: where there is nothing to measure nobody is in the way.
    assert main(["probe", "costs.yaml", "--processes", "1"]) == 0
    assert "none of 6 processes to do" in capsys.readouterr().out
    assert {path: path.stat().st_mtime_ns for path in files} == files
    assert main(["report", "runs/costs", "--check"]) == 0
    assert main(["baseline", "accept", "runs/costs"]) == 0
    assert read_probes(story["project"] / "baselines" / "costs") == story["records"]


@pytest.mark.slow
def test_a_cpu_in_use_is_refused_with_the_name_of_who_uses_it(story):
    project = story["project"]
    write_suite(project, SDPA.replace("suite: costs", "suite: busy"))
    # Busier than whatever else is at work on the machine, such as tests beside this one: hashing lets other threads run.
    busy = subprocess.Popen([sys.executable, "-c", BUSY])
    try:
        probing = start(project)
        _, errors = probing.communicate(timeout=600)
    finally:
        busy.kill()
        busy.wait()
    assert probing.returncode == 2
    assert (
        "lora-bench: wait until the CPU is free: it is in use by " in errors and f"(process {busy.pid}) at " in errors
    )
    assert "--share" in errors and "Traceback" not in errors
    assert not (project / "runs" / "busy").exists()
