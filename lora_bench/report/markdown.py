"""The Markdown report: one page that says what was compared, what came out, and how much that is worth.

The page has no date, host or folder, so the same records give the same bytes. Its sections are in the order in which a
reader asks: what was it, what came out, what went wrong, what did it cost, where and how can I have the same.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from urllib.parse import quote

from lora_bench.errors import LoraBenchError
from lora_bench.record import Environment, Record
from lora_bench.report import budgets, tables
from lora_bench.report.comparison import Comparison, ModelTable, Setting, compare
from lora_bench.report.figures import FigurePlan, plan_figures
from lora_bench.report.improving import improving_lines
from lora_bench.report.judging import AnswersOf, Judged, judge_comparison
from lora_bench.report.rows import in_order
from lora_bench.report.sentences import facts, introduction
from lora_bench.report.targets import score_curves
from lora_bench.report.text import (
    GIB,
    code,
    count,
    fenced,
    folded,
    inert,
    json_value,
    listed,
    plural,
    seed,
)
from lora_bench.report.trials import edge_lines, rungs_of_search, trial_lines
from lora_bench.report.verdicts import answer, verdict_cell, verdict_lines
from lora_bench.spec import ModelSpec

Lines = list[str]


def render_markdown(
    records: Sequence[Record],
    figures_folder_name: str,
    sections: Sequence[Sequence[str]] = (),
    answers: AnswersOf = lambda run_id: None,
    comparison: Comparison | None = None,
) -> str:
    """The report as GitHub Markdown.

    Args:
        records: What it is of.
        figures_folder_name: The folder beside it that has its figures.
        sections: Further ones, as lines of Markdown, after the scores.
        answers: Gives the predictions of a run, where they are stored.
        comparison: Of these records, where it is at hand.

    Raises:
        LoraBenchError: If there are no records, or two different ones with the same run id.
    """
    if not records:
        raise LoraBenchError("there are no records to report")
    comparison = comparison or compare(records)
    judged = judge_comparison(comparison, records, answers)
    parts: list[Sequence[str]] = [
        [f"# {listed([inert(suite) for suite in comparison.suites])}"],
        introduction(comparison, judged is not None),
        answer(judged) if judged is not None else [],
        facts(comparison) if judged is None else [],
        _budget(comparison, records),
        _scores(comparison, judged),
        verdict_lines(judged) if judged is not None else [],
        *sections,
        _failures(comparison),
        _figures(plan_figures(comparison, records), figures_folder_name, comparison),
        _costs(comparison),
        _environments(comparison),
        _warnings(comparison),
        _commands(comparison),
        _provenance(comparison),
    ]
    return "\n\n".join("\n".join(section) for section in parts if section) + "\n"


def _budget(comparison: Comparison, records: Sequence[Record]) -> Lines:
    lines = ["## Budget", "", "What every run was held to:", "", *budgets.recipe(comparison), ""]
    lines += ["What each method came to:", "", *budgets.counts(comparison)]
    if any(row.reference for setting in comparison.settings for row in setting.rows):
        lines += ["", _reference_note(comparison)]
    used = budgets.work(comparison, records)
    lines += ["", "What the runs used, medians over them:", "", *used] if used else []
    improving = improving_lines(records, comparison)
    return [*lines, "", *improving] if improving else lines


def _reference_note(comparison: Comparison) -> str:
    stored = any(budgets.held_to_stored(setting) for setting in comparison.settings)
    return (
        f"{tables.REFERENCE} The reference line: it has no size to turn, so it is exempt from the target for "
        f"{'stored' if stored else 'adapter'} parameters and held to everything else."
    )


def _scores(comparison: Comparison, judged: Judged | None) -> Lines:
    lines = ["## Scores", "", *_LEGEND]
    if any(setting.by_median for setting in comparison.settings):
        lines.append(_MEDIAN_NOTE)
    if judged is not None and (found := facts(comparison)):
        lines += ["", *found]
    lines += score_curves(comparison)
    for setting in comparison.settings:
        lines += ["", f"### {tables.setting_name(setting, comparison)}"]
        if setting.differs:
            # Of runs that no suite planned, what is null is said below.
            said = {name: value for name, value in setting.differs.items() if value is not None or not setting.unknown}
            fields = listed([f"{code(name)} is {json_value(value)}" for name, value in said.items()])
            here = f" Here {fields}." if said else " Here less is recorded."
            lines += ["", f"Not to be ranked against the other settings of this task.{here}"]
        lines += _own_word(setting)
        lines += _search(setting, comparison) if setting.search else _model_tables(setting, judged)
    rows = [row for setting in comparison.settings for row in setting.rows]
    if any(row.reference for row in rows):
        lines += ["", _reference_note(comparison)]
    if any(row.exclusive is False for row in rows):
        lines += ["", _SHARED_NOTE]
    if any(len(row.environments) > 1 for row in rows):
        lines += ["", f"{tables.SEVERAL} The runs of this row ran in several environments: see below."]
    return lines


_LEGEND = """\
Rows are in alphabetical order and not ranked.

- *mean ± SD*: over the n runs with a score, with the sample standard deviation; runs without one are left out.
- *95 % interval*: the t-interval of the mean over seeds. With 2 seeds it reaches 12.7 standard errors to each side. It
  does not cover the choice of the scored examples.
- *less majority*: the mean less what always answering the majority class (or the mean) scores.
- *peak memory*: of training, above what was held before the base model was loaded. It, *step* and *examples/s* are
  medians over seeds.
- *adapter parameters* leave out the head; *trained* is what the optimiser updates and *stored* what must be saved,
  both with the head.""".splitlines()

_MEDIAN_NOTE = "- *median*: over the same n runs; where it stands, the protocol takes it in place of the mean."

_SHARED_NOTE = (
    f"{tables.SHARED} Measured while other work ran on the same device or machine, "
    "so it says little about speed or memory."
)


def _own_word(setting: Setting) -> Lines:
    """What a table of runs that no suite planned leaves to its readers to know."""
    if setting.spec.source is None:
        return []
    said = f"These runs were not planned by a suite; their records come from: {inert(setting.spec.source)}."
    if setting.unknown:
        said += (
            f" That they share what is not recorded is their author's word: {listed([*map(code, setting.unknown)])}."
        )
    return ["", said]


def _model_tables(setting: Setting, judged: Judged | None = None) -> Lines:
    column = None
    if judged is not None and any(held.setting is setting for held in judged.held):
        of = judged
        column = (f"against {code(of.analysis.reference)}", lambda row: verdict_cell(of.of(row)))
    lines: Lines = []
    for table in setting.tables:
        lines += ["", f"#### {tables.model_name(table)}", "", *tables.comparison_table(table, setting, column)]
        lines += _seeds_note(table)
    return lines


def _seeds_note(table: ModelTable) -> Lines:
    """A warning where methods were not run with the same seeds."""
    if len({tuple(sorted(row.seeds, key=in_order)) for row in table.rows}) == 1:
        return []
    seeds = [f"{tables.method_name(row)} {', '.join(map(seed, sorted(row.seeds, key=in_order)))}" for row in table.rows]
    return ["", f"The methods were not run with the same seeds: {'; '.join(seeds)}."]


def _search(setting: Setting, comparison: Comparison) -> Lines:
    rungs = rungs_of_search(setting, comparison)
    lines = [
        "",
        "#### Learning rates",
        "",
        f"Mean {tables.metric_name(setting)} {tables.on_split(setting)} over n seeds. The best of a line "
        "is in bold: a choice, and no verdict.",
        "",
        *tables.learning_rate_table(setting),
        *edge_lines(setting, rungs),
        *trial_lines(setting, rungs),
        "",
    ]
    return [*lines, *folded("Every learning rate with its costs", _model_tables(setting)[1:])]


def _failures(comparison: Comparison) -> Lines:
    lines = tables.failures(comparison)
    return ["## Failures", "", *lines] if lines else []


_KINDS = {
    "scores": "Scores by method",
    "trade_offs": "Score against parameters, memory and time",
    "learning_curves": "Training loss against the step",
    "learning_rates": "Score against learning rate",
}


def _figures(plans: Sequence[FigurePlan], folder: str, comparison: Comparison) -> Lines:
    lines: Lines = []
    for plan in plans:
        name = listed([tables.setting_name(setting, comparison) for setting in plan.settings])
        lines += ["", f"![{_KINDS[plan.kind]}]({quote(f'{folder}/{plan.file}')})", "", f"{name}. {plan.caption}"]
    return ["## Figures", *lines] if lines else []


def _costs(comparison: Comparison) -> Lines:
    lines = tables.costs(comparison)
    if not lines:
        return []
    measured = [row for setting in comparison.settings for row in setting.rows if row.measured]
    shared = [row for row in measured if row.exclusive is False]
    unsaid = sum(row.exclusive is None for row in measured)
    if unsaid:
        alone = f"Of {unsaid} of {plural(len(measured), 'row')} it is not recorded whether other work ran beside"
        alone += f"; {len(shared)}, marked {tables.SHARED}, had some." if shared else "."
    elif not shared:
        alone = "Every speed and memory number on this page was measured with nothing else running beside it."
    elif len(shared) == len(measured):
        alone = "No speed or memory number on this page was measured alone: other work ran beside every row."
    else:
        alone = (
            f"{len(shared)} of {plural(len(measured), 'row')}, marked {tables.SHARED}, had other work running beside."
        )
    resumed = sum(row.resumed for setting in comparison.settings for row in setting.rows)
    if resumed:
        alone += f" {plural(resumed, 'run')} went on from a checkpoint after a stop: no speed or memory number is of "
        alone += "it." if resumed == 1 else "them."
    return ["## Costs", "", f"{alone} Times of runs that did not end `ok` are not recorded.", "", *lines]


def _environments(comparison: Comparison) -> Lines:
    if not comparison.environments:
        return []
    lines = ["## Environment", ""]
    several = len(comparison.environments) > 1
    for index, environment in enumerate(comparison.environments):
        name = f"Environment {index + 1}: " if several else ""
        lines.append(f"- {name}{_environment(environment)}")
        if several:
            lines.append(f"  - Ran {listed(_rows_in(comparison, index)) if index else 'all that is not named below'}.")
    if several:
        lines += ["", "Speed and memory of rows from different environments are not to be compared."]
    return lines


def _environment(environment: Environment) -> str:
    devices = f"{environment.device_count} × " if (environment.device_count or 0) > 1 else ""
    packages = listed([f"{inert(name)} {inert(version)}" for name, version in sorted(environment.packages.items())])
    cores = plural(environment.cores, "core") if environment.cores is not None else None
    memory = f"{environment.memory_bytes / GIB:.0f} GiB" if environment.memory_bytes is not None else None
    known = [
        f"{devices}{inert(environment.device)}" if environment.device is not None else None,
        ", ".join(part for part in (inert(environment.cpu or ""), cores, memory) if part),
        inert(environment.system or ""),
        f"Python {inert(environment.python)}" if environment.python is not None else None,
        packages,
    ]
    return "; ".join(part for part in known if part) + "."


def _rows_in(comparison: Comparison, index: int) -> list[str]:
    """The rows with runs in an environment, each once however many learning rates it was run with."""
    found: dict[str, None] = {}
    for setting in comparison.settings:
        for table in setting.tables:
            for row in table.rows:
                if index in row.environments:
                    some = "some runs of " if len(row.environments) > 1 else ""
                    where = f"{tables.model_name(table)}, {tables.setting_name(setting, comparison)}"
                    found[f"{some}{tables.method_name(row)} ({where})"] = None
    return [*found]


def _warnings(comparison: Comparison) -> Lines:
    if not comparison.warnings:
        return []
    said = [f"- {inert(text, 600)} ({plural(number, 'run')})" for text, number in comparison.warnings.items()]
    return ["## Warnings", "", *said]


def _model(model: ModelSpec) -> str:
    name = f" is {code(model.name)}" if model.name != model.shown else ""
    weights = code(model.sha256[:16]) if model.sha256 is not None else "not recorded"
    revision = f", revision {code(model.revision)}" if model.revision else ""
    return f"- {inert(model.shown, 80)}{name}: weights {weights}{revision}."


def _commands(comparison: Comparison) -> Lines:
    if not comparison.commands:
        return []
    of_suites = any(command.startswith("lora-bench ") for command in comparison.commands)
    one_alone = ["", "With `--only RUN_ID` one record alone."] if of_suites else []
    return ["## Make it again", "", *fenced(comparison.commands), *one_alone]


def _provenance(comparison: Comparison) -> Lines:
    found: Iterable[ModelTable] = (table for setting in comparison.settings for table in setting.tables)
    models = {_model(table.model) for table in found}
    return [
        "## Where the numbers come from",
        "",
        f"Every number on this page is computed from the {plural(comparison.runs, 'record')} listed here.",
        "",
        *sorted(models),
        "",
        *folded(f"{count(comparison.runs)} records", tables.provenance(comparison)),
    ]
