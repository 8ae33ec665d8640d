"""The head's own learning rate: in the recipe, for some methods, in trials and in reports."""

import pytest

from lora_bench.plan.make_plan import make_plan
from lora_bench.report import Report, render_markdown
from lora_bench.suite.load_suite import load_suite
from lora_bench.training.run import run_job
from tests.project import SUITE, write_project
from tests.sample_records import METHODS, record


def planned(tmp_path, more, suite=SUITE):
    path = write_project(tmp_path / "project", f"{suite}{more}")
    return {cell.job.spec.method.label: cell.job for cell in make_plan(load_suite(path), tmp_path / "runs").cells}


def test_a_recipe_gives_the_heads_of_some_methods_a_rate(tmp_path):
    plain = planned(tmp_path, "")
    found = planned(
        tmp_path, "training: {head_learning_rate: 3e-3}\nrecipes: [{methods: lora, head_learning_rate: 1e-3}]\n"
    )
    assert {label: job.spec.training.head_learning_rate for label, job in found.items()} == {
        "full": 3e-3, "lora": 1e-3, "bottleneck_adapter": 3e-3, "prefix_tuning": 3e-3,
    }  # fmt: skip
    assert all(found[label].run_id != job.run_id for label, job in plain.items())


def test_a_head_at_a_rate_near_0_stays_as_it_was_drawn_and_the_method_does_not(tmp_path, monkeypatch):
    monkeypatch.setenv("LORA_BENCH_CACHE", str(tmp_path / "cache"))
    lora = SUITE.replace("[full, lora, bottleneck_adapter, prefix_tuning]", "[{method: lora, learning_rate: 1e-2}]")
    curves = []
    for rate in ("1e-2", "1e-12"):
        (job,) = planned(tmp_path, f"training: {{head_learning_rate: {rate}}}\n", lora).values()
        curves.append([point.loss for point in run_job(job).curve])
    # No update is behind the first step, so both losses are of the drawn weights.
    assert curves[0][0] == curves[1][0] and curves[0] != curves[1]
    (same,) = planned(tmp_path, "", lora).values()
    assert [point.loss for point in run_job(same).curve] == pytest.approx(curves[0])


def test_trials_keep_the_heads_rate(tmp_path):
    suite = SUITE.replace(
        "[full, lora, bottleneck_adapter, prefix_tuning]", "[{method: lora, learning_rate: [1e-2, 1e-3]}]"
    )
    path = write_project(
        tmp_path / "project", f"{suite}tuning: {{seeds: [100]}}\ntraining: {{head_learning_rate: 2e-3}}\n"
    )
    trials = make_plan(load_suite(path), tmp_path / "runs").cells
    assert {(cell.job.trial, cell.job.spec.training.head_learning_rate) for cell in trials} == {(True, 2e-3)}


def test_a_report_shows_methods_with_heads_at_different_rates_in_one_table():
    rates = {"full": 1e-4, "lora": 3e-4}
    runs = [
        record(METHODS[name], seed=seed, training={"head_learning_rate": rate})
        for name, rate in rates.items()
        for seed in range(3)
    ]
    page = render_markdown(Report(runs))
    assert "(head 3e-4)" in page and "(head 1e-4)" in page
    assert len(Report(runs).comparison.settings) == 1
