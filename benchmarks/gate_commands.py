"""Nights and pull requests of which the truth is known, through the commands: stored records, `check` and `baseline accept`.

    python -m benchmarks.gate_commands              the tables of docs/error-rates.md; half an hour of one CPU core
    python -m benchmarks.gate_commands --quick      seconds: shows that it runs

`gate_simulation` and `against_simulation` try the rules in thousands of nights and checks, this what a user types. Records
are as runs leave them, with drawn scores: a nightly suite of twelve series with three seeds, of which one run in a hundred
collapses, and checks of four series. New seeds of a suspect series lie where `check` would have them run.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass, field
from io import StringIO
from pathlib import Path

import numpy as np

from benchmarks.against_simulation import RUN as POINTS
from benchmarks.gate_simulation import Draw, collapsing
from lora_bench.cli.parser import main as lora_bench
from lora_bench.gate.baseline import CONFIRMATION
from lora_bench.records.record import Record
from lora_bench.records.sealed_records import to_json
from lora_bench.stats.gate import CONFIRMATIONS, FEWEST_NIGHTS
from tests.sample_records import METHODS, record

TASKS = ("vader_film", "vader_tweets", "vader_news")
SERIES = tuple((task, method) for task in TASKS for method in METHODS)
# Standard deviation of a run, of accuracy: that of small models on SST-2.
SD = POINTS / 100
HUNDRED = collapsing(0.01, 20.0)
NIGHTS, REQUESTS, QUICK = 600, 200, (12, 3)
# A night's own scores with a loss in one series, tried beside every so many nights and never accepted.
TRIED, LOSSES = 6, (2.0, 3.0)
# Margin in points, seeds: of four series.
CHECKS = ((1.0, 5), (1.0, 10), (1.5, 5))

Series = tuple[str, str]


def runs_of(folder: Path, series: Series, scores: Sequence[float], label: str | None = None) -> None:
    """Write the runs of a series with these scores, one seed after the other, as `lora-bench run` leaves them."""
    task, method = series
    for seed, score in enumerate(scores):
        made: Record = record(
            method, score=score, seed=seed, task=task, suite="tickets",
            command="lora-bench run tickets", spec={"series": label},
        )  # fmt: skip
        (folder / made.run_id).mkdir(parents=True)
        (folder / made.run_id / "record.json").write_bytes(to_json(made))


@dataclass(frozen=True)
class Said:
    """What a command said: its exit code, and the answer."""

    code: int
    series: Mapping[Series, Mapping[str, object]]


def said(*arguments: str) -> Said:
    """Run `lora-bench check` and read its answer."""
    with redirect_stdout(StringIO()), redirect_stderr(StringIO()) as errors:
        code = lora_bench(["check", *arguments, "--json", "answer.json"])
    if code not in (0, 1, 4):
        raise RuntimeError(f"check {' '.join(arguments)} ended with {code}: {errors.getvalue()}")
    found = json.loads(Path("answer.json").read_text(encoding="utf-8"))["series"]
    return Said(code, {(one["name"]["task"], one["name"]["method"]): one for one in found})


@dataclass
class Nightly:
    """A nightly suite with its baseline, in the working folder.

    Args:
        generator: Draws scores.
        draw: Their law, in standard deviations of a run.
        tried: For each loss, how many nights were tried with it, and in how many it was a regression.
    """

    generator: np.random.Generator
    draw: Draw = HUNDRED
    tried: dict[float, list[int]] = field(default_factory=lambda: {loss: [0, 0] for loss in LOSSES})

    def scores(self) -> dict[Series, list[float]]:
        """Draw the scores of a night."""
        drawn = 0.8 + SD * self.draw(self.generator, (len(SERIES), 3))
        return dict(zip(SERIES, drawn.tolist(), strict=True))

    def checked(self, label: str, scores: Mapping[Series, Sequence[float]], loss: float = 0.0) -> int:
        """Check a night as CI does, with new seeds for what is suspect, and return the exit code.

        *loss* is taken from the first series, in its own seeds and in new ones.
        """
        shutil.rmtree("runs", ignore_errors=True)
        lower = {SERIES[0]: loss * SD}
        for series, drawn in scores.items():
            runs_of(Path("runs/tickets", label), series, [score - lower.get(series, 0.0) for score in drawn], label)
        found = said("runs/tickets", "--baseline", "gate", "--series", label, "--no-confirm")
        for number in range(1, CONFIRMATIONS + 1):
            suspects = [series for series, one in found.series.items() if one["suspect"]]
            if not suspects:
                break
            again, new = f"{label}{CONFIRMATION * number}", self.scores()
            for series in suspects:
                repeated = [score - lower.get(series, 0.0) for score in new[series]]
                runs_of(Path("runs/tickets", again), series, repeated, again)
            found = said("runs/tickets", "--baseline", "gate", "--series", label, "--no-confirm")
        return found.code

    def night(self, number: int) -> int:
        """Check a night, and accept it unless it is a regression; return the exit code."""
        label, scores = f"night-{number}", self.scores()
        if number > FEWEST_NIGHTS and number % TRIED == 0:
            for loss, counts in self.tried.items():
                counts[0] += 1
                counts[1] += self.checked(f"{label}-{loss:g}", scores, loss) == 1
        code = self.checked(label, scores)
        if code != 1:
            accept = ["baseline", "accept", "runs/tickets", "--name", "gate", "--series", label, "--reason", "passed"]
            with redirect_stdout(StringIO()), redirect_stderr(StringIO()):
                lora_bench(accept)
        return code


def nightly_lines(nights: int) -> Iterator[str]:
    """How many nights of an unchanged system are red, and how many losses are found the same night."""
    with working_folder():
        nightly = Nightly(np.random.default_rng(600))
        codes = []
        for number in range(1, nights + 1):
            codes.append(nightly.night(number))
            if number % 50 == 0:
                print(f"{number} nights, {codes.count(1)} red, {nightly.tried}", file=sys.stderr, flush=True)
        accepted = len([*Path("baselines/gate/nights").iterdir()])
    yield "| nights | regression | accepted | 2 SD found | 3 SD found |"
    yield "| ---: | ---: | ---: | ---: | ---: |"
    found = " | ".join(f"{hits} of {tried}" for tried, hits in nightly.tried.values())
    yield f"| {nights} | {codes.count(1)} | {accepted} | {found} |"


def request_lines(requests: int) -> Iterator[str]:
    """How many pull requests pass, and in how many a series that lost the margin does."""
    yield "| margin, points | seeds | harmless: pass | fail | one series lost the margin: it passes |"
    yield "| ---: | ---: | ---: | ---: | ---: |"
    for margin, seeds in CHECKS:
        generator = np.random.default_rng([int(10 * margin), seeds, requests])
        codes, missed = [], 0
        for _ in range(requests):
            codes.append(request(generator, seeds, margin, 0.0).code)
            missed += request(generator, seeds, margin, margin).series[SERIES[0]]["status"] == "pass"
        yield f"| {margin} | {seeds} | {codes.count(0) / requests:.1%} | {codes.count(1)} | {missed / requests:.1%} |"


def request(generator: np.random.Generator, seeds: int, margin: float, loss: float) -> Said:
    """Check a pull request of four series, of which the first loses so many points."""
    with working_folder():
        for name, lost in (("before", 0.0), ("now", loss)):
            for index, series in enumerate(SERIES[: len(METHODS)]):
                scores = 0.8 + SD * generator.standard_normal(seeds) - (lost / 100 if index == 0 else 0.0)
                runs_of(Path(name), series, scores.tolist())
        return said("now", "--against", "before", "--margin", str(margin / 100))


@contextmanager
def working_folder() -> Iterator[None]:
    """Work in an empty folder for a while."""
    before = Path.cwd()
    with tempfile.TemporaryDirectory() as place:
        os.chdir(place)
        try:
            yield
        finally:
            os.chdir(before)


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--table", choices=("nights", "requests"), help="print this one alone")
    options = parser.parse_args(arguments)
    nights, requests = QUICK if options.quick else (NIGHTS, REQUESTS)
    tables = {"requests": request_lines(requests), "nights": nightly_lines(nights)}
    for name, lines in tables.items():
        if options.table in (None, name):
            print(*lines, "", sep="\n", flush=True)


if __name__ == "__main__":
    main()
