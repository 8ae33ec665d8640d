"""Figures are the same to the byte, hold the text they show, and are named once each."""

import xml.etree.ElementTree as ElementTree

import matplotlib
import pytest

from lora_bench.report.comparison import compare
from lora_bench.report.figures import draw, plan_figures, styles
from tests.records import METHODS, record, sample_suite
from tests.report.hostile import hostile_records


def drawn(records) -> dict[str, bytes]:
    return {plan.file: draw(plan) for plan in plan_figures(compare(records))}


def words(svg: bytes) -> list[str]:
    root = ElementTree.fromstring(svg)
    return [element.text or "" for element in root.iter("{http://www.w3.org/2000/svg}text")]


def test_three_figures_of_a_comparison():
    assert [plan.file for plan in plan_figures(compare(sample_suite()))] == [
        "vader-film-scores.svg",
        "vader-film-parameters.svg",
        "vader-film-memory.svg",
    ]


def test_figures_are_byte_identical_whatever_the_order_and_the_users_settings():
    records = sample_suite()
    first = drawn(records)
    with matplotlib.rc_context({"font.size": 20, "svg.fonttype": "path", "axes.facecolor": "black"}):
        second = drawn(records[::-1])
        assert matplotlib.rcParams["font.size"] == 20
    assert first == second


def test_a_figure_has_no_date_and_no_version():
    for svg in drawn(sample_suite()).values():
        assert b"<dc:date>" not in svg
        assert matplotlib.__version__.encode() not in svg


def test_text_stays_text_and_failures_are_in_the_figure():
    shown = words(drawn(sample_suite())["vader-film-scores.svg"])
    assert "2 unsupported of 2" in shown
    assert "1 diverged of 2" in shown
    assert "full (reference)" in shown
    assert "MiniLM-L6 in the DeBERTa class" in shown


def test_a_search_is_drawn_against_the_learning_rate():
    records = [record(learning_rate=rate, spec={"score_on": "selection"}) for rate in (1e-4, 1e-3)]
    assert list(drawn(records)) == ["vader-film-learning-rates.svg"]


def test_no_figure_without_a_score():
    assert drawn([record(status="failed", reason="no")]) == {}


@pytest.mark.parametrize("seeds", [1, 2, 5])
def test_any_number_of_seeds_can_be_drawn(seeds):
    assert len(drawn(sample_suite(seeds))) == 3


def test_hostile_strings_are_only_text_in_a_figure():
    for svg in drawn(hostile_records()).values():
        root = ElementTree.fromstring(svg)  # well-formed
        assert {"script", "image", "a"}.isdisjoint(element.tag.rpartition("}")[2] for element in root.iter())
        assert b"alice" not in svg


def test_tasks_whose_names_differ_in_marks_only_have_files_of_their_own():
    files = [plan.file for plan in plan_figures(compare([record(task="a_b"), record(task="a-b")]))]
    assert len(files) == len(set(files)) == 6


def test_eight_methods_look_different():
    methods = [
        METHODS["lora"].model_copy(
            update={"label": f"lora {rank}", "options": {"rank": rank}, "chosen": {"rank": rank}}
        )
        for rank in range(1, 9)
    ]
    (setting,) = compare([record("full"), *(record(method) for method in methods)]).settings
    assert len(set(styles(setting).values())) == 9
