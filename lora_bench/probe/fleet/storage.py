"""Bytes of an adapter in files, in memory and on the model, and seconds to load, to swap and to answer after an eviction."""

import gc
import statistics
import tempfile
from pathlib import Path
from typing import get_args

import psutil
import torch
from peft import get_peft_model_state_dict
from peft.utils.hotswap import hotswap_adapter_from_state_dict
from safetensors.torch import save_file
from torch import Tensor

from lora_bench.probe.fleet.latency import draw_adapters, hit_rate
from lora_bench.probe.fleet.many_adapters import Fleet, Request, gap, logits, name_of
from lora_bench.records.fleet_record import MIXED, FleetStorage, HitRate, Traffic

LONE = "lone"


def measure_storage(fleet: Fleet, stored: int = 1000, slots: int = 64, misses: int = 100) -> FleetStorage:
    """Load an adapter into all slots on the model, keep *stored* others in memory, and swap some of them in."""
    model, (request,) = fleet.model, fleet.requests([0], 8, 8)
    fleet.answer(MIXED, [request])
    weights = get_peft_model_state_dict(model, adapter_name=name_of(0))
    with tempfile.TemporaryDirectory() as made:
        model.save_pretrained(made, selected_adapters=[name_of(0)])
        file = next(Path(made).rglob("adapter_model.safetensors"))
        file_bytes, added = file.stat().st_size, slots - 1
        before, modules = _resident_bytes(), len([*model.modules()])
        for number in range(1, slots):
            model.load_adapter(file.parent, name_of(number))
        layer_bytes, modules = (_resident_bytes() - before) // added, (len([*model.modules()]) - modules) // added
        before = _resident_bytes()
        waiting = [
            {path: torch.empty(weight.shape).normal_(0, 0.05) for path, weight in weights.items()}
            for _ in range(stored)
        ]
        waiting_bytes = (_resident_bytes() - before) // stored
        # In the slot of the adapter that was not used for longest.
        found = [
            _miss(fleet, request._replace(adapter=name_of(number % slots)), waiting[number], file)
            for number in range(misses)
        ]
    seconds, swapped, alone = zip(*found, strict=True)
    return FleetStorage(
        stored=stored,
        slots=slots,
        file_bytes=file_bytes,
        tensor_bytes=sum(weight.nbytes for weight in weights.values()),
        layer_bytes=layer_bytes,
        waiting_bytes=waiting_bytes,
        modules=modules,
        hit_rates=tuple(
            HitRate(traffic=traffic, slots=size, rate=hit_rate(draw_adapters(traffic, stored, 100 * stored), size))
            for traffic in get_args(Traffic)
            for size in (slots // 4, slots, 4 * slots)
        ),
        **{name: statistics.median(taken[name] for taken in seconds) for name in seconds[0]},
        **gap(torch.cat(swapped), torch.cat(alone)),
    )


def _resident_bytes() -> int:
    """Return the bytes of this process in memory."""
    gc.collect()
    return int(psutil.Process().memory_info().rss)


def _miss(
    fleet: Fleet, request: Request, weights: dict[str, Tensor], file: Path
) -> tuple[dict[str, float], Tensor, Tensor]:
    """Answer by weights that are swapped into an adapter's slot, and by the same from a file; return seconds and answers."""
    model, slot, answers = fleet.model, request.adapter, list[Tensor]()
    at_slot = {path.replace(".weight", f".{slot}.weight"): weight for path, weight in weights.items()}
    swap = fleet.seconds(lambda: hotswap_adapter_from_state_dict(model, at_slot, slot, model.peft_config[slot]))
    first = fleet.seconds(lambda: answers.append(fleet.answer(MIXED, [request])))
    again = fleet.seconds(lambda: fleet.answer(MIXED, [request]))
    # Loaded from a file under a name of its own, it is the lone adapter that the swapped one is compared with.
    save_file(weights, file)
    load = fleet.seconds(lambda: model.load_adapter(file.parent, LONE))
    model.set_adapter(LONE)
    activate = fleet.seconds(lambda: model.set_adapter(LONE))
    alone = fleet.seconds(lambda: answers.append(logits(model, [request])))
    model.set_adapter(slot)
    delete = fleet.seconds(lambda: model.delete_adapter(LONE))
    seconds = {
        "swap_seconds": swap,
        "request_seconds": again,
        "load_seconds": load,
        "activate_seconds": activate,
        "delete_seconds": delete,
        "first_from_memory_seconds": swap + first,
        "first_from_file_seconds": delete + load + activate + alone,
    }
    return seconds, *answers
