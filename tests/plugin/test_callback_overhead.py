"""The benchmark of what the callback costs runs, and sees a callback that costs something; its times are nobody's test."""

import re
import statistics
import time

from benchmarks import callback_overhead
from lora_bench import BenchmarkCallback


def test_both_lines_have_a_ratio_and_its_interval(capsys):
    callback_overhead.main(["--quick"])
    rows = re.findall(r"^\| (.*?) \| ([\d.]+) \| ([\d.]+) \| ([\d.]+) to ([\d.]+) \|$", capsys.readouterr().out, re.M)
    assert [row[0] for row in rows] == ["with the callback, by without", "without, by without"]
    for _, milliseconds, middle, low, high in rows:
        assert float(milliseconds) > 0 and float(low) <= float(middle) <= float(high)


def test_a_callback_that_waits_shows_in_the_ratio_and_the_hook_is_on_in_half_of_the_steps(tmp_path, monkeypatch):
    plain, clock, waits = BenchmarkCallback.on_step_end, time.perf_counter, []

    def wait(self, *arguments, **inside):
        waits.append(1)
        plain(self, *arguments, **inside)

    # Each takes an hour by the clock.
    monkeypatch.setattr(time, "perf_counter", lambda: clock() + 3600.0 * len(waits))
    monkeypatch.setattr(BenchmarkCallback, "on_step_end", wait)
    switched = callback_overhead.train(1, 80, tmp_path, with_callback=True)
    assert len(switched.seconds[True]) == len(switched.seconds[False]) == 40
    assert statistics.median(switched.seconds[True]) - callback_overhead.step_seconds(switched) > 3000
    assert statistics.median(switched.ratios()) > 1.2
    assert switched.callback._run.counter.now()[0] == 40 * callback_overhead.BATCH


def test_the_interval_of_a_median_holds_nineteen_of_twenty_medians():
    """Of 100 ordered values the 40th and the 61st, between which the median lies in 96.5 % of samples (binomial)."""
    assert callback_overhead.interval([float(value) for value in range(1, 101)]) == (40.0, 61.0)
