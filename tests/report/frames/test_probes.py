"""Every number of a probe's record is in the frame of its process or of its forward passes, under a name of its own."""

import json

import pandas

from lora_bench.report.frames.record_frame import COLUMNS, probe_columns, to_latency_frame, to_probe_frame
from tests.probe.records import probe_record, sample_probes


def numbers_in(data):
    if isinstance(data, dict | list | tuple):
        return {number for inner in (data.values() if isinstance(data, dict) else data) for number in numbers_in(inner)}
    return {data} if isinstance(data, int | float) and not isinstance(data, bool) else set()


def numbers_of(frame):
    cells = [cell for name in frame.columns for cell in frame[name].dropna().tolist()]
    return numbers_in([json.loads(cell) if isinstance(cell, str) and cell[:1] in "{[" else cell for cell in cells])


def test_every_number_of_a_record_is_in_a_frame():
    whole = probe_record(settings={"precision": 17, "deep": {"threads": 19}})
    inside = numbers_in(whole.model_dump(mode="json"))
    assert len(inside) > 30
    assert inside - numbers_of(to_probe_frame([whole])) - numbers_of(to_latency_frame([whole])) == set()


def test_a_row_by_hand():
    row = to_probe_frame(sample_probes()).iloc[3]
    assert (row["label"], row["repeat"], row["twin"]) == ("lora", 0, False)
    assert row["speed_step_seconds_median"] == 0.060 * 0.99
    assert row["phases_steady_bytes"] == 880 * 2**20 and row["flops_step"] == 2 * 10**11
    assert row["latency_shapes"] == "[[1, 128]]"
    assert row["run_id"] == f"{row['probe_id']}-0"


def test_a_process_that_failed_is_a_row_without_measurements():
    frame = to_probe_frame(sample_probes())
    assert len(frame) == len(sample_probes())
    (failed,) = (row for _, row in frame.iterrows() if row["status"] != "ok")
    assert failed["reason"] == "it does not work here"
    assert pandas.isna(failed["speed_step_seconds_median"]) and pandas.isna(failed["measured_peak_bytes"])


def test_forward_passes_have_a_row_a_shape_and_state():
    latencies = to_latency_frame([probe_record("lora")])
    assert latencies["state"].tolist() == ["unadapted", "adapted", "merged"]
    assert latencies["seconds_median"].tolist() == [0.010, 0.012, 0.010]
    assert set(latencies["run_id"]) == {probe_record("lora").run_id}


def test_no_probes_give_the_same_columns():
    assert list(to_probe_frame([]).columns) == list(to_probe_frame(sample_probes()).columns)
    assert list(to_latency_frame([]).columns) == list(to_latency_frame(sample_probes()).columns)


def test_what_both_frames_have_is_of_one_type():
    both = COLUMNS.keys() & probe_columns().keys()
    assert {"label", "method", "model", "suite", "status", "batch_size"} <= both
    assert [name for name in both if COLUMNS[name].dtype != probe_columns()[name].dtype] == []
