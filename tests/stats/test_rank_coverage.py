"""How often the ranges of ranks hold all true ones, on simulated scores; all of them seeded."""

import itertools
import math
from dataclasses import replace

import numpy as np
import pytest

from benchmarks import rank_coverage as simulation
from lora_bench.report.model.ranking import Contest, each_pair, rank_all
from lora_bench.stats import judge, paired_difference
from lora_bench.stats.apart import least_p
from tests.stats.test_simulations import stated

WORLDS = {world.name: world for world in simulation.WORLDS}
# A collapse that no run shows is in no interval, and in no range.
UNSEEN = simulation.WORLDS[-1].name
LEVEL = 1 - 2 * simulation.ALPHA


def ranges(scores):
    """The ranges of the package, shape (2, methods, tasks), for scores of one report: methods, tasks, seeds."""
    methods, tasks, seeds = scores.shape
    differences = {
        (one, other, task): paired_difference(
            dict(enumerate(scores[one, task].tolist())), dict(enumerate(scores[other, task].tolist())), draw_seed=0
        )
        for one, other in itertools.permutations(range(methods), 2)
        for task in range(tasks)
    }
    family = {(one, task): differences[one, 0, task] for one in range(1, methods) for task in range(tasks)}
    verdicts = judge(family, margin=None, power=None)
    least = least_p(seeds) if all(verdict.apart for verdict in verdicts.values()) else 0.0

    def contest(task):
        def compare(one, other):
            estimate = replace(differences[1 + one, 1 + other, task].estimate, least_p=least)
            return estimate.value, estimate.p_value() if seeds > 3 else None

        return Contest(
            means=scores[:, task].mean(axis=-1).tolist(),
            verdicts=[verdicts[one, task] for one in range(1, methods)],
            compare=lambda: each_pair(methods - 1, compare),
        )

    ranked = rank_all([contest(task) for task in range(tasks)], simulation.ALPHA)
    return np.array([[[getattr(rank, end) for rank in found] for found in ranked] for end in ("best", "worst")])


@pytest.mark.parametrize(("depth", "seeds"), [(0, 3), (0, 5), (0, 10), (20, 5), (20, 10)])
def test_simulated_ranges_are_those_of_the_package(depth, seeds):
    generator = np.random.default_rng(0)
    shape = 15, 4, 2
    scores = simulation.in_halves(generator, shape)[..., None] * (1 + depth) + simulation.of_two_kinds(0.2, depth)(
        generator, (*shape, seeds)
    )
    found = np.array(simulation.stated_ranges(scores))
    assert (found[0] == 1).all() == (seeds == 3)
    for place, of_report in enumerate(scores):
        stated = ranges(of_report)
        # Without a test a report has no ranks, where the simulation has the whole range.
        assert stated.shape[-1] == 0 if seeds == 3 else (np.swapaxes(stated, 1, 2) == found[:, place]).all()


def test_equal_methods_share_their_ranks():
    best, worst = simulation.true_ranges(np.array([[[3.0], [1.0], [3.0], [2.0]]]))
    assert best.ravel().tolist() == [1, 4, 1, 3] and worst.ravel().tolist() == [2, 4, 2, 3]


@pytest.mark.parametrize("name", WORLDS)
def test_all_true_ranks_lie_in_the_ranges_as_often_as_the_page_states(name):
    reports, rows = 500, {(row[0], row[1]): row[2:] for row in stated("methods on each task")}
    for seeds in (5, 10):
        found = simulation.coverage(WORLDS[name], 3, 1, seeds, reports)
        assert found.held["ranges"] >= LEVEL - 2 * math.sqrt(LEVEL * (1 - LEVEL) / reports) or name == UNSEEN
        cells = rows[f"{name}: 3 × 1", str(seeds)]
        assert [found.held[rule] for rule in simulation.RULES] == pytest.approx([*map(float, cells[:5])], abs=0.01)
        assert [found.width[rule] for rule in simulation.WIDTHS] == pytest.approx([*map(float, cells[5:])], abs=0.1)


def test_the_page_shows_ranges_at_their_level_and_what_three_seeds_leave():
    for name, seeds, held, *_, width, _, _, _ in stated("methods on each task"):
        methods = int(name.rpartition(": ")[2].split()[0])
        if seeds == "3":
            assert float(held) == 1 and float(width) == methods
        # Two standard errors of a share of 500.
        assert float(held) >= LEVEL - 0.026 or name.startswith(UNSEEN)


@pytest.mark.slow
def test_the_script_prints_the_table_of_the_page(capsys):
    simulation.main(["--quick"])
    head, _, *rows = capsys.readouterr().out.splitlines()
    assert stated(head.split("|")[1].strip()) and len(rows) == len(simulation.WORLDS) * len(simulation.SIZES)
