"""A suite's records in one file, and their answers in a second: nothing is lost, and no byte of them changes unnoticed."""

import hashlib
import json
import lzma
from pathlib import Path

import pytest

from lora_bench import read_records as read_frame
from lora_bench.cli import main
from lora_bench.errors import BadInput, LoraBenchError
from lora_bench.execute.run_suite import run_suite
from lora_bench.records.baseline_folder import accept, keep_baseline, make_runs_folder
from lora_bench.records.probe_store import ProbeFolder, read_probes
from lora_bench.records.record import Predictions, Probabilities
from lora_bench.records.store import RunFolder, answers_in, read_records, write_atomic
from tests.probe.records import probe_record
from tests.project import write_project
from tests.sample_records import record

ROOT = Path(__file__).parents[2]
PREDICTED = b'{"ids_sha256":"x","predictions":[1,0],"references":[1,1]}\n'
SHARES = b'{"probabilities":[[0.1,0.9],[0.8,0.2]]}\n'


def publish(runs: Path, seed: int, predicted: bytes = PREDICTED) -> str:
    """Put a run with its answers into a runs folder."""
    files = {"predictions.json": predicted, "probabilities.json": SHARES}
    sha256 = {name: hashlib.sha256(content).hexdigest() for name, content in files.items()}
    named = Predictions(file="predictions.json", sha256=sha256["predictions.json"], count=2, ids_sha256="x")
    shares = Probabilities(file="probabilities.json", sha256=sha256["probabilities.json"])
    score = 0.5 if b"[1,0]" in predicted else 0.0
    made = record(seed=seed, score=score, changes={"predictions": named, "probabilities": shares})
    for name, content in files.items():
        write_atomic(runs / made.run_id / name, content)
    RunFolder(runs / made.run_id).publish(made)
    return made.run_id


def files_of(folder: Path) -> dict[str, bytes]:
    """The content of every file, without what a lock leaves."""
    found = (
        path for path in folder.rglob("*") if path.is_file() and path.name.partition("-")[0] not in ("lock", "claim")
    )
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in found}


@pytest.fixture
def runs(tmp_path) -> Path:
    """A folder of three runs, two of which answered alike, and a probe."""
    folder = tmp_path / "runs" / "sample"
    for seed, predicted in enumerate((PREDICTED, PREDICTED, PREDICTED.replace(b"[1,0]", b"[0,0]"))):
        publish(folder, seed, predicted)
    for repeat in (0, 1):
        ProbeFolder(folder / "probes").publish(probe_record("lora", repeat))
    return folder


def test_a_runs_folder_is_the_same_byte_for_byte_after_export_and_back(runs, tmp_path, capsys):
    before = files_of(runs)
    assert main(["export", str(runs), "--to", "baseline"]) == 0
    kept = runs.parent / "sample-baseline"
    assert sorted(files_of(kept)) == ["answers.jsonl.xz", "probes.json", "runs.json"]
    assert main(["export", str(kept), "--to", "runs", "--out", str(tmp_path / "again")]) == 0
    assert files_of(tmp_path / "again") == before == files_of(runs)
    assert main(["export", str(tmp_path / "again"), "--to", "baseline", "--out", str(tmp_path / "kept")]) == 0
    assert files_of(tmp_path / "kept") == files_of(kept)
    assert "3 records in" in capsys.readouterr().out


def test_the_same_is_read_from_a_runs_folder_a_baseline_and_its_file(runs, tmp_path):
    keep_baseline(runs, tmp_path / "kept")
    records = read_records(runs)
    assert read_records(tmp_path / "kept") == read_records(tmp_path / "kept" / "runs.json") == records
    assert read_frame(tmp_path / "kept" / "runs.json").equals(read_frame(runs))
    assert read_probes(tmp_path / "kept") == read_probes(runs)
    of_runs, of_file = answers_in(runs, records), answers_in(tmp_path / "kept", records)
    assert all(of_runs(one.run_id) == of_file(one.run_id) is not None for one in records)
    assert of_file(records[0].run_id).probabilities == [[0.1, 0.9], [0.8, 0.2]]
    for name, source in (("a", runs), ("b", tmp_path / "kept" / "runs.json")):
        assert main(["report", str(source), "--out", str(tmp_path / name)]) == 0
    folders = [tmp_path / "a" / "sample.md", tmp_path / "b" / "kept.md"]
    assert folders[0].read_text().replace("sample/", "kept/") == folders[1].read_text()


def test_every_run_has_its_fields_on_lines_of_their_own_so_that_a_diff_names_it(runs, tmp_path):
    accept(runs, tmp_path / "a")
    one = read_records(runs)[1]
    RunFolder(runs / one.run_id).renew(one.model_copy(update={"scores": {"accuracy": 0.25}}))
    accept(runs, tmp_path / "b")
    before, after = ((tmp_path / name / "runs.json").read_text().splitlines() for name in "ab")
    changed = [(old, new) for old, new in zip(before, after, strict=True) if old != new]
    assert [new for _, new in changed[2:]] == [' "scores": {"accuracy": 0.25},']
    # The two others are the seals of the file and of the record.
    assert len(changed) == 3 and one.run_id in changed[1][1]


def edited(path: Path, change) -> None:
    data = json.loads(path.read_text())
    change(data["records"])
    path.write_text(json.dumps(data))


EDITS = {
    "a score": (lambda records: records[1]["scores"].update(accuracy=1.0), "record 2 .* does not match its sha256"),
    "a record taken away": (lambda records: records.pop(), "does not match its records"),
    "a record twice": (lambda records: records.append(records[0]), "does not match its records"),
    "a seal": (lambda records: records[0].update(sha256="0" * 64), "does not match its records"),
    "a seal that is no text": (lambda records: records[0].update(sha256=None), "does not match its records"),
    "a seal with a lone surrogate": (lambda records: records[0].update(sha256="\ud800"), "does not match its records"),
    "a lone surrogate": (lambda records: records[0].update(suite="\ud800"), "record 1 .* does not match its sha256"),
}


@pytest.mark.parametrize(("change", "said"), EDITS.values(), ids=EDITS)
def test_an_edited_record_is_refused_by_its_name(runs, tmp_path, capsys, change, said):
    accept(runs, tmp_path / "kept")
    edited(tmp_path / "kept" / "runs.json", change)
    with pytest.raises(BadInput, match=said):
        read_records(tmp_path / "kept")
    assert main(["report", str(tmp_path / "kept")]) == 2
    assert len(capsys.readouterr().err.splitlines()) == 1


def test_an_edited_answer_is_refused_by_the_name_of_its_run(runs, tmp_path, capsys):
    accept(runs, tmp_path / "kept")
    file = tmp_path / "kept" / "answers.jsonl.xz"
    file.write_bytes(lzma.compress(lzma.decompress(file.read_bytes()).replace(b"[0,0]", b"[0,1]")))
    (changed,) = (path.parent.name for path in runs.glob("*/predictions.json") if b"[0,0]" in path.read_bytes())
    assert main(["report", str(tmp_path / "kept")]) == 2
    said = capsys.readouterr().err
    assert f"has no predictions.json of run {changed} that matches its record" in said
    assert len(said.splitlines()) == 1


DAMAGES = {
    "no JSON": ("runs.json", lambda raw: raw[:-3]),
    "not UTF-8": ("runs.json", lambda raw: raw.replace(b"accuracy", b"\xff\xfe")),
    "deeply nested": ("runs.json", lambda raw: b"[" * 100_000),
    "a list": ("runs.json", lambda raw: b"[]"),
    "no records": ("runs.json", lambda raw: b'{"schema": 1, "records": [1]}'),
    "an infinite number": ("runs.json", lambda raw: raw.replace(b'"attempts": 1', b'"attempts": 1e999')),
    "a newer schema": ("runs.json", lambda raw: raw.replace(b'"schema": 1', b'"schema": 2', 1)),
    "answers cut off": ("answers.jsonl.xz", lambda raw: raw[:-40]),
    "answers flipped": ("answers.jsonl.xz", lambda raw: raw[:60] + bytes([raw[60] ^ 1]) + raw[61:]),
    "answers of another kind": ("answers.jsonl.xz", lambda raw: b"PK\x03\x04"),
    "answers with more behind": ("answers.jsonl.xz", lambda raw: raw + raw),
    "a line of something else": ("answers.jsonl.xz", lambda raw: lzma.compress(b"{}\n")),
    "answers of a runs folder": ("answers.jsonl.xz", lambda raw: lzma.compress(PREDICTED)),
}


@pytest.mark.parametrize(("name", "damage"), DAMAGES.values(), ids=DAMAGES)
def test_a_damaged_file_is_refused_in_one_line(runs, tmp_path, capsys, name, damage):
    accept(runs, tmp_path / "kept")
    file = tmp_path / "kept" / name
    file.write_bytes(damage(file.read_bytes()))
    assert main(["report", str(tmp_path / "kept")]) == 2
    said = capsys.readouterr().err
    assert len(said.splitlines()) == 1 and name in said and "Traceback" not in said


def test_answers_that_unpack_to_more_than_memory_takes_are_refused(runs, tmp_path, monkeypatch, capsys):
    accept(runs, tmp_path / "kept")
    monkeypatch.setattr("lora_bench.records.answers_file.MAX_BYTES", 2**20)
    (tmp_path / "kept" / "answers.jsonl.xz").write_bytes(lzma.compress(bytes(2**24)))
    assert main(["report", str(tmp_path / "kept")]) == 2
    assert "is larger than 1 MiB" in capsys.readouterr().err
    # A dictionary that the decoder would have to hold is refused before it is made.
    greedy = lzma.compress(b"{}\n", filters=[{"id": lzma.FILTER_LZMA2, "dict_size": 2**29}])
    (tmp_path / "kept" / "answers.jsonl.xz").write_bytes(greedy)
    assert main(["report", str(tmp_path / "kept")]) == 2
    assert "answers.jsonl.xz" in capsys.readouterr().err


def test_missing_answers_are_an_error_of_a_baseline(runs, tmp_path, capsys):
    accept(runs, tmp_path / "kept")
    (tmp_path / "kept" / "answers.jsonl.xz").unlink()
    assert main(["report", str(tmp_path / "kept")]) == 2
    assert "answers.jsonl.xz" in capsys.readouterr().err
    assert len(read_records(tmp_path / "kept")) == 3


def test_a_folder_that_is_both_says_so(runs, tmp_path):
    accept(runs, runs)
    with pytest.raises(LoraBenchError, match=r"both runs\.json and RUN_ID/record\.json"):
        read_records(runs)
    accept_into = tmp_path / "kept"
    (runs / "runs.json").unlink()
    accept(runs, accept_into)
    with pytest.raises(LoraBenchError, match="is a baseline; name another folder"):
        make_runs_folder(accept_into, accept_into)


def test_a_baseline_can_be_accepted_from_a_baseline_and_damaged_answers_are_replaced(runs, tmp_path):
    accept(runs, tmp_path / "kept")
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "answers.jsonl.xz").write_bytes(b"damaged")
    assert accept(tmp_path / "kept", tmp_path / "other") == read_records(runs)
    assert files_of(tmp_path / "other") == {
        name: content for name, content in files_of(tmp_path / "kept").items() if name != "probes.json"
    }


def test_runs_of_a_baseline_count_as_done(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    suite = write_project(tmp_path)
    first = run_suite(suite, runs=tmp_path / "runs", workers=0)
    accept(first.folder, tmp_path / "kept")
    edited_away = read_records(tmp_path / "kept")[0].run_id
    source = tmp_path / "some"
    make_runs_folder(tmp_path / "kept", source)
    (source / edited_away / "record.json").unlink()
    for place in (tmp_path / "kept", source):
        again = run_suite(suite, runs=tmp_path / f"of-{place.name}", workers=0, continue_from=place)
        assert again.done == (place == source)
        scores = {one.run_id: one.scores for one in again.records}
        assert scores == {one.run_id: one.scores for one in first.records}
    assert (
        files_of(tmp_path / "of-kept" / "tickets").items()
        >= {
            name: content
            for name, content in files_of(first.folder).items()
            if name.endswith(("record.json", "predictions.json", "probabilities.json"))
        }.items()
    )


def test_the_command_continues_from_a_baseline_and_names_one_that_is_not_there(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    write_project(tmp_path)
    assert main(["run", "tickets.yaml", "--workers", "0", "--quiet"]) == 0
    assert main(["baseline", "accept", "runs/tickets"]) == 0
    again = ["run", "tickets.yaml", "--workers", "0", "--runs", "again"]
    assert main([*again, "--continue-from", "baselines/tickets/runs.json"]) == 0
    assert read_records(Path("again/tickets")) == read_records(Path("runs/tickets"))
    assert main([*again, "--runs", "third", "--continue-from", "nowhere"]) == 2
    assert "nowhere does not exist" in capsys.readouterr().err


def test_commands_take_the_file_of_a_baseline_in_place_of_a_folder_of_runs(runs, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    keep_baseline(runs, tmp_path / "kept")
    file = str(tmp_path / "kept" / "runs.json")
    assert main(["compare", str(runs), file, "--out", "compared"]) == 0
    (tmp_path / "folders").mkdir()
    assert main(["compare", str(runs), str(tmp_path / "kept"), "--out", "folders"]) == 0
    assert Path("compared/compare.md").read_text() == Path("folders/compare.md").read_text()
    codes = [main(["check", now, "--against", before]) for now, before in ((str(runs), file), (file, str(runs)))]
    assert codes[0] == codes[1] != 2
    for name, source in (("a", str(runs)), ("b", file)):
        assert main(["export", source, "--to", "csv", "--out", f"{name}.csv"]) == 0
    assert Path("a.csv").read_bytes() == Path("b.csv").read_bytes()
    assert main(["baseline", "accept", file, "--name", "again"]) == 0
    assert files_of(tmp_path / "baselines" / "again") == files_of(tmp_path / "kept")
    assert main(["baseline", "accept", file]) == 0
    assert "Traceback" not in capsys.readouterr().err and (tmp_path / "baselines" / "kept" / "runs.json").is_file()
