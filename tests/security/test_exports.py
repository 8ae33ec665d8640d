"""Tables made of records from elsewhere repeat no secret, and a CSV file controls no terminal and no runner of CI."""

import csv
import io
import json

import pandas
import pytest

from lora_bench.exchange import export
from lora_bench.exchange.facts import facts_of
from lora_bench.exchange.table_files import to_csv
from lora_bench.gate.night_answer import Answer
from lora_bench.gate.outputs import to_answer_json
from lora_bench.util.redaction import without_secrets_in
from tests.sample_records import record

# Put together here, so that no tool takes this file for one with a secret in it.
TOKEN = "hf_" + "canary" * 5
PASSWORD = "swordfish" + "99"
ADDRESS = f"https://user:{PASSWORD}@host.example/x"


def foreign():
    """A record that our code did not write: with secrets and control characters where we put names."""
    made = record()
    method = made.spec.method.model_copy(
        update={
            "label": f"lora {TOKEN}",
            "options": {**made.spec.method.options, "note": f'{ADDRESS} token=abc123"', TOKEN: 1},
        }
    )
    task = made.spec.task.model_copy(update={"name": "\x1b[31mred\x07 \u202eright\u2066"})
    model = made.spec.model.model_copy(update={"shown": "::error file=x::pwned"})
    spec = made.spec.model_copy(update={"method": method, "task": task, "model": model})
    return made.model_copy(update={"spec": spec, "suite": f"mine {TOKEN}"})


@pytest.mark.parametrize("to", ["csv", "parquet", "json"])
def test_a_table_repeats_no_secret_of_a_foreign_record(tmp_path, to):
    export([foreign()], to, beside=tmp_path)
    written = (tmp_path / f"records.{to}").read_bytes()
    assert TOKEN.encode() not in written and PASSWORD.encode() not in written
    if to == "json":
        (row,) = json.loads(written)
        assert row["label"] == "lora ***"
        assert row["options"]["note"].startswith("https://***@host.example/x token=***")


def test_a_tracker_is_told_no_secret_of_a_foreign_record():
    facts = facts_of(foreign())
    told = json.dumps([facts.suite, facts.name, dict(facts.tags), dict(facts.conditions)])
    assert TOKEN not in told and PASSWORD not in told and "***" in told


def test_a_csv_file_controls_no_terminal_and_no_runner(tmp_path):
    export([foreign()], "csv", beside=tmp_path)
    written = (tmp_path / "records.csv").read_text(encoding="utf-8")
    assert all(character.isprintable() or character == "\n" for character in written)
    (row,) = csv.DictReader(io.StringIO(written))
    assert row["task"] == " [31mred  right"
    assert not [cell for cell in row.values() if cell and cell.startswith("::")]


def test_a_line_of_a_csv_file_is_no_command_and_formulas_stay_harmless():
    texts = ["::error::x", "a\n::add-mask::y", "##[error]z", "\x00=1+1", "\u200b=2", "plain, with a comma"]
    written = to_csv(pandas.DataFrame({"text": pandas.array(texts, dtype="string")}))
    cells = [row[0] for row in csv.reader(io.StringIO(written.decode("utf-8")))][1:]
    assert cells == [": :error::x", "a\n: :add-mask::y", "## [error]z", "' =1+1", "'=2", "plain, with a comma"]


def test_two_names_that_become_one_are_two_columns():
    frame = pandas.DataFrame({TOKEN: [1], f"{TOKEN}x": [2]})
    assert to_csv(frame) == b"***,***_\n1,2\n"


def test_the_answer_of_the_gate_repeats_no_secret():
    answer = Answer.model_construct(suite=f"mine {TOKEN}", label=ADDRESS, series=())
    written = to_answer_json(answer)
    assert TOKEN.encode() not in written and PASSWORD.encode() not in written and b"mine ***" in written


def test_redaction_goes_into_plain_data():
    data = {"a": [ADDRESS, 1, None, {"b": (TOKEN, True)}], TOKEN: 0.5}
    assert without_secrets_in(data) == {
        "a": ["https://***@host.example/x", 1, None, {"b": ["***", True]}],
        "***": 0.5,
    }
