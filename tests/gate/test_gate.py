"""`lora-bench check` and the verbs of `baseline`, as the command line has them."""

import json
import os
import statistics
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import pytest

from benchmarks import gate_selftests
from lora_bench.cli.gate_commands import _way
from lora_bench.cli.parser import build_parser, main
from lora_bench.gate import read_night, read_nights, write_night
from lora_bench.records.analysis import Analysis
from lora_bench.records.sealed_records import to_json
from lora_bench.records.store import read_records
from tests.gate.histories import accepted, night_records, number_of
from tests.gate.test_bisect import wheel
from tests.project import SUITE, write_project

ROOT = Path(__file__).parents[2]


def put(folder, records):
    """Records as a runs folder has them."""
    for one in records:
        (folder / one.run_id).mkdir(parents=True, exist_ok=True)
        (folder / one.run_id / "record.json").write_bytes(to_json(one))


def put_again(place, **changes):
    """The two sets of runs of LoRA with new seeds."""
    for label in ("tonight-confirm", "tonight-confirm-confirm"):
        put(place / "runs/tickets" / label, night_records(label, methods=["lora"], **changes))


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A working folder with a baseline of twenty nights."""
    monkeypatch.chdir(tmp_path)
    for one in accepted(20):
        write_night(one, tmp_path / "baselines" / "gate")
    return tmp_path


def check(*options):
    return main(["check", "runs/tickets", "--baseline", "gate", *options])


def test_an_unchanged_night_passes_and_is_accepted(place, capsys):
    put(place / "runs/tickets/tonight", night_records("tonight"))
    assert check() == 0
    assert capsys.readouterr().out == "pass: tonight of tickets against 20 accepted nights of gate (3 pass)\n"
    assert main(["baseline", "accept", "runs/tickets", "--name", "gate", "--reason", "passed"]) == 0
    assert "night 21 in baselines/gate/nights/tonight.json" in capsys.readouterr().out
    assert read_nights(place / "baselines/gate")[-1].reason == "passed"
    # The same night again is held against those before it, and the next one against it too.
    assert check("--series", "tonight") == 0
    said = capsys.readouterr()
    assert "20 accepted nights" in said.out
    assert (
        "tonight is accepted already; it is held against the 20 nights before it, the last of which is n20" in said.err
    )
    assert main(["baseline", "show", "gate"]) == 0
    assert "21. tonight: 3 series, 9 runs; passed" in capsys.readouterr().out
    assert main(["baseline", "diff", "gate", "n1"]) == 0
    assert capsys.readouterr().out.startswith("n1 → tonight\n")


def test_what_is_suspect_and_may_not_be_run_again_cannot_be_decided(place, capsys):
    put(place / "runs/tickets/tonight", night_records("tonight", shift={"lora": -0.03}))
    assert check("--no-confirm") == 4
    assert "not confirmed with 2 sets of new seeds" in capsys.readouterr().out
    assert check() == 4
    assert "no suite is known to run them again" in capsys.readouterr().err
    assert main(["baseline", "accept", "runs/tickets", "--name", "gate", "--reason", "fine"]) == 2
    assert "--change" in capsys.readouterr().err


def test_new_seeds_that_are_there_are_used_and_none_are_run(place):
    put(place / "runs/tickets/tonight", night_records("tonight", shift={"lora": -0.03}))
    put_again(place, shift={"lora": -0.03})
    assert check() == 1
    assert main(["baseline", "accept", "runs/tickets", "--name", "gate", "--reason", "x", "--change", "all"]) == 0


def test_a_crash_is_trouble(place, capsys):
    put(place / "runs/tickets/tonight", night_records("tonight", methods=["full", "lora"]))
    failed = night_records("tonight", methods=["prefix_tuning"], status="failed", reason="ValueError: no")
    put(place / "runs/tickets/tonight", failed)
    assert check() == 3
    said = capsys.readouterr().out
    assert "failed: vader_film" in said and "ValueError: no" in said and "again: lora-bench run tickets" in said


@pytest.mark.parametrize(
    ("changes", "confirmed", "commands"),
    [
        ({"shift": {"lora": -0.03}}, True, ["--bisect GOOD..BAD", '--change "why"']),
        ({"status": "failed", "reason": "ValueError: no"}, False, ["--series tonight --retry", "check runs/tickets"]),
        ({"shift": {"lora": -0.03}}, False, ["--suite SUITE", "baseline show gate"]),
        # A night that would not be accepted without a reason is not offered without one.
        ({"changes": {"analysis": Analysis(reference="full", margin=0.9)}}, False, ["show gate", '--change "why"']),
    ],
    ids=["regression", "failed", "suspect", "other rules"],
)
def test_every_failing_answer_names_the_next_two_commands(place, capsys, changes, confirmed, commands):
    put(place / "runs/tickets/tonight", night_records("tonight", **changes))
    if confirmed:
        put_again(place, **changes)
    assert check("--no-confirm") != 0
    said = [line for line in capsys.readouterr().out.splitlines() if line.startswith("next: lora-bench ")]
    assert len(said) == 2 and all(command in line for command, line in zip(commands, said, strict=True)), said


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["check", "runs/tickets", "--baseline", "gat"], "no baseline 'gat'; did you mean 'gate'"),
        (["check", "runs/nothing", "--baseline", "gate"], "runs/nothing is not there"),
        (["check", "--baseline", "gate"], "check takes RUNS"),
        (["check", "runs/tickets", "--baseline", "gate", "--series", "tonigt"], "did you mean 'tonight'"),
        (["check", "runs/tickets", "--baseline", "gate", "--bisect", "x"], "nothing is wrong in tonight"),
        (["baseline", "accept", "runs/tickets", "--name", "gate", "--change", "all"], "--change is for a night"),
        (["baseline", "diff", "gate", "n1", "n77"], "unknown night 'n77'"),
    ],
)
def test_bad_input_is_told_from_a_failing_night(place, capsys, arguments, said):
    put(place / "runs/tickets/tonight", night_records("tonight"))
    assert main(arguments) == 2
    assert said in capsys.readouterr().err


def test_a_broken_night_of_the_baseline_is_bad_input(place, capsys):
    put(place / "runs/tickets/tonight", night_records("tonight"))
    (place / "baselines/gate/nights/n7.json").write_text("{")
    assert check() == 2
    assert "n7.json: is no night" in capsys.readouterr().err


def test_a_baseline_without_nights_cannot_decide(place):
    (place / "baselines/empty").mkdir()
    put(place / "runs/tickets/tonight", night_records("tonight"))
    assert main(["check", "runs/tickets", "--baseline", "empty"]) == 4
    assert main(["baseline", "show", "empty"]) == 4


def test_every_output_is_written(place, monkeypatch, capsys):
    put(place / "runs/tickets/tonight", night_records("tonight", shift={"lora": -0.03}))
    put_again(place, shift={"lora": -0.03})
    (place / "summary.md").write_text("# before\n")
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(place / "summary.md"))
    files = [
        "--json",
        "out/answer.json",
        "--junit",
        "out/junit.xml",
        "--badge",
        "out/badge.json",
        "--plot",
        "out/plots",
    ]
    assert check("--github", *files) == 1
    assert json.loads((place / "out/answer.json").read_text())["verdict"] == "regression"
    assert ElementTree.parse(place / "out/junit.xml").getroot().get("failures") == "1"
    assert json.loads((place / "out/badge.json").read_text())["color"] == "red"
    assert len(list((place / "out/plots").glob("*.svg"))) == 3
    assert (place / "summary.md").read_text().startswith("# before\n# gate: regression\n")
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("::error title=regression%3A ")


def test_the_gate_is_tested_on_ones_own_history(place, capsys):
    assert gate_selftests.main(["baselines/gate", "--replay", "--inject", "20%"]) == 0
    out = capsys.readouterr().out
    assert "0 of 12 nights with enough history would have cried" in out and "in 100.0% of 36 tries" in out


def test_a_search_tells_its_cost_and_does_nothing(place, capsys):
    put(place / "runs/tickets/tonight", night_records("tonight", shift={"lora": -0.03}))
    assert check("--bisect", "torch=2.9.0,2.9.1,2.10.0", "--suite", "tickets.yaml") == 0
    out = capsys.readouterr().out
    assert "3 versions of torch: at most 3 environments" in out and "--yes" in out
    assert not (place / "runs/tickets/tonight-bisect").exists()


def test_a_search_where_nothing_is_wrong_is_a_mistake(place, capsys):
    put(place / "runs/tickets/tonight", night_records("tonight"))
    assert check("--bisect", "torch=2.9.0,2.9.1") == 2
    assert "nothing is wrong in tonight" in capsys.readouterr().err


def test_a_fault_of_the_program_is_no_regression(place, monkeypatch):
    put(place / "runs/tickets/tonight", night_records("tonight", shift={"lora": -0.03}))

    def broken(*_, **__):
        raise ZeroDivisionError

    monkeypatch.setattr("lora_bench.cli.gate_commands.judge", broken)
    assert check() == 3


@pytest.mark.parametrize(("shift", "known", "code"), [(-0.03, 4, 4), (0.0, 0, 3)])
def test_an_output_that_cannot_be_written_costs_neither_the_answer_nor_the_others(
    place, monkeypatch, capsys, shift, known, code
):
    put(place / "runs/tickets/tonight", night_records("tonight", shift={"lora": shift}))
    (place / "file").write_text("")
    (place / "folder").mkdir()
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(place / "folder"))
    files = ["--json", "folder", "--junit", "file/junit.xml", "--badge", "badge.json", "--plot", "file/plots"]
    assert check() == known
    capsys.readouterr()
    assert check("--github", *files) == code
    said = capsys.readouterr()
    for what in ("folder", "file/junit.xml", "file/plots", "the step summary"):
        assert f"{what} could not be written" in said.err
    assert (place / "badge.json").exists() and "20 accepted nights" in said.out


def test_a_confirmation_that_cannot_be_done_leaves_the_night_undecided_with_its_outputs(place, capsys):
    put(place / "runs/tickets/tonight", night_records("tonight", shift={"lora": -0.03}))
    assert check("--suite", "absent.yaml", "--json", "answer.json") == 4
    assert json.loads((place / "answer.json").read_text())["verdict"] == "undecided"
    assert "what is suspect could not be run again: the child ended with exit code 2" in capsys.readouterr().err


def test_what_is_run_again_gets_the_options_that_its_verb_takes(place):
    options = [
        "--suite",
        "s.yaml",
        "--workers",
        "2",
        "--allow-pickle",
        "old",
        "--allow-code",
        "hub:./m@1",
        "--data-dir",
        "d",
    ]
    way = _way(build_parser().parse_args(["check", "runs", "--baseline", "gate", *options]), place)
    for verb in ("run", "probe"):
        again = build_parser().parse_args(way.command(verb, place)[3:])
        assert (again.suite, again.allow_pickle, again.data_dir, again.quiet) == ("s.yaml", ["old"], Path("d"), True)
        assert again.allow_code == ["hub:./m@1"]
        assert getattr(again, "workers", None) == (2 if verb == "run" else None)


def test_a_night_that_is_named_by_a_dot_finds_what_was_run_again(place, monkeypatch):
    put(place / "runs/tickets/tonight", night_records("tonight", shift={"lora": -0.03}))
    put_again(place, shift={"lora": -0.03})
    monkeypatch.chdir(place / "runs/tickets/tonight")
    assert main(["check", ".", "--baseline", str(place / "baselines/gate")]) == 1


def test_an_answer_that_nobody_reads_has_its_exit_code(place, monkeypatch):
    put(place / "runs/tickets/tonight", night_records("tonight", shift={"lora": -0.03}))

    def closed(*_, **__):
        raise BrokenPipeError

    monkeypatch.setattr("builtins.print", closed)
    assert check() == 4


# Below, real runs.


@pytest.fixture
def project(tmp_path, monkeypatch):
    """A project whose suite learns its task within seconds."""
    monkeypatch.setenv("LORA_BENCH_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.chdir(tmp_path)
    write_project(
        tmp_path, SUITE.replace("[full, lora, bottleneck_adapter, prefix_tuning]", "[lora]").replace("[0]", "[0, 1]")
    )
    return tmp_path


def write_history(place, label, level):
    """Nine accepted nights around *level*, made from the real one under *label*."""
    real = read_night(place / "runs/tickets" / label)
    for number in range(1, 10):
        cells = tuple(
            cell.model_copy(
                update={"runs": tuple(run.model_copy(update={"score": level + number % 3 / 1000}) for run in cell.runs)}
            )
            for cell in real.cells
        )
        one = real.model_copy(update={"label": f"n{number}", "cells": cells})
        write_night(number_of(one, number), place / "baselines/gate")


@pytest.mark.slow
def test_what_is_suspect_is_really_run_again_with_new_seeds(project, capsys):
    assert main(["run", "tickets.yaml", "--series", "tonight", "--workers", "0", "--quiet"]) == 0
    records = read_records(project / "runs/tickets/tonight")
    write_history(project, "tonight", statistics.fmean(one.score for one in records) + 0.6)
    assert check("--suite", "tickets.yaml", "--workers", "0", "--json", "first.json") == 1
    for label in ("tonight-confirm", "tonight-confirm-confirm"):
        again = read_records(project / "runs/tickets" / label)
        assert len(again) == 2 and {one.spec.series for one in again} == {label}
        assert {one.run_id for one in again}.isdisjoint(one.run_id for one in records)
    assert "confirmed with new seeds" in capsys.readouterr().out
    # Once more, nothing is run and the answer is the same.
    before = {path: path.stat().st_mtime_ns for path in project.glob("runs/tickets/*/*/record.json")}
    assert check("--json", "second.json") == 1
    assert (project / "first.json").read_bytes() == (project / "second.json").read_bytes()
    assert before == {path: path.stat().st_mtime_ns for path in project.glob("runs/tickets/*/*/record.json")}


METHOD = '''\
"""A method of a package that goes wrong in its second version."""

from typing import ClassVar

from lora_bench.documents import Strict
from lora_bench.methods import register


@register
class Tinyshift(Strict):
    """Everything is trained, or by mistake the head alone."""

    name: ClassVar[str] = "tinyshift"
    size: ClassVar[str | None] = None
    learning_rate: ClassVar[float] = 3e-3

    def apply(self, model, *, head):
        """Return *model*."""
        for name, parameter in model.named_parameters():
            parameter.requires_grad_(TRAINED or any(name.startswith(part) for part in head))
        return model
'''


@pytest.mark.slow
def test_the_version_that_broke_a_cell_is_found_by_running_it(project, monkeypatch):
    for version, trained in (("1.0", True), ("2.0", False)):
        source = METHOD.replace("TRAINED", str(trained))
        points = "[lora_bench.methods]\ntinyshift = tinyshift\n"
        wheel(project / "wheels", version, source=source, entry_points=points)
    (project / "tickets.yaml").write_text(
        SUITE.replace("[full, lora, bottleneck_adapter, prefix_tuning]", "[tinyshift]").replace("48", "1_600")
    )
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(project / "wheels"))
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}

    def lora_bench(*arguments, installed):
        here = {**environment, "PYTHONPATH": os.pathsep.join([str(project / installed), str(ROOT)])}
        command = [sys.executable, "-m", "lora_bench.cli", *arguments]
        return subprocess.run(command, env=here, capture_output=True, text=True, check=False)

    for version in ("1.0", "2.0"):
        path = project / "wheels" / f"tinyshift-{version}-py3-none-any.whl"
        subprocess.run([sys.executable, "-m", "zipfile", "-e", str(path), str(project / version)], check=True)
    run = ("run", "tickets.yaml", "--workers", "0", "--quiet", "--series")
    assert lora_bench(*run, "good", installed="1.0").returncode == 0
    assert lora_bench(*run, "tonight", installed="2.0").returncode == 0
    (good,), (bad,) = (read_records(project / "runs/tickets" / label) for label in ("good", "tonight"))
    assert good.score > bad.score + 0.05
    write_history(project, "good", good.score)
    options = ("check", "runs/tickets/tonight", "--baseline", "gate", "--suite", "tickets.yaml", "--workers", "0")
    done = lora_bench(*options, "--bisect", "tinyshift=1.0,3.0,2.0", "--yes", installed="2.0")
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.splitlines()[-3:] == [
        "last good: tinyshift 1.0",
        "first bad: tinyshift 2.0",
        "could not be tried, so the first bad one may be among them: 3.0",
    ]
    assert not list(project.glob("runs/tickets/tonight-bisect/*/venv"))


def test_a_suites_first_night_cannot_be_decided_and_says_how_its_history_begins(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    put(tmp_path / "runs/tickets/tonight", night_records("tonight"))
    assert main(["check", "runs/tickets", "--baseline", "tickets", "--json", "answer.json"]) == 4
    *_, accept, run, headline = capsys.readouterr().out.splitlines()
    assert accept == 'next: lora-bench baseline accept runs/tickets --name tickets --reason "no history yet"'
    assert run.startswith("next: lora-bench run tickets --series ")
    assert headline.startswith("cannot decide: tonight of tickets against 0 accepted nights of tickets")
    assert main(["baseline", "accept", "runs/tickets", "--name", "tickets", "--reason", "no history yet"]) == 0
    # A name that is nearly one of those that are there is a mistake.
    assert main(["check", "runs/tickets", "--baseline", "ticketz"]) == 2
    assert "did you mean" in capsys.readouterr().err
