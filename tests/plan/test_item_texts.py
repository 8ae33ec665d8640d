"""Texts of test items are shown of a user's own data and of open sets, if they are those of the run."""

from pathlib import Path

import pytest

from lora_bench.plan.item_texts import item_texts, may_show
from lora_bench.plan.make_plan import make_plan
from lora_bench.suite.load_suite import load_suite
from lora_bench.tasks import Task, load_data
from tests.project import SUITE, write_project

OWN = {"task": "tickets", "data": {"file": "tickets.csv"}, "text": "text", "label": "queue"}


@pytest.mark.parametrize(
    ("change", "shown"),
    [
        ({}, True),
        ({"licence": "MIT"}, True),
        ({"licence": "CC BY-SA 4.0"}, True),
        ({"licence": "CC BY-NC-SA 4.0 (not for commercial use)"}, False),
        ({"licence": "none stated"}, False),
        ({"licence": "MIT (parts from WebNLG, CC BY-NC-SA 4.0, and E2E, CC BY-SA 4.0)"}, False),
        ({"data": {"hub": "org/name"}}, False),
        ({"data": {"hub": "org/name"}, "licence": "CC BY 4.0"}, True),
    ],
)
def test_texts_are_of_own_data_or_under_an_open_licence(change, shown):
    assert may_show(Task.model_validate({**OWN, **change})) is shown


def test_texts_are_those_of_the_items_that_a_run_answered(tmp_path, monkeypatch, shared_cache):
    monkeypatch.setenv("LORA_BENCH_CACHE", str(shared_cache))
    path: Path = write_project(
        tmp_path / "project", SUITE.replace("[full, lora, bottleneck_adapter, prefix_tuning]", "[full]")
    )
    suite = load_suite(path)
    (job,) = [cell.job for cell in make_plan(suite, tmp_path / "runs").cells][:1]
    data = load_data(job.task, job.task_base)
    references = list(data.splits["test"].labels)
    found = item_texts(suite)(job.spec.task, references)
    assert found == [
        (name, *said) for name, said in zip(data.splits["test"].ids, data.splits["test"].texts, strict=True)
    ]
    assert item_texts(suite)(job.spec.task, references[:-1]) is None
    assert item_texts(suite)(job.spec.task.model_copy(update={"name": "other"}), references) is None
    changed = job.spec.task.model_copy(update={"data_sha256": "0" * 64})
    assert item_texts(suite)(changed, references) is None
    (path.parent / "tickets.csv").unlink()
    assert item_texts(suite)(job.spec.task, references) is None


def test_texts_of_folds_are_those_of_the_seeds_that_were_scored(tmp_path, monkeypatch, shared_cache):
    """Stratified folds of a sorted table have equal labels."""
    monkeypatch.setenv("LORA_BENCH_CACHE", str(shared_cache))
    text = SUITE.replace("    label: queue\n", "    label: queue\n    split: {folds: 5, stratify: true}\n")
    path = write_project(
        tmp_path / "project", text.replace("[full, lora, bottleneck_adapter, prefix_tuning]", "[full]")
    )
    rows = [f"the {number} good,{'complaint' if number < 50 else 'praise'}" for number in range(100)]
    (path.parent / "tickets.csv").write_text("\n".join(["subject,queue", *rows]), encoding="utf-8")
    suite = load_suite(path)
    spec = make_plan(suite, tmp_path / "runs").cells[0].job.spec.task
    first, second = (load_data(*suite.tasks[0], fold=fold).splits["test"] for fold in (0, 1))
    assert first.labels == second.labels and first.ids != second.ids
    assert [name for name, *_ in item_texts(suite)(spec, second.labels, (1,))] == second.ids
    assert [name for name, *_ in item_texts(suite)(spec, second.labels * 2, (1, 0))] == [*second.ids, *first.ids]
    assert item_texts(suite)(spec, second.labels) is None
