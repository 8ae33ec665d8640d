"""Random kills of real processes leave a folder with the choices, runs and scores of an undisturbed one."""

import math
import sys
from collections import Counter

import pytest

from benchmarks import kills

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="processes are looked for as Linux shows them")


@pytest.mark.slow
def test_a_round_of_kills_changes_no_choice(tmp_path, monkeypatch):
    monkeypatch.setenv("LORA_BENCH_CACHE", str(tmp_path / "cache"))
    limits = {"rounds": 1, "kills": math.inf, "minutes": math.inf}
    tallies = kills.measure(["trials"], seed=0, **limits, tell=lambda tallies: None)
    tally = tallies.kinds["trials"]
    assert tally.faults == [] and tally.rounds == 1
    assert tallies.signals.total() == tally.signals >= 1 and tally.commands >= 2


def test_the_page_counts_what_was_done_and_names_what_went_wrong():
    fine = kills.Tally(rounds=3, commands=9, signals=4)
    wrong = kills.Tally(rounds=2, commands=5, signals=1, faults=["twins 0.1: 1 differ: a, b"])
    signals = Counter({"SIGKILL to a worker": 4, "SIGINT to a command": 1})
    tallies = kills.Tallies({"trials": fine, "twins": wrong}, signals)
    page = kills.page(tallies, 0, ["ray"])
    assert "In 5 rounds over 2 kinds of suite, 5 signals" in page and "All folders but 1 came" in page
    assert "| trials | 3 | 9 | 4 | 0 | 0 |" in page and "* twins 0.1: 1 differ" in page and "Not run" in page
    assert "Every folder came" in kills.page(kills.Tallies({"trials": fine}, signals), 0, [])
    # A command that goes on begins with what the page says.
    assert kills.read_page(page) == tallies
