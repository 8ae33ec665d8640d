"""A record is there whole or not at all, and is never replaced."""

import hashlib
import json
import multiprocessing
import subprocess
import sys
from pathlib import Path

import pytest

from lora_bench.errors import BadInput, LoraBenchError
from lora_bench.records import sealed_records, store
from lora_bench.records.baseline_folder import accept
from lora_bench.records.record import Predictions
from lora_bench.records.sealed_records import sealed, to_json
from lora_bench.records.store import RunFolder, read_record, read_records, write_atomic, write_once
from lora_bench.util.atomic_files import TEMPORARY, check_writable, remove_orphans
from lora_bench.util.hashing import content_hash
from lora_bench.util.process_identity import this_process
from lora_bench.util.sealed_json import SEAL, DamagedContent, keep, kept, seal, unseal
from tests.sample_records import record as made


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
    folder = RunFolder(tmp_path / a_record().run_id)
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
    with pytest.raises(LoraBenchError, match=r"neither RUN_ID/record\.json nor runs\.json"):
        read_records(tmp_path)
    with pytest.raises(LoraBenchError, match="does not exist"):
        read_records(tmp_path / "absent")


DAMAGES = {
    "cut": lambda whole, at: whole[:at],
    "flipped": lambda whole, at: whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :],
    "zeros": lambda whole, at: whole[:at] + bytes(len(whole) - at),
}


@pytest.mark.parametrize("kind", DAMAGES)
def test_whatever_byte_of_a_record_changes_is_noticed_or_says_nothing(tmp_path, kind):
    """At every fifth byte of the file: it is refused as damaged, or reads as exactly what it was."""
    record, path = a_record(), tmp_path / "a" / "record.json"
    path.parent.mkdir()
    whole = sealed(record)
    noticed, places = 0, range(0, len(whole) - 1, 5)
    for at in places:
        path.write_bytes(DAMAGES[kind](whole, at))
        found = RunFolder(path.parent).record()
        noticed += found is None
        assert found in (None, record), at
    assert noticed >= 0.98 * len(places)


def test_a_seal_is_the_hash_of_everything_else(tmp_path):
    record = a_record()
    content = json.loads(sealed(record))
    assert content.pop(SEAL) == content_hash(content) and content == json.loads(to_json(record))
    changed = {**json.loads(sealed(record)), "scores": {"accuracy": 0.99}}
    (tmp_path / "record.json").write_text(json.dumps(changed))
    with pytest.raises(BadInput, match="the file changed after it was written"):
        read_record(tmp_path / "record.json")


def damaged_run(tmp_path, content):
    record = a_record()
    folder = RunFolder(tmp_path / record.run_id)
    folder.path.mkdir()
    (folder.path / "record.json").write_bytes(content)
    return folder, record


@pytest.mark.parametrize("content", [b"", b"{", b"\xff", b"[]", b'{"schema": 1}', b'{"a": NaN}', b"[" * 100_000])
def test_a_damaged_record_is_as_good_as_none_and_moves_to_the_quarantine(tmp_path, content):
    folder, record = damaged_run(tmp_path, content)
    assert folder.record() is None
    assert "is no record" in folder.damage()
    said = folder.put_damage_aside()
    assert f"{record.run_id}/quarantine/1/record.json, and the run is repeated" in said
    assert (folder.path / "quarantine" / "1" / "record.json").read_bytes() == content
    assert "is no record" in (folder.path / "quarantine" / "1" / "reason.txt").read_text()
    assert folder.put_damage_aside() is None and folder.attempts() == 0
    assert folder.publish(record) == record == folder.record()


def test_a_damaged_record_does_not_stand_in_the_way_of_one_that_is_published(tmp_path):
    folder, record = damaged_run(tmp_path, b"damaged")
    assert folder.publish(record) == record == folder.record()
    assert (folder.path / "quarantine" / "1" / "record.json").read_bytes() == b"damaged"


def test_a_damaged_record_is_left_to_the_process_that_is_at_the_run(tmp_path):
    folder, _ = damaged_run(tmp_path, b"damaged")
    with folder.try_lock():
        assert folder.put_damage_aside() is None
    assert folder.put_damage_aside() is not None


def with_predictions(tmp_path, content=b'{"predictions": [0, 1]}'):
    named = Predictions(file="predictions.json", sha256=hashlib.sha256(content).hexdigest(), count=2, ids_sha256="0")
    record = a_record().model_copy(update={"predictions": named})
    folder = RunFolder(tmp_path / record.run_id)
    write_atomic(folder.path / "predictions.json", content)
    folder.publish(record)
    return folder, record, content


def test_any_damaged_predictions_are_noticed_and_the_run_is_done_again(tmp_path):
    folder, record, whole = with_predictions(tmp_path / "runs")
    assert folder.damage() is None and folder.put_damage_aside() is None
    path = folder.path / "predictions.json"
    for at in range(len(whole)):
        for damage in DAMAGES.values():
            path.write_bytes(damage(whole, at))
            assert "does not match its record" in folder.damage()
    with pytest.raises(LoraBenchError, match="does not match its record"):
        accept(tmp_path / "runs", tmp_path / "baseline")
    last = path.read_bytes()
    assert "quarantine/1/predictions.json" in folder.put_damage_aside()
    assert (folder.path / "quarantine" / "1" / "predictions.json").read_bytes() == last
    # The record is kept as an attempt: its score was right.
    assert folder.record() is None and read_record(folder.path / "attempts" / "1.json") == record


def test_a_record_that_another_process_puts_aside_while_it_is_read_is_none(tmp_path, monkeypatch):
    """It is seen, and gone when it is opened: of a retry, or a quarantine."""
    folder, record, _ = with_predictions(tmp_path)
    other = RunFolder(tmp_path / made(seed=1).run_id)
    other.publish(made(seed=1))
    read = store.read_regular

    def is_gone(name):
        def late(path, *limit):
            if path.parent == folder.path and path.name == name:
                path.unlink(missing_ok=True)
            return read(path, *limit)

        for module in (store, sealed_records):
            monkeypatch.setattr(module, "read_regular", late)

    for name, ask in (
        ("predictions.json", folder.damage),
        ("record.json", folder.damage),
        ("record.json", folder.record),
        ("record.json", folder.retry),
    ):
        for module in (store, sealed_records):
            monkeypatch.setattr(module, "read_regular", read)
        folder.publish(record)
        is_gone(name)
        assert ask() is None
    for module in (store, sealed_records):
        monkeypatch.setattr(module, "read_regular", read)
    folder.publish(record)
    is_gone("record.json")
    assert read_records(tmp_path) == [made(seed=1)] and folder.attempts() == 0
    # Another record stood there when this one was to be linked, and is gone when it is looked at.
    for module in (store, sealed_records):
        monkeypatch.setattr(module, "read_regular", read)
    folder.publish(made(score=0.5))
    is_gone("record.json")
    assert folder.publish(record) == record
    for module in (store, sealed_records):
        monkeypatch.setattr(module, "read_regular", read)
    assert folder.record() == record


def test_a_whole_record_of_another_run_is_not_taken_for_the_runs_own(tmp_path):
    """It was copied into the folder, or its id or spec was edited and sealed again."""
    mine, other = made(seed=0), made(seed=1)
    folder = RunFolder(tmp_path / mine.run_id)
    folder.publish(mine)
    for foreign, words in (
        (other, f"is the record of another run, {other.run_id}"),
        (other.model_copy(update={"run_id": mine.run_id}), f"has the spec of another run, {other.run_id}"),
    ):
        folder.renew(foreign)
        assert folder.record() is None and words in folder.damage()
        assert "quarantine" in folder.put_damage_aside()
        assert folder.publish(mine) == mine and folder.record() == mine and folder.damage() is None
        # Nor does it stand in the way of one that is published.
        folder.renew(foreign)
        assert folder.publish(mine) == mine and folder.record() == mine


def test_predictions_that_were_deleted_are_lost_and_no_damage(tmp_path):
    folder, record, _ = with_predictions(tmp_path)
    assert folder.lost_predictions(record) is None
    (folder.path / "predictions.json").unlink()
    assert folder.damage() is None and folder.lost_predictions(record) == folder.path / "predictions.json"
    assert folder.lost_predictions(record.model_copy(update={"predictions": None})) is None


def test_a_record_moves_no_file_but_its_own(tmp_path):
    """Somebody's record may name any file; only predictions beside it are looked at."""
    folder, record, _ = with_predictions(tmp_path / "runs")
    (tmp_path / "precious").write_text("mine")
    named = record.predictions.model_copy(update={"file": "../../precious"})
    folder.renew(record.model_copy(update={"predictions": named}))
    assert folder.put_damage_aside() is None and (tmp_path / "precious").read_text() == "mine"


@pytest.mark.parametrize("kind", DAMAGES)
def test_a_damaged_file_of_the_cache_is_found_again_and_quarantined(tmp_path, kind):
    path = tmp_path / "fits" / "a.json"
    keep(path, {"size": 4})
    whole = path.read_bytes()
    for at in range(len(whole) - 1):
        path.write_bytes(DAMAGES[kind](whole, at))
        assert kept(path) in (None, {"size": 4}), at
    keep(path, {"size": 5})
    assert kept(path) == {"size": 5} and kept(tmp_path / "fits" / "other.json") is None
    assert len(list((tmp_path / "fits" / "quarantine").iterdir())) > 0.8 * len(whole) * (kind != "flipped")


def test_no_json_that_python_alone_knows_is_taken_for_data():
    assert unseal(seal({"a": 1.5, "b": [None, True, "é"]})) == ({"a": 1.5, "b": [None, True, "é"]}, True)
    with pytest.raises(ValueError, match="not JSON compliant"):
        seal({"a": float("inf")})
    for number in ("1e400", "-1e400", "NaN", "1" + 400 * "0", "1" + 5000 * "0"):
        with pytest.raises(DamagedContent):
            unseal(b'{"a": %s}' % number.encode())


def temporary(folder, tag):
    path = folder / f"{TEMPORARY}{tag}-abcdefgh"
    path.write_text("half")
    return path


@pytest.mark.skipif(sys.platform != "linux", reason="a writer is asked for in /proc")
def test_temporary_files_go_with_their_writers(tmp_path):
    (tmp_path / "run" / "attempts").mkdir(parents=True)
    me = this_process().tag
    host, boot, namespace, pid, ticks = me.split("-")
    alive = [
        temporary(tmp_path / "run", me),
        temporary(tmp_path, f"ffffffff-ffffffff-{namespace}-{pid}-1"),  # of another machine
        temporary(tmp_path, f"{host}-{boot}-ffffffff-4194305-1"),  # of another container, with numbers of its own
        temporary(tmp_path, f"{host}-unknown-unknown-{pid}-1"),
        temporary(tmp_path, "unknown-1-1"),
        temporary(tmp_path, ""),
    ]
    dead = [
        temporary(tmp_path, f"{host}-{boot}-{namespace}-{pid}-{int(ticks) - 1}"),  # the same number, another process
        # Above the largest number there is.
        temporary(tmp_path / "run" / "attempts", f"{host}-{boot}-{namespace}-4194305-1"),
        temporary(
            tmp_path / "run", f"{host}-ffffffff-{namespace}-{pid}-{ticks}"
        ),  # from before the machine was started
    ]
    remove_orphans(tmp_path)
    assert all(path.exists() for path in alive) and not any(path.exists() for path in dead)


@pytest.mark.skipif(sys.platform != "linux", reason="a writer is asked for in /proc")
def test_what_a_killed_writer_left_is_gone_when_the_run_is_taken_again(tmp_path):
    folder = RunFolder(tmp_path / "run")
    code = """
import os, sys
from pathlib import Path
import lora_bench.util.atomic_files as disk
disk.link_once = lambda file, path: os.kill(os.getpid(), 9)
disk.write_once(Path(sys.argv[1]) / "record.json", b"whole")
"""
    done = subprocess.run([sys.executable, "-c", code, str(folder.path)], cwd=Path(__file__).parents[2])
    assert done.returncode == -9
    (left,) = folder.path.iterdir()
    assert left.name.startswith(TEMPORARY) and left.read_bytes() == b"whole"
    with folder.try_lock():
        assert not left.exists()


def test_a_writer_whose_temporary_file_is_taken_away_writes_it_again(tmp_path, monkeypatch):
    """Somebody's clean-up may, at any moment: here just before it is flushed, and just before it is put in its place."""
    import lora_bench.util.atomic_files as disk

    taken = []

    def take_away(site):
        if site in (("write.written",), ("write.link", "write.replace"), ())[len(taken)]:
            for path in tmp_path.glob(f"{TEMPORARY}*"):
                path.unlink()
                taken.append(path)

    monkeypatch.setattr(disk, "reach", take_away)
    assert write_once(tmp_path / "a.json", b"whole") and (tmp_path / "a.json").read_bytes() == b"whole"
    taken.clear()
    write_atomic(tmp_path / "a.json", b"new")
    assert (tmp_path / "a.json").read_bytes() == b"new" and len(taken) == 2
    assert [path.name for path in tmp_path.iterdir()] == ["a.json"]


def test_a_folder_that_somebody_cleans_up_can_be_written(tmp_path, monkeypatch):
    monkeypatch.setattr("os.close", lambda descriptor: [path.unlink() for path in tmp_path.iterdir()])
    check_writable(tmp_path, "--runs")


def test_a_baseline_that_is_accepted_again_has_the_new_records_and_no_others(tmp_path):
    for seed in (0, 1):
        record = made(seed=seed)
        RunFolder(tmp_path / "old" / record.run_id).publish(record)
    for seed in (1, 2):
        record = made(seed=seed, score=0.875)
        RunFolder(tmp_path / "new" / record.run_id).publish(record)
    accept(tmp_path / "old", tmp_path / "baseline")
    assert accept(tmp_path / "new", tmp_path / "baseline") == read_records(tmp_path / "new")
    assert read_records(tmp_path / "baseline") == read_records(tmp_path / "new")
