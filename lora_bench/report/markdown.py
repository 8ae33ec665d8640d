"""The Markdown report: one page that says what was compared, what came out, and how much that is worth.

The page has no date, host or folder, so the same records give the same bytes. Its sections are in the order in which a
reader asks: what is the answer, how was it come by, what are its numbers, what do they look like, how is it on each task, what
was printed elsewhere, what went wrong, where did it run, and how can I have the same.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from urllib.parse import quote

from lora_bench.errors import LoraBenchError
from lora_bench.records.probe_record import ProbeRecord
from lora_bench.records.record import Record
from lora_bench.records.spec import ModelSpec
from lora_bench.report.figures.draw import plan_figures
from lora_bench.report.figures.plan import FigurePlan
from lora_bench.report.model.comparison import Comparison, ModelTable, compare
from lora_bench.report.model.seed_scores import AnswersOf
from lora_bench.report.model.side_costs import beside
from lora_bench.report.model.verdicts import judge_comparison
from lora_bench.report.sections import budgets, tables
from lora_bench.report.sections.answer import answer
from lora_bench.report.sections.environments import environment_lines
from lora_bench.report.sections.improving import improving_lines
from lora_bench.report.sections.introduction import introduction
from lora_bench.report.sections.scores import reference_note, scores_lines, task_lines, tuning_lines
from lora_bench.report.sections.verdicts import verdict_lines
from lora_bench.report.text import code, count, fenced, folded, inert, listed, plural

Lines = list[str]


def render_markdown(
    records: Sequence[Record],
    figures_folder_name: str,
    sections: Sequence[Sequence[str]] = (),
    answers: AnswersOf = lambda run_id: None,
    comparison: Comparison | None = None,
    probes: Sequence[ProbeRecord] = (),
) -> str:
    """The report as GitHub Markdown.

    Args:
        records: What it is of.
        figures_folder_name: The folder beside it that has its figures.
        sections: Further ones, as lines of Markdown, after what runs cost and before what failed.
        answers: Gives the predictions of a run, where they are stored.
        comparison: Of these records, where it is at hand.
        probes: Of the same methods; they say how large a checkpoint is where runs left none.

    Raises:
        LoraBenchError: If there are no records, or two different ones with the same run id.
    """
    if not records:
        raise LoraBenchError("there are no records to report")
    comparison = comparison or compare(records)
    judged = judge_comparison(comparison, records, answers)
    costs = beside(comparison, probes)
    introduced = introduction(comparison, judged is not None)
    parts: list[Sequence[str]] = [
        [f"# {listed([inert(suite) for suite in comparison.suites])}"],
        answer(judged) if judged is not None else introduced,
        _budget(comparison, records, [*introduced, ""] if judged is not None else []),
        scores_lines(comparison, judged, costs),
        verdict_lines(judged) if judged is not None else [],
        _figures(plan_figures(comparison, records), figures_folder_name, comparison),
        task_lines(comparison, judged, costs),
        tuning_lines(comparison, costs),
        _costs(comparison),
        *sections,
        _failures(comparison),
        _warnings(comparison),
        environment_lines(comparison),
        _commands(comparison),
        _provenance(comparison),
    ]
    return "\n\n".join("\n".join(section) for section in parts if section) + "\n"


def _budget(comparison: Comparison, records: Sequence[Record], introduced: Lines) -> Lines:
    """The protocol card: what runs were held to, what methods came to, and what runs used."""
    lines = ["## Protocol and budget", "", *introduced, "What every run was held to:", "", *budgets.recipe(comparison)]
    lines += [*budgets.protocols(comparison), "", "What each method came to:", "", *budgets.counts(comparison)]
    if any(row.reference for setting in comparison.settings for row in setting.rows):
        lines += ["", reference_note(comparison.settings)]
    used = budgets.work(comparison, records)
    lines += ["", "What the runs used, medians over them:", "", *used] if used else []
    improving = improving_lines(records, comparison)
    return [*lines, "", *improving] if improving else lines


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
