"""`by: COLUMN` in a suite: a task for each value of a column, with that value's rows alone."""

import pytest

from lora_bench.cli import main
from lora_bench.errors import BadInput
from lora_bench.suite.entries import names_by_value
from lora_bench.suite.load_suite import load_suite
from lora_bench.tasks import definition, load_data
from tests.project import SUITE, write_model

VALUES = ["Ä & Co.", "acme/north", "acme north", "2026"]


@pytest.fixture
def project(tmp_path, monkeypatch):
    """A folder with a tiny model and a table of four customers, as the working folder."""
    monkeypatch.setenv("LORA_BENCH_CACHE", str(tmp_path / "cache"))
    write_model(tmp_path / "base")
    lines = [
        f"film {row} is {'fine' if row % 3 else 'dull'},{'ab'[row % 3 > 0]},{VALUES[row % 4]}" for row in range(240)
    ]
    (tmp_path / "tickets.csv").write_text("\n".join(["subject,queue,customer", *lines]), encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def suite(project, key):
    file = project / "tickets.yaml"
    file.write_text(SUITE.replace("    label: queue\n", f"    label: queue\n    {key}\n"), encoding="utf-8")
    return file


def splits(task, base):
    return {name: set(split.ids) for name, split in load_data(task, base).splits.items()}


def test_a_column_gives_a_task_for_each_of_its_values_whose_rows_are_in_the_split_they_have_in_the_whole(project):
    tasks = load_suite(suite(project, "by: customer")).tasks
    assert [task.rows for task, _ in tasks] == [{"customer": (value,)} for value in VALUES]
    ((whole, base),) = load_suite(suite(project, f"rows: {{customer: {VALUES}}}")).tasks
    every, parts = splits(whole, base), [splits(*one) for one in tasks]
    assert every == {name: set.union(*(part[name] for part in parts)) for name in every}
    # A row's id is its line, so it is the same in both: the first customer has lines 2, 6, 10, …
    assert set.union(*parts[0].values()) == {str(line) for line in range(2, 242, 4)}


def test_rows_choose_among_the_values_and_a_number_is_text(project):
    tasks = load_suite(suite(project, "by: customer\n    rows: {customer: [2026, acme/north]}")).tasks
    assert [task.rows["customer"] for task, _ in tasks] == [("2026",), ("acme/north",)]


def test_a_task_without_rows_is_defined_as_before(project):
    ((task, _),) = load_suite(suite(project, "metric: accuracy")).tasks
    assert "rows" not in definition(task)


def test_names_of_tasks_are_fit_for_files_and_different():
    names = names_by_value("tickets", VALUES)
    assert names["2026"] == "tickets-2026" and names["Ä & Co."] == "tickets-Co"
    clash = {names["acme/north"], names["acme north"]}
    assert len(clash) == 2 and all(name.startswith("tickets-acme-north-") for name in clash)


@pytest.mark.parametrize(
    ("key", "said"),
    [
        ("by: custmer", "has no column 'custmer'; did you mean 'customer'?"),
        ("by: [customer]", "must be the name of a column, got ['customer']"),
    ],
)
def test_a_column_that_is_not_there_is_a_fault(project, key, said):
    with pytest.raises(BadInput) as refused:
        load_suite(suite(project, key))
    assert said in str(refused.value)


def test_a_value_without_rows_is_a_fault_of_the_plan(project, capsys):
    suite(project, "rows: {customer: [acme nrth]}")
    assert main(["plan", "tickets.yaml"]) == 2
    said = "tickets.csv: has no row with acme nrth in column 'customer'; did you mean 'acme north'?"
    assert said in capsys.readouterr().err
