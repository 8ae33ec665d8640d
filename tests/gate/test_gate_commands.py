"""The simulation of nights and pull requests through the commands: stored records in, exit codes out."""

import numpy as np
import pytest

from benchmarks import gate_commands as simulation
from lora_bench.stats.gate import FEWEST_NIGHTS


def test_a_pull_request_that_loses_much_fails_and_a_harmless_one_at_a_wide_margin_passes():
    generator = np.random.default_rng(0)
    assert simulation.request(generator, seeds=5, margin=15.0, loss=0.0).code == 0
    lost = simulation.request(generator, seeds=5, margin=1.0, loss=10.0)
    assert lost.code == 1
    assert [lost.series[series]["status"] == "regression" for series in simulation.SERIES[:4]] == [
        True,
        False,
        False,
        False,
    ]


def test_a_night_that_lost_much_is_red_with_its_new_seeds_and_one_that_collapsed_once_is_not():
    with simulation.working_folder():
        nightly = simulation.Nightly(
            np.random.default_rng(0), draw=lambda generator, shape: generator.standard_normal(shape)
        )
        assert [nightly.night(number) for number in range(1, FEWEST_NIGHTS + 1)] == [4] * FEWEST_NIGHTS
        quiet = nightly.scores()
        assert nightly.checked("fell", quiet, loss=10.0) == 1
        # One run of three collapses; the new seeds do not.
        once = quiet | {simulation.SERIES[5]: [*quiet[simulation.SERIES[5]][:2], 0.6]}
        assert nightly.checked("once", once) == 0


@pytest.mark.slow
def test_its_tables_have_the_counts_that_they_say(capsys):
    simulation.main(["--quick"])
    requests, nights = capsys.readouterr().out.strip().split("\n\n")
    assert len(requests.splitlines()) == 2 + len(simulation.CHECKS)
    assert nights.splitlines()[-1].startswith("| 12 | ")
