"""Requests for adapters and the queue of one server: waiting times, room for adapters and Zipf's law by hand."""

from collections import Counter

import pytest

from lora_bench.probe.fleet.latency import arrivals, draw_adapters, hit_rate, waiting_times


def test_a_batch_takes_what_waits_and_the_clock_leaps_over_idle_time():
    # 0 is served from 1 to 4; 1 and 2 came meanwhile and are served together from 4 to 7; nothing waits until 20.
    batches = []

    def answer(batch):
        batches.append(batch)
        return 3.0

    waits = waiting_times([1.0, 2.0, 4.0, 20.0], lambda waiting: waiting[:2], answer, 9)
    assert batches == [[0], [1, 2], [3]] and waits == [3.0, 5.0, 3.0, 3.0]


def test_a_batch_of_one_adapter_leaves_the_others_waiting():
    names = "abab"
    alike = lambda waiting: [one for one in waiting if names[one] == names[waiting[0]]]  # noqa: E731
    # a and a from 0 to 1, b and b from 1 to 2.
    assert waiting_times([0.0] * 4, alike, lambda batch: 1.0, 9) == [1.0, 2.0, 1.0, 2.0]


def test_a_queue_that_grows_beyond_the_limit_has_no_typical_wait():
    times = [float(second) for second in range(20)]
    assert waiting_times(times, lambda waiting: waiting[:1], lambda batch: 2.0, 4) is None
    assert waiting_times(times, lambda waiting: waiting[:1], lambda batch: 2.0, 20) is not None


def test_the_adapter_not_used_for_longest_makes_room():
    # On two slots 9 takes that of 8, as 7 was used after it, so 8 is not there at the end; on three it is.
    assert hit_rate([7, 8, 7, 9, 8], 2) == 1 / 5 and hit_rate([7, 8, 7, 9, 8], 3) == 2 / 5


def test_zipf_asks_for_the_first_adapter_twice_as_often_as_for_the_second():
    drawn = Counter(draw_adapters("zipf", 4, 50_000))
    # 1, 1/2, 1/3 and 1/4 of 25/12.
    for adapter, share in enumerate((12 / 25, 6 / 25, 4 / 25, 3 / 25)):
        assert drawn[adapter] / 50_000 == pytest.approx(share, abs=0.01)
    assert set(draw_adapters("uniform", 4, 100)) == {0, 1, 2, 3}


def test_arrivals_have_the_rate():
    times = arrivals(100.0, 10_000)
    assert times == sorted(times) and times[-1] == pytest.approx(100, rel=0.05)
