"""The folded part on labels of words says what a hand counts."""

from functools import partial

import pytest
from seqeval.metrics import classification_report

from lora_bench.exchange import data_files
from lora_bench.metrics import find
from lora_bench.metrics.support.as_evaluate import value_of
from lora_bench.records.store import Answers
from lora_bench.report import Report, render_markdown
from lora_bench.report.model.given_answers import given_answers
from tests.report.sections.test_class_tables import table_below
from tests.sample_records import record

TAGS = ("O", "B-PER", "I-PER", "B-LOC")
# A person of two words and a place; a place; nothing.
RIGHT = [["B-PER", "I-PER", "O", "B-LOC"], ["O", "B-LOC"], ["O"]]
# The first run has half of the person; the second a place where the person is, and a place in nothing.
LORA = [
    [["B-PER", "O", "O", "B-LOC"], ["O", "B-LOC"], ["O"]],
    [["B-LOC", "O", "O", "B-LOC"], ["O", "B-LOC"], ["B-LOC"]],
]
SAID = {"full": [RIGHT, RIGHT], "lora": LORA}

WORDS = ("noun", "verb")
WORDS_RIGHT = [["noun", "verb", "noun"], ["verb"]]
WORDS_SAID = {"full": [WORDS_RIGHT], "lora": [[["noun", "noun", "noun"], ["verb"]]]}


def runs(said, right, labels, metric, score_of):
    records, given = [], {}
    for method, of_seeds in said.items():
        for seed, answers in enumerate(of_seeds):
            one = record(method, seed=seed, metric=metric, score=score_of(answers, right))
            task = one.spec.task.model_copy(
                update={"labels": labels, "definition": {"task": "mine", "kind": "tokens", "metric": metric}}
            )
            one = one.model_copy(update={"spec": one.spec.model_copy(update={"task": task})})
            records.append(one)
            given[one.run_id] = Answers(answers, right)
    return records, given


def test_each_type_of_entities_has_its_scores():
    records, given = runs(SAID, RIGHT, TAGS, "seqeval_f1", partial(value_of, find("seqeval_f1")))
    page = render_markdown(Report(records, answers=given.get))
    assert table_below(page, "type | method | items") == [
        ["LOC", "`full`†", "2", "1.0000", "1.0000", "1.0000"],
        # first run: both of two; second: both, and two more: precision 1/2, F1 2/3
        ["LOC", "`lora`", "2", "0.7500", "1.0000", "0.8333"],
        ["PER", "`full`†", "1", "1.0000", "1.0000", "1.0000"],
        ["PER", "`lora`", "1", "0.0000", "0.0000", "0.0000"],
    ]
    for seed, answers in enumerate(LORA):
        theirs = classification_report(RIGHT, answers, output_dict=True, zero_division=0)
        assert (theirs["LOC"]["precision"], theirs["PER"]["f1-score"]) == ((1.0, 0.5)[seed], 0.0)
    assert "Labels of words" not in page and "| right class" not in page


def test_labels_that_are_no_tags_are_classes_of_words():
    records, given = runs(WORDS_SAID, WORDS_RIGHT, WORDS, "token_accuracy", partial(value_of, find("token_accuracy")))
    page = render_markdown(Report(records, answers=given.get))
    lines = table_below(page, "label | method | items")
    assert lines[0] == ["noun", "`full`†", "2", "1.0000", "1.0000", "1.0000"]
    # three answers of noun, of which two are right
    assert lines[1] == ["noun", "`lora`", "2", "0.6667", "1.0000", "0.8000"]
    assert ["`lora`", "verb", "1", "**1**"] in table_below(page, "method | right class")


@pytest.mark.parametrize(
    "strange", [[["O"]] * 3, [["B-PER", "I-PER", "O", "B-ORG"], ["O", "O"], ["O"]], [1, 2, 3], [[1], [2], []]]
)
def test_answers_that_are_no_labels_of_these_words_are_left_out(strange):
    said = {"full": [RIGHT, RIGHT], "lora": [LORA[0], strange]}
    records, given = runs(said, RIGHT, TAGS, "seqeval_f1", lambda *_: 0.5)
    found = given_answers(Report(records).comparison, given.get)
    assert [*found] == [tuple(one.run_id for one in records if one.spec.method.label == "full")]


def test_the_frame_of_classes_has_a_row_a_type():
    records, given = runs(SAID, RIGHT, TAGS, "seqeval_f1", partial(value_of, find("seqeval_f1")))
    lines = data_files(Report(records, answers=given.get))["classes.csv"].decode().splitlines()
    assert len(lines) == 1 + 2 * 2 and sum(",PER," in line for line in lines) == 2
