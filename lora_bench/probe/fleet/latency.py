"""Seconds from a request's arrival to its answer: requests for adapters, and one server that answers them in virtual time.

The server's clock advances by what each of its calls takes, as that call measures itself, and leaps to the next arrival when
nothing waits. So a queue has the waiting times of a machine without other work, also where others use it.
"""

import statistics
from bisect import bisect_right
from collections.abc import Callable, Sequence
from functools import lru_cache
from itertools import accumulate
from random import Random
from typing import Any, get_args

import torch
from torch import Tensor

from lora_bench.probe.fleet.many_adapters import Fleet, Request, gap, logits
from lora_bench.records.fleet_record import BY_ADAPTER, MIXED, ONE_BY_ONE, FleetLatency, Traffic
from lora_bench.training.measure.counters import quantile

TOKENS = 8
# Rates of arrival, as shares of the base model's speed.
SHARES = (0.05, 0.2, 0.5, 0.8)


def measure_latency(fleet: Fleet, adapters: int = 64, number: int = 400, rows: int = 64) -> tuple[FleetLatency, ...]:
    """Serve a *number* of requests at each rate in each way, in batches of up to so many *rows*."""
    fleet.grow(adapters)
    full = fleet.requests([0] * rows, TOKENS, TOKENS)
    base = rows / statistics.median(fleet.seconds(lambda: logits(fleet.base, full)) for _ in range(5))
    found = []
    for traffic in get_args(Traffic):
        requests = fleet.requests(draw_adapters(traffic, adapters, number), TOKENS, TOKENS)
        alone = fleet.answer(BY_ADAPTER, requests)
        for share in SHARES:
            times = arrivals(share * base, number)
            for way in (MIXED, BY_ADAPTER, ONE_BY_ONE):
                asked = {"traffic": traffic, "way": way, "share": share, "arrivals_per_second": share * base}
                measured = _serve(fleet, way, requests, alone, times, rows)
                found.append(FleetLatency.model_validate({**asked, "requests": number, **measured}))
    return tuple(found)


def _serve(
    fleet: Fleet, way: str, requests: list[Request], alone: Tensor, times: list[float], rows: int
) -> dict[str, Any]:
    """Answer requests as they arrive; return the measured fields of a record."""
    answers: dict[int, Tensor] = {}

    def take(waiting: list[int]) -> list[int]:
        first = requests[waiting[0]].adapter
        alike = [place for place in waiting if way == MIXED or requests[place].adapter == first]
        return alike[: 1 if way == ONE_BY_ONE else rows]

    def answer(batch: list[int]) -> float:
        asked, got = [requests[place] for place in batch], list[Tensor]()
        seconds = fleet.seconds(lambda: got.append(fleet.answer(way, asked)))
        answers.update(zip(batch, got[0], strict=True))
        return seconds

    waits = waiting_times(times, take, answer, 2 * rows)
    p50, p90, p99 = (None if waits is None else quantile(waits, share) for share in (0.5, 0.9, 0.99))
    compared = gap(torch.stack([*answers.values()]), alone[[*answers]])
    return {"behind": 2 * rows, "p50": p50, "p90": p90, "p99": p99, **compared}


def draw_adapters(traffic: Traffic, adapters: int, requests: int) -> list[int]:
    """Return the adapter of each request: all alike, or by Zipf's law, in which the k-th is asked for 1 / k as often."""
    weights = [1.0 if traffic == "uniform" else 1 / rank for rank in range(1, adapters + 1)]
    return Random(0).choices(range(adapters), weights, k=requests)


def arrivals(per_second: float, requests: int) -> list[float]:
    """Return the times of independent arrivals at a rate, in seconds: a Poisson process."""
    drawn = Random(0)
    return [*accumulate(drawn.expovariate(per_second) for _ in range(requests))]


def waiting_times(
    times: list[float], take: Callable[[list[int]], list[int]], answer: Callable[[list[int]], float], most_waiting: int
) -> list[float] | None:
    """Return the seconds of each request from its arrival to its answer; None once more than *most_waiting* wait.

    *take* chooses a batch among the positions of the requests that wait, oldest first; *answer* returns its seconds.
    """
    waits: dict[int, float] = {}
    now = 0.0
    while len(waits) < len(times):
        waiting = [request for request in range(bisect_right(times, now)) if request not in waits]
        if not waiting:
            now = times[len(waits)]  # all that arrived are answered
            continue
        if len(waiting) > most_waiting:
            return None
        batch = take(waiting)
        now += answer(batch)
        waits |= {request: now - times[request] for request in batch}
    return [waits[request] for request in range(len(times))]


def hit_rate(adapters: Sequence[int], slots: int) -> float:
    """Return the share of requests whose adapter is on the model, if the one not used for longest makes room."""
    place = lru_cache(slots)(lambda adapter: adapter)
    for adapter in adapters:
        place(adapter)
    return place.cache_info().hits / len(adapters)
