"""What is committed under baselines/ and reports/ is what the code makes and says."""

import hashlib
import json
from collections import defaultdict
from pathlib import Path

import pytest

from lora_bench.execute import run_suite
from lora_bench.plan import make_plan
from lora_bench.report import check_report
from lora_bench.store import read_records, record_files
from lora_bench.suite import load_suite

ROOT = Path(__file__).parents[1]
BASELINES = {path.name: path for path in sorted((ROOT / "baselines").iterdir()) if record_files(path)}


@pytest.mark.parametrize("name", BASELINES)
def test_every_record_names_its_spec_and_keeps_its_budget(name):
    for record in read_records(BASELINES[name]):
        assert record.run_id == record.spec.run_id
        assert record.suite == name
        assert record.spec.method.size is None or record.budget.within(record.parameters.adapter)


@pytest.mark.parametrize("name", BASELINES)
def test_predictions_lie_beside_their_record_and_give_its_score(name):
    for record in read_records(BASELINES[name]):
        if record.status != "ok":
            continue
        content = (BASELINES[name] / "records" / f"{record.run_id}.predictions.json").read_bytes()
        assert hashlib.sha256(content).hexdigest() == record.predictions.sha256
        found = json.loads(content)
        hits = [one == other for one, other in zip(found["predictions"], found["references"], strict=True)]
        assert len(hits) == record.predictions.count
        assert record.scores["accuracy"] == pytest.approx(sum(hits) / len(hits))


@pytest.mark.parametrize("name", BASELINES)
def test_the_pages_of_the_report_are_what_the_records_render_to(name):
    # Figures depend on the version of matplotlib; the tox environment `reports` pins it and compares them too.
    differences = check_report(read_records(BASELINES[name]), ROOT / "reports", name)
    assert [difference for difference in differences if ".md" in difference.split(":")[0]] == []


@pytest.mark.parametrize("name", BASELINES)
def test_nothing_committed_names_a_person_a_host_or_a_folder(name):
    for path in BASELINES[name].rglob("*.json"):
        text = path.read_text(encoding="utf-8")
        assert not any(word in text for word in ("/home/", "/root/", "/tmp/", "/Users/", "hostname"))


def test_the_quickstart_beats_the_majority_class():
    cells = defaultdict(list)
    for record in read_records(BASELINES["quickstart"]):
        assert record.status == "ok"
        cells[record.spec.model.name, record.spec.method.name].append(record.score - record.data.majority_score)
    assert len(cells) == 12 and all(len(gains) >= 2 for gains in cells.values())
    short = [cell for cell, gains in cells.items() if sum(gains) / len(gains) < 0.08]
    assert len(short) <= 2, short


def test_the_quickstarts_learning_rates_are_the_best_of_equal_trials():
    trials = defaultdict(dict)
    for record in read_records(BASELINES["quickstart-search"]):
        assert record.spec.score_on == "selection"
        cell = record.spec.model.name, record.spec.method.name
        trials[cell][record.spec.training.learning_rate] = record.score
    reported = read_records(BASELINES["quickstart"])
    assert {len(rates) for rates in trials.values()} == {4}
    for record in reported:
        rates = trials[record.spec.model.name, record.spec.method.name]
        assert record.spec.training.learning_rate == max(rates, key=rates.get)
    searched = {record.spec.seed for record in read_records(BASELINES["quickstart-search"])}
    assert searched.isdisjoint(record.spec.seed for record in reported)


@pytest.mark.assets
@pytest.mark.parametrize("name", BASELINES)
def test_the_suite_still_means_the_same_runs(name, monkeypatch):
    """The ids of today's code on today's data are those of the committed records."""
    monkeypatch.chdir(ROOT)
    plan = make_plan(load_suite(name), ROOT / "runs" / name)
    assert {cell.job.spec.run_id for cell in plan.cells} == {record.run_id for record in read_records(BASELINES[name])}


@pytest.mark.assets
def test_a_short_run_on_real_weights_and_real_data(tmp_path):
    (tmp_path / "short.yaml").write_text(
        "suite: short\ntasks: [movie_reviews]\nmodels: [minilm-l6-roberta, minilm-l6-deberta, gpt2-mini]\n"
        "methods: [full, lora, bottleneck_adapter, prefix_tuning]\nseeds: [0]\n"
        "budget: {adapter_parameters: 147_456, train_examples: 32}\ntraining: {max_length: 32}\nscore_on: test\n"
    )
    outcome = run_suite(tmp_path / "short.yaml", runs=tmp_path / "runs", workers=2)
    assert [record.status for record in outcome.records] == ["ok"] * 12
    for record in outcome.records:
        assert record.data.examples == {"train": 8414, "selection": 1071, "test": 1083}
        assert record.spec.method.size is None or record.budget.within(record.parameters.adapter)
