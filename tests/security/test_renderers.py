"""What is shown outside of reports is text too: plans, lines of progress, lists, errors and the cards of kept weights."""

import io
import json
import re

import pytest
from markdown_it import MarkdownIt

from lora_bench.cli import main
from lora_bench.cli.listing import LISTINGS
from lora_bench.cli.plan_table import plan_tables
from lora_bench.execute.progress import Bars, Lines, QuietOnBrokenPipe, result_line
from lora_bench.execute.run_probes import shown
from lora_bench.plan.make_plan import make_plan
from lora_bench.suite.load_suite import load_suite
from lora_bench.training.model_card import model_card
from tests.project import SUITE, write_project
from tests.report.hostile import HOSTILE, STRINGS, WORDS, anywhere, hostile_probes, hostile_records
from tests.report.test_hostile import UNSEEN

COLOUR = re.compile(r"\x1b\[[0-9;]*m")


def console(width=100):
    return QuietOnBrokenPipe(width=width, file=io.StringIO(), force_terminal=True, color_system="standard")


def assert_inert(written, colours=frozenset()):
    assert set(COLOUR.findall(written)) <= set(colours) | {"\x1b[2m", "\x1b[0m"}
    assert not (UNSEEN - {"\u2066"}) & set(COLOUR.sub("", written))


@anywhere
def test_lines_of_progress_are_text(text):
    shown_by = console()
    for display in (Lines(shown_by), Bars(shown_by)):
        display.say(text)
        for record in hostile_records(text)[:2]:
            display.finished(record)
    for record in hostile_probes(text):
        shown_by.print(shown(record), markup=False, highlight=False)
    assert_inert(shown_by.file.getvalue())
    assert all(result_line(record) for record in hostile_records(text))


@pytest.fixture(scope="module")
def plans(tmp_path_factory):
    """The plan of a suite whose free texts are all hostile, and of one whose are words, as a terminal gets them."""
    found = {}
    for name, text in {"hostile": " ".join([*STRINGS.values(), HOSTILE]).replace("\0", ""), "inert": WORDS}.items():
        folder = tmp_path_factory.mktemp(name)
        methods = [{"method": "lora", "label": text}, {"method": "full", "label": f"[/] {text}"}]
        suite = SUITE.replace("[full, lora, bottleneck_adapter, prefix_tuning]", json.dumps(methods))
        suite = suite.replace("[base]", json.dumps([{"model": "base", "shown": text}]))
        recipes = [{"methods": [text], "learning_rate": 0.5}]
        suite = write_project(folder, f"{suite}about: {json.dumps(text)}\nrecipes: {json.dumps(recipes)}\n")
        made = make_plan(load_suite(suite), folder / "runs")
        shown_by = console(width=200)
        for part in plan_tables(made):
            shown_by.print(part, highlight=False)
        found[name] = (shown_by.file.getvalue(), made)
    return found


def test_a_plan_is_text(plans):
    (written, _), (words, _) = plans["hostile"], plans["inert"]
    assert_inert(written, COLOUR.findall(words))
    assert "[red]x[/red]" in re.sub(r"\s+", "", COLOUR.sub("", written)) or "[red]" in written


def test_the_card_of_kept_weights_is_text(plans):
    def structure(made):
        parsed = MarkdownIt("commonmark", {"html": True}).parse(
            model_card(made.cells[0].job.spec, 3, "lora_bench.tuners", {"accuracy": 0.5}, 40)
        )
        marks = [child.type for token in parsed for child in token.children or []]
        return [token.type for token in parsed], {kind for kind in marks if kind != "text"}

    assert structure(plans["hostile"][1]) == structure(plans["inert"][1])
    card = model_card(plans["hostile"][1].cells[0].job.spec, 3, "", {"accuracy": 0.5}, 40)
    assert not UNSEEN & set(card)


def test_a_list_is_text(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    text = " ".join(STRINGS.values()).replace("\0", "")
    (tmp_path / "tasks").mkdir()
    (tmp_path / "tasks" / "[red]x[bold].yaml").write_text(f"about: {json.dumps(text)}\nmetric: '[/]'\n")
    (tmp_path / "baselines" / "[red]y[bold]").mkdir(parents=True)
    (tmp_path / "baselines" / "[red]y[bold]" / "suite.yaml").write_text(f"about: {json.dumps(text)}\n")
    for what, name in (("tasks", "[red]x[bold]"), ("suites", "[red]y[bold]")):
        shown_by = console(width=200)
        shown_by.print(LISTINGS[what](), highlight=False)
        written = shown_by.file.getvalue()
        assert name in written
        assert_inert(written, ["\x1b[1m", "\x1b[2;3m", "\x1b[3m", "\x1b[2m", "\x1b[0m"])


@anywhere
def test_an_error_is_text(tmp_path, monkeypatch, capsys, text):
    monkeypatch.chdir(tmp_path)
    key = json.dumps(text.replace("\0", ""))
    short = json.dumps(text.replace("\0", "")[:1000])  # no longer key is read
    (tmp_path / "x.yaml").write_text(
        f"suite: {key}\n? {short}\n: {key}\ntasks: [{key}]\nmodels: []\nmethods: [{key}]\n"
    )
    assert main(["plan", "x.yaml"]) == 2
    said = capsys.readouterr().err
    assert "unknown task" in said
    assert not (UNSEEN | {"\u2066"}) & set(said)
