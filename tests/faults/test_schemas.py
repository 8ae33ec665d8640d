"""Records of every shape that there ever was are read, and those that a later lora_bench wrote are refused with what to do.

`tests/golden/records.jsonl` and `probes.jsonl` have one of each as a line, with the content that the lora_bench of its time
wrote; none is ever changed or removed.
"""

import json
from pathlib import Path

import pytest

from lora_bench.errors import BadInput
from lora_bench.records.probe_store import read_probe
from lora_bench.records.sealed_records import DamagedRecord, sealed, to_json
from lora_bench.records.store import RunFolder, read_record, read_records
from lora_bench.util.sealed_json import as_json, seal, unseal
from tests.sample_records import record as made

GOLDEN = Path(__file__).parents[1] / "golden"


def of_all_times(kind):
    """The bytes of each record as it was stored, by what was new in it."""
    lines = [json.loads(line) for line in (GOLDEN / f"{kind}s.jsonl").read_text(encoding="utf-8").splitlines()]
    return {line["shape"]: as_json(line[kind]) for line in lines}


RECORDS, PROBES = of_all_times("record"), of_all_times("probe")


def keys(data, above=""):
    """Every key of nested mappings, as paths."""
    found = set()
    for name, value in data.items() if isinstance(data, dict) else ():
        found |= {f"{above}{name}"} | keys(value, f"{above}{name}.")
    return found


@pytest.mark.parametrize("shape", RECORDS)
def test_a_record_of_any_time_is_read_and_says_what_it_said(shape, tmp_path):
    path = tmp_path / "record.json"
    path.write_bytes(RECORDS[shape])
    record = read_record(path)
    assert path.read_bytes() == RECORDS[shape], "reading changes no file"
    # All were made of the same run, whose id has not changed since.
    assert record.run_id == record.spec.run_id == "94c4f704c833e2c0"
    assert (record.status, record.scores, record.score) == ("ok", {"accuracy": 0.75}, 0.75)
    assert record.parameters.adapter == 7_680 and record.speed.train_real_tokens == 80_000
    assert record.schema_version == 1 and len(record.warnings) == 1
    # What came later is what was always done, or unknown.
    assert record.spec.rules.model_dump() == made().spec.rules.model_dump() and record.spec.start is None
    assert read_record(path) == record


@pytest.mark.parametrize("shape", PROBES)
def test_a_probe_record_of_any_time_is_read(shape, tmp_path):
    path = tmp_path / "probe.json"
    path.write_bytes(PROBES[shape])
    record = read_probe(path)
    assert record.status == "ok" and record.speed.step_seconds_median > 0 and record.schema_version == 1


def test_records_of_all_times_stand_in_one_folder(tmp_path):
    for shape, content in RECORDS.items():
        (tmp_path / shape).mkdir()
        (tmp_path / shape / "record.json").write_bytes(content)
    assert len(read_records(tmp_path)) == len(RECORDS) == 28


def test_the_newest_shape_has_its_line(tmp_path):
    """Whoever gives a record another field adds a record with it to tests/golden/records.jsonl."""
    (tmp_path / "probe.json").write_bytes(PROBES["first"])
    for golden, now in ((RECORDS, made()), (PROBES, read_probe(tmp_path / "probe.json"))):
        known = set().union(*(keys(json.loads(content)) for content in golden.values()))
        assert keys(json.loads(sealed(now))) <= known


def test_what_is_written_today_is_written_again_the_same():
    record = made()
    assert unseal(sealed(record)) == (json.loads(to_json(record)), True)


NEWER = {
    "schema": ({"schema": 2}, "was written with record schema 2, and this lora_bench reads up to 1; upgrade it"),
    "field": ({"energy": {"joules": 3}}, "it has energy, which a newer one may have written; upgrade it"),
    "value": ({"status": "paused"}, "status: .* which a newer one may have written; upgrade it"),
    "type": ({"attempts": {"of all": 3}}, "attempts: .* which a newer one may have written; upgrade it"),
}


@pytest.mark.parametrize("kind", NEWER)
def test_a_record_of_a_later_lora_bench_is_refused_with_what_to_do_and_left_alone(tmp_path, kind):
    change, message = NEWER[kind]
    folder = RunFolder(tmp_path / made().run_id)
    folder.path.mkdir()
    content = seal({**json.loads(to_json(made())), **change})
    (folder.path / "record.json").write_bytes(content)
    with pytest.raises(BadInput, match=message):
        read_records(tmp_path)
    with pytest.raises(BadInput, match="upgrade it"):
        folder.record()
    with pytest.raises(BadInput, match="upgrade it"):
        folder.put_damage_aside()
    with pytest.raises(BadInput, match="upgrade it"):
        folder.publish(made())
    assert (folder.path / "record.json").read_bytes() == content


def test_an_unknown_field_deep_inside_is_named(tmp_path):
    content = json.loads(to_json(made()))
    content["speed"]["joules"] = 3
    (tmp_path / "record.json").write_bytes(seal(content))
    with pytest.raises(BadInput, match=r"it has speed\.joules"):
        read_record(tmp_path / "record.json")


def test_an_unknown_field_without_a_seal_is_another_version_s(tmp_path):
    """Records are handed on without seals: such a one is left where it is too."""
    folder = RunFolder(tmp_path)
    content = json.dumps({**json.loads(to_json(made())), "energy": {"joules": 3}}).encode()
    (tmp_path / "record.json").write_bytes(content)
    with pytest.raises(BadInput, match="it has energy"):
        folder.put_damage_aside()
    assert (tmp_path / "record.json").read_bytes() == content


@pytest.mark.parametrize("change", [(b'"status": "ok"', b'"status": "oj"'), (b'"sha256"', b'"sha257"')])
def test_a_byte_that_changed_is_no_other_version(tmp_path, change):
    """Without a seal, a value that cannot be; with one, its own name."""
    content = to_json(made()) if b"status" in change[0] else sealed(made())
    assert change[0] in content
    (tmp_path / "record.json").write_bytes(content.replace(*change))
    with pytest.raises(DamagedRecord):
        read_record(tmp_path / "record.json")


def test_a_number_that_json_does_not_have_is_under_no_seal(tmp_path):
    """`1e999` is JSON by its form and infinite to a float, and no seal can be the hash of an infinity."""
    content = to_json(made()).replace(b"{", b'{"energy": 1e999, "sha257": "0",', 1)
    (tmp_path / "record.json").write_bytes(content)
    with pytest.raises(BadInput, match="1e999 is beyond the greatest number"):
        read_record(tmp_path / "record.json")


def test_a_newer_probe_record_is_refused_too(tmp_path):
    data, _ = unseal(PROBES["first"])
    (tmp_path / "one.json").write_bytes(seal({**data, "schema": 9}))
    with pytest.raises(BadInput, match="probe schema 9, and this lora_bench reads up to 1; upgrade it"):
        read_probe(tmp_path / "one.json")
