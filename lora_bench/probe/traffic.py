"""Requests for adapters, and one server that answers them in virtual time.

The server's clock advances by what each of its calls takes, as that call measures itself, and leaps to the next arrival when
nothing waits. So a queue has the waiting times of a machine without other work, also where others use it.
"""

from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from random import Random

from lora_bench.records.fleet_record import Traffic

# Positions of the requests that wait to those of the next batch, and a batch to the seconds that answering it took.
Take = Callable[[Sequence[int]], list[int]]
Answer = Callable[[list[int]], float]


def draw_adapters(traffic: Traffic, adapters: int, requests: int, seed: int = 0) -> list[int]:
    """Return the adapter of each request: all alike, or by Zipf's law, in which the k-th is asked for 1 / k as often."""
    weights = [1.0 if traffic == "uniform" else 1 / rank for rank in range(1, adapters + 1)]
    return Random(seed).choices(range(adapters), weights, k=requests)


def arrivals(per_second: float, requests: int, seed: int = 0) -> list[float]:
    """Return the times of independent arrivals at a rate, in seconds: a Poisson process."""
    drawn, now, times = Random(seed), 0.0, []
    for _ in range(requests):
        now += drawn.expovariate(per_second)
        times.append(now)
    return times


def waiting_times(times: Sequence[float], take: Take, answer: Answer, most_waiting: int) -> list[float] | None:
    """Return the seconds of each request from its arrival to its answer; None once more than *most_waiting* wait.

    *take* chooses the next batch among the positions of the requests that wait, oldest first.
    """
    found, waiting, arrived, now = [0.0] * len(times), list[int](), 0, 0.0
    while waiting or arrived < len(times):
        if not waiting:
            now = max(now, times[arrived])
        while arrived < len(times) and times[arrived] <= now:
            waiting.append(arrived)
            arrived += 1
        if len(waiting) > most_waiting:
            return None
        batch = take(waiting)
        now += answer(batch)
        for request in batch:
            found[request] = now - times[request]
        waiting = [request for request in waiting if request not in set(batch)]
    return found


@dataclass
class Slots:
    """The places of adapters on a model; the one that was not used for longest gives its place to the next."""

    size: int

    def __post_init__(self) -> None:
        self.used: OrderedDict[int, int] = OrderedDict()

    def place(self, adapter: int) -> tuple[int, bool]:
        """Return the slot of an adapter, and whether it was there already."""
        if hit := adapter in self.used:
            self.used.move_to_end(adapter)
        else:
            free = len(self.used) if len(self.used) < self.size else self.used.popitem(last=False)[1]
            self.used[adapter] = free
        return self.used[adapter], hit


def hit_rate(adapters: Sequence[int], slots: int) -> float:
    """Return the share of requests whose adapter has a slot, all slots empty at first."""
    places = Slots(slots)
    return sum(places.place(adapter)[1] for adapter in adapters) / len(adapters)
