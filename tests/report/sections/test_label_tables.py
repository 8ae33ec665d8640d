"""The folded part on several labels a text says what a hand counts."""

import pytest

from lora_bench.exchange import data_files
from lora_bench.metrics import find
from lora_bench.metrics.support.as_evaluate import value_of
from lora_bench.records.store import Answers
from lora_bench.report import Report, render_markdown
from tests.report.sections.test_class_tables import table_below
from tests.sample_records import record

# Of four items: a a+b b none.
RIGHT = [[0], [0, 1], [1], []]
SAID = {"full": [[[0], [0, 1], [1], []], [[0], [0], [], []]], "lora": [[[0], [0], [0], [0]], [[], [0, 1], [1], []]]}


def runs():
    records, given = [], {}
    for method, of_seeds in SAID.items():
        for seed, answers in enumerate(of_seeds):
            score = value_of(find("multilabel_micro_f1"), answers, RIGHT)
            one = record(method, seed=seed, metric="multilabel_micro_f1", score=score)
            task = one.spec.task.model_copy(
                update={"labels": ("a", "b", "c"), "definition": {"task": "mine", "kind": "multilabel"}}
            )
            one = one.model_copy(update={"spec": one.spec.model_copy(update={"task": task})})
            records.append(one)
            given[one.run_id] = Answers(answers, RIGHT)
    return records, given.get


def test_each_label_has_its_scores_and_one_that_is_nowhere_has_none():
    records, answers = runs()
    page = render_markdown(Report(records, answers=answers))
    assert table_below(page, "label | method | items") == [
        ["a", "`full`†", "2", "1.0000", "1.0000", "1.0000"],
        # first run: 2 right of 4 said: precision 1/2, F1 2/3; second: 1 of 1 and 2: F1 2/3
        ["a", "`lora`", "2", "0.7500", "0.7500", "0.6667"],
        # second run: never said
        ["b", "`full`†", "2", "0.5000", "0.5000", "0.5000"],
        ["b", "`lora`", "2", "0.5000", "0.5000", "0.5000"],
    ]
    assert "answered a" not in page and "calibration error" not in page


@pytest.mark.parametrize("said", [[[0], [3], [], []], [[0], 1, [], []], [["a"], [], [], []], [[-1], [], [], []]])
def test_predictions_that_are_no_labels_of_the_task_are_left_out(said):
    records, answers = runs()
    strange = {records[0].run_id: Answers(said, RIGHT)}
    page = render_markdown(Report(records, answers=lambda run_id: strange.get(run_id) or answers(run_id)))
    assert "| label | method | items" in page
    assert {line[1] for line in table_below(page, "label | method | items")} == {"`lora`"}


def test_the_frame_of_classes_has_a_row_a_label():
    records, answers = runs()
    lines = data_files(Report(records, answers=answers))["classes.csv"].decode().splitlines()
    assert len(lines) == 1 + 2 * 3 and sum(",a," in line for line in lines) == 2
