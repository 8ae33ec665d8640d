"""The model to ship after a comparison: the chosen method trained on nearly all rows, in a folder of its own.

    runs of the suite → find_winner → a suite of that method alone, 98 % of the rows to train → its run → OUT

It trains as long as the runs of the comparison did, in epochs; where most of these were ended by their cap, up to
`MOST_LONGER` times as long, if the time allows. Nothing is left to test it on: the score of the few rows that a
run must have is shown nowhere. Its card has that of the comparison: of the same settings, trained on fewer rows, on rows they
had not seen.
"""

import math
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import yaml

from lora_bench.documents import read_yaml
from lora_bench.errors import BadInput, LoraBenchError
from lora_bench.execute.options import RunOptions
from lora_bench.execute.progress import Display, duration
from lora_bench.execute.run_suite import run_suite
from lora_bench.plan.cell import Cell
from lora_bench.plan.make_plan import Plan, make_plan
from lora_bench.records.environment import usable_cores
from lora_bench.records.outcomes import OUT_OF_TIME
from lora_bench.records.record import Record
from lora_bench.records.suite_about import FINAL
from lora_bench.report import text
from lora_bench.suite.load_suite import load_suite
from lora_bench.tasks.declaration import Task, task_from_definition
from lora_bench.training.job import Event
from lora_bench.training.kept_task import kept_model
from lora_bench.training.winner import Winner, copy_winner, find_winner, merge_winner, share_winner
from lora_bench.util.atomic_files import write_atomic
from lora_bench.util.signals import CODES, Stopped

# Rows left out of training, for the splits that a run must have: a share, and at least so many.
LEFT_OUT, LEAST_ROWS = 0.01, 12
# Keys of a split that stay, without and with those that keep rows together.
_APART = ("stratify",)
_TOGETHER = ("by", "before", "phrases", *_APART)
# One run trains alone; of more threads a small model gains nothing.
MOST_THREADS = 8
# Times the epochs of runs that reached no plateau, and the share of the time left to plan for.
MOST_LONGER, USED_SHARE = 2.0, 0.85
# Scores without a rise that end no run.
ENDLESS = 1_000_000


class _WithoutScores(Display):
    """Shows what another display does, without the scores of the runs."""

    def __init__(self, display: Display) -> None:
        self._display = display

    def say(self, message: str) -> None:
        self._display.say(message)

    def planned(self, plan: Plan, cells: list[Cell], workers: int) -> None:
        self._display.planned(plan, cells, workers)

    def event(self, event: Event) -> None:
        self._display.event(event)

    def finished(self, record: Record) -> None:
        self._display.finished(record.model_copy(update={"scores": None}))


def train_final(file: Path, runs: Path, out: Path, display: Display, seconds: float | None = None) -> str:
    """Train the chosen method of a suite of one table on nearly all rows, write the model to *out*, and say so in a sentence.

    `NAME-final.yaml` is written beside the suite's file. *runs* is the folder of the runs of all suites. After *seconds*, if
    any, the run is stopped and nothing is written to *out*; the sentence says so, and the same call goes on with the run.
    Raise LoraBenchError if the runs have no winner, *out* exists, or the run failed. Raise Stopped if a signal stopped the run,
    as above.
    """
    suite = load_suite(file)
    # An edited suite has left other runs beside its own.
    own = {cell.job.run_id for cell in make_plan(suite, runs / suite.name).cells}
    winner = find_winner(runs / suite.name, among=own)
    chosen = winner.row.label
    if out.exists():
        there = kept_model(out)
        of = "another model" if there is None else f"a model of {there.spec.method.label}"
        raise LoraBenchError(f"{out} is there already, {of}; delete it to train one of {chosen} on nearly all rows")
    examples, needed = _examples(winner), likely_seconds(winner)
    late = f"the time is over before {chosen} was trained on nearly all rows; the same command goes on with that"
    if seconds is not None and seconds <= 0:
        return late
    name = f"{suite.name}{FINAL}"
    final = file.with_name(f"{name}.yaml")
    said = f"# Written by lora-bench: the method that {file.name} chose, on nearly all rows.\n"
    # Few groups of rows may leave a small split empty, and then rows are dealt out one by one: no score is made of them.
    for keys in (_TOGETHER, _APART):
        content = _final(read_yaml(file).data, winner, name, keys)
        begun = _most_examples(final, content) if (runs / name).exists() else None
        longer = _lengthen(content, _longer(winner, needed, seconds), begun)
        write_atomic(final, (said + yaml.safe_dump(content, sort_keys=False, allow_unicode=True)).encode("utf-8"))
        try:
            plan = make_plan(load_suite(final), runs / name)
            break
        except BadInput:
            if keys == _APART:
                raise
    why = "as the runs of the comparison, most of which reached no plateau"
    more = f", for {longer:.1f} times as many epochs {why}" if longer > 1 else ""
    left = "" if seconds is None or seconds >= needed else f", of which {duration(seconds)} are left in this command"
    display.say(f"now the model {out}: {chosen} on nearly all rows{more}, about {duration(longer * needed)}{left}")
    score = winner.row.score
    assert score is not None
    expected = f"{winner.record.spec.task.metric} {winner.expected}"
    (cell,) = plan.cells
    note = (
        f"Trained on nearly all rows{more}. The same settings on {examples['train'] / sum(examples.values()):.0%} of the "
        f"rows had a mean {expected} over {text.plural(score.n, 'seed')} on rows that they had not seen."
    )
    write_atomic(cell.job.folder.note, note.encode("utf-8"))
    options = RunOptions(runs=runs, minutes=None if seconds is None else seconds / 60)
    outcome = run_suite(load_suite(final), options, display=_WithoutScores(display))
    if outcome.interrupted in CODES:
        raise Stopped(outcome.interrupted)
    if outcome.interrupted == OUT_OF_TIME and not outcome.records:
        return late
    (record,) = outcome.records
    if record.status != "ok":
        raise LoraBenchError(f"the run on all rows ended as {record.status}: {record.reason or 'stopped'}")
    _write(find_winner(outcome.folder, chosen, among={record.run_id}), out)
    return f"model: {out}, {chosen} on nearly all rows; expect {expected} on new rows like these"


def likely_seconds(winner: Winner) -> float:
    """Return the time that the training of a winner on all rows takes, by the slowest run of its method; 0 if none tells it."""
    examples, speeds = _examples(winner), [record.speed for record in winner.row.records]
    return max(
        (
            (one.load_seconds or 0.0)
            + (one.evaluation_seconds or 0.0)
            + (one.train_seconds or 0.0) * sum(examples.values()) / examples["train"]
            for one in speeds
            if one is not None
        ),
        default=0.0,
    )


def _longer(winner: Winner, needed: float, seconds: float | None) -> float:
    """Return how many times as many epochs as the runs of the comparison fit *seconds*; 1 where most reached a plateau."""
    capped = [record.plateau is not None and record.plateau.by == "cap" for record in winner.row.records]
    if seconds is None or not needed or 2 * sum(capped) <= len(capped):
        return 1.0
    return min(max(math.floor(10 * USED_SHARE * seconds / needed) / 10, 1.0), MOST_LONGER)


def _most_examples(file: Path, content: Mapping[str, Any]) -> int | None:
    """Return the most examples of the run that *file* planned; None if it is another than that of *content*."""
    try:
        there = read_yaml(file).data
        most = there["budget"]["train_examples"]["at_most"]
    except (LoraBenchError, OSError, LookupError, TypeError):
        return None
    same = isinstance(most, int) and {**there, "budget": content["budget"]} == content
    return most if same else None


def _lengthen(content: Mapping[str, Any], longer: float, begun: int | None) -> float:
    """Plan *longer* times as many epochs until a plateau, or as many as a run that has *begun*; return how many times."""
    work = content["budget"]["train_examples"]
    if not isinstance(work, dict):
        return 1.0
    once, work["at_most"] = work["at_most"], begun or round(longer * work["at_most"])
    return float(work["at_most"] / once)


def _write(winner: Winner, out: Path) -> None:
    """Write a model as one folder: merged where that gives the same answers, else base model and adapter."""
    if winner.tuner is None:
        copy_winner(winner, out)
        return
    try:
        merge_winner(winner, out)
    except LoraBenchError:
        share_winner(winner, out)


def _final(suite: Mapping[str, Any], winner: Winner, name: str, keys: Collection[str]) -> dict[str, Any]:
    """Return the suite of a winner's method alone, on nearly all rows, for as many epochs. The *keys* of its split stay."""
    spec = winner.spec
    examples, done = _examples(winner), winner.record.speed
    assert done is not None and done.train_examples is not None, "its work is in examples"
    entries = [entry for entry in suite["tasks"] if isinstance(entry, dict) and entry.get("task") == spec.task.name]
    if not entries:
        raise LoraBenchError(f"{spec.task.name} is no table of the suite, so no model of all its rows is trained")
    task, rows = _on_nearly_all_rows(entries[0], task_from_definition(spec.task.definition), examples, keys)
    methods = [entry if isinstance(entry, dict) else {"method": entry} for entry in suite["methods"]]
    chosen = next(one for one in methods if winner.row.label in (one.get("label"), one["method"]))
    work: Any = round(done.train_examples / examples["train"] * rows)
    if spec.training.plateau is not None:
        # The shape of the rate that it was compared with: constant, then a decay. It ends where those runs ended.
        work = {"until": "plateau", "at_most": work, "patience": ENDLESS, "decay": spec.training.plateau.decay}
    return {
        "suite": name,
        "tasks": [task],
        "models": [one for one in suite["models"] if spec.model.name in (one, isinstance(one, dict) and one["model"])],
        "methods": [{**chosen, "learning_rate": spec.training.learning_rate}],
        "seeds": [spec.seed],
        "budget": {"train_examples": work},
        "training": {**suite.get("training", {}), "threads": min(usable_cores(), MOST_THREADS)},
        "keep_weights": "last",
    }


def _examples(winner: Winner) -> dict[str, int]:
    data = winner.record.data
    assert data is not None, "a run with a score has data"
    return data.examples


def _on_nearly_all_rows(
    entry: Mapping[str, Any], task: Task, examples: Mapping[str, int], keys: Collection[str]
) -> tuple[dict[str, Any], int]:
    """Return a task with nearly all rows to train, and their number. Splits in own files and the *keys* of its split stay."""
    own = {part for part in ("selection", "test") if getattr(task.data, part) is not None}
    dealt = {part: number for part, number in examples.items() if part not in own}
    rows = sum(dealt.values())
    left = round(max(LEFT_OUT, LEAST_ROWS / rows), 4)
    shares = {part: left for part in ("selection", "test") if part not in own}
    if not own:
        shares["train"] = round(1 - 2 * left, 4)
    kept = {key: value for key, value in (entry.get("split") or {}).items() if key in keys}
    return {**entry, **({"split": {**kept, **shares}} if shares else {})}, round(rows * (1 - left * (2 - len(own))))
