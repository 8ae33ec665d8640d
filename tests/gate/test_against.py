"""`lora-bench check RUNS --against WHAT`: runs held against other runs without any history."""

import json
from xml.etree import ElementTree

import pytest

from lora_bench.cli.parser import main
from lora_bench.gate.against import judge_against
from lora_bench.gate.night_answer import Answer
from lora_bench.records.analysis import Analysis
from lora_bench.report.sections.compare_runs import RunSet
from tests.gate.histories import changed, more_parameters, night_records
from tests.gate.test_gate import put

SEEDS = range(5)
QUIET = 0.001


def runs(draw="before", *, seeds=SEEDS, sd=QUIET, **given):
    """Runs of three methods whose noise is drawn from *draw*, with the seeds that both sets share."""
    return [
        one.model_copy(update={"spec": one.spec.model_copy(update={"series": None})})
        for one in night_records(draw, seeds=seeds, sd=sd, **given)
    ]


def judged(before, now, margin=None) -> Answer:
    no_answers = lambda run_id: None  # noqa: E731
    return judge_against(RunSet("main", before, no_answers), RunSet("tickets", now, no_answers), margin=margin).answer


def status(answer, method):
    (found,) = [one for one in answer.series if one.name.method == method]
    return found.status, " ".join(finding.text for finding in found.findings)


def test_runs_that_are_the_same_pass_with_nothing_to_say():
    answer = judged(runs(), runs())
    assert (answer.verdict, answer.exit_code) == ("pass", 0)
    assert [one.findings for one in answer.series] == [(), (), ()]


def test_a_loss_beyond_the_margin_that_is_shown_is_a_regression():
    answer = judged(runs(), runs("now", shift={"lora": -0.05}))
    assert answer.exit_code == 1 and answer.series[0].name.method == "lora"
    said = status(answer, "lora")
    assert said[0] == "regression" and "a loss is shown: −0.0" in said[1] and "5 seeds" in said[1]
    assert status(answer, "full")[0] == "pass"


def test_a_loss_that_is_shown_and_smaller_than_the_margin_passes_and_is_said():
    answer = judged(runs(seeds=range(8)), runs("now", seeds=range(8), shift={"lora": -0.004}), margin=0.01)
    assert status(answer, "lora")[0] == "pass" and "smaller than the margin" in status(answer, "lora")[1]
    assert answer.exit_code == 0


def test_a_change_does_not_bring_its_own_margin():
    def declaring(records, margin):
        rules = Analysis(reference="full", margin=margin)
        return [one.model_copy(update={"analysis": rules}) for one in records]

    spoilt = declaring(runs("now", shift={"lora": -0.05}), 0.9)
    answer = judged(declaring(runs(), 0.01), spoilt)
    assert answer.exit_code == 1 and {one.margin for one in answer.series} == {0.01}


def test_a_gain_is_named_and_passes():
    answer = judged(runs(), runs("now", shift={"lora": 0.05}))
    assert status(answer, "lora")[0] == "improved" and answer.exit_code in (0, 4)


def test_noise_as_large_as_the_margin_decides_nothing_and_a_wider_margin_does():
    noisy = {"sd": 0.006, "seeds": range(4)}
    answer = judged(runs(**noisy), runs("now", **noisy))
    assert answer.exit_code == 4
    assert "a loss of the margin is not excluded" in status(answer, "lora")[1]
    assert judged(runs(**noisy), runs("now", **noisy), margin=0.06).exit_code == 0


def test_two_seeds_are_too_few_to_show_anything():
    answer = judged(runs(seeds=range(2)), runs("now", seeds=range(2), shift={"lora": -0.2}))
    assert answer.exit_code == 4 and "no test has fewer than 3 seeds" in status(answer, "lora")[1]


@pytest.mark.parametrize(
    ("spoil", "code", "said"),
    [
        (lambda one: {"status": "failed", "scores": None, "reason": "no space"}, 3, "no space"),
        (lambda one: {"status": "diverged", "scores": None, "reason": "loss is nan"}, 1, "seed 0 diverged; it had 0.7"),
        (lambda one: {"parameters": more_parameters("lora", 1)}, 1, "adapter parameters"),
    ],
)
def test_what_needs_no_statistics(spoil, code, said):
    now = runs()
    if code == 1 and "parameters" in said:
        now = changed(now, "lora", **spoil(None))
    else:
        first = next(one for one in now if one.spec.method.name == "lora")
        now[now.index(first)] = first.model_copy(update=spoil(first))
    answer = judged(runs(), now)
    assert answer.exit_code == code and said in status(answer, "lora")[1]


def test_a_missing_method_fails_and_a_new_one_does_not():
    fewer = [one for one in runs() if one.spec.method.name != "lora"]
    gone = judged(runs(), fewer)
    assert gone.exit_code == 3 and "none of 5 runs that main has are there" in status(gone, "lora")[1]
    new = judged(fewer, runs())
    assert new.exit_code == 0 and status(new, "lora")[1] == "new: there is nothing to compare it with"


def test_scores_on_other_data_are_not_compared():
    other = [
        one.model_copy(
            update={
                "spec": one.spec.model_copy(update={"task": one.spec.task.model_copy(update={"data_sha256": "1" * 64})})
            }
        )
        for one in runs()
    ]
    answer = judged(runs(), other)
    assert answer.exit_code == 4 and "not compared: data: " in status(answer, "lora")[1]


def test_the_command_writes_every_output(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    put(tmp_path / "old/tickets", runs())
    put(tmp_path / "runs/tickets", runs("now", shift={"lora": -0.05}))
    asked = ["check", "runs/tickets", "--against", "old/tickets"]
    outputs = ["--markdown", "gate/comment.md", "--json", "gate/answer.json", "--junit", "gate/junit.xml"]
    assert main([*asked, *outputs]) == 1
    said = capsys.readouterr().out
    assert said.splitlines()[-1].startswith("regression: tickets of tickets against old/tickets (1 regression")
    comment = (tmp_path / "gate/comment.md").read_text()
    assert comment.startswith("## Regression: fine-tuning in tickets\n")
    assert "| before | now |" in comment and "What else differs:" in comment
    # The picture: the margin, no difference, and the loss to their left.
    (line,) = [line for line in comment.splitlines() if "●" in line and "lora" in line]
    assert line.index("●") < line.index(":") < line.index("|")
    assert comment.rstrip().splitlines()[-3:-1] == [
        "lora-bench compare old/tickets runs/tickets",
        "lora-bench report runs/tickets",
    ]
    assert json.loads((tmp_path / "gate/answer.json").read_bytes())["exit_code"] == 1
    assert ElementTree.parse(tmp_path / "gate/junit.xml").getroot().attrib["failures"] == "1"
    # A baseline with records is found by its name.
    assert main(["baseline", "accept", "old/tickets", "--name", "kept"]) == 0
    assert main(["check", "runs/tickets", "--against", "kept"]) == 1


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--against", "nowhere"], "there is no such folder, baseline or git reference"),
        (["--against", "runs/tickets", "--plot", "plots"], "--plot is for nights"),
        (["--against", "nightly"], "baseline nightly has nights and no records"),
    ],
)
def test_mistakes_are_answered(options, said, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    put(tmp_path / "runs/tickets", runs())
    assert main(["check", "runs/tickets", *options]) == 2
    assert said in capsys.readouterr().err


@pytest.mark.parametrize("options", [[], ["--against", "x", "--baseline", "y"]])
def test_runs_are_held_against_one_thing(options, capsys):
    with pytest.raises(SystemExit) as end:
        main(["check", "runs/tickets", *options])
    assert end.value.code == 2 and "--baseline" in capsys.readouterr().err
