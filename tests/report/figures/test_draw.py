"""Figures are the same to the byte, hold the text they show, say how to read them, and are named once each."""

import itertools
import math
import re
import xml.etree.ElementTree as ElementTree

import matplotlib
import pytest

from lora_bench.records.budget import Budget
from lora_bench.records.record import CurvePoint
from lora_bench.report import Report, render_markdown
from lora_bench.report.figures.draw import COLOURS, NEUTRAL, draw, make_figure, plan_figures, styles
from lora_bench.report.figures.panels import score_limits
from lora_bench.report.html import DARK
from lora_bench.report.model.comparison import compare
from tests.report.hostile import hostile_records
from tests.sample_records import BUDGET, METHODS, MODELS, PARAMETERS, record, sample_suite


def planned(records):
    return plan_figures(compare(records))


def drawn(records) -> dict[str, bytes]:
    return {plan.file: draw(plan) for plan in planned(records)}


def words(svg: bytes) -> list[str]:
    root = ElementTree.fromstring(svg)
    return [element.text or "" for element in root.iter("{http://www.w3.org/2000/svg}text")]


def panels_of(records, kind):
    """The panels of the one figure of a kind, as matplotlib has them."""
    (plan,) = [plan for plan in planned(records) if plan.kind == kind]
    return make_figure(plan).axes


def curve(*losses, every=10, scores=()):
    """A learning curve with a loss, and for as long as there are scores a score, every ten steps."""
    points = [CurvePoint(step=every * step, loss=loss) for step, loss in enumerate(losses, start=1)]
    evaluations = [
        CurvePoint(step=every * step, scores={"accuracy": score}) for step, score in enumerate(scores, start=1)
    ]
    return {"curve": (*points, *evaluations)}


def over_two_targets(seeds=2):
    """Three methods at two targets, and the reference once, on two base models."""
    targets = {7_680: 1, 15_360: 2}
    found = []
    for model, seed in itertools.product([*MODELS][:2], range(seeds)):
        found.append(record("full", model=model, seed=seed, score=0.75 + seed / 100))
        for (target, times), name in itertools.product(targets.items(), [*METHODS][1:]):
            method = METHODS[name]
            size = {method.size: times * method.options[method.size]}
            found.append(
                record(
                    method.model_copy(update={"options": {**method.options, **size}, "chosen": size}),
                    model=model,
                    seed=seed,
                    score=0.7 + times / 100 + seed / 100,
                    budget=Budget(adapter_parameters=target, tolerance=0.05, train_examples=3_200),
                    parameters=PARAMETERS[name].model_copy(update={"adapter": target}),
                    changes=curve(0.7, 0.6),
                )
            )
    return found


def whole_suite():
    """Five tasks, three base models, four methods: results of two seeds with their curves, and the trials before them."""
    found = []
    for task, model, method in itertools.product("abcde", MODELS, METHODS):
        of = {"task": task, "model": model, "method": method}
        found += [record(seed=seed, score=0.7 + seed / 10, changes=curve(0.7, 0.6), **of) for seed in range(2)]
        found += [
            record(seed=9, learning_rate=rate, spec={"score_on": "selection"}, changes=curve(0.7, 0.6), **of)
            for rate in (1e-4, 1e-3)
        ]
    return found


def test_a_figure_of_a_comparison_and_another_where_records_have_curves():
    assert [plan.file for plan in planned(sample_suite())] == ["vader-film-trade-offs.svg"]
    with_curves = [found.model_copy(update=curve(0.7, 0.6)) for found in sample_suite()]
    files = ["vader-film-trade-offs.svg", "vader-film-learning-curves.svg"]
    assert [plan.file for plan in planned(with_curves)] == files


def test_a_suite_of_five_tasks_three_models_and_four_methods_has_fifteen_figures():
    assert len(planned(whole_suite())) == 5 * 3


def test_targets_of_a_task_share_its_figures():
    plans = planned(over_two_targets())
    assert [plan.kind for plan in plans] == ["trade_offs", "learning_curves"]
    assert [[setting.parameter_target[1] for setting in plan.settings] for plan in plans] == [[7_680, 15_360]] * 2


def test_figures_are_byte_identical_whatever_the_order_and_the_users_settings():
    records = over_two_targets()
    first = drawn(records)
    with matplotlib.rc_context({"font.size": 20, "svg.fonttype": "path", "axes.facecolor": "black"}):
        second = drawn(records[::-1])
        assert matplotlib.rcParams["font.size"] == 20
    assert first == second


def test_a_figure_has_no_date_and_no_version():
    for svg in drawn(sample_suite()).values():
        assert b"<dc:date>" not in svg
        assert matplotlib.__version__.encode() not in svg


def test_text_stays_text():
    shown = words(drawn(sample_suite())["vader-film-trade-offs.svg"])
    assert "full" in shown and "reference" not in " ".join(shown)
    assert "MiniLM-L6 in the DeBERTa class" in shown


def test_a_long_name_of_a_base_model_has_its_parentheses_on_a_line_of_their_own():
    model = "MiniLM-L6 as DeBERTa-v2 (relative terms at zero)"
    shown = words(drawn([record(model=model)])["vader-film-trade-offs.svg"])
    assert "MiniLM-L6 as DeBERTa-v2" in shown and "(relative terms at zero)" in shown


def test_a_search_is_drawn_against_the_learning_rate():
    records = [record(learning_rate=rate, spec={"score_on": "selection"}) for rate in (1e-4, 1e-3)]
    assert list(drawn(records)) == ["vader-film-learning-rates.svg"]


def test_no_figure_without_a_score():
    assert drawn([record(status="failed", reason="no")]) == {}


@pytest.mark.parametrize("seeds", [1, 2, 5])
def test_any_number_of_seeds_can_be_drawn(seeds):
    assert len(drawn(sample_suite(seeds))) == 1


def test_hostile_strings_are_only_text_in_a_figure():
    for svg in drawn(hostile_records()).values():
        root = ElementTree.fromstring(svg)  # well-formed
        assert {"script", "image", "a"}.isdisjoint(element.tag.rpartition("}")[2] for element in root.iter())
        assert b"alice" not in svg


def test_tasks_whose_names_differ_in_marks_only_have_files_of_their_own():
    files = [plan.file for plan in planned([record(task="a_b"), record(task="a-b")])]
    assert len(files) == len(set(files)) == 2


def test_eight_methods_look_different():
    methods = [
        METHODS["lora"].model_copy(
            update={"label": f"lora {rank}", "options": {"rank": rank}, "chosen": {"rank": rank}}
        )
        for rank in range(1, 9)
    ]
    found = styles(compare([record("full"), *(record(method) for method in methods)]))
    assert len(found) == len(set(found.values())) == 9


def test_two_references_look_different():
    bitfit = METHODS["full"].model_copy(update={"name": "bitfit", "label": "bitfit"})
    found = styles(compare([record("full"), record(bitfit), record("lora")]))
    assert found["full"] != found["bitfit"]
    assert {found[label].colour for label in ("full", "bitfit")} == {NEUTRAL}


def test_a_method_looks_the_same_in_every_figure_of_a_report():
    # The second task lacks a method: what is left must not move up to its colour.
    records = [record(method, task="a") for method in METHODS] + [
        record(method, task="b") for method in ("full", "lora")
    ]
    looks = [plan.styles["lora"] for plan in planned(records)]
    assert len(looks) == 2 and len(set(looks)) == 1


# How colours look to colour-blind people: Machado, Oliveira and Fernandes 2009, full severity, on linear RGB.
SIGHT = {
    "usual": ((1, 0, 0), (0, 1, 0), (0, 0, 1)),
    "protanopia": ((0.152286, 1.052583, -0.204868), (0.114503, 0.786281, 0.099216), (-0.003882, -0.048116, 1.051998)),
    "deuteranopia": ((0.367322, 0.860646, -0.227968), (0.280085, 0.672501, 0.047413), (-0.011820, 0.042940, 0.968881)),
    "tritanopia": ((1.255528, -0.076749, -0.178779), (-0.078411, 0.930809, 0.147602), (0.004733, 0.691367, 0.303900)),
}


def oklab(colour, sight):
    """Ottosson's Oklab of a colour as somebody sees it: differences in it are about those that are seen."""
    channels = [int(colour[start : start + 2], 16) / 255 for start in (1, 3, 5)]
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in channels]
    seen = [sum(weight * part for weight, part in zip(line, linear, strict=True)) for line in SIGHT[sight]]
    r, g, b = (min(1, max(0, part)) for part in seen)
    long = (0.4122214708 * r + 0.5363325363 * g + 0.0514459929 * b) ** (1 / 3)
    middle = (0.2119034982 * r + 0.6806995451 * g + 0.1073969566 * b) ** (1 / 3)
    short = (0.0883024619 * r + 0.2817188376 * g + 0.6299787005 * b) ** (1 / 3)
    return (
        0.2104542553 * long + 0.7936177850 * middle - 0.0040720468 * short,
        1.9779984951 * long - 2.4285922050 * middle + 0.4505937099 * short,
        0.0259040371 * long + 0.7827717662 * middle - 0.8086757660 * short,
    )


@pytest.mark.parametrize("sight", SIGHT)
@pytest.mark.parametrize("page", ["light", "dark"])
def test_colours_keep_apart_on_either_page_and_for_colour_blind_readers(page, sight):
    colours = [colour if page == "light" else DARK[colour.lower()] for colour in (*COLOURS, NEUTRAL)]
    # 0.02 is about the least difference that is seen in colours side by side.
    assert min(itertools.starmap(math.dist, itertools.combinations([oklab(c, sight) for c in colours], 2))) > 0.08


# What is in the panels.


def lines_of(panel, **look):
    """The lines of a panel that have a look, as their points; where one has gaps, each part of it is a line."""
    found = [
        line for line in panel.lines if all(getattr(line, f"get_{name}")() == value for name, value in look.items())
    ]
    points = [zip(map(float, line.get_xdata()), map(float, line.get_ydata()), strict=True) for line in found]
    parts = [itertools.groupby(line, key=lambda point: math.isnan(point[0])) for line in points]
    return [list(part) for line in parts for gap, part in line if not gap]


def four_rows(**of_all):
    """Means 0.70, 0.80, 0.60 and 0.85 at 50, 60, 70 and 90 ms a step."""
    rows = {"lora": (0.7, 50), "bottleneck_adapter": (0.8, 60), "prefix_tuning": (0.6, 70), "full": (0.85, 90)}
    return [
        record(method, seed=seed, score=score + seed / 100, step_seconds=step / 1000, peak_mib=step, **of_all)
        for (method, (score, step)), seed in itertools.product(rows.items(), (-1, 0, 1))
    ]


FREE = BUDGET.model_copy(update={"adapter_parameters": None})


def test_a_line_of_panels_has_the_three_costs():
    panels = panels_of(four_rows(budget=FREE), "trade_offs")
    assert [panel.get_xlabel() for panel in panels] == [
        "adapter parameters",
        "peak memory above the start, MiB",
        "training step, ms",
    ]
    assert [panel.get_xscale() for panel in panels] == ["log", "linear", "linear"]
    assert len({panel.get_ylim() for panel in panels}) == 1


def test_the_front_is_a_step_line_through_the_means_that_no_other_dominates():
    *_, time = panels_of(four_rows(), "trade_offs")
    (front,) = lines_of(time, drawstyle="steps-post")
    assert front == [pytest.approx(point) for point in ((50, 0.7), (60, 0.8), (90, 0.85))]


def test_seeds_are_points_and_the_interval_of_a_mean_is_a_bar():
    *_, time = panels_of(four_rows(), "trade_offs")
    # t(2, 97.5 %) = 4.302653; the standard deviation of -1, 0 and 1 hundredths is one hundredth.
    half = 4.302653 * 0.01 / 3**0.5
    bars = [line for line in lines_of(time, alpha=0.5) if len(line) == 2]
    assert [pytest.approx(point) for point in ((60, 0.8 - half), (60, 0.8 + half))] in bars
    small = [[score for _, score in line] for line in lines_of(time, markersize=3.2)]
    assert [pytest.approx(score) for score in (0.79, 0.8, 0.81)] in small


def test_the_caption_explains_a_front_where_there_is_one():
    (with_front,) = [plan.caption for plan in planned(four_rows()) if plan.kind == "trade_offs"]
    assert "Pareto front" in with_front and "of means alone" in with_front and "intervals overlap" in with_front
    (without,) = [plan.caption for plan in planned([record("lora")]) if plan.kind == "trade_offs"]
    assert "front" not in without


def test_marks_are_hollow_where_other_work_ran_beside():
    of_each = {}
    for alone in (True, False):
        records = four_rows(exclusive=alone, budget=FREE)
        of_each[alone] = [len(lines_of(panel, markerfacecolor="none")) for panel in panels_of(records, "trade_offs")]
        said = [plan.caption for plan in planned(records) if plan.kind == "trade_offs"]
        assert ("hollow" in said[0].lower()) is not alone
        assert ("not measured alone" in words(draw(planned(records)[0]))) is not alone
    # Parameters are counted, and no other work changes them.
    assert of_each == {True: [0, 0, 0], False: [0, 4, 4]}


def test_where_lower_is_better_the_front_goes_down():
    records = [
        record("lora", score=20.0, step_seconds=0.05, metric="perplexity", higher_is_better=False),
        record("full", score=18.0, step_seconds=0.09, metric="perplexity", higher_is_better=False),
        record("prefix_tuning", score=25.0, step_seconds=0.07, metric="perplexity", higher_is_better=False),
    ]
    *_, time = panels_of(records, "trade_offs")
    assert lines_of(time, drawstyle="steps-post") == [[pytest.approx((50, 20)), pytest.approx((90, 18))]]


def test_over_targets_a_line_joins_the_means_of_a_method_and_a_band_shows_each_target():
    adapter, *_ = panels_of(over_two_targets(), "trade_offs")
    joined = lines_of(adapter, linestyle="-", alpha=0.7)
    assert len(joined) == 3
    # Means over seeds: 0.71 and 0.72 and half a hundredth.
    assert [[score for _, score in line] for line in joined] == [[pytest.approx(0.715), pytest.approx(0.725)]] * 3
    bands = [(patch.get_x(), patch.get_x() + patch.get_width()) for patch in adapter.patches]
    assert bands == [pytest.approx((7_680 * 0.95, 7_680 * 1.05)), pytest.approx((15_360 * 0.95, 15_360 * 1.05))]


def test_a_caption_names_every_target_of_its_figure():
    page = render_markdown(Report(over_two_targets()))
    caption = page.split("![Score against parameters, memory and time]")[1].split("Score against")[0]
    assert "7,680" in caption and "15,360" in caption


def test_a_caption_names_the_base_model_where_no_other_is_drawn():
    alone = render_markdown(Report([record()]))
    assert "`vader_film`, MiniLM-L6 in the RoBERTa class. Score against" in alone
    two = render_markdown(Report([record(), record(model="another model")]))
    assert "`vader_film`. Score against" in two


def test_marks_stand_at_their_true_values():
    # Three methods with about equal counts at each target: the mark of each, and its seeds, stand at its own count.
    records = over_two_targets()
    adapter, memory, *_ = panels_of(records, "trade_offs")
    marks = [line for line in adapter.lines if line.get_marker() not in ("None", None, "")]
    counts = {one.parameters.adapter for one in records if one.spec.method.size is not None}
    assert {float(place) for line in marks for place in line.get_xdata()} == counts
    assert all(line.get_transform() == memory.transData for line in memory.lines if line.get_marker() == "o")


def test_a_panel_of_counts_that_a_budget_holds_equal_is_not_drawn():
    # One target that all methods keep, and counts that nothing holds equal.
    for budget, first in ((BUDGET, "peak memory above the start, MiB"), (FREE, "adapter parameters")):
        assert panels_of(four_rows(budget=budget), "trade_offs")[0].get_xlabel() == first


def many_methods(number=63):
    options = [{"rank": rank} for rank in range(1, number + 1)]
    specs = [
        METHODS["lora"].model_copy(update={"label": f"lora {one['rank']}", "options": one, "chosen": one})
        for one in options
    ]
    return [record(spec, score=0.5 + rank / 200) for rank, spec in enumerate(specs)]


def test_many_methods_have_no_figure_with_a_legend_and_no_warning(recwarn):
    records = many_methods()
    # All are LoRA at one rank after the other, so they are a curve too.
    assert [plan.kind for plan in planned(records)] == ["sweeps"]
    assert "left out where there are more than 14 methods" in render_markdown(Report(records))
    assert [str(one.message) for one in recwarn] == []


def test_an_axis_has_all_seeds_and_as_much_of_intervals_as_half_their_span():
    (setting,) = compare([record(seed=seed, score=score) for seed, score in enumerate((0.5, 0.7))]).settings
    # The interval reaches 0.6 +- 12.7 * 0.1; the axis 0.4 to 0.8, and 6 % of these 0.4 further out.
    assert score_limits(setting.rows) == pytest.approx((0.4 - 0.024, 0.8 + 0.024))


# Learning curves.


def with_curves(*curves, **of_all):
    return [record(seed=seed, changes=found, **of_all) for seed, found in enumerate(curves)]


def test_a_learning_curve_has_a_thin_line_a_seed_and_their_mean():
    (panel,) = panels_of(with_curves(curve(0.8, 0.6), curve(0.6, 0.2)), "learning_curves")
    assert lines_of(panel, linewidth=0.7) == [[(10, 0.8), (20, 0.6)], [(10, 0.6), (20, 0.2)]]
    assert lines_of(panel, linewidth=1.6) == [[pytest.approx((10, 0.7)), pytest.approx((20, 0.4))]]
    assert panel.get_yscale() == "linear" and panel.get_ylabel() == "training loss"


def test_losses_that_span_a_factor_of_ten_have_a_logarithmic_axis():
    scales = [panels_of(with_curves(curve(high, 0.1)), "learning_curves")[0].get_yscale() for high in (0.9, 1.1)]
    assert scales == ["linear", "log"]
    assert panels_of(with_curves(curve(1.0, 0.0)), "learning_curves")[0].get_yscale() == "linear"


def test_a_run_that_diverged_is_drawn_and_is_no_part_of_the_mean():
    records = [
        record(seed=0, changes=curve(0.8, 0.6)),
        record(seed=1, status="diverged", reason="the loss was nan at step 20", changes=curve(0.8, 4.0)),
    ]
    (panel,) = panels_of(records, "learning_curves")
    assert [(10, 0.8), (20, 4.0)] in lines_of(panel, linewidth=0.7)
    assert lines_of(panel, linewidth=1.6) == [[(10, 0.8), (20, 0.6)]]


def test_evaluations_while_training_are_panels_below():
    (loss, score) = panels_of(with_curves(curve(0.8, 0.6, scores=(0.5, 0.75))), "learning_curves")
    assert lines_of(score, linewidth=1.6) == [[(10, 0.5), (20, 0.75)]]
    assert [" ".join(panel.get_ylabel().split()) for panel in (loss, score)] == [
        "training loss",
        "accuracy on the selection split",
    ]


def test_no_learning_curves_of_a_single_loss_and_none_of_trials():
    assert "learning_curves" not in [plan.kind for plan in planned(with_curves(curve(0.8)))]
    trials = [
        record(learning_rate=rate, spec={"score_on": "selection"}, changes=curve(0.8, 0.6)) for rate in (1e-4, 1e-3)
    ]
    assert [plan.kind for plan in planned(trials)] == ["learning_rates"]


def test_labels_of_learning_rates_have_room():
    # Five decades, of which every one is labelled and nothing between them.
    rates = [10.0**-power for power in range(1, 6)]
    records = [record(learning_rate=rate, spec={"score_on": "selection"}) for rate in rates]
    shown = [word for word in words(drawn(records)["vader-film-learning-rates.svg"]) if re.fullmatch(r"\d+e-\d", word)]
    assert sorted(shown) == ["1e-1", "1e-2", "1e-3", "1e-4", "1e-5"]


def test_a_sweep_has_a_panel_a_base_model_and_a_tick_a_value():
    records = [
        record(
            method,
            model=model,
            seed=seed,
            score=0.5 + number / 50_000 + seed / 100,
            budget=Budget(epochs=1),
            training=of,
        )
        for number in (100, 1_000, 10_000)
        for of in [{"distinct_examples": number, "train_examples": number, "steps": number // 10}]
        for method in ("full", "lora")
        for model in [*MODELS][:2]
        for seed in range(3)
    ]
    panels = panels_of(records, "sweeps")
    assert len(panels) == 2 and panels[0].get_xscale() == "log"
    assert [*panels[0].get_xticks()] == [100, 1_000, 10_000]
    (plan,) = [plan for plan in planned(records) if plan.kind == "sweeps"]
    assert plan.file == "vader-film-over-different-training-rows.svg"
    assert {"100", "1,000", "10,000", "full", "lora"} <= {*words(draw(plan))} and draw(plan) == draw(plan)
    # A method looks as it does in the other figures.
    assert plan.styles == {label: styles(compare(records))[label] for label in ("full", "lora")}
