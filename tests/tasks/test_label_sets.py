"""Several labels a row in every form that a table has them, and what is wrong with other forms."""

import csv
import json

import datasets
import pytest

from lora_bench.documents import Document
from lora_bench.errors import BadInput
from lora_bench.tasks import definition, load_data, load_task, majority_score, score, task_from_document
from lora_bench.tasks.look import look

TASK = {"task": "topics", "kind": "multilabel", "text": "text", "label": "topics"}
SETS = [["art", "sport"], [], ["sport"], ["science", "art"]]
ROWS = 200


def rows(of=lambda labels: labels, name="topics"):
    return [{"text": f"text {number}", name: of(SETS[number % 4])} for number in range(ROWS)]


def write(folder, given, form="jsonl"):
    path = folder / f"rows.{form}"
    if form == "jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in given), encoding="utf-8")
    elif form == "parquet":
        datasets.Dataset.from_list(given).to_parquet(path)
    else:
        with path.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, list(given[0]))
            writer.writeheader()
            writer.writerows(given)
    return path


def loaded(folder, file, **keys):
    """The data of a task, by the text its labels, and all names."""
    task = task_from_document(Document("task.yaml", {**TASK, "data": file.name, **keys}))
    data = load_data(task, folder)
    found = {
        text: {data.labels[place] for place in (labels if isinstance(labels, tuple) else (labels,))}
        for split in data.splits.values()
        for (text,), labels in zip(split.texts, split.labels, strict=True)
    }
    return task, data, found


EXPECTED = {f"text {number}": set(SETS[number % 4]) for number in range(ROWS)}
SORTED, GIVEN = ("art", "science", "sport"), ["science", "art", "sport"]


def vector(labels):
    return [int(name in labels) for name in GIVEN]


@pytest.mark.parametrize(
    ("of", "form", "keys", "names"),
    [
        (list, "jsonl", {}, SORTED),
        (list, "parquet", {}, SORTED),
        (list, "jsonl", {"labels": GIVEN}, tuple(GIVEN)),
        (json.dumps, "csv", {}, SORTED),
        (" | ".join, "csv", {"label": {"column": "topics", "separator": "|"}}, SORTED),
        (";".join, "parquet", {"label": {"column": "topics", "separator": ";"}}, SORTED),
        (vector, "jsonl", {"labels": GIVEN}, tuple(GIVEN)),
        (vector, "parquet", {"labels": GIVEN}, tuple(GIVEN)),
    ],
)
def test_every_form_gives_the_same_labels(tmp_path, of, form, keys, names):
    _, data, found = loaded(tmp_path, write(tmp_path, rows(of), form), **keys)
    assert data.labels == names and found == EXPECTED
    assert all(labels == tuple(sorted(labels)) for labels in data.splits["train"].labels)


@pytest.mark.parametrize(
    ("form", "words"),
    [("csv", ("0", "1")), ("csv", ("False", "True")), ("jsonl", (False, True)), ("parquet", (0.0, 1.0))],
)
def test_columns_of_0_and_1_are_labels_in_their_order(tmp_path, form, words):
    given = [
        {"text": text, **{name: words[name in labels] for name in GIVEN}} for text, labels in EXPECTED.items()
    ]  # fmt: skip
    _, data, found = loaded(tmp_path, write(tmp_path, given, form), label=GIVEN)
    assert data.labels == tuple(GIVEN) and found == EXPECTED


def test_names_behind_numbers_in_a_list_are_those_of_the_hub(tmp_path):
    features = datasets.Features(
        {"text": datasets.Value("string"), "topics": datasets.Sequence(datasets.ClassLabel(names=GIVEN))}
    )
    given = rows(lambda labels: [GIVEN.index(name) for name in labels])
    datasets.Dataset.from_list(given, features=features).to_parquet(tmp_path / "rows.parquet")
    _, data, found = loaded(tmp_path, tmp_path / "rows.parquet")
    assert data.labels == tuple(GIVEN) and found == EXPECTED


def test_values_may_have_other_names(tmp_path):
    names = {"art": "arts"}
    _, data, found = loaded(tmp_path, write(tmp_path, rows()), label_names=names)
    assert data.labels == ("arts", "science", "sport") and found["text 3"] == {"arts", "science"}


def test_a_gap_is_refused_or_left_out_and_an_empty_list_has_none_of_the_labels(tmp_path):
    file = write(tmp_path, [{"text": "gap", "topics": None}, *rows()])
    with pytest.raises(
        BadInput, match=r"has no label in column 'topics' in 1 row \(line 1\); `unlabelled_rows: leave_out`"
    ):
        loaded(tmp_path, file)
    _, data, found = loaded(tmp_path, file, unlabelled_rows="leave_out")
    # An empty list is a row without a label too, where these are left out.
    assert found == {text: labels for text, labels in EXPECTED.items() if labels}
    assert any("has 51 rows without a label, which are left out" in said for said in data.warnings)


@pytest.mark.parametrize(
    ("values", "keys", "words"),
    [
        (["a|b", "a"], {}, r"no list \('a\|b'\) in 2 rows .*; say `label: {column: topics, separator: \"\|\"}`"),
        (["a", "b"], {}, "with one label a row leave `kind: multilabel` out"),
        (["['a', 'b']", "[]"], {}, r"; write lists as JSON, such as \[\"a\", \"b\"\], or name a `separator`"),
        ([3, 4], {}, "are no list but int"),
        ([[["a"]], ["b"]], {}, "has lists inside the lists of labels"),
        ([["a", None], ["b"]], {}, r"has no label in column 'topics' in 1 row \(line 1\)"),
        ([["a"], ["b", "cc"]], {"labels": ["a", "b", "c"]}, "are not among a, b, c: 'cc'; did you mean 'c'"),
        ([[0, 1, 0], [1, 1, 0]], {}, r"lists of 3 numbers 0 and 1 in column 'topics': name their 3 labels in order"),
        ([[0, 1, 0], [1, 1, 0]], {"labels": ["a", "b"]}, "; `labels` names 2: name their 3 labels"),
        ([["a"], ["a"]], {}, r"has 1 label in column 'topics' \['a'\]; at least 2"),
        (["x", "0"], {"label": ["topics", "text"]}, r"column 'topics' that are neither 0 nor 1 \('x'\) in 1 row"),
    ],
)
def test_what_is_no_list_of_labels_is_said_with_what_works(tmp_path, values, keys, words):
    file = write(tmp_path, [{"text": f"text {number}", "topics": value} for number, value in enumerate(values)])
    with pytest.raises(BadInput, match=words):
        loaded(tmp_path, file, **keys)


@pytest.mark.parametrize(
    ("keys", "words"),
    [
        ({"kind": "classification", "label": ["a", "b"]}, "columns.*is only for several labels a row, `kind: multilabel`"),
        ({"kind": "regression", "label": {"column": "a", "separator": ";"}}, "separator.*is only for several labels a row"),
        ({"label": {"rule": "sign"}}, "label.*is missing"),
        ({"label": {"column": "a", "rule": "sign"}}, "makes one class of a number"),
        ({"label": ["a"]}, "at least two different columns"),
        ({"label": {"columns": ["a", "b"], "column": "a"}}, "must go: `columns` has the labels"),
        ({"label": ["a", "b"], "labels": ["x", "y"]}, "must go: the columns name the labels"),
        ({"metric": "macro_f1"}, r"'macro_f1' is for classification, and the task's kind is multilabel \(multilabel_macro_f1"),
        ({"linearise": "e2e"}, "is only for generation"),
    ],
)  # fmt: skip
def test_keys_that_do_not_go_together_are_refused(keys, words):
    with pytest.raises(BadInput, match=words):
        task_from_document(Document("task.yaml", {**TASK, "data": "rows.jsonl", **keys}))


def test_several_labels_in_a_classification_are_said_with_the_kind(tmp_path):
    single = {"kind": "classification"}
    for of, form in ((list, "jsonl"), (json.dumps, "csv")):
        with pytest.raises(BadInput, match="; for several labels a row say `kind: multilabel`"):
            loaded(tmp_path, write(tmp_path, rows(of), form), **single)
    file = write(tmp_path, rows(lambda labels: "|".join(labels) or "art"), "csv")
    way = r"for several labels a row say `kind: multilabel` and the `separator` \"\|\" in `label`"
    with pytest.raises(BadInput, match=rf"are not among science, art, sport: 'art\|sport', 'science\|art'.*; {way}"):
        loaded(tmp_path, file, labels=GIVEN, **single)
    # Without declared classes it may be one of its own.
    _, data, _ = loaded(tmp_path, file, **single)
    assert any("the label 'art|sport' is one class of its own" in said for said in data.warnings)


def test_a_text_of_another_type_is_said_with_what_works(tmp_path):
    file = write(tmp_path, [{"text": ["two", "words"], "topics": ["a"]}])
    with pytest.raises(BadInput, match=r"no text but list in 1 row .*; join each list to one text in the file"):
        loaded(tmp_path, file)
    file = write(tmp_path, [{"text": {"id": 3, "body": "two words"}, "topics": ["a"]}])
    with pytest.raises(BadInput, match=r"no text but dict in 1 row .*; `text: text\.body` reads the text inside"):
        loaded(tmp_path, file)


def test_the_most_frequent_label_is_the_majority(tmp_path):
    test = [{"text": f"t{number}", "topics": labels} for number, labels in enumerate([["a"], ["b"], ["a", "b"], []])]
    for name in ("train", "dev", "test"):
        write(tmp_path, test if name == "test" else [*test, {"text": "more", "topics": ["b"]}]).rename(
            tmp_path / f"{name}.jsonl"
        )
    task = task_from_document(
        Document(
            "task.yaml", {**TASK, "data": {"train": "train.jsonl", "selection": "dev.jsonl", "test": "test.jsonl"}}
        )
    )
    data = load_data(task, tmp_path)
    # b for all four: 2 right pairs of 4 that are and 4 that are said
    assert majority_score(task, data, "test") == 1 / 2
    assert score(task, data.splits["test"].labels, [[0], [1], [0, 1], []]) == {"multilabel_micro_f1": 1}


def test_new_keys_of_a_label_leave_the_definitions_of_other_tasks_alone():
    label = definition(load_task("cola"))["label"]
    assert set(label) == {"column", "rule"}
    declared = Document("task.yaml", {**TASK, "data": "rows.jsonl", "label": ["a", "b"]})
    assert definition(task_from_document(declared))["label"]["columns"] == ["a", "b"]


@pytest.mark.parametrize(
    ("of", "form", "separator"),
    [(list, "jsonl", None), (list, "parquet", None), (json.dumps, "csv", None), (";".join, "csv", ";")],
)
def test_a_look_at_a_table_notices_several_labels(tmp_path, of, form, separator):
    seen = look(write(tmp_path, rows(of), form))
    assert (seen.label, seen.kind, seen.separator, seen.rows, seen.unlabelled) == (
        "topics",
        "multilabel",
        separator,
        ROWS,
        0,
    )
    assert seen.classes == {"art": 100, "sport": 100, "science": 50}
    assert any(
        said.startswith("guessed: the kind is multilabel, as topics has several labels a row") for said in seen.guessed
    )
    assert any(
        said.startswith("3 labels (art 100, sport 100, science 50); a row has 1.2 on average")
        for said in seen.sentences
    )


def test_a_look_takes_one_label_with_a_comma_for_one(tmp_path):
    towns = ["Paris, France", "Rome, Italy", "Bern", "Oslo, Norway"]
    given = [{"text": f"text {number}", "label": towns[number % 4]} for number in range(40)]
    seen = look(write(tmp_path, given, "csv"))
    assert (seen.kind, len(seen.classes)) == ("classification", 4)
