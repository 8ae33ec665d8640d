"""The suite of a table, as much of it as fits into some minutes on this machine.

The plan of a first draft tells what each method costs, by arithmetic and, where a caller can do some steps, by the clock. From
that comes the first of `DESIGNS` that fits: methods are compared by runs that are likely to reach a plateau, so less time
leaves fewer rates, seeds and methods, and then shorter runs. All seeds are counted, also those that a decided method will not
need. From `FOLDS` seeds on each tests a fold of its own, unless the table names its test rows.
"""

import os
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from lora_bench.errors import BadInput, LoraBenchError
from lora_bench.plan.cost_estimate import bfloat16_gain, default_workers
from lora_bench.plan.make_plan import Plan, make_plan
from lora_bench.records.environment import cuda_devices
from lora_bench.stats.rates import half
from lora_bench.suite.from_table import BATCH, FOLDS, MOST_RATES, TRIAL_SEEDS, Draft, may_fold, rates_of, shares_of
from lora_bench.suite.load_suite import Suite, load_suite
from lora_bench.tasks import load_data
from lora_bench.tasks.look import TableFacts

DEFAULT_MODEL = "minilm-l6-roberta"
# Models of more weights need smaller learning rates.
SMALL_MODEL = 60_000_000
PROBED_EXAMPLES = 1_600
# The share of the time to plan for, by arithmetic and by the clock. Beside its runs, a command takes three times as long as the
# plan of a draft, on any machine.
USED_SHARE, USED_SHARE_MEASURED, TIMES_DRAFT = 0.85, 0.95, 3
# The model on all rows is trained alone, on every core, and each run of a comparison on one: so many times as fast, or more.
GAIN_ALONE = 1.3
# Steps that teach even a small table, and the most that its rows come round.
ENOUGH_STEPS, MOST_EPOCHS = 200, 20
# In so many steps, or epochs of a small table, most scores stop rising: the middle run of the suite `contest` ended after 680,
# and by step 200 its selection scores were 1 to 11 points lower. A search or a seed more gains about one.
PLATEAU_STEPS, PLATEAU_EPOCHS = 600, 6
# Seeds of one test split in place of `FOLDS` folds: the fewest that are more than exploratory.
UNFOLDED = 6
# Fewer examples than these teach a method too little to be judged by.
LEAST_EXAMPLES = 640
# A smaller gain of bfloat16 is not worth its rounding.
LEAST_GAIN = 1.15
# The least methods that are worth comparing, where time is short.
FEWEST = ("full", "lora_all", "linear_probe")
# Methods whose steps are measured, the second for all but the first: for so long by arithmetic, within bounds, and at
# most for a share of the minutes.
MEASURED = ("full", "lora_all")
MEASURED_SECONDS, FEWEST_BATCHES, MOST_BATCHES, MEASURED_SHARE = 8.0, 24, 60, 0.1

# Does runs of a suite of a table of so many rows in some seconds; returns how many times its estimate each method takes.
Measure = Callable[[Suite, int, float], Mapping[str, float]]


@dataclass(frozen=True)
class Design:
    """How much is compared: seeds of each method, learning rates that each tries, and epochs of a run, all at most."""

    seeds: int
    rates: int
    epochs: int = 12

    @property
    def runs(self) -> int:
        """Number of runs of a method, trials included."""
        if self.rates < MOST_RATES:
            return self.seeds + (self.rates if self.rates > 1 else 0)
        tried = self.rates + 1  # one more, as the best may be at an edge
        return self.seeds + tried + half(tried) * (len(TRIAL_SEEDS) - 1)

    def folds_of(self, seen: TableFacts) -> int | None:
        """Return the number of folds of a table, one for each seed; None for one test split."""
        return self.seeds if self.seeds >= FOLDS and self.seeds != UNFOLDED and may_fold(seen, self.seeds) else None

    def on(self, seen: TableFacts) -> "Design":
        """Return the design for a table, which has a seed more where `FOLDS` seeds share one test split."""
        return replace(self, seeds=UNFOLDED) if self.seeds == FOLDS and not may_fold(seen, FOLDS) else self


# The best first.
DESIGNS = (Design(10, 3), Design(FOLDS, 3), Design(FOLDS, 2), Design(FOLDS, 1), Design(3, 1), Design(2, 1))
SHORTEST = Design(1, 1)


def draft_suite(
    seen: TableFacts,
    folder: Path,
    *,
    model: str = DEFAULT_MODEL,
    minutes: float = 10.0,
    measure: Measure | None = None,
) -> Draft:
    """Return a suite of a table that takes about some minutes on this machine, with the training of the chosen method.

    *folder* is that of its file. Without *measure* arithmetic alone tells what a run costs. Raise BadInput with every fault of
    the data or the base model; LoraBenchError if no method fits the base model, or the minutes are too few for any comparison.
    """
    begun = time.monotonic()
    methods = tuple(rates_of(large=False))
    draft = Draft(
        seen, model, methods, 1, 1, PROBED_EXAMPLES, plateau=True, large=False, minutes=minutes,
        bfloat16_gain=worthwhile_bfloat16(),
    )  # fmt: skip
    plan = _plan_of(draft, folder)
    counts = {cell.job.spec.method.label: cell.fit.parameters for cell in plan.cells if cell.reason is None}
    known = {label: count for label, count in counts.items() if count is not None}
    if not known:
        reasons = "; ".join(sorted({cell.fit.reason or "" for cell in plan.cells}))
        raise LoraBenchError(f"no method can train {model}: {reasons}")
    around = TIMES_DRAFT * (time.monotonic() - begun)
    measuring = time.monotonic()
    costs = _Costs(plan, seen, {} if measure is None else _slowdowns(draft, plan, folder, measure))
    measured_seconds = time.monotonic() - measuring
    around += measured_seconds
    seconds = 60 * minutes - around
    found = costs.fit([tuple(known), tuple(label for label in FEWEST if label in known) or tuple(known)], seconds)
    if found is None:
        needed = (costs.least(tuple(known)) / costs.used_share + around) / 60
        raise LoraBenchError(
            f"{minutes:g} minutes are too few to compare methods on {seen.file}: this machine takes about "
            f"{max(needed, 0.1):.1f} for the least that is worth reading; give them with --minutes, or a smaller --model"
        )
    labels, design, examples, plateau = found
    chosen = replace(
        draft,
        methods=labels,
        rates=design.rates,
        seeds=design.seeds,
        train_examples=examples,
        plateau=plateau,
        large=any(count.total > SMALL_MODEL for count in known.values()),
        final_seconds=costs.final(labels, design, examples),
        measured_seconds=measured_seconds,
        slowdowns=costs.slowdowns,
        folds=design.folds_of(seen),
    )
    return chosen if chosen.folds is None or _deals_out(chosen, folder) else replace(chosen, folds=None)


def worthwhile_bfloat16() -> float | None:
    """Return how many times as fast this machine trains in bfloat16; None on a GPU, or if that is not worth its rounding."""
    gain = 1.0 if cuda_devices() else bfloat16_gain()
    return gain if gain >= LEAST_GAIN else None


class _Costs:
    """Times of designs on this machine for a table, by the plan of a draft of `PROBED_EXAMPLES`."""

    def __init__(self, plan: Plan, seen: TableFacts, slowdowns: Mapping[str, float]) -> None:
        self._seen = seen
        self.used_share = USED_SHARE_MEASURED if slowdowns else USED_SHARE
        others = max((slowdowns[label] for label in MEASURED[1:] if label in slowdowns), default=1.0)
        self.slowdowns = {label: slowdowns.get(label, others) for label in _seconds_of(plan)}
        self._of_run: Mapping[str, float] = {
            label: seconds * self.slowdowns[label] for label, seconds in _seconds_of(plan).items()
        }
        # A frozen base model reads each row once, however often it comes round.
        self._frozen = {
            cell.job.spec.method.label
            for cell in plan.cells
            if cell.fit.parameters is not None and cell.fit.parameters.adapter == 0
        }
        self._workers = default_workers([cell.estimate for cell in plan.cells], plan.suite.content.training.threads)

    def fit(
        self, choices: Sequence[tuple[str, ...]], seconds: float
    ) -> tuple[tuple[str, ...], Design, int, bool] | None:
        """Return the methods, the design, the examples of a run, and if it is to end at a plateau; None if nothing fits.

        The first design is taken whose runs are likely to reach one, else shorter runs of the fewest methods.
        """
        for labels in choices:
            for design in (one.on(self._seen) for one in DESIGNS):
                examples = self._in(seconds, labels, design)
                if examples >= min(self._to_plateau(design), self._most(design)):
                    return labels, design, examples, True
        examples = self._in(seconds, choices[-1], SHORTEST)
        plateau = examples >= self._to_plateau(SHORTEST)
        enough = examples >= min(LEAST_EXAMPLES, self._most(SHORTEST))
        return (choices[-1], SHORTEST, examples, plateau) if enough else None

    def least(self, labels: tuple[str, ...]) -> float:
        """Return the time of the least that is worth reading."""
        fewest = tuple(label for label in FEWEST if label in labels) or labels
        return self._seconds(fewest, SHORTEST, min(LEAST_EXAMPLES, self._most(SHORTEST)))

    def _in(self, seconds: float, labels: Sequence[str], design: Design) -> int:
        """Return the examples of a run with which a design takes so long, in whole batches and at most its epochs."""
        most, fixed = self._most(design), self._seconds(labels, design, 0)
        share = (seconds * self.used_share - fixed) / (self._seconds(labels, design, most) - fixed)
        return max(0, min(most, int(share * most) // BATCH * BATCH))

    def _to_plateau(self, design: Design) -> int:
        """Return the examples in which a run is likely to reach a plateau."""
        return self._at_least_some(min(PLATEAU_STEPS * BATCH, self._epochs(design, PLATEAU_EPOCHS)), design)

    def _most(self, design: Design) -> int:
        """Return the examples of a run at most."""
        return self._at_least_some(self._epochs(design, design.epochs), design)

    def _at_least_some(self, examples: int, design: Design) -> int:
        enough = min(ENOUGH_STEPS * BATCH, self._epochs(design, MOST_EPOCHS))
        return -(-max(examples, enough) // BATCH) * BATCH

    def _epochs(self, design: Design, epochs: int) -> int:
        return epochs * int(self._seen.rows * self._train_share(design))

    def _train_share(self, design: Design) -> float:
        """Return the share of the rows that a run is trained on."""
        folds, (train, selection, _) = design.folds_of(self._seen), shares_of(self._seen.rows)
        return train if folds is None else 1 - 1 / folds - selection

    def _seconds(self, labels: Sequence[str], design: Design, examples: int) -> float:
        """Return the time of all runs, and of one of the costliest method on all rows."""
        of_run = [
            self._of_run[label] * (1 if label in self._frozen else examples / PROBED_EXAMPLES) for label in labels
        ]
        # The costliest run cannot be shared.
        return max(sum(of_run) * design.runs / self._workers, *of_run) + self.final(labels, design, examples)

    def final(self, labels: Sequence[str], design: Design, examples: int) -> float:
        """Return the time of a run of the costliest method on all rows, for as many epochs."""
        costliest = max(self._of_run[label] for label in labels)
        alone = costliest * examples / PROBED_EXAMPLES / self._train_share(design)
        return alone / GAIN_ALONE if self._workers > 1 else alone


def _seconds_of(plan: Plan) -> dict[str, float]:
    return {cell.job.spec.method.label: cell.estimate.seconds for cell in plan.cells}


def _slowdowns(draft: Draft, plan: Plan, folder: Path, measure: Measure) -> Mapping[str, float]:
    """Measure runs of a draft of some steps."""
    seconds = {label: of_run for label, of_run in _seconds_of(plan).items() if label in MEASURED and of_run > 0}
    if not seconds:
        return {}
    batches = round(MEASURED_SECONDS / max(seconds.values()) * PROBED_EXAMPLES / BATCH)
    examples = BATCH * min(max(batches, FEWEST_BATCHES), MOST_BATCHES)
    few = replace(draft, methods=tuple(seconds), train_examples=examples, plateau=False)
    with _written(few, folder) as path:
        return measure(load_suite(path), draft.seen.rows, MEASURED_SHARE * 60 * draft.minutes)


def _plan_of(draft: Draft, folder: Path) -> Plan:
    """Return the plan of a draft, as if there were no records."""
    with _written(draft, folder) as path, tempfile.TemporaryDirectory() as elsewhere:
        return make_plan(load_suite(path), Path(elsewhere) / "runs")


def _deals_out(draft: Draft, folder: Path) -> bool:
    """Tell if every fold of a draft has rows: few groups may all be in others."""
    with _written(draft, folder) as path:
        ((task, base),) = load_suite(path).tasks
        try:
            load_data(task, base)
        except BadInput:
            return False
        return True


@contextmanager
def _written(draft: Draft, folder: Path) -> Iterator[Path]:
    """Write a draft to a file that lies where the suite will, so that paths in it lead to the same places."""
    handle, path = tempfile.mkstemp(prefix=f".{draft.name}-", suffix=".yaml", dir=folder)
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(draft.text(folder))
        yield Path(path)
    except BadInput as error:
        # The file is gone when the user reads its name.
        own = Path(path).name
        raise BadInput(
            replace(fault, file=None, line=None) if fault.file is not None and Path(fault.file).name == own else fault
            for fault in error.faults
        ) from None
    finally:
        Path(path).unlink()
