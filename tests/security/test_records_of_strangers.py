"""Records of strangers whose values fit no arithmetic are refused in a sentence."""

import hashlib
import json

import pytest

from lora_bench.cli import main
from lora_bench.errors import BadInput
from lora_bench.records.record import MOST_SCORE
from lora_bench.records.sealed_records import to_json
from lora_bench.records.store import answers_in, read_records
from lora_bench.util.sealed_json import SEAL, seal
from tests.sample_records import sample_suite


def written(folder, change):
    """The sample records of one base model, each changed as plain data and sealed again."""
    for number, made in enumerate(one for one in sample_suite() if one.spec.model.name == "gpt2-mini"):
        path = folder / made.run_id
        path.mkdir(parents=True)
        data = json.loads(to_json(made))
        data.pop(SEAL, None)
        change(number, data, path)
        (path / "record.json").write_bytes(seal(data))
    return folder


@pytest.mark.parametrize("score", [1e300, -1.7e308])
@pytest.mark.parametrize(
    "command", [["report"], ["choose"], ["use"], ["check", "--against"]], ids=lambda words: words[0]
)
def test_scores_that_no_sum_can_hold_are_refused(tmp_path, capsys, score, command):
    def change(number, data, path):
        data["scores"] = {name: score for name in data["scores"] or {}} or None

    runs = str(written(tmp_path / "runs", change))
    assert main([command[0], runs, *command[1:], *([runs] if command[1:] else [])]) == 2
    said = capsys.readouterr().err
    assert "is beyond every score" in said and "Traceback" not in said


def test_a_great_score_is_read(tmp_path):
    def change(number, data, path):
        data["scores"] = {name: MOST_SCORE for name in data["scores"] or {}} or None

    assert max(record.score or 0 for record in read_records(written(tmp_path / "runs", change))) == MOST_SCORE


ANSWERS = {
    "nothing": {},
    "texts among numbers": {"predictions": [0, 1, "x"], "references": [0, 1, 1]},
    "lists for numbers": {"predictions": [[0], [1], [1]], "references": [0, 1, 1]},
    "greater than every number": {"predictions": [1e300, 0.0, 1.0], "references": [0.0, 1.0, 1.0]},
    "nothing for a number": {"predictions": [0, 1, None], "references": [0, 1, 1]},
    "no list": {"predictions": 5, "references": [0, 1, 1]},
}


@pytest.mark.parametrize("content", ANSWERS.values(), ids=ANSWERS)
def test_answers_of_other_types_are_refused(tmp_path, capsys, content):
    raw = json.dumps(content).encode()

    def change(number, data, path):
        (path / "predictions.json").write_bytes(raw)
        sha256 = hashlib.sha256(raw).hexdigest()
        data["predictions"] = {"file": "predictions.json", "count": 3, "ids_sha256": "0" * 64, "sha256": sha256}

    runs = written(tmp_path / "runs", change)
    for command in (["report"], ["choose"]):
        code = main([*command, str(runs)])
        said = capsys.readouterr().err
        assert (code, "Traceback" in said) in ((2, False), (0, False))
    records = read_records(runs)
    read = answers_in(runs, records)
    if content.get("predictions") == 5:
        assert read(records[0].run_id) is None
    else:
        with pytest.raises(BadInput, match=r"predictions\.json of run .* has no answers"):
            read(records[0].run_id)
