"""One part of `lora-bench probe fleet`, measured in a process of its own: many LoRA adapters on one base model.

Adapters have random weights, are on queries and values (GPT-2: `c_attn`), and have no head of their own, since PEFT's mixed
batch refuses RoBERTa's. The ways of answering take turns, with one thread. On a CPU seconds are those of the process, so other
work on the machine counts little.
"""

import copy
import gc
import statistics
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import psutil
import torch
from peft import LoraConfig, PeftModel, get_peft_model, get_peft_model_state_dict
from peft.utils.hotswap import hotswap_adapter_from_state_dict
from safetensors.torch import save_file
from torch import Tensor
from torch.nn import functional as F
from torch.nn.utils.rnn import pad_sequence

from lora_bench.models.loading import load_model
from lora_bench.models.registry import find_model
from lora_bench.probe.traffic import Slots, arrivals, draw_adapters, hit_rate, waiting_times
from lora_bench.records.environment import describe_environment
from lora_bench.records.fleet_record import (
    FleetAnswers,
    FleetLatency,
    FleetRecord,
    FleetSpeed,
    FleetStorage,
    HitRate,
    Part,
    ProductSpeed,
    Traffic,
    write_fleet_part,
)
from lora_bench.training.measure.bare_step import time_passes
from lora_bench.training.measure.counters import quantile
from lora_bench.tuners import mix_adapters

COMMAND = "lora-bench probe fleet"
TARGETS = {"minilm-l6-roberta": ["query", "value"], "gpt2-mini": ["c_attn"]}
TRAFFICS: tuple[Traffic, ...] = ("uniform", "zipf")
MIXED, PEFTS, GROUPED, ALONE = "mixed", "PEFT's", "by adapter", "one by one"
LONE = "lone"
PAD = 1

Names = Sequence[str]
Rows = list[Tensor]


@dataclass(frozen=True)
class Scale:
    """How much is measured.

    Args:
        active: Numbers of adapters in a batch, by the tokens of a row; a batch has *rows* rows, or one for each adapter.
        mixed_ranks: Ranks of the adapters where they differ; elsewhere all have the second.
        rounds: Least and greatest number of rounds of a batch; between them it ends after *seconds*.
        shares: Rates of arrival, as shares of the base model's speed.
        requests: Requests of a queue over *adapters*.
        stored: Adapters in memory, *slots* of them on the model; of *misses* the first requests are timed.
        answers: Rows whose answers are counted.
    """

    active: dict[int, tuple[int, ...]]
    mixed_ranks: tuple[int, ...] = (4, 8, 16)
    rows: int = 64
    rounds: tuple[int, int] = (2, 15)
    seconds: float = 10.0
    shares: tuple[float, ...] = (0.05, 0.2, 0.5, 0.8)
    requests: int = 400
    adapters: int = 64
    stored: int = 1000
    slots: int = 64
    misses: int = 100
    answers: int = 50_048


WHOLE = Scale(active={1: (1, 4, 16, 64, 256), 8: (1, 4, 16, 64, 256), 32: (1, 4, 16, 64), 128: (1, 64)})


class LogitGap(NamedTuple):
    """The greatest difference of logits from the lone adapter's, and the number of rows with another likeliest label."""

    difference: float
    others: int


def gap(got: Tensor, alone: Tensor) -> LogitGap:
    """Compare answers, shape (rows, labels)."""
    return LogitGap(float((got - alone).abs().max()), int((got.argmax(-1) != alone.argmax(-1)).sum()))


class Fleet:
    """A base model with adapters "000", "001" …, of *ranks* in turn, with random weights.

    Names have one length, because PEFT's hot swap of an adapter empties those whose names contain its own.
    """

    def __init__(self, base: Any, targets: list[str], ranks: tuple[int, ...], device: torch.device) -> None:
        """Put the first adapter on a base model, which is changed in place."""
        base.config.pad_token_id = PAD
        self.device = device
        self.base = copy.deepcopy(base).to(device).eval()
        turned = base.config.model_type == "gpt2"
        self.configs = [LoraConfig(r=rank, target_modules=targets, fan_in_fan_out=turned) for rank in ranks]
        self.drawn = torch.Generator().manual_seed(0)
        self.model: PeftModel = get_peft_model(base, copy.copy(self.configs[0]), adapter_name=name_of(0))
        self.of_peft = self.model.base_model._enable_peft_forward_hooks
        self.size = 1
        self._disturb(name_of(0))

    def grow(self, adapters: int) -> None:
        """Have at least so many adapters."""
        for number in range(self.size, adapters):
            self.model.add_adapter(name_of(number), copy.copy(self.configs[number % len(self.configs)]))
            self._disturb(name_of(number))
        self.size = max(self.size, adapters)

    def _disturb(self, name: str) -> None:
        with torch.no_grad():
            for path, weight in self.model.named_parameters():
                if f"lora_B.{name}." in path:
                    weight.copy_(torch.randn(weight.shape, generator=self.drawn) * 0.05)
        self.model.to(self.device).eval()

    def rows(self, length: int, rows: int, *, shortest: int | None = None, seed: int = 0) -> Rows:
        """Return rows of random tokens, of the *shortest* length, or else the half, to the length."""
        drawn = torch.Generator().manual_seed(seed)
        lengths = torch.randint(shortest or (length + 1) // 2, length + 1, (rows,), generator=drawn).tolist()
        vocabulary: int = self.base.config.vocab_size
        return [torch.randint(PAD + 1, vocabulary, (own,), generator=drawn).to(self.device) for own in lengths]

    def seconds(self, call: Callable[[], object]) -> float:
        """Return the seconds of a call: those of the process on a CPU."""
        if self.device.type != "cpu":
            return time_passes(call, self.device)
        began = time.process_time()
        call()
        return time.process_time() - began

    def plain(self, rows: Rows) -> Tensor:
        """Answer rows by the base model."""
        found: Tensor = self.base(**padded(rows)).logits
        return found

    def mixed(self, rows: Rows, names: Names) -> Tensor:
        """Answer rows in one batch by `mix_adapters`."""
        found: Tensor = mix_adapters(self.model)(**padded(rows), adapter_names=[*names]).logits
        return found

    def mixed_by_peft(self, rows: Rows, names: Names) -> Tensor:
        """Answer rows in one batch by PEFT's own code."""
        self.model.base_model._enable_peft_forward_hooks = self.of_peft
        found: Tensor = self.model(**padded(rows), adapter_names=[*names]).logits
        return found

    def by_adapter(self, rows: Rows, names: Names) -> Tensor:
        """Answer the rows of each adapter together."""
        found: list[Any] = [None] * len(rows)
        for name in dict.fromkeys(names):
            places = [place for place, own in enumerate(names) if own == name]
            self.model.set_adapter(name)
            for place, logits in zip(places, self.model(**padded([rows[p] for p in places])).logits, strict=True):
                found[place] = logits
        return torch.stack(found)

    def one_by_one(self, rows: Rows, names: Names) -> Tensor:
        """Answer each row by itself."""
        found = []
        for row, name in zip(rows, names, strict=True):
            self.model.set_adapter(name)
            found.append(self.model(**padded([row])).logits)
        return torch.cat(found)


def name_of(number: int) -> str:
    """Return the name of an adapter."""
    return f"{number:03}"


def padded(rows: Rows) -> dict[str, Tensor]:
    """Return rows as a batch."""
    ids = pad_sequence(rows, batch_first=True, padding_value=PAD)
    lengths = torch.tensor([len(row) for row in rows], device=ids.device)
    return {
        "input_ids": ids,
        "attention_mask": (torch.arange(ids.shape[1], device=ids.device) < lengths[:, None]).long(),
    }


def measure_speed(make: Callable[[tuple[int, ...]], Fleet], scale: Scale) -> tuple[FleetSpeed, ...]:
    """Measure each number of adapters and length with equal ranks, and the largest of *rows* adapters with mixed ones."""
    equal, mixed = scale.mixed_ranks[1:2], scale.mixed_ranks
    counts = sorted({active for counts in scale.active.values() for active in counts})
    found, fleet = [], make(equal)
    merged: Any = copy.deepcopy(fleet.model).merge_and_unload().eval()
    for active in counts:  # few first: setting an adapter takes longer beside more
        fleet.grow(active)
        found += [
            _speed(fleet, merged, equal, tokens, active, scale)
            for tokens, of_tokens in scale.active.items()
            if active in of_tokens
        ]
    fleet = make(mixed)
    fleet.grow(scale.rows)
    found += [_speed(fleet, None, mixed, tokens, scale.rows, scale) for tokens in list(scale.active)[:3]]
    return tuple(found)


def _speed(fleet: Fleet, merged: Any, ranks: tuple[int, ...], tokens: int, active: int, scale: Scale) -> FleetSpeed:
    number = max(scale.rows, active)
    rows, names = fleet.rows(tokens, number), [name_of(row % active) for row in range(number)]
    ways: dict[str, Callable[[], Tensor]] = {
        MIXED: lambda: fleet.mixed(rows, names),
        PEFTS: lambda: fleet.mixed_by_peft(rows, names),
        GROUPED: lambda: fleet.by_adapter(rows, names),
        ALONE: lambda: fleet.one_by_one(rows, names),
        "base": lambda: fleet.plain(rows),
    }
    if active == number:
        del ways[GROUPED]  # each adapter has one row, as one by one
    if merged is not None:
        ways["merged"] = lambda: merged(**padded(rows)).logits
    answers = {way: call() for way, call in ways.items()}  # the first call is not timed
    gaps = {way: gap(answers[way], answers[ALONE]) for way in (MIXED, PEFTS, GROUPED) if way in answers}
    taken: dict[str, list[float]] = {way: [] for way in ways}
    least, most = scale.rounds
    while (rounds := len(taken[MIXED])) < most and (rounds < least or sum(map(sum, taken.values())) < scale.seconds):
        for way, call in ways.items():
            taken[way].append(fleet.seconds(call))
    return FleetSpeed(
        tokens=tokens,
        active=active,
        ranks=ranks,
        rows=number,
        rounds=rounds,
        rows_per_second={way: number / statistics.median(seconds) for way, seconds in taken.items()},
        difference={way: one.difference for way, one in gaps.items()},
        others={way: one.others for way, one in gaps.items()},
    )


def measure_products(fleet: Fleet, scale: Scale) -> tuple[ProductSpeed, ...]:
    """Time the product with A of one layer, by the ways to compute it."""
    found, width, rank = [], fleet.base.config.hidden_size, scale.mixed_ranks[1]
    for tokens in (1, 8):
        for active in sorted({min(number, scale.rows) for number in (1, 4, 16, 64)}):
            x = torch.randn(scale.rows, tokens, width, device=fleet.device)
            weights = [torch.randn(rank, width, device=fleet.device) for _ in range(active)]
            ways = products(x, weights, [row % active for row in range(scale.rows)])
            seconds: dict[str, list[float]] = {way: [] for way in ways}
            for call in ways.values():
                torch.testing.assert_close(call(), ways["looped"](), rtol=1e-4, atol=1e-4)
            for _ in range(50):
                for way, call in ways.items():
                    seconds[way].append(fleet.seconds(call))
            medians = {way: statistics.median(taken) for way, taken in seconds.items()}
            found.append(ProductSpeed(tokens=tokens, active=active, seconds=medians))
    return tuple(found)


def products(x: Tensor, weights: list[Tensor], own: list[int]) -> dict[str, Callable[[], Tensor]]:
    """Return ways to multiply each row's tokens, shape (rows, tokens, width), with its *own* of the weights, (rank, width).

    They stack a weight for each row, as `mix_adapters` does; group the rows by adapter for torch's grouped product; or take
    adapter after adapter, as PEFT does. What depends on the rows alone is made once, as for all layers of a model.
    """
    places = [
        torch.tensor([row for row, k in enumerate(own) if k == one], device=x.device) for one in range(len(weights))
    ]
    order = torch.cat(places)
    back = order.argsort()
    ends = torch.tensor([len(of_one) * x.shape[1] for of_one in places], device=x.device).cumsum(0).int()

    def stacked() -> Tensor:
        return torch.bmm(x, torch.stack([weights[k] for k in own]).transpose(1, 2))

    def grouped() -> Tensor:
        product = F.grouped_mm(x[order].flatten(0, 1), torch.stack(weights).transpose(1, 2), offs=ends)
        return product.view(len(x), x.shape[1], -1)[back]

    def looped() -> Tensor:
        result = x.new_empty(*x.shape[:2], weights[0].shape[0])
        for of_one, weight in zip(places, weights, strict=True):
            result[of_one] = x[of_one] @ weight.T
        return result

    return {"stacked": stacked, "grouped": grouped, "looped": looped}


def measure_latency(fleet: Fleet, scale: Scale, tokens: int = 8) -> tuple[FleetLatency, ...]:
    """Serve a queue at each rate in each way; all meet the same requests."""
    fleet.grow(scale.adapters)
    rows = fleet.rows(tokens, scale.requests, shortest=tokens)
    full = rows[: scale.rows]
    base = len(full) / statistics.median(fleet.seconds(lambda: fleet.plain(full)) for _ in range(5))
    found = []
    for traffic in TRAFFICS:
        names = [name_of(adapter) for adapter in draw_adapters(traffic, scale.adapters, scale.requests)]
        alone = fleet.by_adapter(rows, names)
        takes: dict[str, tuple[Any, Any]] = {
            MIXED: (lambda waiting: waiting[: scale.rows], fleet.mixed),
            GROUPED: (
                lambda waiting, names=names: [one for one in waiting if names[one] == names[waiting[0]]][: scale.rows],
                fleet.by_adapter,
            ),
            ALONE: (lambda waiting: waiting[:1], fleet.one_by_one),
        }
        for share in scale.shares:
            times = arrivals(share * base, scale.requests)
            for way, (take, call) in takes.items():
                worst = LogitGap(0.0, 0)

                def answer(batch: list[int], call: Any = call, names: Names = names, alone: Tensor = alone) -> float:
                    nonlocal worst
                    got: list[Tensor] = []
                    taken = fleet.seconds(lambda: got.append(call([rows[i] for i in batch], [names[i] for i in batch])))
                    now = gap(got[0], alone[batch])
                    worst = LogitGap(max(worst.difference, now.difference), worst.others + now.others)
                    return taken

                behind = 2 * scale.rows
                waits = waiting_times(times, take, answer, behind)
                p50, p90, p99 = (None if waits is None else quantile(waits, share) for share in (0.5, 0.9, 0.99))
                found.append(
                    FleetLatency(
                        traffic=traffic, way=way, share=share, arrivals_per_second=share * base, requests=scale.requests,
                        behind=behind, p50=p50, p90=p90, p99=p99, difference=worst.difference, others=worst.others,
                    )
                )  # fmt: skip
    return tuple(found)


def measure_storage(fleet: Fleet, scale: Scale, tokens: int = 8) -> FleetStorage:
    """Measure adapters in files, in memory and on the model, and the first request of one that is not on the model."""
    model, first = fleet.model, name_of(0)
    row = fleet.rows(tokens, 1, shortest=tokens)
    fleet.mixed(row, [first])
    weights = get_peft_model_state_dict(model, adapter_name=first)
    with tempfile.TemporaryDirectory() as made:
        model.save_pretrained(made, selected_adapters=[first])
        file = next(Path(made).rglob("adapter_model.safetensors"))
        file_bytes, before, modules = file.stat().st_size, resident_bytes(), sum(1 for _ in model.modules())
        for number in range(1, scale.slots):
            model.load_adapter(file.parent, name_of(number))
        layer_bytes = (resident_bytes() - before) // (scale.slots - 1)
        modules = (sum(1 for _ in model.modules()) - modules) // (scale.slots - 1)
        before = resident_bytes()
        waiting = [
            {
                path: torch.empty(weight.shape).normal_(0, 0.05, generator=fleet.drawn)
                for path, weight in weights.items()
            }
            for _ in range(scale.stored)
        ]
        waiting_bytes, slots = (resident_bytes() - before) // scale.stored, Slots(scale.slots)
        misses = [
            _miss(fleet, row, waiting[number % scale.stored], name_of(slots.place(number)[0]), file)
            for number in range(scale.misses)
        ]
    median = Miss(*map(statistics.median, zip(*(seconds for seconds, _ in misses), strict=True)))
    rates = [
        HitRate(
            traffic=traffic, slots=size, rate=hit_rate(draw_adapters(traffic, scale.stored, 100 * scale.stored), size)
        )
        for traffic in TRAFFICS
        for size in (scale.slots // 4, scale.slots, 4 * scale.slots)
    ]
    return FleetStorage(
        stored=scale.stored, slots=scale.slots, file_bytes=file_bytes, layer_bytes=layer_bytes, waiting_bytes=waiting_bytes,
        tensor_bytes=sum(weight.nbytes for weight in weights.values()), modules=modules, activate_seconds=median.activate,
        load_seconds=median.load, delete_seconds=median.delete, swap_seconds=median.swap, request_seconds=median.request,
        first_from_file_seconds=median.from_file, first_from_memory_seconds=median.from_memory,
        difference=max(one.difference for _, one in misses), others=sum(one.others for _, one in misses),
        hit_rates=tuple(rates),
    )  # fmt: skip


def resident_bytes() -> int:
    """Return the bytes of this process in memory."""
    gc.collect()
    return int(psutil.Process().memory_info().rss)


class Miss(NamedTuple):
    """Seconds around a request whose adapter is not on the model."""

    swap: float
    request: float
    from_memory: float
    load: float
    activate: float
    delete: float
    from_file: float


def _miss(fleet: Fleet, row: Rows, weights: dict[str, Tensor], slot: str, file: Path) -> tuple[Miss, LogitGap]:
    """Answer a row by an adapter that is swapped into a slot, and by the same from a file; return how far they differ."""
    model, answers = fleet.model, list[Tensor]()
    at_slot = {path.replace(".weight", f".{slot}.weight"): weight for path, weight in weights.items()}
    config = model.peft_config[slot]
    swap = fleet.seconds(lambda: hotswap_adapter_from_state_dict(model, at_slot, slot, config))
    first = fleet.seconds(lambda: answers.append(fleet.mixed(row, [slot])))
    again = fleet.seconds(lambda: fleet.mixed(row, [slot]))
    # Loaded from a file under a name of its own, it is the lone adapter that the swapped one is compared with.
    save_file(weights, file)
    load = fleet.seconds(lambda: model.load_adapter(file.parent, LONE))
    model.set_adapter(LONE)
    activate = fleet.seconds(lambda: model.set_adapter(LONE))
    alone = fleet.seconds(lambda: answers.append(model(**padded(row)).logits))
    model.set_adapter(slot)
    delete = fleet.seconds(lambda: model.delete_adapter(LONE))
    return Miss(swap, again, swap + first, load, activate, delete, delete + load + activate + alone), gap(*answers)


def count_answers(fleet: Fleet, scale: Scale, tokens: int = 4) -> FleetAnswers:
    """Answer rows in mixed batches, and each by its adapter in batches of that adapter alone."""
    fleet.grow(scale.adapters)
    rows = fleet.rows(tokens, scale.answers)
    names = [name_of(adapter) for adapter in draw_adapters("uniform", scale.adapters, scale.answers)]
    got = [
        fleet.mixed(rows[at : at + scale.rows], names[at : at + scale.rows]) for at in range(0, len(rows), scale.rows)
    ]
    mixed, worst = torch.cat(got), LogitGap(0.0, 0)
    for name in dict.fromkeys(names):
        places = [place for place, own in enumerate(names) if own == name]
        for at in range(0, len(places), scale.rows):
            part = places[at : at + scale.rows]
            now = gap(mixed[part], fleet.by_adapter([rows[place] for place in part], [name] * len(part)))
            worst = LogitGap(max(worst.difference, now.difference), worst.others + now.others)
    return FleetAnswers(
        rows=len(rows),
        adapters=scale.adapters,
        ranks=scale.mixed_ranks,
        difference=worst.difference,
        others=worst.others,
    )


def measure(part: Part, make: Callable[[tuple[int, ...]], Fleet], scale: Scale) -> dict[str, Any]:
    """Return the fields of a part's record; *make* returns a new fleet with adapters of some ranks."""
    equal = scale.mixed_ranks[1:2]
    with torch.no_grad():
        match part:
            case "speed":
                return {"products": measure_products(make(equal), scale), "speeds": measure_speed(make, scale)}
            case "latency":
                return {"latencies": measure_latency(make(equal), scale)}
            case "storage":
                return {"storage": measure_storage(make(equal), scale)}
            case "answers":
                return {"answers": count_answers(make(scale.mixed_ranks), scale)}


def main(folder: str, model: str, part: Any) -> None:
    """Measure a part of a model, and write its record."""
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")

    def make(ranks: tuple[int, ...]) -> Fleet:
        torch.manual_seed(0)
        base, _ = load_model(find_model(model, base=Path()), kind="classification", labels=2)
        return Fleet(base, TARGETS[model], ranks, device)

    found = measure(part, make, WHOLE)
    environment = describe_environment(device.type)
    record = FleetRecord(model=model, part=part, command=COMMAND, environment=environment, **found)
    write_fleet_part(Path(folder), record)


if __name__ == "__main__":
    main(*sys.argv[1:])
