"""The page of `benchmarks.decisions`, from its runs: the answer first, then aims, scores, times and regret."""

from __future__ import annotations

import contextlib
import json
import math
import statistics
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from benchmarks.decision_rivals import RIVALS
from benchmarks.decision_tables import DEFAULTS
from lora_bench.records.store import has_records, read_records
from lora_bench.report.text import MISSING, inert, listed, plural, span
from lora_bench.report.text import table as markdown

CONTEST = Path(__file__).parents[1] / "baselines" / "contest"
# A share of busy cores beside which a run counts as disturbed; a machine at rest shows a few per cent.
BESIDE = 0.2
# A model within half a point of the best is as good; a run may take a tenth more than its minutes.
AS_GOOD, OVER = 0.5, 1.1
OURS = "try"
# The aims: a share of tables, points of regret, shares of runs whose regret is within the stated bound, and a small table.
MOST_TABLES, MOST_REGRET, BOUND = 0.9, 1.0, (0.85, 0.95)
FEW_ROWS, FEW_MINUTES = 300, 3.0
# Tables that an aim is measured on: all, those of `contest`, or some, where they are cut or other work runs beside.
ALL, OF_CONTEST, SOME = len(DEFAULTS), 9, 4
# Tables of which trials set the first learning rates of `try`.
TUNED = ("cola", "mrpc", "sst2", "tweets")
# Results of aims. Open: the tables that are not measured yet can decide it.
RESULTS = MET, MISSED, OPEN, NOT_MEASURED = "met", "**missed**", "open", "not measured"
# For each table that `try` read and another answered: the score of `try`, minus infinity if it wrote no model, and theirs.
Pairs = dict[str, tuple[float, dict[str, float]]]


@dataclass(frozen=True, kw_only=True)
class Run:
    """One line of `runs.jsonl`.

    Args:
        rows: Training rows that were asked for; None for as many as the table has.
        minutes: Given to a rival that reads them; None to the others.
        busy: Number of busy loops that ran beside it.
        score: Metric on the test rows, in points of 100; None if the rival did not answer, and *why* says so.
        seconds: From the start of the process to the model.
        load: Share of the cores that other processes kept busy before the start.
        chosen: Method of the model, of rivals that choose.
        compared: Methods that the rival chose from, if it says so.
        expected_loss: Stated loss of the chosen method to the best of these, in points of 100.
        at_most: Stated 90 % bound of that loss.
    """

    table: str
    rows: int | None
    rival: str
    minutes: float | None
    seed: int
    model: str
    busy: int = 0
    score: float | None = None
    metric: str = ""
    train_rows: int = 0
    test_rows: int = 0
    seconds: float | None = None
    cores: int = 0
    load: float = 0.0
    chosen: str | None = None
    compared: Sequence[str] = ()
    expected_loss: float | None = None
    at_most: float | None = None
    why: str = ""

    @property
    def key(self) -> tuple[Any, ...]:
        """What it is a run of."""
        return self.table, self.rows, self.rival, self.minutes, self.seed, self.busy, self.model

    @property
    def column(self) -> str:
        """The rival, with its minutes."""
        return self.rival if self.minutes is None else f"{self.rival}, {self.minutes:g} min"

    @property
    def in_time(self) -> bool:
        """True if it ended with a model within its minutes and a tenth."""
        return self.seconds is not None and self.minutes is not None and self.seconds <= 60 * OVER * self.minutes


def read_runs(file: Path) -> dict[tuple[Any, ...], Run]:
    """Return the last run of each kind; a line that a kill cut short is none."""
    found = {}
    for line in file.read_text(encoding="utf-8").splitlines() if file.is_file() else ():
        with contextlib.suppress(json.JSONDecodeError):
            run = Run(**json.loads(line))
            found[run.key] = run
    return found


def page(runs: Sequence[Run], out: Path = Path("reports/decisions")) -> list[str]:
    """Return the page of these runs, which have one base model; *out* is the folder that its command names."""
    lines = ["# A model from a table: `lora-bench try` beside what people use", ""]
    if not runs:
        return [*lines, "There are no runs yet.", ""]
    names = [*DEFAULTS, *(run.table for run in runs)]
    runs = sorted(runs, key=lambda run: ([*RIVALS].index(run.rival), -(run.minutes or 0.0), names.index(run.table)))
    quiet = [run for run in runs if not run.busy and run.rows is None]
    minutes = max((run.minutes for run in quiet if run.rival == OURS and run.minutes is not None), default=None)
    pairs = _pairs(quiet, minutes)
    aims = _aims(runs, minutes, pairs)
    counts = Counter(result.strip("*") for _, result, _ in aims)
    counted = ", ".join(f"{counts[result]} {result}" for result in (word.strip("*") for word in RESULTS))
    model, given = runs[0].model, "" if minutes is None else f" --minutes {minutes:g}"
    lines += [
        _headline([run for run in quiet if run.minutes in (minutes, None)], minutes, pairs), "",
        f"Of the [aims](#aims) set before, {counted}: the tables that are not measured yet can decide an open one.", "",
        "What was compared:", "", *(f"* `{name}`: {rival.about}." for name, rival in RIVALS.items()), "",
        "This command makes the page again, with the runs on whole tables that are missing, and those of another section "
        "with its `--rows` or `--busy`. `FOLDER` has the data.", "",
        f"    LORA_BENCH_SHARED=FOLDER python -m benchmarks.decisions{given} --model {model} --out {out.as_posix()}", "",
        "## Aims", "",
        "Regret is what the method that `try` chose loses to the best, by the longer runs of `contest` on the same rows.",
        "",
        *markdown(["aim", "result", "found"], aims, 3),
    ]  # fmt: skip
    for busy, rows in sorted({(run.busy, run.rows) for run in runs}, key=lambda kind: (kind[0], kind[1] or 0)):
        of_kind = [run for run in runs if (run.busy, run.rows) == (busy, rows)]
        beside = f", beside {plural(busy, 'busy loop')}" if busy else ""
        lines += ["", f"## {'Whole tables' if rows is None else f'Tables cut to {rows} rows'}{beside}"]
        lines += _scores(of_kind)
        for ours in dict.fromkeys(run.minutes for run in of_kind if run.rival == OURS):
            lines += _beside(of_kind, ours)
        lines += _times(of_kind)
        lines += _regret_table(of_kind) if not busy and rows is None else []
    return [*lines, ""]


def _headline(runs: Sequence[Run], minutes: float | None, pairs: Pairs) -> str:
    """Return what was compared and what came out, in words for a user."""
    said = "`lora-bench try` reads a table of labelled texts, compares methods and delivers a model."
    if not pairs:
        return f"{said} It is not yet compared with what people use: there are no runs of both on whole tables."
    trained, tested = (
        span([rows for rows in of if rows], "{:,}".format)
        for of in zip(*((run.train_rows, run.test_rows) for run in runs), strict=True)
    )
    timed = listed([f"`{name}`" for name in dict.fromkeys(run.rival for run in runs if run.minutes and run.score)])
    cores, near = span(run.cores for run in runs), _near(pairs)
    others = [close for name, close in near if name not in TUNED]
    tuned = [name for name, _ in near if name in TUNED]
    known = (
        f" The first learning rates of `try` were set by trials on the training rows of {listed(tuned)}, so these tables say "
        f"little of new ones{f'; on the others it is as near on {sum(others)} of {len(others)}' if others else ''}."
        if tuned
        else ""
    )
    return (
        f"{said} This page compares it with other tools {_on(len(pairs))}. All trained on the same {trained} rows of a table; "
        f"its {tested} test rows were kept from them. {timed} had {minutes:g} minutes on {cores} cores; the others took as "
        f"long as they need. All but `tf-idf` begin with the weights of `{runs[0].model}`. **{_close(pairs)}**{known} Scores "
        f"are in points of 100, intervals of 95 % of a mean over tables."
    )


def _means(runs: Sequence[Run]) -> dict[str, dict[str, float]]:
    """Return the mean score over seeds of each column that has one, by table."""
    scores: dict[str, dict[str, list[float]]] = {run.table: {} for run in runs}
    for run in runs:
        if run.score is not None:
            scores[run.table].setdefault(run.column, []).append(run.score)
    return {name: {column: statistics.mean(of) for column, of in found.items()} for name, found in scores.items()}


def _pairs(runs: Sequence[Run], minutes: float | None) -> Pairs:
    """Return the scores of `try` with so many minutes beside those of rivals with as many, or that read none."""
    runs = [run for run in runs if run.minutes in (minutes, None)]
    rivals, tried = {run.column: run.rival for run in runs}, {run.table for run in runs if run.rival == OURS}
    found = {}
    for name, scores in _means(runs).items():
        theirs = {rivals[column]: value for column, value in scores.items()}
        ours = theirs.pop(OURS, -math.inf)
        if name in tried and theirs:
            found[name] = ours, theirs
    return found


def _by_rival(pairs: Pairs) -> dict[str, list[tuple[float, float]]]:
    """Return the scores of `try` and of each rival on the tables that this one answered."""
    found = {name: [(ours, theirs[name]) for ours, theirs in pairs.values() if name in theirs] for name in RIVALS}
    return {name: both for name, both in found.items() if both}


def _near(pairs: Pairs) -> list[tuple[str, bool]]:
    """Return for each table whether `try` is as good as the best of the others."""
    return [(name, max(theirs.values()) - ours <= AS_GOOD) for name, (ours, theirs) in pairs.items()]


def _close(pairs: Pairs) -> str:
    near = [close for _, close in _near(pairs)]
    of = f"{sum(near)} of {plural(len(near), 'table')}"
    return f"The model of `try` is within {AS_GOOD} points of the best of the others, or better, on {of}."


def points(value: float | None) -> str:
    """Return a score or a difference."""
    return MISSING if value is None else f"{value:.1f}".replace("-", "−")


def _interval(values: Sequence[float]) -> tuple[float, float] | None:
    """Return the 95 % t interval of a mean; None for one value."""
    from scipy import stats

    if len(values) < 2:
        return None
    half = float(stats.t.ppf(0.975, len(values) - 1)) * statistics.stdev(values) / len(values) ** 0.5
    return statistics.mean(values) - half, statistics.mean(values) + half


def _shown(interval: tuple[float, float] | None) -> str:
    return MISSING if interval is None else f"{points(interval[0])} to {points(interval[1])}"


def _aims(runs: Sequence[Run], minutes: float | None, pairs: Pairs) -> list[list[str]]:
    """Return each aim, its result, and the numbers that say so; those on scores and regret are of whole tables."""
    ours = [run for run in runs if run.rival == OURS]
    every = [run for run in runs if (run.rows, run.busy) == (None, 0) and run.minutes in (minutes, None)]
    whole = [run for run in every if run.rival == OURS]
    regret = [(run.table, lost <= MOST_REGRET) for run, lost in _regrets(whole)]
    bound = [
        # Stored bounds have three digits.
        (run.table, lost <= run.at_most + 1e-3)
        for run, lost in _regrets(whole, among_compared=True)
        if run.at_most is not None
    ]
    quiet, busy = ([(run.table, run.in_time) for run in ours if bool(run.busy) is loops] for loops in (False, True))
    few = [
        (run.table, run.in_time and run.score is not None)
        for run in ours
        if (run.rows, run.busy, run.minutes) == (FEW_ROWS, 0, FEW_MINUTES)
    ]
    given = "" if minutes is None else f", in {minutes:g} minutes"
    # Also those that a rival could not answer.
    tables = {name: len({run.table for run in every if run.rival == name}) for name in RIVALS}
    near, rivals, in_time = _near(pairs), _by_rival(pairs), "ends with a model within its minutes and a tenth"
    return [
        [f"within {AS_GOOD} points of the best of the others on 9 of 10 tables{given}", *_share(near, MOST_TABLES)],
        *(
            [f"mean score above that of `{name}`", *_above(rivals.get(name, []), ALL - tables[name])]
            for name in RIVALS
            if name != OURS
        ),
        [
            f"regret of its method to the best of `contest` at most {MOST_REGRET:g} point on 9 of 10 tables",
            *_share(regret, MOST_TABLES, tables=OF_CONTEST),
        ],
        [
            "regret to the others that `try` compared at most the stated 90 % bound on 85 to 95 %",
            *_share(bound, *BOUND, OF_CONTEST),
        ],
        [f"{in_time}, without busy loops", *_share(quiet)],
        [f"{in_time}, beside busy loops", *_share(busy, tables=SOME)],
        [f"{FEW_ROWS} rows: answers within {FEW_MINUTES:g} minutes and a tenth", *_share(few, tables=SOME)],
    ]


def _share(found: Sequence[tuple[str, bool]], least: float = 1.0, most: float = 1.0, tables: int = ALL) -> list[str]:
    """Return the result of an aim for the share of runs where it holds, given with their tables, and its numbers."""
    if not found:
        return [NOT_MEASURED, MISSING]
    number, hits, seen = len(found), sum(holds for _, holds in found), len({name for name, _ in found})
    lacking = max(tables - seen, 0)
    # What the share can become: none of the lacking tables adds a hit, or all do.
    worst, best = hits / (number + lacking), (hits + lacking) / (number + lacking)
    result = MISSED if best < least or worst > most else MET if least <= worst and best <= most else OPEN
    of = plural(number, "table") if number == seen else f"{plural(number, 'run')}, {_on(seen)}"
    return [result, f"{hits} of {of}{_lacking(seen, tables)}"]


def _above(both: Sequence[tuple[float, float]], lacking: int) -> list[str]:
    """Return the result of the aim to have the better mean, and its numbers; a table without a model of ours misses it."""
    if not both:
        return [NOT_MEASURED, MISSING]
    gaps = [ours - theirs for ours, theirs in both if ours > -math.inf]
    lost, interval = len(both) - len(gaps), _interval(gaps)
    said = f"{points(statistics.mean(gaps))} ({_shown(interval)}) {_on(len(gaps))}" if gaps else MISSING
    said += f", no model {_on(lost)}" if lost else ""
    shown = interval is not None and interval[0] > 0
    result = MISSED if lost else OPEN if lacking else MET if shown else MISSED
    return [result, said + _lacking(ALL - lacking)]


def _on(tables: int) -> str:
    return f"on {plural(tables, 'table')}"


def _lacking(seen: int, tables: int = ALL) -> str:
    """Return words on the tables that are not measured; "" if all are."""
    return f" ({tables - seen} of {tables} not measured)" if seen < tables else ""


def _scores(runs: Sequence[Run]) -> list[str]:
    columns, metrics = [*dict.fromkeys(run.column for run in runs)], {run.table: run.metric for run in runs}
    rows = [
        [name, metrics[name], *(points(found.get(column)) for column in columns)]
        for name, found in _means(runs).items()
    ]
    missing = Counter((run.column, run.why) for run in runs if run.score is None)
    without = [
        f"Without a score: {column} on {plural(number, 'table')}: {inert(why)}"
        for (column, why), number in missing.items()
    ]
    lines = ["", "### Score of the delivered model", "", *markdown(["table", "metric", *columns], rows, 2)]
    return [*lines, *(line for one in without for line in ("", one))]


def _beside(runs: Sequence[Run], minutes: float | None) -> list[str]:
    """Return how far `try` is from the best of the others and from each, where both answered."""
    pairs = _pairs(runs, minutes)
    if not pairs:
        return []
    gaps = {
        name: [ours - theirs for ours, theirs in both if ours > -math.inf] for name, both in _by_rival(pairs).items()
    }
    rows = [[name, str(len(of)), points(statistics.mean(of)), _shown(_interval(of))] for name, of in gaps.items() if of]
    header = ["less", "tables", "mean difference", "interval"]
    return ["", f"### {OURS}, {minutes:g} min, beside the others", "", _close(pairs), "", *markdown(header, rows)]


def _times(runs: Sequence[Run]) -> list[str]:
    """Return a table of the minutes from the start to the model; a run of each seed has its own number."""
    columns, cells = (
        [*dict.fromkeys(run.column for run in runs)],
        {run.table: defaultdict[str, list[str]](list) for run in runs},
    )
    for run in runs:
        cells[run.table][run.column].append(_minutes(run))
    rows = [[name, *(", ".join(found[column]) or MISSING for column in columns)] for name, found in cells.items()]
    said = (
        f"Minutes from the start to the model, on {span(run.cores for run in runs)} cores. Late: more than a tenth over the "
        f"minutes given. Busy: other processes used over {BESIDE:.0%} of the cores before the start."
    )
    return ["", "### Time", "", said, "", *markdown(["table", *columns], rows)]


def _minutes(run: Run) -> str:
    if run.seconds is None:
        return "no model" if run.rival == OURS else MISSING
    late = run.minutes is not None and not run.in_time
    return f"{run.seconds / 60:.1f}{' late' if late else ''}{' busy' if run.load > BESIDE else ''}"


def _regrets(runs: Sequence[Run], *, among_compared: bool = False) -> list[tuple[Run, float]]:
    """Return what the chosen methods lose to the best by the runs of `contest`, where these are committed.

    The best is that of all methods, or of those that `try` compared. A run without a model lost everything.
    """
    found = []
    for run in runs:
        scores = _contest(run.model).get(run.table, {})
        if run.rival != OURS or not scores or (run.chosen is not None and run.chosen not in scores):
            continue
        best = max(
            (value for label, value in scores.items() if not among_compared or label in run.compared), default=0.0
        )
        found.append((run, math.inf if run.chosen is None else best - scores[run.chosen]))
    return found


@cache
def _contest(model: str) -> dict[str, dict[str, float]]:
    """Return the mean scores of the methods of `contest` with a base model, by table."""
    scores: dict[str, dict[str, list[float]]] = {}
    for record in read_records(CONTEST) if has_records(CONTEST) else ():
        spec = record.spec
        if spec.score_on == "test" and record.judged_score is not None and spec.model.name == model:
            of_task = scores.setdefault(spec.task.name.removesuffix("_1000"), {})
            of_task.setdefault(spec.method.label, []).append(100 * record.judged_score)
    return {name: {label: statistics.mean(of) for label, of in found.items()} for name, found in scores.items()}


def _regret_table(runs: Sequence[Run]) -> list[str]:
    rows = [
        [run.column, run.table, str(run.chosen), points(regret), points(run.expected_loss), points(run.at_most)]
        for run, regret in _regrets(runs)
        if run.chosen is not None
    ]
    header = ["run", "table", "method", "regret", "stated", "stated at most"]
    return ["", "### Regret of the adopted method", "", *markdown(header, rows, 3)] if rows else []
