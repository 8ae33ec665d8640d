"""The frames of means, ranks and verdicts have the numbers of the report, not rounded."""

import json

import pandas
import pytest

from lora_bench.exchange import data_files
from lora_bench.report import Report
from lora_bench.report.frames.verdict_frame import to_comparison_frame, to_over_tasks_frame
from lora_bench.report.model.comparison import compare
from lora_bench.report.model.judged import judge_comparison
from lora_bench.report.model.searches import beside
from tests.sample_records import record, sample_suite

FULL = (0.80, 0.81, 0.79, 0.80)


def of_two_tasks():
    """Lora is .02 better on one task and .01 on the other, give or take .001; one run of it failed."""
    records = [
        record(method, seed=seed, score=score + (gain + 0.001 * (seed % 2) if method == "lora" else 0.0), task=task)
        for task, gain in (("vader_film", 0.02), ("other", 0.01))
        for method in ("full", "lora")
        for seed, score in enumerate(FULL)
    ]
    return [*records, record("lora", seed=9, status="failed", reason="no")]


def frames(records):
    comparison = compare(records)
    judged = judge_comparison(comparison, records)
    return to_comparison_frame(comparison, judged, beside(comparison)), to_over_tasks_frame(judged)


def test_a_row_a_method_with_its_mean_rank_and_verdict():
    comparisons, _ = frames(of_two_tasks())
    rows = comparisons.set_index(["task", "label"])
    assert len(rows) == 4
    full, lora = rows.loc["vader_film", "full"], rows.loc["vader_film", "lora"]
    assert (lora["n"], lora["runs"], lora["failed"], lora["pairs"]) == (4, 5, 1, 4)
    assert (full["mean"], lora["difference"]) == (pytest.approx(0.8), pytest.approx(0.0205))
    assert lora["difference_low"] < 0.0205 < lora["difference_high"]
    assert lora["simultaneous_low"] < lora["difference_low"]
    assert (lora["verdict"], lora["grade"], lora["against"], lora["family"]) == ("better", "exploratory", "full", 2)
    assert (lora["rank_best"], lora["rank_worst"], lora["rank_letters"], lora["ranked"]) == (1, 1, "a", 2)
    assert (full["rank_best"], full["rank_letters"]) == (2, "b")
    for name in ("verdict", "difference", "against", "tuning_seconds", "beyond_margin"):
        assert pandas.isna(full[name])
    assert (lora["target"], lora["target_parameters"]) == ("adapter_parameters", 7_680)


def test_a_row_a_method_over_tasks():
    _, over = frames(of_two_tasks())
    full, lora = (row for _, row in over.iterrows())
    assert (full["label"], full["mean"], full["n"]) == ("full", pytest.approx(0.8), 4)
    assert (lora["tasks"], lora["better"], lora["worse"], lora["neither"]) == (2, 2, 0, 0)
    assert (lora["difference"], lora["verdict"]) == (pytest.approx(0.0155), "better")
    assert (lora["failed"], lora["runs"]) == (1, 9)
    assert pandas.isna(full["verdict"])


def test_without_verdicts_there_are_means_alone():
    comparisons, over = frames([record("lora", seed=seed, score=0.7) for seed in range(2)])
    assert len(comparisons) == 1 and len(over) == 0
    assert comparisons.loc[0, "mean"] == pytest.approx(0.7) and pandas.isna(comparisons.loc[0, "verdict"])


def test_they_lie_beside_a_report_in_every_format():
    files = data_files(Report(of_two_tasks()))
    for table in ("comparisons", "over_tasks"):
        assert {f"{table}.{suffix}" for suffix in ("csv", "parquet", "json")} <= files.keys()
    found = json.loads(files["comparisons.json"])
    assert [one["verdict"] for one in found if one["label"] == "lora"] == ["better", "better"]
    assert not any(name.startswith("over_tasks") for name in data_files(Report(sample_suite())))
