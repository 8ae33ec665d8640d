"""A token or password that the libraries around a run see or repeat is in no record, log, report or message."""

import io
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from rich.console import Console

from lora_bench.cli import main
from lora_bench.plan.make_plan import make_plan
from lora_bench.records.record import Record
from lora_bench.records.sealed_records import to_json
from lora_bench.report import Report, render_files, terminal_answer
from lora_bench.suite.load_suite import load_suite
from lora_bench.training.run import run_job
from lora_bench.util.redaction import message, without_secrets
from tests.hub import serve
from tests.project import SUITE, write_project
from tests.sample_records import record

# Put together here, so that no tool takes this file for one with a secret in it.
TOKEN = "hf_" + "canary" * 5
PASSWORD = "swordfish" + "99"
OTHER = "other-" + "secret-value"
SECRETS = (TOKEN, PASSWORD, OTHER)

SAID = {
    "token": (f"401 for {TOKEN}.", "401 for ***."),
    "header": (f"headers: {{'authorization': 'Bearer {OTHER}'}}", "headers: {'authorization': 'Bearer ***'}"),
    "bearer": (f"sent Bearer {OTHER}, refused", "sent Bearer ***, refused"),
    "address": (f"GET https://user:{PASSWORD}@host.example/x?y=1", "GET https://***@host.example/x?y=1"),
    "user alone": (f"https://{TOKEN}@host.example/x", "https://***@host.example/x"),
    "in a query": (f"https://host.example/x?token={OTHER}&y=1", "https://host.example/x?token=***&y=1"),
    "signed": (f"https://host.example/x?X-Amz-Signature={OTHER}", "https://host.example/x?X-Amz-Signature=***"),
    "key": (f"api_key={OTHER} was refused", "api_key=*** was refused"),
    "of another hub": ("ghp_" + "0123456789" * 3, "***"),
    "nothing": (
        "no file a@b.example at https://host.example/a@b, tokens=128, max_tokens: 5",
        "no file a@b.example at https://host.example/a@b, tokens=128, max_tokens: 5",
    ),
}


@pytest.fixture(autouse=True)
def _own_place(tmp_path, monkeypatch):
    monkeypatch.setenv("LORA_BENCH_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")


@pytest.mark.parametrize(("said", "shown"), SAID.values(), ids=SAID)
def test_what_is_a_secret_by_its_form_is_hidden_and_the_rest_stays(said, shown):
    assert without_secrets(said, {}) == shown
    assert without_secrets(shown, {}) == shown


def test_the_value_of_a_secret_variable_is_hidden_wherever_it_stands():
    environment = {
        "HF_TOKEN": "plainword1",
        "MY_API_KEY": "plainword2",
        "HOME": "/home/plainword3",
        "SHORT_TOKEN": "ab",
    }
    said = "plainword1 and xplainword2x in /home/plainword3 of ab"
    assert without_secrets(said, environment) == "*** and x***x in /home/plainword3 of ab"


def test_a_record_has_none_whoever_makes_it():
    said = f"https://user:{PASSWORD}@host {TOKEN}"
    made = record(status="failed", reason=said, warnings=(said,), command=f"run {said}")
    for stored in (
        to_json(made),
        to_json(Record.model_validate_json(json.dumps(made.model_dump(mode="json", by_alias=True)))),
    ):
        assert not any(secret.encode() in stored for secret in SECRETS)
        assert stored.count(b"https://***@host ***") == 3


def test_a_run_that_fails_with_a_secret_in_its_exception_leaves_none(tmp_path, monkeypatch, capsys):
    said = f"Client error for https://user:{PASSWORD}@host/x?token={OTHER} with {TOKEN}"

    def fails(*arguments, **options):
        raise RuntimeError(said)

    suite = write_project(tmp_path, SUITE.replace("[full, lora, bottleneck_adapter, prefix_tuning]", "[lora]"))
    (cell,) = make_plan(load_suite(suite), tmp_path / "runs" / "tickets").cells
    monkeypatch.setattr("lora_bench.training.process_cache.load_model", fails)
    record = run_job(cell.job)
    assert record.status == "failed" and record.reason.startswith(
        "RuntimeError: Client error for https://***@host/x?token=***"
    )
    monkeypatch.chdir(tmp_path)
    assert main(["report", "runs/tickets", "--data"]) == 0
    written = {path for path in (tmp_path / "runs").rglob("*") if path.is_file()}
    assert {"record.json", "traceback.txt", "report.md", "report.html", "records.csv"} <= {
        path.name for path in written
    }
    for path in written:
        assert not any(secret.encode() in path.read_bytes() for secret in SECRETS), path.name
    assert not any(secret in "".join(capsys.readouterr()) for secret in SECRETS)


def test_reports_hide_what_a_record_of_others_holds():
    """Strings of a spec are not changed when a record is read, as its id is of them: a report hides what they hold."""
    held = record(task=f"{TOKEN} task", suite=f"https://user:{PASSWORD}@host", model=f"m {TOKEN}")
    files = render_files(Report([held]))
    for name in ("report.md", "report.html"):
        assert not any(secret.encode() in files[name] for secret in SECRETS), name
    console = Console(width=200, file=io.StringIO())
    console.print(terminal_answer(Report([held])))
    assert not any(secret in console.file.getvalue() for secret in SECRETS)


def test_a_suite_cannot_carry_a_token(tmp_path, monkeypatch, capsys):
    suite = write_project(tmp_path, SUITE + f"training_arguments: {{hub_token: {TOKEN}}}\n")
    monkeypatch.chdir(tmp_path)
    assert main(["plan", suite.name]) == 2
    said = capsys.readouterr().err
    assert "training_arguments.hub_token" in said and TOKEN not in said


def test_a_message_of_a_command_hides_secrets_and_controls_no_terminal():
    assert message(f"a\x1b[31m{TOKEN}\nb\u202ec\x9b") == "a [31m***\nbc "


IN_A_PROCESS = """\
import sys, time
wait = time.sleep
time.sleep = lambda seconds: wait(min(seconds, 0.01))
from lora_bench.cli import main
for suite in sys.argv[1:]:
    print(main(["run", suite, "--workers", "0"]))
"""


def test_a_download_that_fails_says_why_without_token_and_password(tmp_path):
    suites = [
        write_project(tmp_path / name, SUITE.replace("[base]", f"[{name}/model]")).name
        for name in ("down", "gated", "absent")
    ]
    for name in ("down", "gated", "absent"):
        (tmp_path / name / "tickets.yaml").rename(tmp_path / name / f"{name}.yaml")
    suites = [str(tmp_path / name / f"{name}.yaml") for name in ("down", "gated", "absent")]
    with serve(tmp_path / "hub") as server:
        server.faults.status["down/*"] = 500
        server.faults.status["gated/*"] = 401
        environment = {name: value for name, value in os.environ.items() if not re.match("HF_|.*proxy", name, re.I)}
        environment |= {
            # A mirror that wants a password.
            "HF_ENDPOINT": server.endpoint.replace("://", f"://user:{PASSWORD}@"),
            "HF_HOME": str(tmp_path / "home"),
            "HF_TOKEN": TOKEN,
            "MIRROR_PASSWORD": OTHER,
            "PYTHONPATH": str(Path(__file__).parents[2]),
        }
        command = [sys.executable, "-c", IN_A_PROCESS, *suites]
        done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
        assert server.tokens["hub"], "the library did send what it was given"
    assert re.findall(r"(?m)^\d+$", done.stdout) == ["2", "2", "2"], done.stderr
    assert "is unavailable: the hub (http://***@127.0.0.1" in done.stderr
    assert not any(secret in done.stdout + done.stderr for secret in SECRETS)
    left = [path for path in tmp_path.rglob("*") if path.is_file() and not path.is_relative_to(tmp_path / "home")]
    assert [path for path in left if any(secret.encode() in path.read_bytes() for secret in SECRETS)] == []
