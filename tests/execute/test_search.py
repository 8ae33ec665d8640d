"""Learning rates drawn from ranges, the same places for every method, and successive halving, which tries more of them."""

import json
import math
import os
import re
import signal
from fractions import Fraction
from pathlib import Path

import pytest
import yaml

from lora_bench.cli.plan_table import plan_tables
from lora_bench.errors import BadInput, LoraBenchError
from lora_bench.execute.run_suite import Silent, run_suite, runs_folder
from lora_bench.plan.make_plan import make_plan
from lora_bench.plan.selection import rate_beyond, trials_among
from lora_bench.report import Report, render_markdown
from lora_bench.report.figures.draw import plan_figures
from lora_bench.report.model.comparison import compare
from lora_bench.report.model.searches import best_rates
from lora_bench.suite.entries import Range
from lora_bench.suite.halving import rungs_of
from lora_bench.suite.load_suite import load_suite
from lora_bench.suite.schema import Tuning
from tests.project import SUITE, write_project
from tests.sample_records import record

METHODS = """\
methods:
  - {method: full, learning_rate: {low: 1e-5, high: 1e-3}}
  - {method: lora, learning_rate: {low: 1e-4, high: 1e-2}}
"""

GRIDS = """\
methods:
  - {method: full, learning_rate: [1e-5, 3e-5, 1e-4, 3e-4, 1e-3, 3e-3]}
  - {method: lora, learning_rate: [1e-4, 3e-4, 1e-3, 3e-3, 1e-2]}
"""


# No more rates than these.
TUNING = "tuning: {seeds: [100], extend: false}"


def suite(folder, monkeypatch, methods=METHODS, budget="trials: 4, ", tuning=TUNING):
    monkeypatch.chdir(folder)
    text = SUITE.replace("methods: [full, lora, bottleneck_adapter, prefix_tuning]\n", methods)
    text = text.replace("budget: {", f"budget: {{{budget}")
    write_project(folder, f"{text}{tuning}\n")
    return load_suite("tickets.yaml")


def rates(loaded):
    return {entry.label: entry.rates("base") for entry in loaded.methods}


def test_as_many_rates_as_trials_are_drawn_inside_each_range(tmp_path, monkeypatch):
    found = rates(suite(tmp_path, monkeypatch, budget="trials: 8, "))
    assert [len(values) for values in found.values()] == [8, 8]
    for low, values in zip((1e-5, 1e-4), found.values(), strict=True):
        assert list(values) == sorted(values)
        assert all(low <= value <= 100 * low for value in values)
    assert rates(suite(tmp_path, monkeypatch, budget="trials: 8, ")) == found


def test_every_range_is_drawn_at_the_same_places(tmp_path, monkeypatch):
    full, lora = rates(suite(tmp_path, monkeypatch, budget="trials: 8, ")).values()
    # Both ranges span a factor of 100, from 1e-5 and from 1e-4 on.
    assert [10 * value for value in full] == pytest.approx(list(lora), rel=0.01)


def test_every_slice_of_a_range_has_one_trial(tmp_path, monkeypatch):
    drawn = rates(suite(tmp_path, monkeypatch, budget="trials: 40, "))["lora"]
    # 20 slices a decade, from 1e-4 on: each rate lies in its own, but for the rounding to three digits.
    for index, rate in enumerate(drawn):
        assert index - 0.05 < 20 * math.log10(rate / 1e-4) < index + 1.05


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"methods": METHODS.replace("1e-2}", "1e-3}")}, "must span the same factor"),
        ({"methods": METHODS.replace("low: 1e-4", "low: 1e-1")}, "low must be the smaller one"),
        ({"methods": METHODS.replace("low: 1e-4, ", "lwo: 1e-4, ")}, "learning_rate"),
        ({"budget": ""}, "of which `budget: {trials: N}` takes N rates"),
        ({"tuning": ""}, "several learning rates make a search"),
        ({"tuning": "tuning: {seeds: [100], halving: 1}"}, "tuning.halving"),
        ({"tuning": "tuning: {seeds: [100], halving: 2}"}, "take halving: 3"),
        ({"tuning": "tuning: {seeds: [100], halving: 3, rungs: 3}"}, "take rungs: 2, or trials: 6"),
        ({"tuning": "tuning: {seeds: [100], rungs: 2}"}, "give its factor too"),
        ({"tuning": "tuning: {seeds: [100], search: halve_seeds}"}, "tuning.search: needs two seeds or more"),
        ({"tuning": "tuning: {search: halve_seeds, halving: 3}"}, "and no `halving` of the work"),
        ({"budget": "", "methods": GRIDS, "tuning": "tuning: {seeds: [100], halving: 3}"}, "`budget: {trials: N}`"),
        (
            {"methods": GRIDS, "tuning": "tuning: {seeds: [100], halving: 3}"},
            "is 4, and their halving begins with 6, but lora has 5 learning rates",
        ),
    ],
)
def test_a_mistake_is_named_with_what_to_do(tmp_path, monkeypatch, given, said):
    with pytest.raises(BadInput) as error:
        suite(tmp_path, monkeypatch, **given)
    assert said in str(error.value)
    assert "tickets.yaml" in str(error.value)


def test_six_rates_are_a_grid_with_both_ends_and_equal_factors_and_more_are_drawn(tmp_path, monkeypatch):
    span = Range(low=1e-4, high=1e-2)
    assert span.take(3) == (1e-4, 1e-3, 1e-2)
    assert span.take(5) == (1e-4, 3.16e-4, 1e-3, 3.16e-3, 1e-2)
    assert span.take(1) == (1e-3,)
    assert (span.take(6)[0], span.take(6)[-1]) == (1e-4, 1e-2)
    assert span.take(7)[0] > 1e-4 and span.take(7)[-1] < 1e-2
    found = rates(suite(tmp_path, monkeypatch, budget="trials: 3, ", tuning="tuning: {}"))
    assert found == {"full": (1e-5, 1e-4, 1e-3), "lora": (1e-4, 1e-3, 1e-2)}
    # Halving begins with eight rates here: 8 / 3 + 2 = 4 2/3 of five trials.
    halved = rates(suite(tmp_path, monkeypatch, budget="trials: 5, ", tuning="tuning: {halving: 3}"))
    assert halved["lora"] == span.take(8)


def test_two_seeds_choose_unless_others_are_given(tmp_path, monkeypatch):
    assert suite(tmp_path, monkeypatch, tuning="tuning: {}").content.tuning.seeds == (100, 101)
    assert suite(tmp_path, monkeypatch).content.tuning.seeds == (100,)


@pytest.mark.parametrize(
    ("tried", "chosen", "beyond"),
    [
        ((1e-4, 1e-3, 1e-2), 1e-2, 1e-1),
        ((1e-4, 1e-3, 1e-2), 1e-4, 1e-5),
        ((1e-4, 1e-3, 1e-2), 1e-3, None),
        ((1e-2, 1e-3), 1e-3, 1e-4),  # in any order
        ((1e-3, 2e-3, 1.6e-2), 1.6e-2, 6.4e-2),  # a factor of 16 in two steps
    ],
)
def test_the_rate_beyond_an_edge_by_hand(tried, chosen, beyond):
    assert rate_beyond(tried, chosen) == beyond


def test_a_narrow_range_gives_as_many_different_rates_as_are_asked_for():
    # Three digits have 11 numbers from 1 to 1.1.
    drawn = Range(low=1.0, high=1.1).take(200)
    assert len(set(drawn)) == 200 and list(drawn) == sorted(drawn)


@pytest.mark.parametrize(
    ("trials", "factor", "number", "rungs"),
    [
        (4, 3, 2, [(6, 3), (2, 1)]),  # 6 / 3 + 2 = 4
        (9, 3, 3, [(27, 9), (9, 3), (3, 1)]),  # 27 / 9 + 9 / 3 + 3 = 9
        (6, 2, 3, [(8, 4), (4, 2), (2, 1)]),  # 8 / 4 + 4 / 2 + 2 = 6
        (5, 3, 2, [(8, 3), (2, 1)]),  # 8 / 3 + 2 = 4 2/3; with nine it is 9 / 3 + 3 = 6
        (7, 2, 3, [(10, 4), (5, 2), (2, 1)]),  # 10 / 4 + 5 / 2 + 2 = 7
        (8, 4, 2, [(16, 4), (4, 1)]),  # 16 / 4 + 4 = 8
    ],
)
def test_the_rungs_by_hand(trials, factor, number, rungs):
    found = rungs_of(trials, factor, number)
    assert [(rung.trials, rung.part) for rung in found] == rungs
    assert [rung.number for rung in found] == [*range(1, number + 1)]


def test_the_worked_example_of_the_page_on_budgets():
    page = (Path(__file__).parents[2] / "docs" / "budgets.md").read_text(encoding="utf-8")
    (example,) = re.findall(r"```yaml\n([^`]*halving[^`]*)```", page)
    given = yaml.safe_load(example)
    tuning = Tuning.model_validate_json(json.dumps(given["tuning"]))
    examples, trials = given["budget"]["train_examples"], given["budget"]["trials"]
    spent = []
    for rung in rungs_of(trials, tuning.halving, tuning.rungs):
        spent.append(rung.trials * (examples // rung.part))
    first, last = rungs_of(trials, tuning.halving, tuning.rungs)
    words = {2: "two", 6: "six"}
    begun = f"{words[first.trials]} rates at ⌊{examples:,} / {first.part}⌋ = {examples // first.part} examples"
    ended = f"then {words[last.trials]} at {examples:,}"
    work = f"in all {sum(spent):,} of {trials} · {examples:,} = {trials * examples:,}."
    assert f"{begun}, {ended}, {work}" in page


@pytest.mark.parametrize("factor", [2, 3, 4])
@pytest.mark.parametrize("number", [2, 3, 4])
def test_a_halving_begins_with_as_many_as_the_trials_pay_for(factor, number):
    def spent(begun):
        total = Fraction(0)
        for step in range(number):
            total += Fraction(begun, factor ** (number - 1 - step))
            begun //= factor
        return total

    for trials in range(2 * number, 25):
        most = max(begun for begun in range(trials * factor**number) if spent(begun) <= trials)
        if (factor, number) == (2, 2):
            # n / 2 + n / 2 = n: no more than without halving.
            assert most == trials
            with pytest.raises(LoraBenchError, match="try as many: take halving: 3"):
                rungs_of(trials, factor, number)
            continue
        rungs = rungs_of(trials, factor, number)
        assert rungs[0].trials == most > trials and rungs[-1].trials >= 2 and rungs[-1].part == 1
        assert trials - 1 < spent(most) == sum(Fraction(rung.trials, rung.part) for rung in rungs) <= trials


def test_too_few_trials_for_a_last_choice_name_what_would_do():
    with pytest.raises(LoraBenchError, match=r"take rungs: 2, or trials: 6"):
        rungs_of(5, 3, 3)
    with pytest.raises(LoraBenchError, match=r"from: take trials: 4"):
        rungs_of(3, 3, 2)


def test_the_best_go_on_in_their_order_and_a_trial_without_a_score_loses():
    def trial(rate, score, seed=1, status="ok", **given):
        return record(score=score, seed=seed, learning_rate=rate, status=status, **given)

    def going(records, number):
        return trials_among(records, "all_seeds").going(number)

    scored = [trial(1e-4, 0.6), trial(3e-4, 0.8), trial(1e-3, 0.8), trial(3e-3, 0.7)]
    assert going(scored, 2) == (3e-4, 1e-3)
    losses = [
        trial(r, loss, higher_is_better=False) for r, loss in ((1e-4, 0.6), (3e-4, 0.8), (1e-3, 0.8), (3e-3, 0.7))
    ]
    assert going(losses, 2) == (1e-4, 3e-3)
    # Of two equal ones the first.
    assert going(scored, 1) == (3e-4,) and trials_among(scored, "all_seeds").chosen == 3e-4
    lost = [*scored[:2], trial(1e-3, None, status="diverged"), trial(3e-3, None, status="failed")]
    assert going(lost, 2) == (1e-4, 3e-4)
    # As many go on as of every other method: the first of those that have none after all that have a score.
    assert going(lost, 3) == (1e-4, 3e-4, 1e-3)
    two_seeds = [*scored, *(trial(one.spec.training.learning_rate, 0.7, seed=2) for one in scored[:3])]
    assert going([*two_seeds, trial(3e-3, None, seed=2, status="failed")], 3) == (1e-4, 3e-4, 1e-3)
    assert trials_among([*scored, None], "all_seeds") is None


def test_seeds_are_halved_from_the_plan_to_the_choice(tmp_path, monkeypatch):
    """All four rates have one seed, the better two of them three, and the report's choice is the plan's."""
    monkeypatch.setenv("LORA_BENCH_CACHE", str(tmp_path / "cache"))
    (tmp_path / "project").mkdir()
    halves = "tuning: {seeds: [100, 101, 102], search: halve_seeds, extend: false}"
    loaded = suite(tmp_path / "project", monkeypatch, tuning=halves)
    plan = make_plan(loaded, runs_folder(loaded, tmp_path / "runs"))
    assert [cell.job.spec.seed for cell in plan.cells] == [100] * 8
    assert [(waiting.runs, waiting.cells[0].job.trial) for waiting in plan.waiting] == [(4, True), (1, False)] * 2
    outcome = run_suite("tickets.yaml", runs=tmp_path / "runs", workers=0)
    trials = [one for one in outcome.records if one.spec.score_on == "selection"]
    settings = [one for one in compare(outcome.records).settings if one.trials]
    for label in ("full", "lora"):
        of = [one for one in trials if one.spec.method.label == label]
        first = [one for one in of if one.spec.seed == 100]
        assert all(one.budget.search == "halve_seeds" for one in of) and len(of) == 4 + 2 * 2
        better = sorted(first, key=lambda one: -one.score)[:2]
        later = {one.spec.training.learning_rate for one in of if one.spec.seed != 100}
        assert {one.score for one in first if one.spec.training.learning_rate in later} == {one.score for one in better}
        (reported,) = {
            one.spec.training.learning_rate
            for one in outcome.records
            if one.spec.method.label == label and one.spec.score_on == "test"
        }
        rows = [row for one in settings for row in one.rows if row.label == label]
        assert best_rates(rows, settings[0]) == (reported,)


def halved(folder, monkeypatch, *, work="train_examples: 96", tuning="", **given):
    monkeypatch.setenv("LORA_BENCH_CACHE", str(folder.parent / "cache"))
    folder.mkdir()
    loaded = suite(folder, monkeypatch, tuning=TUNING.replace(", extend: false}", f", halving: 3{tuning}}}"), **given)
    file = folder / "tickets.yaml"
    file.write_text(file.read_text().replace("train_examples: 48", work))
    assert loaded.name == "tickets"
    return file


def works(cell):
    training = cell.job.spec.training
    return training.target[1], training.caps, training.warmup_steps, training.warmup


@pytest.mark.parametrize(
    ("work", "recipe", "first", "last"),
    [
        # 5 of 50 steps of 16 are the rise; of 800 // 3 = 266 examples, 2 of 17.
        ("train_examples: 800", "", (266, {}, 2, None), (800, {}, 5, None)),
        ("train_examples: 800", "training: {warmup_steps: 9}\n", (266, {}, 3, None), (800, {}, 9, None)),
        (
            "train_tokens: 1000, caps: {train_seconds: 60}", "",
            (333, {"train_seconds": 20.0}, None, 0.1), (1000, {"train_seconds": 60.0}, None, 0.1),
        ),
        ("train_flops: 3e9", "", (1e9, {}, None, 0.1), (3e9, {}, None, 0.1)),
        ("train_seconds: 4.5", "", (1.5, {}, None, 0.1), (4.5, {}, None, 0.1)),
    ],
)  # fmt: skip
def test_a_short_run_has_a_part_of_the_work_its_caps_and_its_warm_up(tmp_path, monkeypatch, work, recipe, first, last):
    methods = "methods:\n  - {method: lora, learning_rate: {low: 1e-4, high: 1e-2}}\n" + recipe
    plan = make_plan(load_suite(halved(tmp_path / "a", monkeypatch, work=work, methods=methods)), tmp_path / "runs")
    assert [works(cell) for cell in plan.cells] == [first] * 6
    later, reported = plan.waiting
    assert [works(cell) for cell in (*later.cells, *reported.cells)] == [last] * 3


def test_runs_of_less_than_a_batch_are_refused_with_the_least_work(tmp_path, monkeypatch):
    file = halved(tmp_path / "a", monkeypatch, work="train_examples: 47")
    with pytest.raises(BadInput, match=r"15 examples .* a batch of 16: take fewer rungs, or train_examples: 48"):
        make_plan(load_suite(file), tmp_path / "runs")


def test_a_grid_may_be_halved_too_and_a_cell_with_another_number_is_named(tmp_path, monkeypatch):
    grids = GRIDS.replace("1e-2]", "1e-2, 3e-2]")
    file = halved(tmp_path / "a", monkeypatch, methods=grids)
    assert [len(values) for values in rates(load_suite(file)).values()] == [6, 6]
    file.write_text(file.read_text() + "recipes:\n  - {methods: lora, learning_rate: [1e-3, 3e-3]}\n")
    with pytest.raises(BadInput, match="begins with 6, but lora on base for tickets has 2 learning rates"):
        make_plan(load_suite(file), tmp_path / "runs")


class StopsAfter(Silent):
    """Sends this process SIGINT once so many runs have ended."""

    def __init__(self, runs):
        self.left = runs

    def finished(self, record):
        self.left -= 1
        if self.left == 0:
            os.kill(os.getpid(), signal.SIGINT)


def test_a_suite_is_halved_from_its_plan_to_its_report_and_goes_on_where_it_was_stopped(tmp_path, monkeypatch):
    file = halved(tmp_path / "project", monkeypatch)
    # A correlation tells any two runs apart, however few their steps.
    table = (tmp_path / "project" / "tickets.csv").read_text().replace("complaint", "1.5").replace("praise", "-0.5")
    (tmp_path / "project" / "tickets.csv").write_text(table)
    file.write_text(file.read_text().replace("label: queue", "label: queue\n    kind: regression"))
    plan = make_plan(load_suite(file), runs_folder(load_suite(file), tmp_path / "runs"))
    # Two methods, 6 rates each; then 2 rates each, and one reported seed each.
    assert [(cell.job.rung, cell.job.trial, cell.short) for cell in plan.cells] == [(1, True, True)] * 12
    assert [waiting.runs for waiting in plan.waiting] == [2, 1, 2, 1]
    said = "\n".join(part.plain for part in plan_tables(plan) if hasattr(part, "plain"))
    assert "4 runs wait for the shorter trials that choose which learning rates go on" in said
    assert "2 runs wait for the trials that choose their learning rate" in said
    assert "6 learning rates with 1/3 of the work, then 2 learning rates with all of the work" in said
    assert "96 examples in 6 steps of 16" in said and "18 of 18 runs to do" in said

    stopped = run_suite(file, runs=tmp_path / "runs", workers=0, display=StopsAfter(14))
    assert stopped.interrupted == "SIGINT" and sum(one.rung == 2 for one in stopped.records) == 2
    outcome = run_suite(file, runs=tmp_path / "runs", workers=0)
    assert outcome.interrupted is None and outcome.done == 4
    before = {one.run_id: one for one in stopped.records}
    assert all(before.get(one.run_id, one) == one for one in outcome.records) and len(outcome.records) == 18
    assert run_suite(file, runs=tmp_path / "runs", workers=0).done == 0

    chosen = {}
    for label, drawn in rates(load_suite(file)).items():
        of = [one for one in outcome.records if one.spec.method.label == label]
        first, last, reported = ([one for one in of if one.rung == rung] for rung in (1, 2, None))
        assert [one.spec.training.learning_rate for one in first] == [*drawn]
        assert {(one.spec.training.train_examples, one.spec.training.steps) for one in first} == {(32, 2)}
        assert {(one.spec.training.train_examples, one.spec.training.steps) for one in last} == {(96, 6)}
        # All that a method's tuning saw is the work of 4 trials: 6 * 32 + 2 * 96 = 4 * 96.
        assert sum(one.speed.train_examples for one in (*first, *last)) == 4 * 96
        assert {(one.spec.score_on, one.spec.seed) for one in (*first, *last)} == {("selection", 100)}
        ranked = sorted(first, key=lambda one: -one.score)  # equal ones stay in their order
        assert {one.spec.training.learning_rate for one in last} == {
            one.spec.training.learning_rate for one in ranked[:2]
        }
        chosen |= {label: (first, last)}
        (result,) = reported
        assert result.spec.training.learning_rate == max(last, key=lambda one: one.score).spec.training.learning_rate
        assert (result.spec.score_on, result.spec.seed, result.budget.halving, result.budget.trials) == (
            "test",
            0,
            3,
            4,
        )

    # It is not simply the first ones that went on.
    assert any(
        last[0].spec.training.learning_rate != first[0].spec.training.learning_rate for first, last in chosen.values()
    )

    # A run by its id alone needs no run before it.
    wanted = next(one for one in outcome.records if one.rung == 2)
    again = run_suite(file, runs=tmp_path / "elsewhere", workers=0, only=[wanted.run_id])
    assert [(one.run_id, one.rung, one.scores) for one in again.records] == [(wanted.run_id, 2, wanted.scores)]

    comparison = compare(outcome.records)
    assert [setting.rung for setting in comparison.settings] == [None, 1, 2]
    assert [plan.kind for plan in plan_figures(comparison)].count("learning_rates") == 2
    page = render_markdown(Report(outcome.records))
    assert page.count("The expected best") == 1 and "no expected best is shown" in page
    assert "Among them are 16 trials of learning rates" in page
    assert "The best 2 of each method went on to runs with 96 examples." in page
    assert "for the work of 4, halved by 3 in 2 rungs" in page


def test_a_suite_without_halving_plans_what_it_did(tmp_path, monkeypatch):
    monkeypatch.setenv("LORA_BENCH_CACHE", str(tmp_path / "cache"))
    plan = make_plan(suite(tmp_path, monkeypatch), tmp_path / "runs")
    assert [(cell.job.rung, cell.short, cell.job.spec.training.train_examples) for cell in plan.cells] == [
        (None, False, 48)
    ] * 8
    assert {(cell.job.budget.halving, cell.job.budget.rungs) for cell in plan.cells} == {(None, None)}
    assert [waiting.reason for waiting in plan.waiting] == ["the trials that choose their learning rate"] * 2
