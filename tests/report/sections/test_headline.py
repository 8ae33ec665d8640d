"""The headline says what the verdicts say: each of its numbers is one of theirs, and no word is stronger than they are."""

import re

import pytest

from lora_bench.records.analysis import Analysis, UntilDecided
from lora_bench.records.budget import Budget
from lora_bench.records.protocol import PROTOCOLS
from lora_bench.records.record import CurvePoint, PlateauEnd, Weights
from lora_bench.report.blocks import Heading, SectionAnswer, to_markdown
from lora_bench.report.figures.differences import caption, words
from lora_bench.report.markdown import render_markdown
from lora_bench.report.model.choose_method import choose_among
from lora_bench.report.model.report import Report
from lora_bench.report.sections.first_screen import draw_pictures, next_step, picture_contrasts, summary_table
from lora_bench.report.sections.headline import headline_blocks, headline_of
from tests.report.test_markdown import tables
from tests.report.test_unplanned import unplanned
from tests.sample_records import BUDGET, METHODS, record, sample_suite

TUNED = BUDGET.model_copy(update={"trials": 4})
RULES = Analysis(reference="full", margin=0.01)
BASE = (0.80, 0.81, 0.79, 0.80, 0.82, 0.78, 0.80, 0.81, 0.79, 0.80)
KEPT = {"weights": Weights(folder="weights", stored_bytes=2**20, step=200)}


def runs(method, by, seeds=10, rules=RULES, changes=None, **given):
    """A run a seed, whose score differs from that of `BASE` by *by*, give or take a tenth of a point."""
    return [
        record(
            method, seed=seed, score=BASE[seed] + by + (0.001 if seed % 2 else -0.001) * (by != 0),
            changes={"analysis": rules, **(changes or {})}, **{"budget": TUNED, **given},
        )
        for seed in range(seeds)
    ]  # fmt: skip


def headline(records):
    report = Report(records)
    return headline_of(report), report.overview


def labels(lines):
    return tuple(line.label for line in lines)


def said(records):
    """All words of a headline with its next step."""
    found, _ = headline(records)
    return to_markdown([*headline_blocks(found), *next_step(found.next)])


def told(sentences):
    """The facts of sentences: what they name, and their numbers, in order."""
    text = sentences if isinstance(sentences, str) else " ".join(sentences)
    return re.findall(r"`([^`]+)`", text), re.findall(r"\d+(?:[.,]\d+)*", re.sub("`[^`]+`", "", text))


def test_it_takes_the_method_that_loses_least_where_no_cheaper_one_is_within_the_margin():
    # Against lora, full gains 3 points with 145 times the file; the adapter is level and prefixes lose 5.
    rules = Analysis(reference="lora", margin=0.01)
    records = [
        *runs("full", 0.03, rules=rules), *runs("lora", 0, rules=rules),
        *runs("bottleneck_adapter", 0.0001, rules=rules), *runs("prefix_tuning", -0.05, rules=rules),
    ]  # fmt: skip
    found, _ = headline(records)
    assert found.decision.winner == "full" and found.decision.level == "partly"
    assert found.lead == "Take `full`: most likely the best of 4, or under 0.1 points below it."
    better, alike, worse = found.further[0].split("; ")
    assert told(better) == (["lora", "full"], ["2.9"]) and "better" in better
    assert told(alike) == (["bottleneck_adapter"], ["1", "3.0"]) and "as good" in alike
    assert told(worse) == (["prefix_tuning"], ["4.9"]) and "worse" in worse
    assert "**partly decided, recommendation** (10 seeds, at these learning rates, rules declared" in found.strength
    assert "MiniLM-L6 in the RoBERTa class on `vader_film`, after 200 steps" in found.strength


def test_the_picture_says_of_an_open_verdict_what_the_table_says():
    _, seen = headline(runs("full", 0) + runs("lora", 0.0001) + runs("prefix_tuning", -0.05))
    contrasts = picture_contrasts(seen)
    assert [words(contrast) for contrast in contrasts] == ["+0.0, equivalent*", "−5.0, worse"]
    assert caption(contrasts).endswith(" *: unless over 3.0 % of runs collapse.")
    table = to_markdown(summary_table(seen))
    assert "**worse**" in table and "equivalent unless over 3.0 % of runs collapse" in table


def test_a_picture_names_its_one_base_model_once_and_several_beside_each_comparison():
    def shown(*models):
        records = [
            one
            for model in models
            for method, by in (("full", 0), ("lora", 0.02), ("prefix_tuning", -0.05))
            for one in runs(method, by, model=model)
        ]
        drawn = [svg for files in draw_pictures(headline(records)[1]) for svg in files.values()]
        return [re.findall(r"<text[^>]*>([^<]+)</text>", svg.decode()) for svg in drawn]

    for wide_or_narrow in shown("small"):
        assert [wide_or_narrow.count(name) for name in ("small", "lora", "prefix_tuning")] == [1, 1, 1]
    for wide_or_narrow in shown("small", "large"):
        assert [wide_or_narrow.count(name) for name in ("small", "large", "lora", "prefix_tuning")] == [2, 2, 1, 1]


def test_a_smaller_file_is_taken_where_its_expected_loss_is_within_the_margin():
    found, _ = headline(runs("full", 0) + runs("lora", 0.02) + runs("prefix_tuning", -0.05))
    assert found.decision.winner == "lora" and found.decision.level == "recommendation"
    found, _ = headline(runs("full", 0.005) + runs("lora", 0) + runs("prefix_tuning", -0.05))
    labels, (expected, _, bound, sure, margin, least, larger) = told(found.lead)
    # Half a point and 145 times the file; what is more is the chance that runs collapse.
    assert labels == ["lora", "full"] and (sure, margin, larger) == ("90", "1", "145")
    assert 0.5 <= float(expected) <= float(bound) <= 0.7 and float(least) <= 0.1
    # Ten seeds do not exclude that runs collapse now and then, so that such a claim of a margin is open.
    found, _ = headline(runs("full", 0) + runs("lora", 0.0001) + runs("prefix_tuning", -0.05))
    assert found.decision.winner == "lora" and "**partly decided, recommendation**" in found.strength
    # The fewest seeds that leave a collapse in a tenth of the runs unlikely, .9³⁶ < .025, for two comparisons.
    assert told(found.next)[0][0] == "lora-bench run quickstart --seeds 36"


def test_a_difference_of_means_says_on_which_tasks_it_is_shown():
    rules = Analysis(reference="lora", margin=0.01)

    def on(*gains):
        return [
            one
            for task, gain in zip("abc", gains, strict=True)
            for one in runs("lora", 0, rules=rules, task=task)
            + runs("bottleneck_adapter", gain, rules=rules, task=task)
        ]

    # The mean of 0, 0 and 6 points is 2; it rests on one task.
    assert "by at least 1.9 points in the mean, shown on `c` alone" in headline(on(0.0001, 0.0001, 0.06))[0].further[-1]
    assert (
        "by at least 2.5 points in the mean, shown on 2 of 3 tasks" in headline(on(0.0001, 0.02, 0.06))[0].further[-1]
    )
    assert "by at least 2.9 points in the mean and shown on each task" in headline(on(0.01, 0.02, 0.06))[0].further[-1]
    opposed, _ = headline(on(-0.02, 0.0001, 0.08))
    assert "better, by at least 1.9 points in the mean, shown on `c` alone, but worse on `a`" in " ".join(
        opposed.further
    )
    # Two and minus two points, each shown, are no difference of means.
    undone = " ".join(headline(on(-0.02, 0.02, 0.0001))[0].further)
    assert "`bottleneck_adapter` is as good in the mean within 1 point unless" in undone, undone
    assert "of runs collapse, better on `b` and worse on `a`." in undone, undone
    alone, _ = headline(on(-0.02, 0.02, 0.0001))
    assert alone.strength.startswith("Strength: **undecided, recommendation on single tasks** (10 seeds")
    assert "Claims on single tasks hold unless `" in alone.strength
    assert "single tasks" not in headline(on(0.0001, 0.0001, 0.0001))[0].strength
    # The tables of one method are named together.
    named = " ".join(headline(on(0.03, -0.03, 0.02))[0].further)
    assert "names `bottleneck_adapter` on `a` and `c`; `lora` on `b`." in named, named


def of_two_targets():
    """Records of two targets: `full` is exempt from two targets, scores best and has the largest file."""
    rules = Analysis(reference="lora", margin=0.01)
    records = []
    for model, by in (("a", 0.02), ("b", 0.04)):
        records += runs("full", by, rules=rules, model=model)
        for target, rank in ((7_680, 4), (15_360, 8)):
            budget = TUNED.model_copy(update={"adapter_parameters": target})
            for method, less in (("lora", 0), ("prefix_tuning", -0.05)):
                options = {**METHODS[method].options, METHODS[method].size: rank}
                spec = METHODS[method].model_copy(update={"options": options, "chosen": options})
                records += runs(spec, less, rules=rules, model=model, budget=budget)
    return records


@pytest.mark.parametrize("records", [
    of_two_targets(),
    runs("full", 0) + runs("lora", 0.02),
    runs("full", 0) + runs("lora", 0.0001) + runs("prefix_tuning", -0.05),
    runs("full", 0) + runs("lora", -0.03),
])  # fmt: skip
def test_the_headline_and_the_choice_name_the_same_method(records):
    found, _ = headline(records)
    (method,) = {choice.method for choice in choose_among(records)}
    assert re.match(r"Take `(\w+)`", found.lead)[1] == method


def test_a_method_that_is_exempt_from_two_targets_is_compared_with_the_reference_of_each():
    found, seen = headline(of_two_targets())
    assert found.lead.startswith(
        "Take `full`: most likely the best of 3, in the mean of 2 base models and 2 parameter "
    )
    assert "`full` is better in all 4 comparisons, by at least 1.8 to 3.8 points" in found.further[0]
    page = render_markdown(Report(of_two_targets()))
    assert "`full` has 2 sets of runs, compared with `lora` at each of its sizes." in page
    # One block a target: its reference first, and the differences of full to this reference alone.
    assert [line.label for line in seen.lines] == ["lora", "full", "prefix_tuning"] * 2
    assert [len(line.contrasts) for line in seen.lines] == [0, 2, 2] * 2
    assert all({one.setting.parameter_target for one in line.contrasts} <= {line.target} for line in seen.lines)


def test_where_base_models_differ_the_method_for_all_is_named_and_that_of_each():
    records = runs("full", 0, model="a") + runs("lora", 0.03, model="a")
    records += runs("full", 0, model="b") + runs("lora", -0.03, model="b")
    found, _ = headline(records)
    assert found.decision.winner == "lora" and found.decision.level == "recommendation"
    assert "in the mean of 2 base models" in found.lead
    assert told(found.further[0]) == (["lora-bench choose", "lora", "full"], ["1", "2", "1", "2"])
    better, worse = found.further[1].split(" and ")
    assert told(better) == (["full", "lora"], ["2", "1", "2", "2.9"]) and "better" in better
    assert told(worse) == ([], ["1", "2", "2.9"]) and "worse" in worse


def test_where_tables_share_no_methods_the_answer_is_one_for_each():
    found, _ = headline(
        [*runs("full", 0, task="a"), *runs("lora", -0.03, task="a"), *runs("full", 0, task="b"),
         *runs("prefix_tuning", -0.03, task="b"), *runs("full", -0.05, task="c"), *runs("bottleneck_adapter", 0, task="c")]
    )  # fmt: skip
    assert found.decision.winner is None
    named = ["lora-bench choose", "full", "a", "b", "bottleneck_adapter", "c"]
    assert told(found.lead) == (named, [])


def trials(method, best, rates=(1e-3, 3e-3, 1e-2)):
    """Trials of which one rate is best."""
    return [
        record(
            method,
            seed=100,
            learning_rate=rate,
            score=0.8 if rate == best else 0.7,
            spec={"score_on": "selection"},
            budget=TUNED,
        )
        for rate in rates
    ]


def test_best_rates_at_the_edge_of_those_tried_stand_before_the_ranking_and_are_the_first_next_step():
    results = runs("full", 0) + runs("lora", -0.05)
    found, _ = headline([*results, *trials("full", 3e-3), *trials("lora", 1e-2)])
    assert told(found.cautions[0]) == (["lora"], ["1", "2"]) and "largest tried" in found.cautions[0]
    assert "a wider range of `learning_rate` for `lora`" in found.next[0]
    found, _ = headline([*results, *trials("full", 3e-3), *trials("lora", 3e-3)])
    assert not found.cautions and "wider" not in found.next[0]


def test_collapsed_runs_of_few_seeds_could_not_have_been_decided_and_train_longer_first():
    # Half of all runs are at the floor; p of one comparison of 2 kinds of runs is at least 2 / 4³.
    both = [
        record(method, seed=seed, score=0.5 if (seed == 0) == (method == "full") else 0.8, majority=0.5, budget=TUNED)
        for method in ("full", "lora", "prefix_tuning") for seed in range(3)
    ]  # fmt: skip
    found, _ = headline(both)
    assert found.decision.winner is None and found.decision.level == "undecided" and told(found.lead) == ([], [])
    assert told(found.further) == (["train_examples", "lora-bench choose"], [])
    assert "a larger `train_examples`" in found.next[0] and "seeds" not in found.next[0]


def test_few_collapses_keep_few_seeds_from_a_verdict_all_the_same():
    # One run of twelve is at the floor, the reference's: too few to say that runs learn too little. Each p is at least 2 / 4⁴,
    # and eight comparisons take it eight times.
    some = [
        record(
            method, seed=seed, score=0.5 if (method, seed) == ("full", 0) else 0.8, majority=0.5, budget=TUNED, model=model
        )
        for model in ("one", "two", "three", "four")
        for method in ("full", "lora", "prefix_tuning") for seed in range(4)
    ]  # fmt: skip
    found, _ = headline(some)
    (why,) = [sentence for sentence in (found.lead, *found.further) if "runs collapse" in sentence]
    assert found.decision.level == "undecided" and told(why) == ([], ["4"])


def test_where_all_others_are_worse_the_reference_stays():
    found, _ = headline(runs("full", 0) + runs("lora", -0.03) + runs("prefix_tuning", -0.05))
    assert found.decision.winner == "full" and found.decision.level == "recommendation"
    assert told(found.further[0]) == (["full", "lora", "prefix_tuning"], ["2.9", "4.9"])


def test_a_method_that_is_not_shown_to_be_worse_is_taken_with_what_it_may_lose():
    wide = [record("lora", seed=seed, score=BASE[seed] + (0.04, -0.07)[seed % 2], budget=TUNED, changes={"analysis": RULES})
            for seed in range(10)]  # fmt: skip
    found, _ = headline(runs("full", 0) + wide + runs("prefix_tuning", -0.05))
    # Full fine-tuning has the better mean by 1.5 points, more than the margin of 1; that LoRA is worse is not shown.
    assert found.decision.winner == "full" and found.decision.level == "partly"
    expected, _, bound, sure = map(float, told(found.lead)[1])
    assert 0 < expected < bound and sure == 90
    assert "`lora` is undecided" in found.further[0]
    # Two comparisons: .9³⁶ is below .05 / 2, and .9³⁵ is not.
    assert told(found.further[-1]) == ([], ["36"])


@pytest.mark.parametrize(("seeds", "strength"), [(10, "recommendation"), (6, "indicative"), (4, "exploratory")])
def test_few_seeds_have_weaker_words(seeds, strength):
    found, _ = headline(runs("full", 0, seeds) + runs("prefix_tuning", -0.05, seeds))
    assert (
        found.decision.winner == "full" and f"**{strength}**" in found.strength and f"({seeds} seeds" in found.strength
    )
    assert ("a hint; confirm with more seeds" in found.strength) == (strength == "exploratory")
    more = "lora-bench run quickstart --seeds 10"
    assert (more in "".join(found.next)) == (strength != "recommendation")


@pytest.mark.parametrize("seeds", [4, 5])
def test_no_more_seeds_than_folds_are_asked_for(seeds):
    task = {"definition": {"task": "vader_film", "split": {"folds": 5}}}
    folded = [
        one.model_copy(update={"spec": one.spec.model_copy(update={"task": one.spec.task.model_copy(update=task)})})
        for one in runs("full", 0, seeds) + runs("lora", 0.001, seeds)
    ]
    said = "".join(headline(folded)[0].next)
    assert ("--seeds 5" in said) == (seeds < 5) and "--seeds 10" not in said
    assert ("since every row is tested" in said) == (seeds == 5)


def test_more_seeds_after_seeds_until_decided_spend_the_error_level_again():
    looked = Analysis(reference="full", margin=0.01, seeds=UntilDecided(until="decided", at_least=4, at_most=5))
    (step,) = headline(runs("full", 0, 5, looked) + runs("prefix_tuning", -0.05, 5, looked))[0].next
    assert told(step) == (["lora-bench run quickstart --seeds 10"], []) and "at half of the error level" in step


def test_where_nothing_is_decided_it_says_what_would_decide():
    records = runs("full", 0, 2) + runs("lora", 0.01, 2)
    text = said(records)
    assert text.startswith("**Take `lora`") and "**undecided**" in text
    assert "Nothing is shown: 2 seeds of each method are too few, a verdict takes 4." in text
    assert "8 more seeds" in text and "`lora-bench run quickstart --seeds 10`" in text
    open_ones = [
        record("lora", seed=seed, score=BASE[seed] + by, budget=TUNED)
        for seed, by in enumerate((0.05, -0.01, 0.02, 0.0))
    ]
    found, seen = headline(runs("full", 0, 4, rules=None) + open_ones)
    (needed,) = {contrast.verdict.needed.seeds for contrast in seen.contrasts}
    assert f"About {needed - 4} more seeds a method" in " ".join(found.further)


def cautions(records):
    """The sentences of doubt, a line each."""
    return "\n".join(headline(records)[0].cautions)


def test_what_makes_a_ranking_doubtful_follows_the_answer():
    untuned = runs("full", 0, budget=BUDGET) + runs("lora", -0.05, budget=BUDGET)
    assert "tuned" in said(untuned).splitlines()[4]
    assert "tuned" in cautions(untuned)
    assert "tuned" not in said(runs("full", 0) + runs("lora", -0.05))
    # Where the rates of one method are compared, they are no doubt about the order of methods.
    lora, slow = METHODS["lora"], METHODS["lora"].model_copy(update={"label": "slow"})
    of_rates = runs(lora, 0, budget=BUDGET) + runs(slow, -0.05, budget=BUDGET, learning_rate=1e-4)
    assert "tuned" not in said(of_rates)
    trials = [record(seed=100, learning_rate=rate, spec={"score_on": "selection"}) for rate in (1e-3, 3e-3)]
    assert "tuned" not in said(untuned + trials)
    floor = runs("full", 0, majority=0.785) + runs("lora", -0.05, majority=0.785)
    assert told(cautions(floor))[1] == ["17", "20"] and "**Most runs learned nothing.**" in said(floor)
    # A method of which many runs learned nothing is named, though they are few of all runs.
    fallen = runs("full", 0) + runs("lora", -0.01) + runs("prefix_tuning", -0.05)
    fallen[-2:] = [one.model_copy(update={"scores": {"accuracy": 0.5}}) for one in fallen[-2:]]
    first = cautions(fallen)
    assert told(first) == (["prefix_tuning"], ["2", "10"]) and "did no better than a constant answer" in first
    assert "constant" not in said(fallen[:-1])
    following = headline(fallen)[0].next[-1]
    assert "another `learning_rate` for `prefix_tuning`" in following and "--seeds" not in following
    fallen[-5:] = [one.model_copy(update={"scores": {"accuracy": 0.5}}) for one in fallen[-5:]]
    assert told(cautions(fallen)) == (["prefix_tuning"], ["5", "30", "5"])
    falling = tuple(CurvePoint(step=step, loss=1 / step) for step in range(1, 41))
    improving = runs("full", 0, changes={"curve": falling}) + runs("lora", -0.05)
    first = cautions(improving)
    assert told(first)[1][:2] == ["10", "20"] and "still improving" in first
    few = runs("full", 0) + runs("lora", -0.05)
    few[:2] = improving[:2]
    assert said(few).startswith("**Take") and "2 of 20 runs were still improving" in said(few)


def test_a_run_that_its_cap_ended_is_not_called_one_whose_budget_ended():
    falling = tuple(CurvePoint(step=step, loss=1 / step) for step in range(1, 41))
    ends = {by: {"curve": falling, "plateau": PlateauEnd(by=by, decay_after=36, step=40)} for by in ("cap", "plateau")}
    capped = runs("full", 0, changes=ends["cap"])
    first = cautions(capped + runs("lora", -0.05, changes=ends["plateau"]))
    assert "10 of 20 runs ended by their cap, before they reached a plateau." in first and "improving" not in first
    # Beside runs without a plateau, each is called what it is.
    both = cautions(capped + runs("lora", -0.05, changes={"curve": falling}))
    assert (
        "10 of 20 runs were still improving when their budget ended and 10 of 20 runs ended by their cap, before"
        in both
    )
    few = said([*capped[:2], *runs("full", 0)[2:], *runs("lora", -0.05)])
    assert "Longer training may change this: 2 of 20 runs ended by their cap, before they reached a plateau." in few


@pytest.mark.parametrize("records", [
    sample_suite(),
    runs("full", 0.03) + runs("lora", 0) + runs("bottleneck_adapter", 0.02) + runs("prefix_tuning", -0.05),
    [one for model, by in (("a", 0.02), ("b", 0.04)) for one in runs("full", 0, model=model) + runs("lora", by, model=model)],
    [one for task in ("a", "b") for one in runs("full", 0, task=task) + runs("lora", -0.02, task=task)],
])  # fmt: skip
def test_every_size_in_the_headline_is_a_difference_of_the_verdicts(records):
    found, seen = headline(records)
    differences = {f"{100 * contrast.verdict.at_least:.1f}" for contrast in seen.contrasts}
    margins = {
        f"{100 * contrast.verdict.margin:g}" for contrast in seen.contrasts if contrast.verdict.margin is not None
    }
    text = " ".join(found.further)
    sizes = re.findall(r"([\d.]+)(?: to ([\d.]+))? points?", text)
    assert {size for pair in sizes for size in pair if size} <= differences | margins
    counts = re.findall(r"in all (\d+)|in \d+ of (\d+)", text)
    numbers = {
        sum(contrast.label == label for contrast in seen.contrasts) for label in {one.label for one in seen.contrasts}
    }
    assert {int(number) for pair in counts for number in pair if number} <= numbers
    ratios = [max(ratio, 1 / ratio) for line in seen.methods for ratio in line.file_ratios]
    for ends in re.findall(r"a file ([\d.]+)(?: to ([\d.]+))? times", found.lead):
        assert all(any(float(end) == pytest.approx(ratio, rel=0.05) for ratio in ratios) for end in ends if end)


def test_a_number_of_comparisons_says_of_what():
    found, seen = headline(of_two_targets())
    assert found.further[0].startswith(
        "Compared with `lora` (2 base models × 2 parameter targets), `full` is better in all 4 comparisons"
    )
    assert "| verdict on 2 base models |" in to_markdown(summary_table(seen)).splitlines()[0]
    found, seen = headline(runs("full", 0) + runs("lora", 0.02) + runs("prefix_tuning", -0.05))
    assert "(" not in found.further[0] and "| verdict |" in to_markdown(summary_table(seen)).splitlines()[0]


def test_the_next_step_loads_weights_that_were_kept():
    kept = runs("full", 0, changes=KEPT) + runs("lora", -0.05, changes=KEPT)
    assert "`lora-bench use runs/quickstart full`" in said(kept)
    assert "`keep_weights: last`" in said(runs("full", 0) + runs("lora", -0.05)).splitlines()[-1]


def test_reports_without_verdicts_have_a_headline_of_their_own():
    rates = [
        record(learning_rate=rate, score=500 * rate, spec={"score_on": "selection"}) for rate in (1e-4, 3e-4, 1e-3)
    ]
    assert "search" in said(rates).splitlines()[0]
    assert "1 best rate" in said(rates) and "1 of them is the smallest or largest" in said(rates)
    page = render_markdown(Report(rates))
    assert "**search** (1 seed a rate)" in page
    ((header, _, row), *_) = tables(page)
    assert (header, row) == (
        ["base model", "`lora`"],
        ["MiniLM-L6 in the RoBERTa class", "1e-3 (0.5000), largest tried"],
    )
    assert "its mean accuracy on the selection split" in page
    tied = [
        record(learning_rate=rate, score=0.5, majority=0.5, spec={"score_on": "selection"}) for rate in (1e-4, 3e-4)
    ]
    assert "0 best rates" in said(tied) and "1 of 1 searches rates tie" in said(tied)
    assert "2 of 2 runs did no better than a constant answer" in said(tied)
    paper = {"protocol": "paper", "rules": PROTOCOLS["paper"]}
    assert "the protocol `paper` " in said([record(method, spec=paper) for method in ("full", "lora")])
    assert "Only `lora` was run" in said([record()])
    assert "No run has a score" in said([record(status="failed", reason="no")])
    own = said([unplanned("LOHA"), unplanned("IA3", 0.8)])
    assert "own script" in own and "No suite planned these runs" in own and "Take" not in own


def test_a_published_table_gives_its_counts_to_the_headline():
    section = [
        Heading(2, "Published: a table"),
        SectionAnswer("Compared with the printed numbers: 3 cells."),
        "Its source.",
    ]
    page = render_markdown(Report(sample_suite(), sections=[section]))
    assert page.startswith("# quickstart\n\n**Compared with the printed numbers: 3 cells.**\n\n")


def test_the_first_forty_lines_have_headline_picture_table_and_next_step():
    lines = render_markdown(Report(sample_suite(seeds=3))).splitlines()[:40]
    order = [
        next(index for index, line in enumerate(lines) if line.startswith(start))
        for start in ("Strength: **", "![Difference of each method", "| method |", "**Next:**")
    ]
    assert order == sorted(order)


def test_the_small_table_marks_what_was_computed_and_what_was_not_measured_alone():
    records = runs("full", 0, peak_mib=400, step_seconds=0.1) + runs("lora", -0.05, peak_mib=200, exclusive=False)
    _, seen = headline(records)
    header, _, full, lora, _, note = to_markdown(summary_table(seen)).splitlines()
    cells = dict(zip(header.split(" | "), lora.split(" | "), strict=True))
    # 156,680 stored parameters of 4 bytes are 0.6 MiB; steps of 50 against 100 ms, 200 against 400 MiB.
    assert (cells["file to ship, MiB"], cells["step time"], cells["peak memory |"]) == (
        "≈ 0.6",
        "0.5 ×‡",
        "0.5 ×‡ |",
    )
    assert cells["verdict"] == "**worse**" and full.startswith("| `full`, rate 1e-3 (reference) |")
    assert "≈ file: 4 bytes a stored parameter." in note and "‡ Other work ran on the machine at the time." in note
    assert "middle" not in note


def test_the_small_table_says_the_mean_step_of_a_method_of_which_some_steps_take_far_longer():
    records = runs("full", 0, step_seconds=0.1) + [
        one.model_copy(update={"speed": one.speed.model_copy(update={"step_seconds_median": 0.01})})
        for one in runs("lora", -0.05, step_seconds=0.04)
    ]
    _, _, _, lora, _, note = to_markdown(summary_table(headline(records)[1])).splitlines()
    # Middle steps of 10 against 100 ms; examples a second are those of steps of 40 ms.
    assert "| 0.1 × |" in lora
    assert "Step times are medians over a run's steps; means are 0.4 × for `lora`." in note


def test_the_heading_of_a_mean_over_tasks_names_its_metrics_and_the_note_the_scale_of_bleu():
    mixed = [one for task, metric in (("a", "accuracy"), ("b", "f1"))
             for one in runs("full", 0, task=task, metric=metric) + runs("lora", -0.02, task=task, metric=metric)]  # fmt: skip
    assert "| mean of accuracy and f1 (2 tasks) |" in to_markdown(summary_table(headline(mixed)[1])).splitlines()[0]
    bleu = runs("full", 0, metric="bleu") + runs("lora", -0.02, metric="bleu")
    assert to_markdown(summary_table(headline(bleu)[1])).splitlines()[-1].endswith("BLEU is on a scale of 0 to 1.")


def test_the_small_table_names_the_one_number_in_which_lines_of_a_method_differ():
    def names(*options):
        specs = [
            METHODS["lora"].model_copy(
                update={"label": label, "options": {**METHODS["lora"].options, **own}, "chosen": own}
            )
            for label, own in zip("ab", options, strict=False)
        ]
        records = [one for spec in specs for one in runs(spec, -0.05)] + runs("full", 0)
        return [line.split(" | ")[0] for line in to_markdown(summary_table(headline(records)[1])).splitlines()[2:-2]]

    assert names({"scaling": 2.0}, {"scaling": 0.5}) == [
        "| `full`, rate 1e-3 (reference)",
        "| `a`, rank 4, scaling 2, rate 1e-3",
        "| `b`, rank 4, scaling 0.5, rate 1e-3",
    ]
    # Labels tell more than two numbers in a row would.
    assert names({"scaling": 2.0, "ratio": 1.0}, {"scaling": 4.0, "ratio": 16.0})[1] == "| `a`, rank 4, rate 1e-3"
    assert names({"scaling": 2.0})[1] == "| `a`, rank 4, rate 1e-3"


def test_many_methods_leave_the_small_table_small():
    options = [{"rank": rank} for rank in range(1, 64)]
    specs = [
        METHODS["lora"].model_copy(update={"label": f"lora {one['rank']}", "options": one, "chosen": one})
        for one in options
    ]
    records = [
        record(spec, score=0.5 + index / 200, budget=Budget(train_examples=3_200)) for index, spec in enumerate(specs)
    ]
    _, seen = headline(records)
    table = to_markdown(summary_table(seen)).splitlines()
    assert (
        len(table) == 2 + 10 + 2
        and "The reference and the 9 others with the best means of 63; [all scores](#scores)." in table[-1]
    )


def test_a_planned_setting_and_an_own_script_are_in_no_mean_and_no_table_together():
    own = [unplanned("LOHA"), unplanned("IA3", 0.8)]
    _, seen = headline([*own, record("lora", score=0.75), record("full", score=0.7)])
    table = to_markdown(summary_table(seen)).splitlines()
    assert [line.split(" | ")[0] for line in table[2:-2]] == [
        "| `full`, rate 1e-3 (reference)",
        "| `lora`, rank 4, rate 1e-3",
    ]
    page = "\n".join(table)
    assert "LOHA" not in page and "mean of" not in page
    assert "Runs of 1 other setting are not compared with these: [all scores](#scores)." in table[-1]
    # Two batch sizes that both have verdicts are two tables, each with its own reference.
    sizes = []
    for size in (16, 32):
        sizes += runs("full", 0, training={"batch_size": size}) + runs("lora", -0.05, training={"batch_size": size})
    table = to_markdown(summary_table(headline(sizes)[1])).splitlines()
    assert sum(line.startswith("| method |") for line in table) == 2
    assert sum("`full`, rate 1e-3 (reference)" in line for line in table) == 2
    assert [line for line in table if line.endswith(":")] == ["`vader_film` (setting 1):", "`vader_film` (setting 2):"]


@pytest.mark.parametrize(("words_alone", "first"), [(0.83, True), (0.79, False)])
def test_where_words_alone_score_as_well_the_first_words_say_so(words_alone, first):
    records = [
        one.model_copy(update={"data": one.data.model_copy(update={"word_model_score": words_alone})})
        for one in [*runs("full", 0.0), *runs("lora", -0.05)]
    ]
    found, overview = headline(records)
    assert overview.taken.label == "full"
    said = "Fine-tuning buys nothing here: words alone (tf-idf), in seconds, score 0.8300 (`full`: 0.8000). Of these"
    assert found.lead.startswith(said) is first
    assert ("words alone" in found.lead) is first
