"""What a look at a table finds: separator, encoding, columns, classes, lengths and duplicates."""

import json

import pytest

from lora_bench.errors import LoraBenchError
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
    assert seen.delimiter == (None if separator == "," else separator)
    assert (seen.text, seen.label, seen.rows) == (("body",), "answer", 40)


@pytest.mark.parametrize(
    ("encoding", "found"), [("utf-8", None), ("utf-8-sig", None), ("cp1252", "cp1252"), ("utf-16", "utf-16")]
)
def test_the_encoding_is_told_from_the_bytes(tmp_path, encoding, found):
    rows = [(index, f"schön {text}", label) for index, text, label in ROWS]
    seen = look(written(tmp_path / "a.csv", rows, encoding=encoding))
    assert (seen.encoding, seen.rows) == (found, 40)
    assert any("encoding" in said for said in seen.guessed) == (found is not None)


def test_what_is_named_is_not_guessed_and_what_is_guessed_is_said(tmp_path):
    path = written(tmp_path / "a.csv")
    assert look(path, text="body", label="answer").guessed == ()
    label, text = look(path).guessed
    assert label.startswith("guessed: the label is answer (2 different values); --label")
    assert text.startswith("guessed: the text is body (") and text.endswith("--text names another")


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
    assert "1 texts stand there with different labels" in said


def test_uneven_rows_are_counted_and_left_out(tmp_path):
    seen = look(written(tmp_path / "a.csv", [*ROWS, ("41", "too few")]))
    assert (seen.rows, seen.uneven) == (40, 1)


def test_rows_without_a_label_are_counted_and_left_out(tmp_path):
    seen = look(written(tmp_path / "a.csv", [*ROWS, (41, "no answer", ""), (42, "blank", "  ")]))
    assert (seen.rows, seen.unlabelled, seen.classes) == (40, 2, {"no": 20, "yes": 20})
    assert "2 rows have no label and are left out" in seen.sentences
    with pytest.raises(LoraBenchError, match="has no rows with a label in column 'answer'"):
        look(written(tmp_path / "b.csv", [(1, "text", "")]), label="answer")


def test_many_different_numbers_are_a_quantity(tmp_path):
    rows = [(index, f"text {index}", index / 7) for index in range(60)]
    seen = look(written(tmp_path / "a.csv", rows), label="answer")
    assert (seen.kind, seen.classes) == ("regression", {})


def test_lines_of_json_need_no_separator(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text("".join(json.dumps({"body": text, "answer": label}) + "\n" for _, text, label in ROWS))
    seen = look(path)
    assert (seen.delimiter, seen.encoding, seen.text, seen.label) == (None, None, ("body",), "answer")


def test_an_unknown_column_is_answered_with_the_nearest(tmp_path):
    with pytest.raises(LoraBenchError, match="did you mean 'body'"):
        look(written(tmp_path / "a.csv"), text="bdy")


def test_a_table_without_a_label_says_how_to_name_one(tmp_path):
    rows = [(index, f"text {index}", f"other {index}") for index in range(40)]
    with pytest.raises(LoraBenchError, match=r"looks like a label; name it with --label \(id, body, answer\)"):
        look(written(tmp_path / "a.csv", rows))
