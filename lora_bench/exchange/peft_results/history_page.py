"""The page on PEFT's own benchmark over time: scores of one configuration by date, and the standard error of its test set.

A configuration has one run a date, with one seed. Only results that name the card of the newest one are shown, and only those
with the settings of the newest one, as far as both files say them. Software, PEFT's script and the data's commits may differ.
"""

import itertools
import math
import statistics
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from pydantic import JsonValue

from lora_bench.records.record import Record
from lora_bench.report.blocks import Block, Heading, Lead, TextList, TextTable, wide_table
from lora_bench.report.model.rows import grouped
from lora_bench.report.text import MISSING, code, inert, natural, plural

TEST_ITEMS = {"MetaMathQA": 1319}  # the test split of GSM8K

_SOURCE = (
    "Scores are those of the result files in the folder `method_comparison` of "
    "[huggingface/peft](https://github.com/huggingface/peft) (Apache-2.0), at the date on which they were published. Made by "
    "`lora-bench import peft-results peft/method_comparison --history`."
)

_TURNS = (
    "The order of these two changes between dates, always by less than two standard errors: single runs do not rank "
    "them."
)


@dataclass(frozen=True)
class Configuration:
    """One experiment and its comparable results by date."""

    label: str
    by_date: Mapping[str, Record]

    def percent(self, date: str) -> float:
        """Return the score at a date, in percent."""
        return 100 * (self.by_date[date].score or 0.0)


def history_page(records: Sequence[Record]) -> list[Block]:
    """Return the page, with a section for each task whose test set has a known size."""
    blocks: list[Block] = [Heading(1, "PEFT's method_comparison over time"), _SOURCE]
    for task, items in TEST_ITEMS.items():
        of_task = [record for record in records if record.spec.task.name == task]
        found, left_out = configurations(of_task)
        dates = common_dates(found)
        if len(dates) < 2:
            blocks += [Heading(2, task), "No two dates have comparable results of the same configurations."]
            continue
        blocks += [Heading(2, task), *_pair(found, dates, items), *_all(found, dates, items)]
        said = ", ".join(f"{count:,} {reason}" for reason, count in sorted(left_out.items()))
        blocks += [f"Results left out: {said}."] if said else []
    return blocks


def configurations(records: Sequence[Record]) -> tuple[list[Configuration], Counter[str]]:
    """Return the experiments with their comparable results, and the numbers of results that are left out, by reason."""
    scored = [record for record in records if record.status == "ok" and record.score is not None]
    known = [record for record in scored if record.environment is not None and record.environment.device is not None]
    left_out = Counter(
        {"without a score": len(records) - len(scored), "that do not name their card": len(scored) - len(known)}
    )
    found = []
    by_label = grouped(known, lambda record: record.spec.method.label)
    for label, group in sorted(by_label.items(), key=lambda pair: natural(pair[0])):
        group.sort(key=lambda record: record.spec.series or "")
        kept = [record for record in group if _comparable(record, group[-1])]
        left_out["with other settings or another card"] += len(group) - len(kept)
        found.append(Configuration(label, {record.spec.series or "": record for record in kept}))
    return found, +left_out


def common_dates(found: Sequence[Configuration]) -> list[str]:
    """Return the dates with at least a third of the results of the fullest one, in order; lone results do not count."""
    counts = Counter(date for one in found if len(one.by_date) > 1 for date in one.by_date)
    most = max(counts.values(), default=0)
    return sorted(date for date, count in counts.items() if 3 * count >= most)


def _comparable(record: Record, newest: Record) -> bool:
    """Tell if two results differ in their date and software alone, as far as both files say."""
    one, other = record.spec, newest.spec
    return (
        (record.environment and record.environment.device) == (newest.environment and newest.environment.device)
        and (one.seed, one.model.name) == (other.seed, other.model.name)
        and _agree(one.method.options, other.method.options)
        and _agree(one.training.model_dump(mode="json"), other.training.model_dump(mode="json"))
    )


def _agree(one: JsonValue, other: JsonValue) -> bool:
    """Tell if two values are equal where both say something."""
    if isinstance(one, dict) and isinstance(other, dict):
        return all(_agree(one[key], other[key]) for key in one.keys() & other.keys())
    return one is None or other is None or one == other


def standard_error(percent: float, items: int) -> float:
    """Return the standard error of a share of right answers, in points."""
    share = percent / 100
    return 100 * math.sqrt(share * (1 - share) / items)


def _pair(found: Sequence[Configuration], dates: Sequence[str], items: int) -> list[Block]:
    """Return full fine-tuning and plain LoRA at each date; nothing if one of them has no result at each."""
    everywhere = _everywhere(found, dates)
    full = [one for one in everywhere if _newest(one).spec.method.name == "full"]
    loras = [one for one in everywhere if _newest(one).spec.method.options.get("type") == "LORA"]
    if not full or not loras:
        return []
    one, other = full[0], min(loras, key=lambda configuration: (len(configuration.label), natural(configuration.label)))
    gaps = [one.percent(date) - other.percent(date) for date in dates]
    errors = [standard_error(configuration.percent(dates[-1]), items) for configuration in (one, other)]
    turns = min(gaps) < 0 < max(gaps) and max(map(abs, gaps)) < 2 * math.hypot(*errors)
    said = ", ".join(f"{_signed(gap)} points at {date}" for date, gap in zip(dates, gaps, strict=True))
    rows = []
    for date, gap in zip(dates, gaps, strict=True):
        cells = [
            f"{configuration.percent(date):.1f} ± {standard_error(configuration.percent(date), items):.1f}"
            for configuration in (one, other)
        ]
        versions = [_version(one.by_date[date], name) for name in ("torch", "transformers", "peft")]
        rows.append([date, *cells, _signed(gap), *versions])
    shared = _newest(one)
    card = shared.environment.device if shared.environment is not None else None
    states = {one.by_date[date].spec.task.data_sha256 for date in dates}  # of the data sets, by their commits
    return [
        *([Lead(_TURNS)] if turns else []),
        f"{code(one.label)} against {code(other.label)}: {said}. One run each, with the same configuration, "
        f"seed ({shared.spec.seed}) and card ({inert(card or MISSING)}) at all dates.",
        TextTable(["date", code(one.label), code(other.label), "difference", "torch", "transformers", "peft"], rows),
        TextList(
            [
                f"Scores are in percent, ± the standard error that the {items:,} questions of the test set leave.",
                f"The standard error of a difference is {math.hypot(*errors):.1f} points if the right answers of two runs are "
                "unrelated, and less if they are right on the same questions, which the files do not tell.",
                "Software differs between the dates, and PEFT's own script may. The files name "
                f"{plural(len(states), 'state')} of the data sets.",
            ]
        ),
    ]


def _all(found: Sequence[Configuration], dates: Sequence[str], items: int) -> list[Block]:
    """Return all configurations with a result at each date, and how much their order and their scores moved."""
    rows = sorted(_everywhere(found, dates), key=lambda one: -one.percent(dates[-1]))
    if len(rows) < 3:
        return []

    def place(one: Configuration, date: str) -> int:
        return 1 + sum(other.percent(date) > one.percent(date) for other in rows)

    pairs = [
        [one.percent(date) - other.percent(date) for date in dates] for one, other in itertools.combinations(rows, 2)
    ]
    turned = [gaps for gaps in pairs if min(gaps) < 0 < max(gaps)]
    error = math.sqrt(2) * standard_error(50, items)
    within = sum(max(map(abs, gaps)) < 2 * error for gaps in turned)
    moved = [
        _moved(first, second, [one.percent(second) - one.percent(first) for one in rows])
        for first, second in itertools.pairwise(dates)
    ]
    widest = [max(map(one.percent, dates)) - min(map(one.percent, dates)) for one in rows]
    listed = [
        [code(one.label), *(f"{one.percent(date):.1f}" for date in dates), *(f"{place(one, date)}" for date in dates)]
        for one in rows
    ]
    header = ["configuration", *(f"accuracy {date}" for date in dates), *(f"place {date}" for date in dates)]
    return [
        Heading(3, f"The {plural(len(rows), 'configuration')} with a result at each of these dates"),
        TextList(
            [
                f"Of {plural(len(pairs), 'pair')}, {len(turned)} are in another order at one date than at another, {within} of "
                f"them without ever differing by two standard errors of a difference ({2 * error:.1f} points at 50 %).",
                f"A configuration's highest and lowest score differ by {statistics.median(widest):.1f} points (median), and by "
                f"up to {max(widest):.1f}.",
                *moved,
            ]
        ),
        *wide_table(header, listed, names=1),
    ]


def _moved(first: str, second: str, changes: Sequence[float]) -> str:
    return (
        f"From {first} to {second} the scores moved by {_signed(statistics.fmean(changes))} points on average, and "
        f"apart from that by a standard deviation of {statistics.stdev(changes):.1f}."
    )


def _everywhere(found: Sequence[Configuration], dates: Sequence[str]) -> list[Configuration]:
    return [one for one in found if all(date in one.by_date for date in dates)]


def _newest(one: Configuration) -> Record:
    return one.by_date[max(one.by_date)]


def _version(record: Record, package: str) -> str:
    packages = record.environment.packages if record.environment is not None else {}
    return inert(packages.get(package, MISSING).split(" ")[0])


def _signed(points: float) -> str:
    return f"{points:+.1f}".replace("-", "−")
