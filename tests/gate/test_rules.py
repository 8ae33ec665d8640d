"""The rules are those of the accepted nights: a night never lowers the bar that it is held to."""

import json

import pytest

from lora_bench.cli.parser import main
from lora_bench.errors import LoraBenchError
from lora_bench.gate import judge, night_of, read_nights, write_night
from lora_bench.gate.accepting import accepted_night, series_or_why, show_lines
from lora_bench.records.analysis import Analysis
from lora_bench.records.record import Record
from tests.gate.histories import accepted, night, night_records, number_of
from tests.gate.test_gate import put
from tests.sample_records import ENVIRONMENT

WIDE = {"changes": {"analysis": Analysis(reference="full", margin=0.9)}}
FALLEN = {"lora": -0.6}
WHY = "the test set was halved"


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A working folder with a baseline of twelve nights whose margin is half a point."""
    monkeypatch.chdir(tmp_path)
    for one in accepted(12):
        write_night(one, tmp_path / "baselines/gate")
    return tmp_path


def accept(*options):
    return main(["baseline", "accept", "runs/tickets", "--name", "gate", "--reason", "by the workflow", *options])


def check(*options):
    return main(["check", "runs/tickets", "--baseline", "gate", *options])


def of_method(answer, method="lora"):
    (one,) = (one for one in answer.series if one.name.method == method)
    return one


def test_a_margin_of_tonights_records_neither_passes_a_loss_nor_is_accepted_silently(place, capsys):
    put(place / "runs/tickets/tonight", night_records("tonight", shift=FALLEN, **WIDE))
    assert check() == 4
    said = capsys.readouterr().out
    assert "not confirmed with 2 sets of new seeds" in said
    assert "the accepted nights hold a margin of 0.005, tonight declares 0.9" in said
    assert accept() == 2
    assert "would become what later nights are held against" in capsys.readouterr().err
    for label in ("tonight-confirm", "tonight-confirm-confirm"):
        put(place / "runs/tickets" / label, night_records(label, shift=FALLEN, **WIDE))
    assert (check(), accept()) == (1, 2)


def test_other_rules_alone_are_a_change_that_is_written_down_and_keeps_the_history(place, capsys):
    put(place / "runs/tickets/tonight", night_records("tonight", **WIDE))
    assert (check(), accept()) == (4, 2)
    assert accept("--change", WHY) == 0
    written = json.loads((place / "baselines/gate/nights/tonight.json").read_text())
    assert written["change"] == WHY and "acknowledged" not in written
    assert len(written["changed"]) == 3 and "0.005, tonight declares 0.9" in written["changed"][0]
    capsys.readouterr()
    assert main(["baseline", "show", "gate"]) == 0
    assert f"change: {WHY}" in capsys.readouterr().out
    # From now on that is the rule, over the same history.
    answer = judge(night("next", **WIDE), read_nights(place / "baselines/gate"), "gate")
    assert (answer.verdict, of_method(answer).margin, len(of_method(answer).history)) == ("pass", 0.9, 13)


def test_accepting_with_a_wide_margin_takes_no_refused_night_and_leaves_a_trace(place, capsys):
    put(place / "runs/tickets/tonight", night_records("tonight", shift=FALLEN))
    assert (check(), accept(), accept("--margin", "1")) == (4, 2, 2)
    assert "the accepted nights hold a margin of 0.005, tonight declares 1" in capsys.readouterr().err
    assert accept("--margin", "1", "--change", WHY) == 0
    last = read_nights(place / "baselines/gate")[-1]
    assert {cell.margin for cell in last.cells} == {1.0} and last.change == WHY
    assert "declares 1" in last.changed[0] and len(last.acknowledged) == 1
    assert any("declares 1" in line for line in show_lines([last]))


def test_a_check_with_a_wide_margin_is_no_pass(place):
    put(place / "runs/tickets/tonight", night_records("tonight", shift=FALLEN))
    for label in ("tonight-confirm", "tonight-confirm-confirm"):
        put(place / "runs/tickets" / label, night_records(label, shift=FALLEN, methods=["lora"]))
    assert check("--margin", "1") == 1
    assert check("--margin", "0.005") == 1


def test_the_margin_of_the_accepted_nights_may_be_given_again(place):
    put(place / "runs/tickets/tonight", night_records("tonight", **WIDE))
    assert check("--margin", "0.005") == 0
    assert accept("--margin", "0.005") == 0
    assert {cell.margin for cell in read_nights(place / "baselines/gate")[-1].cells} == {0.005}


def from_a_script(label: str, higher_is_better: bool = True, **more: object) -> list[Record]:
    """Records of a script of one's own, whose ids do not depend on the direction of its metric."""
    made = night_records(label, higher_is_better=higher_is_better, **more)
    return [one.model_copy(update={"spec": one.spec.model_copy(update={"source": "callback"})}) for one in made]


def test_a_direction_that_turns_makes_no_gain_of_a_loss():
    history = [number_of(night_of(from_a_script(f"n{n}"), f"n{n}"), n) for n in range(1, 13)]
    assert judge(night_of(from_a_script("tonight"), "tonight"), history, "nightly").verdict == "pass"
    turned = night_of(from_a_script("tonight", higher_is_better=False, shift=FALLEN), "tonight")
    answer = judge(turned, history, "nightly")
    assert of_method(answer).suspect and answer.exit_code == 4
    assert "tonight declares the opposite" in of_method(answer).findings[-1].text


def test_a_new_cell_is_held_to_the_margin_of_its_task_and_metric():
    history = accepted(12, methods=["full", "lora"])
    answer = judge(night("tonight", **WIDE), history, "nightly")
    assert of_method(answer, "prefix_tuning").margin == 0.005


CONDITIONS = [
    {"environment": ENVIRONMENT.model_copy(update={"cpu": "Xeon"})},
    {"environment": ENVIRONMENT.model_copy(update={"driver": "550.54.15"})},
    {"training": {"threads": 4}},
    {"training": {"batch_size": 32}},
    {"spec": {"series": "tonight"}, "data": "f" * 64},
]


def under(label, conditions, **more):
    """A night under other conditions than those of the accepted nights."""
    given = {key: value for key, value in conditions.items() if key not in ("data", "spec")}
    records = night_records(label, **given, **more)
    if "data" in conditions:
        for index, one in enumerate(records):
            task = one.spec.task.model_copy(update={"data_sha256": conditions["data"]})
            records[index] = one.model_copy(update={"spec": one.spec.model_copy(update={"task": task})})
    return night_of(records, label)


@pytest.mark.parametrize("conditions", CONDITIONS, ids=["cpu", "driver", "threads", "recipe", "data"])
@pytest.mark.parametrize("nights", [1, 3, 12])
def test_a_loss_together_with_other_conditions_is_not_accepted_silently(conditions, nights):
    history = accepted(nights)
    quiet = under("tonight", conditions)
    assert accepted_night(quiet, history, judge(quiet, history, "nightly"), "begins").number == nights + 1
    fallen = under("tonight", conditions, shift=FALLEN)
    answer = judge(fallen, history, "nightly")
    assert answer.exit_code == 4 and [one.kind for one in of_method(answer).findings] == ["history", "loss"]
    said = f"{3 * nights} runs under the conditions before give"
    with pytest.raises(LoraBenchError, match=rf"lora.*{said}(.|\n)*--change"):
        accepted_night(fallen, history, answer, "begins")
    one = accepted_night(fallen, history, answer, "begins", why=WHY)
    assert one.acknowledged == (of_method(answer).series,) and said in one.changed[0]
    # What was acknowledged is what the next night there is held against.
    after = under("next", conditions, shift=FALLEN)
    assert not of_method(judge(after, [*history, one], "nightly")).findings[1:]


def test_a_loss_in_the_second_night_on_another_machine_is_not_accepted_silently_either():
    history = [*accepted(12), number_of(under("n13", CONDITIONS[0]), 13)]
    tonight = under("tonight", CONDITIONS[0], shift=FALLEN)
    answer = judge(tonight, history, "nightly")
    assert "3 runs so far give" in of_method(answer).findings[-1].text
    with pytest.raises(LoraBenchError, match="--change"):
        accepted_night(tonight, history, answer, "begins")


def test_a_loss_together_with_another_machine_and_a_wide_margin_is_told():
    answer = judge(under("tonight", CONDITIONS[0], shift=FALLEN, **WIDE), accepted(12), "nightly")
    assert [one.kind for one in of_method(answer).findings] == ["history", "loss", "rules"]


def test_a_slower_step_on_another_machine_is_acknowledged():
    from tests.gate.test_judge import probed, probes

    elsewhere = [one.model_copy(update={"environment": CONDITIONS[0]["environment"]}) for one in probes(1.5)]
    answer = judge(night_of([], "tonight", elsewhere), [probed(number) for number in range(1, 13)], "costs")
    assert "(+50" in answer.series[0].findings[-1].text and answer.series[0].findings[-1].kind == "loss"


def test_three_readings_below_the_bound_are_a_regression():
    """Of one series the bound is that of .02, and that of the confirmation, .01, lies farther away."""
    history = accepted(12, methods=["lora"])
    tonight = night("tonight", methods=["lora"], shift={"lora": -0.0135})
    level = judge(tonight, history, "nightly").series[0]
    again = [night(label, methods=["lora"], shift={"lora": -0.0135}) for label in ("again", "thrice")]
    for one in again:
        second = of_method(judge(one, history, "nightly"))
        assert level.observed < level.worst and second.observed < second.worst == level.worst
    answer = judge(tonight, history, "nightly", again)
    assert (answer.verdict, of_method(answer).status) == ("regression", "regression")
    with pytest.raises(LoraBenchError, match="--change"):
        accepted_night(tonight, history, answer, "passed")


@pytest.mark.parametrize(
    ("text", "ids", "why"),
    [
        ("all", ("all",), None),
        ("0123456789ab", ("0123456789ab",), None),
        ("0123456789ab,ba9876543210", ("0123456789ab", "ba9876543210"), None),
        ("0123456789ab, ba987654321", ("0123456789ab", "ba987654321"), None),
        ("retrained", ("retrained",), None),
        ("all of it was retrained", (), "all of it was retrained"),
        ("other data, other machine", (), "other data, other machine"),
    ],
)
def test_ids_are_told_from_words(text, ids, why):
    assert series_or_why(text) == (ids, why)


def test_a_single_word_is_no_reason(place, capsys):
    put(place / "runs/tickets/tonight", night_records("tonight", shift=FALLEN))
    assert accept("--change", "retrained") == 2
    assert "no series 'retrained'; to say why, use more than one word" in capsys.readouterr().err
