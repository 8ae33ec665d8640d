"""A task is read strictly, its data becomes three splits, and everything that is wrong is said at once."""

import csv
import json
import subprocess
import sys
from pathlib import Path

import pytest

from lora_bench.documents import read_yaml
from lora_bench.errors import BadInput, LoraBenchError
from lora_bench.tasks import (
    Split,
    Task,
    TaskData,
    definition,
    encode,
    load_data,
    load_task,
    majority_score,
    score,
    task_from_definition,
    task_from_document,
)
from lora_bench.util.paths import task_files
from tests.project import write_tokenizer


def task(folder: Path, text: str) -> Task:
    """The task that these lines of YAML declare."""
    file = folder / "task.yaml"
    file.write_text(f"task: mine\n{text}", encoding="utf-8")
    return task_from_document(read_yaml(file, shown="task.yaml"))


def faults_of(folder: Path, text: str) -> list[str]:
    """What is wrong with these lines of YAML."""
    with pytest.raises(BadInput) as error:
        task(folder, text)
    return [str(fault) for fault in error.value.faults]


def data_faults(folder: Path, text: str) -> list[str]:
    """What is wrong with the data of these lines of YAML."""
    with pytest.raises(BadInput) as error:
        load_data(task(folder, text), folder)
    return [str(fault) for fault in error.value.faults]


def write_csv(path: Path, rows: list[tuple], header: tuple[str, ...] = ("text", "label")) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([header, *rows])


def write_splits(folder: Path, *, train: list[tuple], test: list[tuple], selection: list[tuple]) -> None:
    for name, rows in (("train", train), ("test", test), ("selection", selection)):
        write_csv(folder / f"{name}.csv", rows)


COLUMNS = "text: text\nlabel: label\n"
ONE_FILE = f"data: rows.csv\n{COLUMNS}"
THREE_FILES = f"data: {{train: train.csv, selection: selection.csv, test: test.csv}}\n{COLUMNS}"
HUNDRED = [(f"text number {number}", "good" if number % 2 else "bad") for number in range(100)]


def test_three_files_become_three_splits_in_their_order(tmp_path):
    write_splits(tmp_path, train=[("one", "b"), ("two", "a")], selection=[("three", "a")], test=[("four", "b")])
    data = load_data(task(tmp_path, THREE_FILES), tmp_path)
    assert data.splits["train"] == Split(ids=["1", "2"], texts=[("one",), ("two",)], labels=[1, 0])
    assert data.splits["selection"] == Split(ids=["1"], texts=[("three",)], labels=[0])
    assert data.splits["test"] == Split(ids=["1"], texts=[("four",)], labels=[1])
    assert data.labels == ("a", "b")
    assert data.warnings == ()


def test_one_file_is_dealt_out_whole_and_every_row_once(tmp_path):
    write_csv(tmp_path / "rows.csv", HUNDRED)
    data = load_data(task(tmp_path, ONE_FILE), tmp_path)
    ids = [number for split in data.splits.values() for number in split.ids]
    assert sorted(ids, key=int) == [str(number) for number in range(1, 101)]
    assert all(split.ids for split in data.splits.values())


def texts_by_split(data: TaskData) -> dict[str, set[tuple[str, ...]]]:
    return {name: set(split.texts) for name, split in data.splits.items()}


def test_the_order_of_a_file_does_not_change_who_is_in_which_split(tmp_path):
    (tmp_path / "a").mkdir()
    write_csv(tmp_path / "rows.csv", HUNDRED)
    write_csv(tmp_path / "a" / "rows.csv", HUNDRED[::-1])
    mine = task(tmp_path, ONE_FILE)
    assert texts_by_split(load_data(mine, tmp_path)) == texts_by_split(load_data(mine, tmp_path / "a"))


def test_rows_of_one_document_stay_together(tmp_path):
    rows = [(f"text {number}", "good" if number % 3 else "bad", f"document {number // 5}") for number in range(200)]
    write_csv(tmp_path / "rows.csv", rows, ("text", "label", "document"))
    data = load_data(task(tmp_path, f"{ONE_FILE}split: {{by: document}}"), tmp_path)
    document_of = {text: document for text, _, document in rows}
    documents = [{document_of[text] for (text,) in split.texts} for split in data.splits.values()]
    assert sum(map(len, documents)) == 40, "each of the 40 documents is in one split only"


def test_the_same_text_twice_is_never_in_two_splits(tmp_path):
    write_csv(tmp_path / "rows.csv", [*HUNDRED, *((text.upper() + " ", label) for text, label in HUNDRED)])
    data = load_data(task(tmp_path, ONE_FILE), tmp_path)
    assert data.warnings == ()
    assert sum(len(split.ids) for split in data.splits.values()) == 200


def test_rows_of_a_split_that_belong_together_have_one_group(tmp_path):
    write_splits(
        tmp_path, train=HUNDRED, selection=[("one", "bad")], test=[("a", "bad"), ("b", "good"), ("A ", "good")]
    )
    data = load_data(task(tmp_path, THREE_FILES), tmp_path)
    assert data.splits["test"].groups == [0, 1, 0] and data.splits["test"].independent == 2
    assert data.splits["selection"].groups == [] and data.splits["selection"].independent == 1
    # A declared group goes before equal texts, and phrases stand with the longest that has their words.
    rows = [
        (f"text {number % 20}", "good" if number % 3 else "bad", f"document {number // 5}") for number in range(200)
    ]
    write_csv(tmp_path / "rows.csv", rows, ("text", "label", "document"))
    by_document = load_data(task(tmp_path, f"{ONE_FILE}split: {{by: document}}"), tmp_path).splits
    assert by_document["train"].groups == []  # no score is taken on it
    for split in (by_document["selection"], by_document["test"]):
        documents = [rows[int(number) - 1][2] for number in split.ids]
        assert len(set(zip(documents, split.groups, strict=True))) == len(set(documents)) == split.independent
    phrases = [(f"{number} ok{more}", "good") for number in range(100) for more in (" so", "")]
    write_csv(tmp_path / "rows.csv", [*phrases, *HUNDRED])
    of_phrases = load_data(task(tmp_path, f"{ONE_FILE}split: {{phrases: true}}"), tmp_path).splits
    for split in (of_phrases["selection"], of_phrases["test"]):
        wholes = {text.removesuffix(" so") for (text,) in split.texts}
        assert split.independent == len(wholes) < len(split.ids)


def test_a_tenth_of_train_is_set_aside_where_no_selection_split_is_given(tmp_path):
    rows = [(f"text number {number}", "good" if number % 2 else "bad") for number in range(1000)]
    write_splits(tmp_path, train=rows, selection=[], test=[("another", "good")])
    data = load_data(task(tmp_path, f"data: {{train: train.csv, test: test.csv}}\n{COLUMNS}"), tmp_path)
    # 1,000 draws with probability 0.1: 100, give or take three standard deviations of 9.5
    assert 70 < len(data.splits["selection"].ids) < 130
    assert len(data.splits["train"].ids) + len(data.splits["selection"].ids) == 1000
    assert data.splits["test"].texts == [("another",)]


def test_the_hash_is_of_the_content_and_not_of_the_path(tmp_path):
    for name in ("a", "b", "c"):
        (tmp_path / name).mkdir()
        write_csv(tmp_path / name / "rows.csv", HUNDRED if name != "c" else HUNDRED[1:])
    mine = task(tmp_path, ONE_FILE)
    a, b, c = (load_data(mine, tmp_path / name).sha256 for name in ("a", "b", "c"))
    assert a == b != c


def test_words_that_mean_missing_elsewhere_stay_words(tmp_path):
    write_splits(tmp_path, train=[("NA", "null"), ("nan", "None")], selection=[("a", "null")], test=[("b", "None")])
    data = load_data(task(tmp_path, THREE_FILES), tmp_path)
    assert data.splits["train"].texts == [("NA",), ("nan",)]
    assert data.labels == ("None", "null")


def test_number_labels_are_the_same_in_csv_jsonl_and_yaml(tmp_path):
    write_csv(tmp_path / "train.csv", [("a", 0), ("b", 1), ("c", 1), ("d", 10)])
    lines = [
        json.dumps({"text": text, "label": label}) for text, label in (("e", 1), ("f", "1"), ("g", 1.0), ("h", 10))
    ]
    (tmp_path / "test.jsonl").write_text("\n".join(lines), encoding="utf-8")
    text = f"data: {{train: train.csv, selection: test.jsonl, test: test.jsonl}}\n{COLUMNS}"
    for labels in ("", "labels: [0, 1, 10]\n"):
        data = load_data(task(tmp_path, text + labels), tmp_path)
        assert data.labels == ("0", "1", "10"), "numbers are in the order of numbers"
        assert data.splits["test"].labels == [1, 1, 1, 2]


def test_a_tsv_without_header_and_with_quotation_marks_in_its_texts(tmp_path):
    (tmp_path / "rows.tsv").write_bytes(b'7\tgood\t"so said\r\n8\tbad\tshe "said"\r\n')
    text = "columns: [id, label, text]\nquoting: false\nid: id\n" + COLUMNS
    three = "data: {train: rows.tsv, selection: rows.tsv, test: rows.tsv}\n"
    train = load_data(task(tmp_path, three + text), tmp_path).splits["train"]
    assert train.texts == [('"so said',), ('she "said"',)]
    assert train.ids == ["7", "8"]


def test_a_parquet_file_with_named_classes(tmp_path):
    import datasets

    features = datasets.Features({"text": datasets.Value("string"), "label": datasets.ClassLabel(names=["no", "yes"])})
    rows = {"text": ["a", "b", "c"], "label": [1, 0, 1]}
    datasets.Dataset.from_dict(rows, features=features).to_parquet(tmp_path / "rows.parquet")
    text = f"data: {{train: rows.parquet, selection: rows.parquet, test: rows.parquet}}\n{COLUMNS}"
    data = load_data(task(tmp_path, text), tmp_path)
    assert data.labels == ("no", "yes")
    assert data.splits["train"].labels == [1, 0, 1]


def test_pairs_and_numbers(tmp_path):
    write_csv(tmp_path / "rows.csv", [("a", "b", "2.5"), ("c", "d", "-1")], ("one", "two", "likeness"))
    text = "kind: regression\ntext: [one, two]\nlabel: likeness\n"
    three = "data: {train: rows.csv, selection: rows.csv, test: rows.csv}\n"
    data = load_data(task(tmp_path, three + text), tmp_path)
    assert data.splits["train"] == Split(ids=["1", "2"], texts=[("a", "b"), ("c", "d")], labels=[2.5, -1.0])
    assert data.labels == ()


def test_the_sign_of_a_number_makes_two_classes_and_zero_is_left_out(tmp_path):
    write_csv(tmp_path / "rows.csv", [("a", "-0.5"), ("b", "0"), ("c", "3")])
    text = (
        "data: {train: rows.csv, selection: rows.csv, test: rows.csv}\ntext: text\nlabel: {column: label, rule: sign}\n"
    )
    data = load_data(task(tmp_path, text), tmp_path)
    assert data.labels == ("negative", "positive")
    assert data.splits["train"] == Split(ids=["1", "3"], texts=[("a",), ("c",)], labels=[0, 1])


def test_a_shared_text_is_warned_of_with_numbers(tmp_path):
    train = [("The film", "a"), ("two", "b"), ("three", "b")]
    write_splits(tmp_path, train=train, selection=[("four", "a")], test=[("the  film", "a"), ("five", "b")])
    (warning,) = load_data(task(tmp_path, THREE_FILES), tmp_path).warnings
    assert warning == "1 of the 2 examples of test shares its text with an example of train"


# What is wrong with the data


def test_a_file_that_is_not_there_is_said_with_the_nearest_one(tmp_path):
    write_csv(tmp_path / "row.csv", HUNDRED)
    assert data_faults(tmp_path, ONE_FILE) == [
        f"{tmp_path / 'rows.csv'}: there is no such file; did you mean 'row.csv'?"
    ]


def test_a_missing_column_is_said_with_the_nearest_one(tmp_path):
    write_csv(tmp_path / "rows.csv", HUNDRED, ("texts", "label"))
    (fault,) = data_faults(tmp_path, ONE_FILE)
    assert fault.endswith("rows.csv: has no column 'text'; did you mean 'texts'? (columns: texts, label)")


def test_missing_texts_and_labels_are_counted_and_placed(tmp_path):
    rows = [("", "good"), ("b", "bad"), ("  ", "good"), ("d", ""), ("", "bad"), ("", "bad")]
    write_csv(tmp_path / "rows.csv", rows)
    first, second = data_faults(tmp_path, ONE_FILE)
    assert first.endswith("has no text in column 'text' in 4 rows (lines 2, 4, 6, …)")
    assert "has no label in column 'label' in 1 row (line 5); `unlabelled_rows: leave_out`" in second


def test_an_unknown_label_is_shown_with_its_row(tmp_path):
    write_csv(tmp_path / "rows.csv", [("a", "good"), ("b", "bad"), ("c", "god")])
    (fault,) = data_faults(tmp_path, f"{ONE_FILE}labels: [good, bad]\n")
    assert fault.endswith(
        "has labels in column 'label' that are not among good, bad: 'god'; did you mean 'good'? in 1 row (line 4)"
    )


def test_faults_of_all_files_come_at_once(tmp_path):
    write_splits(tmp_path, train=[("a", "x"), ("b", "y")], selection=[("", "x")], test=[("d", "")])
    selection, test = data_faults(tmp_path, THREE_FILES)
    assert "selection.csv: has no text" in selection
    assert "test.csv: has no label" in test


def test_a_label_that_is_no_number_is_shown_for_regression(tmp_path):
    write_csv(tmp_path / "rows.csv", [("a", "1.5"), ("b", "much"), ("c", "nan")])
    (fault,) = data_faults(tmp_path, f"kind: regression\n{ONE_FILE}")
    assert fault.endswith("that are no number ('much', 'nan') in 2 rows (lines 3, 4)")


def test_one_class_is_not_enough(tmp_path):
    write_csv(tmp_path / "rows.csv", [(text, "good") for text, _ in HUNDRED])
    (fault,) = data_faults(tmp_path, ONE_FILE)
    assert fault.endswith("has 1 class in column 'label' ['good']; at least 2 are needed")


def test_a_column_that_is_no_label_is_noticed(tmp_path):
    write_csv(tmp_path / "rows.csv", HUNDRED)
    (fault,) = data_faults(tmp_path, "data: rows.csv\ntext: text\nlabel: text\n")
    assert "has 100 different values in column 'text' in 100 rows; name the column of the label" in fault


def test_an_empty_split_is_said(tmp_path):
    write_csv(tmp_path / "rows.csv", HUNDRED[:2])
    faults = data_faults(tmp_path, ONE_FILE)
    assert faults
    assert all("without any example (2 rows with a label)" in fault for fault in faults)


def test_a_repeated_id_is_shown(tmp_path):
    write_csv(tmp_path / "rows.csv", [("a", "x", "1"), ("b", "y", "1")], ("text", "label", "id"))
    (fault,) = data_faults(tmp_path, f"{ONE_FILE}id: id\n")
    assert fault.endswith("repeats an id of column 'id' ('1') in 1 row (line 3)")


@pytest.mark.parametrize(
    ("name", "content", "fault"),
    [
        ("rows.csv", b"", "rows.csv: is empty"),
        ("rows.csv", b"text,label\na,b,c\n", "rows.csv:2: has 3 values, but there are 2 columns (text, label)"),
        ("rows.csv", b"text,text\na,b\n", "rows.csv: has the column 'text' twice"),
        ("rows.csv", b"text,label\na,x\n\xff,y\n", "rows.csv:3: is not UTF-8 text"),
        ("rows.csv", b'text,label\n"a,x\n', "rows.csv:2: is no valid csv: unexpected end of data; if quotation marks"),
        ("rows.jsonl", b'{"text": "a"}\nno\n', "rows.jsonl:2: is no valid JSON: Expecting value (column 1)"),
        ("rows.json", b'[{"text": "a"}]', "rows.json:1: must be one JSON object on each line, got list"),
        ("rows.jsonl", b'{"text": 5, "label": "x"}', "has values in column 'text' that are no text but int in 1 row"),
        ("rows.parquet", b"PAR1", "rows.parquet: is no valid parquet"),
    ],
)
def test_a_file_that_is_not_what_it_should_be(tmp_path, name, content, fault):
    (tmp_path / name).write_bytes(content)
    assert fault in data_faults(tmp_path, f"data: {name}\n{COLUMNS}")[0]


# What is wrong with the declaration


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        (f"data: rows\n{COLUMNS}", "task.yaml:2: data: 'rows' has no suffix that tells its format; say `format: csv`"),
        (
            f"data: {{train: a.csv}}\n{COLUMNS}",
            "task.yaml:2: data: test is missing; to split one file, write `data: FILE`",
        ),
        (
            f"data: {{file: a.csv, hub: a/b}}\n{COLUMNS}",
            "task.yaml:2: data: must be a file, files for train and test, an asset with either in it",
        ),
        (
            f"data: {{asset: minilm, file: a.csv}}\n{COLUMNS}",
            "data.asset: unknown asset 'minilm'; did you mean 'minilm-l6'?",
        ),
        (f"data: {{asset: minilm-l6}}\n{COLUMNS}", "task.yaml:2: data: must say which `file` of the asset"),
        (
            f"data: {{hub: a/b, splits: {{train: a, test: b}}}}\n{COLUMNS}",
            "data.revision: is missing, and a hub data set",
        ),
        (f"data: {{fil: a.csv}}\n{COLUMNS}", "task.yaml:2: data.fil: unknown key; did you mean 'file'?"),
        (f"{ONE_FILE}metric: acuracy\n", "task.yaml:5: metric: unknown metric 'acuracy'; did you mean 'accuracy'?"),
        (f"{ONE_FILE}metric: pearson\n", "metric: 'pearson' is for regression, and the task's kind is classification"),
        (f"{ONE_FILE}metric: f1\n", "labels: is missing: f1 is that of the second class, so the order must be said"),
        (
            f"{ONE_FILE}labels: [a, a]\n",
            "task.yaml:5: labels: must be at least two different class names, got ['a', 'a']",
        ),
        (f"{ONE_FILE}labels: [yes, true]\n", "labels[1]: must be string, got True (bool)"),
        (
            f"kind: regression\n{ONE_FILE}labels: [a, b]\n",
            "labels: is only for classification, multilabel, multiple_choice, tokens; the kind",
        ),
        (f"{ONE_FILE}split: {{train: 0.8, test: 0.3}}\n", "split: must add up to 1, got 0.8 + 0.1 + 0.3"),
        (f"{THREE_FILES}split: {{by: text}}\n", "split: must go: the data already comes in three splits"),
        (
            f"{ONE_FILE}columns: [txt, label]\n",
            "columns: does not name 'text', which the task uses; did you mean 'txt'?",
        ),
        (f"data: a.jsonl\nquoting: false\n{COLUMNS}", "task.yaml:3: quoting: is only for csv and tsv"),
        ("data: rows.csv\nlabel: label\ntext: [a, b, c]\n", "text: must be one column, or a list of two"),
        ("data: rows.csv\nlabel: {column: a, rule: size}\ntext: a\n", "label.rule: must be 'sign', got 'size' (str)"),
    ],
)
def test_a_contradiction_is_said_with_its_line(tmp_path, text, fault):
    faults = faults_of(tmp_path, text)
    assert len(faults) == 1
    assert fault in faults[0]


def test_all_faults_of_a_declaration_come_at_once(tmp_path):
    faults = faults_of(tmp_path, f"{ONE_FILE}metric: pearson\nlabels: [a]\nsplit: {{test: 0.5}}\n")
    assert [fault.split(": ")[1] for fault in faults] == ["metric", "labels", "split"]


def test_a_task_inside_a_suite_has_the_suites_lines(tmp_path):
    file = tmp_path / "suite.yaml"
    file.write_text("suite: s\ntasks:\n  - task: t\n    data: rows.csv\n    text: a\n    label: b\n    metric: f2\n")
    with pytest.raises(BadInput, match=r"suite.yaml:7: tasks\[0\].metric: unknown metric 'f2' \(known: accuracy, "):
        task_from_document(read_yaml(file), ("tasks", 0))


def test_defaults_follow_the_kind_and_are_written_out(tmp_path):
    written = definition(task(tmp_path, f"kind: regression\n{ONE_FILE}"))
    assert written["metric"] == "pearson"
    assert written["higher_is_better"] is True
    assert written["split"] == {"train": 0.8, "selection": 0.1, "test": 0.1, "by": None}
    assert definition(task(tmp_path, THREE_FILES))["split"] is None
    assert json.loads(json.dumps(written)) == written


def test_a_definition_gives_the_task_back(tmp_path):
    for text in (ONE_FILE, f"{THREE_FILES}labels: [0, 1]\n", f"kind: regression\n{ONE_FILE}"):
        mine = task(tmp_path, text)
        assert definition(task_from_definition(definition(mine))) == definition(mine)


def test_an_unknown_task_is_named_with_the_nearest_one():
    with pytest.raises(LoraBenchError, match="unknown task 'movie_review'; did you mean 'movie_reviews'"):
        load_task("movie_review")


def test_a_task_file_named_otherwise_than_its_task_is_refused(tmp_path, monkeypatch):
    (tmp_path / "tasks").mkdir()
    (tmp_path / "tasks" / "yours.yaml").write_text(f"task: mine\n{ONE_FILE}")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(BadInput, match=r"yours\.yaml:1: task: must be 'yours' like the file, got 'mine'"):
        load_task("yours")


@pytest.mark.parametrize("name", sorted(task_files()))
def test_every_task_that_ships_is_valid_and_credits_its_source(name):
    shipped = load_task(name)
    assert shipped.about
    assert shipped.licence
    assert shipped.citation


def test_importing_tasks_loads_nothing_heavy():
    heavy = "('torch', 'transformers', 'datasets', 'evaluate', 'sklearn', 'pandas')"
    code = f"import sys, lora_bench.tasks; print([name for name in {heavy} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


# The hub, which is replaced here by one that answers from memory

HUB = f"data: {{hub: owner/name, revision: REVISION, splits: {{train: train, test: validation}}}}\n{COLUMNS}"
COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture
def hub(monkeypatch):
    """Two splits of a hub data set with named classes; the list holds what was asked for."""
    import datasets

    import lora_bench.util.hub

    features = datasets.Features({"text": datasets.Value("string"), "label": datasets.ClassLabel(names=["no", "yes"])})
    texts = {"train": [f"text {number}" for number in range(60)], "validation": ["this", "", "that"]}
    asked = []

    class Builder:
        def as_dataset(self, split):
            asked.append(split)
            rows = {"text": texts[split], "label": [number % 2 for number in range(len(texts[split]))]}
            return datasets.Dataset.from_dict(rows, features=features)

    def data_set(name, config, commit):
        asked.append((name, config, commit))
        return Builder()

    monkeypatch.setattr(lora_bench.util.hub, "data_set", data_set)
    return asked


def test_a_hub_data_set_is_asked_for_at_its_commit(tmp_path, hub):
    data = load_data(task(tmp_path, HUB.replace("REVISION", COMMIT)), tmp_path)
    assert hub == [("owner/name", None, COMMIT), "train", ("owner/name", None, COMMIT), "validation"]
    assert data.labels == ("no", "yes")
    assert data.splits["test"].labels == [0, 1, 0]
    assert data.warnings == ("owner/name, split validation has empty texts (1), which are kept",)


def test_a_branch_of_a_hub_data_set_becomes_its_commit(tmp_path, hub, monkeypatch):
    import lora_bench.util.hub

    def snapshot(kind, name, revision, files):
        assert (kind, name, revision) == ("data set", "owner/name", "main")
        return lora_bench.util.hub.Snapshot(tmp_path, COMMIT)

    monkeypatch.setattr(lora_bench.util.hub, "snapshot", snapshot)
    pinned = load_data(task(tmp_path, HUB.replace("REVISION", COMMIT)), tmp_path)
    assert load_data(task(tmp_path, HUB.replace("REVISION", "main")), tmp_path).sha256 == pinned.sha256


# Encoding and scores


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    from transformers import AutoTokenizer

    folder = tmp_path_factory.mktemp("tokenizer")
    write_tokenizer(folder)
    return AutoTokenizer.from_pretrained(folder)


def test_encoding_cuts_at_max_length_and_tells_the_share(tokenizer):
    split = Split(ids=["1", "2"], texts=[("the film was great",), ("a film",)], labels=[1, 0])
    examples, truncated_share = encode(split, tokenizer, 5)
    # <s> and </s> leave room for three words of five tokens
    assert [tokenizer.decode(example["input_ids"]) for example in examples] == [
        "<s> the film was </s>",
        "<s> a film </s>",
    ]
    assert [len(example["attention_mask"]) for example in examples] == [5, 4]
    assert truncated_share == 1 / 2


def test_encoding_pairs_cuts_the_longer_one(tokenizer):
    split = Split(ids=["1", "2"], texts=[("the film was great", "a plot"), ("the", "end")], labels=[1, 0])
    examples, truncated_share = encode(split, tokenizer, 7)
    assert tokenizer.decode(examples[0]["input_ids"]) == "<s> the film </s> a plot </s>"
    assert truncated_share == 1 / 2


def test_encoding_nothing_gives_nothing(tokenizer):
    assert encode(Split([], [], []), tokenizer, 8) == ([], 0.0)


def test_a_score_is_named_like_its_metric_and_left_out_where_undefined(tmp_path):
    classes, numbers = task(tmp_path, ONE_FILE), task(tmp_path, f"kind: regression\n{ONE_FILE}")
    assert score(classes, [0, 1, 1, 0], [0, 1, 0, 0]) == {"accuracy": 3 / 4}
    assert score(numbers, [1.0, 2.0, 3.0], [5.0, 5.0, 5.0]) == {}


def test_f1_of_three_declared_classes_is_their_mean(tmp_path):
    mine = task(tmp_path, f"{ONE_FILE}metric: f1\nlabels: [a, b, c]\n")
    # classes 0 and 1 score 2/3 each and class 2 scores 1; see tests/metrics
    assert score(mine, [0, 0, 1, 2], [0, 1, 1, 2]) == {"f1": pytest.approx(7 / 9)}


def test_the_majority_is_that_of_train(tmp_path):
    train = [("one", "a"), ("two", "b"), ("three", "b")]
    test = [("four", "a"), ("five", "b"), ("six", "a"), ("seven", "a")]
    write_splits(tmp_path, train=train, selection=[("eight", "a")], test=test)
    mine = task(tmp_path, THREE_FILES)
    assert majority_score(mine, load_data(mine, tmp_path), "test") == 1 / 4


def test_the_mean_has_no_correlation(tmp_path):
    numbers = [("one", "1"), ("two", "2"), ("three", "4")]
    write_splits(tmp_path, train=numbers, selection=[("four", "3")], test=[("five", "1"), ("six", "2")])
    mine = task(tmp_path, f"kind: regression\n{THREE_FILES}")
    assert majority_score(mine, load_data(mine, tmp_path), "test") is None


# The shipped data


@pytest.mark.assets
def test_movie_reviews_has_10568_snippets_and_tests_on_4000_of_them():
    reviews = load_task("movie_reviews")
    data = load_data(reviews, task_files()["movie_reviews"].parent)
    sizes = {name: len(split.ids) for name, split in data.splits.items()}
    assert sum(sizes.values()) == 10_605 - 37
    assert sizes == {"train": 5679, "selection": 843, "test": 4046}
    assert data.labels == ("negative", "positive")
    assert data.warnings == ()
    assert majority_score(reviews, data, "test") == 2015 / 4046
    everything = [text for split in data.splits.values() for (text,) in split.texts]
    assert "Effective but too tepid biopic" in everything
    assert not any(text != text.strip() or "\r" in text for text in everything)


def test_a_file_of_a_spreadsheet_is_read_by_its_separator_and_encoding(tmp_path):
    rows = "\r\n".join(["text;label", *(f'"schön; ja {index}";gut\r\nnein {index};schlecht' for index in range(60))])
    (tmp_path / "all.csv").write_bytes(rows.encode("cp1252"))
    given = "data: all.csv\ntext: text\nlabel: label\ndelimiter: ;\nencoding: "
    data = load_data(task(tmp_path, f"{given}cp1252\n"), tmp_path)
    assert data.labels == ("gut", "schlecht")
    assert ("schön; ja 0",) in [text for split in data.splits.values() for text in split.texts]
    assert data_faults(tmp_path, f"{given}utf-8\n") == [f"{tmp_path / 'all.csv'}: is not utf-8 text"]
    (fault,) = data_faults(tmp_path, given.removesuffix("encoding: "))
    assert "is not UTF-8 text; name its `encoding:`, such as cp1252" in fault
