"""Rows that no model can learn from: refused with their line before any work, or warned of."""

import json

import pytest

from lora_bench.documents import Document
from lora_bench.errors import BadInput
from lora_bench.tasks import load_data, task_from_document

TASK = {"task": "tickets", "data": "rows.jsonl", "text": "text", "label": "label"}


@pytest.fixture
def read(tmp_path):
    """Loads a task from labels, or from whole lines of JSON."""

    def load(*labels, lines=None, **keys):
        rows = [f'{{"text": "film {number}", "label": {label}}}' for number, label in enumerate(labels)]
        (tmp_path / "rows.jsonl").write_text("\n".join(lines or rows))
        return load_data(task_from_document(Document("task.yaml", {**TASK, **keys})), tmp_path)

    return load


NUMBERS = {"kind": "regression", "metric": "pearson"}
HUNDRED = [str(number) for number in range(100)]


@pytest.mark.parametrize(
    ("label", "words"),
    [
        ("NaN", r"has no label in column 'label' in 1 row \(line 1"),
        ('["a"]', "has labels in column 'label' that are neither text nor numbers but list"),
        ('{"a": 1}', "that are neither text nor numbers but dict"),
        ('"a\\ud800"', r"rows.jsonl:1: has half of a character \(\\ud800\) in column 'label'"),
    ],
)
def test_a_label_that_is_none_is_refused(read, label, words):
    with pytest.raises(BadInput, match=words):
        read(label, *(100 * ['"a"', '"b"']))


@pytest.mark.parametrize("gap", ["null", "NaN", '""', '"  "'])
def test_rows_without_a_label_are_left_out_if_the_task_says_so_and_counted(read, gap):
    labels = 100 * ['"a"', '"b"']
    with pytest.raises(BadInput, match=r"in 2 rows \(lines 1, 2\); `unlabelled_rows: leave_out` leaves such rows out"):
        read(gap, gap, *labels)
    data = read(gap, gap, *labels, unlabelled_rows="leave_out")
    assert sum(len(split.ids) for split in data.splits.values()) == 200 and data.labels == ("a", "b")
    assert any(said.endswith("rows.jsonl has 2 rows without a label, which are left out") for said in data.warnings)
    # Other faults name the line in the file.
    with pytest.raises(BadInput, match=r"are neither text nor numbers but list in 1 row \(line 2\)"):
        read(gap, '["a"]', *labels, unlabelled_rows="leave_out")
    assert not read(*labels, unlabelled_rows="leave_out").warnings


def test_numbers_and_texts_to_write_may_be_missing_too(read):
    data = read("null", *HUNDRED, unlabelled_rows="leave_out", **NUMBERS)
    assert sum(len(split.ids) for split in data.splits.values()) == 100
    texts = {"kind": "generation", "metric": "exact_match", "unlabelled_rows": "leave_out"}
    data = read('""', '[" ", null]', '["x", ""]', *(f'"{number}"' for number in HUNDRED), **texts)
    assert sum(len(split.ids) for split in data.splits.values()) == 101


def test_half_a_character_of_a_text_is_refused_and_a_whole_one_is_read(read):
    good = [json.dumps({"text": f"film {number} \U0001f600", "label": number % 2}) for number in range(100)]
    assert "\\ud83d\\ude00" in good[0]
    assert read(lines=good).splits["train"].texts[0][0].endswith("\U0001f600")
    # A column that the task does not read may hold anything.
    assert read(lines=[*good, '{"text": "x", "label": 1, "note": "\\udc00"}'])
    with pytest.raises(BadInput, match=r"rows.jsonl:101: has half of a character \(\\udc00\) in column 'text'"):
        read(lines=[*good, '{"text": "x \\udc00", "label": 1}'])


@pytest.mark.parametrize("label", ["1e308", "-2e18"])
def test_a_number_whose_squared_error_is_infinite_is_refused(read, label):
    assert read("1e18", *HUNDRED, **NUMBERS)
    with pytest.raises(BadInput, match=r"has labels in column 'label' beyond 1e\+18, such as .*: scale them"):
        read(label, *HUNDRED, **NUMBERS)


def test_numbers_that_are_all_the_same_are_refused_since_nothing_correlates_with_them(read):
    with pytest.raises(BadInput, match=r"gives all \d+ examples of train the label 3"):
        read(*(100 * ["3"]), **NUMBERS)


def test_a_class_of_one_row_is_a_warning(read):
    labels = 50 * ['"a"', '"b"']
    assert not [said for said in read(*labels).warnings if "only one example" in said]
    assert "only one example in all splits has the label 'z'" in read('"z"', *labels).warnings


def test_a_long_label_is_shown_in_part(read):
    with pytest.raises(BadInput) as error:
        read("1" + "0" * 400, *HUNDRED, **NUMBERS)
    assert f"'1{'0' * 39}…') in 1 row" in str(error.value)
