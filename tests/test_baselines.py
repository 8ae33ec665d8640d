"""What is committed under baselines/ and reports/ is what the code makes and says."""

import csv
import dataclasses
import hashlib
import json
import math
import statistics
from collections import defaultdict
from pathlib import Path

import pytest
import scipy.stats
import sklearn.metrics

from lora_bench.execute.run_suite import run_suite
from lora_bench.gate.baseline import read_nights
from lora_bench.plan.make_plan import make_plan
from lora_bench.plan.probe_plan import plan_probes
from lora_bench.records.analysis import UntilDecided
from lora_bench.records.answers_file import read_answers
from lora_bench.records.environment import cuda_devices
from lora_bench.records.layout import ANSWERS_FILE
from lora_bench.records.probe_store import has_probes, read_probes
from lora_bench.records.sealed_records import to_json
from lora_bench.records.store import answers_in, has_records, read_records
from lora_bench.records.suite_about import about_in
from lora_bench.records.weight_analysis import read_analysis
from lora_bench.report import Report, check_report
from lora_bench.suite.load_suite import load_suite
from lora_bench.suite.probe_suite import load_probe_suite
from lora_bench.tasks import definition, load_data, load_task
from tests.shared import shared

ROOT = Path(__file__).parents[1]
# The folder of real data that a task lies in, for those whose data may not be shipped.
GLUE = ("cola", "mrpc", "rte", "sst2", "sst2_400", "sst2_1000", "sst2_by_sentence", "stsb", "stsb_400")
DATA = {**dict.fromkeys(GLUE, "glue"), "e2e": "e2e"}
# Suites that are run task by task, and have records of some of their tasks.
IN_PARTS = {"contest"}
METRICS = {
    "accuracy": sklearn.metrics.accuracy_score,
    "f1": sklearn.metrics.f1_score,
    "matthews_correlation": sklearn.metrics.matthews_corrcoef,
    "pearson": lambda references, predictions: scipy.stats.pearsonr(references, predictions).statistic,
    "spearman": lambda references, predictions: scipy.stats.spearmanr(references, predictions).statistic,
}
BASELINES = {path.name: path for path in sorted((ROOT / "baselines").iterdir()) if has_records(path)}
PLANNED = {"quickstart", "smoke"}
# Those that measure what methods cost, and train for no score.
PROBED = {
    path.name: path
    for path in sorted((ROOT / "baselines").iterdir())
    if has_probes(path) and path.name not in BASELINES
}


@pytest.mark.parametrize("name", BASELINES)
def test_every_record_names_its_spec_and_keeps_its_budget(name):
    for record in read_records(BASELINES[name]):
        assert record.run_id == record.spec.run_id
        assert record.suite == name
        if record.parameters is not None and record.spec.method.size is not None:
            assert record.budget.within(record.parameters.adapter)


@pytest.mark.parametrize("name", BASELINES)
def test_a_suite_deals_out_its_tasks_as_its_records_say(name):
    dealt = {task.task: [definition(task)[key] for key in ("version", "split")] for task, _ in load_suite(name).tasks}
    for record in read_records(BASELINES[name]):
        assert [record.spec.task.definition[key] for key in ("version", "split")] == dealt[record.spec.task.name]


@pytest.mark.parametrize("name", BASELINES)
def test_predictions_lie_beside_their_record_and_give_its_scores(name):
    records = read_records(BASELINES[name])
    answers = answers_in(BASELINES[name], records)
    for record in records:
        if record.status != "ok" or record.spec.decoding is not None:
            continue
        found = answers(record.run_id)
        assert len(found.predictions) == len(found.references) == record.predictions.count
        # One answer for every item has no correlation.
        assert record.scores or (len(set(found.predictions)) == 1 and record.judged_score == 0)
        for metric, score in record.scores.items():
            if metric in METRICS:
                assert score == pytest.approx(METRICS[metric](found.references, found.predictions), abs=1e-6)


@pytest.mark.parametrize("name", BASELINES)
def test_no_text_is_committed(name):
    records = {record.run_id: record for record in read_records(BASELINES[name])}
    file = BASELINES[name] / ANSWERS_FILE
    for run_id, kind, content in read_answers(file).values() if file.is_file() else ():
        named = {
            one.file: one for one in (records[run_id].predictions, records[run_id].probabilities) if one is not None
        }
        assert named[kind].sha256 == hashlib.sha256(content).hexdigest()
        found = json.loads(content)
        if kind == "predictions.json":
            assert records[run_id].spec.decoding is None
            assert set(found) == {"ids_sha256", "predictions", "references"}
            assert all(isinstance(value, int | float) for value in [*found["predictions"], *found["references"]])
        else:
            assert set(found) == {"probabilities"}


@pytest.fixture(scope="module")
def reports():
    """The report of each baseline beside those of all others."""
    made = {}
    for name, folder in {**BASELINES, **PROBED}.items():
        records = read_records(folder) if name in BASELINES else []
        made[name] = Report(
            records,
            name=name,
            probes=read_probes(folder),
            answers=answers_in(folder, records),
            about=about_in(folder, records),
            analysis=read_analysis(folder),
            beside=made,
        )
    return made


@pytest.mark.slow
@pytest.mark.parametrize("name", [*BASELINES, *PROBED])
def test_the_pages_of_the_report_are_what_the_records_render_to(reports, name):
    # Figures depend on the version of matplotlib; the tox environment `reports` pins it and compares them too.
    differences = check_report(reports[name], ROOT / "reports")
    assert [difference for difference in differences if ".md" in difference.split(":")[0]] == []


@pytest.mark.skipif(bool(cuda_devices()), reason="on a machine with a GPU the suite measures that")
@pytest.mark.parametrize("name", PROBED)
def test_every_process_of_a_suite_of_probes_is_there_and_measured_what_its_suite_says(name, tmp_path):
    plan = plan_probes(load_probe_suite(name), tmp_path)
    assert {record.run_id for record in read_probes(PROBED[name])} >= {job.run_id for job in plan.jobs}
    assert {record.status for record in read_probes(PROBED[name])} == {"ok"}


@pytest.mark.parametrize("name", [*BASELINES, *PROBED])
def test_nothing_committed_names_a_person_a_host_or_a_folder(name):
    for path in (ROOT / "baselines" / name).rglob("*.json"):
        text = path.read_text(encoding="utf-8")
        assert not any(word in text for word in ("/home/", "/root/", "/tmp/", "/Users/", "hostname"))


def test_a_look_that_the_history_of_a_suite_shows_is_paid(reports):
    judged = reports["lora-alpha"].judged
    assert (judged.declared, judged.declarations) == ("added", 2)


def test_the_quickstart_beats_the_majority_class():
    cells = defaultdict(list)
    for record in read_records(BASELINES["quickstart"]):
        assert record.status == "ok"
        cells[record.spec.model.name, record.spec.method.name].append(record.score - record.data.majority_score)
    assert len(cells) == 12 and all(len(gains) >= 4 for gains in cells.values())
    short = [cell for cell, gains in cells.items() if sum(gains) / len(gains) < 0.05]
    assert not short


def test_the_report_of_the_quickstart_opens_with_an_answer_that_its_comparisons_decide():
    _, _, asked, _, answer, _, _, _, care, *rest = (
        (ROOT / "reports" / "quickstart.md").read_text(encoding="utf-8").splitlines()
    )
    assert asked.startswith("*A report to look at, in ten minutes, and no advice: ") and answer.startswith(
        "**Take `full`: "
    )
    assert care == "Read the ranking with care: 50 of 54 runs were still improving when their budget ended."
    rows = [line.split("|") for line in rest if line.startswith("| `movie_reviews` (")]
    verdicts = [row[7] for row in rows if len(row) == 10]
    assert len(verdicts) == 9 and sum("better" in said or "worse" in said for said in verdicts) >= 3


def test_the_quickstarts_learning_rates_are_the_best_of_equal_trials():
    trials = defaultdict(lambda: defaultdict(list))
    searched = read_records(BASELINES["quickstart-search"])
    for record in searched:
        assert record.spec.score_on == "selection"
        trials[record.spec.model.name, record.spec.method.name][record.spec.training.learning_rate].append(record.score)
    assert {(len(rates), *map(len, rates.values())) for rates in trials.values()} == {(3, 2, 2, 2)}
    reported = read_records(BASELINES["quickstart"])
    for record in reported:
        assert (record.budget.tuned_in, record.budget.trials) == ("quickstart-search", 3)
        rates = trials[record.spec.model.name, record.spec.method.name]
        assert record.spec.training.learning_rate == max(rates, key=lambda rate: statistics.fmean(rates[rate]))
    assert {record.spec.seed for record in searched}.isdisjoint(record.spec.seed for record in reported)


@pytest.mark.parametrize("name", [name for name in BASELINES if load_suite(name).content.tuning is not None])
def test_the_learning_rate_of_a_tuned_suite_is_the_best_of_its_trials(name):
    trials, reported = defaultdict(lambda: defaultdict(list)), defaultdict(set)
    for record in read_records(BASELINES[name]):
        spec = record.spec
        cell = spec.task.name, spec.model.name, spec.method.label, record.budget.parameter_target
        if record.status == "unsupported":
            continue
        if spec.score_on == "selection":
            sign = 1 if spec.task.higher_is_better else -1
            trials[cell][spec.training.learning_rate].append(-math.inf if record.score is None else sign * record.score)
        else:
            reported[cell].add((spec.training.learning_rate, spec.seed))
    content = load_suite(name).content
    # The search of a task without a reported run goes on.
    searched = {task for task, *_ in trials} - {task for task, *_ in reported}
    assert trials and set(reported) == {cell for cell in trials if cell[0] not in searched}
    for cell in reported:
        rates = trials[cell]
        # A best rate at an end of the list brings one more beyond it.
        assert len(rates) in (content.budget.trials, content.budget.trials + content.tuning.extends)
        means = {rate: statistics.fmean(scores) for rate, scores in rates.items()}
        (chosen,) = {rate for rate, _ in reported[cell]}
        if content.tuning.search == "all_seeds":
            assert means[chosen] == max(means.values())
        else:  # a smaller rate may be taken within a standard error of the best, where a larger one learned nothing
            spread = max(statistics.stdev(scores) for scores in rates.values() if len(scores) > 1)
            # Trials that learned nothing count alike: on CoLA's 447 rows two standard errors of a correlation of 0.
            nothing = 2 / math.sqrt(447) if cell[0] == "cola_1000" else -math.inf
            assert means[chosen] >= max(means.values()) - spread or max(means.values()) <= nothing
        seeds = sorted(seed for _, seed in reported[cell])
        if isinstance(content.seeds, UntilDecided):
            assert content.seeds.at_least <= len(seeds) <= content.seeds.at_most and seeds == list(range(len(seeds)))
        else:
            assert seeds == sorted(content.seeds)


# Every record of every baseline is also read, judged and rendered above; planning all suites takes minutes.
@pytest.mark.assets
@pytest.mark.parametrize(
    "name", [name if name in PLANNED else pytest.param(name, marks=pytest.mark.slow) for name in BASELINES]
)
def test_the_suite_still_means_the_same_runs(name, tmp_path, monkeypatch):
    """The ids of today's code on today's data are those of the committed records."""
    records = read_records(BASELINES[name])
    folders = {DATA[task] for task in {record.spec.task.name for record in records} & set(DATA)}
    assert len(folders) <= 1
    data = shared("data", *folders) if folders else None
    monkeypatch.chdir(ROOT)
    for record in records:
        (tmp_path / record.run_id).mkdir()
        (tmp_path / record.run_id / "record.json").write_bytes(to_json(record))
    suite, done = load_suite(name), {record.spec.task.name for record in records}
    if name in IN_PARTS:
        suite = dataclasses.replace(suite, tasks=tuple(task for task in suite.tasks if task[0].task in done))
    plan = make_plan(suite, tmp_path, data_dir=data)
    assert not plan.missing and not plan.waiting
    assert {cell.job.spec.run_id for cell in plan.cells} == {record.run_id for record in records}


@pytest.mark.slow
@pytest.mark.assets
def test_every_accepted_night_has_the_runs_of_its_suite_under_its_label(tmp_path, monkeypatch):
    """Its nights are repeats that were run: an id is of the label, and so of the seeds that are drawn from it."""
    monkeypatch.chdir(ROOT)
    nights = read_nights(ROOT / "baselines" / "nightly")
    assert len(nights) >= 8 and all(night.label.startswith("repeat-") for night in nights)
    seen: set[str] = set()
    for night in nights:
        runs = [run for cell in night.cells for run in cell.runs]
        plan = make_plan(load_suite("nightly"), tmp_path / night.label, series=night.label)
        assert {run.run_id for run in runs} == {cell.job.run_id for cell in plan.cells}
        assert all(run.status == "ok" and 0 < run.score < 1 for run in runs)
        assert not seen & {run.run_id for run in runs}
        seen |= {run.run_id for run in runs}


@pytest.mark.slow
@pytest.mark.assets
def test_a_short_run_on_real_weights_and_real_data(tmp_path):
    # Their hashes made these rows tests already: only a stratified split deals them out evenly.
    data = load_data(load_task("movie_reviews"), tmp_path)
    rows = data.splits["test"]
    with (tmp_path / "reviews.csv").open("w", newline="", encoding="utf-8") as file:
        lines = [(text, data.labels[label]) for (text,), label in zip(rows.texts, rows.labels, strict=True)]
        csv.writer(file).writerows([("text", "label"), *lines[::8][:500]])
    (tmp_path / "short.yaml").write_text(
        "suite: short\ntasks: [{task: reviews, data: reviews.csv, text: text, label: label, split: {stratify: true}}]\n"
        "models: [minilm-l6-roberta, minilm-l6-deberta, gpt2-mini]\n"
        "methods: [full, lora, bottleneck_adapter, prefix_tuning]\nseeds: [0]\n"
        "budget: {adapter_parameters: 147_456, train_examples: 32}\ntraining: {max_length: 32}\nscore_on: test\n"
    )
    outcome = run_suite(tmp_path / "short.yaml", runs=tmp_path / "runs", workers=2)
    assert [record.status for record in outcome.records] == ["ok"] * 12
    for record in outcome.records:
        assert record.data.examples == {"train": 400, "selection": 50, "test": 50}
        assert record.spec.method.size is None or record.budget.within(record.parameters.adapter)
