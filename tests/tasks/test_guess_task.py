"""The kind of task is guessed from the values of a table, and what the user says of it goes before."""

import json

import pytest

from lora_bench.documents import read_yaml
from lora_bench.errors import BadInput, LoraBenchError
from lora_bench.kinds.support.table_view import LookOptions
from lora_bench.suite.from_table import task_flow
from lora_bench.tasks import load_data, task_from_document
from lora_bench.tasks.look import look
from tests.tasks.test_tasks import write_csv

NUMBERS = range(60)
TEXTS = [
    f"the {word} number {number} stands in this row" for number in NUMBERS for word in [("good", "bad")[number % 2]]
]


def table(folder, columns, name="table.csv"):
    """Write a table of columns, as CSV or as lines of JSON."""
    rows = list(zip(*columns.values(), strict=True))
    if name.endswith(".csv"):
        write_csv(folder / name, rows, tuple(columns))
    else:
        lines = (json.dumps(dict(zip(columns, row, strict=True))) for row in rows)
        (folder / name).write_text("\n".join(lines), encoding="utf-8")
    return folder / name


def task_of(seen, folder):
    """The task that is written for a table, as a suite reads it, and its data."""
    (folder / "task.yaml").write_text(task_flow(seen, folder), encoding="utf-8")
    task = task_from_document(read_yaml(folder / "task.yaml"))
    return task, load_data(task, folder)


def messages(number):
    return [{"role": "user", "content": TEXTS[number]}, {"role": "assistant", "content": f"answer {number}"}]


WORDS = [text.split() for text in TEXTS]
TAGS = [["B-QUALITY" if word in ("good", "bad") else "O" for word in words] for words in WORDS]
ANSWERS = [{"text": [words[1]], "answer_start": [4]} for words in WORDS]
QUESTIONS = [f"which word is it, {number}?" for number in NUMBERS]
LONG = [f"{text}, and so on and so forth until its end" for text in TEXTS]
ENDINGS = {f"ending{place}": [f"ends as {place} of {number} does" for number in NUMBERS] for place in range(3)}
FLAGS = {name: [int(number % (place + 2) == 0) for number in NUMBERS] for place, name in enumerate(("a", "b", "c"))}
KINDS = {
    "lists of words and tags": ({"words": WORDS, "tags": TAGS}, "t.jsonl", "tokens", ("words",), "tags", "seqeval_f1"),
    "words and tags as JSON": (
        {"words": map(json.dumps, WORDS), "tags": map(json.dumps, TAGS)}, "t.csv", "tokens", ("words",), "tags", "seqeval_f1",
    ),
    "words and parts of speech": (
        {"words": TEXTS, "pos": ["D A N M V P D N"] * 60}, "t.csv", "tokens", ("words",), "pos", "token_accuracy",
    ),
    "answers as in SQuAD": (
        {"context": TEXTS, "question": QUESTIONS, "answers": ANSWERS}, "t.jsonl",
        "spans", ("question", "context"), "answers", "squad_f1",
    ),
    "answers as texts": (
        {"context": TEXTS, "question": QUESTIONS, "answer": [words[1] for words in WORDS]}, "t.csv",
        "spans", ("question", "context"), "answer", "squad_f1",
    ),
    "answers as texts beside options": (
        {
            "question": QUESTIONS, "context": TEXTS, "answer": [words[1] for words in WORDS],
            "option_a": QUESTIONS, "option_b": QUESTIONS, "is_hard": [number % 2 for number in NUMBERS],
        }, "t.csv", "spans", ("question", "context"), "answer", "squad_f1",
    ),
    "an input and an output": ({"output": TEXTS, "input": LONG}, "t.csv", "generation", ("input",), "output", "bleu"),
    "two long texts": ({"de": TEXTS, "en": LONG}, "t.csv", "generation", ("en",), "de", "bleu"),
    "a summary beside a source": (
        {"article": LONG, "summary": TEXTS, "source": ["web", "print"] * 30}, "t.csv",
        "generation", ("article",), "summary", "bleu",
    ),
    "messages": ({"id": NUMBERS, "messages": map(messages, NUMBERS)}, "t.jsonl", "chat", ("messages",), "messages", "loss"),
    "columns of 0 and 1": ({"comment": TEXTS, **FLAGS}, "t.csv", "multilabel", ("comment",), "", "multilabel_micro_f1"),
    "endings": (
        {"start": LONG, **ENDINGS, "label": [number % 3 for number in NUMBERS]}, "t.csv",
        "multiple_choice", ("start", *ENDINGS), "label", "accuracy",
    ),
    "half stars": (
        {"review": TEXTS, "stars": [1 + number % 9 / 2 for number in NUMBERS]}, "t.csv",
        "regression", ("review",), "stars", "pearson",
    ),
    "whole stars": (
        {"review": TEXTS, "stars": [1 + number % 5 for number in NUMBERS]}, "t.csv",
        "classification", ("review",), "stars", "accuracy",
    ),
    "scores of a pair": (
        {"sentence1": TEXTS, "sentence2": LONG, "score": [number / 7 for number in NUMBERS]}, "t.csv",
        "regression", ("sentence1", "sentence2"), "score", "pearson",
    ),
    "a question and a passage": (
        {"question": QUESTIONS, "passage": TEXTS, "label": ["yes", "no"] * 30}, "t.csv",
        "classification", ("question", "passage"), "label", "accuracy",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", KINDS)
def test_the_kind_is_told_by_the_values_and_a_suite_reads_the_table_so(tmp_path, case):
    columns, name, kind, text, label, metric = KINDS[case]
    seen = look(table(tmp_path, {key: list(values) for key, values in columns.items()}, name))
    assert (seen.kind, seen.text, seen.label, seen.metric) == (kind, text, label, metric)
    assert any(said.startswith(f"guessed: the kind is {kind}") and "--kind" in said for said in seen.sentences)
    assert any(said.startswith(f"guessed: the metric is {metric}") and "--metric" in said for said in seen.sentences)
    task, data = task_of(seen, tmp_path)
    assert (task.kind, task.metric) == (kind, metric)
    assert sum(len(split.ids) for split in data.splits.values()) == seen.rows == 60


def test_several_texts_of_which_one_pair_has_the_names_are_no_pair(tmp_path):
    columns = {"question": QUESTIONS, "passage": TEXTS, "notes": LONG, "label": ["yes", "no"] * 30}
    assert look(table(tmp_path, columns)).text == ("notes",)


def test_questions_without_an_answer_are_declared(tmp_path):
    none = {"text": [], "answer_start": []}
    answers = [none if number % 3 == 0 else answer for number, answer in enumerate(ANSWERS)]
    seen = look(table(tmp_path, {"context": TEXTS, "question": QUESTIONS, "answers": answers}, "t.jsonl"))
    assert seen.unanswerable and seen.rows == 60
    assert task_of(seen, tmp_path)[0].unanswerable


def test_the_column_of_starts_is_used_where_answers_begin_there(tmp_path):
    columns = {"context": TEXTS, "question": QUESTIONS, "answer": [words[1] for words in WORDS]}
    right, wrong = columns | {"start": [4] * 60}, columns | {"start": [5] * 60}
    assert look(table(tmp_path, right)).start == "start"
    assert look(table(tmp_path, wrong)).start is None


def test_a_kind_and_a_metric_that_are_named_go_before_the_guess(tmp_path):
    stars = table(tmp_path, {"review": TEXTS, "stars": [1 + number % 5 for number in NUMBERS]})
    seen = look(stars, LookOptions(kind="regression", metric="mae"))
    assert (seen.kind, seen.metric, seen.classes) == ("regression", "mae", {})
    assert not any("the kind is" in said or "the metric is" in said for said in seen.sentences)
    with pytest.raises(
        LoraBenchError, match="--metric bleu is for generation, and the kind of the table is regression"
    ):
        look(stars, LookOptions(kind="regression", metric="bleu"))
    with pytest.raises(LoraBenchError, match="did you mean 'regression'"):
        look(stars, LookOptions(kind="regresion"))


def test_a_metric_of_one_class_is_of_the_rarer_one(tmp_path):
    seen = look(
        table(tmp_path, {"text": TEXTS, "label": ["yes" if number % 4 == 0 else "no" for number in NUMBERS]}),
        LookOptions(metric="f1"),
    )
    assert seen.labels == ("no", "yes") and task_of(seen, tmp_path)[1].labels == ("no", "yes")


@pytest.mark.parametrize(("largest", "metric"), [(36, "accuracy"), (37, "macro_f1")])
def test_above_60_percent_of_one_class_the_metric_counts_classes_alike(tmp_path, largest, metric):
    """60 % of 60 rows are 36."""
    seen = look(table(tmp_path, {"text": TEXTS, "label": ["a"] * largest + ["b"] * (60 - largest)}))
    assert seen.metric == metric
    assert ("as the largest class has 62% of the rows" in "\n".join(seen.sentences)) == (largest == 37)


def test_columns_of_0_and_1_are_named_with_commas(tmp_path):
    file = table(tmp_path, {"comment": TEXTS, **FLAGS})
    assert look(file, LookOptions(label="a,c")).columns == ("a", "c")
    with pytest.raises(LoraBenchError, match="'d'"):
        look(file, LookOptions(label="a,d"))
    for kind in ("chat", "classification", "generation", "multiple_choice", "regression", "spans", "tokens"):
        with pytest.raises(LoraBenchError, match=f"--label a,c names 2 columns, and the kind {kind} has one"):
            look(file, LookOptions(label="a,c", kind=kind))
    assert look(file, LookOptions(label="a,c", kind="multilabel")).columns == ("a", "c")
    answers = {"question": QUESTIONS, "context": TEXTS, "answer": [words[1] for words in WORDS], **FLAGS}
    assert look(table(tmp_path, answers, "answers.csv"), LookOptions(label="a,c")).columns == ("a", "c")
    # A column that is named like a label goes first.
    file = table(tmp_path, {"comment": TEXTS, **FLAGS, "queue": ["x", "y"] * 30})
    assert look(file).label == "queue"


@pytest.mark.parametrize(
    ("name", "values", "way"),
    [
        ("part", ["train", "Train", "dev", "TEST"], "--split part"),
        ("Teil", ["A", "B", "A", "A"], "--group Teil"),
        ("fold", [1, 2, 3, 4], "--group fold"),
    ],
)
def test_a_column_of_splits_is_no_label(tmp_path, name, values, way):
    columns = {"text": TEXTS, name: values * 15, "team": [f"team {number // 4 % 5}" for number in NUMBERS]}
    seen = look(table(tmp_path, columns))
    assert seen.label == "team"
    assert any(f"{name} names splits and is no label; {way}" in said for said in seen.sentences)
    with pytest.raises(LoraBenchError, match="looks like a label"):
        look(table(tmp_path, {"text": TEXTS, name: values * 15}))


def test_a_split_a_group_and_a_time_become_keys_of_the_task(tmp_path):
    columns = {
        "text": TEXTS, "label": ["a", "b"] * 30, "part": ["train"] * 40 + ["dev"] * 10 + ["test"] * 10,
        "customer": [number // 4 for number in NUMBERS], "day": [f"2026-01-{1 + number // 2:02}" for number in NUMBERS],
    }  # fmt: skip
    file = table(tmp_path, columns)
    seen = look(file, LookOptions(split="part"))
    _, data = task_of(seen, tmp_path)
    assert {name: len(split.ids) for name, split in data.splits.items()} == {"train": 40, "selection": 10, "test": 10}
    assert seen.test_rows == 10
    seen = look(file, LookOptions(group="customer", time="day"))
    task, data = task_of(seen, tmp_path)
    assert (task.split.by, task.split.in_order) == ("customer", "day")
    # Fifteen customers of four rows each: a quarter of the rows are nearest to four customers, and a tenth to one or two.
    assert data.splits["test"].texts == [(text,) for text in TEXTS[44:]]
    assert data.splits["selection"].texts == [(text,) for text in TEXTS[40:44]]
    assert any("rows with the same customer stay in one split (15 groups)" in said for said in seen.sentences)
    with pytest.raises(BadInput, match="name no split: 'a', 'b', in 60 rows"):
        look(file, LookOptions(split="label", label="customer"))


def test_files_of_their_own_become_the_splits(tmp_path):
    columns = {"text": TEXTS, "label": ["a", "b"] * 30}
    file = table(tmp_path, columns)
    others = {key: values[:20] for key, values in columns.items()}
    valid, test = table(tmp_path, others, "valid.csv"), table(tmp_path, others, "test.csv")
    for given in ({"valid": valid}, {"test": test}, {"valid": valid, "test": test}):
        seen = look(file, LookOptions(**given))
        _, data = task_of(seen, tmp_path)
        own = {name for name, split in data.splits.items() if split.texts == [(text,) for text in TEXTS[:20]]}
        assert own == {"selection" if name == "valid" else name for name in given}
        assert (seen.test_rows == 20) == ("test" in given)


def test_a_class_that_only_test_rows_have_is_said_and_declared(tmp_path):
    file = table(tmp_path, {"text": TEXTS, "label": ["a", "b"] * 30})
    test = table(tmp_path, {"text": ["one", "two"], "label": ["b", "c"]}, "test.csv")
    seen = look(file, LookOptions(test=test))
    assert "no row of" in seen.remarks[-1] and "has the class c, so no model can learn it" in seen.remarks[-1]
    _, data = task_of(seen, tmp_path)
    assert data.labels == ("a", "b", "c") and data.splits["test"].labels == [1, 2]
    # Of one table with a column of splits the classes are those of all its rows.
    columns = {
        "text": TEXTS,
        "label": ["a", "b"] * 29 + ["c"] * 2,
        "split": ["train"] * 40 + ["dev"] * 10 + ["test"] * 10,
    }
    _, data = task_of(look(table(tmp_path, columns), LookOptions(split="split")), tmp_path)
    assert data.labels == ("a", "b", "c") and "no training example has the label 'c'" in data.warnings


def test_a_file_of_test_rows_needs_the_columns_of_the_table(tmp_path):
    file = table(tmp_path, {"text": TEXTS, "label": ["a", "b"] * 30})
    with pytest.raises(BadInput, match="has no column 'label'; did you mean 'labels'"):
        look(file, LookOptions(test=table(tmp_path, {"text": ["one"], "labels": ["a"]}, "test.csv")))


def test_quotation_marks_that_enclose_nothing_belong_to_the_text(tmp_path):
    rows = "".join(f'"{text}" he said,{"ab"[number % 2]}\n' for number, text in enumerate(TEXTS))
    (tmp_path / "table.csv").write_text("text,label\n" + rows)
    seen = look(tmp_path / "table.csv")
    assert not seen.layout.quoting and any("quotation marks belong to the text" in said for said in seen.guessed)
    _, data = task_of(seen, tmp_path)
    assert all(text.endswith('" he said') for split in data.splits.values() for (text,) in split.texts)
    # A quotation mark that is never closed is no reason to read the others as text.
    assert look(table(tmp_path, {"text": [f'{text}, "so"' for text in TEXTS], "label": ["a", "b"] * 30})).layout.quoting


def test_a_json_list_is_read_as_one(tmp_path):
    rows = [{"text": text, "label": number % 2} for number, text in enumerate(TEXTS)]
    (tmp_path / "table.json").write_text(json.dumps(rows))
    seen = look(tmp_path / "table.json")
    assert "guessed: the file is one JSON list" in seen.guessed
    assert sum(len(split.ids) for split in task_of(seen, tmp_path)[1].splits.values()) == 60


def test_rows_without_a_text_are_kept_as_empty_ones(tmp_path):
    texts = [None if number % 20 == 0 else "" if number % 20 == 1 else text for number, text in enumerate(TEXTS)]
    seen = look(table(tmp_path, {"text": texts, "label": ["a", "b"] * 30}, "table.jsonl"))
    assert seen.empty == 6
    _, data = task_of(seen, tmp_path)
    assert sum(text == ("",) for split in data.splits.values() for text in split.texts) == 6


def test_a_pair_is_told_by_a_number_anywhere_in_its_names(tmp_path):
    columns = {"Quality": [0, 1] * 30, "#1 String": TEXTS, "#2 String": LONG}
    assert look(table(tmp_path, columns)).text == ("#1 String", "#2 String")


def test_several_texts_for_an_input_are_what_is_to_be_written(tmp_path):
    inputs = [f"{LONG[number // 4]} and much more than that" for number in NUMBERS]
    seen = look(table(tmp_path, {"one": inputs, "other": TEXTS}))
    assert (seen.kind, seen.text, seen.label) == ("generation", ("one",), "other")
    seen = look(table(tmp_path, {"one": [TEXTS[number // 2] for number in NUMBERS], "other": LONG}))
    assert (seen.text, seen.label) == (("one",), "other")


@pytest.mark.parametrize(
    ("kind", "needed"), [("spans", "two columns for spans"), ("multiple_choice", "those of its endings")]
)
def test_a_kind_that_needs_further_columns_says_which(tmp_path, kind, needed):
    file = table(tmp_path, {"text": TEXTS, "label": ["a", "b"] * 30})
    with pytest.raises(LoraBenchError, match=f"as {kind}: the text must be .*{needed}.*--text-pair"):
        look(file, LookOptions(kind=kind))
