"""Learning curves as lines: what is drawn of them, worked out by hand."""

import pytest

from lora_bench.records.record import CurvePoint
from lora_bench.report.figures.curves import losses_of, mean_line, scores_of, thinned


def test_losses_and_scores_are_told_apart():
    curve = [
        CurvePoint(step=1, loss=0.7),
        CurvePoint(step=2, scores={"accuracy": 0.5, "f1": 0.4}),
        CurvePoint(step=3, loss=0.6, scores={"f1": 0.45}),
        CurvePoint(step=4, loss=float("nan")),
    ]
    assert losses_of(curve) == [(1, 0.7), (3, 0.6)]
    assert scores_of(curve, "accuracy") == [(2, 0.5)]
    assert scores_of(curve, "f1") == [(2, 0.4), (3, 0.45)]
    assert scores_of(curve, None) == []


def test_a_thinned_line_has_means_of_neighbours_at_their_last_step():
    line = [(1, 1.0), (2, 3.0), (3, 5.0), (4, 7.0), (5, 10.0)]
    assert thinned(line, 3) == [(2, 2.0), (4, 6.0), (5, 10.0)]
    assert thinned(line, 5) == thinned(line, 9) == line
    assert thinned([], 3) == []


def test_the_mean_of_lines_with_the_same_steps_is_that_of_their_values():
    assert mean_line([[(10, 1.0), (20, 2.0)], [(10, 3.0), (20, 5.0)]]) == [(10, 2.0), (20, 3.5)]


def test_the_mean_goes_as_far_as_all_lines_do():
    long, short = [(10, 1.0), (20, 1.0), (30, 9.0)], [(10, 3.0), (20, 3.0)]
    assert mean_line([long, short]) == [(10, 2.0), (20, 2.0)]


def test_between_its_points_a_line_is_straight():
    # At 15 the first is halfway from 1 to 3; at 20 the second a third of the way from 4 to 1.
    found = mean_line([[(10, 1.0), (20, 3.0)], [(15, 4.0), (30, 1.0)]])
    assert found == [(15, pytest.approx((2 + 4) / 2)), (20, pytest.approx((3 + 3) / 2))]


def test_lines_that_share_no_step_and_lines_without_a_point_have_no_mean():
    assert mean_line([[(1, 1.0), (2, 1.0)], [(3, 1.0), (4, 1.0)]]) == []
    assert mean_line([[], []]) == mean_line([]) == []
    assert mean_line([[], [(1, 2.0)]]) == [(1, 2.0)]
