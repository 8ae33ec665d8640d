"""`lora-bench check RUNS --against WHAT`: runs held against other runs without any history."""

import json
import re
from xml.etree import ElementTree

import pytest

from lora_bench.cli.parser import main
from lora_bench.gate import night_of
from lora_bench.gate.against import judge_against, plan_of, runs_of_night
from lora_bench.gate.baseline import write_night
from lora_bench.gate.night_answer import Answer
from lora_bench.gate.outputs import to_junit
from lora_bench.records.analysis import Analysis, UntilDecided
from lora_bench.report.sections.compare_runs import RunSet
from lora_bench.stats.estimate import student_quantile
from tests.gate.histories import changed, more_parameters, night_records, number_of
from tests.gate.test_gate import put

SEEDS = range(5)
QUIET = 0.001


def runs(draw="before", *, seeds=SEEDS, sd=QUIET, **given):
    """Runs of three methods whose noise is drawn from *draw*, with the seeds that both sets share."""
    return [
        one.model_copy(update={"spec": one.spec.model_copy(update={"series": None})})
        for one in night_records(draw, seeds=seeds, sd=sd, **given)
    ]


def judged(before, now, margin=None, change=None) -> Answer:
    sets = (RunSet(name, records, lambda run_id: None) for name, records in (("main", before), ("tickets", now)))
    return judge_against(*sets, margin=margin, change=change).answer


def declaring(records, **settings):
    """The records of a suite with this declared comparison."""
    rules = Analysis(reference="full", **settings)
    return [one.model_copy(update={"analysis": rules}) for one in records]


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
    spoilt = declaring(runs("now", shift={"lora": -0.05}), margin=0.9)
    answer = judged(declaring(runs(), margin=0.01), spoilt)
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


def test_a_series_that_the_other_runs_lack_is_no_pass():
    fewer = [one for one in runs() if one.spec.method.name != "lora"]
    new = judged(fewer, runs())
    assert new.exit_code == 4 and status(new, "lora")[0] == "undecided" and status(new, "full")[0] == "pass"
    # Unsupported runs neither.
    gone = night_records("now", seeds=SEEDS, methods=["lora"], status="unsupported", reason="no such module")
    unsupported = judged(
        fewer,
        [*fewer, *(one.model_copy(update={"spec": one.spec.model_copy(update={"series": None})}) for one in gone)],
    )
    assert unsupported.exit_code == 4
    for answer in (new, unsupported):
        junit = ElementTree.fromstring(to_junit(answer))
        assert (junit.attrib["skipped"], junit.attrib["tests"]) == ("1", "3")
        (case,) = [case for case in junit.iter("testcase") if case.find("skipped") is not None]
        assert "lora" in case.attrib["name"]


def test_every_series_excludes_the_margin_at_the_full_level():
    """All must pass, so a p-value below .05 of each is enough; Holm's procedure would take .017 of one of three."""
    noisy = {"sd": 0.006, "seeds": range(5)}
    before, now = runs("b", **noisy), runs("now", **noisy)
    sets = [RunSet(name, records, lambda run_id: None) for name, records in (("main", before), ("tickets", now))]
    pairs = judge_against(*sets, margin=0.01).pairs.values()
    # The margin at which the worst of the three has a p-value of .05.
    errors = [(pair.difference.estimate.value, *pair.difference.estimate.uncertainties) for pair in pairs]
    least = max(student_quantile(error.freedom, 0.05) * error.standard_error - value for value, error in errors)
    assert [judged(before, now, margin=least * share).exit_code for share in (0.999, 1.001)] == [4, 0]


def test_a_check_says_how_likely_it_was_to_pass_and_with_how_many_seeds_it_would():
    noisy = {"sd": 0.006, "seeds": range(5)}
    answer = judged(runs("b", **noisy), runs("now", **noisy), margin=0.007)
    (chance, seeds) = re.search(r"passes in (\d+)% of checks; it takes (\d+) seeds for 80%", answer.plan).groups()
    assert 5 < int(chance) < 80 and 5 < int(seeds) < 20
    wide = judged(runs("b", **noisy), runs("now", **noisy), margin=0.1)
    assert wide.plan.endswith("an unchanged system passes") and wide.exit_code == 0
    # The same from one set of runs alone, before the other is done.
    plan = plan_of(night_of(runs("b", **noisy), "now").cells, 0.007)
    assert plan.chance < 0.8 and plan.seeds > 5


def test_the_new_runs_do_not_bring_their_own_looks():
    """A loss counts as it would without them: else an `at_most` of a thousand takes the error level of every look away."""
    looks = UntilDecided(until="decided", at_least=5, at_most=1_000)
    lost = runs("now", shift={"lora": -0.02}, sd=0.004)
    before = runs(sd=0.004)
    answer = judged(declaring(before, margin=0.005), declaring(lost, margin=0.005, seeds=looks))
    assert answer.exit_code == 1
    assert answer == judged(declaring(before, margin=0.005), declaring(lost, margin=0.005))


def test_a_suite_that_trains_otherwise_is_undecided_unless_that_is_meant():
    def training(**changes):
        specs = [(one, one.spec.training.model_copy(update=changes)) for one in runs()]
        return [
            one.model_copy(update={"spec": one.spec.model_copy(update={"training": training})})
            for one, training in specs
        ]

    longer, faster = training(batch_size=64), training(learning_rate=0.5)
    for now, said in ((longer, "training.batch_size"), (faster, "training.learning_rate")):
        answer = judged(runs(), now)
        assert answer.exit_code == 4 and said in status(answer, "lora")[1]
        meant = judged(runs(), now, change="it trains longer")
        assert meant.exit_code == 0 and "it trains longer" in status(meant, "lora")[1]


def test_other_seeds_do_not_replace_bad_ones():
    answer = judged(runs(), runs(seeds=(0, 1, 2, 3, 7)))
    assert answer.exit_code == 3
    assert "4 of 5 runs that main has are there, and other seeds (7) are no substitute" in status(answer, "lora")[1]


def test_a_run_that_ended_without_a_score_is_no_pass():
    now = runs()
    now[0] = now[0].model_copy(update={"scores": {}})
    answer = judged(runs(), now)
    assert answer.exit_code == 4 and "1 of 5 runs ended without a score" in status(answer, now[0].spec.method.name)[1]
    nothing = [one.model_copy(update={"scores": {}}) for one in runs()]
    assert judged(runs(), nothing).exit_code == 4


def test_the_same_loss_in_every_seed_is_one():
    lower = [one.model_copy(update={"scores": {"accuracy": one.scores["accuracy"] - 0.5}}) for one in runs()]
    answer = judged(runs(), lower)
    assert answer.exit_code == 1 and "the same loss in every seed" in status(answer, "lora")[1]


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
        (["--against", "nightly"], "no run is in both"),
    ],
)
def test_mistakes_are_answered(options, said, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    put(tmp_path / "runs/tickets", runs())
    assert main(["check", "runs/tickets", *options]) == 2
    assert said in capsys.readouterr().err


def by_spec(records):
    """The records with the ids of their specs, which runs of one seed before and after a change share."""
    return [one.model_copy(update={"run_id": one.spec.run_id}) for one in records]


def of_night(before, now, **given):
    """The answer on runs that are held against the accepted night of others."""
    kept, now = number_of(night_of(by_spec(before), "kept"), 1), by_spec(now)
    sets = runs_of_night(kept, "gate", now), RunSet("tickets", now, lambda run_id: None)
    return judge_against(*sets, night=kept, **given).answer


@pytest.mark.parametrize("spoil", [{}, {"lora": -0.05}, {"lora": -0.004}, {"lora": 0.05}])
def test_an_accepted_night_stands_for_the_runs_that_it_is_of(spoil):
    before, now = runs(), runs("now", sd=0.002, shift=spoil)
    answer, by_records = of_night(before, now), judged(before, now)
    assert answer.exit_code == by_records.exit_code
    assert [one.findings for one in answer.series] == [one.findings for one in by_records.series]


def test_a_night_keeps_its_margin_and_its_counts():
    now = declaring(runs("now", shift={"lora": -0.05}), margin=0.2)
    assert of_night(declaring(runs(), margin=0.01), now).exit_code == 1
    assert of_night(runs(), now, margin=0.2).exit_code == 0
    more = changed(runs(), "lora", parameters=more_parameters("lora", 1))
    assert status(of_night(runs(), more), "lora")[0] == "regression"


def test_a_run_of_the_night_that_is_missing_or_crashed_is_no_pass():
    assert of_night(runs(), runs()[1:]).exit_code == 3
    crashed = [one.model_copy(update={"status": "failed", "scores": None}) for one in runs()[:1]]
    assert of_night(runs(), [*crashed, *runs()[1:]]).exit_code == 3


def test_runs_with_other_settings_are_no_runs_of_the_night():
    answer = of_night(
        runs(), [*runs(methods=["full"]), *runs(methods=["lora", "prefix_tuning"], training={"max_length": 32})]
    )
    assert answer.exit_code == 4 and "not compared: recipe" in status(answer, "lora")[1]


def test_the_command_takes_the_last_night_of_a_baseline_by_its_name(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    write_night(number_of(night_of(by_spec(runs()), "kept"), 1), tmp_path / "baselines/gate")
    put(tmp_path / "runs/tickets", by_spec(runs()))
    assert main(["check", "runs/tickets", "--against", "gate"]) == 0
    put(tmp_path / "runs/worse/tickets", by_spec(runs("now", shift={"lora": -0.05})))
    assert main(["check", "runs/worse/tickets", "--against", "gate", "--markdown", "comment.md"]) == 1
    assert "lora-bench baseline show gate" in (tmp_path / "comment.md").read_text()


@pytest.mark.parametrize("options", [[], ["--against", "x", "--baseline", "y"]])
def test_runs_are_held_against_one_thing(options, capsys):
    with pytest.raises(SystemExit) as end:
        main(["check", "runs/tickets", *options])
    assert end.value.code == 2 and "--baseline" in capsys.readouterr().err
