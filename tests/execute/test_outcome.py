"""The outcome of a suite in Python: a short repr, an answer, data frames, a report, and a card with progress in a notebook."""

import os
import re
import shutil
import sys
from dataclasses import replace
from pathlib import Path

import html5lib
import nbformat
import pytest
from nbclient import NotebookClient

from lora_bench.cli import main
from lora_bench.execute.outcome import Outcome
from lora_bench.execute.run_suite import run_suite
from lora_bench.records.store import RunFolder, stopped_runs
from tests.project import SUITE, write_project

ROOT = Path(__file__).parents[2]
# At a rate near nothing prefixes learn nothing, and a full training does.
TWO = "[{method: full, learning_rate: 3e-3}, {method: prefix_tuning, learning_rate: 1e-9}]"


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    """A suite whose verdict is clear."""
    suite = SUITE.replace("[full, lora, bottleneck_adapter, prefix_tuning]", TWO).replace(
        "seeds: [0]", "seeds: [0, 1, 2, 3]"
    )
    suite = suite.replace("train_examples: 48", "train_examples: 1_600")
    return write_project(tmp_path_factory.mktemp("outcome"), suite)


@pytest.fixture(scope="module")
def outcome(project):
    return run_suite(project, runs=project.parent / "runs", workers=0)


def test_a_repr_is_one_line(outcome):
    said = repr(outcome)
    assert said == f"<Outcome of tickets in {outcome.folder}: 8 records (8 ok)>" and str(outcome) == said


def test_the_answer_and_the_winner_are_those_of_the_report_and_of_choose(outcome, project, capsys):
    (page, *_) = outcome.write_report(project.parent / "reports", "mine")
    markdown = page.read_text()
    assert outcome.winner == "full"
    lead = next(line for line in outcome.answer.splitlines() if "`" not in line and "full" in line)
    assert lead in markdown.replace("`", "").replace("**", "") and "exploratory" in outcome.answer
    assert "](" not in outcome.answer and "**" not in outcome.answer
    assert main(["choose", str(outcome.folder)]) == 0
    assert ": full, expected to lose " in capsys.readouterr().out.splitlines()[0]


def test_where_runs_learned_nothing_there_is_no_winner(outcome):
    of_seed = [record for record in outcome.records if record.spec.seed == 0]
    # Below what a constant answer scores.
    first = tuple(
        record.model_copy(update={"scores": {record.spec.task.metric: 0.1}, "predictions": None}) for record in of_seed
    )
    undecided = Outcome(suite="tickets", folder=outcome.folder, records=first, done=2, interrupted=None)
    assert undecided.winner is None and undecided.answer.startswith("No result: too many runs did no better")


def test_its_frames_have_a_row_a_run_and_a_row_a_verdict(outcome):
    assert len(outcome.frame) == 8 and set(outcome.frame["status"]) == {"ok"}
    verdicts = outcome.verdicts.set_index("label")
    assert verdicts.loc["prefix_tuning", "verdict"] == "worse" and verdicts.loc["prefix_tuning", "pairs"] == 4


def test_the_report_is_that_of_the_command(outcome, tmp_path):
    written = outcome.write_report(tmp_path, "report")
    assert main(["report", str(outcome.folder), "--out", str(tmp_path / "other")]) == 0
    other = (tmp_path / "other" / "tickets.md").read_text()
    assert written[0].read_text() == other.replace("(tickets/", "(report/")
    assert outcome.write_report()[0] == outcome.folder / "report.md"


def test_a_run_that_a_stop_left_undone_is_named_and_counted(outcome, tmp_path):
    """It was in no table and no count of the report."""
    lost = outcome.records[-1]
    stopped = replace(outcome, records=outcome.records[:-1], interrupted="out_of_time", undone=(lost.spec,))
    said = f"1 run not done: the work was stopped before the end of prefix_tuning (seed {lost.spec.seed}); the same command"
    assert said in stopped.answer
    counted = "Of 8 runs, 7 ended `ok` and 1 not done."
    assert counted in stopped.write_report(tmp_path)[0].read_text()
    # The command knows the runs that had begun; once the suite was edited, the run of its new settings counts.
    folder = tmp_path / "runs" / "tickets"
    shutil.copytree(outcome.folder, folder, ignore=shutil.ignore_patterns("report*"))
    (folder / lost.run_id / "record.json").unlink()
    RunFolder(folder / lost.run_id).publish(lost.model_copy(update={"status": "interrupted", "reason": "stopped"}))
    assert main(["report", str(folder)]) == 0 and counted in (folder / "report.md").read_text()
    assert [one.spec for one in stopped_runs(folder, stopped.records)] == [lost.spec]
    assert stopped_runs(folder, outcome.records) == []


def test_a_card_is_html_that_asks_for_nothing(outcome):
    card = outcome._repr_html_()
    parsed = html5lib.parse(card, namespaceHTMLElements=False)
    (box,) = parsed.findall("body/div")
    assert not [one.tag for one in parsed.iter() if one.tag in ("script", "link", "iframe", "a")]
    (image,) = box.iter("img")
    assert image.get("src").startswith("data:image/svg+xml,") and "https://" not in card.replace(image.get("src"), "")
    cells = [["".join(cell.itertext()) for cell in row] for row in box.iter("tr")]
    assert [row[0].split(",")[0] for row in cells] == ["method", "full", "prefix_tuning"]
    words = "".join(box.itertext())
    assert outcome.answer.splitlines()[0] in words and "Next:" in words


def test_an_outcome_without_records_says_so(tmp_path):
    empty = Outcome(suite="x", folder=tmp_path, records=(), done=0, interrupted="SIGINT")
    assert repr(empty).endswith("0 records (none), stopped by SIGINT>")
    assert empty.winner is None and empty.answer in empty._repr_html_() and len(empty.frame) == 0


@pytest.mark.slow
def test_a_notebook_shows_progress_and_then_the_card(project, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]))
    code = (
        "from lora_bench import run_suite\n"
        f"outcome = run_suite({str(project)!r}, runs={str(project.parent / 'notebook')!r}, workers=0)"
    )
    cells = [nbformat.v4.new_code_cell(source) for source in (code, "outcome", "print(repr(outcome))")]
    ran = NotebookClient(nbformat.v4.new_notebook(cells=cells), timeout=600, kernel_name="python3").execute()
    progress, card, said = (cell.outputs for cell in ran.cells)
    shown = "".join(output.text for output in progress if output.output_type == "stream")
    assert re.search(r"^\[8/8\] tickets · base · \w+", shown, re.MULTILINE)
    assert card[0].data["text/html"].startswith('<div class="lora-bench-answer">')
    assert said[0].text.count("\n") == 1


def test_a_script_in_a_terminal_shows_bars_and_a_pipe_nothing(project, monkeypatch, capsys):
    pytest.importorskip("pty", reason="no pseudo-terminals here")
    import pty

    code = f"from lora_bench import run_suite; run_suite({str(project)!r}, runs={str(project.parent / 'runs')!r}, workers=0)"
    seen = bytearray()

    def read(descriptor):
        data = os.read(descriptor, 1024)
        seen.extend(data)
        return data

    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setenv("TERM", "xterm")
    assert pty.spawn([sys.executable, "-c", code], read) == 0
    assert b"nothing to do, 8 of 8 runs are done" in seen
