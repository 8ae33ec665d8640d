"""Suites whose runs depend on the records of others: trials, a halving, starts from another task's runs, and added seeds."""

import csv
from pathlib import Path

from tests.project import SUITE, write_project

TRIALS = SUITE.replace(
    "[full, lora, bottleneck_adapter, prefix_tuning]",
    "[{method: lora, learning_rate: [1e-2, 1e-3]}, {method: full, learning_rate: [1e-3, 1e-4]}]",
).replace("seeds: [0]", "seeds: [0, 1]\ntuning: {seeds: [100, 101], extend: false}")

EXTENDED = (
    TRIALS.replace("tuning: {seeds: [100, 101], extend: false}", "tuning: {}")
    .replace("[1e-2, 1e-3]", "[1e-2, 3e-3, 1e-3]")
    .replace("[1e-3, 1e-4]", "[1e-3, 3e-4, 1e-4]")
)

PACKS = TRIALS + "training: {masks: keyed}\n"

HALVING = SUITE.replace(
    "[full, lora, bottleneck_adapter, prefix_tuning]",
    "[{method: lora, learning_rate: {low: 1e-4, high: 1e-2}}, {method: full, learning_rate: {low: 1e-5, high: 1e-3}}]",
).replace(
    "budget: {train_examples: 48}",
    "budget: {trials: 4, train_examples: 96}\ntuning: {seeds: [100], halving: 3, extend: false}",
)

STARTS = """\
suite: tickets
tasks:
  - {task: urgency, data: urgency.csv, text: subject, label: urgency}
  - {task: tickets, data: tickets.csv, text: subject, label: queue}
models: [base]
methods: [{method: lora, learning_rate: [1e-2, 1e-3]}, {method: full, learning_rate: 1e-3}]
seeds: [0, 1]
tuning: {seeds: [100]}
budget: {train_examples: 48}
recipes:
  - {tasks: tickets, start: urgency}
"""

SEEDS = SUITE.replace(
    "[full, lora, bottleneck_adapter, prefix_tuning]",
    "[full, {method: lora, learning_rate: [1e-2, 1e-3]}, bottleneck_adapter, prefix_tuning]",
).replace("seeds: [0]", "seeds: {until: decided, at_least: 4, at_most: 8}\ntuning: {seeds: [100]}")

SUITES = {"trials": TRIALS, "extended": EXTENDED, "halving": HALVING, "starts": STARTS, "packs": PACKS, "seeds": SEEDS}


def write_choosing(folder: Path, suite: str) -> Path:
    """A project with the data of both tasks; the path of its suite."""
    path = write_project(folder, suite)
    words = {"low": "lovely", "middle": "quite", "high": "awful"}
    with (folder / "urgency.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["subject", "urgency"])
        writer.writerows([f"the film was {words[label]} and very {n % 7}", label] for n in range(90) for label in words)
    return path
