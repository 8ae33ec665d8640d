"""What tuning came to, by hand."""

import pytest

from lora_bench.report.comparison import compare
from lora_bench.report.trials import trial_lines
from tests.records import record
from tests.report.test_markdown import tables

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
    lines = trial_lines(setting)
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


def test_methods_are_compared_at_the_same_number_of_trials():
    header, _, *lines = table(search((0.6, 0.9, 0.75)) + search((0.8, 0.7), method="full"))
    assert len(header) == 6
    full = next(line for line in lines if "full" in line[1])
    assert [float(cell) for cell in full[2:4]] == pytest.approx([0.75, 0.8], abs=1e-4)
    assert full[4] == "–"


def test_one_trial_is_no_search():
    assert table(search((0.6,))) == []
