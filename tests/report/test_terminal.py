"""The answer at the end of a run fits the last lines of a terminal of 100 columns."""

import io

import pytest
from rich.console import Console

from lora_bench.report.blocks import Heading, SectionAnswer
from lora_bench.report.model.report import Report
from lora_bench.report.terminal import terminal_answer
from tests.report.hostile import hostile_records
from tests.sample_records import record, sample_suite


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
