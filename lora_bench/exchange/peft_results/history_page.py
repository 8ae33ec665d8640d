"""The page on PEFT's own benchmark over time: scores of one configuration by date, and the standard error of its test set.

A configuration has one run a date, with one seed. Only results that name the card of the newest one are shown, and only those
with the settings of the newest one, as far as both files say them. Software, PEFT's script and the data's commits may differ.
"""

from __future__ import annotations

import itertools
import math
import statistics
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from pydantic import JsonValue

from lora_bench.records.record import Record
from lora_bench.report.text import MISSING, code, inert, natural, plural, table, wide_table

TEST_ITEMS = {"MetaMathQA": 1319}  # the test split of GSM8K

_SOURCE = (
    "Scores are those of the result files in the folder `method_comparison` of "
    "[huggingface/peft](https://github.com/huggingface/peft) (Apache-2.0), at the date on which they were published. Made by "
    "`lora-bench import peft-results peft/method_comparison --history`."
)

_TURNS = (
    "**The order of these two changes between dates, always by less than two standard errors: single runs do not rank "
    "them.**"
)


@dataclass(frozen=True)
class Configuration:
    """One experiment and its comparable results by date."""

    label: str
    by_date: Mapping[str, Record]

    def percent(self, date: str) -> float:
        """Return the score at a date, in percent."""
        return 100 * (self.by_date[date].score or 0.0)


def history_lines(records: Sequence[Record]) -> list[str]:
    """Return the page as lines of GitHub Markdown, with a section for each task whose test set has a known size."""
    lines = ["# PEFT's method_comparison over time", "", _SOURCE]
    for task, items in TEST_ITEMS.items():
        of_task = [record for record in records if record.spec.task.name == task]
        configs, left_out = configurations(of_task)
        dates = common_dates(configs)
        if len(dates) < 2:
            lines += ["", f"## {task}", "", "No two dates have comparable results of the same configurations."]
            continue
        lines += ["", f"## {task}", *_pair(configs, dates, items), *_all(configs, dates, items), *_left_out(left_out)]
    return lines


def configurations(records: Sequence[Record]) -> tuple[list[Configuration], Counter[str]]:
    """Return the experiments with their comparable results, and the numbers of results that are left out, by reason."""
    by_label: dict[str, list[Record]] = {}
    left_out: Counter[str] = Counter()
    for record in records:
        if record.status != "ok" or record.score is None:
            left_out["without a score"] += 1
        elif record.environment is None or record.environment.device is None:
            left_out["that do not name their card"] += 1
        else:
            by_label.setdefault(record.spec.method.label, []).append(record)
    configs = []
    for label, group in sorted(by_label.items(), key=lambda pair: natural(pair[0])):
        group.sort(key=lambda record: record.spec.series or "")
        kept = [record for record in group if _comparable(record, group[-1])]
        left_out["with other settings or another card"] += len(group) - len(kept)
        configs.append(Configuration(label, {record.spec.series or "": record for record in kept}))
    return configs, +left_out


def common_dates(configs: Sequence[Configuration]) -> list[str]:
    """Return the dates with at least a third of the results of the fullest one, in order; lone results do not count."""
    counts = Counter(date for config in configs if len(config.by_date) > 1 for date in config.by_date)
    most = max(counts.values(), default=0)
    return sorted(date for date, count in counts.items() if 3 * count >= most)


def _comparable(record: Record, newest: Record) -> bool:
    """Tell if two results differ in their date and software alone, as far as both files say."""
    spec, last = record.spec, newest.spec
    return (
        (record.environment and record.environment.device) == (newest.environment and newest.environment.device)
        and (spec.seed, spec.model.name) == (last.seed, last.model.name)
        and _agree(spec.method.options, last.method.options)
        and _agree(spec.training.model_dump(mode="json"), last.training.model_dump(mode="json"))
    )


def _agree(first: JsonValue, second: JsonValue) -> bool:
    """Tell if two values are equal where both say something."""
    if isinstance(first, dict) and isinstance(second, dict):
        return all(_agree(first[key], second[key]) for key in first.keys() & second.keys())
    return first is None or second is None or first == second


def standard_error(percent: float, items: int) -> float:
    """Return the standard error of a share of right answers, in points."""
    share = percent / 100
    return 100 * math.sqrt(share * (1 - share) / items)


def _pair(configs: Sequence[Configuration], dates: Sequence[str], items: int) -> list[str]:
    """Full fine-tuning and plain LoRA at each date; nothing if one of them has no result at each."""
    everywhere = _everywhere(configs, dates)
    full = [config for config in everywhere if _newest(config).spec.method.name == "full"]
    loras = [config for config in everywhere if _newest(config).spec.method.options.get("type") == "LORA"]
    if not full or not loras:
        return []
    tuned, lora = full[0], min(loras, key=lambda config: (len(config.label), natural(config.label)))
    gaps = [tuned.percent(date) - lora.percent(date) for date in dates]
    errors = [standard_error(configuration.percent(dates[-1]), items) for configuration in (tuned, lora)]
    turns = min(gaps) < 0 < max(gaps) and max(map(abs, gaps)) < 2 * math.hypot(*errors)
    differences = ", ".join(f"{_signed(gap)} points at {date}" for date, gap in zip(dates, gaps, strict=True))
    rows = []
    for date, gap in zip(dates, gaps, strict=True):
        cells = [
            f"{configuration.percent(date):.1f} ± {standard_error(configuration.percent(date), items):.1f}"
            for configuration in (tuned, lora)
        ]
        rows.append(
            [
                date,
                *cells,
                _signed(gap),
                *(_version(tuned.by_date[date], name) for name in ("torch", "transformers", "peft")),
            ]
        )
    shared = _newest(tuned)
    return [
        *(["", _TURNS] if turns else []),
        "",
        f"{code(tuned.label)} against {code(lora.label)}: {differences}. One run each, with the same configuration, "
        f"seed ({shared.spec.seed}) and card ({inert(_device(shared))}) at all dates.",
        "",
        *table(["date", code(tuned.label), code(lora.label), "difference", "torch", "transformers", "peft"], rows),
        "",
        f"- Scores are in percent, ± the standard error that the {items:,} questions of the test set leave.",
        f"- The standard error of a difference is {math.hypot(*errors):.1f} points if the right answers of two runs are "
        "unrelated, and less if they are right on the same questions, which the files do not tell.",
        "- Software differs between the dates, and PEFT's own script may. The files name "
        f"{plural(_data(tuned, dates), 'state')} of the data sets.",
    ]


def _data(config: Configuration, dates: Sequence[str]) -> int:
    """Count the different states of the data sets that the files name, by the sets' commits."""
    return len({config.by_date[date].spec.task.data_sha256 for date in dates})


def _all(configs: Sequence[Configuration], dates: Sequence[str], items: int) -> list[str]:
    """Return all configurations with a result at each date, and how much their order and their scores moved."""
    rows = sorted(_everywhere(configs, dates), key=lambda config: -config.percent(dates[-1]))
    if len(rows) < 3:
        return []
    places = {
        date: {
            config.label: 1 + sum(other.percent(date) > config.percent(date) for other in rows) for config in rows
        }
        for date in dates
    }  # fmt: skip
    pairs = [[a.percent(date) - b.percent(date) for date in dates] for a, b in itertools.combinations(rows, 2)]
    turned = [gaps for gaps in pairs if min(gaps) < 0 < max(gaps)]
    error = math.sqrt(2) * standard_error(50, items)
    within = sum(max(map(abs, gaps)) < 2 * error for gaps in turned)
    moved = [
        _moved(first, second, [config.percent(second) - config.percent(first) for config in rows])
        for first, second in itertools.pairwise(dates)
    ]
    widest = [max(map(config.percent, dates)) - min(map(config.percent, dates)) for config in rows]
    listed = [
        [
            code(config.label),
            *(f"{config.percent(date):.1f}" for date in dates),
            *(str(places[date][config.label]) for date in dates),
        ]
        for config in rows
    ]  # fmt: skip
    header = ["configuration", *(f"accuracy {date}" for date in dates), *(f"place {date}" for date in dates)]
    return [
        "",
        f"### The {plural(len(rows), 'configuration')} with a result at each of these dates",
        "",
        f"- Of {plural(len(pairs), 'pair')}, {len(turned)} are in another order at one date than at another, {within} of them "
        f"without ever differing by two standard errors of a difference ({2 * error:.1f} points at 50 %).",
        f"- A configuration's highest and lowest score differ by {statistics.median(widest):.1f} points (median), and by up to "
        f"{max(widest):.1f}.",
        *moved,
        "",
        *wide_table(header, listed, names=1),
    ]


def _moved(first: str, second: str, changes: Sequence[float]) -> str:
    return (
        f"- From {first} to {second} the scores moved by {_signed(statistics.fmean(changes))} points on average, and "
        f"apart from that by a standard deviation of {statistics.stdev(changes):.1f}."
    )


def _everywhere(configs: Sequence[Configuration], dates: Sequence[str]) -> list[Configuration]:
    return [config for config in configs if all(date in config.by_date for date in dates)]


def _newest(config: Configuration) -> Record:
    return config.by_date[max(config.by_date)]


def _device(record: Record) -> str:
    return (record.environment and record.environment.device) or MISSING


def _version(record: Record, package: str) -> str:
    packages = record.environment.packages if record.environment is not None else {}
    return inert(packages.get(package, MISSING).split(" ")[0])


def _left_out(left_out: Mapping[str, int]) -> list[str]:
    if not left_out:
        return []
    reasons = ", ".join(f"{count:,} {reason}" for reason, count in sorted(left_out.items()))
    return ["", f"Results left out: {reasons}."]


def _signed(points: float) -> str:
    return f"{points:+.1f}".replace("-", "−")
