"""Tasks of generation: one example a text in train, one a distinct input elsewhere, inputs as in the LoRA paper."""

import gzip
import json
import shutil
import tarfile
from pathlib import Path

import pytest

from lora_bench.documents import read_yaml
from lora_bench.errors import BadInput
from lora_bench.kinds.support.linearise import linearise
from lora_bench.metrics import unavailable
from lora_bench.tasks import (
    Split,
    Task,
    TaskData,
    find_folder,
    in_folder,
    load_data,
    load_task,
    majority_score,
    score,
    split_scores,
    task_from_document,
    unavailable_metrics,
)
from tests.shared import shared


def task(folder: Path, text: str) -> Task:
    file = folder / "task.yaml"
    file.write_text(f"task: mine\nkind: generation\n{text}", encoding="utf-8")
    return task_from_document(read_yaml(file, shown="task.yaml"))


def write_jsonl(path: Path, rows: list[dict]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def counts(data: TaskData) -> dict[str, tuple[int, int]]:
    """Examples and texts of each split."""
    return {name: (len(split.ids), sum(map(len, split.labels))) for name, split in data.splits.items()}


def local_data(name: str, data_dir: Path, **options: bool) -> TaskData:
    shipped = load_task(name)
    folder = find_folder(shipped, data_dir)
    return load_data(in_folder(shipped, folder), folder, **options)


COLUMNS = "text: question\nlabel: answer\nmetric: exact_match\n"
THREE_FILES = f"data: {{train: train.jsonl, selection: dev.jsonl, test: test.jsonl}}\n{COLUMNS}"
ROWS = [
    {"question": "one?", "answer": "a"},
    {"question": "two?", "answer": "b"},
    {"question": "one?", "answer": "c"},
    {"question": "three?", "answer": ["d", "e"]},
]


@pytest.fixture
def three_files(tmp_path):
    for name in ("train", "dev", "test"):
        write_jsonl(tmp_path / f"{name}.jsonl", ROWS)
    return tmp_path


def test_train_has_an_example_for_each_text_and_test_for_each_input(three_files):
    data = load_data(task(three_files, THREE_FILES), three_files)
    assert data.splits["train"] == Split(
        ids=["1", "2", "3", "4", "4.2"],
        texts=[("one?",), ("two?",), ("one?",), ("three?",), ("three?",)],
        labels=[("a",), ("b",), ("c",), ("d",), ("e",)],
    )
    for name in ("selection", "test"):
        assert data.splits[name] == Split(
            ids=["1", "2", "4"],
            texts=[("one?",), ("two?",), ("three?",)],
            labels=[("a", "c"), ("b",), ("d", "e")],
        )
    assert data.labels == ()


def test_an_input_is_never_in_two_of_the_splits_that_are_dealt_out(tmp_path):
    rows = [{"question": f"question {n % 100}?", "answer": f"answer {n}"} for n in range(300)]
    write_jsonl(tmp_path / "rows.jsonl", rows)
    data = load_data(task(tmp_path, f"data: rows.jsonl\n{COLUMNS}"), tmp_path)
    inputs = [set(split.texts) for split in data.splits.values()]
    assert sum(map(len, inputs)) == len(set.union(*inputs)) == 100
    assert sum(texts for _, texts in counts(data).values()) == 300


def test_texts_that_are_none_are_shown_with_their_rows(three_files):
    write_jsonl(three_files / "dev.jsonl", [*ROWS, {"question": "four?", "answer": ""}, {"question": "five?"}])
    write_jsonl(three_files / "test.jsonl", [*ROWS, {"question": "four?", "answer": 4}])
    with pytest.raises(BadInput) as error:
        load_data(task(three_files, THREE_FILES), three_files)
    dev, test = map(str, error.value.faults)
    said = "dev.jsonl: has no text in column 'answer' in 2 rows (lines 5, 6); `unlabelled_rows: leave_out` leaves such rows out"
    assert f"{said}, and counts them" in dev
    assert test.endswith("test.jsonl: has values in column 'answer' that are no text but int in 1 row (line 5)")


def test_of_a_list_of_texts_only_those_of_the_wanted_kind_are_taken(tmp_path):
    kinds = {"kind": ["good", "bad", "good"], "text": ["a", "b", "c"]}
    none = {"kind": ["bad"], "text": ["d"]}
    rows = [{"question": "one?", "lex": kinds}, {"question": "two?", "lex": none}]
    for name in ("train", "dev", "test"):
        write_jsonl(tmp_path / f"{name}.jsonl", rows)
    text = THREE_FILES.replace("label: answer", "label: {column: lex.text, where: {lex.kind: good}}")
    data = load_data(task(tmp_path, text), tmp_path)
    assert data.splits["train"].labels == [("a",), ("c",)]
    assert data.splits["test"].labels == [("a", "c")]


def test_values_inside_a_list_of_objects_are_a_list(tmp_path):
    """So does DART's annotations column stand in parquet, and in JSON."""
    rows = [{"question": "one?", "notes": [{"text": "a"}, {"text": "b"}]}]
    for name in ("train", "dev", "test"):
        write_jsonl(tmp_path / f"{name}.jsonl", rows)
    data = load_data(task(tmp_path, THREE_FILES.replace("label: answer", "label: notes.text")), tmp_path)
    assert data.splits["test"].labels == [("a", "b")]


# Scores


def test_parts_of_the_test_split_are_scored_apart(three_files):
    rows = [{**row, "topic": topic} for row, topic in zip(ROWS, ("x", "y", "x", "z"), strict=True)]
    write_jsonl(three_files / "test.jsonl", rows)
    subsets = "subsets: {column: topic, parts: {known: [x]}, rest: new}\n"
    mine = task(three_files, THREE_FILES + subsets)
    split = load_data(mine, three_files).splits["test"]
    assert split.subsets == {"known": (0,), "new": (1, 2)}
    # right: one of the two references of "one?", and that of "two?"
    assert split_scores(mine, split, ["c", "b", "nothing"]) == {
        "exact_match": pytest.approx(2 / 3),
        "known/exact_match": 1.0,
        "new/exact_match": 1 / 2,
    }
    assert split_scores(mine, split, ["c", "b", "d"], "other")["other/known/exact_match"] == 1.0


def test_a_further_split_is_scored_under_its_name(three_files):
    write_jsonl(three_files / "more.jsonl", ROWS[:2])
    mine = task(three_files, THREE_FILES.replace("test: test.jsonl", "test: test.jsonl, also: {more: more.jsonl}"))
    data = load_data(mine, three_files)
    assert split_scores(mine, data.splits["more"], ["a", "a"], "more") == {"more/exact_match": 1 / 2}


def test_no_constant_is_a_majority_of_texts(three_files):
    mine = task(three_files, THREE_FILES)
    assert majority_score(mine, load_data(mine, three_files), "test") is None


def test_metrics_that_cannot_be_computed_here_are_named_and_left_out(three_files, monkeypatch):
    import lora_bench.tasks.task_scores

    def no_java(name):
        return f"metric {name!r} needs java" if name == "meteor" else unavailable(name)

    monkeypatch.setattr(lora_bench.tasks.task_scores, "unavailable", no_java)
    mine = task(three_files, THREE_FILES + "metrics: [meteor]\n")
    assert score(mine, [("a",)], ["a"]) == {"exact_match": 1.0}
    assert unavailable_metrics(mine) == ["metric 'meteor' needs java"]


# The sets of the LoRA paper


def test_e2e_has_its_official_counts():
    data = local_data("e2e", shared("data"))
    assert counts(data) == {"train": (42061, 42061), "selection": (547, 4672), "test": (630, 4693)}
    assert data.warnings == ()


@pytest.mark.parametrize(("ours", "theirs"), [("testset_w_refs", "test"), ("devset", "valid")])
def test_e2e_inputs_are_those_of_the_paper_line_by_line(ours, theirs, tmp_path):
    folder = shared("data", "e2e")
    with gzip.open(folder / f"lora_repo_{theirs}.txt.gz", "rt", encoding="utf-8") as file:
        expected = [line.partition("||")[0] for line in file]
    shutil.copy(folder / f"{ours}.csv", tmp_path / "rows.csv")
    mine = task(
        tmp_path,
        "data: {train: rows.csv, selection: rows.csv, test: rows.csv}\ntext: mr\nlabel: ref\nlinearise: e2e\n",
    )
    inputs = [text for (text,) in load_data(mine, tmp_path).splits["train"].texts]
    assert len(inputs) == len(expected) > 4600
    assert [(one, other) for one, other in zip(inputs, expected, strict=True) if one != other] == []


@pytest.fixture(scope="module")
def webnlg(tmp_path_factory):
    folder = tmp_path_factory.mktemp("webnlg")
    with tarfile.open(shared("data", "webnlg2017", "webnlg_challenge_2017.tar.gz")) as archive:
        archive.extractall(folder, filter="data")
    return local_data("webnlg", folder)


def test_webnlg_has_its_official_counts_less_the_texts_that_are_to_be_mended(webnlg):
    # 18,102 texts in train and 2,268 in dev, of which 77 and 10 are marked toFix; of the 872 sets of triples in dev one
    # stands twice, and one has no other text
    assert counts(webnlg) == {"train": (18102 - 77, 18102 - 77), "selection": (870, 2268 - 10), "test": (1862, 4928)}


def test_webnlg_has_971_seen_and_891_unseen_inputs(webnlg):
    test = webnlg.splits["test"]
    texts = {name: sum(len(test.labels[place]) for place in places) for name, places in test.subsets.items()}
    assert {name: len(places) for name, places in test.subsets.items()} == {"seen": 971, "unseen": 891}
    assert texts == {"seen": 4928 - 2433, "unseen": 2433}
    assert sorted(test.subsets["seen"] + test.subsets["unseen"]) == list(range(1862))


def test_webnlg_inputs_are_triples_between_bars(webnlg):
    for split in webnlg.splits.values():
        assert all(len(triple.split(" : ")) >= 3 for (text,) in split.texts for triple in text.split(" | "))
        assert len(set(split.ids)) == len(split.ids)


def test_dart_has_its_official_counts(tmp_path):
    folder = shared("data", "dart")
    for name in ("train", "dev"):  # the train file is too large to be at hand
        shutil.copy(folder / "dart-v1.1.1-full-dev.json.gz", tmp_path / f"dart-v1.1.1-full-{name}.json.gz")
    shutil.copy(folder / "dart-v1.1.1-full-test.xml.gz", tmp_path)
    data = local_data("dart", tmp_path)
    # 2,768 sets of triples in dev and 5,097 in test, some of them the same; one of test's 12,552 texts is empty
    assert counts(data) == {"train": (6980, 6980), "selection": (2721, 6980), "test": (4159, 12552 - 1)}
    properties = {triple.split(" : ")[1] for (text,) in data.splits["test"].texts for triple in text.split(" | ")}
    assert all(name == name.lower() for name in properties)


# Made files of each layout

XML = """<?xml version='1.0' encoding='utf-8'?>
<benchmark><entries>
<entry category="{category}" eid="Id1" size="2">
<originaltripleset><otriple>Tower | height | tall</otriple></originaltripleset>
<modifiedtripleset><mtriple>{name} | HEIGHT | "90.0"</mtriple><mtriple>{name} | city | Old &amp; New</mtriple>
</modifiedtripleset>
<lex comment="good" lid="Id1">It is high.</lex>
<lex comment="toFix" lid="Id2">It high.</lex>
<lex comment="good" lid="Id3"/>
</entry>
</entries></benchmark>
"""


def test_the_files_of_a_webnlg_folder_are_one_split(tmp_path):
    names = {"train/1triples/a": ("Tower", "City"), "train/2triples/b": ("Bridge", "Food"), "dev/1triples/a": ("Sea", "City"),
             "test/testdata_with_lex": ("Hill", "Artist")}  # fmt: skip
    for path, (name, category) in names.items():
        file = tmp_path / "webnlg" / f"{path}.xml"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(XML.format(name=name, category=category), encoding="utf-8")
    data = local_data("webnlg", tmp_path)
    first = 'Tower : HEIGHT : "90.0" | Tower : city : Old & New'
    assert data.splits["train"].texts[0] == (first,)
    assert data.splits["train"].labels == [("It is high.",)] * 2
    assert data.splits["test"].labels == [("It is high.",)]
    assert data.splits["test"].subsets == {"unseen": (0,)}


def test_dart_reads_json_and_xml_alike(tmp_path):
    entry = {"tripleset": [["Tower", "HEIGHT", '"90.0"'], ["Tower", "city", "Old & New"]],
             "annotations": [{"source": "mine", "text": "It is high."}, {"source": "mine", "text": "It high."}]}  # fmt: skip
    text = json.dumps([entry], indent=2)
    for name in ("train", "dev", "test"):
        (tmp_path / f"dart-v1.1.1-full-{name}.json").write_text(text, encoding="utf-8")
    in_json = local_data("dart", tmp_path)
    (tmp_path / "dart-v1.1.1-full-test.json").unlink()
    (tmp_path / "dart-v1.1.1-full-test.xml").write_text(XML.format(name="Tower", category="MISC"), encoding="utf-8")
    in_xml = local_data("dart", tmp_path)
    assert in_json.splits["test"].texts == in_xml.splits["test"].texts
    assert in_json.splits["test"].texts == [('Tower : height : "90.0" | Tower : city : Old & New',)]
    assert in_json.splits["test"].labels == in_xml.splits["test"].labels == [("It is high.", "It high.")]


def test_samsum_is_a_list_of_dialogues_of_which_one_is_empty(tmp_path):
    rows = [{"id": "7", "dialogue": "Ann: Hello\r\nBob: Hi", "summary": "Ann and Bob say hello."},
            {"id": "8", "dialogue": "", "summary": "Nothing is said."}]  # fmt: skip
    for name in ("train", "val", "test"):
        (tmp_path / f"{name}.json").write_text(json.dumps(rows), encoding="utf-8")
    data = local_data("samsum", tmp_path)
    assert data.splits["test"].texts == [("Ann: Hello\nBob: Hi\n\n",), ("\n\n",)]
    assert data.splits["test"].ids == ["7", "8"]
    assert data.splits["train"].labels == [("Ann and Bob say hello.",), ("Nothing is said.",)]


def write_wikisql(folder: Path, **changed: object) -> None:
    table = {"id": "1-1", "header": ["Place", "Year"], "types": ["text", "real"], "rows": [["Rome", 1]]}
    sql = {"sel": 1, "agg": 3, "conds": [[0, 0, "Rome"], [1, 1, 5]]}
    row = {"phase": 1, "table_id": "1-1", "question": "How many?", "sql": sql}
    for name in ("train", "dev"):
        write_jsonl(folder / f"{name}.jsonl", [{**row, **changed}, {**row, "sql": {"sel": 0, "agg": 0, "conds": []}}])
        write_jsonl(folder / f"{name}.tables.jsonl", [table])


def test_wikisql_joins_questions_with_the_headers_of_their_tables(tmp_path):
    write_wikisql(tmp_path / "wikisql")
    data = local_data("wikisql", tmp_path, whole_train=True)
    assert data.splits["test"].texts == [("Place | Year\nHow many?",)]
    (queries,) = data.splits["test"].labels
    assert queries == ("SELECT COUNT Year FROM table WHERE Place = Rome AND Year > 5", "SELECT Place FROM table")


@pytest.mark.parametrize(
    ("changed", "fault"),
    [
        ({"table_id": "2"}, "train.jsonl:1: has no '2', or a table that is not among the tables"),
        ({"sql": {"sel": 9, "agg": 0, "conds": []}}, "train.jsonl:1: is no question of WikiSQL: its sql does not fit"),
        ({"sql": None}, "train.jsonl:1: is no question of WikiSQL"),
    ],
)
def test_a_question_that_does_not_fit_its_table_is_said(tmp_path, changed, fault):
    write_wikisql(tmp_path, **changed)
    with pytest.raises(BadInput) as error:
        local_data("wikisql", tmp_path)
    assert fault in str(error.value)


@pytest.mark.parametrize(
    ("format", "content", "fault"),
    [
        ("webnlg", "<benchmark>", "rows.data:1: is no valid XML: no element found"),
        ("webnlg", "<benchmark/>", "rows.data: has no entry"),
        ("dart", "[{", "rows.data:1: is no valid JSON"),
        ("dart", '{"a": 1}', "rows.data: must be a list of objects with tripleset and annotations"),
        (
            "json",
            '{"a": 1}',
            "rows.data: must be a JSON list of objects; for one object on each line say `format: jsonl`",
        ),
        ("json", "[]", "rows.data: is empty"),
    ],
)
def test_a_release_that_is_not_what_it_should_be(tmp_path, format, content, fault):
    (tmp_path / "rows.data").write_text(content, encoding="utf-8")
    mine = task(tmp_path, f"data: rows.data\nformat: {format}\ntext: triples\nlabel: text\n")
    with pytest.raises(BadInput) as error:
        load_data(mine, tmp_path)
    assert fault in str(error.value)


def test_inputs_that_cannot_be_written_are_shown_with_their_rows(tmp_path):
    rows = [{"mr": "name[X], food[Y]", "ref": "a"}, {"mr": "name: X", "ref": "b"}, {"mr": None, "ref": "c"}]
    write_jsonl(tmp_path / "rows.jsonl", rows)
    mine = task(tmp_path, "data: rows.jsonl\ntext: mr\nlabel: ref\nlinearise: e2e\n")
    with pytest.raises(BadInput) as error:
        load_data(mine, tmp_path)
    (fault,) = map(str, error.value.faults)
    expected = "has no e2e input in mr: must be like 'name[X], eatType[Y]', got 'name: X' in 2 rows (lines 2, 3)"
    assert fault.endswith(expected)


def test_the_shapes_of_the_hub_are_read_too():
    """WebNLG's triples are there texts inside a list, or inside a list of lists; DART's are lists of three."""
    assert linearise("webnlg", [["A | b | C", "D | e | F"]]) == "A : b : C | D : e : F"
    assert linearise("webnlg", [[["A | b | C", "D | e | F"]]]) == "A : b : C | D : e : F"
    assert linearise("dart", [[["A", "B", "C"]]]) == "A : b : C"
