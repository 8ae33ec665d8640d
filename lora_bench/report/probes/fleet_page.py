"""The page of `lora-bench probe fleet`: what one base model with many adapters costs, and for whom mixed batches pay."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import groupby
from pathlib import Path

from lora_bench.records.fleet_record import (
    MIXED,
    ONE_BY_ONE,
    PEFTS,
    WAYS,
    FleetLatency,
    FleetRecord,
    FleetSpeed,
    FleetStorage,
    read_fleet,
)
from lora_bench.report.blocks import Block, Commands, Heading, Lead, TextList, TextTable
from lora_bench.report.html import page_files
from lora_bench.report.text import MISSING, code, count, listed, milliseconds, percent, plain, plural, rate, span

# The adapters of a batch that the aims are about, and the ratio below which a batch gains nothing.
AIMED, NO_GAIN = 64, 1.1
WRONG_OF = 100_000

ABOUT = (
    "*Mixed* is `mix_adapters`, and *PEFT's* its own batch with `adapter_names`; each has an adapter for each row. *By "
    "adapter* is `set_adapter` and a batch of the adapter's rows, *one by one* a batch of one row. *Merged* and *base* know "
    "one adapter or none.",
    "Rows are random tokens, of half the length to the length. A batch has 64 rows, or one for each adapter; it pads its rows, "
    "and rows one by one have no padding. Adapters are LoRA on queries and values with random weights, float32, one thread.",
    "A speed is a median over rounds, in which the ways take turns. On a CPU, seconds are those of the process. Compare the "
    "ways of a row: another row may have met other work on the machine.",
    "Latency is simulated from real calls: requests of 8 tokens arrive at random times, and the one server's clock advances "
    "by what each batch takes. Batches have up to 64 rows of what waits. All ways meet the same requests. A queue that grew "
    "beyond 128 *falls behind*.",
    "Each answer is compared with that of its adapter on the row alone.",
)

STORAGE: dict[str, Callable[[FleetStorage], str]] = {
    "bytes of the file": lambda one: count(one.file_bytes),
    "bytes of its tensors": lambda one: count(one.tensor_bytes),
    "bytes of the process for one of {} in memory": lambda one: count(one.waiting_bytes),
    "bytes of the process for one on the model": lambda one: count(one.layer_bytes),
    "Python modules of one on the model": lambda one: count(one.modules),
    "`set_adapter`": lambda one: milliseconds(one.activate_seconds),
    "`load_adapter` from a file": lambda one: milliseconds(one.load_seconds),
    "`delete_adapter`": lambda one: milliseconds(one.delete_seconds),
    "hot swap from memory": lambda one: milliseconds(one.swap_seconds),
    "a request, adapter on the model": lambda one: milliseconds(one.request_seconds),
    "first request after eviction, from memory": lambda one: milliseconds(one.first_from_memory_seconds),
    "first request after eviction, from a file": lambda one: milliseconds(one.first_from_file_seconds),
    "greatest difference of a logit; wrong answers": lambda one: f"{one.difference:.1g}; {count(one.others)}",
}


def fleet_files(folder: Path, name: str) -> dict[str, bytes]:
    """Return the page of a folder's records as Markdown and HTML, by file name; nothing if there are none."""
    records = read_fleet(folder)
    return page_files(name, fleet_page(records)) if records else {}


def fleet_page(records: Sequence[FleetRecord]) -> list[Block]:
    """Return the page of records."""
    speeds = {record.model: record.speeds for record in records if record.speeds}
    equal = {model: [speed for speed in found if len(speed.ranks) == 1] for model, found in speeds.items()}
    environment = records[0].environment
    packages = environment.packages
    versions = [f"{name} {plain(packages[name])}" for name in ("torch", "transformers", "peft") if name in packages]
    return [
        Heading(1, "A fleet of adapters on one base model"),
        Lead(_answer(equal)),
        f"Measured on {code(environment.device or MISSING)} ({plain(environment.cpu or MISSING)}) with {', '.join(versions)}.",
        Heading(2, "Aims"),
        TextTable(["aim", "model", "figure", ""], [*_aims(records, equal)], numbers_from=4),
        *_gain_table(equal),
        *_speed_tables(speeds),
        *_latency_tables(records),
        *_storage_tables(records),
        *_product_table(records),
        Heading(2, "How it was measured"),
        TextList(ABOUT),
        Commands(sorted({record.command for record in records})),
    ]


def _answer(equal: Mapping[str, Sequence[FleetSpeed]]) -> str:
    """Say for whom mixed batches pay, and where their gain ends."""
    said = []
    for model, found in equal.items():
        gains = {speed.tokens: speed.gain() for speed in found if speed.active == AIMED}
        if not gains:
            continue
        best = max(gains, key=gains.__getitem__)
        none = [tokens for tokens, gain in gains.items() if gain < NO_GAIN]
        least = f"still × {rate(min(gains.values()))} at the least"
        ends = f"nothing from {count(min(none))} tokens on" if none else least
        said.append(f"{code(model)} gains × {rate(gains[best])} at {plural(best, 'token')} a row and {ends}")
    if not said:
        return "No speed is measured yet."
    gaining = [speed.active for found in equal.values() for speed in found if speed.gain() >= NO_GAIN]
    fewest = f", from {count(min(gaining))} adapters on" if gaining else ""
    return (
        f"Mixed batches pay where many adapters are served with few tokens a step, as in writing{fewest}. With {AIMED} "
        f"adapters, against the fastest other way, {'; '.join(said)}."
    )


def _aims(records: Sequence[FleetRecord], equal: Mapping[str, Sequence[FleetSpeed]]) -> Iterator[tuple[str, ...]]:
    """Yield the aims, each with its figure."""
    for way, factor in ((ONE_BY_ONE, 5.0), (PEFTS, 2.0)):
        for model, found in equal.items():
            gains = {count(speed.tokens): speed.gain(way) for speed in found if speed.active == AIMED}
            reached = [tokens for tokens, gain in gains.items() if gain >= factor]
            figures = f"{', '.join(f'× {rate(gain)}' for gain in gains.values())} at {listed([*gains])} tokens"
            met = _met(bool(reached)) + (f" at {listed(reached)}" if reached else "")
            yield f"× {factor:g} the speed of {way}, {AIMED} adapters", code(model), figures, met
    for model, one in ((record.model, record.storage) for record in records if record.storage is not None):
        for place, held in (("in memory", one.waiting_bytes), ("on the model", one.layer_bytes)):
            aim = f"an adapter {place} takes at most 10 % more than its file"
            more = f"{percent(held / one.file_bytes - 1)} more than the file"
            yield aim, code(model), more, _met(held <= 1.1 * one.file_bytes)
    answers = [(code(record.model), record.answers) for record in records if record.answers is not None]
    if answers:
        asked, wrong = sum(one.rows for _, one in answers), sum(one.others for _, one in answers)
        figure = f"{count(wrong)} of {count(asked)}; logits differ by {max(one.difference for _, one in answers):.1g} at most"
        met = _met(wrong == 0 and asked >= WRONG_OF)
        yield f"no wrong answer in {count(WRONG_OF)}", listed([model for model, _ in answers]), figure, met


def _met(met: bool) -> str:
    return "**met**" if met else "missed"


def _gain_table(equal: Mapping[str, Sequence[FleetSpeed]]) -> list[Block]:
    """Return what mixing gains over the fastest other way, by tokens and adapters of one rank."""
    gains = {
        (model, speed.tokens, speed.active): f"× {rate(speed.gain())}"
        for model, found in equal.items()
        for speed in found
    }
    counts = sorted({active for _, _, active in gains})
    rows = [
        [code(model), count(tokens), *(gains.get((model, tokens, active), MISSING) for active in counts)]
        for model, tokens in sorted({(model, tokens) for model, tokens, _ in gains})
    ]
    return [
        Heading(2, "Gain over the fastest other way"),
        "That way is PEFT's own batch, `set_adapter` for the rows of each adapter, or for each row. Below × "
        f"{NO_GAIN:g} a batch gains nothing: of many tokens, because arithmetic bounds it; of few adapters, because the others "
        "have few products too.",
        TextTable(["model", "tokens", *(plural(active, "adapter") for active in counts)], rows),
    ]


def _speed_tables(speeds: Mapping[str, Sequence[FleetSpeed]]) -> list[Block]:
    """Return the rows a second of every way."""
    blocks: list[Block] = [Heading(2, "Rows a second")]
    for model, found in speeds.items():
        rows = []
        for speed in sorted(found, key=lambda speed: (speed.tokens, speed.active, len(speed.ranks))):
            ranks = f" of ranks {listed([*map(str, speed.ranks)])}" if len(speed.ranks) > 1 else ""
            figures = [rate(speed.rows_per_second.get(way)) for way in WAYS]
            rows.append([count(speed.tokens), count(speed.active) + ranks, *figures])
        largest = max(speed.difference[MIXED] for speed in found)
        others = sum(sum(speed.others.values()) for speed in found)
        blocks += [
            Heading(3, code(model)),
            TextTable(["tokens", "adapters", *WAYS], rows, numbers_from=0),
            f"Medians of {span(speed.rounds for speed in found)} rounds. Logits of mixed batches differ by {largest:.1g} at "
            f"most; {count(others)} rows in any way have another answer.",
        ]
    return blocks


def _latency_tables(records: Sequence[FleetRecord]) -> list[Block]:
    """Return the quantiles of latency."""
    found = [record for record in records if record.latencies]
    blocks: list[Block] = [Heading(2, "Latency")] if found else []
    for record in found:
        queues = groupby(record.latencies, lambda one: (one.traffic, one.share, one.arrivals_per_second))
        rows = [
            [traffic, percent(share, 0), rate(arrivals), *map(_quantiles, ways)]
            for (traffic, share, arrivals), ways in queues
        ]
        ways = dict.fromkeys(one.way for one in record.latencies)
        largest, others = max(one.difference for one in record.latencies), sum(one.others for one in record.latencies)
        blocks += [
            Heading(3, f"{code(record.model)}, milliseconds: p50, p90, p99", listed=False),
            TextTable(["traffic", "of base speed", "arrivals a second", *ways], rows),
            f"Logits differ by {largest:.1g} at most; {count(others)} answers are wrong.",
        ]
    return blocks


def _quantiles(one: FleetLatency) -> str:
    return "falls behind" if one.p50 is None else ", ".join(map(milliseconds, (one.p50, one.p90, one.p99)))


def _storage_tables(records: Sequence[FleetRecord]) -> list[Block]:
    """Return what an adapter costs in memory, to load, to swap, and at its first request."""
    found = {code(record.model): record.storage for record in records if record.storage is not None}
    if not found:
        return []
    some = next(iter(found.values()))
    stored = count(some.stored)
    rates: dict[int, list[str]] = {}
    for hit in sorted(some.hit_rates, key=lambda one: (one.slots, one.traffic)):
        rates.setdefault(hit.slots, [count(hit.slots)]).append(percent(hit.rate))
    return [
        Heading(2, "Stored adapters"),
        f"{stored} adapters wait as tensors in memory, {count(some.slots)} are on the model. Times are milliseconds. A first "
        "request is of one row; it swaps, or loads and deletes, first.",
        TextTable(["", *found], [[fact.format(stored), *map(of, found.values())] for fact, of in STORAGE.items()]),
        "An adapter on the model is larger than its file by Python modules: PEFT gives each layer modules of its own for each "
        "adapter. Adapters that wait as tensors have none.",
        f"Requests whose adapter is on the model, of {stored}, if the one not used for longest makes room:",
        TextTable(["adapters on the model", "uniform", "Zipf"], [*rates.values()], numbers_from=0),
    ]


def _product_table(records: Sequence[FleetRecord]) -> list[Block]:
    """Return the times of one product by the ways to compute it."""
    ways = ("stacked", "grouped", "looped")
    rows = [
        [code(record.model), count(one.tokens), count(one.active), *(rate(one.seconds[way] * 1e6) for way in ways)]
        for record in records
        for one in record.products
    ]
    blocks: list[Block] = [
        Heading(2, "The product itself"),
        "Microseconds of the product with A for 64 rows in one layer: weights *stacked* for each row, as mixed batches do; "
        "rows *grouped* by adapter for `torch.nn.functional.grouped_mm`; and adapter after adapter, *looped*.",
        TextTable(["model", "tokens", "adapters", *ways], rows),
    ]
    return blocks if rows else []
