"""After a power cut at any moment, what was acknowledged is there, and whatever is there is whole.

Each trace is real code at work in a real folder. See power.py for what may be found afterwards; every such state is laid down
as real files and read by the real readers.
"""

import hashlib
import json
import os
import shutil
import sys
import tempfile
from pathlib import Path

import pytest

from lora_bench.errors import LoraBenchError
from lora_bench.records.baseline_folder import accept
from lora_bench.records.checkpoint_files import newest_checkpoint, write_checkpoint
from lora_bench.records.layout import PREDICTIONS
from lora_bench.records.probe_store import ProbeFolder, probe_files, read_probe, read_probes
from lora_bench.records.record import Predictions, Weights
from lora_bench.records.run_lock import Watch
from lora_bench.records.store import RunFolder, answers_in, read_record, read_records, record_files
from lora_bench.util import atomic_files as disk
from lora_bench.util.atomic_files import sync_folder, sync_tree, write_atomic, write_once
from lora_bench.util.sealed_json import keep, kept
from tests.faults.power import Acknowledged, Recorder, crashes, lay
from tests.sample_records import record as made

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="folders are not flushed there")

ROOT = Path(__file__).parents[2]
ANSWERS = json.dumps({"ids_sha256": "0", "predictions": [0, 1] * 400, "references": [1, 1] * 400}).encode() + b"\n"
OTHER_ANSWERS = ANSWERS.replace(b"[0", b"[1", 1)


def a_record(seed=0, answers=ANSWERS, **changes):
    found = Predictions(file=PREDICTIONS, sha256=hashlib.sha256(answers).hexdigest(), count=800, ids_sha256="0")
    return made(seed=seed, changes={"predictions": found, **changes})


def interrupted(seed=0):
    return made(seed=seed, status="interrupted", reason="stopped by SIGTERM after step 3")


def failed(seed=0):
    return made(seed=seed, status="failed", reason="ValueError: why")


def state(step):
    """The files of a checkpoint after a step."""
    return {
        "weights.safetensors": b"w%d" % step * 300,
        "optimizer.safetensors": b"o%d" % step * 300,
        "state.json": b"{}",
    }


class Trace:
    """Real code at work, and a judge of every state that a power cut may leave of it."""

    def __init__(self, tmp_path, monkeypatch):
        self.root = tmp_path / "disk"
        self.root.mkdir()
        self.runs = self.root / "runs" / "suite"
        self.monkeypatch = monkeypatch
        self.written: list[dict[str, bytes]] = []
        disk._flush_above.cache_clear()

    def begin(self):
        """From here on the folder is watched; what is there is on the disk."""
        self.recorder = Recorder(self.root)
        self._watching = self.recorder.recording(self.monkeypatch)
        self._watching.__enter__()

    def end(self):
        self._watching.__exit__(None, None, None)

    def folder(self, record):
        return RunFolder(self.runs / record.run_id)

    def publish(self, record, answers=ANSWERS):
        folder = self.folder(record)
        if record.predictions is not None:
            write_atomic(folder.path / PREDICTIONS, answers)
        folder.publish(record)
        self.recorder.acknowledge(("record", record))

    def checkpoint(self, record, step):
        self.written.append(state(step))
        write_checkpoint(self.folder(record).checkpoints, step, state(step))
        self.recorder.acknowledge(("checkpoint", record.run_id, step))

    def new_process(self):
        """What another process does not know of this one."""
        disk._flush_above.cache_clear()

    def judge(self, check=None):
        """Lay every state down and read it; the number of prefixes, of states, and of states that differ."""
        self.end()
        prefixes = states = 0
        distinct: set[int] = set()
        with tempfile.TemporaryDirectory(dir="/dev/shm" if os.access("/dev/shm", os.W_OK) else None) as laid:
            for _, acknowledged, trees in crashes(self.recorder):
                prefixes += 1
                for tree in trees:
                    states += 1
                    key = hash((len(acknowledged), frozenset(tree.items())))
                    if key in distinct:
                        continue
                    distinct.add(key)
                    place = Path(laid) / "disk"
                    lay(tree, place)
                    place.mkdir(exist_ok=True)
                    (check or self.check)(place, acknowledged)
                    shutil.rmtree(place)
        print(
            f"{len(self.recorder.operations)} operations, {prefixes} prefixes, {states} states, {len(distinct)} distinct"
        )
        return prefixes, states, len(distinct)

    def check(self, place, acknowledged):
        """What has to be true of any state of a runs folder."""
        runs = place / "runs" / "suite"
        found = everything(runs)
        for what, *rest in acknowledged:
            if what == "record":
                assert rest[0] in found, "an acknowledged record is lost"
            elif what == "checkpoint":
                run_id, step = rest
                done = any(one[0] == "record" and one[1].run_id == run_id for one in acknowledged)
                newest = newest_step(runs / run_id / "checkpoint")
                assert done or (runs / run_id / "record.json").exists() or (newest is not None and newest >= step)
        for folder in runs.glob("*/checkpoint"):
            said: list[str] = []
            newest = newest_checkpoint(folder, said.append)
            assert newest is None or newest[1] in self.written, "half a checkpoint is taken for one"
            assert said == [], "what was cut off is taken for damage"
        for folder in runs.glob("*"):
            if folder.name != "probes":
                Watch().is_free(folder)


def newest_step(folder):
    copy = folder.parent / "copy"
    if folder.is_dir():
        shutil.copytree(folder, copy)
    found = newest_checkpoint(copy, lambda message: None)
    shutil.rmtree(copy, ignore_errors=True)
    return None if found is None else int(found[0].name.split("-")[1])


def everything(runs):
    """Every record and attempt, by the real readers; predictions are there when a record names them."""
    if record_files(runs):
        records = read_records(runs)
    else:
        with pytest.raises(LoraBenchError):
            read_records(runs)
        records = []
    for record in records:
        assert RunFolder(runs / record.run_id).damage() is None
        if record.predictions is not None:
            assert (runs / record.run_id / PREDICTIONS).is_file()
    return records + [read_record(path) for path in runs.glob("*/attempts/*.json")]


@pytest.fixture
def trace(tmp_path, monkeypatch):
    return Trace(tmp_path, monkeypatch)


def test_a_record_is_there_whole_from_the_moment_it_is_acknowledged(trace):
    trace.begin()
    with trace.folder(a_record()).try_lock():
        trace.publish(a_record())
    with trace.folder(a_record(1)).try_lock():
        trace.publish(a_record(1))
    trace.judge()


def test_folders_that_another_process_made_and_was_killed_before_it_flushed_them(trace):
    trace.begin()
    trace.folder(a_record()).path.mkdir(parents=True)
    trace.publish(a_record())
    trace.judge()


def test_a_run_that_is_interrupted_and_goes_on(trace):
    record = a_record()
    trace.begin()
    for step in (1, 2):
        trace.checkpoint(record, step)
    trace.folder(record).publish(interrupted())
    trace.recorder.acknowledge(("record", interrupted()))
    trace.new_process()
    trace.checkpoint(record, 2)
    trace.checkpoint(record, 3)
    trace.publish(record)
    trace.judge()


def test_a_run_that_fails_and_is_done_again(trace):
    trace.begin()
    trace.publish(failed())
    trace.folder(failed()).retry(failed())
    trace.recorder.acknowledge(("record", failed()))
    trace.publish(a_record())
    trace.judge()


def test_a_record_that_is_damaged_is_not_lost_on_its_way_to_the_quarantine(trace):
    folder = trace.folder(a_record())
    folder.path.mkdir(parents=True)
    (folder.path / "record.json").write_bytes(b"damaged")
    trace.begin()
    assert "it was moved to" in folder.put_damage_aside()
    trace.publish(a_record())

    def check(place, acknowledged):
        here = [path for path in place.rglob("record.json") if path.read_bytes() == b"damaged"]
        assert here, "what was damaged is gone"
        if acknowledged:
            trace.check(place, acknowledged)

    trace.judge(check)


def test_damaged_predictions_are_noticed_until_their_run_is_to_be_done_again(trace):
    record, folder = a_record(), trace.folder(a_record())
    write_atomic(folder.path / PREDICTIONS, OTHER_ANSWERS)
    folder.publish(record)
    trace.begin()
    assert "it was moved to" in folder.put_damage_aside()
    trace.recorder.acknowledge(("aside",))
    trace.publish(record)

    def check(place, acknowledged):
        found = RunFolder(place / "runs" / "suite" / record.run_id)
        if ("record", record) in acknowledged:
            trace.check(place, acknowledged[1:])
        elif acknowledged:
            assert found.damage() is None
        else:
            assert found.record() is None or found.damage() is not None, "the damage is hidden for good"
        assert read_bytes_below(found.path, OTHER_ANSWERS), "what was damaged is gone"
        assert record in [one for one in [found.record()] if one] + [
            read_record(path) for path in found.path.glob("attempts/*.json")
        ]

    trace.judge(check)


def read_bytes_below(folder, content):
    return [path for path in folder.rglob(PREDICTIONS) if path.read_bytes() == content]


def test_a_record_that_is_renewed_is_the_old_or_the_new_one(trace):
    old, new = a_record(), a_record(scores={"accuracy": 0.875})
    trace.begin()
    trace.publish(old)
    trace.folder(new).renew(new)
    trace.recorder.acknowledge(("renewed", new))

    def check(place, acknowledged):
        found = everything(place / "runs" / "suite")
        assert found in ([], [old], [new])
        if acknowledged:
            assert found == ([new] if acknowledged[-1][0] == "renewed" else found or None)

    trace.judge(check)


def test_weights_are_whole_when_a_record_names_them(trace):
    record = a_record(weights=Weights(folder="weights", stored_bytes=6_000, step=9))
    weights = trace.folder(record).weights
    trace.begin()
    weights.mkdir(parents=True)
    for name in ("adapter_model.safetensors", "tokenizer.json"):
        (weights / name).write_bytes(name.encode() * 200)  # as libraries write: nothing is flushed
    sync_tree(weights)
    trace.publish(record)

    def check(place, acknowledged):
        trace.check(place, acknowledged)
        if (place / "runs" / "suite" / record.run_id / "record.json").exists():
            for name in ("adapter_model.safetensors", "tokenizer.json"):
                found = place / "runs" / "suite" / record.run_id / "weights" / name
                assert found.read_bytes() == name.encode() * 200

    trace.judge(check)


def test_a_baseline_that_is_replaced_is_whole_records_at_any_moment(trace):
    old = [a_record(seed, OTHER_ANSWERS) for seed in (0, 1)]
    new = [a_record(seed, scores={"accuracy": 0.875}) for seed in (1, 2)]
    for runs, records, answers in (("old", old, OTHER_ANSWERS), ("new", new, ANSWERS)):
        for record in records:
            folder = RunFolder(trace.root / runs / record.run_id)
            write_atomic(folder.path / PREDICTIONS, answers)
            folder.publish(record)
    baseline = trace.root / "baselines" / "sample"
    accept(trace.root / "old", baseline)
    trace.begin()
    accept(trace.root / "new", baseline)
    trace.recorder.acknowledge(("accepted",))

    def check(place, acknowledged):
        found = {record.run_id: record for record in read_records(place / "baselines" / "sample")}
        before, after = ({record.run_id: record for record in records} for records in (old, new))
        assert found == after if acknowledged else found in (before, after)
        answers = answers_in(place / "baselines" / "sample", found.values())
        assert all(answers(run_id) is not None for run_id in found)
        assert all(read_records(place / name) for name in ("old", "new"))

    trace.judge(check)


def test_records_of_probes(trace):
    one, two = read_probes(ROOT / "baselines" / "system-claims")[:2]
    folder = ProbeFolder(trace.runs / "probes")
    trace.begin()
    folder.publish(one)
    trace.recorder.acknowledge((one,))
    folder.publish(two)
    trace.recorder.acknowledge((two,))
    folder.retry(one.run_id)

    def check(place, acknowledged):
        probes = place / "runs" / "suite"
        aside = [read_probe(path) for path in probes.glob("probes/attempts/*.json")]
        found = read_probes(probes) + aside
        assert len(probe_files(probes)) + len(aside) == len(found)
        assert all(one in found for (one,) in acknowledged)

    trace.judge(check)


def test_what_is_kept_in_the_cache_is_whole_or_found_again(trace):
    path = trace.root / "cache" / "fits" / "a.json"
    trace.begin()
    keep(path, {"size": 4})
    keep(path, {"size": 5})

    def check(place, acknowledged):
        file = place / "cache" / "fits" / "a.json"
        assert kept(file) in (None, {"size": 4}, {"size": 5})
        assert not (file.parent / "quarantine").exists()

    trace.judge(check)


def write_once_without_flushing_the_file(path, content):
    temporary = path.with_name(".temporary")
    temporary.write_bytes(content)
    os.link(temporary, path)
    temporary.unlink()
    sync_folder(path.parent)
    return True


def write_once_without_flushing_the_folder(path, content):
    temporary = path.with_name(".temporary")
    with temporary.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    os.link(temporary, path)
    temporary.unlink()
    return True


def write_in_place(path, content):
    path.write_bytes(content)
    descriptor = os.open(path, os.O_RDONLY)
    os.fsync(descriptor)
    os.close(descriptor)
    sync_folder(path.parent)
    return True


@pytest.mark.parametrize(
    "careless", [write_once_without_flushing_the_file, write_once_without_flushing_the_folder, write_in_place]
)
def test_the_model_finds_what_a_careless_writer_loses(trace, monkeypatch, careless):
    monkeypatch.setattr("lora_bench.records.store.write_once", careless)
    trace.begin()
    trace.publish(a_record())
    with pytest.raises((AssertionError, LoraBenchError)):
        trace.judge()


def test_the_model_finds_a_folder_whose_name_is_not_flushed(trace, monkeypatch):
    monkeypatch.setattr(disk, "make_folder", lambda folder: folder.mkdir(parents=True, exist_ok=True))
    trace.begin()
    trace.publish(a_record())
    with pytest.raises(AssertionError, match="an acknowledged record is lost"):
        trace.judge()


def test_the_recorder_sees_what_a_reader_can_check_by_hand(tmp_path, monkeypatch):
    """One record in a folder that is there: made, flushed, linked, unlinked, and the folder flushed."""
    recorder = Recorder(tmp_path)
    disk._flush_above.cache_clear()
    disk._flush_above(tmp_path)
    with recorder.recording(monkeypatch):
        write_once(tmp_path / "record.json", b"whole")
        recorder.acknowledge("record.json")
    kinds = [type(operation).__name__ for operation in recorder.operations]
    assert kinds == ["Bytes", "Entries", "Sync", "Entries", "Entries", "Sync", "Acknowledged"]
    after = {length: trees for length, _, trees in crashes(recorder)}
    # After two operations, five bytes and a new name: no name, or a name with nothing, two bytes, two and zeros, or all.
    left = {next(iter(tree.values()), None) for tree in after[2]}
    assert left == {None, b"", b"wh", b"wh\0\0\0", b"whole"}
    # Linked, and the folder not flushed: the record is whole or not there.
    assert {tree.get("record.json") for tree in after[5]} == {None, b"whole"}
    assert after[6] == after[7] == [{"record.json": b"whole"}]
    assert isinstance(recorder.operations[-1], Acknowledged)
