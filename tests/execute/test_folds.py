"""Rotating folds: the run of seed k tests fold k, so that the seeds together test every row once."""

import csv
from statistics import fmean

import pytest

from lora_bench.cli.plan_table import data_parts
from lora_bench.errors import BadInput
from lora_bench.execute.run_suite import run_suite
from lora_bench.plan.item_texts import item_texts
from lora_bench.plan.make_plan import make_plan
from lora_bench.records.analysis import Analysis
from lora_bench.records.store import answers_in
from lora_bench.report import render_markdown
from lora_bench.report.model.comparison import compare
from lora_bench.report.model.judged import judge_comparison
from lora_bench.suite.load_suite import load_suite
from lora_bench.tasks import load_data
from tests.project import SUITE, write_project

TWO = SUITE.replace("[full, lora, bottleneck_adapter, prefix_tuning]", "[full, lora]")
FIVE = TWO.replace("    label: queue\n", "    label: queue\n    split: {folds: 5}\n").replace("[0]", "[0, 1, 2, 3, 4]")


@pytest.fixture(autouse=True)
def _own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("LORA_BENCH_CACHE", str(tmp_path / "cache"))


def planned(tmp_path, text):
    return make_plan(load_suite(write_project(tmp_path / "project", text)), tmp_path / "runs")


def test_the_seeds_of_a_suite_test_every_row_once(tmp_path):
    outcome = run_suite(write_project(tmp_path / "project", FIVE), runs=tmp_path / "runs", workers=0)
    answers = answers_in(outcome.folder, outcome.records)
    ((task, base),) = load_suite(tmp_path / "project" / "tickets.yaml").tasks
    for label in ("full", "lora"):
        records = [record for record in outcome.records if record.spec.method.label == label]
        assert [record.status for record in records] == ["ok"] * 5
        assert sum(record.data.examples["test"] for record in records) == 400
        for record in records:
            data = load_data(task, base, fold=record.spec.seed)
            assert answers(record.run_id).references == data.splits["test"].labels
            assert record.data.examples == {name: len(split.ids) for name, split in data.splits.items()}
            assert record.data.majority_score > 0 and record.data.word_model_score == 1.0


def test_runs_in_a_pack_answer_their_own_folds(tmp_path):
    suite = FIVE + "training: {masks: keyed}\n"
    path = write_project(tmp_path / "project", suite.replace("[full, lora]", "[lora]"))
    together = run_suite(path, runs=tmp_path / "together", workers=0, pack=True)
    assert any(record.packed_with for record in together.records)
    alone = run_suite(path, runs=tmp_path / "alone", workers=0, pack=False)
    given, wanted = (answers_in(one.folder, one.records) for one in (together, alone))
    for record in together.records:
        assert given(record.run_id).predictions == wanted(record.run_id).predictions
        assert given(record.run_id).references == wanted(record.run_id).references


def test_a_plan_counts_the_rows_that_all_seeds_test(tmp_path):
    one, folds, three = (
        planned(tmp_path, text + "analysis: {reference: full, margin: 0.001}\n")
        for text in (TWO, FIVE, FIVE.replace("[0, 1, 2, 3, 4]", "[0, 1, 2]"))
    )
    assert any("tickets: 400 test examples show differences" in said for said in folds.cautions)
    for plan, least, most in ((one, 20, 60), (three, 200, 280)):
        (said,) = [said for said in plan.cautions if "test examples show" in said]
        assert least < int(said.split()[1]) < most


def test_the_data_of_a_plan_is_that_of_the_first_fold_and_says_so(tmp_path):
    suite = load_suite(write_project(tmp_path / "project", FIVE))
    (facts,) = make_plan(suite, tmp_path / "runs", with_data=True).data
    ((task, base),) = suite.tasks
    assert facts.splits["test"].examples == len(load_data(task, base, fold=0).splits["test"].ids)
    notes = [str(part) for part in data_parts(facts) if not hasattr(part, "columns")]
    assert any(f"all seeds together test {facts.tested} examples" in note for note in notes)


def test_more_seeds_than_folds_are_refused(tmp_path):
    with pytest.raises(BadInput) as error:
        planned(tmp_path, FIVE.replace("[0, 1, 2, 3, 4]", "[0, 1, 5]"))
    (fault,) = error.value.faults
    assert fault.line == 10 and "0 and 5, which both test fold 0 of tickets" in fault.message
    with pytest.raises(BadInput, match="both test fold 0"):
        planned(tmp_path, FIVE.replace("[0, 1, 2, 3, 4]", "{until: decided, at_least: 4, at_most: 6}"))


def test_different_rows_are_no_more_than_the_smallest_fold_trains_on(tmp_path):
    plan = planned(tmp_path, FIVE)
    ((task, base),) = plan.suite.tasks
    rows = [len(load_data(task, base, fold=fold).splits["train"].ids) for fold in range(5)]
    assert min(rows) < max(rows)
    assert planned(tmp_path, f"{FIVE}distinct_examples: {min(rows)}\n").cells
    with pytest.raises(BadInput, match=f"more than the {min(rows)} training rows"):
        planned(tmp_path, f"{FIVE}distinct_examples: {min(rows) + 1}\n")


def test_the_report_takes_folds_as_one_test_of_all_rows(tmp_path):
    suite = FIVE.replace("{train_examples: 48}", "{train_examples: 96}") + "analysis: {reference: full, margin: 0.01}\n"
    path = write_project(tmp_path / "project", suite)
    outcome = run_suite(path, runs=tmp_path / "runs", workers=0)
    report = outcome.report
    (held,) = report.judged.held
    assert held.difference.pairs == 5 and held.difference.crossed.items == 400
    overlap = fmean(one.data.examples["test"] / one.data.examples["train"] for one in outcome.records)
    assert held.difference.estimate.overlap == pytest.approx(overlap, rel=0.01)
    for row in report.comparison.settings[0].rows:
        own = [one for one in outcome.records if one.spec.method.label == row.label]
        assert row.majority_score == pytest.approx(fmean(one.data.majority_score for one in own))
        assert row.word_model_score == 1.0
        given = report.given_answers[row.run_ids]
        assert given.answers.shape == (1, 400)
        assert (given.answers == given.references).mean() == pytest.approx(
            sum(one.score * one.data.examples["test"] for one in own) / 400, abs=1e-6
        )
    # Rows without a group are 400 independent items; those that the table repeats stand together.
    texts = item_texts(load_suite(path))
    said = texts(outcome.records[0].spec.task, given.references.tolist(), given.seeds)
    rows = list(csv.DictReader((tmp_path / "project" / "tickets.csv").open(encoding="utf-8")))
    labels = outcome.records[0].spec.task.labels
    assert len({name for name, _ in said}) == 400
    for (name, text), right in zip(said, given.references, strict=True):
        assert rows[int(name) - 1] == {"subject": text, "queue": labels[right]}
    page = render_markdown(report)
    assert "400 test items" in page and "the test split, one of 5 folds for each seed" in page


def test_methods_are_compared_on_the_folds_that_both_have(tmp_path):
    outcome = run_suite(write_project(tmp_path / "project", FIVE), runs=tmp_path / "runs", workers=0)
    full = [one for one in outcome.records if one.spec.method.label == "full"]
    lora = [one for one in outcome.records if one.spec.method.label == "lora"]
    records = [*full[:4], *lora]
    judged = judge_comparison(
        compare(records), records, answers_in(outcome.folder, records), Analysis(reference="full")
    )
    (held,) = judged.held
    assert held.difference.seeds == (0, 1, 2, 3)
    assert held.difference.crossed.items == sum(one.data.examples["test"] for one in full[:4])


def test_trials_choose_a_rate_on_rows_apart_from_the_folds_of_their_own_seeds(tmp_path):
    suite = FIVE.replace("[full, lora]", "[{method: lora, learning_rate: [0.001, 0.01]}]")
    path = write_project(tmp_path / "project", suite + "tuning: {seeds: [100, 101], extend: false}\n")
    outcome = run_suite(path, runs=tmp_path / "runs", workers=0)
    trials = [one for one in outcome.records if one.spec.score_on == "selection"]
    assert len(trials) == 4 and len(outcome.records) == 9
    ((task, base),) = load_suite(path).tasks
    for record in trials:
        data = load_data(task, base, fold=record.spec.seed % 5)
        assert record.predictions.count == len(data.splits["selection"].ids)
        assert record.data.examples["test"] == len(data.splits["test"].ids)
