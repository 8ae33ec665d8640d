"""A run that was still improving at the end of its budget is flagged, by a rule that a reader can check by hand."""

import random

import pytest

from lora_bench.records.record import CurvePoint
from lora_bench.report import Report, render_markdown
from lora_bench.report.sections.improving import Improving, still_improving
from tests.sample_records import METHODS, record


def run_with(scores=(), losses=(), **more):
    curve = [CurvePoint(step=10 * (index + 1), loss=loss) for index, loss in enumerate(losses)]
    curve += [CurvePoint(step=10 * (index + 1), scores={"accuracy": value}) for index, value in enumerate(scores)]
    return record(changes={"curve": tuple(curve)}, **more)


def test_a_rise_above_the_noise_is_flagged_with_its_numbers():
    # The points between others are 0.70, 0.68, 0.75; the middles beside them 0.64, 0.725, 0.74: the distances 0.06, 0.045
    # and 0.01, of which 0.045 is the median. From 0.68 to 0.80 is 0.12, more than twice that.
    found = still_improving(run_with([0.60, 0.70, 0.68, 0.75, 0.80]))
    assert found == Improving(metric="accuracy", before=0.68, last=0.80, noise=pytest.approx(0.045))


@pytest.mark.parametrize(
    "scores",
    [
        [
            0.60,
            0.70,
            0.68,
            0.75,
            0.76,
        ],  # distances of 0.06, 0.045 and 0.03: 0.08 is less than twice 0.045
        [0.60, 0.82, 0.68, 0.75, 0.80],  # the last is not the best
        [0.60, 0.70, 0.80, 0.78, 0.85],  # one of the last two steps falls
        [0.60, 0.70, 0.80, 0.80, 0.80],  # it has come to rest
    ],
)
def test_what_is_not_a_rise_is_not_flagged(scores):
    assert still_improving(run_with(scores)) is None


def test_where_a_lower_score_is_better_a_fall_is_flagged():
    assert still_improving(run_with([0.9, 0.7, 0.5, 0.3], higher_is_better=False)).last == 0.3
    assert still_improving(run_with([0.3, 0.5, 0.7, 0.9], higher_is_better=False)) is None


def test_three_scores_are_too_few_and_the_loss_tells_in_their_place():
    falling = [1.0 - 0.04 * index for index in range(20)]
    assert still_improving(run_with([0.6, 0.7, 0.8])) is None
    found = still_improving(run_with([0.8, 0.7, 0.6], falling))
    # Twenty losses are ten means of two, such as of 0.28 and 0.24, and of 0.44 and 0.40 two means before.
    assert found == Improving(
        metric=None, before=pytest.approx(0.42), last=pytest.approx(0.26), noise=pytest.approx(0.0)
    )
    assert still_improving(run_with((), falling[:9])) is None


def test_scores_count_before_the_loss():
    assert still_improving(run_with([0.8, 0.7, 0.8, 0.7], [1.0 - 0.04 * index for index in range(20)])) is None


@pytest.mark.parametrize(("points", "at_most"), [(4, 0.13), (10, 0.05), (50, 0.02)])
def test_noise_alone_is_seldom_flagged(points, at_most):
    draw = random.Random(0)
    runs = [run_with([draw.gauss(0.7, 0.01) for _ in range(points)]) for _ in range(500)]
    assert sum(still_improving(run) is not None for run in runs) <= at_most * len(runs)


def test_the_report_lists_methods_under_the_budget():
    rising, flat = [0.5, 0.6, 0.7, 0.8], [0.7, 0.7, 0.7, 0.7]
    wide = METHODS["lora"].model_copy(update={"options": {**METHODS["lora"].options, "rank": 8}, "chosen": {"rank": 8}})
    records = [
        run_with(rising, seed=0), run_with(flat, seed=1), run_with(flat, method="full"),
        run_with((), method="prefix_tuning"), run_with(rising, method=wide, status="failed", reason="no"),
    ]  # fmt: skip
    budget = render_markdown(Report(records)).split("## Protocol and budget")[1].split("## Scores")[0]
    assert (
        "- `lora` on MiniLM-L6 in the RoBERTa class, `vader_film`: 1 of 2 runs, by accuracy on the selection split "
        "(0.6000 to 0.8000 in the last two steps of the curve)." in budget
    )
    assert budget.count("of the curve") == 2 and "The curve of 1 run is too short to tell." in budget
    assert "Still improving" not in render_markdown(Report(records[1:3]))
