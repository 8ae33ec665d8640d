"""The table at the end of a run fits 100 columns and shows failures with their reason."""

import io

import pytest
from rich.console import Console

from lora_bench.report.blocks import Heading, SectionAnswer
from lora_bench.report.model.report import Report
from lora_bench.report.terminal import terminal_answer, terminal_table
from tests.report.hostile import hostile_records
from tests.sample_records import record, sample_suite


def shown(records, **options) -> str:
    terminal = Console(width=100, file=io.StringIO(), **options)
    terminal.print(terminal_table(records))
    return terminal.file.getvalue()


def test_scores_with_spread_and_number_of_seeds():
    text = shown([record(seed=seed, score=score) for seed, score in enumerate([0.70, 0.72, 0.77])])
    assert "0.7300 ± 0.0361" in text
    assert next(line for line in text.splitlines() if "0.7300" in line).split()[-3] == "3"


@pytest.mark.parametrize("records", [sample_suite(), hostile_records()], ids=["sample", "hostile"])
def test_it_fits_100_columns(records):
    assert max(map(len, shown(records).splitlines())) <= 100


def test_failures_are_rows_with_their_reason():
    text = " ".join(shown(sample_suite()).split())
    assert "diverged (seed 1): the loss" in text and "was nan at step 37" in text
    assert "unsupported (seeds 0, 1):" in text and "prefixes have no position" in text


def test_the_reference_is_marked():
    text = shown([record("full"), record("lora")])
    assert "full†" in text
    assert "† exempt from the parameter target" in text


def test_memory_time_and_adapter_parameters_are_shown_with_a_mark_where_other_work_ran_beside():
    alone, beside = shown([record()]), shown([record(exclusive=False)])
    assert alone.splitlines()[-2].split() == ["lora", "300", "50.0", "320", "7,680"] and "‡" not in alone
    assert " ".join(beside.split()).endswith("lora 300‡ 50.0‡ 320‡ 7,680 ‡ other work ran beside")


def test_markup_in_a_name_is_text():
    text = shown([record(model="[red]gpt2[/red]", status="failed", reason="[/nothing] \x1b[2J")])
    assert "[red]gpt2[/red]" in text
    assert "\x1b[2J" not in text


def test_no_records_make_an_empty_table():
    assert shown([]).strip() == ""


def answer_of(records, width=100, sections=()) -> list[str]:
    terminal = Console(width=width, file=io.StringIO())
    terminal.print(terminal_answer(Report(records, sections=sections)))
    return terminal.file.getvalue().splitlines()


def four_methods(seeds=10):
    shifts = {"full": 0.03, "lora": 0.0, "bottleneck_adapter": 0.005, "prefix_tuning": -0.05}
    return [
        record(method, model=model, seed=seed, score=0.7 + by * (1 + seed % 2 / 5) + (seed % 3) / 200)
        for model in ("first model", "second model", "third model")
        for method, by in shifts.items()
        for seed in range(seeds)
    ]


@pytest.mark.parametrize("records", [sample_suite(), four_methods(), four_methods(2)], ids=["sample", "ten", "two"])
def test_the_answer_fits_the_last_lines_of_a_terminal(records):
    lines = answer_of(records)
    assert len(lines) <= 25 and max(map(len, lines)) <= 100
    text = "\n".join(lines)
    assert (
        text.startswith("Take ")
        and "No learning rate was tuned" in text
        and "Strength: " in text
        and "Next: " in lines[-1] + lines[-2]
    )
    assert "full (reference)" in text and "`" not in text and "**" not in text and "](" not in text


def test_the_answers_of_other_sections_stand_before_that_of_the_report():
    few = [one for one in four_methods() if one.spec.model.shown == "first model"]
    published = [Heading(2, "Published: a table"), SectionAnswer("Compared with the printed numbers: 3 cells.")]
    assert answer_of(few, sections=[published])[0] == "Compared with the printed numbers: 3 cells."


def test_hostile_strings_are_text_in_the_answer():
    lines = answer_of(hostile_records())
    assert "\x1b" not in "".join(lines) and max(map(len, lines)) <= 100
