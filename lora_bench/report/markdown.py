"""The Markdown report: the answer with its picture and a small table first, then the details, the protocol last.

The page has no date, host or folder, so the same records give the same bytes. What only some readers need is folded away.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from urllib.parse import quote

from lora_bench.errors import LoraBenchError
from lora_bench.records.probe_record import ProbeRecord
from lora_bench.records.record import Record
from lora_bench.records.spec import ModelSpec
from lora_bench.report.figures.draw import left_out, plan_figures
from lora_bench.report.figures.plan import FigurePlan
from lora_bench.report.model.comparison import Comparison, ModelTable
from lora_bench.report.model.report_model import ReportModel, report_model
from lora_bench.report.model.seed_scores import AnswersOf, no_answers
from lora_bench.report.sections import budgets
from lora_bench.report.sections import method_tables as tables
from lora_bench.report.sections.along import along_lines
from lora_bench.report.sections.answer import answer
from lora_bench.report.sections.class_tables import class_lines
from lora_bench.report.sections.environments import environment_lines
from lora_bench.report.sections.first_screen import by_task_picture, first_screen
from lora_bench.report.sections.forgetting import forgetting_lines
from lora_bench.report.sections.headline import headline_of
from lora_bench.report.sections.improving import improving_lines
from lora_bench.report.sections.introduction import introduction
from lora_bench.report.sections.other_reports import other_reports
from lora_bench.report.sections.scores import exempt_note, scores_lines, task_lines, tuning_lines
from lora_bench.report.sections.verdicts import verdict_lines
from lora_bench.report.text import code, count, fenced, folded, inert, listed, plural, prose

Lines = list[str]


def render_markdown(
    records: Sequence[Record],
    figures_folder_name: str,
    sections: Sequence[Sequence[str]] = (),
    answers: AnswersOf = no_answers,
    probes: Sequence[ProbeRecord] = (),
    model: ReportModel | None = None,
) -> str:
    """The report as GitHub Markdown.

    Args:
        records: What it is of.
        figures_folder_name: The folder beside it that has its figures.
        sections: Further ones, as lines of Markdown, after what runs cost and before what failed.
        answers: Gives the predictions of a run, where they are stored.
        probes: Of the same methods; they give file sizes and costs.
        model: Of these records, where it is at hand.

    Raises:
        LoraBenchError: If there are no records, or two different ones with the same run id.
    """
    if not records:
        raise LoraBenchError("there are no records to report")
    model = model or report_model(records, probes, answers)
    comparison, judged, costs, seen = model.comparison, model.judged, model.costs, model.seen

    def further(table: ModelTable) -> Lines:
        return class_lines(table, model.given, seen.reference, figures_folder_name)

    details: list[Sequence[str]] = [
        verdict_lines(judged, answer(judged), by_task_picture(judged, figures_folder_name))
        if judged is not None
        else [],
        scores_lines(comparison, judged, costs, further),
        _figures(plan_figures(comparison, records), figures_folder_name, comparison),
        along_lines(model.along),
        task_lines(comparison, judged, costs, further),
        tuning_lines(comparison, costs),
        forgetting_lines(comparison, figures_folder_name, judged.analysis if judged is not None else None),
        _costs(comparison),
        *sections,
        _failures(comparison),
        _warnings(comparison),
        _protocol(comparison, records, judged is not None),
        environment_lines(comparison),
        _commands(comparison),
        _provenance(comparison),
    ]
    kept = [section for section in details if section]
    parts: list[Sequence[str]] = [
        [f"# {listed([inert(suite) for suite in comparison.suites])}"],
        [f"*{prose(model.about)}*"] if model.about else [],
        *first_screen(seen, headline_of(seen, records), figures_folder_name, sections),
        other_reports(model),
        index_lines(kept),
        *kept,
    ]
    return "\n\n".join("\n".join(section) for section in parts if section) + "\n"


def index_lines(sections: Iterable[Sequence[str]]) -> Lines:
    """Links to the sections of a page, on one line."""
    titles = [line.removeprefix("## ") for section in sections for line in section if line.startswith("## ")]
    own = [title for title in titles if _OWN_TITLE.fullmatch(title)]
    return [" · ".join(f"[{title}](#{title.lower().replace(' ', '-')})" for title in own)] if len(own) > 1 else []


# Titles whose address is the same on every page that shows Markdown; no record has a word in them.
_OWN_TITLE = re.compile(r"[A-Z][a-z ]+")


def _protocol(comparison: Comparison, records: Sequence[Record], judged: bool) -> Lines:
    """The protocol card: conditions that all runs share, the size of each method, and the work that runs used."""
    shared = ["Equal for all runs:", "", *budgets.recipe(comparison), *budgets.protocols(comparison)]
    shared += ["", "Size, parameters and learning rate of each method:", "", *budgets.counts(comparison)]
    if any(row.exempt for setting in comparison.settings for row in setting.rows):
        shared += ["", exempt_note(comparison.settings)]
    used = budgets.work(comparison, records)
    shared += ["", "What the runs used, medians over them:", "", *used] if used else []
    improving = improving_lines(records, comparison)
    lines = [
        "## Protocol and budget",
        "",
        *introduction(comparison, judged),
        "",
        *folded("What all runs shared", shared),
    ]
    return [*lines, "", *folded("Runs that were still improving", improving)] if improving else lines


def _failures(comparison: Comparison) -> Lines:
    lines = tables.failures(comparison)
    return ["## Failures", "", *lines] if lines else []


_KINDS = {
    "scores": "Scores by method",
    "trade_offs": "Score against parameters, memory and time",
    "learning_curves": "Training loss against the step",
    "learning_rates": "Score against learning rate",
    "sweeps": "Score along one number",
}


def _figures(plans: Sequence[FigurePlan], folder: str, comparison: Comparison) -> Lines:
    """The figures, one after the other; of several tasks those of each are folded away."""
    by_name: dict[str, Lines] = {}
    for plan in plans:
        of_settings = [tables.setting_name(setting, comparison) for setting in plan.settings]
        name = code(plan.settings[0].spec.task.name) if plan.sweeps else listed(of_settings)
        models = {tables.model_name(table) for table in plan.tables}
        if len(models) == 1:  # several are named by their panels
            name += f", {models.pop()}"
        shown = [f"![{_KINDS[plan.kind]}]({quote(f'{folder}/{plan.file}')})", "", f"{name}. {plan.caption}"]
        by_name.setdefault(plan.settings[0].spec.task.name, []).extend(["", *shown])
    lines: Lines = []
    for task, of_task in by_name.items():
        lines += of_task if len(by_name) == 1 else ["", f"### {code(task)}", "", *folded("Figures", of_task[1:])]
    without = left_out(comparison)
    lines += ["", without] if without is not None else []
    return ["## Figures", *lines] if lines else []


def _costs(comparison: Comparison) -> Lines:
    of_one, of_all = tables.costs(comparison)
    if not of_one:
        return []
    measured = [row for setting in comparison.settings for row in setting.rows if row.measured]
    shared = [row for row in measured if row.exclusive is False]
    unsaid = sum(row.exclusive is None for row in measured)
    if unsaid:
        alone = f"{unsaid} of {plural(len(measured), 'row')} do not record whether other work ran beside"
        alone += f"; {len(shared)}, marked {tables.SHARED}, had some." if shared else "."
    elif not shared:
        alone = "Every speed and memory number on this page was measured with nothing else running."
    elif len(shared) == len(measured):
        alone = "Other work ran beside every row: times and memory on this page are rough."
    else:
        alone = f"Other work ran beside {len(shared)} of {plural(len(measured), 'row')}, marked {tables.SHARED}."
    resumed = sum(row.resumed for setting in comparison.settings for row in setting.rows)
    if resumed:
        alone += (
            f" {plural(resumed, 'run')} went on from a checkpoint after a stop, and {'is' if resumed == 1 else 'are'} "
        )
        alone += "in no speed or memory number."
    shown = of_one if len(of_one) <= MOST_COSTS else folded("Seconds of one run", of_one)
    in_all = folded("Seconds of all runs", of_all)
    return ["## Costs", "", f"{alone} Failed runs have no times.", "", *shown, "", *in_all]


# A longer table of costs is folded away.
MOST_COSTS = 30


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


DATA_FOLDER = (
    "The folder after `--data-dir` holds the files of the data sets as published: [names of its folders]"
    "(/docs/tasks.md#the-tasks). Without it, data come from the Hugging Face hub."
)


def _commands(comparison: Comparison) -> Lines:
    if not comparison.commands:
        return []
    of_suites = any(command.startswith("lora-bench ") for command in comparison.commands)
    one_alone = ["", "Add `--only RUN_ID` for one record."] if of_suites else []
    from_folder = ["", DATA_FOLDER] if any(" --data-dir " in command for command in comparison.commands) else []
    return ["## Make it again", "", *fenced(comparison.commands), *one_alone, *from_folder]


def _provenance(comparison: Comparison) -> Lines:
    found: Iterable[ModelTable] = (table for setting in comparison.settings for table in setting.tables)
    models = {_model(table.model) for table in found}
    return [
        "## Where the numbers come from",
        "",
        f"Every number on this page is computed from these {plural(comparison.runs, 'record')}.",
        "",
        *sorted(models),
        "",
        *folded(f"{count(comparison.runs)} records", tables.provenance(comparison)),
    ]
