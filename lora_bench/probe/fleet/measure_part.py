"""One part of `lora-bench probe fleet`, measured in a process of its own with one thread."""

import sys
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lora_bench.models.loading import load_model
from lora_bench.models.registry import find_model
from lora_bench.probe.fleet.latency import draw_adapters, measure_latency
from lora_bench.probe.fleet.many_adapters import EQUAL, UNEQUAL, Fleet, gap
from lora_bench.probe.fleet.products import measure_products
from lora_bench.probe.fleet.speeds import measure_speeds
from lora_bench.probe.fleet.storage import measure_storage
from lora_bench.records.environment import describe_environment
from lora_bench.records.fleet_record import BY_ADAPTER, MIXED, FleetAnswers, FleetRecord, Part, write_fleet_part

MODELS = ("minilm-l6-roberta", "gpt2-mini")


def main(folder: str, model: str, part: Any) -> None:
    """Measure a part of a model, and write its record."""
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")

    def make(ranks: tuple[int, ...]) -> Fleet:
        torch.manual_seed(0)
        base, _ = load_model(find_model(model, base=Path()), kind="classification", labels=2)
        return Fleet(base, ranks, device)

    found, environment = measure(part, make), describe_environment(device.type)
    write_fleet_part(Path(folder), FleetRecord(model=model, part=part, environment=environment, **found))


@torch.no_grad()
def measure(part: Part, make: Callable[[tuple[int, ...]], Fleet], **scale: Any) -> dict[str, Any]:
    """Return the fields of a part's record; *make* returns a new fleet of some ranks, *scale* has other sizes than usual."""
    match part:
        case "speed":
            return {"products": measure_products(make(EQUAL)), "speeds": measure_speeds(make, **scale)}
        case "latency":
            return {"latencies": measure_latency(make(EQUAL), **scale)}
        case "storage":
            return {"storage": measure_storage(make(EQUAL), **scale)}
        case "answers":
            return {"answers": count_answers(make(UNEQUAL), **scale)}


def count_answers(fleet: Fleet, number: int = 50_048, adapters: int = 64) -> FleetAnswers:
    """Answer rows in mixed batches of 64, and each by its adapter in batches of that adapter alone."""
    fleet.grow(adapters)
    requests = fleet.requests(draw_adapters("uniform", adapters, number), 2, 4)
    by_adapter = sorted(range(number), key=lambda place: requests[place].adapter)

    def answers(way: str, order: Sequence[int]) -> Tensor:
        asked = [requests[place] for place in order]
        return torch.cat([fleet.answer(way, asked[start : start + 64]) for start in range(0, number, 64)])

    compared = gap(answers(MIXED, range(number))[by_adapter], answers(BY_ADAPTER, by_adapter))
    return FleetAnswers(rows=number, adapters=adapters, ranks=fleet.ranks, **compared)


if __name__ == "__main__":
    main(*sys.argv[1:])
