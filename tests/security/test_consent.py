"""A suite's own code runs where the command line allows it at the hash that it has, and nowhere else."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from lora_bench import run_suite
from lora_bench.cli import main
from lora_bench.errors import BadInput, LoraBenchError
from lora_bench.metrics import metric
from lora_bench.metrics.support.hub_metric import code_hash
from lora_bench.plan.make_plan import make_plan
from lora_bench.suite.consent import allowing, suite_code
from lora_bench.suite.load_suite import load_suite
from lora_bench.tasks import score
from tests.project import SUITE, write_project
from tests.security.bombs import code_bomb
from tests.security.test_code import METRIC

ONE = SUITE.replace("[full, lora, bottleneck_adapter, prefix_tuning]", "[lora]").replace("48", "32")
OWN = ONE.replace("    label: queue\n", "    label: queue\n    metric: hub:./mine\n    metrics: [accuracy]\n")


@pytest.fixture
def sign(tmp_path):
    return tmp_path / "it-ran"


@pytest.fixture
def script(tmp_path, monkeypatch, sign):
    """A suite in the working folder whose metric is a local script that leaves a sign when it runs."""
    monkeypatch.setenv("LORA_BENCH_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.chdir(tmp_path)
    write_project(tmp_path, OWN)
    (tmp_path / "mine").mkdir()
    path = tmp_path / "mine" / "mine.py"
    path.write_text(code_bomb(sign) + METRIC)
    return path


def asked(said: str) -> str:
    """The permission that a message asks for."""
    return re.search(r"--allow-code (\S+)", said)[1]


@pytest.mark.parametrize(
    "command", [["run", "tickets.yaml", "--workers", "0"], ["work", "runs/tickets", "--workers", "0"]]
)
def test_a_command_that_would_run_a_metrics_script_is_refused_with_the_option_before_anything_runs(
    command, script, sign, tmp_path, capsys
):
    assert main(["plan", "tickets.yaml", "--prepare"]) == 0
    before = sorted((tmp_path / "runs").rglob("*"))
    capsys.readouterr()
    assert main(command) == 2
    said = capsys.readouterr().err
    assert "tickets.yaml:" in said and "would run code of hub:./mine on this machine" in said
    assert asked(said) == f"hub:./mine@{code_hash('hub:./mine')}"
    assert not sign.exists() and sorted((tmp_path / "runs").rglob("*")) == before


def test_a_plan_says_what_code_the_suite_would_run_and_runs_none_of_it(script, sign, capsys):
    assert main(["plan", "tickets.yaml"]) == 0
    said = capsys.readouterr().out
    assert "runs code on this machine: metric hub:./mine; refused until" in said.replace("\n", " ")
    permission = f"hub:./mine@{code_hash('hub:./mine')}"
    assert permission in said.replace("\n", "")
    assert main(["plan", "tickets.yaml", "--allow-code", permission]) == 0
    assert "allowed, as you gave" in capsys.readouterr().out.replace("\n", " ")
    assert not sign.exists()


def test_a_permission_is_for_one_hash_and_changed_code_asks_again(script, sign, capsys):
    main(["run", "tickets.yaml", "--workers", "0"])
    permission = asked(capsys.readouterr().err)
    script.write_text(script.read_text() + "\n# another\n")
    assert main(["run", "tickets.yaml", "--workers", "0", "--allow-code", permission]) == 2
    said = capsys.readouterr().err
    assert "the code of hub:./mine has changed since you allowed it" in said and asked(said) != permission
    assert not sign.exists()


def test_a_permission_for_what_the_suite_does_not_name_is_a_mistake(script, capsys):
    assert main(["run", "tickets.yaml", "--allow-code", f"hub:./other@{'0' * 64}"]) == 2
    assert "would not run code 'hub:./other@0" in capsys.readouterr().err
    assert main(["run", "tickets.yaml", "--allow-code", "hub:./mine"]) == 2
    assert "is given without a hash" in capsys.readouterr().err


def test_an_allowed_script_scores_the_runs_and_the_records_command_allows_it_too(script, sign, tmp_path, capsys):
    permission = f"hub:./mine@{code_hash('hub:./mine')}"
    assert main(["run", "tickets.yaml", "--workers", "0", "--allow-code", permission]) == 0, capsys.readouterr().err
    assert sign.exists()
    (record,) = (json.loads(path.read_text()) for path in (tmp_path / "runs").rglob("record.json"))
    assert record["command"].endswith(f"--allow-code {permission}")
    assert record["scores"].keys() == {"hub:./mine", "accuracy", "mine"}
    # Its report is made of records alone.
    sign.rmdir()
    assert main(["report", "runs/tickets"]) == 0
    assert not sign.exists()


def test_run_suite_asks_for_the_same_permission(script, sign, tmp_path):
    with pytest.raises(BadInput, match=r"--allow-code hub:\./mine@") as refused:
        run_suite("tickets.yaml", workers=0)
    assert not sign.exists() and not (tmp_path / "runs").exists()
    (record,) = run_suite("tickets.yaml", workers=0, allow_code=[asked(str(refused.value))]).records
    assert record.status == "ok" and sign.exists()


def test_code_that_changes_after_the_command_began_is_not_run(script, sign):
    suite = load_suite("tickets.yaml")
    (code,) = suite_code(suite)
    task = allowing(suite.tasks[0][0], frozenset({code.permission}))
    script.write_text(script.read_text() + "\n# another\n")
    with pytest.raises(LoraBenchError, match="has changed since its code was allowed"):
        score(task, [0], [0])
    assert not sign.exists()


def test_a_task_that_no_permission_came_with_runs_no_script(script, sign, tmp_path):
    plan = make_plan(load_suite("tickets.yaml"), tmp_path / "runs")
    for task in (load_suite("tickets.yaml").tasks[0][0], plan.cells[0].job.task):
        with pytest.raises(LoraBenchError, match="is code that was not allowed to run"):
            score(task, [0], [0])
    assert not sign.exists()


def test_the_hash_covers_modules_beside_the_script(script):
    (script.parent / "helper.py").write_text("two = 2\n")
    script.write_text("from .helper import two\n" + script.read_text())
    first = code_hash("hub:./mine")
    assert metric("hub:./mine").compute(predictions=[1], references=[1])["mine"] == 1.0
    (script.parent / "helper.py").write_text("two = 3\n")
    assert code_hash("hub:./mine") != first
    (script.parent / "unused.py").write_text("raise SystemExit\n")
    (script.parent / "helper.py").write_text("two = 2\n")
    assert code_hash("hub:./mine") == first


@pytest.mark.parametrize(
    "line", ["from .helper import two  # From: https://example.com/helper.py", "import .helper # x"]
)
def test_a_script_that_fetches_code_by_address_is_refused(script, sign, line, capsys):
    script.write_text(f"{line}\n{script.read_text()}")
    assert main(["run", "tickets.yaml", "--workers", "0"]) == 2
    said = capsys.readouterr().err
    assert "would fetch code that no hash covers" in said or "is no Python" in said
    assert not sign.exists()


def test_a_missing_script_is_said_before_any_run_and_is_not_looked_for_on_the_hub(script, tmp_path, capsys):
    script.unlink()
    assert main(["run", "tickets.yaml", "--workers", "0"]) == 2
    assert "metric 'hub:./mine' is no folder with a script" in capsys.readouterr().err
    assert not (tmp_path / "runs").exists()


def test_probe_and_reproduce_and_check_take_the_option(capsys):
    for command in ("run", "plan", "work", "probe", "reproduce", "check"):
        with pytest.raises(SystemExit):
            main([command, "--help"])
        assert "--allow-code NAME@HASH" in capsys.readouterr().out, command


def test_a_probe_of_a_model_with_code_is_refused_before_it_is_looked_for(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    commit = "0123456789" * 4
    entry = f"{{model: owner/name, revision: {commit}, trust_remote_code: true}}"
    (tmp_path / "speed.yaml").write_text(f"suite: speed\ncell: {{length: 8}}\nmodels: [{entry}]\nmethods: [lora]\n")
    write_project(tmp_path, ONE.replace("[base]", f"[{entry}]"))
    here = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2]), "HF_HUB_OFFLINE": "1"}
    for suite in ("speed.yaml", "tickets.yaml"):
        command = [sys.executable, "-m", "lora_bench.cli", "probe", suite]
        done = subprocess.run(command, cwd=tmp_path, env=here, capture_output=True, text=True)
        assert done.returncode == 2
        assert f"--allow-code owner/name@{commit}" in done.stderr
