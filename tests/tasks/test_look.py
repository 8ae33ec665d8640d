"""What a look at a table finds: separator, encoding, columns, classes, lengths and duplicates."""

import json

import pytest

from lora_bench.errors import LoraBenchError
from lora_bench.kinds.support.table_view import LookOptions
from lora_bench.suite.from_table import task_keys
from lora_bench.tasks.look import look

ROWS = [
    (index, f"the {'good' if index % 2 else 'bad'} number {index} words here", "yes" if index % 2 else "no")
    for index in range(40)
]


def written(path, rows=ROWS, separator=",", encoding="utf-8", header=("id", "body", "answer")):
    text = "\n".join(separator.join(map(str, row)) for row in [header, *rows]) + "\n"
    path.write_bytes(text.encode(encoding))
    return path


@pytest.mark.parametrize("separator", [",", ";", "\t", "|"])
def test_the_separator_is_that_by_which_rows_are_even(tmp_path, separator):
    rows = [(index, f"a, b; c {text}".replace(separator, " "), label) for index, text, label in ROWS]
    seen = look(written(tmp_path / "a.csv", rows, separator))
    assert seen.layout.delimiter == (None if separator == "," else separator)
    assert (seen.text, seen.label, seen.rows) == (("body",), "answer", 40)


@pytest.mark.parametrize(
    ("encoding", "found"), [("utf-8", None), ("utf-8-sig", None), ("cp1252", "cp1252"), ("utf-16", "utf-16")]
)
def test_the_encoding_is_told_from_the_bytes(tmp_path, encoding, found):
    rows = [(index, f"schön {text}", label) for index, text, label in ROWS]
    seen = look(written(tmp_path / "a.csv", rows, encoding=encoding))
    assert (seen.layout.encoding, seen.rows) == (found, 40)
    assert any("encoding" in said for said in seen.guessed) == (found is not None)


def test_what_is_named_is_not_guessed_and_what_is_guessed_is_said(tmp_path):
    path = written(tmp_path / "a.csv")
    assert look(path, LookOptions(text="body", label="answer", kind="classification", metric="accuracy")).guessed == ()
    label, text, kind, metric = look(path).guessed
    assert label.startswith("guessed: the label is answer (2 different values); --label")
    assert text.startswith("guessed: the text is body (") and text.endswith("--text names another")
    assert kind == "guessed: the kind is classification; --kind names another"
    assert metric == "guessed: the metric is accuracy; --metric names another"


def test_a_name_with_a_space_is_named_as_it_stands(tmp_path):
    path = written(tmp_path / "a.csv", header=("id", "body", " answer"))
    assert look(path, LookOptions(label=" answer")).label == " answer"
    with pytest.raises(LoraBenchError, match=r"unknown column of .* 'answer'; did you mean ' answer'"):
        look(path, LookOptions(label="answer"))
    with pytest.raises(LoraBenchError, match=r"unknown column of .* ' body'; did you mean 'body'"):
        look(path, LookOptions(label=" body"))


def test_a_column_named_like_a_label_goes_before_one_with_fewer_values(tmp_path):
    rows = [(index % 2, text, f"class {index % 4}") for index, text, _ in ROWS]
    assert look(written(tmp_path / "a.csv", rows, header=("flag", "body", "queue"))).label == "queue"


def test_classes_lengths_and_duplicates_are_counted(tmp_path):
    rows = [*ROWS, (40, ROWS[0][1], "no"), (41, ROWS[1][1], "no")]
    seen = look(written(tmp_path / "a.csv", rows))
    assert seen.classes == {"no": 22, "yes": 20}
    assert (seen.repeated, seen.contradicting) == (2, 1)
    assert seen.words == (6, 6, 6)
    said = "\n".join(seen.sentences)
    assert "2 classes (no 22, yes 20); the largest has 52% of the rows" in said
    assert "1 texts have another label in another row" in said


def test_uneven_rows_are_counted_and_left_out(tmp_path):
    seen = look(written(tmp_path / "a.csv", [*ROWS, ("41", "too few")]))
    assert (seen.rows, seen.uneven) == (40, 1)


def test_rows_without_a_label_are_counted_and_left_out(tmp_path):
    seen = look(written(tmp_path / "a.csv", [*ROWS, (41, "no answer", ""), (42, "blank", "  ")]))
    assert (seen.rows, seen.unlabelled, seen.classes) == (40, 2, {"no": 20, "yes": 20})
    assert "2 rows have no label and are left out" in seen.sentences
    with pytest.raises(LoraBenchError, match="has no rows with a label in column 'answer'"):
        look(written(tmp_path / "b.csv", [(1, "text", "")]), LookOptions(label="answer"))


def test_many_different_numbers_are_a_quantity(tmp_path):
    rows = [(index, f"text {index}", index / 7) for index in range(60)]
    seen = look(written(tmp_path / "a.csv", rows), LookOptions(label="answer"))
    assert (seen.kind, seen.classes) == ("regression", {})


def test_lines_of_json_need_no_separator(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text("".join(json.dumps({"body": text, "answer": label}) + "\n" for _, text, label in ROWS))
    seen = look(path)
    assert (seen.layout.delimiter, seen.layout.encoding, seen.text, seen.label) == (None, None, ("body",), "answer")


def test_an_unknown_column_is_answered_with_the_nearest(tmp_path):
    with pytest.raises(LoraBenchError, match="did you mean 'body'"):
        look(written(tmp_path / "a.csv"), LookOptions(text="bdy"))


def test_a_table_without_a_label_says_how_to_name_one(tmp_path):
    rows = [(index, f"text {index}", f"other {index}") for index in range(40)]
    with pytest.raises(LoraBenchError, match=r"looks like a label; name it with --label \(id, body, answer\)"):
        look(written(tmp_path / "a.csv", rows))


@pytest.mark.parametrize(
    ("header", "rows", "said"),
    [
        ("text,team", ["some words,a"], "has 1 row, too few to train"),
        (
            "text,team",
            [f"some words {n},a" for n in range(40)],
            r"no column of .* looks like a label; .* \(text, team\); column 'team' has one class, 'a', and 2 are the least",
        ),
        ("text,team", [f"some words,{'ab'[n % 2]}" for n in range(40)], "has 1 different text, too few"),
        ("text,label", [f"words {n},c{n // 2}" for n in range(60)], "'label' of .* has 30 different values in 60 rows"),
        (
            "text,team",
            [f"some\0words {n},{'ab'[n % 2]}" for n in range(40)],
            "bytes of value 0.*save it as CSV in UTF-8",
        ),
    ],
)
def test_a_table_that_gives_nothing_to_learn_says_why(tmp_path, header, rows, said):
    (tmp_path / "a.csv").write_text("\n".join([header, *rows]) + "\n", encoding="utf-8")
    with pytest.raises(LoraBenchError, match=said):
        look(tmp_path / "a.csv")


def test_a_value_that_is_no_number_is_named_where_numbers_are_asked_for(tmp_path):
    scores, numbers = LookOptions(kind="regression"), [index % 15 for index in range(40)]
    with pytest.raises(LoraBenchError, match=r"column 'label' of .* has 'n/a', which is no number; --label names"):
        look(labelled(tmp_path / "a.csv", [*range(1, 6), "n/a"] * 50), scores)
    assert look(labelled(tmp_path / "b.csv", numbers), scores).label == "label"


def test_a_row_of_no_label_beside_rows_of_one_is_not_said_to_be_too_many(tmp_path):
    with pytest.raises(LoraBenchError, match=r"column 'label' of .* has one class, 'a', and 2 are the least"):
        look(labelled(tmp_path / "a.csv", ['"[""a""]"', "[]"] * 20))


def test_a_spreadsheet_is_to_be_saved_as_csv(tmp_path):
    (tmp_path / "a.xlsx").write_bytes(b"PK")
    with pytest.raises(LoraBenchError, match="save the sheet as CSV"):
        look(tmp_path / "a.xlsx")


def test_empty_cells_at_the_end_of_each_line_are_no_columns(tmp_path):
    rows = [f"words of row {n};{'ab'[n % 2]};;" for n in range(40)]
    (tmp_path / "a.csv").write_text("\n".join(["text;team;;", *rows]) + "\n", encoding="utf-8")
    seen = look(tmp_path / "a.csv")
    assert (seen.text, seen.label, seen.rows) == (("text",), "team", 40)
    assert not any("name of a column and a value" in said for said in seen.sentences)


def labelled(path, labels, texts=None, **columns):
    """A table with a text and a label a row, and further columns."""
    texts = texts or [f"row {index} has these words" for index in range(len(labels))]
    return written(path, zip(texts, labels, *columns.values(), strict=True), header=("text", "label", *columns))


@pytest.mark.parametrize(
    ("labels", "said"),
    [
        (["a"] * 40, "column 'label' of .* has one class, 'a', and 2 are the least; --label names a label"),
        ([""] * 40, "column 'label' of .* has no value"),
        (["a", "b"], "has 2 rows with a label, too few to train, choose and test on"),
        ([], "has no rows"),
    ],
)
def test_a_table_that_nothing_can_be_learned_from_is_refused_in_a_line(tmp_path, labels, said):
    with pytest.raises(LoraBenchError, match=said) as refused:
        look(labelled(tmp_path / "a.csv", labels))
    assert "\n" not in str(refused.value)


def test_one_class_in_a_named_column_is_refused(tmp_path):
    with pytest.raises(LoraBenchError, match="has one class, 'a', in all 40 rows"):
        look(labelled(tmp_path / "a.csv", ["a"] * 40), LookOptions(label="label"))


def test_a_class_of_few_rows_and_a_class_that_may_stand_for_no_label_are_said(tmp_path):
    seen = look(labelled(tmp_path / "a.csv", ["a"] * 20 + ["b"] * 18 + ["NA"] * 5 + ["rare"] * 2))
    assert seen.remarks == (
        "a class of fewer than 5 rows will hardly be scored: rare 2",
        "NA is a class of 5 rows; if it stands for no label, empty these cells",
    )


def test_rows_with_an_empty_text_are_counted_and_kept(tmp_path):
    texts = ["" if index < 3 else f"row {index}" for index in range(40)]
    seen = look(labelled(tmp_path / "a.csv", ["a", "b"] * 20, texts))
    assert (seen.rows, seen.empty) == (40, 3)
    assert "3 rows have an empty text and are kept" in seen.sentences


def test_a_column_that_says_the_same_as_the_label_is_never_the_text(tmp_path):
    same = [f"the longest column says {one}, as the label does, in more words" for one in "ab" * 20]
    same = [one.replace(",", "") for one in same]
    path = labelled(tmp_path / "a.csv", ["a", "b"] * 20, same=same)
    seen = look(path)
    assert seen.text == ("text",) and "same gives label away and is not used" in seen.guessed
    said = "same gives label away, so scores say nothing: name another with --text"
    assert said in look(path, LookOptions(text="same")).remarks
    # One row in which they differ, and it is a text like any other.
    assert look(labelled(tmp_path / "b.csv", ["a", "b"] * 20, same=[*same[:-1], same[0]])).text == ("same",)


def test_a_text_with_words_goes_before_longer_ids(tmp_path):
    ids = [f"{index:064x}" for index in range(40)]
    assert look(labelled(tmp_path / "a.csv", ["a", "b"] * 20, uuid=ids)).text == ("text",)


def test_classes_that_differ_in_case_alone_and_a_missing_header_are_said(tmp_path):
    seen = look(labelled(tmp_path / "a.csv", ["Spam", "ham", "spam", "ham"] * 10))
    assert seen.remarks == ("Spam and spam are different classes here; write them alike if they are one",)
    path = written(tmp_path / "b.csv", [row[1:] for row in ROWS], header=ROWS[0][1:])
    assert "'no' is the name of a column and a value in it: if the file has no header, add one" in look(path).remarks


@pytest.mark.parametrize(
    ("counts", "metric"),
    [
        ((50, 50), "accuracy"),
        ((61, 39), "macro_f1"),
        ((50, 48, 2), "macro_f1"),
        ((50, 40, 10), "accuracy"),
        ((5,) * 20, "accuracy"),
    ],
)
def test_the_metric_counts_every_class_alike_where_accuracy_would_hide_one(tmp_path, counts, metric):
    labels = [f"class {number}" for number, count in enumerate(counts) for _ in range(count)]
    rows = [(index, f"words of text {index}", label) for index, label in enumerate(labels)]
    seen = look(written(tmp_path / "t.csv", rows), LookOptions(text="body", label="answer"))
    assert seen.metric == metric


def test_a_column_of_ids_names_the_rows_if_each_has_its_own(tmp_path):
    seen = look(written(tmp_path / "a.csv"))
    assert seen.id == "id" and "reports name rows by the column id" in seen.sentences
    assert task_keys("a", seen, tmp_path, None)["id"] == "id"
    test = written(tmp_path / "test.csv", [(index + 40, *rest) for index, *rest in ROWS])
    assert look(tmp_path / "a.csv", LookOptions(test=test)).id == "id"
    without = written(tmp_path / "without.csv", [rest for _, *rest in ROWS], header=("body", "answer"))
    assert look(tmp_path / "a.csv", LookOptions(test=without)).id is None
    for twice in (["1", *ROWS[0][1:]], ["", *ROWS[0][1:]]):
        assert look(written(tmp_path / "b.csv", [twice, *ROWS[1:]])).id is None
