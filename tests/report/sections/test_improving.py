"""A run that was still improving at the end of its budget is flagged, by a rule that a reader can check by hand."""

import random

import pytest

from lora_bench.records.record import CurvePoint
from lora_bench.report import Report, render_markdown
from lora_bench.report.sections.improving import still_improving
from tests.sample_records import METHODS, record


def run_with(scores=(), losses=(), **more):
    curve = [CurvePoint(step=10 * (index + 1), loss=loss) for index, loss in enumerate(losses)]
    curve += [CurvePoint(step=10 * (index + 1), scores={"accuracy": value}) for index, value in enumerate(scores)]
    return record(changes={"curve": tuple(curve)}, **more)


def test_a_rise_above_the_noise_is_flagged():
    # Of six points, those from a sixth to a half are 0.70 and 0.68, and the last third is 0.80 and 0.82. The points between
    # others are 0.06, 0.045, 0.01 and 0.015 from the middles beside them, of which 0.03 is the median: 0.826 standard
    # deviations, as each is the error of a point and of the mean of two. Both parts have two points, √(1/2 + 1/2) is 1: the
    # rise of 0.12 is above 1.28 · 0.03 / 0.826 = 0.046.
    assert still_improving(run_with([0.60, 0.70, 0.68, 0.75, 0.80, 0.82]))
    # Here the distances are 0.06, 0.045, 0.045 and 0.015, and a rise of 0.045 is not above 1.28 · 0.045 / 0.826 = 0.070.
    assert not still_improving(run_with([0.60, 0.70, 0.68, 0.75, 0.73, 0.74]))


@pytest.mark.parametrize(
    "scores",
    [
        [0.60, 0.70, 0.80, 0.72, 0.74, 0.76],  # the middle part was as good: 0.75
        [0.60, 0.70, 0.50, 0.70, 0.50, 0.72],  # 0.61 after 0.60, where points are 0.2 from the middles beside them
        [0.60, 0.80, 0.80, 0.80, 0.80, 0.80],  # it has come to rest
        [0.1 + 0.2, 0.3, 0.3, 0.3, 0.3, 0.1 + 0.2],  # rounding is no rise
    ],
)
def test_what_is_not_a_rise_is_not_flagged(scores):
    assert not still_improving(run_with(scores))


def test_where_a_lower_score_is_better_a_fall_is_flagged():
    assert still_improving(run_with([0.9, 0.7, 0.5, 0.3], higher_is_better=False))
    assert not still_improving(run_with([0.3, 0.5, 0.7, 0.9], higher_is_better=False))


def test_three_scores_are_too_few_and_the_loss_tells_in_their_place():
    falling = [1.0 - 0.04 * index for index in range(18)]
    assert not still_improving(run_with([0.6, 0.7, 0.8]))
    assert still_improving(run_with([0.8, 0.7, 0.6], falling))
    assert not still_improving(run_with((), falling[:9]))


def test_scores_count_before_the_loss():
    assert not still_improving(run_with([0.8, 0.7, 0.8, 0.7], [1.0 - 0.04 * index for index in range(20)]))


@pytest.mark.parametrize(("points", "at_most"), [(4, 0.17), (10, 0.14), (50, 0.13)])
def test_of_noise_alone_about_a_tenth_is_flagged(points, at_most):
    draw = random.Random(0)
    runs = [run_with([draw.gauss(0.7, 0.01) for _ in range(points)]) for _ in range(500)]
    assert sum(still_improving(run) for run in runs) <= at_most * len(runs)


def test_nine_in_ten_committed_runs_that_gain_from_longer_training_are_flagged():
    from benchmarks.still_improving import GAIN, LONGER, pairs

    found = [
        still_improving(run)
        for short, long, _ in LONGER
        for run, longer in pairs(short, long)
        if longer.judged_score - run.judged_score > GAIN
    ]
    assert len(found) == 63
    # The benchmark prints 24, 18 and 18.
    assert sum(found) == 60


def test_the_report_lists_methods_under_the_budget():
    rising, flat = [0.5, 0.6, 0.7, 0.8], [0.7, 0.7, 0.7, 0.7]
    wide = METHODS["lora"].model_copy(update={"options": {**METHODS["lora"].options, "rank": 8}, "chosen": {"rank": 8}})
    records = [
        run_with(rising, seed=0), run_with(flat, seed=1), run_with(flat, method="full"),
        run_with((), method="prefix_tuning"), run_with(rising, method=wide, status="failed", reason="no"),
    ]  # fmt: skip
    budget = render_markdown(Report(records)).split("## Protocol and budget")[1].split("## Scores")[0]
    said = "1 (`lora` 1) of 4 runs [were still improving](/docs/budgets.md#still-improving) when their budget ended."
    assert said in budget
    assert "still improving" not in render_markdown(Report(records[1:3]))
