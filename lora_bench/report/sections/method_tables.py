"""The tables of a report: the rows of a comparison, with the marks that the footnotes explain."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from lora_bench.records.budget import amount_of
from lora_bench.records.record import Record
from lora_bench.report import text
from lora_bench.report.blocks import MOST_COLUMNS, Block, Heading, TextTable, wide_table
from lora_bench.report.model.comparison import OF_ROWS, TARGETS, Comparison, ModelTable, Setting, rows_of, work_of
from lora_bench.report.model.rows import Row, grouped, in_order, total_of, unique
from lora_bench.report.model.searches import best_rates
from lora_bench.report.text import MISSING, code, count, inert
from lora_bench.stats.verdict import FEWEST_FOR_INTERVAL

EXEMPT, SHARED, SEVERAL, RESUMED = "†", "‡", "§", "¶"
OF_RESUMED = f"{RESUMED} The runs went on from a checkpoint, and the number is of the part after it."
WORDS = "*words alone*"
NO_REASON = "no reason was recorded"

# More names than this are counted.
MOST_NAMES = 3


@dataclass(frozen=True)
class TableColumn:
    """A column of the table of scores: its head, and the text of a row's cell.

    A cell of the "method" stands beside a failure too. With *words* the score of words alone stands in it.
    """

    heading: str
    cell: Callable[[Row], str]
    of: Literal["method", "runs"] = "runs"
    words: bool = False


def score_table(table: ModelTable, setting: Setting, judged: Sequence[TableColumn] = ()) -> list[TextTable]:
    """Return the table of scores of each method of a base model, with *judged* beside it. Failures are rows too."""
    own = _own(setting)
    failed = TableColumn("failed", lambda row: str(len(row.failures)))
    columns = [*_scores(setting), *judged, failed]
    if setting.scores_alone:
        columns = [one for one in columns if {one.cell(row) for row in table.rows} - {MISSING, "0"}]
    return _split(table, own, columns, failures=True)


def word_model_score(rows: Sequence[Row]) -> float | None:
    """Return the score of words alone on the data of some rows, if they have one in common."""
    return unique(row.word_model_score for row in rows)


def cost_tables(table: ModelTable, setting: Setting, costs: Sequence[TableColumn] = ()) -> list[TextTable]:
    """Return the costs of the runs of each method of a base model, with *costs* beside them."""
    return _split(table, _own(setting), [*_measured(table), *costs])


def _split(
    table: ModelTable, own: Sequence[TableColumn], columns: Sequence[TableColumn], failures: bool = False
) -> list[TextTable]:
    room = MOST_COLUMNS - len(own)
    return [
        _rows(table, [*own, *columns[start : start + room]], failures=failures and start == 0)
        for start in range(0, len(columns), room)
    ]


def _rows(table: ModelTable, columns: Sequence[TableColumn], *, failures: bool) -> TextTable:
    lines = []
    place = next((index for index, column in enumerate(columns) if column.of == "runs"), len(columns))
    for row in table.rows:
        if row.ok or not failures:
            lines.append([column.cell(row) for column in columns])
        if failures:
            beside_failure = [column.cell(row) if column.of == "method" else MISSING for column in columns]
            for reason in _failure_cells(row.failures):
                lines.append([*beside_failure[:place], reason, *beside_failure[place + 1 :]])
    alone = word_model_score(table.rows)
    if alone is not None and any(column.words for column in columns):
        lines.append([WORDS, *(text.score(alone) if column.words else MISSING for column in columns[1:])])
    return TextTable([column.heading for column in columns], lines)


def _own(setting: Setting) -> list[TableColumn]:
    rate = TableColumn("learning rate", lambda row: text.learning_rate(row.learning_rate), "method")
    return [TableColumn("method", method_name, "method"), *([rate] if setting.search else [])]


def _scores(setting: Setting) -> list[TableColumn]:
    def median(row: Row) -> str:
        return text.score(None if row.score is None else row.score.median)

    def mean_and_sd(row: Row) -> str:
        if row.score is None:
            return MISSING
        return text.score(row.score.mean) + (f" ± {text.score(row.score.sd)}" if row.score.sd is not None else "")

    def number(row: Row) -> str:
        scored, every = len(row.scores), len(row.run_ids)
        return count(scored) if scored == every else f"{scored} of {every}"

    return [
        *([TableColumn("median", median)] if setting.by_median else []),
        TableColumn(f"{metric_name(setting)}, mean ± SD", mean_and_sd, words=True),
        TableColumn("95 % interval", interval),
        TableColumn("n", number),
        TableColumn("less majority", lambda row: text.difference(row.above_majority)),
    ]


def _measured(table: ModelTable) -> list[TableColumn]:
    kinds = {row.measured.memory_kind for row in table.rows} - {None}
    kind = f" ({', '.join(filter(None, kinds))})" if len(kinds) == 1 else ""

    def peak(row: Row) -> str:
        shown = text.mebibytes(row.train_peak_bytes)
        return f"{shown} {row.memory_kind}" if len(kinds) > 1 and row.memory_kind is not None else shown

    def marked(shown: Callable[[Row], str]) -> Callable[[Row], str]:
        return lambda row: found if (found := shown(row.measured)).startswith(MISSING) else found + _mark(row)

    return [
        TableColumn(f"peak memory, MiB{kind}", marked(peak)),
        TableColumn("step, ms", marked(lambda row: text.milliseconds(row.step_seconds))),
        TableColumn("examples/s", marked(lambda row: text.rate(row.examples_per_second))),
    ]


def learning_rate_table(setting: Setting) -> list[Block]:
    """Return mean scores of a search: a line a method and base model, a column a learning rate, the best of a line in bold."""
    rates = sorted({row.learning_rate for row in setting.rows}, key=in_order)
    lines = []
    for table in setting.tables:
        for of_label in grouped(table.rows, lambda row: (row.label, size(row))).values():
            best = best_rates(of_label, setting)
            cells = [_rate_cell([row for row in of_label if row.learning_rate == rate], best) for rate in rates]
            lines.append([model_name(table), method_name(of_label[0]), *cells])
    return wide_table(["base model", "method", *map(text.learning_rate, rates)], lines, names=2, bold_is_shown=False)


def each_row(comparison: Comparison) -> Iterator[tuple[str, Setting, ModelTable, Row]]:
    """Every row once with the names of its settings: a reference stands in the table of every target, and is run once."""
    for cells in grouped(rows_of(comparison.settings), lambda cell: cell.row.run_ids).values():
        yield text.listed([setting_name(setting, comparison) for setting, _, _ in cells]), *cells[0]


def costs(comparison: Comparison) -> tuple[TextTable, str] | None:
    """Return the seconds of a run of each row, and a sentence on those of all runs; None without any."""
    timed = [cell for cell in each_row(comparison) if cell[-1].train_seconds_total is not None]
    if not timed:
        return None
    lines = []
    for where, setting, table, row in timed:
        name = method_name(row) + (f" at {text.learning_rate(row.learning_rate)}" if setting.search else "")
        known = row.measured
        measured = (known.train_seconds, known.evaluation_seconds, known.real_tokens_per_second)
        seconds = [text.rate(one) + _mark(row) for one in measured]
        lines.append([where, model_name(table), name, count(row.ok), *seconds])
    training = text.rate(total_of(row.train_seconds_total for *_, row in timed))
    evaluation = text.rate(total_of(row.evaluation_seconds_total for *_, row in timed) or 0.0)
    number = sum(row.ok for *_, row in timed)
    runs = "The run" if number == 1 else f"All {number:,} runs"
    header = ["task", "base model", "method", "runs", "training, s a run", "evaluation, s a run", "tokens/s"]
    said = f"{runs} took {training} s of training and {evaluation} s of evaluation."
    return TextTable(header, lines, numbers_from=3), said


def failures(comparison: Comparison) -> list[Block]:
    """Return the section on runs that ended in another way than `ok`, with their reasons; empty without any."""
    lines = [
        [
            where, model_name(table), method_name(row), text.seed(record.spec.seed), code(record.status),
            inert(record.reason or NO_REASON, limit=600), str(record.attempts), code(record.run_id),
        ]
        for where, _, table, row in each_row(comparison)
        for record in row.failures
    ]  # fmt: skip
    header = ["task", "base model", "method", "seed", "status", "reason", "attempts", "run id"]
    return [Heading(2, "Failures"), TextTable(header, lines, numbers_from=len(header))] if lines else []


def provenance(comparison: Comparison) -> TextTable:
    """Return the run behind every number: its id, seed, status and score."""
    lines = []
    words = {status: code(status) for status in comparison.statuses}
    for where, _, table, row in each_row(comparison):
        scored = {score.run_id: score.value for score in row.scores}
        # Once for all runs of a row: a report may be of ten thousand.
        named = [where, model_name(table), method_name(row), text.learning_rate(row.learning_rate)]
        for run in row.records:
            score = text.score(scored.get(run.run_id))
            lines.append([code(run.run_id), *named, text.seed(run.spec.seed), words[run.status], score])
    header = ["run id", "task", "base model", "method", "learning rate", "seed", "status", "score"]
    return TextTable(header, lines, numbers_from=4)


def _failure_cells(failed: Sequence[Record]) -> list[str]:
    """Cells in place of a score: status and reason, once for all seeds that share them."""
    return [
        f"{code(status)} ({'seed' if len(runs) == 1 else 'seeds'} {', '.join(text.seed(run.spec.seed) for run in runs)}): "
        f"{inert(reason, 160)}"
        for (status, reason), runs in grouped(failed, lambda run: (run.status, run.reason or NO_REASON)).items()
    ]


def setting_name(setting: Setting, comparison: Comparison) -> str:
    """Return the task, and if it has several settings, the difference: trials, the target, or a number and the target."""
    task, kin = setting.spec.task.name, comparison.kin_of(setting)
    results = any(other.spec.task.name == task and not other.trials for other in comparison.settings)
    said = ["trials"] if setting.trials and results else []
    named = {*TARGETS}
    if setting.rung is not None:
        said.append(f"rung {setting.rung} of a halving")
    if len({other.distinct_examples for other in kin}) > 1:
        rows = setting.distinct_examples
        said.append("all training rows" if rows is None else f"{count(rows)} rows")
        named |= OF_ROWS
    if set(comparison.differs_from_kin(setting)) - named:
        number = next(index for index, other in enumerate(kin, start=1) if other is setting)
        said.append(_work(setting, kin) or f"setting {number}")
    if len({other.parameter_target for other in kin}) > 1:
        said.append(target_name(setting))
    return f"{code(task)} ({', '.join(said)})" if said else code(task)


def _work(setting: Setting, kin: Sequence[Setting]) -> str | None:
    """Return the work of a setting, such as "1,024 examples", if it tells the setting from all of its kin."""
    works = [amount_of(*work) if (work := work_of(one.spec.training)) is not None else None for one in kin]
    own = works[kin.index(setting)]
    return own if works.count(own) == 1 else None


def target_name(setting: Setting) -> str:
    """Return the target for parameters of a setting in a few words."""
    if setting.parameter_target is None:
        return "no target"
    axis, amount = setting.parameter_target
    return f"{count(amount)} {axis.replace('_', ' ')}"


def model_name(table: ModelTable) -> str:
    """Return the base model as readers should see it; that of some scores is not known."""
    if not table.model.shown:
        return MISSING
    return inert(table.model.shown, 80) + (f" (weights {code(table.weights)})" if table.ambiguous else "")


def range_words(places: Sequence[tuple[Setting, ModelTable]]) -> str:
    """Return a sentence such as "Range: RoBERTa-base on `sst2`, after 80 steps; not tested on others."."""
    models = {(table.model.shown, table.weights) for _, table in places if table.model.shown}
    tasks = dict.fromkeys(setting.spec.task.name for setting, _ in places)
    on = text.listed([code(task) for task in tasks]) if len(tasks) <= MOST_NAMES else text.plural(len(tasks), "task")
    shown = sorted({inert(name, 60) for name, _ in models})
    these = text.listed(shown) if len(shown) <= MOST_NAMES else f"these {len(models)} base models"
    recipes = [setting.spec.training for setting, _ in places]
    steps = {recipe.steps for recipe in recipes}
    number = next(iter(steps)) if len(steps) == 1 else None
    most = "at most " if any(recipe.plateau is not None or recipe.caps for recipe in recipes) else ""
    after = f", after {most}{text.plural(number, 'step')}" if number is not None else ""
    return f"Range: {f'{these} on ' if models else ''}{on}{after}; not tested on others."


def metric_name(setting: Setting) -> str:
    """Return the metric of a setting's scores."""
    return inert(setting.spec.task.shown_metric)


def on_split(setting: Setting) -> str:
    """Return the split of a setting's scores, to follow the name of a metric."""
    return f"on the {setting.spec.score_on} split" if setting.spec.score_on is not None else "on a split not recorded"


def method_name(row: Row) -> str:
    """Return the label of a method, with the mark of the reference."""
    return code(row.label) + (EXEMPT if row.exempt else "")


def size(row: Row) -> str:
    """Return the option that a budget may turn, with its value; a pair that does not work was given none."""
    if row.size is None or (row.parameters is None and not row.ok):
        return MISSING
    return f"{inert(row.size.replace('_', ' '))} {inert(str(row.size_value))}"


def interval(row: Row) -> str:
    """The 95 % interval of a row's mean; for two seeds it is left out, as it is often wider than the scale of the score."""
    if row.score is None or row.score.interval is None or row.score.n < FEWEST_FOR_INTERVAL:
        return MISSING
    return text.ends(row.score.interval)


def _mark(row: Row) -> str:
    marks = {
        SHARED: row.measured.exclusive is False, SEVERAL: len(row.environments) > 1, RESUMED: row.only_resumed,
    }  # fmt: skip
    return "".join(mark for mark, holds in marks.items() if holds)


def _rate_cell(rows: Sequence[Row], best: Sequence[float]) -> str:
    if not rows:
        return MISSING
    row = rows[0]
    ended = ", ".join(f"{number} {code(status)}" for status, number in row.statuses.items() if status != "ok")
    if row.score is None:
        return ended or MISSING
    mean = text.score(row.score.mean)
    shown = f"**{mean}**" if row.learning_rate in best else mean
    return f"{shown} (n {row.score.n}{', ' + ended if ended else ''})"
