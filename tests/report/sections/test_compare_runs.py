"""Two sets of runs side by side: what may be compared with what, and what differs."""

import pytest

from lora_bench.cli import main
from lora_bench.errors import LoraBenchError
from lora_bench.records.analysis import Analysis, UntilDecided
from lora_bench.records.sealed_records import to_json
from lora_bench.records.store import Answers
from lora_bench.report.blocks import to_markdown
from lora_bench.report.sections.compare_runs import RunSet, hold_against, two_sets_page
from tests.report.test_markdown import tables
from tests.sample_records import record

SCORES = (0.80, 0.81, 0.79, 0.80, 0.82, 0.78, 0.80, 0.81, 0.79, 0.80)


def run_set(name, method="lora", by=0.0, answers=lambda run_id: None, scores=SCORES, **given):
    records = [
        record(method, seed=seed, score=score + by * (1 + seed % 2), **given) for seed, score in enumerate(scores)
    ]
    return RunSet(name, records, answers)


def at_margin(margin):
    return Analysis(reference="a", margin=margin)


def page(*sets):
    return to_markdown(two_sets_page(hold_against(*sets)))


def test_a_change_of_score_is_second_less_first():
    sets = hold_against(run_set("before"), run_set("after", by=0.01))
    (pair,) = sets.pairs
    # One and two points in turn.
    assert pair.verdict.difference == pytest.approx(0.015)
    assert (pair.verdict.verdict, pair.differs) == ("better", ())
    (back,) = hold_against(run_set("after", by=0.01), run_set("before")).pairs
    assert (back.verdict.verdict, back.verdict.difference) == ("worse", pytest.approx(-0.015))


def test_seeds_that_were_added_until_decided_leave_a_look_its_share_of_the_error_level():
    rule = Analysis(reference="full", seeds=UntilDecided(until="decided", at_least=10, at_most=20))
    looked, fixed = (
        hold_against(run_set("before"), run_set("after", by=0.01, changes={"analysis": analysis})).pairs[0].verdict
        for analysis in (rule, None)
    )
    # Looks at 10, 14, 19 and 20 seeds: the first three share a quarter.
    assert looked.p_value == pytest.approx(12 * fixed.p_value)


def test_runs_of_both_sets_are_held_against_what_the_first_set_s_rows_ask_of_a_run_that_learned():
    low, high = [score - 0.2 for score in SCORES], [score - 0.1 for score in reversed(SCORES)]
    before, after = run_set("before", scores=low, majority=0.5), run_set("after", scores=high, majority=0.62)
    (up,), (down,) = hold_against(before, after).pairs, hold_against(after, before).pairs
    # Ten runs around .60 learned something beside .5, and nothing beside .62.
    assert (up.first.least_learned, up.second.least_learned) == (
        pytest.approx(0.52, abs=0.01),
        pytest.approx(0.64, abs=0.01),
    )
    assert (up.verdict.apart, down.verdict.apart) == (False, True)
    # The least p of ten runs of two kinds.
    assert up.verdict.adjusted_p < 2 / 4**10 == pytest.approx(down.verdict.adjusted_p)


def test_an_open_verdict_says_what_holds_unless_runs_collapse():
    # Half a point more and less in turn: ± .003 at 90 % is within two points, which ten seeds show only if no run collapses.
    after = run_set("after", scores=[score + (0.005, -0.005)[seed % 2] for seed, score in enumerate(SCORES)])
    text = page(run_set("before"), after, at_margin(0.02))
    assert text.splitlines()[2] == "Of 1 comparison, after is equivalent unless over 5.6 % of runs collapse in 1."


def test_costs_beside_other_work_are_marked():
    alone, beside = (page(run_set("a"), run_set("b", exclusive=exclusive)) for exclusive in (True, False))
    assert "‡" not in alone
    assert "+0.0 %‡" in beside and "‡ Other work ran on the machine at the time" in beside


def test_the_same_runs_again_are_no_different():
    text = page(run_set("monday"), run_set("tuesday"))
    assert "better" not in text.split("## ")[0].splitlines()[2]
    assert "nothing in their specs" in text
    assert "the same, run by run" in text


def test_what_differs_is_named():
    text = page(run_set("before"), run_set("after", learning_rate=1e-2, training={"weight_decay": 0.1}))
    assert "every pair: `training.learning_rate` and `training.weight_decay`" in text


def test_other_weights_of_a_base_model_are_named():
    other = run_set("after")
    model = other.records[0].spec.model.model_copy(update={"sha256": "f" * 64})
    changed = [
        one.model_copy(update={"spec": one.spec.model_copy(update={"model": model}), "run_id": f"{index:016x}"})
        for index, one in enumerate(other.records)
    ]
    assert "`model.sha256`" in page(run_set("before"), RunSet("after", changed, other.answers))


@pytest.mark.parametrize(
    ("given", "named"),
    [({"spec": {"score_on": None}}, "score_on"), ({"metric": "f1"}, "task.metric")],
)
def test_scores_of_other_things_are_not_held_against_each_other(given, named):
    sets = hold_against(run_set("before"), run_set("after", by=0.01, **given))
    assert sets.pairs == ()
    assert named in sets.apart[0]
    assert "No two rows can be compared." in to_markdown(two_sets_page(sets))


def test_rows_of_one_set_alone_are_listed():
    first = run_set("a")
    both = RunSet("b", [*run_set("b").records, *run_set("b", method="full").records], first.answers)
    text = page(first, both)
    assert "## Only in b" in text and "full" in text.split("## Only in b")[1]
    assert "## Only in a" not in text


def test_sets_with_nothing_in_common_are_refused_with_what_they_have():
    with pytest.raises(LoraBenchError, match=r"share no task.*vader_film.*lora.*other"):
        hold_against(run_set("a"), run_set("b", task="other"))


def test_the_margin_decides_what_is_equivalent():
    sets = run_set("a", scores=SCORES * 3), run_set("b", by=0.002, scores=SCORES * 3)
    assert hold_against(*sets, at_margin(0.01)).pairs[0].verdict.verdict == "equivalent"
    assert hold_against(*sets, at_margin(0.001)).pairs[0].verdict.verdict == "better"


def test_a_run_that_learned_nothing_leaves_the_margin_undecided():
    fallen = run_set("b", by=0.002, scores=(*SCORES * 3, 0.5))
    sets = run_set("a", scores=(*SCORES * 3, 0.8)), fallen
    verdict = hold_against(*sets, at_margin(0.2)).pairs[0].verdict
    assert verdict.apart and verdict.verdict == "inconclusive"
    assert "none is equivalent" in page(*sets, at_margin(0.2))


def test_predictions_of_each_set_are_its_own():
    """The same run ids in both sets, as of a run that was repeated: each set's predictions are asked of it."""

    def answers(right):
        return lambda run_id: Answers([int(item < right) for item in range(4)], [1] * 4)

    first = run_set("a", scores=(0.5, 0.5, 0.5), answers=answers(2))
    second = run_set("b", scores=(0.75, 0.75, 0.75), answers=answers(3))
    (pair,) = hold_against(first, second).pairs
    assert pair.by_items


def test_costs_stand_beside_scores():
    parts = tables(page(run_set("a", step_seconds=0.05), run_set("b", step_seconds=0.06)))
    cells = {name: cell for header, _, line in parts for name, cell in zip(header, line, strict=True)}
    assert (cells["step time"], cells["peak memory"]) == ("+20.0 %", "+0.0 %")


def test_the_command_writes_a_page_and_names_the_sets_by_what_tells_them_apart(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    for name, by in (("monday", 0.0), ("tuesday", 0.01)):
        for one in run_set(name, by=by).records:
            path = tmp_path / name / "nightly" / one.run_id / "record.json"
            path.parent.mkdir(parents=True)
            path.write_bytes(to_json(one))
    assert main(["compare", "monday/nightly", "tuesday/nightly", "--margin", "0.002", "--out", "out"]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == "Of 1 comparison, tuesday/nightly is better in 1."
    text = (tmp_path / "out" / "compare.md").read_text(encoding="utf-8")
    assert text.startswith("# tuesday/nightly against monday/nightly\n")
    assert "**better** by more than the margin" in text
    assert "<table" in (tmp_path / "out" / "compare.html").read_text(encoding="utf-8")
    with pytest.raises(SystemExit) as stopped:
        main(["compare", "monday/nightly", "tuesday/nightly", "--margin", "0"])
    assert stopped.value.code == 2
    assert main(["compare", "monday/nightly", "wednesday"]) == 2
    assert "wednesday does not exist" in capsys.readouterr().err
