"""The frame has a row for every record and a missing value for everything that was not measured."""

import pandas
import pytest

from lora_bench.records.record import Record
from lora_bench.report.frames import record_frame as records
from lora_bench.report.frames.record_frame import fields_of, to_frame
from tests.sample_records import MIB, record, sample_suite


def test_one_row_a_record_failures_included():
    records = sample_suite()
    frame = to_frame(records)
    assert list(frame["run_id"]) == [one.run_id for one in records]
    assert frame["status"].value_counts().to_dict() == {"ok": 21, "unsupported": 2, "diverged": 1}


def test_values_are_the_records_own():
    row = to_frame([record(score=0.7351, peak_mib=300)]).iloc[0]
    assert row["score"] == row["score_accuracy"] == 0.7351
    assert row["train_peak_bytes"] == 300 * MIB
    assert row["adapter_parameters"] == 7_680
    assert (row["size"], row["size_value"]) == ("rank", 4)


def test_what_was_not_measured_is_missing_and_not_zero():
    row = to_frame([record(), record("lora", seed=1, status="failed", reason="no")]).iloc[1]
    assert row["reason"] == "no"
    for column in ("score", "train_peak_bytes", "step_seconds_median", "train_seconds", "memory_exclusive"):
        assert pandas.isna(row[column])


def test_whole_numbers_stay_whole_beside_missing_ones():
    frame = to_frame([record(), record(seed=1, status="failed")])
    assert frame["train_peak_bytes"].dtype == "Int64"
    assert frame["train_real_tokens"].dtype == "Int64"


def test_means_by_method_are_one_line():
    frame = to_frame([record("lora", seed=0, score=0.7), record("lora", seed=1, score=0.8)])
    assert frame.groupby("label")["score"].mean()["lora"] == pytest.approx(0.75)


def test_no_records_give_the_same_columns():
    empty = to_frame([])
    assert len(empty) == 0
    assert list(empty.columns) == list(to_frame([record()]).columns)[: len(empty.columns)]


def test_every_field_of_a_record_has_a_column_of_its_own_name():
    fields = [path for path, _ in fields_of(Record, records._LEFT_OUT)]
    assert {"speed.train_seconds", "environment.driver", "spec.training.masks"} <= set(fields)
    names = [records._name(path) for path in fields]
    assert len(set(names)) == len(names)
    assert set(names) <= set(to_frame([]).columns)


def test_what_is_left_out_or_renamed_is_a_field():
    fields = {path for path, _ in fields_of(Record)}
    assert records._LEFT_OUT | records._NAMES.keys() <= fields
    assert {*records._FIRST, *records._LAST} <= fields
