"""Sweeps, their plateaus and crossings, on scores that a reader can check."""

import math

import pytest

from lora_bench.records.budget import Budget
from lora_bench.report import Report, render_markdown
from lora_bench.report.model.comparison import compare
from lora_bench.report.model.plateaus import sweep_findings
from lora_bench.report.model.seed_scores import no_answers
from lora_bench.report.model.sweeps import sweeps
from tests.report.test_markdown import tables
from tests.sample_records import BUDGET, METHODS, record

SIZES_GIVEN = Budget(train_examples=3_200)
EPOCHS = Budget(epochs=10)


def lora(label=None, **options):
    method = METHODS["lora"]
    name = label or "lora " + " ".join(f"{key}{value}" for key, value in options.items())
    return method.model_copy(update={"label": name, "options": {**method.options, **options}, "chosen": options})


def noise(seed, place):
    """Seeds move all scores alike, and each a little by itself: by at most 0.003."""
    return seed / 100 + (seed * seed * place + seed) % 7 / 2_000


def ranks(means, seeds=6, **given):
    """Runs of LoRA by rank."""
    return [
        record(
            lora(rank=rank), seed=seed, budget=SIZES_GIVEN, score=score + noise(seed, rank), **given
        )
        for rank, score in means.items()
        for seed in range(seeds)
    ]  # fmt: skip


def rows(method, by_number, seeds=6, better=True):
    """Runs of a method by how many different training rows they have, ten epochs each."""
    return [
        record(
            method, seed=seed, budget=EPOCHS, score=score + noise(seed, number + len(METHODS[method].options)),
            training={
                "distinct_examples": number, "train_examples": 10 * number, "steps": number, "warmup_steps": number // 10
            },
            higher_is_better=better,
        )
        for number, score in by_number.items()
        for seed in range(seeds)
    ]  # fmt: skip


def found(records):
    return sweep_findings(compare(records), no_answers, None)


def shape(records):
    """Of each sweep its number, and the values of its lines by name."""
    return {
        sweep.axis: {line.name: [point.value for point in line.points] for line in sweep.lines}
        for sweep in sweeps(compare(records))
    }


def test_one_option_at_three_values_is_a_line_and_at_two_is_none():
    means = {8: 0.80, 2: 0.78, 32: 0.81}
    assert shape(ranks(means)) == {"rank": {"lora": [2, 8, 32]}}
    assert shape(ranks({2: 0.8, 8: 0.8})) == {}
    # Another option differs as well: no two of these are the same but for one number.
    mixed = [record(lora(rank=rank, scaling=rank / 2), budget=SIZES_GIVEN, score=0.8) for rank in (2, 4, 8)]
    assert shape(mixed) == {}


def test_a_grid_of_two_numbers_has_lines_over_each():
    grid = [
        record(
            lora(f"s{scaling} lr{rate}", scaling=scaling), budget=SIZES_GIVEN, learning_rate=rate, seed=seed,
            score=0.8 + seed / 50,
        )
        for scaling in (1.0, 2.0, 4.0)
        for rate in (1e-4, 1e-3, 1e-2)
        for seed in range(3)
    ]  # fmt: skip
    assert shape(grid) == {
        "learning rate": {f"lora, scaling {scaling}": [1e-4, 1e-3, 1e-2] for scaling in (1.0, 2.0, 4.0)},
        "scaling": {f"lora, learning rate {rate}": [1, 2, 4] for rate in ("1e-2", "1e-3", "1e-4")},
    }


def test_rates_that_trials_chose_may_differ_along_a_line():
    tuned = [
        record(lora(rank=rank), budget=SIZES_GIVEN, learning_rate=rate, score=0.8)
        for rank, rate in ((2, 1e-2), (8, 1e-3), (32, 1e-3))
    ]
    assert shape(tuned) == {"rank": {"lora": [2, 8, 32]}}


def test_work_and_different_rows_are_numbers_too():
    work = [
        record(
            "lora",
            budget=Budget(train_examples=examples),
            training={"train_examples": examples, "steps": examples // 16},
        )
        for examples in (320, 640, 1_280)
    ]
    assert shape(work) == {"examples seen": {"lora": [320, 640, 1_280]}}
    assert shape(rows("lora", {100: 0.6, 1_000: 0.7})) == {"different training rows": {"lora": [100, 1_000]}}


def test_sweeps_of_several_settings_say_which():
    records = [
        record(
            lora(rank=rank), budget=EPOCHS, score=0.8, training={"distinct_examples": number, "train_examples": number}
        )
        for rank in (2, 8, 32)
        for number in (100, 1_000)
    ]
    over_rank = [sweep for sweep in sweeps(compare(records)) if sweep.axis == "rank"]
    assert [sweep.apart for sweep in over_rank] == ["100 rows", "1,000 rows"]


def test_trials_have_no_sweep():
    trials = ranks({2: 0.7, 8: 0.8, 32: 0.9}, spec={"score_on": "selection"})
    assert shape([*trials, record(budget=SIZES_GIVEN)]) == {}


def test_the_plateau_has_all_values_that_are_not_shown_to_be_worse():
    # By hand: 2 is 0.1 below the best in each seed, and 8 differs from 32 by at most 0.003, either way.
    (plateau,) = found(ranks({2: 0.70, 8: 0.80, 32: 0.80})).plateaus
    assert [point.value for point in plateau.held] == [8, 32]
    ((point, verdict),) = plateau.worse
    assert point.value == 2 and verdict.difference == pytest.approx(-0.1, abs=0.003)
    assert verdict.family == 3, "all pairs of values"


def test_a_plateau_counts_the_choice_of_a_rate_by_trials():
    def trials(rank, *of_rates):
        return [
            record(
                lora(rank=rank), seed=100 + seed, learning_rate=rate, score=score, budget=SIZES_GIVEN,
                spec={"score_on": "selection"},
            )
            for rate, scores in zip((5e-4, 1e-3), of_rates, strict=True)
            for seed, score in enumerate(scores)
        ]  # fmt: skip

    def plateau(low, high):
        coins = [one for rank in (2, 8, 32) for one in trials(rank, low, high)]
        return found([*ranks({2: 0.70, 8: 0.80, 32: 0.80}), *coins]).plateaus[0]

    # At both rates a coin decides between means of 0.70 and 0.72, an SD of 0.01 for each rank.
    ((_, verdict),) = plateau([0.60, 0.80], [0.62, 0.82]).worse
    assert verdict.choice_sd == pytest.approx(math.sqrt(2) * 0.01, rel=0.1)
    ((_, given),) = found(ranks({2: 0.70, 8: 0.80, 32: 0.80})).plateaus[0].worse
    assert given.choice_sd is None and given.p_value < verdict.p_value
    # Between 0.70 and 0.90 it decides more than the ranks do.
    assert plateau([0.40, 1.00], [0.60, 1.20]).worse == ()


def test_where_lower_is_better_the_least_is_best():
    records = ranks({2: 0.70, 8: 0.80, 32: 0.80}, metric="ter", higher_is_better=False)
    (plateau,) = found(records).plateaus
    assert plateau.best.value == 2 and [point.value for point, _ in plateau.worse] == [8, 32]


def test_two_seeds_show_nothing():
    (plateau,) = found(ranks({2: 0.70, 8: 0.80, 32: 0.80}, seeds=2)).plateaus
    assert not plateau.compared and not plateau.worse


def test_methods_that_change_places_and_what_is_decided():
    # LoRA is 0.1 better with 100 rows and 0.1 worse with 10,000.
    records = rows("lora", {100: 0.6, 10_000: 0.8}) + rows("full", {100: 0.5, 10_000: 0.9})
    (crossing,) = found(records).crossings
    assert crossing.methods == ("lora", "full") and crossing.between == (100, 10_000) and crossing.shown == (True, True)
    # Equal differences on both sides meet half way on a logarithmic axis.
    assert crossing.about == pytest.approx(1_000, rel=0.05)
    open_end = rows("lora", {100: 0.6, 10_000: 0.9}) + rows("full", {100: 0.5, 10_000: 0.901})
    (crossing,) = found(open_end).crossings
    assert crossing.shown == (True, False)
    # With 1,000 rows nothing is shown, and with 100 and 10,000 it is: the change is decided all the same.
    records = rows("lora", {100: 0.6, 1_000: 0.7, 10_000: 0.8}) + rows("full", {100: 0.5, 1_000: 0.6997, 10_000: 0.9})
    (crossing,) = found(records).crossings
    assert crossing.between == (100, 10_000) and crossing.shown == (True, True)
    assert 1_000 < crossing.about < 1_200, "lines from a difference near 0 to one of 0.1 meet close to the first"
    assert found(rows("lora", {100: 0.6, 1_000: 0.7}) + rows("full", {100: 0.5, 1_000: 0.6})).crossings == ()


def test_the_section_says_plateaus_and_crossings():
    records = rows("lora", {100: 0.6, 10_000: 0.8}) + rows("full", {100: 0.5, 10_000: 0.9})
    page = render_markdown(Report(records))
    assert "### `vader_film`: different training rows" in page and "· [Curves](#curves)" in page
    plateaus, crossings = (
        table for table in tables(page) if table[0][0] == "base model" and table[0][2] in ("best", "better with more")
    )
    assert [row[1:3] + row[4:5] for row in plateaus[2:]] == [
        ["`full`", "10,000", "10,000"],
        ["`lora`", "10,000", "10,000"],
    ]
    assert crossings[2][1].startswith("`lora` at 100: +0.1") and crossings[2][1].endswith(", shown")
    assert crossings[2][4] == "yes"
    assert "`vader_film`, MiniLM-L6 in the RoBERTa class. Score against the number of different training rows" in page
    of_ranks = [
        render_markdown(Report(ranks({2: least, 8: 0.80, 32: most}))) for least, most in ((0.7, 0.81), (0.7, 0.7))
    ]
    assert "| 32, largest tried |" in of_ranks[0] and "| 8 |" in of_ranks[1]
    assert "Curves" not in render_markdown(Report([record(seed=seed, budget=BUDGET) for seed in range(3)]))
    assert "Curves" not in render_markdown(Report(ranks({2: 0.7, 8: 0.8, 32: 0.8}, seeds=1)))
