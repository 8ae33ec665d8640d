"""The table at the end of a run fits 100 columns and shows failures with their reason."""

import io

import pytest
from rich.console import Console

from lora_bench.report.terminal import terminal_table
from tests.report.hostile import hostile_records
from tests.sample_records import record, sample_suite


def shown(records, **options) -> str:
    terminal = Console(width=100, file=io.StringIO(), **options)
    terminal.print(terminal_table(records))
    return terminal.file.getvalue()


def test_scores_with_spread_and_number_of_seeds():
    text = shown([record(seed=seed, score=score) for seed, score in enumerate([0.70, 0.72, 0.77])])
    assert "0.7300 ± 0.0361 (3)" in text
    assert "7,680" in text
    assert "50.0" in text


@pytest.mark.parametrize("records", [sample_suite(), hostile_records()], ids=["sample", "hostile"])
def test_it_fits_100_columns(records):
    assert max(map(len, shown(records).splitlines())) <= 100


def test_failures_are_rows_with_their_reason():
    text = " ".join(shown(sample_suite()).split())
    assert "diverged (1 of 2): the loss was nan" in text
    assert "unsupported (2 of 2): prefixes have" in text


def test_the_reference_is_marked():
    text = shown([record("full"), record("lora")])
    assert "full†" in text
    assert "† reference line" in text


def test_no_color_is_respected(monkeypatch):
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("TERM", "xterm")
    assert "\x1b[31m" in shown(sample_suite(), force_terminal=True)
    monkeypatch.setenv("NO_COLOR", "1")
    assert "\x1b[31m" not in shown(sample_suite(), force_terminal=True)


def test_markup_in_a_name_is_text():
    text = shown([record(model="[red]gpt2[/red]", status="failed", reason="[/nothing] \x1b[2J")])
    assert "[red]gpt2[/red]" in text
    assert "\x1b[2J" not in text


def test_no_records_make_an_empty_table():
    assert shown([]).strip() == ""
