"""Verdicts of a report: from records to comparisons, and to sentences that say no more than the table."""

import math
import re
import statistics

import pytest
import scipy.stats
from markdown_it import MarkdownIt

from lora_bench.errors import BadInput, LoraBenchError
from lora_bench.records.analysis import Analysis, UntilDecided, default_analysis
from lora_bench.records.baseline_folder import accept
from lora_bench.records.protocol import PROTOCOLS
from lora_bench.records.record import Predictions, Probabilities
from lora_bench.records.sealed_records import to_json
from lora_bench.records.store import Answers, RunFolder, answers_in, write_atomic
from lora_bench.report import Report, render_markdown
from lora_bench.report.blocks import to_markdown
from lora_bench.report.model.comparison import compare
from lora_bench.report.model.judged import judge_comparison
from lora_bench.report.model.reference import Question
from lora_bench.report.model.searches import beside
from lora_bench.report.sections.answer import answer
from lora_bench.report.sections.by_task import over_tasks_blocks
from lora_bench.report.sections.verdicts import numbers, seeds_added, verdict_section, verdict_words, without_result
from lora_bench.stats import holm
from tests.report.test_markdown import tables
from tests.sample_records import BUDGET, record

RULES = Analysis(reference="full", margin=0.005)
FULL = (0.80, 0.81, 0.79, 0.80, 0.82, 0.78, 0.80, 0.81, 0.79, 0.80)
# As many as exclude that a method collapses in a tenth of its runs.
MANY = FULL * 3


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


def said_of(records, **given):
    """The paragraphs."""
    return " ".join(answer(judged(records, **given)))


def verdict_on(by, scores=FULL, **given):
    records = runs("full", scores, **given) + runs("lora", shifted(by, scores), **given)
    return judged(records).held[0].verdict


def test_the_difference_and_its_interval_by_hand():
    records = runs("full", (0.8, 0.8, 0.8, 0.8)) + runs("lora", (0.81, 0.82, 0.84, 0.81))
    (held,) = judged(records).held
    # Differences .01, .02, .04 and .01: mean .02, standard deviation √.0002, and t(.975; 3) = 3.1824.
    assert held.verdict.difference == pytest.approx(0.02)
    half = 3.18245 * math.sqrt(0.0002) / 2
    assert held.verdict.interval.low == pytest.approx(0.02 - half, abs=1e-5)
    assert held.verdict.p_value == pytest.approx(scipy.stats.ttest_rel((0.81, 0.82, 0.84, 0.81), (0.8,) * 4).pvalue)
    assert (held.verdict.verdict, held.verdict.unless_collapse) == ("inconclusive", "non-inferior")
    assert verdict_words(held.verdict) == (
        # Room is .02 − 2.353 √.0002 / 2 + .005, and a collapse costs .82 − .5; 1 − .05^(1/4) is excluded.
        "inconclusive; non-inferior unless it collapses in over 2.6 % of runs (53 % excluded), at these rates"
    )
    assert "takes 29 seeds, and more in a family" in to_markdown(verdict_section(judged(records)))
    assert held.verdict.grade == "exploratory"


def test_each_verdict_by_what_it_takes():
    assert verdict_on((0.019, 0.021)).verdict == "better"
    assert verdict_on((0.019, 0.021)).beyond_margin
    assert verdict_on((-0.019, -0.021)).verdict == "worse"
    assert verdict_on((0.001, -0.001), MANY).verdict == "equivalent"
    assert verdict_on((0.001, -0.001), MANY).small_but_real is None
    few = verdict_on((0.0008, 0.0012))
    assert (
        verdict_words(few)
        == "**better**; equivalent unless it collapses in over 0.2 % of runs (26 % excluded), at these rates"
    )
    # A tenth of a point at every seed, give or take a fiftieth: real, and of no matter.
    small = verdict_on((0.0008, 0.0012), MANY)
    assert (small.verdict, small.small_but_real) == ("equivalent", "better")
    assert verdict_words(small) == (
        "**equivalent**, and slightly better unless the reference collapses in over 1.3 % of runs (9.6 % excluded), "
        "at these rates"
    )
    assert verdict_on((0.06, -0.05)).verdict == "inconclusive"
    assert verdict_on((0.03, -0.004)).verdict in ("better", "non-inferior")


def trials_of(method, scores):
    """Trials at two rates, of which the results have the second."""
    return [
        record(method, score=score, seed=100 + seed, learning_rate=rate, spec={"score_on": "selection"})
        for rate, of_rate in zip((5e-4, 1e-3), scores, strict=True)
        for seed, score in enumerate(of_rate)
    ]


def test_the_choice_of_both_rates_stands_beside_the_verdict_and_in_its_interval():
    results = [*runs("full", FULL), *runs("lora", shifted((0.02, 0.03)))]
    # Twenty standard deviations apart: always the same rate. A coin decides between 0.70 and 0.72: an SD of 0.01.
    clear, coin = ([0.59, 0.61], [0.89, 0.91]), ([0.60, 0.80], [0.62, 0.82])

    def verdict(*trials):
        return judged([*results, *trials]).held[0].verdict

    alone = verdict(*trials_of("lora", coin))
    assert alone.choice_sd is None and verdict_words(alone).endswith("at these rates")
    sure = verdict(*trials_of("lora", clear), *trials_of("full", clear))
    assert sure.choice_sd == pytest.approx(0, abs=1e-9) and sure.interval.low == pytest.approx(alone.interval.low)
    wide = verdict(*trials_of("lora", coin), *trials_of("full", clear))
    assert wide.choice_sd == pytest.approx(0.01, rel=0.1) and "rates" not in verdict_words(wide)
    assert wide.interval.low < alone.interval.low and wide.interval.high > alone.interval.high
    shorter = [
        record("full", score=0.9, learning_rate=rate, spec={"score_on": "selection"}, training={"steps": 9})
        for rate in (1e-3, 1e-2)
    ]
    assert verdict(*trials_of("lora", coin), *shorter).choice_sd is None
    both = judged([*results, *trials_of("lora", coin), *trials_of("full", clear)])
    assert "SD of the choice" in to_markdown(verdict_section(both))


def test_of_a_comparison_with_a_run_at_the_majority_or_one_that_diverged_nothing_is_equivalent():
    """Thirty seeds that agree to a tenth of a point, but for one of the method: no mean is known to half a point then."""
    for last in (0.5, None):
        records = runs("full", MANY) + runs("lora", [*shifted((0.001, -0.001), MANY)[:-1], last])
        (held,) = judged(records).held
        assert held.verdict.apart and held.verdict.verdict == "inconclusive"
        assert held.verdict.equivalence_p is None and held.verdict.unless_collapse is None
        assert "none is equivalent or non-inferior" in to_markdown(verdict_section(judged(records)))


def test_four_seeds_at_the_majority_against_four_that_learned_show_no_difference_in_a_large_family():
    """The probability that like methods come to this is up to 2 / 4⁴ = .008, which eight comparisons take eight times."""
    full, like = (0.80, 0.81, 0.79, 0.80), (0.81, 0.80, 0.79, 0.80)
    records = runs("full", full) + runs("lora", (0.5, 0.5001, 0.4999, 0.5))
    (alone,) = judged(records).held
    assert (alone.verdict.verdict, alone.verdict.p_value) == ("worse", pytest.approx(2 / 256))
    more = [one for n in range(6) for one in runs("full", full, model=f"m{n}") + runs("lora", like, model=f"m{n}")]
    found = judged(records + runs("bottleneck_adapter", like) + more)
    adapter, lora = (
        next(held for held in found.held if held.row.label == label and not held.table.model.shown.startswith("m"))
        for label in ("bottleneck_adapter", "lora")
    )
    assert (lora.verdict.verdict, lora.verdict.adjusted_p) == ("inconclusive", pytest.approx(8 * 2 / 256))
    # The pair without the reference is the only one of its own family, and is told apart at .008.
    assert [found.rank_of(row).letters for row in (adapter.row, lora.reference, lora.row)] == ["a", "ab", "b"]


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


def test_suites_with_rules_of_their_own_have_not_changed_them():
    other = Analysis(reference="full", margin=0.05)
    mine = [*runs("full", FULL), *runs("lora", shifted(0.01))]
    theirs = [
        *runs("full", FULL, other, suite="theirs", task="b"),
        *runs("lora", shifted(0.02), other, suite="theirs", task="b"),
    ]
    found = judged([*mine, *theirs, *runs("prefix_tuning", shifted(0.0))])
    assert (found.declared, found.analysis) == ("several", RULES)
    assert judged([*mine, *(one.model_copy(update={"suite": mine[0].suite}) for one in theirs)]).declared == "changed"
    first = render_markdown(Report([*mine, *theirs])).partition("\n## ")[0]
    assert "**The suites of these runs declared different rules**" in first and "changed after" not in first


def test_a_readers_margin_and_error_level_give_the_verdicts_and_are_said_to_be_asked_afterwards():
    records = runs("full", MANY) + runs("lora", shifted((0.001, -0.001), MANY))
    declared, asked = (Report(records, asked=one) for one in (Question(), Question(margin=0.0001, alpha=0.01)))
    assert declared.judged.held[0].verdict.verdict == "equivalent"
    (held,) = asked.judged.held
    assert (held.verdict.verdict, held.verdict.margin, held.verdict.alpha) == ("inconclusive", 0.0001, 0.01)
    again = [
        one.model_copy(update={"analysis": Analysis(reference="full", margin=0.0001, alpha=0.01)}) for one in records
    ]
    assert held.verdict == Report(again).judged.held[0].verdict
    first = render_markdown(asked).partition("\n## ")[0]
    said = "**Asked afterwards:** a reader's margin of 0.0001 and error level of 0.01, not declared before the runs."
    assert said in first and "rules asked afterwards" in first and "rules declared before the runs" not in first
    assert "*interval*: at 99 % for all comparisons at once" in render_markdown(asked)
    assert said not in render_markdown(declared)


def test_to_ask_what_was_declared_changes_nothing():
    records = runs("full", FULL) + runs("lora", shifted(0.01))
    assert render_markdown(Report(records, asked=Question(0.005, 0.05))) == render_markdown(Report(records))
    # The default margin of accuracy, which nobody wrote down.
    bare = runs("full", FULL, rules=None) + runs("lora", shifted(0.01), rules=None)
    assert judged(bare, asked=Question(margin=0.005)).asked == Question()


def test_a_readers_question_pays_for_seeds_that_were_added():
    few = [Analysis(reference="full", margin=0.005, fixed_seeds=seeds) for seeds in (5, 10)]
    records = [
        one.model_copy(update={"analysis": few[one.spec.seed >= 5]})
        for one in (*runs("full", FULL), *runs("lora", shifted((0.01, 0.03))))
    ]
    once, twice = (judged(of, asked=Question(margin=0.02)) for of in (records[:5] + records[10:15], records))
    assert (once.declared, twice.declared) == ("before", "added")
    plain = judged([one.model_copy(update={"analysis": RULES}) for one in records])
    assert twice.held[0].verdict.p_value == pytest.approx(2 * plain.held[0].verdict.p_value)


def test_a_margin_of_points_is_refused_where_scores_are_shares():
    records = runs("full", FULL) + runs("lora", shifted(0.01))
    with pytest.raises(LoraBenchError, match=r"must be below 1 for these scores, .* got 2; did you mean 0\.02\?"):
        judged(records, asked=Question(margin=2.0))
    scores = [runs(name, (20.0, 21.0, 22.0, 23.0), metric="perplexity") for name in ("full", "lora")]
    assert judged([*scores[0], *scores[1]], asked=Question(margin=2.0)).held[0].verdict.margin == 2.0


def test_rules_that_were_changed_are_said_to_be():
    other = Analysis(reference="full", margin=0.05)
    mixed = runs("full", FULL) + runs("lora", shifted(0.01), rules=other)
    found = judged(mixed)
    assert found.declared == "changed"
    assert "that were changed after some of the runs" in said_of(mixed)
    asked = judged(runs("full", FULL) + runs("lora", shifted(0.01)), analysis=other)
    assert (asked.declared, asked.analysis) == ("changed", other)


def test_seeds_that_were_added_after_verdicts_are_paid():
    # A suite that looked at 3 and 4 seeds, and was then run with ten of each method.
    looks = [UntilDecided(until="decided", at_least=first, at_most=last) for first, last in ((3, 4), (10, 10))]
    ruled = [Analysis(reference="full", seeds=seeds) for seeds in looks]
    of_all = runs("full", FULL) + runs("lora", shifted((0.009, 0.011)))
    added = [one.model_copy(update={"analysis": ruled[one.spec.seed >= 4]}) for one in of_all]
    found = judged(added)
    assert (found.declared, found.declarations) == ("added", 2)
    assert "this is look 2, so p-values are multiplied by 2" in seeds_added(found)
    (paid,), (whole,) = found.held, judged(of_all).held
    assert paid.verdict.p_value == pytest.approx(2 * whole.verdict.p_value)
    assert "with seeds added after verdicts" in said_of(added)
    # Where more than the seeds differs, the rules were changed.
    other = ruled[1].model_copy(update={"margin": 0.05})
    assert judged([*added[:-1], added[-1].model_copy(update={"analysis": other})]).declared == "changed"


def test_ranks_pay_for_looks_where_runs_collapse():
    # Of the first of six looks: 2 / 4⁴ / .05 is above .05, so a method that collapsed shares a letter with others.
    rules = Analysis(reference="full", seeds=UntilDecided(until="decided", at_least=4, at_most=20))
    fallen = runs("lora", (0.5, 0.501, 0.5, 0.502), rules) + runs("prefix_tuning", (0.7, 0.701, 0.7, 0.702), rules)
    found = judged(runs("full", FULL[:4], rules) + fallen)
    letters = {row.label: set(rank.letters) for row, rank in found.ranks}
    assert letters["lora"] & letters["prefix_tuning"]


def test_a_longer_list_of_seeds_is_a_second_look_too():
    def with_numbers(*numbers):
        of_all = runs("full", FULL) + runs("lora", shifted(0.01))
        planned = [number for number in numbers for _ in range(5)] * 2
        return [
            one.model_copy(update={"analysis": RULES.model_copy(update={"fixed_seeds": number})})
            for one, number in zip(of_all, planned, strict=True)
        ]

    # Five seeds of each method, and then ten.
    found = judged(with_numbers(5, 10))
    assert (found.declared, found.declarations) == ("added", 2)
    # Two seeds cannot have a verdict; records from before the number was kept are of unknown plans.
    assert judged(with_numbers(2, 10)).declared == judged(with_numbers(None, 10)).declared == "before"
    # Two suites with the same rules are no second look.
    apart = [one.model_copy(update={"suite": f"of {one.analysis.fixed_seeds}"}) for one in with_numbers(5, 10)]
    assert judged(apart).declared == "before"


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
    page = to_markdown(verdict_section(judged(records)))
    assert "failures at the floor" in page and "−0.0900" in page
    assert "| `lora` | 3 | 1 (1 % to 91 %) |" in page  # Clopper-Pearson: scipy's binomtest(1, 3) has .0084 and .9057


def test_two_seeds_are_too_few_for_a_verdict():
    (held,) = judged(runs("full", (0.5, 0.6)) + runs("lora", (0.9, 0.91))).held
    assert held.verdict.verdict == "inconclusive"
    assert "fewer than the 4" in held.verdict.reason


# Test items.


def answers_of(right: dict[str, list[int]], items: int):
    """Predictions of runs that are right on the items listed, of references that are all 1."""
    return lambda run_id: Answers([int(item in right[run_id]) for item in range(items)], [1] * items)


def test_more_test_items_are_named_where_they_decide_and_seeds_do_not():
    # Ten seeds agree to an item, of 20: full is right on the first 12 or 13, LoRA on 15 or 16 from the fourth on.
    full = [[*range(13 - seed % 2)] for seed in range(10)]
    lora = [[*range(3, 18 + (seed % 3 == 0))] for seed in range(10)]
    records = runs("full", [len(one) / 20 for one in full]) + runs("lora", [len(one) / 20 for one in lora])
    right = dict(zip([one.run_id for one in records], full + lora, strict=True))
    (held,) = judged(records, answers=answers_of(right, 20)).held
    assert (held.verdict.needed, held.verdict.needed_items) == (None, 165)
    assert numbers(held.verdict, "seeds, items")[-1] == "165 test items"
    assert "some 165 test items" in render_markdown(Report(records, answers=answers_of(right, 20)))
    # Without items seeds are named, and the claim that they would decide.
    (bare,) = judged(runs("full", FULL) + runs("lora", shifted((0.03, -0.02)))).held
    assert numbers(bare.verdict, "seeds")[-1] == f"{bare.verdict.needed.seeds} (a difference)"


def test_few_test_items_widen_the_interval():
    """Scores hardly move from seed to seed, but there are only 20 items: others would give other scores."""
    full = [[*range(12)], [*range(12)], [*range(13)]]
    lora = [[*range(6, 20)], [*range(6, 20)], [*range(6, 20)]]
    records = runs("full", [len(one) / 20 for one in full]) + runs("lora", [len(one) / 20 for one in lora])
    right = dict(zip([one.run_id for one in records], full + lora, strict=True))
    (bare,), (held,) = judged(records).held, judged(records, answers=answers_of(right, 20)).held
    assert (bare.with_items, held.with_items) == (False, True)
    assert (bare.verdict.interval.source, held.verdict.interval.source) == ("t", "bootstrap")
    widths = [one.verdict.interval.high - one.verdict.interval.low for one in (bare, held)]
    assert widths[1] > widths[0]
    assert bare.verdict.difference == held.verdict.difference


def test_copies_of_test_items_decide_no_more_than_the_items():
    """Each item stands there four times; records from before groups were recorded are judged as they were."""
    full = [[*range(12)], [*range(12)], [*range(13)]]
    lora = [[*range(6, 20)], [*range(5, 20)], [*range(6, 20)]]
    records = runs("full", [len(one) / 20 for one in full]) + runs("lora", [len(one) / 20 for one in lora])
    right = dict(zip([one.run_id for one in records], full + lora, strict=True))
    copied = {run: [item + 20 * copy for item in of for copy in range(4)] for run, of in right.items()}
    groups = [item % 20 for item in range(80)]

    def grouped(run_id):
        return answers_of(copied, 80)(run_id)._replace(groups=groups)

    def partly(run_id):
        return (grouped if run_id == records[-1].run_id else answers_of(copied, 80))(run_id)

    def otherwise(run_id):
        one = grouped(run_id)
        return one._replace(groups=[0, 0, *range(2, 80)]) if run_id == records[-1].run_id else one

    distinct, found, old, mixed = (
        judged(records, answers=answers).held[0].verdict
        for answers in (answers_of(right, 20), grouped, answers_of(copied, 80), partly)
    )
    assert (found.interval.low, found.interval.high) == pytest.approx((distinct.interval.low, distinct.interval.high))
    assert found.needed_items == distinct.needed_items
    assert (mixed.interval.low, mixed.interval.high) == pytest.approx((found.interval.low, found.interval.high))
    assert old.interval.high - old.interval.low < 0.7 * (found.interval.high - found.interval.low)
    assert judged(records, answers=otherwise).held[0].with_items is False


def test_groups_are_read_from_the_record_and_refused_where_they_do_not_fit(tmp_path):
    import hashlib

    content = b'{"ids_sha256": "x", "predictions": [1, 0, 0], "references": [1, 1, 1]}'
    sha256 = hashlib.sha256(content).hexdigest()

    def read(groups):
        named = Predictions(file="predictions.json", sha256=sha256, count=3, ids_sha256="x", groups=groups)
        one = record("lora", changes={"predictions": named})
        write_atomic(tmp_path / one.run_id / "predictions.json", content)
        return answers_in(tmp_path, [one])(one.run_id)

    assert read("0,2").groups == [0, 1, 0] and read(None).groups is None
    with pytest.raises(BadInput, match="a group has item 3 of 3"):
        read("0,3")


def test_items_enter_only_where_all_runs_have_the_same(tmp_path):
    records = runs("full", (0.5, 0.5, 0.75)) + runs("lora", (0.75, 0.75, 0.5))
    right = {one.run_id: [*range(round(one.score * 4))] for one in records}
    whole = answers_of(right, 4)

    def one_lacks(run_id):
        return None if run_id == records[0].run_id else whole(run_id)

    def one_has_others(run_id):
        return Answers([1], [1]) if run_id == records[0].run_id else whole(run_id)

    assert judged(records, answers=whole).held[0].with_items is True
    assert judged(records, answers=one_lacks).held[0].with_items is False
    assert judged(records, answers=one_has_others).held[0].with_items is False


def test_lost_predictions_are_named_with_what_they_cost():
    named = {"predictions": Predictions(file="predictions.json", sha256="0" * 64, count=4, ids_sha256="x")}
    records = [
        one.model_copy(update=named)
        for method, scores in (
            ("full", (0.5, 0.5, 0.75)),
            ("lora", (0.75, 0.75, 0.5)),
            ("prefix_tuning", (0.5, 0.5, 0.5)),
        )
        for one in runs(method, scores)
    ]
    whole = answers_of({one.run_id: [*range(round(one.score * 4))] for one in records}, 4)

    def page(*lost):
        found = judged(records, answers=lambda run_id: None if run_id in lost else whole(run_id))
        return found.lost, to_markdown(verdict_section(found))

    assert "stored predictions" not in page()[1]
    lora = next(one.run_id for one in records if one.spec.method.label == "lora")
    lost, said = page(lora)
    assert lost == (lora,)
    assert f"**The stored predictions of 1 run are missing**: `{lora}`. The intervals of 1 comparison therefore" in said
    # Both comparisons need those of the reference.
    _, said = page(*(one.run_id for one in records))
    assert "**The stored predictions of 9 runs are missing**" in said and " and 4 more. The intervals of 2 comp" in said
    # A caller without stored predictions knows nothing of them.
    assert judged(records).lost == ()


def test_stored_predictions_are_read_from_runs_and_baselines_and_only_as_recorded(tmp_path):
    import hashlib

    content = b'{"ids_sha256": "x", "predictions": [1, 0], "references": [1, 1]}\n'
    said = Predictions(file="predictions.json", sha256=hashlib.sha256(content).hexdigest(), count=2, ids_sha256="x")
    one = record("lora", changes={"predictions": said})
    folder = RunFolder(tmp_path / "runs" / one.run_id)
    path = folder.path / "predictions.json"
    write_atomic(path, content)
    folder.publish(one)
    accept(tmp_path / "runs", tmp_path / "baseline")
    for place in ("runs", "baseline"):
        assert answers_in(tmp_path / place, [one])(one.run_id) == Answers([1, 0], [1, 1])
    path.write_bytes(content.replace(b"[1, 0]", b"[1, 1]"))
    assert answers_in(tmp_path / "runs", [one])(one.run_id) is None
    assert answers_in(tmp_path / "nowhere", [one])(one.run_id) is None
    assert answers_in(tmp_path, [record("full")])("unknown") is None


def test_probabilities_are_read_where_they_match_the_record_and_old_records_have_none(tmp_path):
    import hashlib

    beside = {
        "predictions.json": b'{"ids_sha256": "x", "predictions": [1, 0], "references": [1, 1]}',
        "probabilities.json": b'{"probabilities": [[0.1, 0.9], [0.8, 0.2]]}',
    }
    sha256 = {name: hashlib.sha256(content).hexdigest() for name, content in beside.items()}
    said = Predictions(file="predictions.json", sha256=sha256["predictions.json"], count=2, ids_sha256="x")
    kept = Probabilities(file="probabilities.json", sha256=sha256["probabilities.json"])
    one = record("lora", changes={"predictions": said, "probabilities": kept})
    folder = tmp_path / one.run_id
    folder.mkdir()
    for name, content in beside.items():
        (folder / name).write_bytes(content)
    assert answers_in(tmp_path, [one])(one.run_id) == Answers([1, 0], [1, 1], [[0.1, 0.9], [0.8, 0.2]])
    (folder / "probabilities.json").write_bytes(b"{}")
    assert answers_in(tmp_path, [one])(one.run_id) == Answers([1, 0], [1, 1])
    assert answers_in(tmp_path, [one.model_copy(update={"probabilities": None})])(one.run_id) == Answers([1, 0], [1, 1])


# Over tasks.


def over_two_tasks():
    return [
        one
        for task, by in (("vader_film", (0.02, 0.021)), ("other", (0.01, 0.012)))
        for one in (*runs("full", FULL, task=task), *runs("lora", shifted(by), task=task))
    ]


def test_each_cell_over_tasks_stands_below_its_heading():
    records = over_two_tasks()
    drawn = tables(to_markdown(over_tasks_blocks(judged(records), beside(compare(records)))))
    cells = {
        heading: cell
        for header, _, *lines in drawn
        for line in lines
        if line[0] == "`lora`"
        for heading, cell in zip(header, line, strict=True)
    }
    assert (cells["covers"], cells["difference"], cells["seeds"]) == ("seeds", "+0.0158", "10")


def test_tasks_count_alike():
    (group,) = judged(over_two_tasks()).over_tasks
    reference, lora = group.methods
    # Mean of .0205 and .011.
    assert lora.verdict.difference == pytest.approx(0.01575)
    assert (lora.verdict.verdict, dict(lora.shown)) == ("better", {"better": 2})
    # Both tasks have the scores of FULL, whose mean is .8 and whose standard deviation over seeds is .0115.
    half = scipy.stats.t.ppf(0.975, 9) * statistics.stdev(FULL) / math.sqrt(10)
    assert (reference.label, reference.mean.mean, reference.mean.n) == ("full", pytest.approx(0.8), 10)
    assert reference.mean.interval.high == pytest.approx(0.8 + half)
    assert lora.mean.mean == pytest.approx(0.81575)
    assert [(one.rank.best, one.rank.worst) for one in group.methods] == [(2, 2), (1, 1)]
    assert judged(runs("full", FULL) + runs("lora", FULL)).over_tasks == ()


def test_each_target_has_a_mean_over_tasks_and_the_reference_is_in_both():
    small, large = (BUDGET.model_copy(update={"adapter_parameters": target}) for target in (7_680, 15_360))
    records = [
        one for task in ("vader_film", "other")
        for one in (
            *runs("full", FULL, task=task, budget=small),
            *runs("lora", shifted((0.02, 0.021)), task=task, budget=small),
            *runs("bottleneck_adapter", shifted((0.03, 0.031)), task=task, budget=large),
        )
    ]  # fmt: skip
    found = judged(records).over_tasks
    targets = [next(iter(group.settings.values())).parameter_target[1] for group in found]
    assert dict(zip(targets, [[one.label for one in group.methods] for group in found], strict=True)) == {
        7_680: ["full", "lora"], 15_360: ["full", "bottleneck_adapter"],
    }  # fmt: skip


def test_a_method_that_lacks_a_task_has_no_mean_and_no_rank_beside_those_that_have_all():
    records = over_two_tasks() + runs("prefix_tuning", shifted(0.01), task="other")
    records += runs("prefix_tuning", [None] * 3)
    (group,) = judged(records).over_tasks
    assert [one.label for one in group.methods] == ["full", "lora"]  # one task is no mean over tasks
    third = [*runs("full", FULL, task="third"), *runs("lora", shifted((0.02, 0.021)), task="third")]
    (group,) = judged(records + third + runs("prefix_tuning", shifted(0.01), task="third")).over_tasks
    prefix = group.methods[-1]
    assert (prefix.label, prefix.mean, prefix.rank, len(prefix.difference.tasks)) == ("prefix_tuning", None, None, 2)
    assert (prefix.failed, prefix.runs) == (3, 23)
    lines = to_markdown(over_tasks_blocks(judged(records + third), beside(compare(records + third)))).splitlines()
    cells = [cell for part in tables("\n".join(lines))[:3] for line in part if "`lora`" in line[0] for cell in line]
    assert "3 / 0 / 0" in cells and "0 of 30" in cells


def test_a_metric_that_is_no_share_enters_no_mean_over_tasks_and_has_no_margin():
    records = over_two_tasks()
    records += runs("full", FULL, task="e2e", metric="nist") + runs(
        "lora", shifted((0.5, 0.6)), task="e2e", metric="nist"
    )
    found = judged(records, analysis=Analysis(reference="full"))
    assert len(found.held) == 3
    assert [*found.over_tasks[0].settings] == ["other", "vader_film"]
    nist = next(one for one in found.held if one.setting.spec.task.name == "e2e")
    assert (nist.verdict.margin, nist.verdict.verdict) == (None, "better")
    assert "a margin of 0.005 (0.5 points of 100, and none where no margin was declared)" in answer(found)[0]


# Ranks.


def ranks(records, task="vader_film"):
    """The ranks and letters of the methods of a task, in alphabetical order, the reference first."""
    found = judged(records)
    return {
        row.label: (rank.best, rank.worst, rank.letters)
        for setting in found.comparison.settings if setting.spec.task.name == task
        for row in setting.rows if (rank := found.rank_of(row)) is not None
    }  # fmt: skip


def test_ranks_are_what_the_shown_differences_leave_and_overlap():
    """Full and lora are alike, lora and prefix tuning are alike, and full is better than prefix tuning."""
    records = runs("full", FULL)
    records += runs("lora", shifted((0.02, -0.03)))  # -.005 ± .026: nothing is shown
    records += runs("prefix_tuning", shifted((-0.015, -0.016)))  # to lora .0105, with the spread of lora's
    assert ranks(records) == {"full": (1, 2, "a"), "lora": (1, 3, "ab"), "prefix_tuning": (2, 3, "b")}


def test_below_four_seeds_there_is_no_test_and_no_rank():
    scores = {"full": (0.5, 0.51, 0.52, 0.52), "lora": (0.8, 0.82, 0.8, 0.81), "prefix_tuning": (0.4, 0.6, 0.4, 0.6)}
    records = {seeds: [one for method in scores for one in runs(method, scores[method][:seeds])] for seeds in (1, 3, 4)}
    assert ranks(records[1]) == ranks(records[3]) == {}
    assert len(ranks(records[4])) == 3
    page = render_markdown(Report(records[1]))
    assert "1 to 3" not in page and "ranks" not in page


def test_ranks_never_contradict_a_verdict():
    """Many comparisons take a difference from the verdicts that one table alone would show: ranks do not show it either."""
    noisy = (0.012, -0.004, 0.02, -0.002, 0.01)
    alone = runs("full", FULL) + runs("lora", shifted(noisy))
    assert ranks(alone) == {"full": (2, 2, "b"), "lora": (1, 1, "a")}
    more = [
        one for number in range(40)
        for one in (*runs("full", FULL, task=f"t{number}"), *runs("lora", shifted((0.06, -0.05)), task=f"t{number}"))
    ]  # fmt: skip
    (held,) = [one for one in judged(alone + more).held if one.setting.spec.task.name == "vader_film"]
    assert held.verdict.adjusted_p > 0.05 > held.verdict.p_value
    assert ranks(alone + more) == {"full": (1, 2, "a"), "lora": (1, 2, "a")}


def test_of_a_metric_with_the_other_direction_the_lowest_mean_ranks_first():
    records = runs("full", FULL, metric="ter", higher_is_better=False)
    records += runs("lora", shifted((0.019, 0.021)), metric="ter", higher_is_better=False)
    assert ranks(records) == {"full": (1, 1, "a"), "lora": (2, 2, "b")}


def test_where_seeds_that_failed_turn_the_order_there_is_no_rank():
    """At the seeds of both lora is better by .02; its mean of all its seeds is the lower one."""
    records = runs("full", [*FULL[:5], None, None, None]) + runs("lora", [*shifted((0.019, 0.021))[:5], 0.1, 0.1, 0.1])
    (held,) = judged(records).held
    assert held.verdict.verdict == "better"
    assert ranks(records) == {}


def test_test_items_can_keep_methods_together_that_seeds_alone_would_tell_apart():
    """Two methods of which neither is the reference, each the same at every seed but for one item of twenty."""
    right = {"full": [*range(10)], "lora": [*range(12)], "prefix_tuning": [*range(8, 17)]}
    records, of_run = [], {}
    for method, items in right.items():
        of_seeds = [[*items, 19 - seed % 2] for seed in range(6)]
        made = runs(method, [len(one) / 20 for one in of_seeds])
        records += made
        of_run.update({run.run_id: one for run, one in zip(made, of_seeds, strict=True)})
    found = judged(records, answers=answers_of(of_run, 20))
    assert all(held.verdict.interval.source == "bootstrap" for held in found.held)
    assert {rank.letters for _, rank in found.ranks} == {"a"}


# In words.


def test_the_first_sentence_names_the_family_its_level_the_margin_and_its_unit():
    (first, *_) = answer(judged(over_two_tasks()))
    first = re.sub("`[0-9a-f]{16}`", "", first)
    assert re.findall("`([^`]+)`", first) == ["lora", "full"]
    assert re.findall(r"\d[.\d]*", first) == ["2", "1", "2", "0.05", "0.005", "0.5", "100", "30"]
    assert all(fact in first for fact in ("exempt", "paired by seed", "(Holm)", "declared before the runs"))
    wide = Analysis(reference="full", margin={"vader_film": 0.01, "other": 0.02}, alpha=0.1)
    assert "error level of 0.1 over all of them (Holm) and margins of 0.01 and 0.02 (1 and 2 points of 100)" in said_of(
        over_two_tasks(), analysis=wide
    )


def test_the_last_sentence_says_what_the_intervals_cover_and_what_they_do_not():
    full = [[*range(12)], [*range(12)], [*range(13)]]
    lora = [[*range(6, 20)], [*range(6, 20)], [*range(6, 19)]]
    records = runs("full", [len(one) / 20 for one in full]) + runs("lora", [len(one) / 20 for one in lora])
    right = dict(zip([one.run_id for one in records], full + lora, strict=True))
    not_new = ", not new data sets, base models or learning rates"
    assert f"The intervals cover new seeds on these test items{not_new}" in said_of(records)
    assert f"The intervals cover new seeds and new test items{not_new}" in said_of(
        records, answers=answers_of(right, 20)
    )


def test_comparisons_of_few_seeds_are_counted_apart_from_those_of_many():
    few = runs("full", FULL[:3], task="other") + runs("lora", shifted((0.06, -0.05), FULL[:3]), task="other")
    *_, last = answer(judged(runs("full", FULL) + runs("lora", shifted((0.019, 0.021))) + few))
    many, few, *_ = re.split(r"; (?=\d)", last)
    assert re.findall(r"\d+", many) == ["1", "1", "10"] and "recommendation" in many
    assert re.findall(r"\d+", few) == ["1", "0", "3"] and "exploratory" in few


def test_runs_that_learned_nothing_or_failed_are_counted():
    def counted(full, lora):
        return without_result(judged(runs("full", full) + runs("lora", lora)))

    assert counted((0.5, 0.8, 0.8), (0.8, 0.8, 0.81)) == ["1 of 6 runs did no better than a constant answer"]
    assert counted((0.7, 0.8, 0.8), (0.8, 0.8, 0.81)) == []
    assert counted((0.7, 0.8, 0.8, 0.8), (0.8, 0.8, 0.81, None)) == ["1 of 8 runs ended without a score"]


def test_a_search_is_no_result_and_needs_no_word():
    trials = runs("full", FULL[:2], spec={"score_on": "selection"}, task="other")
    found = judged(runs("full", FULL) + runs("lora", shifted(0.01)) + trials)
    assert (len(found.held), found.left_out) == (1, ())


def test_hostile_names_are_text():
    hostile = "<script>alert(1)</script> | [x](http://example.com) @someone"
    method = record("lora").spec.method.model_copy(update={"label": hostile})
    records = runs("full", FULL, task=hostile, model=hostile) + runs(method, shifted(0.01), task=hostile, model=hostile)
    page = to_markdown([*answer(judged(records)), *verdict_section(judged(records))])
    rendered = MarkdownIt("commonmark").enable("table").render(page)
    assert "alert(1)" in rendered
    assert "<script" not in rendered
    assert set(re.findall(r'<a href="([^"]*)"', rendered)) == {"/docs/statistics.md#verdicts"}


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
