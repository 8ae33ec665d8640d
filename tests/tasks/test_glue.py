"""GLUE's tasks: their files load as they circulate, with the official counts, quotation marks and all."""

import csv
import gzip
import shutil
from pathlib import Path

import pytest

from lora_bench.errors import BadInput
from lora_bench.metrics import kind_of
from lora_bench.tasks import TaskData, find_folder, in_folder, load_data, load_task, load_unlabelled, majority_score
from lora_bench.util.paths import task_files
from tests.shared import shared

# Official counts of data rows: train and dev.
LABELLED = {
    "cola": (8551, 1043),
    "sst2": (67349, 872),
    "mrpc": (3668, 408),
    "stsb": (5749, 1500),
    "rte": (2490, 277),
    "wnli": (635, 71),
}
# Official counts of the test files, whose labels are kept secret.
UNLABELLED = {"cola": 1063, "sst2": 1821, "mrpc": 1725, "stsb": 1379, "rte": 3000, "wnli": 146, "qnli": 5463}
GLUE_TASKS = [*LABELLED, "qnli", "mnli", "qqp"]


def local_data(name: str, data_dir: Path, **options: bool) -> TaskData:
    """The data of a task in its folder below a data directory."""
    task = load_task(name)
    folder = find_folder(task, data_dir)
    return load_data(in_folder(task, folder), folder, **options)


def write_tsv(path: Path, rows: list[list[str]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join("\t".join(row) + "\n" for row in rows), encoding="utf-8")


@pytest.mark.parametrize("name", LABELLED)
def test_a_real_set_has_its_official_counts(name):
    data = local_data(name, shared("data", "glue"), whole_train=True)
    counts = {split: len(examples.ids) for split, examples in data.splits.items()}
    train, dev = LABELLED[name]
    assert counts == {"train": train, "test": dev} == load_task(name).release.examples
    if known := load_task(name).release.sha256:
        assert data.sha256 in known
    assert all(len(set(split.ids)) == len(split.ids) for split in data.splits.values())


@pytest.mark.parametrize("name", LABELLED)
def test_a_real_set_gives_its_share_of_train_to_selection_and_loses_no_row(name):
    data = local_data(name, shared("data", "glue"))
    train, dev = LABELLED[name]
    share = load_task(name).shares.selection
    chosen = len(data.splits["selection"].ids)
    assert len(data.splits["train"].ids) + chosen == train
    assert 0.8 * share * train < chosen < 1.2 * share * train
    assert len(data.splits["test"].ids) == dev


@pytest.mark.parametrize("name", UNLABELLED)
def test_a_real_file_without_labels_has_its_official_count(name):
    folder = shared("data", "glue", name)
    split = load_unlabelled(load_task(name), folder, "test")
    assert len(split.texts) == len(split.ids) == UNLABELLED[name]
    assert split.labels == []
    assert all(text.strip() for texts in split.texts for text in texts)


def test_the_real_diagnostic_set_has_its_1104_pairs(tmp_path):
    shutil.copytree(shared("data", "glue", "diagnostic"), tmp_path / "diagnostic")
    (tmp_path / "MNLI").mkdir()
    split = load_unlabelled(load_task("mnli"), tmp_path / "MNLI", "diagnostic")
    assert len(split.texts) == 1104
    assert {len(texts) for texts in split.texts} == {2}


def test_the_real_dev_split_of_qnli_has_its_5463_pairs(tmp_path):
    dev = shared("data", "glue", "qnli", "dev.tsv")
    for name in ("train.tsv", "dev.tsv"):  # the train file is too large to be at hand
        shutil.copy(dev, tmp_path / name)
    task = load_task("qnli")
    data = load_data(in_folder(task, tmp_path), tmp_path, whole_train=True)
    assert len(data.splits["test"].ids) == 5463
    # `cut -f4 dev.tsv | sort | uniq -c`: 2,702 are entailed, 2,761 are not.
    assert majority_score(task, data, "test") == 2761 / 5463


def test_the_texts_of_real_files_are_the_fields_between_their_tabs():
    folder = shared("data", "glue", "mrpc")
    lines = (folder / "dev.tsv").read_text(encoding="utf-8-sig").rstrip("\n").split("\n")[1:]
    data = local_data("mrpc", folder)
    assert data.splits["test"].texts == [tuple(line.split("\t")[3:5]) for line in lines]
    assert sum('"' in text for texts in data.splits["test"].texts for text in texts) > 100


@pytest.mark.parametrize(("name", "score"), [("cola", 721 / 1043), ("rte", 146 / 277), ("mrpc", 279 / 408)])
def test_the_most_frequent_class_is_right_as_often_as_the_papers_say(name, score):
    data = local_data(name, shared("data", "glue"))
    accuracy = load_task(name).model_copy(update={"metric": "accuracy", "metrics": ()})
    assert majority_score(accuracy, data, "test") == score


# Made files of each layout


def write_mnli(folder: Path, *, diagnostic: bool) -> None:
    """MNLI as GLUE packs it: parses between the columns that are read, and annotators' labels in dev only."""
    before = ["index", "promptID", "pairID", "genre", "sentence1_binary_parse", "sentence2_binary_parse"]
    before += ["sentence1_parse", "sentence2_parse", "sentence1", "sentence2"]

    def row(number: int, label: str, annotators: int) -> list[str]:
        texts = [f'a "quoted premise {number}', f"hypothesis {number}"]
        return [str(number), "p", "q", "genre", "( a b )", "( c )", "(ROOT a)", "(ROOT c)", *texts,
                *[label] * annotators, label]  # fmt: skip

    labels = ["entailment", "neutral", "contradiction"]
    rows = [row(number, labels[number % 3], 1) for number in range(60)]
    write_tsv(folder / "train.tsv", [[*before, "label1", "gold_label"], *rows])
    for name, count in (("matched", 6), ("mismatched", 9)):
        header = [*before, *(f"label{number}" for number in range(1, 6)), "gold_label"]
        rows = [row(1000 + number, labels[number % 3], 5) for number in range(count)]
        write_tsv(folder / f"dev_{name}.tsv", [header, *rows])
        write_tsv(folder / f"test_{name}.tsv", [before, *(row(2000, "neutral", 0)[:-1] for _ in range(4))])
    if diagnostic:
        header = ["Lexical Semantics", "Predicate-Argument Structure", "Logic", "Knowledge", "Domain", "Premise",
                  "Hypothesis", "Label"]  # fmt: skip
        rows = [["", "", "Negation", "", "News", f"premise {label}", "hypothesis", label] for label in labels]
        write_tsv(folder / "diagnostic-full.tsv", [header, *rows])


def test_mnli_scores_other_genres_and_the_diagnostic_set_where_it_is_there(tmp_path):
    write_mnli(tmp_path / "with" / "MNLI", diagnostic=True)
    write_mnli(tmp_path / "without" / "MNLI", diagnostic=False)
    data = local_data("mnli", tmp_path / "with")
    assert [*data.splits] == ["train", "selection", "test", "mismatched", "diagnostic"]
    assert [len(data.splits[name].ids) for name in ("test", "mismatched", "diagnostic")] == [6, 9, 3]
    assert data.splits["diagnostic"].texts[1] == ("premise neutral", "hypothesis")
    assert data.splits["diagnostic"].labels == [0, 1, 2]
    assert data.splits["test"].texts[0] == ('a "quoted premise 1000', "hypothesis 1000")
    assert [*local_data("mnli", tmp_path / "without").splits] == ["train", "selection", "test", "mismatched"]
    unlabelled = load_unlabelled(load_task("mnli"), tmp_path / "with" / "MNLI", "mismatched")
    assert unlabelled.texts == [('a "quoted premise 2000', "hypothesis 2000")] * 4


def write_qqp(folder: Path) -> None:
    header = ["id", "qid1", "qid2", "question1", "question2", "is_duplicate"]
    rows = [[str(n), str(n), str(n), f"why {n}?", f'how "{n}?', str(n % 2)] for n in range(40)]
    write_tsv(folder / "dev.tsv", [header, *rows[:8]])
    # A line break inside a question of the release makes two rows with too few values of one.
    write_tsv(
        folder / "train.tsv", [header, *rows[10:30], ["30", "1", "2", "what"], ["is it?", "what?", "1"], *rows[31:]]
    )


def test_rows_of_qqp_that_a_line_break_cut_are_left_out_and_counted(tmp_path):
    write_qqp(tmp_path / "QQP")
    data = local_data("qqp", tmp_path, whole_train=True)
    assert len(data.splits["train"].ids) == 29
    assert data.splits["test"].texts[1] == ("why 1?", 'how "1?')
    assert data.splits["test"].labels == [0, 1] * 4
    (warning,) = data.warnings
    assert warning.endswith("train.tsv has 2 rows with too few or too many values, which are left out")


def test_rows_that_were_cut_are_refused_where_nothing_is_said(tmp_path):
    write_qqp(tmp_path)
    task = in_folder(load_task("qqp"), tmp_path).model_copy(update={"uneven_rows": "refuse"})
    with pytest.raises(BadInput) as error:
        load_data(task, tmp_path)
    first, second = map(str, error.value.faults)
    assert "train.tsv:22: has 4 values, but there are 6 columns" in first
    assert "train.tsv:23: has 3 values" in second


def test_a_question_of_a_published_set_without_a_text_is_kept_and_counted(tmp_path):
    write_qqp(tmp_path / "QQP")
    with (tmp_path / "QQP" / "train.tsv").open("a", encoding="utf-8") as file:
        file.write("50\t1\t2\t\twhat?\t0\n")
    data = local_data("qqp", tmp_path, whole_train=True)
    assert data.splits["train"].texts[-1] == ("", "what?")
    assert data.warnings[0].endswith("train.tsv has empty texts (1), which are kept")


def test_qnli_and_rte_read_the_class_names_that_their_files_have(tmp_path):
    for name, columns in (("QNLI", ("question", "sentence")), ("RTE", ("sentence1", "sentence2"))):
        labels = ("entailment", "not_entailment")
        rows = [[str(number), f"one {number}", f"two {number}", labels[number % 2]] for number in range(500)]
        write_tsv(tmp_path / name / "train.tsv", [["index", *columns, "label"], *rows])
        write_tsv(tmp_path / name / "dev.tsv", [["index", *columns, "label"], *rows[:3]])
        data = local_data(name.lower(), tmp_path)
        assert data.splits["test"].labels == [0, 1, 0]
        assert data.splits["test"].texts[0] == ("one 0", "two 0")


def test_mrpc_begins_with_a_byte_order_mark_and_cola_has_no_header(tmp_path):
    header = ["Quality", "#1 ID", "#2 ID", "#1 String", "#2 String"]
    pairs = [[str(n % 2), "1", "2", f'He said " no {n}', f"He {n}"] for n in range(40)]
    cola = [["gj04", str(n % 2), "*" if n % 2 == 0 else "", f"Sentence {n}."] for n in range(40)]
    for split, count in (("train", 40), ("dev", 5)):
        write_tsv(tmp_path / "MRPC" / f"{split}.tsv", [header, *pairs[:count]])
        path = tmp_path / "MRPC" / f"{split}.tsv"
        path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
        write_tsv(tmp_path / "CoLA" / f"{split}.tsv", cola[:count])
    assert local_data("mrpc", tmp_path).splits["test"].texts[0] == ('He said " no 0', "He 0")
    data = local_data("cola", tmp_path)
    assert data.splits["test"].texts[:2] == [("Sentence 0.",), ("Sentence 1.",)]
    assert [data.labels[label] for label in data.splits["test"].labels[:2]] == ["unacceptable", "acceptable"]


def test_gzipped_files_are_the_same_data(tmp_path):
    write_qqp(tmp_path / "plain" / "QQP")
    shutil.copytree(tmp_path / "plain", tmp_path / "packed")
    for path in list((tmp_path / "packed" / "QQP").glob("*.tsv")):
        with gzip.open(f"{path}.gz", "wb") as file:
            file.write(path.read_bytes())
        path.unlink()
    plain, packed = (local_data("qqp", tmp_path / name) for name in ("plain", "packed"))
    assert packed.splits == plain.splits
    assert packed.sha256 == plain.sha256


@pytest.mark.parametrize("name", GLUE_TASKS)
def test_every_glue_task_is_pinned_to_a_commit_and_knows_its_folder(name):
    task = load_task(name)
    assert task.data.hub == "nyu-mll/glue"
    assert task.data.name == name
    assert len(task.data.revision) == 40
    assert task.local is not None
    assert task.local.quoting is False


def test_the_metrics_are_those_of_the_published_tables():
    metrics = {name: load_task(name).all_metrics for name in GLUE_TASKS}
    assert metrics == {
        "cola": ("matthews_correlation", "accuracy"),
        "sst2": ("accuracy",),
        "mrpc": ("accuracy", "f1", "accuracy_f1_mean"),
        "stsb": ("pearson", "spearman", "pearson_spearman_mean"),
        "qqp": ("accuracy", "f1", "accuracy_f1_mean"),
        "mnli": ("accuracy", "matthews_correlation"),
        "qnli": ("accuracy",),
        "rte": ("accuracy",),
        "wnli": ("accuracy",),
    }


def test_a_quotation_mark_never_joins_two_rows(tmp_path):
    """Read as csv would be by default, the first text would swallow the lines down to the next quotation mark."""
    rows = [['"one', "0"], ["two", "1"], ['three"', "0"]]
    write_tsv(tmp_path / "SST-2" / "dev.tsv", [["sentence", "label"], *rows])
    write_tsv(
        tmp_path / "SST-2" / "train.tsv", [["sentence", "label"], *([f"text {n}", str(n % 2)] for n in range(40))]
    )
    with (tmp_path / "SST-2" / "dev.tsv").open(newline="") as file:
        assert len(list(csv.reader(file, delimiter="\t"))) < 4
    assert local_data("sst2", tmp_path).splits["test"].texts == [('"one',), ("two",), ('three"',)]


def test_phrases_of_a_sentence_are_trained_on_or_chosen_by_and_never_both(tmp_path):
    """Forty sentences of five words of their own, each with all its phrases: at random, each would be on both sides."""
    train, of = [], {}
    for number in range(40):
        words = [f"w{number}x{place}" for place in range(5)]
        phrases = [" ".join(words[start:end]) for start in range(5) for end in range(start + 1, 6)]
        train += [[phrase, str(number % 2)] for phrase in phrases]
        of |= dict.fromkeys(phrases, number)
    for name, rows in (("train", train), ("dev", [["a test", "0"]])):
        write_tsv(tmp_path / "SST-2" / f"{name}.tsv", [["sentence", "label"], *rows])
    sides = {
        name: [
            {of[text] for (text,) in local_data(name, tmp_path).splits[split].texts} for split in ("train", "selection")
        ]
        for name in ("sst2", "sst2_by_sentence")
    }
    assert sides["sst2"][0] & sides["sst2"][1]
    assert not sides["sst2_by_sentence"][0] & sides["sst2_by_sentence"][1] and sides["sst2_by_sentence"][1]


@pytest.mark.slow
def test_of_the_long_phrases_of_sst2_none_recurs_in_training_rows_and_not_six_in_seven():
    recurring = {}
    for name in ("sst2", "sst2_by_sentence"):
        splits = local_data(name, shared("data", "glue")).splits
        held = {text for (text,) in splits["train"].texts}
        parts = {
            " ".join(words[start:end])
            for words in map(str.split, held)
            for start in range(len(words))
            for end in range(start + 4, len(words) + 1)
        }
        long = [text for (text,) in splits["selection"].texts if len(text.split()) >= 4]
        recurring[name] = sum(" ".join(text.split()) in parts for text in long) / len(long)
        assert len(splits["test"].ids) == {"sst2": 872, "sst2_by_sentence": 4016}[name]
    assert recurring["sst2"] == pytest.approx(0.857, abs=0.001)
    assert recurring["sst2_by_sentence"] == 0


def test_every_task_that_ships_names_a_metric_of_its_kind():
    tasks = [load_task(name) for name in task_files()]
    assert {kind_of(name) for task in tasks for name in task.all_metrics if kind_of(name) != task.kind} == set()
    for kind, some in {"generation": {"e2e", "wikisql"}, "regression": {"stsb", "tweets"}}.items():
        assert some <= {task.task for task in tasks if task.kind == kind}
