"""The benchmarks of the harness compare equal things and fill their tables; their times are nobody's test."""

import re
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

from benchmarks import against_simulation, levers, overhead, planning, published_verdicts, quickstart, rate_rule
from lora_bench.suite.load_suite import load_suite


def tables(text: str) -> list[list[list[str]]]:
    """The Markdown tables of a text, each a list of rows of cells without the header."""
    found = []
    for block in re.findall(r"(?:^\|.*\n)+", text, flags=re.MULTILINE):
        rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in block.splitlines()]
        assert len({len(row) for row in rows}) == 1
        found.append(rows[2:])
    return found


def test_planning_fits_a_method_once_whatever_the_number_of_runs(monkeypatch, capsys):
    monkeypatch.setenv("LORA_BENCH_CACHE", "set by the benchmark")
    planning.main(["--quick"])
    (rows,) = tables(capsys.readouterr().out)
    # Full fine-tuning, three scalings of LoRA, adapters and prefixes; learning rates and seeds ask for no other.
    assert [row[:2] for row in rows] == [["10", "6"], ["20", "6"]]


def test_the_overhead_of_a_run_is_told_by_its_parts(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("LORA_BENCH_CACHE", str(tmp_path))
    overhead.main(["--quick"])
    (rows,) = tables(capsys.readouterr().out)
    assert {"lock", "base model", "method", "Trainer", "record", "predictions"} <= {row[0] for row in rows}
    assert all(float(number) >= 0 for row in rows for number in row[1:])


@pytest.mark.slow
def test_verdicts_on_published_numbers_are_simulated_in_every_world(capsys):
    published_verdicts.main(["--quick"])
    words, families, starts = tables(capsys.readouterr().out)
    assert len(words) == 3 * 4 * 6 and (len(families), len(starts)) == (2, 2)
    for row in words:
        assert sum(float(share.rstrip("%")) for share in row[4:]) == pytest.approx(100, abs=0.2)


def test_two_true_points_at_a_deviation_of_one_are_never_reproduced():
    found = published_verdicts.alone(published_verdicts.World(5, 5, 1.0, 2.0), 300)
    assert found["reproduced"] == 0 and found["not reproduced"] > 180


def test_the_quickstart_of_now_differs_from_that_of_before_by_its_recipe(tmp_path):
    before, now = (
        yaml.safe_load(quickstart.write_suite(tmp_path / way / "suite.yaml", recipe, quick=False).read_text())
        for way, recipe in (("before", ""), ("now", quickstart.RECIPE))
    )
    added = {"order": "grouped", "last_layer": "read_position", "masks": "keyed"}
    assert now["training"] == before["training"] | added and before["training"].keys().isdisjoint(added)
    assert {**now, "training": None} == {**before, "training": None}
    assert len(load_suite(tmp_path / "now" / "suite.yaml").content.models) == 3


def test_the_quickstart_of_now_pads_next_to_nothing(tmp_path):
    suite = quickstart.write_suite(tmp_path / "suite.yaml", quickstart.RECIPE, quick=True)
    assert 1 <= quickstart.padding_of(quickstart.planned(suite, tmp_path / "runs")) < 1.1


def test_the_committed_page_of_the_quickstart_says_what_the_benchmark_writes():
    page = (Path(quickstart.__file__).parents[1] / "reports" / "quickstart-cpu.md").read_text(encoding="utf-8")
    what = quickstart.__doc__.split("\n\n")[-1].strip()
    assert "`smoke`" in what and page.endswith(f" {what}\n")


def test_the_share_of_masks_in_a_step_is_measured_for_both_sources():
    rows = [line.strip("| ").split(" | ") for line in levers.mask_lines("tiny", 2, torch.device("cpu"))]
    # One after the embeddings; in each of two layers one of attention and two of its outputs.
    assert [row[:2] for row in rows] == [["keyed", "7"], ["torch", "7"]]


def test_a_way_is_told_by_the_run():
    loop, way = quickstart.Way(10, 500.0, 2.4, 50.0), quickstart.Way(24, 240.0, 1.05, 120.0)
    # 50 s a run against 10 s; 120 s of arithmetic in 240 s.
    assert way.row("now", loop) == "| now | 24 | 10.00 | 5.00 | 1.05 | 50% |"
    assert loop.row("loop", loop) == "| loop | 10 | 50.00 | 1.00 | 2.40 | 10% |"


def test_a_large_loss_is_found_and_none_is_not():
    assert against_simulation.called(4, 5, 1.0, 20.0, 20) == 1.0
    assert against_simulation.called(4, 5, 1.0, 0.0, 100) <= 0.1


def place(method, width, steps, rates, gains):
    return rate_rule.Place("suite", method, width, steps, frozenset(), rates, np.array(gains))


def test_a_rate_loses_what_the_other_seeds_choice_has_more_on_a_seed():
    # Seed 1 chooses 1e-3, which has .84 with seed 2; seed 2 chooses 1e-2, which has .80 with seed 1.
    searched = place("lora", 384, 200, (1e-4, 1e-3, 1e-2), [[0.7, 0.72], [0.9, 0.84], [0.8, 0.86]])
    assert searched.loses(1e-4) == pytest.approx((0.84 - 0.72 + 0.80 - 0.70) / 2)
    assert searched.loses(1e-5) == searched.loses(1e-4), "a rate that was not tried is the nearest one"
    between = (0.72 + 0.84) / 2, (0.70 + 0.90) / 2
    assert searched.loses(10**-3.5) == pytest.approx((0.84 - between[0] + 0.80 - between[1]) / 2)


def test_the_fit_finds_the_powers_of_width_and_steps_that_made_the_rates():
    made = [
        place(method, width, steps, (rate, 9.0), [[1.0], [0.0]])
        for method, rate_of in (("full", lambda width: 1e-4 * (width / 384) ** -3), ("lora", lambda width: 2e-3))
        for width in (256, 384, 768)
        for steps in (100, 400)
        for rate in [rate_of(width) * (steps / 200) ** 0.5]
    ]
    found = rate_rule.fit(made)
    methods = rate_rule.METHODS
    assert np.exp(found[methods.index("full")]) == pytest.approx(1e-4)
    powers = found[len(methods) :]
    assert [powers[methods.index(name)] for name in ("full", "lora")] == pytest.approx([-3, 0], abs=1e-9)
    assert powers[-1] == pytest.approx(0.5)
    assert rate_rule.fitted(made, place("lora", 512, 400, (1.0,), [[0.0]])) == pytest.approx(2e-3 * 2**0.5)
