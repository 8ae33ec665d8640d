"""The speed of this machine now, beside whatever else runs on it: layers of a small encoder, forward and backward."""

from __future__ import annotations

import time
from functools import cache
from statistics import median

# A run reaches this share of the layer's speed: its batches are short, and it updates weights and scores too.
SHARE = 0.5
SECONDS = 0.3
_WIDTH, _HEADS, _LENGTH, _ROWS = 384, 12, 48, 16


@cache
def flops_per_thread() -> float:
    """Return the FLOPs a second that a run on one CPU thread is likely to do, as measured once."""
    import torch
    from torch import nn

    # One thread alone: several would wait for the slowest core, which other work may have.
    threads = torch.get_num_threads()
    # Its own random state, as a run's must not depend on it.
    with torch.random.fork_rng(devices=[]):
        layer = nn.TransformerEncoderLayer(_WIDTH, _HEADS, 4 * _WIDTH, dropout=0.0, batch_first=True)
        rows = torch.ones(_ROWS, _LENGTH, _WIDTH)
    # Attention's four products and the feed-forward's two of four times the width, six operations a weight and token.
    flops = 6 * 12 * _WIDTH**2 * _ROWS * _LENGTH
    taken: list[float] = []
    try:
        torch.set_num_threads(1)
        layer(rows).sum().backward()  # the first one also prepares
        end = time.perf_counter() + SECONDS
        while not taken or time.perf_counter() < end:
            begun = time.perf_counter()
            layer(rows).sum().backward()
            taken.append(time.perf_counter() - begun)
    finally:
        torch.set_num_threads(threads)
    return SHARE * flops / median(taken)
