"""The page of `lora-bench probe fleet`: what one base model with many adapters costs, and for whom mixed batches pay."""

from collections.abc import Callable, Sequence
from pathlib import Path

from lora_bench.records.fleet_record import FleetRecord, FleetSpeed, FleetStorage, read_fleet
from lora_bench.report.blocks import Block, Commands, Heading, Lead, TextList, TextTable, to_markdown
from lora_bench.report.html import PageFacts, render_page
from lora_bench.report.text import (
    MISSING,
    code,
    count,
    listed,
    milliseconds,
    percent,
    plain,
    plural,
    rate,
    span,
    unmarked,
)

WAYS = ("mixed", "PEFT's", "by adapter", "one by one", "base", "merged")
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


def fleet_files(folder: Path, name: str) -> dict[str, bytes]:
    """Return the page of a folder's records as Markdown and HTML, by file name; nothing if there are none."""
    records = read_fleet(folder)
    if not records:
        return {}
    blocks = fleet_page(records)
    lead = next(block.text for block in blocks if isinstance(block, Lead))
    pages = {
        f"{name}.md": to_markdown(blocks),
        f"{name}.html": render_page(blocks, {}, PageFacts(description=unmarked(lead))),
    }
    return {file: page.encode("utf-8") for file, page in pages.items()}


def fleet_page(records: Sequence[FleetRecord]) -> list[Block]:
    """Return the page of records."""
    speeds = {record.model: record.speeds for record in records if record.speeds}
    environment = records[0].environment
    packages = environment.packages
    versions = ", ".join(
        f"{name} {plain(packages[name])}" for name in ("torch", "transformers", "peft") if name in packages
    )
    return [
        Heading(1, "A fleet of adapters on one base model"),
        Lead(_answer(speeds)),
        f"Measured on {code(environment.device or MISSING)} ({plain(environment.cpu or MISSING)}) with {versions}.",
        *_aims(records, speeds),
        *_gains(speeds),
        *_throughput(speeds),
        *_latency(records),
        *_storage({record.model: record.storage for record in records if record.storage is not None}),
        *_products(records),
        Heading(2, "How it was measured"),
        TextList(ABOUT),
        Commands(sorted({record.command for record in records})),
    ]


def _equal(speeds: Sequence[FleetSpeed], active: int | None = None) -> list[FleetSpeed]:
    """Return the batches of adapters of one rank, with so many adapters, or any number of them."""
    return [speed for speed in speeds if len(speed.ranks) == 1 and active in (None, speed.active)]


def _gain(speed: FleetSpeed, over: str) -> float:
    return speed.rows_per_second["mixed"] / speed.rows_per_second[over]


def _best_other(speed: FleetSpeed) -> float:
    """Return the gain over the fastest other way to answer several adapters."""
    others = [way for way in ("PEFT's", "by adapter", "one by one") if way in speed.rows_per_second]
    return min(_gain(speed, way) for way in others)


def _answer(speeds: dict[str, tuple[FleetSpeed, ...]]) -> str:
    """Say for whom mixed batches pay, and where their gain ends."""
    said = []
    for model, found in speeds.items():
        gains = {speed.tokens: _best_other(speed) for speed in _equal(found, AIMED)}
        if not gains:
            continue
        best = max(gains, key=gains.__getitem__)
        none = [tokens for tokens, gain in gains.items() if gain < NO_GAIN]
        ends = (
            f"nothing from {count(min(none))} tokens on"
            if none
            else f"still × {rate(min(gains.values()))} at the least"
        )
        said.append(f"{code(model)} gains × {rate(gains[best])} at {plural(best, 'token')} a row and {ends}")
    if not said:
        return "No speed is measured yet."
    gaining = [speed.active for found in speeds.values() for speed in _equal(found) if _best_other(speed) >= NO_GAIN]
    fewest = f", from {count(min(gaining))} adapters on" if gaining else ""
    return (
        f"Mixed batches pay where many adapters are served with few tokens a step, as in writing{fewest}. With {AIMED} "
        f"adapters, against the fastest other way, {'; '.join(said)}."
    )


def _met(met: bool) -> str:
    return "**met**" if met else "missed"


def _aims(records: Sequence[FleetRecord], speeds: dict[str, tuple[FleetSpeed, ...]]) -> list[Block]:
    """Return the aims, each with its figure."""
    rows = []
    for over, factor in (("one by one", 5.0), ("PEFT's", 2.0)):
        for model, found in speeds.items():
            gains = {speed.tokens: _gain(speed, over) for speed in _equal(found, AIMED)}
            reached = [count(tokens) for tokens, gain in gains.items() if gain >= factor]
            figures = ", ".join(f"× {rate(gain)}" for gain in gains.values())
            met = f"{_met(bool(reached))}{f' at {listed(reached)}' if reached else ''}"
            lengths = listed([count(tokens) for tokens in gains])
            rows.append(
                [
                    f"× {factor:g} the speed of {over}, {AIMED} adapters",
                    code(model),
                    f"{figures} at {lengths} tokens",
                    met,
                ]
            )
    for record in records:
        if (storage := record.storage) is not None:
            for place, held in (("in memory", storage.waiting_bytes), ("on the model", storage.layer_bytes)):
                more = held / storage.file_bytes - 1
                figure = f"{percent(more)} more than the file"
                rows.append(
                    [
                        f"an adapter {place} takes at most 10 % more than its file",
                        code(record.model),
                        figure,
                        _met(held <= 1.1 * storage.file_bytes),
                    ]
                )
    answers = [record.answers for record in records if record.answers is not None]
    if answers:
        asked, wrong = sum(found.rows for found in answers), sum(found.others for found in answers)
        largest = max(found.difference for found in answers)
        figure = f"{count(wrong)} of {count(asked)}; logits differ by {largest:.1g} at most"
        models = listed([code(record.model) for record in records if record.answers is not None])
        rows.append([f"no wrong answer in {count(WRONG_OF)}", models, figure, _met(wrong == 0 and asked >= WRONG_OF)])
    return [Heading(2, "Aims"), TextTable(["aim", "model", "figure", ""], rows, numbers_from=4)]


def _gains(speeds: dict[str, tuple[FleetSpeed, ...]]) -> list[Block]:
    """Return what mixing gains over the fastest other way, by tokens and adapters."""
    counts = sorted({speed.active for found in speeds.values() for speed in found})
    cells: dict[tuple[str, int], dict[int, str]] = {}
    for model, found in speeds.items():
        for speed in _equal(found):
            cells.setdefault((model, speed.tokens), {})[speed.active] = f"× {rate(_best_other(speed))}"
    rows = [
        [code(model), count(tokens), *(of.get(active, MISSING) for active in counts)]
        for (model, tokens), of in sorted(cells.items())
    ]
    return [
        Heading(2, "Gain over the fastest other way"),
        "That way is PEFT's own batch, `set_adapter` for the rows of each adapter, or for each row. Below × "
        f"{NO_GAIN:g} a batch gains nothing: of many tokens, because arithmetic bounds it; of few adapters, because the others "
        "have few products too.",
        TextTable(["model", "tokens", *(plural(active, "adapter") for active in counts)], rows),
    ]


def _throughput(speeds: dict[str, tuple[FleetSpeed, ...]]) -> list[Block]:
    """Return the rows a second of every way."""
    blocks: list[Block] = [Heading(2, "Rows a second")]
    for model, found in speeds.items():
        header = ["tokens", "adapters", *WAYS]
        ordered = sorted(found, key=lambda speed: (speed.tokens, speed.active, len(speed.ranks)))
        rows = [
            [
                count(speed.tokens),
                count(speed.active) + (f" of ranks {listed([*map(str, speed.ranks)])}" if len(speed.ranks) > 1 else ""),
                *(rate(speed.rows_per_second.get(way)) for way in WAYS),
            ]
            for speed in ordered
        ]
        largest = max(speed.difference["mixed"] for speed in found)
        others = sum(sum(speed.others.values()) for speed in found)
        blocks += [
            Heading(3, code(model)),
            TextTable(header, rows, numbers_from=0),
            f"Medians of {span(speed.rounds for speed in found)} rounds. Logits of mixed batches differ by {largest:.1g} at "
            f"most; {count(others)} rows in any way have another answer.",
        ]
    return blocks


def _latency(records: Sequence[FleetRecord]) -> list[Block]:
    """Return the quantiles of latency."""
    found = [record for record in records if record.latencies]
    blocks: list[Block] = [Heading(2, "Latency")] if found else []
    for record in found:
        cells: dict[tuple[str, float], dict[str, str]] = {}
        for one in record.latencies:
            quantiles = (one.p50, one.p90, one.p99)
            shown = "falls behind" if one.p50 is None else ", ".join(map(milliseconds, quantiles))
            cells.setdefault((one.traffic, one.share), {"rate": rate(one.arrivals_per_second)})[one.way] = shown
        ways = list(dict.fromkeys(one.way for one in record.latencies))
        rows = [
            [traffic, percent(share, 0), of["rate"], *(of.get(way, MISSING) for way in ways)]
            for (traffic, share), of in cells.items()
        ]
        others = sum(one.others for one in record.latencies)
        largest = max(one.difference for one in record.latencies)
        blocks += [
            Heading(3, f"{code(record.model)}, milliseconds: p50, p90, p99", listed=False),
            TextTable(["traffic", "of base speed", "arrivals a second", *ways], rows),
            f"Logits differ by {largest:.1g} at most; {count(others)} answers are wrong.",
        ]
    return blocks


def _storage(found: dict[str, FleetStorage]) -> list[Block]:
    """Return what an adapter costs in memory, to load, to swap, and at its first request."""
    if not found:
        return []
    some = next(iter(found.values()))
    facts: dict[str, Callable[[FleetStorage], str]] = {
        "bytes of the file": lambda one: count(one.file_bytes),
        "bytes of its tensors": lambda one: count(one.tensor_bytes),
        f"bytes of the process for one of {count(some.stored)} in memory": lambda one: count(one.waiting_bytes),
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
    rows = [[fact, *(of(one) for one in found.values())] for fact, of in facts.items()]
    rates: dict[int, list[str]] = {}
    for hit in sorted(some.hit_rates, key=lambda one: (one.slots, one.traffic)):
        rates.setdefault(hit.slots, [count(hit.slots)]).append(percent(hit.rate))
    return [
        Heading(2, "Stored adapters"),
        f"{count(some.stored)} adapters wait as tensors in memory, {count(some.slots)} are on the model. Times are "
        "milliseconds. A first request is of one row; it swaps, or loads and deletes, first.",
        TextTable(["", *map(code, found)], rows),
        "An adapter on the model is larger than its file by Python modules: PEFT gives each layer modules of its own for each "
        "adapter. Adapters that wait as tensors have none.",
        f"Requests whose adapter is on the model, of {count(some.stored)}, if the one not used for longest makes room:",
        TextTable(["adapters on the model", "uniform", "Zipf"], [*rates.values()], numbers_from=0),
    ]


def _products(records: Sequence[FleetRecord]) -> list[Block]:
    """Return the times of one product by the ways to compute it."""
    found = [(record.model, product) for record in records for product in record.products]
    if not found:
        return []
    ways = ("stacked", "grouped", "looped")
    rows = [
        [code(model), count(one.tokens), count(one.active), *(rate(one.seconds[way] * 1e6) for way in ways)]
        for model, one in found
    ]
    return [
        Heading(2, "The product itself"),
        "Microseconds of the product with A for 64 rows in one layer: weights *stacked* for each row, as mixed batches do; "
        "rows *grouped* by adapter for `torch.nn.functional.grouped_mm`; and adapter after adapter, *looped*.",
        TextTable(["model", "tokens", "adapters", *ways], rows),
    ]
