"""Rows a second of every way to answer a batch, the base model and the merged one."""

import copy
import statistics
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

from lora_bench.probe.fleet.many_adapters import EQUAL, UNEQUAL, Fleet, gap, logits
from lora_bench.probe.inference import time_in_turn
from lora_bench.records.fleet_record import BASE, BY_ADAPTER, MERGED, MIXED, ONE_BY_ONE, PEFTS, FleetSpeed
from lora_bench.training.measure.bare_step import Window

# Numbers of adapters in a batch, by the tokens of a row.
ADAPTERS = {1: (1, 4, 16, 64, 256), 8: (1, 4, 16, 64, 256), 32: (1, 4, 16, 64), 128: (1, 64)}
ROUNDS = Window(at_least=2, enough=15, seconds=10.0)


def measure_speeds(
    make: Callable[[tuple[int, ...]], Fleet],
    adapters: Mapping[int, Sequence[int]] = ADAPTERS,
    rows: int = 64,
    rounds: Window = ROUNDS,
) -> tuple[FleetSpeed, ...]:
    """Time batches of so many *rows*, or one for each adapter: of equal ranks, and of a row each for unequal ones."""
    fleet, unequal = make(EQUAL), make(UNEQUAL)
    merged = copy.deepcopy(fleet.model).merge_and_unload()
    found = []
    for active in sorted({active for counts in adapters.values() for active in counts}):
        fleet.grow(active)  # few first: setting an adapter takes longer beside more
        lengths = [tokens for tokens, counts in adapters.items() if active in counts]
        found += [_speed(fleet, merged, tokens, active, rows, rounds) for tokens in lengths]
    unequal.grow(rows)
    return (*found, *(_speed(unequal, None, tokens, rows, rows, rounds) for tokens in [*adapters][:3]))


def _speed(fleet: Fleet, merged: Any, tokens: int, active: int, rows: int, rounds: Window) -> FleetSpeed:
    number = max(rows, active)
    requests = fleet.requests([row % active for row in range(number)], (tokens + 1) // 2, tokens)
    # With a row for each adapter, a batch for each is one by one.
    ways = (MIXED, PEFTS, ONE_BY_ONE) if active == number else (MIXED, PEFTS, BY_ADAPTER, ONE_BY_ONE)
    calls = {way: partial(fleet.answer, way, requests) for way in ways} | {BASE: partial(logits, fleet.base, requests)}
    if merged is not None:
        calls[MERGED] = partial(logits, merged, requests)
    answers = {way: call() for way, call in calls.items()}  # the first call is not timed
    seconds = time_in_turn(calls, fleet.seconds, rounds, warmup=0)
    gaps = {way: gap(answers[way], answers[ONE_BY_ONE]) for way in ways if way != ONE_BY_ONE}
    return FleetSpeed(
        tokens=tokens,
        active=active,
        ranks=fleet.ranks,
        rows=number,
        rounds=len(seconds[MIXED]),
        rows_per_second={way: number / statistics.median(timed) for way, timed in seconds.items()},
        difference={way: compared["difference"] for way, compared in gaps.items()},
        others={way: compared["others"] for way, compared in gaps.items()},
    )
