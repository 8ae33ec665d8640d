"""What tuning came to, by hand."""

import pytest

from lora_bench.report import Report, render_markdown
from lora_bench.report.blocks import to_markdown
from lora_bench.report.model.comparison import compare
from lora_bench.report.model.searches import best_rates
from lora_bench.report.sections.chosen_rates import rungs_of_search
from lora_bench.report.sections.tuning import trial_blocks
from tests.report.test_markdown import tables
from tests.sample_records import BUDGET, record

SEARCH = {"score_on": "selection"}


def search(scores, method="lora", seeds=(100,), **given):
    """One run for each learning rate and seed; None is a run that failed."""
    return [
        record(
            method, score=score, learning_rate=10.0 ** -(index + 1), seed=seed, spec=SEARCH,
            **({"status": "failed", "reason": "it ended"} if score is None else {}), **given,
        )
        for index, score in enumerate(scores)
        for seed in seeds
    ]  # fmt: skip


def table(records):
    (setting,) = compare(records).settings
    lines = to_markdown(trial_blocks(setting)).splitlines()
    return tables("\n".join(lines))[0] if lines else []


def test_the_expected_best_of_three_trials_by_hand():
    header, _, lora = table(search((0.6, 0.9, 0.75)))
    assert header[2:5] == ["1 trial", "2 trials", "3 trials"]
    # One: their mean, .75. Two of three: .75, .9 and .9 in the three pairs. Three: the best.
    assert [float(cell) for cell in lora[2:5]] == pytest.approx([0.75, 0.85, 0.9], abs=1e-4)
    assert lora[5] == "30.0"  # three runs of 200 steps of 50 ms


def test_lower_may_be_better():
    _, _, lora = table(search((0.6, 0.9, 0.75), metric="ter", higher_is_better=False))
    assert [float(cell) for cell in lora[2:5]] == pytest.approx([0.75, 0.65, 0.6], abs=1e-4)


def test_a_trial_is_the_mean_over_its_seeds_and_at_the_floor_where_one_failed():
    records = search((0.6, 0.8), seeds=(100,)) + search((0.7, None), seeds=(101,), majority=0.5)
    _, _, lora = table(records)
    # Trials of .65 and, since one seed of it failed, .5.
    assert [float(cell) for cell in lora[2:4]] == pytest.approx([0.575, 0.65], abs=1e-4)


def test_of_halved_seeds_the_first_makes_the_expected_best_and_a_rate_of_one_seed_does_not_win():
    halves = BUDGET.model_copy(update={"trials": 3, "search": "halve_seeds"})
    records = search((0.80, 0.90, 0.85), budget=halves)
    for seed, scores in ((101, (0.70, 0.72)), (102, (0.71, 0.71))):
        records += search((0.5, *scores), seeds=(seed,), budget=halves)[1:]
    _, _, lora = table(records)
    assert [float(cell) for cell in lora[2:5]] == pytest.approx([0.85, 0.8833, 0.9], abs=1e-4)
    (setting,) = compare(records).settings
    assert best_rates(setting.rows, setting) == (1e-2,)  # of 0.77 and 0.76; 0.80 is a single run


def test_methods_are_compared_at_the_same_number_of_trials():
    header, _, *lines = table(search((0.6, 0.9, 0.75)) + search((0.8, 0.7), method="full"))
    assert len(header) == 6
    full = next(line for line in lines if "full" in line[1])
    assert [float(cell) for cell in full[2:4]] == pytest.approx([0.75, 0.8], abs=1e-4)
    assert full[4] == "–"


def test_a_trial_beyond_the_range_is_in_the_cost_alone():
    beyond = record(score=0.95, learning_rate=1.0, seed=100, spec=SEARCH, changes={"extended": True})
    page = render_markdown(Report([*search((0.9, 0.6, 0.75)), beyond]))
    header, _, lora = next(one for one in tables(page) if "3 trials" in one[0])
    assert header[2:] == ["1 trial", "2 trials", "3 trials", "training, s in all"]
    assert [float(cell) for cell in lora[2:5]] == pytest.approx([0.75, 0.85, 0.9], abs=1e-4) and lora[5] == "40.0"
    assert "Tried beyond the range, as the best rate was at its edge, and only in the cost: `lora` on" in page
    assert "1e0 is the largest tried, beyond the range given." in page


def test_one_trial_is_no_search():
    assert table(search((0.6,))) == []


HALVED = BUDGET.model_copy(update={"trials": 4, "halving": 3, "rungs": 2})


def rung(number, scores, method="lora", rates=None):
    """The trials of a rung: those of the first have 1,066 of 3,200 examples."""
    of = {1: {"train_examples": 1_066, "steps": 67, "warmup_steps": 7}, 2: {}}[number]
    return [
        record(
            method, score=score, learning_rate=rate, seed=100, spec=SEARCH, training=of, budget=HALVED,
            changes={"rung": number}, step_seconds=0.05 * number,
        )
        for rate, score in zip(rates or [10.0 ** -(index + 1) for index in range(len(scores))], scores, strict=True)
    ]  # fmt: skip


FIRST = (0.5, 0.8, 0.7, 0.6, 0.55, 0.52)


def test_the_rungs_of_a_halving_are_one_search_and_only_what_was_drawn_has_an_expected_best():
    records = rung(2, (0.81, 0.83), rates=(1e-2, 1e-3)) + rung(1, FIRST)
    comparison = compare([*records, record(seed=0, budget=HALVED)])
    _, first, last = comparison.settings
    assert (first.rung, last.rung) == (1, 2)
    assert rungs_of_search(first, comparison) == rungs_of_search(last, comparison) == (first, last)
    drawn, chosen = (to_markdown(trial_blocks(setting, (first, last))).splitlines() for setting in (first, last))
    header, _, lora = tables("\n".join(drawn))[0]
    assert header[7] == "6 trials" and float(lora[2]) == pytest.approx(sum(FIRST) / 6, abs=1e-4)
    assert any(line.startswith("The best 2 of each method went on to runs with 3,200 examples") for line in drawn)
    assert not any("The expected best" in line for line in chosen)


def test_a_rate_is_at_an_edge_if_it_is_the_last_of_all_that_were_begun():
    def edges(rates):
        page = render_markdown(Report([*rung(1, FIRST), *rung(2, (0.81, 0.83), rates=rates)]))
        return "A better learning rate may lie outside the rates tried" in page

    # 1e-3 is the smaller of the two that went on, and neither the smallest nor the largest of the six.
    assert not edges((1e-2, 1e-3))
    assert edges((1e-2, 1e-1)) and edges((1e-2, 1e-6))


def test_trials_beside_the_chosen_rate_that_failed_or_learned_nothing_are_named():
    # Rates 1e-1 to 1e-4; 1e-3 is chosen. At 1e-2 one seed is at the majority of .5 and at 1e-4 one failed; 1e-1 is far.
    records = search((0.5, 0.5, 0.8, 0.7), majority=0.5) + search((0.5, 0.9, 0.8, None), seeds=(101,), majority=0.5)
    page = render_markdown(Report(records))
    assert "- `lora` on MiniLM-L6 in the RoBERTa class, 1e-3 chosen: 1 of 2 at 1e-4 and 1 of 2 at 1e-2." in page
    fine = search((0.5, 0.7, 0.8, 0.7), majority=0.5)
    assert "may fail, since trials" not in render_markdown(Report(fine))
    # One that failed is not called the best, however good its other runs are.
    lost = search((0.7, 0.9)) + search((0.7, None), seeds=(101,))
    assert "| **0.7000** (n 2)" in render_markdown(Report(lost))


def test_halvings_of_other_budgets_are_searches_of_their_own():
    other = BUDGET.model_copy(update={"trials": 8, "halving": 3, "rungs": 2})
    records = [*rung(1, FIRST), *(one.model_copy(update={"budget": other}) for one in rung(2, (0.8, 0.7)))]
    comparison = compare(records)
    assert [len(rungs_of_search(setting, comparison)) for setting in comparison.settings] == [1, 1]


def test_rates_that_another_suite_tuned_are_called_tuned_and_name_it():
    budget = BUDGET.model_copy(update={"trials": 3, "tuned_in": "my-search"})
    runs = [record(method, seed=seed, budget=budget) for method in ("full", "lora") for seed in (0, 1)]
    page = render_markdown(Report(runs))
    assert "No learning rate was tuned" not in page
    assert "| learning rates planned for every method | 3, in `my-search` |" in page
