"""Scores against seconds of training, on curves that a reader can follow."""

import pytest

from lora_bench.records.record import CurvePoint
from lora_bench.report import Report, render_markdown
from lora_bench.report.figures.curves import timed_line
from lora_bench.report.figures.draw import plan_figures
from tests.sample_records import METHODS, record


def run(method, scores, seconds, *, seed=0, exclusive=True, clock=None, **more):
    """A run of 100 steps with a score every 100 / len(scores) of them."""
    every = 100 // len(scores)
    curve = tuple(CurvePoint(step=every * (n + 1), scores={"accuracy": score}) for n, score in enumerate(scores))
    made = record(METHODS[method], seed=seed, exclusive=exclusive, **more)
    speed = made.speed.model_copy(update={"train_seconds": seconds, "train_steps": 100, "score_seconds": clock})
    return made.model_copy(update={"curve": curve, "speed": speed})


def test_a_score_stands_at_its_steps_times_the_seconds_of_a_step():
    assert timed_line(run("lora", [0.5, 0.7], 20.0)) == [(10.0, 0.5), (20.0, 0.7)]
    assert timed_line(run("lora", [0.5], 20.0)) == []
    assert timed_line(run("lora", [0.5, 0.7], 20.0).model_copy(update={"resumed": True})) == []


def test_the_clock_of_a_run_counts_before_its_mean_step_and_in_a_resumed_run_too():
    clocked = run("lora", [0.5, 0.7], 20.0, clock=(4.0, 20.0))
    assert timed_line(clocked) == [(4.0, 0.5), (20.0, 0.7)]
    assert timed_line(clocked.model_copy(update={"resumed": True})) == timed_line(clocked)
    page = render_markdown(Report([clocked, run("full", [0.6, 0.8], 40.0, clock=(30.0, 40.0))]))
    assert "Seconds are those of training, without evaluations." in page


def test_each_method_is_shown_when_the_cheapest_ended_and_when_it_ended_itself():
    # LoRA takes 20 s. At 20 of its 40 s `full` is halfway between .6 and .8, a quarter of 40 s before and behind it.
    runs = [run("lora", [0.5, 0.7], 20.0), run("full", [0.6, 0.7, 0.75, 0.8], 40.0)]
    page = render_markdown(Report(runs))
    rows = [
        line.split(" | ")
        for line in page.partition("## Score against training time")[2].splitlines()
        if "(1 run)" in line
    ]
    assert [(row[2], *row[3:]) for row in rows] == [
        ("`lora` (1 run)", "20.0", "0.7000", "0.7000 |"),
        ("`full`† (1 run)", "40.0", "0.7000", "0.8000 |"),
    ]
    assert "Every run had the machine for itself." in page


def test_seconds_of_a_shared_machine_are_marked():
    runs = [run("lora", [0.5, 0.7], 20.0, exclusive=False), run("full", [0.6, 0.8], 40.0)]
    page = render_markdown(Report(runs))
    assert "20.0‡" in page and "40.0‡" not in page and "so these seconds are rough" in page


def test_a_method_without_a_score_before_the_cheapest_ended_has_none_there():
    page = render_markdown(Report([run("lora", [0.5, 0.7], 20.0), run("full", [0.6, 0.8], 80.0)]))
    (line,) = [line for line in page.splitlines() if "`full`† (1 run)" in line]
    assert line.split(" | ")[3:] == ["80.0", "–", "0.8000 |"]


def test_one_method_and_runs_without_scores_on_the_way_have_no_section():
    for runs in ([run("lora", [0.5, 0.7], 20.0)], [record("lora"), record("full")]):
        assert "## Score against training time" not in render_markdown(Report(runs))


def test_a_figure_draws_the_same_lines():
    pytest.importorskip("matplotlib")
    from lora_bench.report.figures.learning_curves import over_time

    runs = [run("lora", [0.5, 0.7], 20.0), run("full", [0.6, 0.8], 40.0)]
    (plan,) = [plan for plan in plan_figures(Report(runs).comparison) if plan.kind == "over_time"]
    figure = over_time(plan)
    ends = {tuple(map(float, line.get_xydata()[-1])) for axis in figure.axes for line in axis.get_lines()}
    assert {(20.0, 0.7), (40.0, 0.8)} <= ends
