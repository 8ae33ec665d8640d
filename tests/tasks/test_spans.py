"""Tasks of answers that stand in a text: their forms in tables, faults with their row, and windows of tokens."""

import csv
import itertools
import json

import datasets
import pytest
from transformers import AutoTokenizer

from lora_bench.documents import Document, read_yaml
from lora_bench.errors import BadInput, LoraBenchError
from lora_bench.kinds.exercises.answering import NOWHERE, encode_windows, tokens_of
from lora_bench.kinds.exercises.base_exercise import QuestionWindows
from lora_bench.tasks import Split, load_data, majority_score, split_scores, task_from_document
from lora_bench.tasks.task_scores import item_scores
from tests.project import write_tokenizer

TEXT = "the film was lovely and the end was lovely"
TASK = {
    "task": "asked", "kind": "spans", "data": {"train": "a.jsonl", "test": "a.jsonl"}, "text": ["q", "c"], "label": "a",
}  # fmt: skip


def task(**keys):
    return task_from_document(Document("task.yaml", {**TASK, **keys}))


def load(folder, **keys):
    return load_data(task(**keys), folder, whole_train=True)


def write(folder, *answers, name="a.jsonl"):
    rows = [{"q": f"how {number}?", "c": TEXT, "a": answer} for number, answer in enumerate(answers)]
    (folder / name).write_text("".join(json.dumps(row) + "\n" for row in rows))


# --- data ------------------------------------------------------------------------------------------------------------

SQUAD = {"text": ["lovely", "lovely"], "answer_start": [13, 36]}


@pytest.mark.parametrize(
    ("answer", "spans"),
    [
        (SQUAD, ((13, 19), (36, 42))),
        ({"text": "lovely", "answer_start": 36}, ((36, 42),)),
        ([{"text": "lovely", "answer_start": 36}, {"text": "film", "answer_start": 4}], ((36, 42), (4, 8))),
        ("lovely", ((13, 19),)),  # the first place
        (["film", "film", "end"], ((4, 8), (28, 31))),
        (json.dumps(SQUAD), ((13, 19), (36, 42))),
        (str(SQUAD), ((13, 19), (36, 42))),
    ],
)
def test_an_answer_has_the_form_of_squad_or_is_a_text(tmp_path, answer, spans):
    write(tmp_path, answer, "film")
    test = load(tmp_path).splits["test"]
    assert test.labels[0] == spans and test.texts[0] == ("how 0?", TEXT)
    assert task().metric == "squad_f1"


def test_a_table_has_answers_and_starts_in_columns(tmp_path):
    with (tmp_path / "a.csv").open("w", newline="") as file:
        csv.writer(file).writerows([("q", "c", "a", "s"), ("x?", TEXT, "lovely", "36"), ("y?", TEXT, "", "")])
    data = {"train": "a.csv", "test": "a.csv"}
    keys = {"data": data, "label": {"column": "a", "start": "s"}, "unanswerable": True}
    assert load(tmp_path, **keys).splits["test"].labels == [((36, 42),), ()]


def test_json_lines_parquet_and_a_release_are_the_same_examples(tmp_path):
    write(tmp_path, SQUAD, {"text": [], "answer_start": []})
    expected = load(tmp_path, unanswerable=True)
    rows = [json.loads(line) for line in (tmp_path / "a.jsonl").read_text().splitlines()]
    datasets.Dataset.from_list(rows).to_parquet(tmp_path / "a.parquet")
    assert load(tmp_path, data={"train": "a.parquet", "test": "a.parquet"}, unanswerable=True).splits == expected.splits
    each = [{"text": text, "answer_start": start} for text, start in zip(*SQUAD.values(), strict=True)]
    asked = [{"id": "7", "question": "how 0?", "answers": each}, {"id": "8", "question": "how 1?", "answers": []}]
    release = {"version": "v2.0", "data": [{"title": "T", "paragraphs": [{"context": TEXT, "qas": asked}]}]}
    (tmp_path / "a.json").write_text(json.dumps(release))
    keys = {"format": "squad", "text": ["question", "context"], "label": "answers", "unanswerable": True, "id": "id"}
    found = load(tmp_path, data={"train": "a.json", "test": "a.json"}, **keys).splits["test"]
    assert found == Split(["7", "8"], expected.splits["test"].texts, expected.splits["test"].labels)
    (tmp_path / "a.json").write_text('{"data": [{"paragraphs": [{}]}]}')
    with pytest.raises(BadInput, match=r"a\.json: is no release of SQuAD: it has no 'qas' where one has it"):
        load(tmp_path, data={"train": "a.json", "test": "a.json"}, **keys)


def test_scores_are_of_the_texts_that_stand_there_and_of_each_item():
    split = Split(["1", "2", "3"], [("q", TEXT)] * 3, [((13, 19),), ((4, 8), (0, 8)), ()])
    declared = task(unanswerable=True, metrics=["squad_exact_match"])
    given = [[0, 19], [4, 8], []]
    # "film was lovely" for "lovely": precision 1/3, recall 1.
    assert item_scores(declared, split, given) == {"squad_f1": [0.5, 1.0, 1.0], "squad_exact_match": [0.0, 1.0, 1.0]}
    assert split_scores(declared, split, given) == pytest.approx({"squad_f1": 2.5 / 3, "squad_exact_match": 2 / 3})


def test_to_say_that_there_is_no_answer_is_right_as_often_as_there_is_none(tmp_path):
    write(tmp_path, "film", None, "", "end")
    assert majority_score(task(unanswerable=True), load(tmp_path, unanswerable=True), "test") == 0.5


# --- faults ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        ("movie", r"has answers in column 'a' that are not in their text: 'movie' does not stand in 'the film was"),
        (
            {"text": ["film"], "answer_start": [5]},
            r"'film' does not stand at 5, but at 4, in 1 row \(line 3\); an answer is copied from the text, and its start",
        ),
        ({"text": ["film"], "answer_start": ["x"]}, "the start of 'film' is no number: 'x'"),
        ({"text": ["film", "end"], "answer_start": [4]}, "2 answers have 1 starts"),
        ({"answer": "film"}, "a mapping needs `text` and `answer_start`, got answer"),
        ({"text": [], "answer_start": []}, r"no answer in column 'a' in 1 row \(line 3\); if questions may have none, say `un"),
        (None, "if questions may have none, say `unanswerable: true`"),
    ],
)  # fmt: skip
def test_an_answer_that_does_not_stand_in_its_text_is_named_with_what_would(tmp_path, answer, said):
    write(tmp_path, "film", "end", answer)
    with pytest.raises(BadInput, match=said):
        load(tmp_path)


@pytest.mark.parametrize(
    ("keys", "said"),
    [
        ({"text": "q"}, "text: must be two columns for spans, the question and its text; got"),
        ({"labels": ["a", "b"]}, "labels: is only for classification, multilabel, multiple_choice, tokens; the kind is spans"),
        ({"metric": "exact_match"}, "'exact_match' is for generation, and the task's kind is spans"),
        ({"kind": "generation", "metric": "bleu", "text": "q", "unanswerable": True}, "unanswerable: is only for spans"),
        ({"kind": "classification", "metric": "accuracy", "label": {"column": "a", "start": "s"}}, "label.start: is only for"),
    ],
)  # fmt: skip
def test_keys_that_fit_no_answers_are_refused(tmp_path, keys, said):
    (tmp_path / "task.yaml").write_text(json.dumps({**TASK, **keys}))
    with pytest.raises(BadInput, match=said):
        task_from_document(read_yaml(tmp_path / "task.yaml", shown="task.yaml"))


# --- windows ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def tokenizer(tmp_path):
    write_tokenizer(tmp_path)
    return AutoTokenizer.from_pretrained(tmp_path)


def test_a_window_has_the_question_and_its_part_of_the_text(tokenizer):
    ((window,), cut) = encode_windows(Split(["1"], [("was the end", "the film was")], []), tokenizer, 40)
    words = tokenizer.convert_ids_to_tokens(window["input_ids"])
    assert words == ["<s>", "was", "the", "end", "</s>", "the", "film", "was", "</s>"] and cut == 0
    assert window["begins"] == [NOWHERE] * 5 + [0, 4, 9, NOWHERE]
    assert window["ends"] == [NOWHERE] * 5 + [3, 8, 12, NOWHERE]
    assert tokens_of((4, 8), window["begins"], window["ends"]) == (6, 6)
    assert tokens_of((5, 12), window["begins"], window["ends"]) == (6, 7)  # a part of a word is the word
    assert tokens_of(None, window["begins"], window["ends"]) == (0, 0)


def test_windows_of_a_long_text_overlap_and_one_has_each_answer_whole(tokenizer):
    text = " ".join(["the film was lovely and the end was dull"] * 8)
    windows, _ = encode_windows(Split(["1", "2"], [("the end", text), ("film", "film")], []), tokenizer, 32)
    assert {len(window["input_ids"]) for window in windows[:-2]} == {32}
    assert [window["example"] for window in windows] == [0] * (len(windows) - 1) + [1]
    inside = [[(b, e) for b, e in zip(one["begins"], one["ends"], strict=True) if b >= 0] for one in windows[:-1]]
    for before, after in itertools.pairwise(inside):
        assert len({*before} & {*after}) == 32 // 3
    assert inside[0][0] == (0, 3) and inside[-1][-1][1] == len(text)
    # "film was lovely" (3 words) is whole in at least one window, wherever it stands.
    for start in (place for place in range(len(text)) if text.startswith("film was lovely", place)):
        span = (start, start + len("film was lovely"))
        found = [tokens_of(span, window["begins"], window["ends"]) for window in windows[:-1]]
        whole = [pair for pair in found if pair != (0, 0)]
        assert whole and all(last - first == 2 for first, last in whole)


def test_the_windows_of_a_question_stay_together(tokenizer):
    # A window has 3 special tokens, the question (2) and 27 of the text. The next one repeats 10 of these: 17 are new.
    rows = [("the end", " ".join(["film"] * words)) for words in (27, 28, 27 + 2 * 17)]
    windows, _ = encode_windows(Split(["1", "2", "3"], rows, []), tokenizer, 32)
    assert [window["windows"] for window in windows] == [1, 2, 2, 3, 3, 3]
    questions = QuestionWindows(windows)
    assert list(questions) == [windows[:1], windows[1:3], windows[3:]] and questions[-1] == windows[3:]
    assert questions[1:] == [windows[1:3], windows[3:]] and len(QuestionWindows([])) == 0


def test_a_question_is_cut_to_half_of_the_length(tokenizer):
    long = " ".join(["film"] * 50)
    windows, cut = encode_windows(Split(["1", "2"], [(long, "the end"), ("film", "the end")], []), tokenizer, 32)
    assert cut == 0.5 and len(windows) == 2 and len(windows[0]["input_ids"]) == 32 // 2 - 4 + 2 + 3
    with pytest.raises(LoraBenchError, match="max_length must be at least 16 for a question and its text, got 8"):
        encode_windows(Split(["1"], [("a", "b")], []), tokenizer, 8)
