"""The keys of a task that came with several metrics, further splits, generation and folders: what is wrong is said at once."""

import json
from pathlib import Path

import pytest

from lora_bench.documents import read_yaml
from lora_bench.errors import BadInput
from lora_bench.suite.load_suite import load_suite
from lora_bench.tasks import (
    Task,
    definition,
    find_folder,
    in_folder,
    load_data,
    load_task,
    load_unlabelled,
    score,
    task_from_definition,
    task_from_document,
)
from lora_bench.util.paths import task_files

REPOSITORY = Path(__file__).parents[2]
COLUMNS = "text: text\nlabel: label\n"
ONE_FILE = f"data: rows.csv\n{COLUMNS}"
THREE_FILES = f"data: {{train: train.csv, selection: selection.csv, test: test.csv}}\n{COLUMNS}"
GENERATION = f"kind: generation\nmetric: exact_match\n{ONE_FILE}"
HUB = f"data: {{hub: a/b, revision: main, splits: {{train: train, test: test}}}}\n{COLUMNS}"
LOCAL = f"{HUB}local: {{folders: mine, train: train.tsv, test: dev.tsv"


def task(folder: Path, text: str) -> Task:
    file = folder / "task.yaml"
    file.write_text(f"task: mine\n{text}", encoding="utf-8")
    return task_from_document(read_yaml(file, shown="task.yaml"))


def faults_of(folder: Path, text: str) -> list[str]:
    with pytest.raises(BadInput) as error:
        task(folder, text)
    return [str(fault) for fault in error.value.faults]


@pytest.mark.parametrize("text", [THREE_FILES, f"{HUB}"])
def test_validation_is_another_word_for_selection(tmp_path, text):
    said = text.replace("selection: selection.csv", "validation: selection.csv")
    said = said.replace("splits: {train: train,", "splits: {train: train, validation: dev,")
    usual = said.replace("validation:", "selection:")
    one, other = task(tmp_path, said), task(tmp_path, usual)
    assert one == other and definition(one) == definition(other) and one.data.has_selection
    (fault,) = faults_of(tmp_path, said.replace("test:", "selection: x, test:"))
    assert "selection and validation are the same split: give one of them" in fault


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        (f"{ONE_FILE}metrics: [f2]\n", "task.yaml:5: metrics[0]: unknown metric 'f2' (known: accuracy,"),
        (f"{ONE_FILE}metrics: [pearson]\n", "metrics[0]: 'pearson' is for regression, and the task's kind is"),
        (f"{ONE_FILE}metrics: [accuracy]\n", "task.yaml:5: metrics[0]: names 'accuracy' a second time"),
        (f"{ONE_FILE}metrics: [f1]\n", "labels: is missing: f1 is that of the second class, so the order must be said"),
        (
            f"{ONE_FILE}labels: [good, bad]\nlabel_names: {{0: good, 1: bat}}\n",
            "task.yaml:6: label_names.1: must be one of the classes good, bad, got 'bat'; did you mean 'bad'?",
        ),
        (
            "data: rows.csv\ntext: text\nlabel: {column: a, rule: sign}\nlabel_names: {0: bad}\n",
            "task.yaml:5: label_names: must go: the rule 'sign' names the classes",
        ),
        (
            f"kind: regression\n{ONE_FILE}label_names: {{0: bad}}\n",
            "label_names: is only for classification, multilabel, multiple_choice, tokens",
        ),
        (f"{ONE_FILE}linearise: e2e\n", "task.yaml:5: linearise: is only for generation; the kind is classification"),
        (
            f"{GENERATION}linearise: e3e\n",
            "linearise: must be 'e2e', 'webnlg', 'dart', 'wikisql' or 'samsum', got 'e3e'",
        ),
        (
            f"{GENERATION}labels: [a, b]\n",
            "labels: is only for classification, multilabel, multiple_choice, tokens; the kind is generation",
        ),
        (
            f"{GENERATION}linearise: wikisql\n",
            "task.yaml:5: text: must be 2 columns of the table's header and the question for 'wikisql', got 1",
        ),
        (GENERATION.replace("text: text", "text: [a, b]"), "text: must be one column for generation, got 2"),
        (
            ONE_FILE.replace("label: label", "label: {column: label, where: {kind: good}}"),
            "task.yaml:4: label.where: is only for generation; the kind is classification",
        ),
        (f"{ONE_FILE}split: {{before: _}}\n", "task.yaml:5: split.before: needs `by`, the column in whose values"),
        (
            f"data: {{train: a.csv, test: b.csv, also: {{test: c.csv}}}}\n{COLUMNS}",
            "task.yaml:2: data.also.test: must go: 'test' is the name of another split",
        ),
        (
            f"data: {{train: a.csv, test: b.csv, also: {{a/b: c.csv}}}}\n{COLUMNS}",
            "data.also.a/b: must be a name of letters, digits, '.', '_' and '-', got 'a/b'",
        ),
        (
            f"data: {{train: a.csv, test: b.csv, also: {{more: c}}}}\n{COLUMNS}",
            "task.yaml:2: data: 'c' has no suffix that tells its format",
        ),
        (
            f"data: {{train: a.csv, test: b.csv, also: {{more: {{file: c.csv, columns: [txt, label]}}}}}}\n{COLUMNS}",
            "data.also.more.columns: does not name 'text', which the task uses; did you mean 'txt'?",
        ),
        (
            HUB.replace("test: test}", "test: test, also: {train: other}}"),
            "data.splits.also.train: must go: 'train' is the name of another split",
        ),
        (
            f"{ONE_FILE}subsets: {{column: topic, parts: {{a: [x], b: [y, x]}}}}\n",
            "task.yaml:5: subsets.parts.b: has the value 'x', which 'a' has too",
        ),
        (
            f"{ONE_FILE}subsets: {{column: topic, parts: {{a: [x]}}, rest: a}}\n",
            "task.yaml:5: subsets: must have names of their own, and 'a' is taken",
        ),
        (f"data: a.jsonl\nuneven_rows: leave_out\n{COLUMNS}", "task.yaml:3: uneven_rows: is only for csv and tsv"),
        (f"{ONE_FILE}uneven_rows: drop\n", "uneven_rows: must be 'refuse' or 'leave_out', got 'drop'"),
        (f"data: a.jsonl\nencoding: cp1252\n{COLUMNS}", "task.yaml:3: encoding: is only for csv and tsv"),
        (f"{ONE_FILE}delimiter: ;;\n", "delimiter: must be one character that separates values, got ';;'"),
        (f"{ONE_FILE}delimiter: '\"'\n", "delimiter: must be one character that separates values, got"),
        (f"{ONE_FILE}encoding: cp1253x\n", "encoding: must be 'utf-8', 'utf-16'"),
        (f"{HUB}quoting: false\n", "task.yaml:5: quoting: is only for csv and tsv"),
        (f"{LOCAL}, colums: [a]}}\n", "task.yaml:5: local.colums: unknown key; did you mean 'columns'?"),
        (
            f"{LOCAL}, columns: [txt, label]}}\n",
            "local.columns: does not name 'text', which the task uses; did you mean",
        ),
        (f"{HUB}local: {{folders: mine, train: a.tsv}}\n", "task.yaml:5: local.test: is missing"),
        (f"{HUB}local: {{folders: mine, train: a, test: b.tsv}}\n", "task.yaml:5: local: 'a' has no suffix that tells"),
        (f"{LOCAL}, also: {{all: a.tsv}}}}\n", "local.also.all: must go: 'all' is the name of another split"),
        (f"{LOCAL}, format: jsonl, quoting: false}}\n", "task.yaml:5: local.quoting: is only for csv and tsv"),
    ],
)
def test_a_contradiction_is_said_with_its_line(tmp_path, text, fault):
    faults = faults_of(tmp_path, text)
    assert len(faults) == 1
    assert fault in faults[0]


def test_all_faults_of_a_declaration_come_at_once(tmp_path):
    text = (
        f"{HUB}metrics: [f2, accuracy]\nlabel_names: {{0: a}}\nlabels: [b, c]\nlinearise: e2e\n"
        "subsets: {column: a, parts: {test: [x]}}\nlocal: {folders: mine, train: a.tsv, test: b.tsv, columns: [text]}\n"
    )
    keys = [fault.split(": ")[:2] for fault in faults_of(tmp_path, text)]
    assert keys == [
        ["task.yaml:5", "metrics[0]"],
        ["task.yaml:5", "metrics[1]"],
        ["task.yaml:6", "label_names.0"],
        ["task.yaml:8", "linearise"],
        ["task.yaml:9", "subsets"],
        ["task.yaml:10", "local.columns"],
    ]


def test_a_fault_of_the_task_is_not_said_again_of_its_layout(tmp_path):
    assert len(faults_of(tmp_path, f"{LOCAL}}}\nmetric: acuracy\n")) == 1


# Definitions, which run ids are made of


def test_the_definition_of_the_quickstart_is_what_its_records_hold():
    held = json.loads((REPOSITORY / "baselines" / "quickstart" / "runs.json").read_text(encoding="utf-8"))["records"]
    definitions = [content["spec"]["task"]["definition"] for content in held]
    assert len(definitions) > 10
    ((task, _),) = load_suite(REPOSITORY / "baselines" / "quickstart" / "suite.yaml").tasks
    assert all(content == definition(task) for content in definitions)


def test_a_later_key_is_written_down_only_where_it_is_used(tmp_path):
    plain = definition(task(tmp_path, THREE_FILES))
    assert not {"metrics", "label_names", "uneven_rows", "delimiter", "encoding"} & {*plain}
    assert not {"empty_texts", "linearise", "subsets", "local"} & {*plain}
    assert "also" not in plain["data"]
    assert "where" not in plain["label"]
    used = definition(
        task(
            tmp_path,
            "data: {train: a.csv, test: b.csv, also: {more: {file: c.csv, text: other}}}\nkind: generation\n"
            "text: t\nlabel: {column: l, where: {kind: good}}\nmetrics: [chrf]\nsplit: {by: id, before: _}\n"
            "subsets: {column: k, parts: {x: [1, 2]}}\nuneven_rows: leave_out\n".replace("[1, 2]", "['1', '2']"),
        )
    )
    assert used["data"]["also"]["more"]["text"] == ["other"]
    assert used["label"]["where"] == {"kind": "good"}
    assert used["metrics"] == ["chrf"]
    assert used["subsets"]["parts"] == {"x": ["1", "2"]}
    assert used["split"]["before"] == "_"
    assert used["uneven_rows"] == "leave_out"


@pytest.mark.parametrize("name", sorted(task_files()))
def test_the_definition_of_every_task_gives_it_back(name):
    mine = load_task(name)
    back = task_from_definition(json.loads(json.dumps(definition(mine))))
    assert definition(back) == definition(mine)
    left_out = {"local": mine.local, "release": mine.release, "split": mine.split}
    assert back.model_copy(update=left_out) == mine


def test_the_metric_tells_its_direction_unless_the_task_does(tmp_path):
    assert task(tmp_path, f"{GENERATION}metrics: [ter]\n").higher_is_better is True
    ter = GENERATION.replace("exact_match", "ter")
    assert task(tmp_path, ter).higher_is_better is False
    assert task(tmp_path, f"{ter}higher_is_better: true\n").higher_is_better is True
    assert task(tmp_path, f"kind: generation\n{ONE_FILE}").metric == "bleu"
    assert task(tmp_path, f"{ONE_FILE}metric: hub:./brier\n").higher_is_better is True


def test_every_metric_of_a_task_is_computed(tmp_path):
    mine = task(tmp_path, f"{ONE_FILE}labels: [no, yes]\nmetrics: [f1, accuracy_f1_mean, matthews_correlation]\n")
    # right in 3 of 4; precision 1, recall 2/3; (tp tn - fp fn) / sqrt(2 * 3 * 1 * 2)
    assert score(mine, [0, 1, 1, 1], [0, 1, 1, 0]) == {
        "accuracy": pytest.approx(3 / 4),
        "f1": pytest.approx(4 / 5),
        "accuracy_f1_mean": pytest.approx((3 / 4 + 4 / 5) / 2),
        "matthews_correlation": pytest.approx(2 / 12**0.5),
    }


# Splits


def write_rows(path: Path, rows: list[tuple[str, ...]], header: tuple[str, ...] = ("text", "label")) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(",".join(row) + "\n" for row in [header, *rows]), encoding="utf-8")


HUNDRED = [(f"text {number}", "yes" if number % 2 else "no") for number in range(100)]


def test_a_whole_train_sets_nothing_aside(tmp_path):
    write_rows(tmp_path / "train.csv", HUNDRED)
    write_rows(tmp_path / "test.csv", [("another", "no")])
    mine = task(tmp_path, f"data: {{train: train.csv, test: test.csv}}\n{COLUMNS}")
    data, part = load_data(mine, tmp_path, whole_train=True), load_data(mine, tmp_path)
    assert [*data.splits] == ["train", "test"]
    assert len(data.splits["train"].ids) == 100
    assert data.sha256 == part.sha256
    assert set(part.splits["train"].ids) | set(part.splits["selection"].ids) == set(data.splits["train"].ids)


def test_a_whole_train_of_one_file_leaves_its_test_split_as_it_is(tmp_path):
    write_rows(tmp_path / "rows.csv", HUNDRED)
    mine = task(tmp_path, ONE_FILE)
    data, part = load_data(mine, tmp_path, whole_train=True), load_data(mine, tmp_path)
    assert data.splits["test"] == part.splits["test"]
    assert len(data.splits["train"].ids) == len(part.splits["train"].ids) + len(part.splits["selection"].ids)


def test_a_selection_split_that_the_data_has_is_kept_with_a_whole_train(tmp_path):
    for name in ("train", "selection", "test"):
        write_rows(tmp_path / f"{name}.csv", HUNDRED[:10])
    mine = task(tmp_path, THREE_FILES)
    assert load_data(mine, tmp_path, whole_train=True).splits == load_data(mine, tmp_path).splits


def test_rows_stay_together_by_what_their_ids_begin_with(tmp_path):
    rows = [(f"{number // 5}_{number % 5}", f"text {number}", "yes" if number % 3 else "no") for number in range(200)]
    write_rows(tmp_path / "rows.csv", rows, ("id", "text", "label"))
    data = load_data(task(tmp_path, f"{ONE_FILE}id: id\nsplit: {{by: id, before: _}}\n"), tmp_path)
    documents = [{name.partition("_")[0] for name in split.ids} for split in data.splits.values()]
    assert sum(map(len, documents)) == 40, "each of the 40 documents is in one split only"


def test_a_further_split_may_have_columns_of_its_own(tmp_path):
    for name in ("train", "selection", "test"):
        write_rows(tmp_path / f"{name}.csv", HUNDRED[:10])
    write_rows(tmp_path / "more.csv", [("no", "that"), ("yes", "this")], ("class", "sentence"))
    part = "{file: more.csv, text: sentence, label: class}"
    mine = task(tmp_path, THREE_FILES.replace("test: test.csv", f"test: test.csv, also: {{more: {part}}}"))
    data = load_data(mine, tmp_path)
    assert data.splits["more"].texts == [("that",), ("this",)]
    assert data.splits["more"].labels == [0, 1]


def test_a_further_split_whose_classes_are_others_is_said(tmp_path):
    for name in ("train", "selection", "test", "more"):
        write_rows(tmp_path / f"{name}.csv", HUNDRED[:10] if name != "more" else [("a", "perhaps")])
    mine = task(tmp_path, THREE_FILES.replace("test: test.csv", "test: test.csv, also: {more: more.csv}"))
    with pytest.raises(
        BadInput, match=r"more\.csv: has labels in column 'label' that are not among no, yes: 'perhaps'"
    ):
        load_data(mine, tmp_path)


def test_a_share_of_the_training_rows_joins_a_small_test_split_and_is_not_trained_on(tmp_path):
    write_rows(tmp_path / "train.csv", HUNDRED)
    write_rows(tmp_path / "test.csv", [("another", "yes"), ("and another", "no")])
    given = "data: {train: train.csv, test: test.csv}\ntext: text\nlabel: label\n"
    plain, more = (
        load_data(task(tmp_path, given + split), tmp_path)
        for split in ("split: {selection: 0.1}\n", "split: {selection: 0.1, more_test: 0.4}\n")
    )
    sizes = [{name: len(split.ids) for name, split in data.splits.items()} for data in (plain, more)]
    assert sum(sizes[0].values()) == sum(sizes[1].values()) == 102
    assert sizes[0]["test"] == 2 and sizes[1]["test"] == 2 + sizes[0]["train"] + sizes[0]["selection"] - (
        sizes[1]["train"] + sizes[1]["selection"]
    )
    assert 25 < sizes[1]["test"] < 60
    test = more.splits["test"]
    assert test.ids[:2] == ["1", "2"] and all(name.startswith("train ") for name in test.ids[2:])
    texts = [set(split.texts) for split in more.splits.values()]
    assert len(set.union(*texts)) == sum(map(len, texts)) == 102
    held = int(test.ids[2].removeprefix("train ")) - 1
    assert test.texts[2] == (HUNDRED[held][0],)


def test_the_share_that_joins_a_test_split_needs_one_and_leaves_rows_to_train_on(tmp_path):
    (said,) = faults_of(tmp_path, ONE_FILE + "split: {more_test: 0.2}\n")
    assert "split.more_test: must go: the data has no test split of its own" in said
    two_files = f"data: {{train: a.csv, test: b.csv}}\n{COLUMNS}"
    (said,) = faults_of(tmp_path, two_files + "split: {selection: 0.5, more_test: 0.5}\n")
    assert "split: must leave rows to train on" in said


# The other sources of rated texts


@pytest.mark.assets
@pytest.mark.parametrize(
    ("name", "documents", "rows"), [("product_reviews", 300, 3708), ("editorials", 498, 5190), ("tweets", 4200, 4200)]
)
def test_rated_texts_are_dealt_out_by_document(name, documents, rows):
    data = load_data(load_task(name), REPOSITORY)
    groups = [{example.partition("_")[0] for example in split.ids} for split in data.splits.values()]
    assert sum(len(split.ids) for split in data.splits.values()) == rows
    assert sum(map(len, groups)) == documents
    assert all(-4 <= rating <= 4 for split in data.splits.values() for rating in split.labels)
    # Half of the documents are test items, as 4,000 rows would leave little to train on.
    assert len(dict(zip(data.splits, groups, strict=True))["test"]) == pytest.approx(documents / 2, rel=0.1)


@pytest.mark.assets
@pytest.mark.parametrize(("name", "train", "test"), [("newsgroups", 11_293, 7_528), ("reuters_r8", 5_485, 2_189)])
def test_sets_of_orange_have_the_published_numbers_of_texts(name, train, test):
    """Cardoso-Cachopo 2007 gives them, after words were cleaned and empty messages left out."""
    data = load_data(load_task(name), REPOSITORY, whole_train=True)
    assert {split: len(examples.ids) for split, examples in data.splits.items()} == {"train": train, "test": test}
    assert set(data.splits["test"].labels) == set(range(len(data.labels)))


def test_ids_of_a_layout_without_files_are_refused_by_name(tmp_path):
    mine = task(tmp_path, ONE_FILE)
    for call in (
        lambda: in_folder(mine, tmp_path),
        lambda: find_folder(mine, tmp_path),
        lambda: load_unlabelled(mine, tmp_path, "test"),
    ):
        with pytest.raises(Exception, match="task mine does not say how its files lie in a folder"):
            call()


def test_facts_of_the_release_are_no_part_of_a_definition():
    rte = load_task("rte")
    assert rte.release is not None and rte.release.examples == {"train": 2490, "test": 277}
    assert definition(rte) == definition(rte.model_copy(update={"release": None}))
    assert "release" not in definition(rte)
