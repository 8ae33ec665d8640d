"""The data of a plan for the terminal: a row for each split, with classes, repeats and lengths."""

from __future__ import annotations

from rich.box import SIMPLE_HEAD
from rich.table import Table
from rich.text import Text

from lora_bench.plan.describe_data import SAMPLE, DataFacts, SplitFacts

SHOWN_CLASSES = 8


def data_parts(facts: DataFacts) -> list[Table | Text]:
    """Two tables of a task's data, one of its examples and one of their lengths, and notes on them."""
    return [_examples(facts), _lengths(facts), *(Text(line, style="dim") for line in _notes(facts))]


def _table(title: str) -> Table:
    return Table(title=Text(title), title_justify="left", box=SIMPLE_HEAD, padding=(0, 1, 0, 0))


def _examples(facts: DataFacts) -> Table:
    table = _table(f"{facts.task}: data")
    table.add_column("split", no_wrap=True)
    table.add_column("examples", justify="right", no_wrap=True)
    table.add_column("labels", overflow="fold")
    for header in ("repeats", "in train"):
        table.add_column(header, justify="right", no_wrap=True)
    for name, split in facts.splits.items():
        in_train = f"{split.shared['train']:,}" if "train" in split.shared else "–"
        table.add_row(Text(name), f"{split.examples:,}", Text(_labels(split)), f"{split.repeated:,}", in_train)
    return table


def _lengths(facts: DataFacts) -> Table:
    table = _table(f"{facts.task}: lengths in tokens")
    table.add_column("base model", overflow="fold")
    table.add_column("split", no_wrap=True)
    for header in ("median", "longest", "cut"):
        table.add_column(header, justify="right", no_wrap=True)
    for lengths in facts.lengths:
        who = ", ".join(lengths.models)
        for name, split in lengths.splits.items():
            cut = f"{_share(split.cut_share)} at {lengths.max_length}"
            table.add_row(Text(who), Text(name), f"{split.median:,}", f"{split.longest:,}", cut)
            who = ""
    return table


def _share(share: float) -> str:
    return "none" if share == 0 else "<0.1%" if share < 0.001 else f"{share:.1%}"


def _labels(split: SplitFacts) -> str:
    if split.values is not None:
        low, mean, high = split.values
        return f"{low:g} to {high:g}, mean {mean:.3g}"
    if split.majority_share is None:
        return "texts"
    largest = max(split.classes, key=lambda name: split.classes[name])
    there = sum(number > 0 for number in split.classes.values())
    return f"{there} classes, {split.majority_share:.0%} {largest}"


def _notes(facts: DataFacts) -> list[str]:
    train = facts.splits["train"]
    notes = []
    if facts.tested is not None:
        notes.append(
            f"splits of the first fold; all seeds together test {facts.tested:,} examples, each a fold of its own"
        )
    if train.classes:
        ordered = sorted(train.classes.items(), key=lambda item: -item[1])
        shown = ", ".join(f"{name} {number:,}" for name, number in ordered[:SHOWN_CLASSES])
        more = f", and {len(ordered) - SHOWN_CLASSES} more" if len(ordered) > SHOWN_CLASSES else ""
        notes.append(f"classes of train: {shown}{more}")
    several = [f"{split.contradicting:,} of {name}" for name, split in facts.splits.items() if split.contradicting]
    if several:
        notes.append(f"texts that have several labels, which no model can tell apart: {', '.join(several)}")
    sampled = dict.fromkeys(
        name
        for lengths in facts.lengths
        for name, split in lengths.splits.items()
        if split.encoded < facts.splits[name].examples
    )
    if sampled:
        notes.append(f"median and cut are of {SAMPLE:,} examples drawn from {', '.join(sampled)}")
    return notes
