"""Verdicts of a report: from records to comparisons, and to sentences that say no more than the table."""

import math
import re

import pytest
import scipy.stats
from markdown_it import MarkdownIt

from lora_bench.analysis import Analysis, default_analysis
from lora_bench.protocol import PROTOCOLS
from lora_bench.record import Predictions
from lora_bench.report.comparison import compare
from lora_bench.report.judging import judge_comparison
from lora_bench.report.verdicts import answer, verdict_lines, verdict_words
from lora_bench.stats import holm
from lora_bench.store import Answers, answers_in, to_json
from tests.records import record
from tests.report.test_markdown import tables

RULES = Analysis(reference="full", margin=0.005)
FULL = (0.80, 0.81, 0.79, 0.80, 0.82, 0.78, 0.80, 0.81, 0.79, 0.80)


def runs(method: str, scores, rules: Analysis | None = RULES, **given):
    """One run for each score, with seeds from 0; None is a run that diverged."""
    return [
        record(
            method, seed=seed, score=score, changes={"analysis": rules},
            **({"status": "diverged", "reason": "the loss was nan"} if score is None else {}), **given,
        )
        for seed, score in enumerate(scores)
    ]  # fmt: skip


def shifted(by, scores=FULL):
    """Scores that differ by *by*, or by each of several in turn."""
    each = by if isinstance(by, tuple) else (by,)
    return [score + each[index % len(each)] for index, score in enumerate(scores)]


def judged(records, **given):
    return judge_comparison(compare(records), records, **given)


def verdict_on(by, **given):
    records = runs("full", FULL, **given) + runs("lora", shifted(by), **given)
    return judged(records).held[0].verdict


def test_the_difference_and_its_interval_by_hand():
    records = runs("full", (0.8, 0.8, 0.8)) + runs("lora", (0.81, 0.82, 0.83))
    (held,) = judged(records).held
    # Differences .01, .02 and .03: mean .02, standard deviation .01, and t(.975; 2) = 4.3027.
    assert held.verdict.difference == pytest.approx(0.02)
    half = 4.3027 * 0.01 / math.sqrt(3)
    assert held.verdict.interval.low == pytest.approx(0.02 - half, abs=1e-5)
    assert held.verdict.p_value == pytest.approx(scipy.stats.ttest_rel((0.81, 0.82, 0.83), (0.8,) * 3).pvalue)
    assert held.verdict.verdict == "non-inferior"
    assert held.verdict.grade == "exploratory"


def test_each_verdict_by_what_it_takes():
    assert verdict_on((0.019, 0.021)).verdict == "better"
    assert verdict_on((0.019, 0.021)).beyond_margin
    assert verdict_on((-0.019, -0.021)).verdict == "worse"
    assert verdict_on((0.001, -0.001)).verdict == "equivalent"
    assert verdict_on((0.001, -0.001)).small_but_real is None
    # A tenth of a point at every seed, give or take a fiftieth: real, and of no matter.
    small = verdict_on((0.0008, 0.0012))
    assert (small.verdict, small.small_but_real) == ("equivalent", "better")
    assert verdict_words(small) == "**equivalent**, and slightly better"
    assert verdict_on((0.06, -0.05)).verdict == "inconclusive"
    assert verdict_on((0.03, -0.004)).verdict in ("better", "non-inferior")


def test_lower_is_better_turns_better_into_worse_and_the_difference_stays():
    verdict = verdict_on((0.019, 0.021), metric="ter", higher_is_better=False)
    assert (verdict.verdict, round(verdict.difference, 3)) == ("worse", 0.02)


def test_all_comparisons_of_a_report_are_one_family():
    records = runs("full", FULL) + runs("lora", shifted((0.004, 0.0, 0.01)))
    alone = judged(records).held[0].verdict
    more = records + runs("bottleneck_adapter", shifted((0.02, -0.02)))
    more += [
        one for name in ("full", "lora", "bottleneck_adapter")
        for one in runs(name, FULL if name == "full" else shifted((0.0, 0.01, -0.02)), task="other")
    ]  # fmt: skip
    held = judged(more).held
    assert len(held) == 4
    assert {one.verdict.family for one in held} == {4}
    raw = [one.verdict.p_value for one in held]
    assert [one.verdict.adjusted_p for one in held] == [one.p_value for one in holm(raw, 0.05)]
    same = next(one for one in held if one.row.label == "lora" and one.setting.spec.task.name == "vader_film")
    assert same.verdict.p_value == alone.p_value
    assert same.verdict.adjusted_p >= alone.adjusted_p


def test_rules_are_those_that_the_records_carry():
    records = runs("full", FULL) + runs("lora", shifted(0.01))
    assert judged(records).declared == "before"
    bare = runs("full", FULL, rules=None) + runs("lora", shifted(0.01), rules=None)
    assert judged(bare).declared == "never"
    assert judged(bare).analysis == Analysis(reference="full")


def test_rules_that_were_changed_are_said_to_be():
    other = Analysis(reference="full", margin=0.05)
    mixed = runs("full", FULL) + runs("lora", shifted(0.01), rules=other)
    found = judged(mixed)
    assert found.declared == "changed"
    assert "changed afterwards" in "\n".join(verdict_lines(found))
    assert "rules that were changed after some of the runs" in "\n".join(answer(found))
    asked = judged(runs("full", FULL) + runs("lora", shifted(0.01)), analysis=other)
    assert (asked.declared, asked.analysis) == ("changed", other)


def test_the_reference_may_be_another_method():
    rules = Analysis(reference="lora")
    records = runs("full", FULL, rules=rules) + runs("lora", shifted((0.019, 0.021)), rules=rules)
    (held,) = judged(records).held
    assert (held.row.label, held.verdict.verdict) == ("full", "worse")


@pytest.mark.parametrize(
    ("records", "said"),
    [
        (
            [
                one
                for name in ("full", "lora")
                for one in runs(name, FULL, spec={"rules": PROTOCOLS["paper"], "protocol": "paper"})
            ],
            "chooses on the split that it reports",
        ),
        (runs("bottleneck_adapter", FULL) + runs("lora", FULL), "full was not run there"),
        ([*runs("full", FULL[:2]), record("lora", seed=7, changes={"analysis": RULES})], "they share no seed"),
        (runs("full", FULL) + runs("lora", (None, None)), "no run of lora has a score"),
    ],
)
def test_what_is_not_judged_is_named_with_its_reason(records, said):
    judgeable = runs("full", FULL, task="other") + runs("lora", shifted(0.01), task="other")
    found = judged([*records, *judgeable])
    assert [one.setting.spec.task.name for one in found.held] == ["other"]
    assert any(said in reason for reason in found.left_out)
    assert judged(records) is None  # nothing else to say, so no section


def test_a_failure_counts_at_the_floor_in_a_column_of_its_own():
    records = runs("full", (0.8, 0.8, 0.8)) + runs("lora", (0.8, 0.83, None), majority=0.5)
    (held,) = judged(records).held
    assert held.difference.pairs == 2
    # (.80 + .83 + .50) / 3 less .80.
    assert held.at_floor == pytest.approx(0.71 - 0.8)
    page = "\n".join(verdict_lines(judged(records)))
    assert "failures at the floor" in page and "−0.0900" in page
    assert "| `lora` | 3 | 1 (1 % to 91 %) |" in page  # Clopper-Pearson: scipy's binomtest(1, 3) has .0084 and .9057


def test_two_seeds_are_too_few_for_a_verdict():
    (held,) = judged(runs("full", (0.5, 0.6)) + runs("lora", (0.9, 0.91))).held
    assert held.verdict.verdict == "inconclusive"
    assert "fewer than the 3" in held.verdict.reason


# Test items.


def answers_of(right: dict[str, list[int]], items: int):
    """Predictions of runs that are right on the items listed, of references that are all 1."""
    return lambda run_id: Answers([int(item in right[run_id]) for item in range(items)], [1] * items)


def test_few_test_items_widen_the_interval():
    """Scores hardly move from seed to seed, but there are only 20 items: others would give other scores."""
    full = [[*range(12)], [*range(12)], [*range(13)]]
    lora = [[*range(6, 20)], [*range(6, 20)], [*range(6, 20)]]
    records = runs("full", [len(one) / 20 for one in full]) + runs("lora", [len(one) / 20 for one in lora])
    right = dict(zip([one.run_id for one in records], full + lora, strict=True))
    (bare,), (held,) = judged(records).held, judged(records, answers=answers_of(right, 20)).held
    assert (bare.items, held.items is not None) == (None, True)
    assert (bare.verdict.interval.source, held.verdict.interval.source) == ("t", "bootstrap")
    widths = [one.verdict.interval.high - one.verdict.interval.low for one in (bare, held)]
    assert widths[1] > widths[0]
    assert bare.verdict.difference == held.verdict.difference


def test_items_enter_only_where_all_runs_have_the_same(tmp_path):
    records = runs("full", (0.5, 0.5, 0.75)) + runs("lora", (0.75, 0.75, 0.5))
    right = {one.run_id: [*range(round(one.score * 4))] for one in records}
    whole = answers_of(right, 4)

    def one_lacks(run_id):
        return None if run_id == records[0].run_id else whole(run_id)

    def one_has_others(run_id):
        return Answers([1], [1]) if run_id == records[0].run_id else whole(run_id)

    assert judged(records, answers=whole).held[0].items is not None
    assert judged(records, answers=one_lacks).held[0].items is None
    assert judged(records, answers=one_has_others).held[0].items is None


def test_stored_predictions_are_read_from_runs_and_baselines_and_only_as_recorded(tmp_path):
    import hashlib

    content = b'{"ids_sha256": "x", "predictions": [1, 0], "references": [1, 1]}'
    said = Predictions(file="predictions.json", sha256=hashlib.sha256(content).hexdigest(), count=2, ids_sha256="x")
    one = record("lora", changes={"predictions": said})
    for folder, file in (
        ("runs", f"{one.run_id}/predictions.json"),
        ("baseline", f"records/{one.run_id}.predictions.json"),
    ):
        path = tmp_path / folder / file
        path.parent.mkdir(parents=True)
        path.write_bytes(content)
        read = answers_in(tmp_path / folder, [one])
        assert read(one.run_id) == Answers([1, 0], [1, 1])
        path.write_bytes(content.replace(b"[1, 0]", b"[1, 1]"))
        assert read(one.run_id) is None
    assert answers_in(tmp_path / "nowhere", [one])(one.run_id) is None
    assert answers_in(tmp_path, [record("full")])("unknown") is None


# Over tasks, and in words.


def over_two_tasks():
    return [
        one
        for task, by in (("vader_film", (0.02, 0.021)), ("other", (0.01, 0.012)))
        for one in (*runs("full", FULL, task=task), *runs("lora", shifted(by), task=task))
    ]


def test_tasks_count_alike():
    (across,) = judged(over_two_tasks()).across
    # Mean of .0205 and .011.
    assert across.verdict.difference == pytest.approx(0.01575)
    assert (across.difference.wins, across.verdict.verdict) == (2, "better")
    assert judged(runs("full", FULL) + runs("lora", FULL)).across == ()


def test_a_metric_that_is_no_share_enters_no_mean_over_tasks_and_has_no_margin():
    records = over_two_tasks()
    records += runs("full", FULL, task="e2e", metric="nist") + runs(
        "lora", shifted((0.5, 0.6)), task="e2e", metric="nist"
    )
    found = judged(records, analysis=Analysis(reference="full"))
    assert len(found.held) == 3
    assert len(found.across[0].difference.tasks) == 2
    nist = next(one for one in found.held if one.setting.spec.task.name == "e2e")
    assert (nist.verdict.margin, nist.verdict.verdict) == (None, "better")


def test_three_sentences_count_what_the_table_has():
    records = over_two_tasks() + runs("prefix_tuning", shifted((0.06, -0.05)), task="other")
    found = judged(records)
    (text,) = answer(found)[2:]
    assert len(re.findall(r"\.(?= [A-Z`]|$)", text)) == 3
    assert "`lora` is better in 2 of 2" in text
    assert "`prefix_tuning` is undecided in 1 of 1" in text
    assert "ten or more seeds" in text
    lines = tables("\n".join(verdict_lines(found)))[0][2:]
    words = [line[7] for line in lines]
    assert sum("better" in word for word in words) == 2
    assert sum("inconclusive" in word for word in words) == 1


def test_runs_that_learned_nothing_are_in_the_answer():
    (text,) = answer(judged(runs("full", (0.5, 0.8, 0.8)) + runs("lora", (0.8, 0.8, 0.81))))[2:]
    assert "and 1 of 6 runs scored no better than the majority class" in text
    assert len(re.findall(r"\.(?= [A-Z`]|$)", text)) == 3
    (text,) = answer(judged(runs("full", (0.7, 0.8, 0.8)) + runs("lora", (0.8, 0.8, 0.81))))[2:]
    assert "majority" not in text


def test_a_search_is_no_result_and_needs_no_word():
    trials = runs("full", FULL[:2], spec={"score_on": "selection"}, task="other")
    found = judged(runs("full", FULL) + runs("lora", shifted(0.01)) + trials)
    assert (len(found.held), found.left_out) == (1, ())


def test_what_it_would_take_is_said_of_no_more_than_what_has_an_estimate():
    full = runs("full", FULL[:3]) + runs("full", FULL[:3], task="other")
    hopeful = runs("lora", shifted((0.06, -0.02, 0.02), FULL[:3]), task="other")
    same = runs("lora", FULL[:3])  # no spread, so no estimate
    (needed,) = (one.verdict.needed.seeds for one in judged(full + hopeful).held)
    assert f"to decide it would take about {needed} seeds." in answer(judged(full + hopeful))[2]
    both = judged(full + hopeful + same)
    (needed,) = (one.verdict.needed.seeds for one in both.held if one.verdict.needed is not None)
    said = f"of the 2 undecided, 1 has an estimate of the seeds that would decide, {needed} in the middle."
    assert said in answer(both)[2]


def test_where_nothing_is_decided_no_method_is_named_a_winner():
    records = runs("full", FULL[:3]) + runs("lora", shifted((0.06, -0.05), FULL[:3]))
    (text,) = answer(judged(records))[2:]
    assert "It is not decided" in text and "better in" not in text
    assert "exploratory" in text
    (text,) = answer(judged(runs("full", FULL[:2]) + runs("lora", (0.9, 0.95))))[2:]
    assert "It is not decided: 2 seeds of each method are too few for a verdict." in text


def test_hostile_names_are_text():
    hostile = "<script>alert(1)</script> | [x](http://example.com) @someone"
    method = record("lora").spec.method.model_copy(update={"label": hostile})
    records = runs("full", FULL, task=hostile, model=hostile) + runs(method, shifted(0.01), task=hostile, model=hostile)
    page = "\n".join([*answer(judged(records)), *verdict_lines(judged(records))])
    rendered = MarkdownIt("commonmark").enable("table").render(page)
    assert "alert(1)" in rendered
    assert "<script" not in rendered and "<a " not in rendered


# The declaration.


def test_defaults_hold_methods_against_full_and_else_lora():
    assert default_analysis(["lora", "full"]).reference == "full"
    assert default_analysis(["prefix_tuning", "lora"]).reference == "lora"
    assert default_analysis(["ia3", "vera"]).reference == "ia3"
    assert default_analysis(["lora"]) is None


def test_margins_are_half_a_point_of_shares_and_what_a_suite_says():
    assert Analysis(reference="full").margin_of("rte", "accuracy") == 0.005
    assert Analysis(reference="full").margin_of("mnli", "mismatched/accuracy") == 0.005
    assert Analysis(reference="full").margin_of("e2e", "nist") is None
    assert Analysis(reference="full", margin={"rte": 0.02}).margin_of("rte", "accuracy") == 0.02
    assert Analysis(reference="full", margin={"rte": 0.02}).margin_of("cola", "matthews_correlation") == 0.005
    assert Analysis(reference="full", margin=0.01).margin_of("e2e", "nist") == 0.01


def test_a_record_carries_its_declaration_and_its_hash_moves_with_it():
    one = record("lora", changes={"analysis": RULES})
    assert b'"reference": "full"' in to_json(one)
    assert RULES.sha256 != Analysis(reference="full", margin=0.006).sha256
    assert RULES.sha256 == Analysis(reference="full", margin=0.005).sha256
    # The declaration is no part of what is run.
    assert one.run_id == record("lora").run_id
