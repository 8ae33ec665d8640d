"""What a comparison says, on numbers a reader can check by hand."""

import dataclasses
import math

import pytest
import scipy.stats

from lora_bench.errors import LoraBenchError
from lora_bench.records.record import Weights
from lora_bench.report.model.comparison import compare
from lora_bench.report.model.rows import Row
from lora_bench.report.model.searches import beside
from lora_bench.report.sections.method_tables import setting_name
from tests.probe.records import probe_record
from tests.sample_records import BUDGET, ENVIRONMENT, METHODS, MIB, PARAMETERS, record, sample_suite


def rows_of(records) -> list[Row]:
    (setting,) = compare(records).settings
    return setting.rows


def with_scores(*scores):
    (row,) = rows_of([record(seed=seed, score=score) for seed, score in enumerate(scores)])
    return row.score


def test_mean_sd_and_interval_of_three_scores():
    found = with_scores(0.70, 0.72, 0.77)
    # mean 2.19 / 3; deviations -0.03, -0.01, 0.04: sum of squares 0.0026, over n - 1 = 2
    sd = math.sqrt(0.0026 / 2)
    half = scipy.stats.t.ppf(0.975, df=2) * sd / math.sqrt(3)
    assert found.n == 3
    assert found.mean == pytest.approx(0.73)
    assert found.median == 0.72
    assert found.sd == pytest.approx(sd)
    assert (found.interval.low, found.interval.high) == pytest.approx((0.73 - half, 0.73 + half))


def test_one_score_has_a_mean_and_no_spread():
    found = with_scores(0.7)
    assert (found.n, found.mean, found.sd, found.interval) == (1, 0.7, None, None)


def test_scores_that_are_all_the_same_have_no_interval():
    found = with_scores(0.7, 0.7, 0.7)
    assert (found.sd, found.interval) == (0.0, None)


def test_no_score_is_none_and_not_zero():
    assert with_scores(None) is None


def test_measurements_are_medians_over_seeds():
    peaks = [300, 310, 900]
    steps = [0.05, 0.06, 0.2]
    records = [
        record(seed=seed, peak_mib=peak, step_seconds=step)
        for seed, (peak, step) in enumerate(zip(peaks, steps, strict=True))
    ]
    (row,) = rows_of(records)
    assert row.train_peak_bytes == 310 * MIB
    assert row.step_seconds == 0.06
    assert row.train_seconds_total == pytest.approx(200 * (0.05 + 0.06 + 0.2))


def test_the_score_less_the_majority_class():
    (row,) = rows_of([record(seed=0, score=0.7, majority=0.55), record(seed=1, score=0.8, majority=0.55)])
    assert row.above_majority == pytest.approx(0.75 - 0.55)


def test_failed_runs_stay_in_their_row_with_status_and_reason():
    (row,) = rows_of([record(seed=0), record(seed=1, status="out_of_memory", reason="2 GiB asked for")])
    assert row.statuses == {"ok": 1, "out_of_memory": 1}
    assert row.score.n == 1
    assert [(failure.spec.seed, failure.status, failure.reason) for failure in row.failures] == [
        (1, "out_of_memory", "2 GiB asked for")
    ]


def test_a_row_whose_runs_all_failed_is_still_a_row():
    (row,) = rows_of([record("prefix_tuning", status="unsupported", reason="no")])
    assert row.score is None
    assert row.parameters is None
    assert row.train_peak_bytes is None


def test_a_method_without_a_size_is_exempt_and_comes_first():
    rows = rows_of([record("bottleneck_adapter"), record("full"), record("lora")])
    assert [(row.label, row.exempt) for row in rows] == [
        ("full", True),
        ("bottleneck_adapter", False),
        ("lora", False),
    ]
    assert rows[0].within_budget is None


def test_counts_outside_the_tolerance_are_seen():
    far = PARAMETERS["lora"].model_copy(update={"adapter": 7_680 * 2})
    inside, outside = rows_of([record("bottleneck_adapter"), record("lora", parameters=far)])
    # 7,776 misses 7,680 by 1.25 %, and 5 % are tolerated
    assert inside.within_budget is True
    assert outside.within_budget is False


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"spec": {"protocol": "paper"}}, "protocol"),
        ({"spec": {"score_on": "selection"}}, "score_on"),
        ({"spec": {"series": "night-2"}}, "series"),
        ({"training": {"train_examples": 6_400}}, "training.train_examples"),
        ({"training": {"batch_size": 32}}, "training.batch_size"),
        ({"training": {"max_length": 128}}, "training.max_length"),
        ({"training": {"precision": "bfloat16"}}, "training.precision"),
        ({"training": {"arguments": {"adam_beta2": 0.98}}}, "training.arguments.adam_beta2"),
        ({"budget": BUDGET.model_copy(update={"trials": 3})}, "budget.trials"),
        ({"metric": "f1"}, "task.metric"),
    ],
)
def test_runs_that_differ_in_more_than_the_method_are_never_in_one_table(change, field):
    comparison = compare([record("full"), record("lora", **change)])
    assert [[row.label for row in setting.rows] for setting in comparison.settings] in (
        [["full"], ["lora"]],
        [["lora"], ["full"]],
    )
    for setting in comparison.settings:
        assert field in setting.differs


def at(target):
    return BUDGET.model_copy(update={"adapter_parameters": target})


def test_methods_with_a_size_are_never_in_one_table_with_those_of_another_target():
    comparison = compare([record("bottleneck_adapter"), record("lora", budget=at(99))])
    found = {setting.parameter_target[1]: [row.label for row in setting.rows] for setting in comparison.settings}
    assert found == {99: ["lora"], 7_680: ["bottleneck_adapter"]}
    assert [setting.differs for setting in comparison.settings] == [
        {"budget.adapter_parameters": 7_680}, {"budget.adapter_parameters": 99},
    ]  # fmt: skip


def of_targets(own):
    """The records of a suite with two targets, whose exempt line carries another budget or none of them."""
    wide = METHODS["lora"].model_copy(update={"options": {**METHODS["lora"].options, "rank": 8}, "chosen": {"rank": 8}})
    small = [record("lora", seed=seed, budget=at(7_680)) for seed in (0, 1)]
    large = [record(wide, seed=seed, budget=at(15_360)) for seed in (0, 1)]
    return [*small, *large, *(record("full", seed=seed, budget=own) for seed in (0, 1))]


@pytest.mark.parametrize("own", [at(None), at(7_680), at(15_360)])
def test_an_exempt_line_stands_beside_every_target_and_is_counted_once(own):
    comparison = compare(of_targets(own))
    assert {setting.parameter_target[1]: [row.label for row in setting.rows] for setting in comparison.settings} == {
        7_680: ["full", "lora"], 15_360: ["full", "lora"],
    }  # fmt: skip
    assert comparison.runs == 6
    one, other = (setting.rows[0] for setting in comparison.settings)
    assert one == other and one.exempt and len(one.run_ids) == 2


def test_an_exempt_line_stands_beside_no_runs_that_differ_in_more_than_the_target():
    longer = at(None).model_copy(update={"train_examples": 6_400})
    records = [*of_targets(longer)[:4], record("full", budget=longer, training={"train_examples": 6_400})]
    labels = [[row.label for row in setting.rows] for setting in compare(records).settings]
    assert sorted(labels) == [["full"], ["lora"], ["lora"]]


def test_trials_are_no_kin_of_results_and_number_no_settings():
    """A suite with two targets and a search of each: what sets its results apart is their target alone."""
    records = of_targets(at(7_680))
    trials = {"spec": {"score_on": "selection"}, "seed": 100}
    records += [record("lora", budget=at(7_680), **trials), record("bottleneck_adapter", budget=at(15_360), **trials)]
    comparison = compare(records)
    assert [setting.trials for setting in comparison.settings] == [False, False, True, True]
    assert comparison.results == [*comparison.settings[:2]]
    for setting in comparison.settings:
        assert len(comparison.kin_of(setting)) == 2
        assert [*comparison.differs_from_kin(setting)] == ["budget.adapter_parameters"]
    names = [setting_name(setting, comparison) for setting in comparison.settings]
    assert sorted(names) == [
        "`vader_film` (15,360 adapter parameters)", "`vader_film` (7,680 adapter parameters)",
        "`vader_film` (trials, 15,360 adapter parameters)", "`vader_film` (trials, 7,680 adapter parameters)",
    ]  # fmt: skip


def test_a_row_knows_the_trials_that_chose_its_learning_rate_and_the_bytes_that_its_runs_left():
    weights = {"weights": Weights(folder=None, stored_bytes=2 * MIB, step=200)}
    records = [record(seed=0, changes=weights), record("full")]
    records += [
        record(seed=100, learning_rate=rate, step_seconds=seconds, spec={"score_on": "selection"})
        for rate, seconds in ((1e-3, 0.05), (3e-3, 0.06))
    ]
    comparison = compare(records)
    (results,) = comparison.results
    full, lora = results.tables[0].rows
    found = beside(comparison)
    # 200 steps of each of the two trials.
    assert found.tuning(lora, results.tables[0], results) == pytest.approx(200 * (0.05 + 0.06))
    assert found.checkpoint_bytes(lora, results.tables[0], results) == 2 * MIB
    assert found.tuning(full, results.tables[0], results) is None
    assert found.checkpoint_bytes(full, results.tables[0], results) is None


def test_a_probe_of_the_same_method_and_base_model_says_how_large_a_checkpoint_is():
    probe = probe_record("lora")
    records = [record("lora"), record("full")]
    (setting,) = compare(records).settings
    full, lora = setting.tables[0].rows
    found = beside(compare(records), [probe])
    assert found.checkpoint_bytes(lora, setting.tables[0], setting) == probe.checkpoint.stored_bytes
    assert found.checkpoint_bytes(full, setting.tables[0], setting) is None
    other = dataclasses.replace(lora, options={**lora.options, "rank": 99})
    assert found.checkpoint_bytes(other, setting.tables[0], setting) is None


def test_a_reference_alone_makes_a_setting_of_its_own():
    (setting,) = compare([record("full", budget=at(7_680))]).settings
    assert setting.parameter_target[1] == 7_680


def test_method_learning_rate_base_model_and_seed_may_differ():
    records = [record("full", learning_rate=1e-4), record("lora", seed=1), record(model="gpt2-mini")]
    (setting,) = compare(records).settings
    assert setting.differs == {}
    assert len(setting.tables) == 2


def test_learning_rates_are_never_averaged_together():
    rates = [1e-4, 1e-3]
    records = [record(learning_rate=rate, score=0.6 + 100 * rate, seed=seed) for rate in rates for seed in (0, 1)]
    (setting,) = compare(records).settings
    assert setting.search
    assert [(row.learning_rate, row.score.n) for row in setting.rows] == [(1e-4, 2), (1e-3, 2)]


def test_one_learning_rate_a_method_is_no_search():
    (setting,) = compare([record("full", learning_rate=1e-4), record("lora", learning_rate=1e-3)]).settings
    assert not setting.search


def test_other_options_of_a_method_make_another_row():
    wide = METHODS["lora"].model_copy(update={"options": {**METHODS["lora"].options, "rank": 8}, "chosen": {"rank": 8}})
    assert [row.size_value for row in rows_of([record("lora"), record(wide)])] == [4, 8]


def test_two_base_models_of_one_name_are_told_apart():
    one = record()
    spec = one.spec.model_copy(update={"model": one.spec.model.model_copy(update={"sha256": "f" * 64})})
    other = one.model_copy(update={"spec": spec, "run_id": spec.run_id})
    (setting,) = compare([one, other]).settings
    assert [table.ambiguous for table in setting.tables] == [True, True]


def test_a_copy_of_a_record_counts_once():
    assert compare([record(), record()]).runs == 1


def test_two_different_records_with_one_run_id_are_refused():
    with pytest.raises(LoraBenchError, match="have the run id"):
        compare([record(score=0.7), record(score=0.8)])


def test_environments_differ_by_more_than_a_few_mebibytes_of_memory():
    rebooted = ENVIRONMENT.model_copy(update={"memory_bytes": ENVIRONMENT.memory_bytes - 5 * MIB})
    other = ENVIRONMENT.model_copy(update={"device": "NVIDIA H100"})
    records = [record(seed=0), record(seed=1, environment=rebooted), record(seed=2, environment=other)]
    comparison = compare(records)
    assert comparison.environments == (ENVIRONMENT, other)
    assert comparison.settings[0].rows[0].environments == (0, 1)


def test_the_order_of_records_changes_nothing():
    records = sample_suite()
    assert compare(records) == compare(records[::-1])
