"""The speed of this machine now, beside whatever else runs on it: layers of a small encoder, forward and backward."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import cache
from statistics import median

from lora_bench.records.spec import Precision

# A run reaches this share of the layer's speed: its batches are short, and it updates weights and scores too.
SHARE = 0.5
SECONDS = 0.3
_WIDTH, _HEADS, _LENGTH, _ROWS = 384, 12, 48, 16


@cache
def flops_per_thread() -> float:
    """Return the FLOPs a second that a run in float32 on one CPU thread is likely to do, as measured once."""
    # Attention's four products and the feed-forward's two of four times the width, six operations a weight and token.
    flops = 6 * 12 * _WIDTH**2 * _ROWS * _LENGTH
    return SHARE * flops / median(seconds for (seconds,) in _measured(time.perf_counter, "float32"))


@cache
def bfloat16_gain() -> float:
    """Return how many times as fast a step in bfloat16 is on a CPU, as measured once; below 1 if it is slower."""
    # The processor's own seconds, so that other work changes nothing.
    return median(float32 / bfloat16 for float32, bfloat16 in _measured(time.process_time, "float32", "bfloat16"))


def _measured(clock: Callable[[], float], *precisions: Precision) -> list[tuple[float, ...]]:
    """Return the seconds of steps in each precision by a clock, in turns for some tenths of a second."""
    import torch
    from torch import nn

    # One thread alone: several would wait for the slowest core, which other work may have.
    threads = torch.get_num_threads()
    # Its own random state, as a run's must not depend on it.
    with torch.random.fork_rng(devices=[]):
        layer = nn.TransformerEncoderLayer(_WIDTH, _HEADS, 4 * _WIDTH, dropout=0.0, batch_first=True)
        rows = torch.ones(_ROWS, _LENGTH, _WIDTH)

    def step(precision: Precision) -> float:
        begun = clock()
        with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bfloat16"):
            loss = layer(rows).sum()
        loss.backward()
        return clock() - begun

    taken: list[tuple[float, ...]] = []
    try:
        torch.set_num_threads(1)
        for precision in precisions:
            step(precision)  # the first one also prepares
        end = time.perf_counter() + SECONDS * len(precisions)
        while not taken or time.perf_counter() < end:
            taken.append(tuple(map(step, precisions)))
    finally:
        torch.set_num_threads(threads)
    return taken
