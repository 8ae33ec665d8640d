"""A record is there whole or not at all, and is never replaced."""

import json
import multiprocessing

import pytest

from lora_bench.errors import BadInput, LoraBenchError
from lora_bench.store import RunFolder, read_record, read_records, to_json, write_once
from tests.records import record as made


def a_record(*, scores=None, status="ok", reason=None):
    built = made(status=status, reason=reason)
    return built if scores is None else built.model_copy(update={"scores": scores})


def test_a_record_reads_back_as_it_was(tmp_path):
    record = a_record()
    folder = RunFolder(tmp_path / record.run_id)
    assert folder.publish(record) == record
    assert folder.record() == record
    assert read_records(tmp_path) == [record]


def test_the_first_record_stands(tmp_path):
    folder = RunFolder(tmp_path / "run")
    first = folder.publish(a_record(scores={"accuracy": 0.5}))
    second = folder.publish(a_record(scores={"accuracy": 0.9}))
    assert second == first


def test_an_interrupted_run_is_an_attempt_and_no_record(tmp_path):
    folder = RunFolder(tmp_path / "run")
    for number in (1, 2):
        folder.publish(a_record(status="interrupted", reason="stopped"))
        assert folder.record() is None
        assert folder.attempts() == number


def test_a_retry_keeps_the_old_record_as_an_attempt(tmp_path):
    folder = RunFolder(tmp_path / "run")
    failed = folder.publish(a_record(status="failed", reason="why"))
    folder.retry()
    assert folder.record() is None
    assert read_record(folder.path / "attempts" / "1.json") == failed


def test_a_finished_run_leaves_no_checkpoint_and_no_temporary_file(tmp_path):
    folder = RunFolder(tmp_path / "run")
    (folder.checkpoints / "step-1").mkdir(parents=True)
    folder.publish(a_record())
    assert sorted(path.name for path in folder.path.iterdir()) == ["record.json"]


def _write(arguments):
    path, content = arguments
    return write_once(path, content)


def test_of_many_writers_exactly_one_wins(tmp_path):
    contents = [bytes([65 + index]) * 100_000 for index in range(8)]
    with multiprocessing.get_context("spawn").Pool(4) as pool:
        won = pool.map(_write, [(tmp_path / "record.json", content) for content in contents])
    assert won.count(True) == 1
    assert (tmp_path / "record.json").read_bytes() == contents[won.index(True)]
    assert [path.name for path in tmp_path.iterdir()] == ["record.json"]


def test_json_has_sorted_keys_and_refuses_nan():
    text = to_json(a_record()).decode()
    assert text.endswith("}\n")
    assert list(json.loads(text)) == sorted(json.loads(text))
    with pytest.raises(ValueError, match="not JSON compliant"):
        to_json(a_record(scores={"accuracy": float("nan")}))


def test_records_of_a_newer_schema_are_refused_with_what_to_do(tmp_path):
    content = json.loads(to_json(a_record())) | {"schema": 99}
    (tmp_path / "record.json").write_text(json.dumps(content))
    with pytest.raises(BadInput, match="record schema 99, and this lora_bench reads up to 1; upgrade it"):
        read_record(tmp_path / "record.json")


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"{}", b"\xff\xfe", b'{"schema": 1, "run_id": 3}'])
def test_what_is_no_record_is_bad_input_with_its_file(tmp_path, content):
    path = tmp_path / "a" / "record.json"
    path.parent.mkdir()
    path.write_bytes(content)
    with pytest.raises(BadInput, match=r"a/record\.json: is no record"):
        read_records(tmp_path)


def test_a_folder_without_records_says_what_was_looked_for(tmp_path):
    with pytest.raises(LoraBenchError, match=r"neither RUN_ID/record\.json nor records/RUN_ID\.json"):
        read_records(tmp_path)
    with pytest.raises(LoraBenchError, match="is not there"):
        read_records(tmp_path / "absent")


def test_a_baseline_holds_the_same_records(tmp_path):
    record = a_record()
    (tmp_path / "records").mkdir()
    (tmp_path / "records" / f"{record.run_id}.json").write_bytes(to_json(record))
    (tmp_path / "records" / f"{record.run_id}.predictions.json").write_text("{}")
    assert read_records(tmp_path) == [record]
