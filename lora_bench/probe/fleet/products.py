"""The first product of LoRA in one layer, of each row's tokens with the A of its adapter, by the ways to compute it."""

import statistics
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

from lora_bench.probe.fleet.many_adapters import EQUAL, Fleet
from lora_bench.probe.inference import time_in_turn
from lora_bench.records.fleet_record import ProductSpeed
from lora_bench.training.measure.bare_step import Window

ROUNDS = Window(at_least=50, enough=50, seconds=0.0)


def measure_products(fleet: Fleet) -> tuple[ProductSpeed, ...]:
    """Time the product for 64 rows."""
    found, width = [], fleet.base.config.hidden_size
    for tokens, active in ((tokens, active) for tokens in (1, 8) for active in (1, 4, 16, 64)):
        x = torch.randn(64, tokens, width, device=fleet.device)
        ways = products(x, [*torch.randn(active, *EQUAL, width, device=fleet.device)])
        for call in ways.values():
            torch.testing.assert_close(call(), ways["looped"](), rtol=1e-4, atol=1e-4)
        seconds = time_in_turn(ways, fleet.seconds, ROUNDS, warmup=0)
        medians = {way: statistics.median(timed) for way, timed in seconds.items()}
        found.append(ProductSpeed(tokens=tokens, active=active, seconds=medians))
    return tuple(found)


def products(x: Tensor, weights: list[Tensor]) -> dict[str, Callable[[], Tensor]]:
    """Return ways to multiply rows, shape (rows, tokens, width), with the weights, shape (rank, width), which take turns.

    They stack a weight for each row, as `mix_adapters` does; group the rows by adapter for torch's grouped product; or take
    adapter after adapter, as PEFT does. What depends on the rows alone is made once, as for all layers of a model.
    """
    places = [torch.arange(first, len(x), len(weights), device=x.device) for first in range(len(weights))]
    order = torch.cat(places)
    back = order.argsort()
    ends = torch.tensor([len(rows) * x.shape[1] for rows in places], device=x.device).cumsum(0).int()

    def stacked() -> Tensor:
        return torch.bmm(x, torch.stack([weights[row % len(weights)] for row in range(len(x))]).mT)

    def grouped() -> Tensor:
        return F.grouped_mm(x[order].flatten(0, 1), torch.stack(weights).mT, offs=ends).unflatten(0, x.shape[:2])[back]

    def looped() -> Tensor:
        result = x.new_empty(*x.shape[:2], len(weights[0]))
        for rows, weight in zip(places, weights, strict=True):
            result[rows] = x[rows] @ weight.T
        return result

    return {"stacked": stacked, "grouped": grouped, "looped": looped}
