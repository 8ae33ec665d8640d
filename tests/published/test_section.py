"""The published section and the listings say what the table and the records say, whatever strings these have."""

import dataclasses
import re

import pytest
from rich.console import Console

from lora_bench.published import PublishedTable, disagreements, fields, judge_table, load_table
from lora_bench.published.table_section import in_its_unit, published_section, published_value, summary, verdict_text
from lora_bench.published.table_terminal import cells_listing, tables_listing
from lora_bench.records.protocol import PROTOCOLS
from lora_bench.report.blocks import to_markdown
from tests.sample_records import PARAMETERS, record

MODEL = "FacebookAI/roberta-base"


COUNTS = (
    "9 cells: 0 reproduced, 1 in line, 1 not reproduced, 1 not comparable, 6 not run. "
    "Of 2 cells that could have been refuted: 0 reproduced, 1 in line, 1 not reproduced."
)


def runs(task, *scores, model=MODEL, **more):
    spec = {"protocol": "paper", "rules": PROTOCOLS["paper"]}
    counted = PARAMETERS["lora"].model_copy(update={"adapter": 294_912})
    made = [
        record("lora", task=task, score=score, seed=seed, model=model, spec=spec, parameters=counted, **more)
        for seed, score in enumerate(scores)
    ]
    hub = {one.run_id: one.spec.model.model_copy(update={"revision": "0" * 40}) for one in made}
    return [one.model_copy(update={"spec": one.spec.model_copy(update={"model": hub[one.run_id]})}) for one in made]


@pytest.fixture(scope="module")
def lora_row() -> PublishedTable:
    """LoRA on RoBERTa-base of Table 2: eight tasks and their average."""
    table = load_table("lora-table2")
    cells = tuple(cell for cell in table.cells if cell.model == MODEL and cell.row == "LoRA")
    assert len(cells) == 9
    return dataclasses.replace(table, cells=cells)


@pytest.fixture(scope="module")
def records():
    return [
        *runs("rte", 0.86, 0.866, 0.87),  # printed is 0.866 ± 0.007
        *runs("mrpc", 0.80, 0.801, 0.802),  # 0.897 ± 0.007
        *runs("sst2", 0.95, 0.951, 0.952, training={"train_examples": 64}),
    ]


@pytest.fixture(scope="module")
def verdicts(lora_row, records):
    asked = {one.spec.task.name: fields(one.spec) for one in runs("rte", 0.5) + runs("mrpc", 0.5) + runs("sst2", 0.5)}
    return judge_table(lora_row, records, lambda cell: asked[cell.task])


def tables(lines) -> list[list[list[str]]]:
    found: list[list[list[str]]] = [[]]
    for line in lines:
        if line.startswith("|"):
            found[-1].append([cell.strip() for cell in re.split(r"(?<!\\)\|", line.strip())[1:-1]])
        elif found[-1]:
            found.append([])
    return [table for table in found if table]


def test_a_line_has_the_published_and_the_measured_number_and_the_verdict(lora_row, verdicts):
    lines = to_markdown(published_section(lora_row, verdicts)).splitlines()
    rows = {(row[1], row[2]): row for row in tables(lines)[0][2:]}
    assert rows["`rte`", "`accuracy`"][:5] == ["LoRA", "`rte`", "`accuracy`", "86.6 ± 0.7 (median of 5)", "86.60"]
    assert rows["`rte`", "`accuracy`"][6:9] == ["3", "+0.00", "in line"]
    assert rows["`mrpc`", "`accuracy`"][7:9] == ["−9.60", "not reproduced (lower)"]
    assert rows["`sst2`", "`accuracy`"][8] == "not comparable: training.train\\_examples"
    assert rows["`cola`", "`matthews_correlation`"][4:9] == ["–", "–", "–", "–", "not run"]
    assert rows["`glue`", "`average`"][3] == "87.2 (mean over tasks)"


def test_one_cell_comes_first_of_all_in_the_papers_unit(lora_row, verdicts):
    one = [
        verdict if verdict.cell.task == "rte" else dataclasses.replace(verdict, measured=None) for verdict in verdicts
    ]
    first = to_markdown(published_section(lora_row, one)).splitlines()[2]
    assert first.startswith(
        "LoRA on `FacebookAI/roberta-base`, `rte`, `accuracy`: 86.6 ± 0.7 printed, 86.60 in 3 runs of ours: in line. "
        "Compared with the printed numbers: "
    )
    assert len(first) < 400


def test_cells_with_runs_come_first(lora_row, verdicts):
    rows = tables(to_markdown(published_section(lora_row, verdicts)).splitlines())[0][2:]
    assert [row[1] for row in rows[:3]] == ["`sst2`", "`mrpc`", "`rte`"]
    assert all(row[4] == "–" for row in rows[3:])


def test_a_number_that_is_no_percentage_stays_as_it_is():
    nist = next(cell for cell in load_table("lora-table3").cells if cell.printed == "8.85")
    assert (in_its_unit(nist, 8.7912), in_its_unit(nist, -0.0588, signed=True)) == ("8.791", "−0.059")


def test_what_differs_stands_once_with_both_values(lora_row, verdicts):
    lines = to_markdown(published_section(lora_row, verdicts)).splitlines()
    header, _, *rows = tables(lines)[1]
    assert header == ["field", "the published number is of", "the runs are of", "cells"]
    assert rows == [["`training.train_examples`", "`3200`", "`64`", "LoRA, sst2"]]


def test_the_counts_add_up(verdicts):
    assert summary(verdicts) == COUNTS


def test_notes_are_said_once_and_numbered_in_the_order_of_the_lines(lora_row, verdicts):
    lines = to_markdown(published_section(lora_row, verdicts)).splitlines()
    notes = lines[lines.index("### Notes") + 2 :]
    assert [note.split(". ")[0] for note in notes] == [str(number) for number in range(1, len(notes) + 1)]
    assert sum("Alpha is 8 in the paper and 16 in the scripts" in note for note in notes) == 1
    alpha = next(note.split(".")[0] for note in notes if "Alpha is 8" in note)
    cited = [row[9].split(", ") for row in tables(lines)[0][2:]]
    assert all(alpha in numbers for numbers in cited[:8])
    assert {number for numbers in cited for number in numbers} == {note.split(".")[0] for note in notes}


def test_a_table_without_any_run_says_so():
    table = load_table("lora-table4")
    found = judge_table(table, [], lambda cell: None)
    lines = to_markdown(published_section(table, found)).splitlines()
    counts = "40 cells: 0 reproduced, 0 in line, 0 not reproduced, 0 not comparable, 40 not run."
    assert lines[2] == f"Compared with the printed numbers: {counts} None could have been refuted."
    assert "- The weights of GPT-3 are not public: 40 cells." in lines


def test_digits_are_those_that_were_printed():
    found = {cell.key: cell for cell in load_table("lora-table18").cells}
    rank = "LoRA, rank 4", "openai-community/gpt2-medium", "e2e_tokens"
    assert published_value(found[(*rank, "bleu")]) == "70.38"
    assert published_value(found[(*rank, "nist")]) == "8.8439"
    spread = next(cell for cell in load_table("lora-table3").cells if cell.printed_spread == "0.02")
    assert published_value(spread) == "8.85 ± 0.02"


def test_many_fields_are_counted_and_not_all_named(lora_row):
    other = runs(
        "rte",
        0.5,
        0.5,
        0.5,
        model="./tiny",
        learning_rate=2e-3,
        training={"max_length": 9, "steps": 1, "batch_size": 2},
    )
    cell = next(cell for cell in lora_row.cells if cell.task == "rte")
    (found,) = judge_table(
        dataclasses.replace(lora_row, cells=(cell,)),
        other,
        lambda _: fields(runs("rte", 0.5)[0].spec),
        {MODEL: "./tiny"},
    )
    first, *_ = said = verdict_text(found).removeprefix("not comparable: ").split(", ")
    assert first == "model" and len(said) == 3 and said[-1].endswith(" and 2 more")


def shown(listing) -> str:
    console = Console(width=300)
    with console.capture() as captured:
        console.print(listing)
    return captured.get()


def test_the_listing_has_every_table_and_whether_it_can_be_repeated():
    lines = shown(tables_listing()).splitlines()
    (gpt3,) = (line for line in lines if " lora-table4 " in line)
    assert "no: the weights of GPT-3 are not public" in gpt3
    (glue,) = (line for line in lines if " lora-table2 " in line)
    assert "126" in glue and "roberta-base, roberta-large, deberta-v2-xxlarge" in glue and "all but 16 cells" in glue
    names = [line.split()[0] for line in lines if "-table" in line]
    assert names.index("lora-table3") < names.index("lora-table13")
    said = " ".join(" ".join(lines).split())
    assert "adalora-table1 and adalora-table14 (2 numbers), lora-table3 and vera-table3 (10 numbers)." in said


def test_a_number_that_another_table_prints_differently_is_named_with_it():
    table = load_table("vera-table3")
    line = "LoRA, gpt2-medium, e2e_tokens, bleu: 68.9 here, 70.4 ± 0.1 in lora-table3"
    assert line in " ".join(shown(cells_listing(table)).split())
    lines = to_markdown(
        published_section(table, judge_table(table, [], lambda cell: None), elsewhere=disagreements(table))
    ).splitlines()
    first = lines.index("### What other tables print") + 2
    assert lines[first] == f"- {line.replace('_', chr(92) + '_')}."


def test_a_tables_listing_has_every_cell(lora_row):
    lines = shown(cells_listing(lora_row)).splitlines()
    (rte,) = (line for line in lines if " rte " in line)
    assert rte.split() == [
        "roberta-base",
        "LoRA",
        "rte",
        "accuracy",
        "86.6",
        "±",
        "0.7",
        "median",
        "of",
        "5",
        "–",
        "lora",
    ]
