"""Rows are dealt out by a column that names their split, or by time; a split that is missing is taken from train."""

from collections import Counter
from hashlib import sha256

import pytest

from lora_bench.tasks import definition, load_data, task_from_definition
from tests.tasks.test_tasks import COLUMNS, HUNDRED, ONE_FILE, data_faults, faults_of, task, write_csv

NAMES = {"Train": "train", "dev": "selection", "TEST": "test"}


def test_a_column_names_the_split_of_each_row(tmp_path):
    rows = [(*row, list(NAMES)[number % 3]) for number, row in enumerate(HUNDRED)]
    write_csv(tmp_path / "rows.csv", rows, ("text", "label", "teil"))
    data = load_data(task(tmp_path, ONE_FILE + "split: {column: teil}\n"), tmp_path)
    for name, split in NAMES.items():
        assert data.splits[split].texts == [(text,) for text, _, given in rows if given == name]


def test_a_split_that_no_row_names_is_taken_from_train(tmp_path):
    rows = [(*row, "test" if number < 40 else "train") for number, row in enumerate(HUNDRED)]
    write_csv(tmp_path / "rows.csv", rows, ("text", "label", "split"))
    splits = load_data(
        task(tmp_path, ONE_FILE + "split: {column: split, train: 0.7, selection: 0.2}\n"), tmp_path
    ).splits
    assert len(splits["train"].ids) + len(splits["selection"].ids) == 60 and 6 <= len(splits["selection"].ids) <= 20
    assert splits["test"].texts == [(text,) for text, _ in HUNDRED[:40]]


@pytest.mark.parametrize(
    ("values", "fault"),
    [
        (
            ("0", "1", "2"),
            "has values in column 'fold' that name no split: '0', '1', '2', in 100 rows (lines 2, 3, 4, …)",
        ),
        (("dev", "test"), "has no row of train in column 'fold'"),
    ],
)
def test_a_column_that_names_no_splits_is_refused(tmp_path, values, fault):
    rows = [(*row, values[number % len(values)]) for number, row in enumerate(HUNDRED)]
    write_csv(tmp_path / "rows.csv", rows, ("text", "label", "fold"))
    (said,) = data_faults(tmp_path, ONE_FILE + "split: {column: fold}\n")
    assert fault in said and ("by: fold" in said) == ("0" in values)


@pytest.mark.parametrize(
    "moments",
    [
        [f"2024-{1 + number // 28:02}-{1 + number % 28:02}" for number in range(100)],
        [f"{1 + number % 28:02}.{1 + number // 28:02}.2024" for number in range(100)],  # as text in another order
        [f"2024-01-01T{number // 60:02}:{number % 60:02}:00Z" for number in range(100)],
        [str(number * 5) for number in range(100)],  # as text 100 is before 95
        [f"{1900 + number // 12}-{1 + number % 12:02}" for number in range(100)],
    ],
)
def test_the_last_rows_are_test_and_those_before_them_selection(tmp_path, moments):
    rows = [(*row, moment) for row, moment in zip(HUNDRED, moments, strict=True)]
    write_csv(tmp_path / "rows.csv", rows[50:] + rows[:50], ("text", "label", "at"))
    splits = load_data(task(tmp_path, ONE_FILE + "split: {in_order: at}\n"), tmp_path).splits
    assert set(splits["test"].texts) == {(text,) for text, _ in HUNDRED[90:]}
    assert set(splits["selection"].texts) == {(text,) for text, _ in HUNDRED[80:90]}


def test_rows_that_belong_together_are_as_early_as_the_first_of_them(tmp_path):
    """Ten customers write ten rows each; customer 0 writes the first row and the last."""
    rows = [(f"text {number}", "ab"[number % 2], number // 10, number) for number in range(100)]
    rows[0], rows[99] = (*rows[0][:3], 99), (*rows[99][:2], 0, 100)
    write_csv(tmp_path / "rows.csv", rows, ("text", "label", "customer", "at"))
    splits = load_data(task(tmp_path, ONE_FILE + "split: {in_order: at, by: customer}\n"), tmp_path).splits
    assert ("text 99",) in splits["train"].texts and len(splits["test"].texts) == 9
    # Equal times are on one side: all 100 rows are at once, in the middle, which is train.
    write_csv(tmp_path / "rows.csv", [(*row[:3], 7) for row in rows], ("text", "label", "customer", "at"))
    assert (
        "leaves the split selection without any example"
        in data_faults(tmp_path, ONE_FILE + "split: {in_order: at}\n")[0]
    )


def test_values_without_an_order_are_refused(tmp_path):
    write_csv(tmp_path / "rows.csv", [(*row, "3/4/24") for row in HUNDRED], ("text", "label", "at"))
    (said,) = data_faults(tmp_path, ONE_FILE + "split: {in_order: at}\n")
    assert "neither numbers nor dates such as 2026-01-31: '3/4/24', in 100 rows" in said
    (said,) = data_faults(tmp_path, ONE_FILE + "split: {in_order: att}\n")
    assert "has no column 'att'; did you mean 'at'?" in said


def test_a_test_split_that_is_missing_beside_selection_is_taken_from_train(tmp_path):
    write_csv(tmp_path / "train.csv", HUNDRED)
    write_csv(tmp_path / "valid.csv", [("one", "good"), ("two", "bad")])
    files = f"data: {{train: train.csv, validation: valid.csv}}\n{COLUMNS}"
    splits = load_data(task(tmp_path, files + "split: {test: 0.25}\n"), tmp_path).splits
    assert (len(splits["selection"].ids), len(splits["train"].ids) + len(splits["test"].ids)) == (2, 100)
    assert 15 <= len(splits["test"].ids) <= 35 and not set(splits["test"].texts) & set(splits["train"].texts)
    (said,) = faults_of(tmp_path, files + "split: {selection: 0.2}\n")
    assert "split.selection: must go: the data has a selection split; `test` is taken from train" in said


def test_a_column_of_splits_needs_one_file(tmp_path):
    two = f"data: {{train: train.csv, test: test.csv}}\n{COLUMNS}split: {{column: teil}}\n"
    assert "split.column: must go: the data has its splits in files" in faults_of(tmp_path, two)[0]


def test_tasks_without_these_keys_keep_their_definition(tmp_path):
    assert set(definition(task(tmp_path, ONE_FILE))["split"]) == {"train", "selection", "test", "by"}
    written = definition(task(tmp_path, ONE_FILE + "split: {in_order: at}\n"))["split"]
    assert written["in_order"] == "at" and "column" not in written


FOLDS = ONE_FILE + "split: {folds: 5}\n"


def test_folds_test_every_row_once_and_choose_on_other_rows_each(tmp_path):
    write_csv(
        tmp_path / "rows.csv", [(f"text number {number}", "good" if number % 2 else "bad") for number in range(1000)]
    )
    dealt = [load_data(task(tmp_path, FOLDS), tmp_path, fold=fold).splits for fold in range(5)]
    tested = [row for splits in dealt for row in splits["test"].ids]
    assert sorted(tested, key=int) == [str(number) for number in range(1, 1001)]
    for splits in dealt:
        rows = [row for split in splits.values() for row in split.ids]
        assert len(rows) == len(set(rows)) == 1000
        assert 160 < len(splits["test"].ids) < 240 and 70 < len(splits["selection"].ids) < 130
    chosen_on = [set(splits["selection"].ids) for splits in dealt]
    assert sum(map(len, chosen_on)) == len(set().union(*chosen_on))
    whole = [load_data(task(tmp_path, FOLDS), tmp_path, fold=fold, whole_train=True).splits for fold in range(5)]
    assert [splits["test"] for splits in whole] == [splits["test"] for splits in dealt]
    assert {name for splits in whole for name in splits} == {"train", "test"}


def test_rows_that_belong_together_are_in_one_fold(tmp_path):
    rows = [(f"text {number}", "ab"[number % 2], number // 4) for number in range(200)]
    write_csv(tmp_path / "rows.csv", [*rows, *rows], ("text", "label", "customer"))
    for split in ("folds: 4", "folds: 4, by: customer"):
        dealt = [load_data(task(tmp_path, f"{ONE_FILE}split: {{{split}}}"), tmp_path, fold=fold) for fold in range(4)]
        fold_of = {}
        for fold, data in enumerate(dealt):
            for (text,) in data.splits["test"].texts:
                customer = int(text.split()[1]) // 4
                assert fold_of.setdefault(customer if "by" in split else text, fold) == fold
            assert data.warnings == () and data.splits["test"].groups


def test_a_fault_of_any_fold_is_found_before_a_run(tmp_path):
    write_csv(tmp_path / "rows.csv", HUNDRED[:4])
    faults = data_faults(tmp_path, FOLDS)
    assert faults and all("leaves the split" in fault and "without any example" in fault for fault in faults)
    write_csv(tmp_path / "rows.csv", [*HUNDRED, ("the only one", "odd")])
    assert "no training example has the label 'odd'" in load_data(task(tmp_path, FOLDS), tmp_path).warnings


@pytest.mark.parametrize(
    ("given", "fault"),
    [
        ("folds: 5, in_order: at", "split.in_order: cannot go with `folds`"),
        ("folds: 5, test: 0.2", "split.test: must go: `folds` say which rows are test"),
        ("folds: 2, selection: 0.5", "split: must leave rows to train on"),
        ("folds: 1", "split.folds: must be"),
    ],
)
def test_what_cannot_go_with_folds_is_refused(tmp_path, given, fault):
    assert fault in faults_of(tmp_path, f"{ONE_FILE}split: {{{given}}}\n")[0]


def test_folds_are_dealt_out_of_one_file_and_stand_in_the_definition(tmp_path):
    two = f"data: {{train: train.csv, test: test.csv}}\n{COLUMNS}split: {{folds: 5}}\n"
    assert "split.folds: must go: the data has its splits in files" in faults_of(tmp_path, two)[0]
    written = definition(task(tmp_path, FOLDS))
    assert written["split"] == {"selection": 0.1, "by": None, "folds": 5}
    assert definition(task_from_definition(written)) == written


STRATIFIED = ONE_FILE + "split: {train: 0.65, selection: 0.1, test: 0.25, stratify: true}\n"


def test_a_stratified_split_has_its_share_of_each_class_and_of_rows_that_were_dealt_out_before(tmp_path):
    counts = {"usual": 700, "some": 180, "few": 60, "rare": 8}
    rows = [(f"{name} text {number}", name) for name, count in counts.items() for number in range(count)]
    write_csv(tmp_path / "rows.csv", rows)
    for _ in range(2):
        data = load_data(task(tmp_path, STRATIFIED), tmp_path)
        total = Counter(label for _, label in rows)
        for split, share in (("train", 0.65), ("selection", 0.1), ("test", 0.25)):
            found = Counter(data.labels[label] for label in data.splits[split].labels)
            assert all(abs(found[name] - share * total[name]) < 2.5 for name in total), (split, found)
        assert {data.labels[label] for label in data.splits["test"].labels} == counts.keys()
        # Rows whose hash puts them all into one split of another table.
        rows = [row for row in rows if sha256(row[0].encode()).hexdigest() >= "a" or row[1] == "rare"]
        write_csv(tmp_path / "rows.csv", rows)


def test_stratified_folds_have_their_share_of_each_class(tmp_path):
    rows = [(f"text {number}", "rare" if number % 10 == 0 else "usual") for number in range(200)]
    write_csv(tmp_path / "rows.csv", rows)
    folds = task(tmp_path, FOLDS.replace("5}", "5, stratify: true}"))
    tested = []
    for fold in range(5):
        data = load_data(folds, tmp_path, fold=fold)
        tested += data.splits["test"].ids
        found = Counter(data.labels[label] for label in data.splits["test"].labels)
        assert 3 <= found["rare"] <= 5 and 34 <= found["usual"] <= 38
    assert len(set(tested)) == 200 == len(tested)


def test_a_stratified_split_keeps_equal_texts_and_groups_together_and_does_without_classes(tmp_path):
    rows = [(*row, str(number // 4)) for number, row in enumerate(HUNDRED)]
    write_csv(tmp_path / "rows.csv", rows, ("text", "label", "customer"))
    data = load_data(task(tmp_path, STRATIFIED.replace("stratify", "by: customer, stratify")), tmp_path)
    texts = {name: {text for (text,) in split.texts} for name, split in data.splits.items()}
    of_customer = {text: customer for text, _, customer in rows}
    customers = {name: {of_customer[text] for text in found} for name, found in texts.items()}
    assert sum(map(len, customers.values())) == 25 and 5 <= len(customers["test"]) <= 7
    write_csv(tmp_path / "rows.csv", [(text, number / 7) for number, (text, _) in enumerate(HUNDRED)])
    data = load_data(task(tmp_path, STRATIFIED + "kind: regression\nmetric: pearson\n"), tmp_path)
    assert 24 <= len(data.splits["test"].ids) <= 26


def test_a_split_that_is_not_stratified_keeps_its_id_and_time_deals_alone(tmp_path):
    assert "stratify" not in definition(task(tmp_path, ONE_FILE))["split"]
    (said,) = faults_of(tmp_path, ONE_FILE + "split: {in_order: at, stratify: true}\n")
    assert "split.stratify: must go: `in_order` deals rows out by their order" in said


def test_a_fold_without_a_class_is_a_fault_where_the_metric_is_by_class(tmp_path):
    rows = [(f"text number {number}", "good" if 11 <= number <= 16 else "bad") for number in range(400)]
    write_csv(tmp_path / "rows.csv", rows)
    load_data(task(tmp_path, FOLDS), tmp_path)
    said = data_faults(tmp_path, FOLDS + "labels: [bad, good]\nmetric: f1\n")
    assert said and all("without the label 'good'" in one for one in said)
    assert any("the split test of fold" in one for one in said)
    rows = [(f"text number {number}", "good" if number % 2 else "bad") for number in range(400)]
    write_csv(tmp_path / "rows.csv", rows)
    load_data(task(tmp_path, FOLDS + "labels: [bad, good]\nmetric: f1\n"), tmp_path)
