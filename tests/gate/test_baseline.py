"""Accepted nights as files: what they hold, in which order, and what is refused."""

import json

import jsonschema
import pytest

from lora_bench.errors import BadInput, LoraBenchError
from lora_bench.gate import judge, night_of, read_night, read_nights, tonight_in, write_night
from lora_bench.gate.accepting import accepted_night, diff_lines, show_lines, two_nights
from lora_bench.gate.baseline import before, to_text
from lora_bench.gate.series import Night
from lora_bench.records.sealed_records import to_json
from tests.gate.histories import LEVEL, accepted, changed, more_parameters, night, night_records, number_of
from tests.sample_records import ENVIRONMENT


def test_a_night_is_read_as_it_was_written_without_how_it_was_made(tmp_path):
    one = number_of(night("n1"), 1)
    write_night(one, tmp_path)
    (again,) = read_nights(tmp_path)
    assert again.by_series().keys() == one.by_series().keys()
    for cell, other in zip(one.cells, again.cells, strict=True):
        assert other == cell.model_copy(
            update={"runs": tuple(run.model_copy(update={"command": None, "seconds": None}) for run in cell.runs)}
        )
    assert (again.label, again.number, again.reason, again.environments) == (
        "n1", 1, "an unchanged system", (ENVIRONMENT,),
    )  # fmt: skip


def test_a_night_of_a_dozen_series_is_a_small_file_with_a_line_for_each_run():
    records = [one for task in "abcd" for one in night_records("n1", task=task)]
    text = to_text(number_of(night_of(records, "n1"), 1))
    assert len(text) < 12 * 1_500
    assert sum(b'"run_id"' in line for line in text.splitlines()) == 36
    assert json.loads(text)["schema"] == 1


def test_the_order_is_that_of_acceptance_and_not_of_names_or_clocks(tmp_path):
    for number, label in enumerate(["zebra", "ant", "mule"], start=1):
        write_night(number_of(night(label), number), tmp_path)
    assert [one.label for one in read_nights(tmp_path)] == ["zebra", "ant", "mule"]
    assert [one.label for one in before(read_nights(tmp_path), "mule")] == ["zebra", "ant"]
    assert len(before(read_nights(tmp_path), "tonight")) == 3


def test_a_night_is_accepted_once(tmp_path):
    write_night(number_of(night("n1"), 1), tmp_path)
    with pytest.raises(LoraBenchError, match="accepted already"):
        write_night(number_of(night("n1"), 2), tmp_path)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"{", "no night"),
        (b"[" * 100_000, "no night"),
        (b'{"schema": 2}', "schema 2.*up to 1; upgrade"),
        (b'{"schema": 1, "suite": "x"}', "no night: label: Field required"),
        (b'{"schema": 1, "number": 1' + b"0" * 400 + b"}", "no night: 10000000000000000000… is beyond the greatest"),
    ],
)
def test_what_is_no_night_is_bad_input_with_its_file(tmp_path, content, said):
    (tmp_path / "nights").mkdir()
    (tmp_path / "nights" / "n1.json").write_bytes(content)
    with pytest.raises(BadInput, match=f"n1.json.*{said}"):
        read_nights(tmp_path)


@pytest.mark.parametrize("environment", [99, -1])
def test_a_cell_of_an_environment_that_is_not_there_is_bad_input(tmp_path, environment):
    content = to_text(number_of(night("n1"), 1)).replace(b'"environment": 0', b'"environment": %d' % environment, 1)
    (tmp_path / "nights").mkdir()
    (tmp_path / "nights" / "n1.json").write_bytes(content)
    with pytest.raises(BadInput, match=f"n1.json: is no night: .*names environment {environment}, and there are 1"):
        read_nights(tmp_path)


def test_two_nights_that_were_accepted_at_the_same_time_stand_in_the_order_of_their_labels(tmp_path):
    for number, label in ((1, "z"), (2, "n10"), (2, "n9"), (3, "a")):
        write_night(number_of(night(label), number), tmp_path)
    nights = read_nights(tmp_path)
    assert [one.label for one in nights] == ["z", "n9", "n10", "a"]
    assert [one.label for one in before(nights, "n10")] == ["z", "n9"]
    tonight = night("tonight")
    assert accepted_night(tonight, nights, judge(tonight, nights, "nightly"), "begins").number == 4


def test_files_that_contradict_each_other_are_all_named(tmp_path):
    write_night(number_of(night("n1"), 1), tmp_path)
    write_night(night("n2"), tmp_path)
    write_night(number_of(night("n3", suite="other"), 3), tmp_path)
    (tmp_path / "nights" / "renamed.json").write_bytes(to_text(number_of(night("n4"), 4)))
    with pytest.raises(BadInput) as error:
        read_nights(tmp_path)
    said = str(error.value)
    assert "n2.json: is no accepted night" in said and "the suite 'other'" in said and "renamed.json" in said


@pytest.mark.parametrize("label", ["../../escaped", "a/b", "", "nul", "x" * 300, "n1\n"])
def test_a_label_that_is_no_file_name_is_refused(label):
    with pytest.raises(LoraBenchError, match="the label of a night"):
        night(label) if label else night_of(night_records("n1"), "")


def test_accepting_counts_on_and_keeps_what_was_flaky():
    history = accepted(20)
    tonight = night("tonight", shift={"lora": -0.03})
    answer = judge(tonight, history, "nightly", [night("tonight-confirm", methods=["lora"])])
    one = accepted_night(tonight, history, answer, " passed ")
    (flaky,) = answer.of_status("flaky")
    assert (one.number, one.reason, one.flaky, one.acknowledged) == (21, "passed", (flaky.series,), ())


@pytest.mark.parametrize("shift", [-0.03, 0.03])
def test_a_change_in_either_direction_is_acknowledged_or_not_accepted(shift):
    history = accepted(20)
    tonight = night("tonight", shift={"lora": shift})
    answer = judge(tonight, history, "nightly")
    lora = answer.series[0].series
    with pytest.raises(LoraBenchError, match=f"{lora}.*\n.*--change"):
        accepted_night(tonight, history, answer, "looks fine")
    assert accepted_night(tonight, history, answer, "other learning rate", [lora]).acknowledged == (lora,)
    assert len(accepted_night(tonight, history, answer, "other data", ["all"]).acknowledged) == len(LEVEL)


def test_a_night_that_lacks_a_cell_is_not_accepted_silently():
    history = accepted(8)
    tonight = night("tonight", methods=["full", "lora"])
    answer = judge(tonight, history, "nightly")
    with pytest.raises(LoraBenchError, match="prefix_tuning"):
        accepted_night(tonight, history, answer, "fine")
    one = accepted_night(tonight, history, answer, "prefix tuning is not ours to watch", [answer.series[0].series])
    assert judge(night("next", methods=["full", "lora"]), [*history, number_of(one, 9)], "nightly").verdict == "pass"


@pytest.mark.parametrize(
    ("reason", "change", "said"),
    [(" ", (), "with a reason"), ("x" * 501, (), "at most 500"), ("fine", ("0123",), "no series '0123'")],
)
def test_accepting_takes_a_reason_and_known_series(reason, change, said):
    tonight = night("tonight")
    with pytest.raises(LoraBenchError, match=said):
        accepted_night(tonight, accepted(8), judge(tonight, accepted(8), "nightly"), reason, change)


def test_nights_are_shown_with_what_changed_between_them():
    updated = ENVIRONMENT.model_copy(update={"packages": {**ENVIRONMENT.packages, "torch": "2.10.0"}})
    lines = show_lines([*accepted(2), number_of(night("n3", environment=updated), 3)])
    assert lines[0] == "1. n1: 3 series, 9 runs; an unchanged system"
    assert lines[-2:] == ["    package torch: 2.9.1 → 2.10.0", "3 accepted nights, 3 series"]


def test_two_nights_differ_by_what_was_done_to_one_of_them():
    one = night("one", sd=0)
    grown = changed(night_records("two", sd=0, shift={"full": 0.01}), "lora", parameters=more_parameters("lora", 320))
    lines = diff_lines(one, night_of(grown, "two"))
    assert lines[0] == "one → two"
    assert "vader_film · MiniLM-L6 in the RoBERTa class · full · accuracy: 0.8000 → 0.8100 (+0.0100)" in lines
    assert any("adapter parameters: 7,680 → 8,000" in line for line in lines)


def test_nights_to_compare_are_the_last_two_or_those_named():
    nights = accepted(4)
    assert [one.label for one in two_nights(nights, [])] == ["n3", "n4"]
    assert [one.label for one in two_nights(nights, ["n1"])] == ["n1", "n4"]
    assert [one.label for one in two_nights(nights, ["n2", "n1"])] == ["n2", "n1"]
    with pytest.raises(LoraBenchError, match="unknown night 'n9'"):
        two_nights(nights, ["n9"])
    with pytest.raises(LoraBenchError, match="two nights"):
        two_nights(nights[:1], [])


def folder_of(tmp_path, *labels):
    for label in labels:
        for one in night_records(label.replace("-confirm", ""), methods=["lora"], seeds=[0]):
            (tmp_path / label / one.run_id).mkdir(parents=True)
            (tmp_path / label / one.run_id / "record.json").write_bytes(to_json(one))
    return tmp_path


def test_tonight_is_the_night_that_is_not_accepted(tmp_path):
    folder_of(tmp_path, "n1", "n2", "n2-confirm", "n2-confirm-confirm")
    assert tonight_in(tmp_path, accepted(1)) == ("n2", tmp_path / "n2")
    assert tonight_in(tmp_path / "n1", accepted(1)) == (None, tmp_path / "n1")
    assert tonight_in(tmp_path, accepted(2), "n1") == ("n1", tmp_path / "n1")
    with pytest.raises(LoraBenchError, match="all 2 nights"):
        tonight_in(tmp_path, accepted(2))
    with pytest.raises(LoraBenchError, match=r"2 nights .* \(n1, n2\); say with --series"):
        tonight_in(tmp_path, [])
    with pytest.raises(LoraBenchError, match="unknown series 'n3'"):
        tonight_in(tmp_path, [], "n3")


def test_runs_of_another_label_are_no_runs_of_a_night(tmp_path):
    """Their seeds are drawn from it: good runs of another night would stand in for bad ones."""
    folder_of(tmp_path, "n1", "n2")
    (tmp_path / "n1").rename(tmp_path / "n3")
    with pytest.raises(LoraBenchError, match="runs of the series n1, and not of n3"):
        read_night(tmp_path / "n3", "n3")
    (one,) = night_records("n2", methods=["lora"], seeds=[1])
    plain = one.model_copy(update={"spec": one.spec.model_copy(update={"series": None})})
    (tmp_path / "n2" / plain.run_id).mkdir()
    (tmp_path / "n2" / plain.run_id / "record.json").write_bytes(to_json(plain))
    with pytest.raises(LoraBenchError, match="runs of 2 series"):
        read_night(tmp_path / "n2", "n2")


def test_the_schema_that_ships_takes_what_is_written():
    schema = Night.model_json_schema()
    jsonschema.validate(json.loads(to_text(number_of(night("n1"), 1))), schema)
