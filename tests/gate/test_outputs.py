"""What the gate writes for machines, and what it shows of a night."""

import json
from xml.etree import ElementTree

import jsonschema
import pytest

from lora_bench.gate import judge, night_of
from lora_bench.gate.gate_summary import MAX_BYTES, summary_lines, terminal_lines
from lora_bench.gate.night_answer import Answer, Finding
from lora_bench.gate.outputs import annotation_lines, to_answer_json, to_badge, to_junit
from lora_bench.gate.plot import plots
from tests.gate.histories import accepted, night, night_records, repeated
from tests.sample_records import ENVIRONMENT


@pytest.fixture(scope="module")
def mixed():
    """A confirmed loss, a crash, a series without history and one that passes."""
    history = accepted(20)
    records = [
        *night_records("tonight", shift={"lora": -0.03}, methods=["lora", "full"]),
        *night_records("tonight", methods=["prefix_tuning"], seeds=[0, 1]),
        *night_records("tonight", methods=["prefix_tuning"], seeds=[2], status="failed", reason="out of paper"),
        *night_records("tonight", methods=["full"], task="new"),
    ]
    again = repeated(shift={"lora": -0.03}, methods=["lora"])
    return judge(night_of(records, "tonight"), history, "nightly", again)


def many(answer: Answer, count: int, text: str = "x") -> Answer:
    """The answer with its worst series *count* times over."""
    finding = Finding(kind="level", status="regression", text=text)
    worst = answer.series[0].model_copy(update={"findings": (finding,)})
    copies = (worst.model_copy(update={"series": f"{number:012x}"}) for number in range(count))
    return answer.model_copy(update={"series": tuple(copies)})


def test_junit_has_a_case_for_each_series_with_its_outcome(mixed):
    root = ElementTree.fromstring(to_junit(mixed))
    (suite,) = root
    outcomes = sorted(child.tag for case in suite for child in case)
    assert outcomes == ["error", "failure", "skipped"]
    assert [suite.get(name) for name in ("tests", "failures", "errors", "skipped")] == ["4", "1", "1", "1"]
    (failure,) = suite.iter("failure")
    assert failure.get("type") == "level" and "confirmed with new seeds" in failure.get("message")
    assert "lora-bench run tickets" in failure.text
    (error,) = suite.iter("error")
    assert error.get("type") == "crash" and "out of paper" in error.text
    (skipped,) = suite.iter("skipped")
    assert "no accepted night has" in skipped.get("message")
    names = [case.get("name") for case in suite]
    assert len(names) == len(set(names)) == 4
    assert all(float(case.get("time")) > 0 for case in suite)


def test_annotations_are_at_most_ten_and_the_last_says_what_is_left_out(mixed):
    assert len(annotation_lines(many(mixed, 10))) == 10
    lines = annotation_lines(many(mixed, 30))
    assert len(lines) == 10 and "21 more series" in lines[-1]
    assert lines[0].startswith("::error title=regression%3A ")


def test_an_annotation_escapes_what_a_workflow_command_would_end_at(mixed):
    worst = mixed.series[0]
    named = worst.model_copy(
        update={
            "name": worst.name.model_copy(update={"model": "a,b:c%d"}),
            "findings": (Finding(kind="level", status="regression", text="1,2: 100%"),),
            "commands": (),
        }
    )
    (line,) = annotation_lines(mixed.model_copy(update={"series": (named,)}))
    head, _, said = line.removeprefix("::").partition("::")
    assert "a%2Cb%3Ac%25d" in head and said == "1,2: 100%25"


def test_a_summary_has_the_worst_first_and_every_series_once(mixed):
    text = "\n".join(summary_lines(mixed))
    rows = [line for line in text.splitlines() if line.startswith("| vader") or line.startswith("| new")]
    assert [row.split(" | ")[1] for row in rows] == ["regression", "failed", "cannot decide", "pass"]
    assert text.index("## regression") < text.index("## failed") < text.index("## cannot decide")
    assert "not shown" not in text and "lora-bench run tickets --series tonight" in text


@pytest.mark.parametrize(("count", "text"), [(400, "x"), (60, "ü" * 600)])
def test_a_summary_stays_within_its_limit_and_counts_what_it_leaves_out(mixed, count, text):
    assert MAX_BYTES < 2**20
    lines = summary_lines(many(mixed, count, text), limit=50_000)
    assert 47_000 < len("\n".join(lines).encode()) < 50_000
    shown = sum(line.startswith("| vader") for line in lines)
    sections = sum(line.startswith("## ") for line in lines)
    rest = " ".join(line for line in lines if "not shown" in line)
    assert (f"{count - shown:,} of {count:,} series are not shown" in rest) == (shown < count)
    assert f"not shown for {count - sections:,} of {count:,} series" in rest


def test_a_badge_is_one_that_shields_takes(mixed):
    badge = json.loads(to_badge(mixed))
    assert badge == {"schemaVersion": 1, "label": "nightly", "message": "regression", "color": "red"}


def test_the_answer_is_valid_by_its_schema_and_reads_back(mixed):
    content = json.loads(to_answer_json(mixed))
    jsonschema.validate(content, Answer.model_json_schema())
    assert Answer.model_validate_json(to_answer_json(mixed)) == mixed
    assert (content["verdict"], content["exit_code"]) == ("regression", 1)


def test_figures_are_byte_identical_and_have_no_date(mixed):
    first, second = plots(mixed), plots(Answer.model_validate_json(to_answer_json(mixed)))
    assert first == second and len(first) == 4  # the one whose runs crashed has a history
    assert set(first) == {f"{one.series}.svg" for one in mixed.series}
    assert all(b"<dc:date>" not in content and b"tonight" in content for content in first.values())


def test_a_terminal_tells_what_changed_in_the_environment():
    updated = ENVIRONMENT.model_copy(update={"packages": {"torch": "2.10.0", "peft": "0.21.2", "new": "1"}})
    answer = judge(night("tonight", environment=updated), accepted(8), "nightly")
    assert terminal_lines(answer) == [
        "changed since n8: package lora bench: 0.1.0 → none",
        "changed since n8: package new: none → 1",
        "changed since n8: package torch: 2.9.1 → 2.10.0",
        "changed since n8: package transformers: 5.24.0 → none",
        "pass: tonight of tickets against 8 accepted nights of nightly (3 pass)",
    ]
